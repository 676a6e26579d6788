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
        let asked: Vec<(&str, &str)> = names.iter().map(|n| (device, n.as_str())).collect();
        let found = self.register_sensors_of_many(&asked).await?;
        Ok(found.into_iter().map(|(_, name, id)| (name, id)).collect())
    }

    /// The same for sensors `(device, name)` of many devices at once.
    ///
    /// # Errors
    /// The database.
    pub async fn register_sensors_of_many(
        &self,
        asked: &[(&str, &str)],
    ) -> Result<Vec<(String, String, i32)>> {
        let failed = || format!("register {} sensors", asked.len());
        let (devices, names): (Vec<&str>, Vec<&str>) = asked.iter().copied().unzip();
        let known = known(self.pool(), &devices, &names).await;
        let known = known.during(failed())?;
        if known.len() == asked.len() {
            return Ok(known);
        }
        let mut tx = self.pool().begin().await.during(failed())?;
        // The row locks make two hubs count one after the other; in one order, so that neither waits for the other.
        sqlx::query("SELECT FROM devices WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE")
            .bind(&devices)
            .execute(&mut *tx)
            .await
            .during(failed())?;
        sqlx::query(
            "WITH new AS (
                 SELECT a.device, a.name, row_number() OVER (PARTITION BY a.device ORDER BY a.name) AS nth
                 FROM (SELECT DISTINCT * FROM unnest($1::text[], $2::text[])) AS a(device, name)
                 WHERE NOT EXISTS (SELECT FROM sensors s WHERE s.device = a.device AND s.name = a.name)
             )
             INSERT INTO sensors (device, name)
             SELECT new.device, new.name FROM new JOIN devices d ON d.id = new.device
             WHERE new.nth <= d.max_sensors - (SELECT count(*) FROM sensors s WHERE s.device = d.id)",
        )
        .bind(&devices)
        .bind(&names)
        .execute(&mut *tx)
        .await
        .during(failed())?;
        let rows = self::known(&mut *tx, &devices, &names).await;
        let rows = rows.during(failed())?;
        tx.commit().await.during(failed())?;
        Ok(rows)
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

async fn known(
    of: impl sqlx::PgExecutor<'_>,
    devices: &[&str],
    names: &[&str],
) -> std::result::Result<Vec<(String, String, i32)>, sqlx::Error> {
    sqlx::query_as(
        "SELECT s.device, s.name, s.id FROM sensors s
         JOIN (SELECT DISTINCT * FROM unnest($1::text[], $2::text[])) AS a(device, name)
           ON s.device = a.device AND s.name = a.name",
    )
    .bind(devices)
    .bind(names)
    .fetch_all(of)
    .await
}
