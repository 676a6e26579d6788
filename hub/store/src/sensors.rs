//! Table `sensors`: owns the numbers of sensor names, never their readings.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::Store;
use crate::error::{Context as _, Result};

/// A sensor of a device.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct SensorRow {
    /// Number in the readings' tables.
    pub id: i32,
    /// Name.
    pub name: String,
    /// When its first reading came.
    pub created_at: DateTime<Utc>,
}

impl Store {
    /// Numbers of a device's sensors; unknown names register themselves up to the device's limit, those beyond it are
    /// missing from the answer.
    ///
    /// # Errors
    /// The database.
    pub async fn register_sensors(
        &self,
        device: &str,
        names: &[String],
    ) -> Result<HashMap<String, i32>> {
        let failed = || format!("register sensors of device {device}");
        let mut tx = self.pool().begin().await.during(failed())?;
        // The row lock makes two hubs count one after the other.
        let room: Option<i64> = sqlx::query_scalar(
            "SELECT greatest(0, max_sensors - (SELECT count(*) FROM sensors WHERE device = $1))
             FROM devices WHERE id = $1 FOR UPDATE",
        )
        .bind(device)
        .fetch_optional(&mut *tx)
        .await
        .during(failed())?;
        sqlx::query(
            "INSERT INTO sensors (device, name)
             SELECT $1, n.name FROM unnest($2::text[]) AS n(name)
             WHERE NOT EXISTS (SELECT 1 FROM sensors s WHERE s.device = $1 AND s.name = n.name)
             LIMIT $3",
        )
        .bind(device)
        .bind(names)
        .bind(room.unwrap_or(0))
        .execute(&mut *tx)
        .await
        .during(failed())?;
        let rows: Vec<(String, i32)> =
            sqlx::query_as("SELECT name, id FROM sensors WHERE device = $1 AND name = ANY($2)")
                .bind(device)
                .bind(names)
                .fetch_all(&mut *tx)
                .await
                .during(failed())?;
        tx.commit().await.during(failed())?;
        Ok(rows.into_iter().collect())
    }

    /// A device's sensors.
    ///
    /// # Errors
    /// The database.
    pub async fn sensors(&self, device: &str) -> Result<Vec<SensorRow>> {
        sqlx::query_as("SELECT id, name, created_at FROM sensors WHERE device = $1 ORDER BY name")
            .bind(device)
            .fetch_all(self.pool())
            .await
            .during(format!("list sensors of device {device}"))
    }
}
