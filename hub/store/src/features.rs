//! Tables `feature_rows` and `feature_work`: owns stored rows and what must be computed again, never computes.

use chrono::{DateTime, Utc};
use fieldcast_features::{FeatureRow, Millis, PIPELINE_VERSION};
use sqlx::PgConnection;

use crate::Store;
use crate::error::{Context as _, Result};
use crate::time::{millis, timestamp};

/// A span of a device's data time whose rows must be computed again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureWork {
    /// Numbers of the entries it stands for.
    pub ids: Vec<i64>,
    /// Whose.
    pub device: String,
    /// For which forecaster; none: all that select the device.
    pub forecaster: Option<String>,
    /// Oldest reading.
    pub from: Millis,
    /// Newest reading.
    pub to: Millis,
}

pub(crate) async fn mark(
    connection: &mut PgConnection,
    device: &str,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> Result<()> {
    sqlx::query("INSERT INTO feature_work (device, from_time, to_time) VALUES ($1, $2, $3)")
        .bind(device)
        .bind(from)
        .bind(to)
        .execute(connection)
        .await
        .map(drop)
        .during(format!("mark features of device {device}"))
}

/// Entries, device, forecaster, and the span of data time.
type WorkRow = (
    Vec<i64>,
    String,
    Option<String>,
    DateTime<Utc>,
    DateTime<Utc>,
);

impl Store {
    /// What waits to be computed, oldest entries first, those of one device and forecaster put together where they
    /// touch the same days.
    ///
    /// # Errors
    /// The database.
    pub async fn feature_work(&self, limit: i64) -> Result<Vec<FeatureWork>> {
        let rows: Vec<WorkRow> = sqlx::query_as(
            "SELECT array_agg(id), device, forecaster, min(from_time), max(to_time)
             FROM (SELECT * FROM feature_work ORDER BY id LIMIT $1) w
             GROUP BY device, forecaster, date_trunc('month', from_time) ORDER BY min(id)",
        )
        .bind(limit)
        .fetch_all(self.pool())
        .await
        .during("read which features wait")?;
        Ok(rows
            .into_iter()
            .map(|(ids, device, forecaster, from, to)| FeatureWork {
                ids,
                device,
                forecaster,
                from: millis(from),
                to: millis(to),
            })
            .collect())
    }

    /// Replaces rows of a device and forecaster.
    ///
    /// # Errors
    /// The database.
    pub async fn put_feature_rows(
        &self,
        device: &str,
        forecaster: &str,
        rows: &[FeatureRow],
    ) -> Result<()> {
        let failed = || format!("store feature rows of device {device} for {forecaster}");
        let mut tx = self.pool().begin().await.during(failed())?;
        for chunk in rows.chunks(2_000) {
            // Arrays of arrays must be rectangular in PostgreSQL: the values travel flat and are cut there.
            let width = chunk.first().map_or(0, |r| r.values.len());
            let times: Vec<DateTime<Utc>> = chunk.iter().map(|r| timestamp(r.time)).collect();
            let flat: Vec<f64> = chunk
                .iter()
                .flat_map(|r| r.values.iter().copied())
                .collect();
            sqlx::query(
                "INSERT INTO feature_rows (device, forecaster, time, values, pipeline_version)
                 SELECT $1, $2, t.time, ($4::float8[])[((t.n - 1) * $5 + 1)::int : (t.n * $5)::int], $6
                 FROM unnest($3::timestamptz[]) WITH ORDINALITY AS t(time, n)
                 ON CONFLICT (device, forecaster, time) DO UPDATE
                 SET values = excluded.values, pipeline_version = excluded.pipeline_version, known_at = now()
                 WHERE feature_rows.values IS DISTINCT FROM excluded.values
                    OR feature_rows.pipeline_version <> excluded.pipeline_version",
            )
            .bind(device)
            .bind(forecaster)
            .bind(&times)
            .bind(&flat)
            .bind(i64::try_from(width).unwrap_or(0))
            .bind(i32::try_from(PIPELINE_VERSION).unwrap_or(i32::MAX))
            .execute(&mut *tx)
            .await
            .during(failed())?;
        }
        tx.commit().await.during(failed())
    }

    /// Strikes work off the list.
    ///
    /// # Errors
    /// The database.
    pub async fn finish_feature_work(&self, ids: &[i64]) -> Result<()> {
        sqlx::query("DELETE FROM feature_work WHERE id = ANY($1)")
            .bind(ids)
            .execute(self.pool())
            .await
            .map(drop)
            .during("strike feature work off the list")
    }

    /// Stored rows with `from <= time <= to`, by time.
    ///
    /// # Errors
    /// The database.
    pub async fn feature_rows(
        &self,
        device: &str,
        forecaster: &str,
        from: Millis,
        to: Millis,
    ) -> Result<Vec<FeatureRow>> {
        let rows: Vec<(DateTime<Utc>, Vec<f64>)> = sqlx::query_as(
            "SELECT time, values FROM feature_rows
             WHERE device = $1 AND forecaster = $2 AND time >= $3 AND time <= $4 AND pipeline_version = $5
             ORDER BY time",
        )
        .bind(device)
        .bind(forecaster)
        .bind(timestamp(from))
        .bind(timestamp(to))
        .bind(i32::try_from(PIPELINE_VERSION).unwrap_or(i32::MAX))
        .fetch_all(self.pool())
        .await
        .during(format!("read feature rows of device {device} for {forecaster}"))?;
        Ok(rows
            .into_iter()
            .map(|(time, values)| FeatureRow {
                time: millis(time),
                values,
            })
            .collect())
    }
}

impl Store {
    /// Definitions in force.
    ///
    /// # Errors
    /// The database.
    pub async fn specs_in_force(&self) -> Result<Vec<fieldcast_features::ForecasterSpec>> {
        let rows: Vec<sqlx::types::Json<fieldcast_features::ForecasterSpec>> = sqlx::query_scalar(
            "SELECT DISTINCT ON (name) spec FROM forecasters ORDER BY name, version DESC",
        )
        .fetch_all(self.pool())
        .await
        .during("read the forecasters in force")?;
        Ok(rows.into_iter().map(|spec| spec.0).collect())
    }
}
