//! Reads over `forecasts`: owns what drift checks see of them, never a verdict.

use chrono::{DateTime, Utc};
use fieldcast_features::Millis;

use crate::error::Context as _;
use crate::time::{millis, timestamp};
use crate::{Result, Store};

/// A stored forecast: origin and mean of each step.
#[derive(Debug, Clone)]
pub struct StoredForecast {
    /// Origin.
    pub origin: Millis,
    /// Mean of each step.
    pub mean: Vec<f64>,
}

/// Origin, levels and quantiles.
type Columns = (DateTime<Utc>, Vec<f64>, Vec<f64>);

/// A stored forecast's quantiles.
#[derive(Debug, Clone)]
pub struct StoredQuantiles {
    /// Origin.
    pub origin: Millis,
    /// Levels, ascending.
    pub levels: Vec<f64>,
    /// All levels of step 1, then of step 2 ...
    pub quantiles: Vec<f64>,
}

impl Store {
    /// Forecasts that model `version` made on a device, not in shadow, with origins from `from` on, by origin.
    ///
    /// # Errors
    /// The database.
    pub async fn forecasts_of(
        &self,
        forecaster: &str,
        version: i64,
        device: &str,
        from: Millis,
    ) -> Result<Vec<StoredForecast>> {
        let rows: Vec<(DateTime<Utc>, Vec<f64>)> = sqlx::query_as(
            "SELECT origin, mean FROM forecasts
             WHERE forecaster = $1 AND model_version = $2 AND device = $4 AND NOT shadow AND origin >= $3 ORDER BY origin",
        )
        .bind(forecaster)
        .bind(version)
        .bind(timestamp(from))
        .bind(device)
        .fetch_all(self.pool())
        .await
        .during(format!("read the forecasts of {forecaster} on {device}"))?;
        Ok(rows
            .into_iter()
            .map(|(origin, mean)| StoredForecast {
                origin: millis(origin),
                mean,
            })
            .collect())
    }

    /// Origins behind `from` at which a device forecast, whatever made the forecast, in order.
    ///
    /// # Errors
    /// The database.
    pub async fn origins_of(
        &self,
        forecaster: &str,
        device: &str,
        from: Millis,
    ) -> Result<Vec<Millis>> {
        let origins: Vec<DateTime<Utc>> = sqlx::query_scalar(
            "SELECT DISTINCT origin FROM forecasts
             WHERE forecaster = $1 AND device = $2 AND NOT shadow AND origin > $3 ORDER BY origin",
        )
        .bind(forecaster)
        .bind(device)
        .bind(timestamp(from))
        .fetch_all(self.pool())
        .await
        .during(format!("read when {device} forecast {forecaster}"))?;
        Ok(origins.into_iter().map(millis).collect())
    }

    /// Quantiles of what [`Self::forecasts_of`] gives, up to `to`.
    ///
    /// # Errors
    /// The database.
    pub async fn quantiles_of(
        &self,
        forecaster: &str,
        version: i64,
        device: &str,
        (from, to): (Millis, Millis),
    ) -> Result<Vec<StoredQuantiles>> {
        let rows: Vec<Columns> = sqlx::query_as(
            "SELECT origin, levels, quantiles FROM forecasts
             WHERE forecaster = $1 AND model_version = $2 AND device = $5 AND NOT shadow AND origin >= $3 AND origin < $4
             ORDER BY origin",
        )
        .bind(forecaster)
        .bind(version)
        .bind(timestamp(from))
        .bind(timestamp(to))
        .bind(device)
        .fetch_all(self.pool())
        .await
        .during(format!("read the quantiles of {forecaster} on {device}"))?;
        Ok(rows
            .into_iter()
            .map(|(origin, levels, quantiles)| StoredQuantiles {
                origin: millis(origin),
                levels,
                quantiles,
            })
            .collect())
    }

    /// Newest origin of the forecasts that model `version` made, not in shadow.
    ///
    /// # Errors
    /// The database.
    pub async fn newest_origin(&self, forecaster: &str, version: i64) -> Result<Option<Millis>> {
        let (newest,): (Option<DateTime<Utc>>,) = sqlx::query_as(
            "SELECT max(origin) FROM forecasts WHERE forecaster = $1 AND model_version = $2 AND NOT shadow",
        )
        .bind(forecaster)
        .bind(version)
        .fetch_one(self.pool())
        .await
        .during(format!("read the newest forecast of {forecaster}"))?;
        Ok(newest.map(millis))
    }
}
