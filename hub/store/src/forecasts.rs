//! Reads over `forecasts`: owns what drift checks see of them, never a verdict.

use chrono::{DateTime, Utc};
use fieldcast_features::Millis;

use crate::error::Context as _;
use crate::time::{millis, timestamp};
use crate::{Result, Store};

/// A stored forecast: origin and mean of each step.
#[derive(Debug, Clone)]
pub struct StoredForecast {
    /// Device.
    pub device: String,
    /// Origin.
    pub origin: Millis,
    /// Mean of each step.
    pub mean: Vec<f64>,
}

impl Store {
    /// Forecasts that model `version` made, not in shadow, with origins from `from` on, by device and origin.
    ///
    /// # Errors
    /// The database.
    pub async fn forecasts_of(
        &self,
        forecaster: &str,
        version: i64,
        from: Millis,
    ) -> Result<Vec<StoredForecast>> {
        let rows: Vec<(String, DateTime<Utc>, Vec<f64>)> = sqlx::query_as(
            "SELECT device, origin, mean FROM forecasts
             WHERE forecaster = $1 AND model_version = $2 AND NOT shadow AND origin >= $3 ORDER BY device, origin",
        )
        .bind(forecaster)
        .bind(version)
        .bind(timestamp(from))
        .fetch_all(self.pool())
        .await
        .during(format!("read the forecasts of {forecaster}"))?;
        Ok(rows
            .into_iter()
            .map(|(device, origin, mean)| StoredForecast {
                device,
                origin: millis(origin),
                mean,
            })
            .collect())
    }
}
