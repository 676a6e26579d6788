//! Pages of devices, readings and forecasts for people and programs: owns their order and paging, never their meaning.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, FromRow};

use crate::devices::DeviceRow;
use crate::error::Context as _;
use crate::{Result, Store};

/// One device and what it last said.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct DeviceItem {
    /// The device.
    #[sqlx(flatten)]
    pub device: DeviceRow,
    /// Its last state message as it came.
    pub raw: Option<Vec<u8>>,
}

/// One reading.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct ReadingItem {
    /// Data time.
    pub time: DateTime<Utc>,
    /// Value.
    pub value: f64,
    /// 0 good, 1 suspect, 2 bad.
    pub quality: i16,
}

/// One forecast.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct ForecastItem {
    /// Device.
    pub device: String,
    /// Forecaster.
    pub forecaster: String,
    /// Origin.
    pub origin: DateTime<Utc>,
    /// Distance of steps, milliseconds.
    pub period_ms: i64,
    /// Mean of each step.
    pub mean: Vec<f64>,
    /// Quantile levels.
    pub levels: Vec<f64>,
    /// Quantiles, step-major.
    pub quantiles: Vec<f64>,
    /// `bundle`, `ridge`, `seasonal_naive` or `last_value`.
    pub made_by: String,
    /// SHA-256 of the bundle, hexadecimal; empty without one.
    pub bundle: String,
    /// Model version.
    pub model_version: i64,
    /// Made beside the running model.
    pub shadow: bool,
}

impl Store {
    /// Rows of a table that counts up, newest first: of one owner, by the column that names it, and below `before` where these
    /// are given.
    pub(crate) async fn newest<T>(
        &self,
        select: &str,
        (column, owner): (&str, Option<&str>),
        (before, limit): (Option<i64>, i64),
    ) -> sqlx::Result<Vec<T>>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        sqlx::query_as(AssertSqlSafe(format!(
            "{select} WHERE ($1::text IS NULL OR {column} = $1) AND ($2::bigint IS NULL OR id < $2) ORDER BY id DESC LIMIT $3"
        )))
        .bind(owner)
        .bind(before)
        .bind(limit)
        .fetch_all(self.pool())
        .await
    }

    /// Devices by name, behind `after`.
    ///
    /// # Errors
    /// The database.
    pub async fn list_devices(&self, after: &str, limit: i64) -> Result<Vec<DeviceItem>> {
        sqlx::query_as(
            "SELECT d.id, d.labels, d.created_at, d.last_seen, d.online, d.agent_version, s.raw
             FROM devices d LEFT JOIN device_states s ON s.device = d.id
             WHERE d.id > $1 ORDER BY d.id LIMIT $2",
        )
        .bind(after)
        .bind(limit)
        .fetch_all(self.pool())
        .await
        .during("list devices")
    }

    /// Readings of one sensor from `from` on, by time.
    ///
    /// # Errors
    /// The database.
    pub async fn list_readings(
        &self,
        device: &str,
        sensor: &str,
        from: Option<DateTime<Utc>>,
        (offset, limit): (i64, i64),
    ) -> Result<Vec<ReadingItem>> {
        sqlx::query_as(
            "SELECT time, value, quality FROM device_readings WHERE device = $1 AND sensor = $2
             AND ($3::timestamptz IS NULL OR time >= $3) ORDER BY time, received_at OFFSET $4 LIMIT $5",
        )
        .bind(device)
        .bind(sensor)
        .bind(from)
        .bind(offset)
        .bind(limit)
        .fetch_all(self.pool())
        .await
        .during(format!("list readings of {device}"))
    }

    /// Forecasts from `from` on, by origin.
    ///
    /// # Errors
    /// The database.
    pub async fn list_forecasts(
        &self,
        device: Option<&str>,
        forecaster: Option<&str>,
        from: Option<DateTime<Utc>>,
        (offset, limit): (i64, i64),
    ) -> Result<Vec<ForecastItem>> {
        sqlx::query_as(
            "SELECT device, forecaster, origin, period_ms, mean, levels, quantiles, made_by,
                encode(bundle, 'hex') AS bundle, model_version, shadow FROM forecasts
             WHERE ($1::text IS NULL OR device = $1) AND ($2::text IS NULL OR forecaster = $2)
             AND ($3::timestamptz IS NULL OR origin >= $3) ORDER BY origin, id OFFSET $4 LIMIT $5",
        )
        .bind(device)
        .bind(forecaster)
        .bind(from)
        .bind(offset)
        .bind(limit)
        .fetch_all(self.pool())
        .await
        .during("list forecasts")
    }
}
