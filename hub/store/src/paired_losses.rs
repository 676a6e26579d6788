//! Table `paired_losses`: owns reading how two models did on the same windows, never judges it.

use chrono::{DateTime, Utc};

use crate::error::Context as _;
use crate::{Result, Store};

/// A model that watches, and the one in whose place it may come.
#[derive(Debug, Clone, Copy)]
pub struct Pair<'a> {
    /// Forecaster.
    pub forecaster: &'a str,
    /// Version of the champion.
    pub running_version: i64,
    /// SHA-256 of its bundle.
    pub running: &'a [u8],
    /// Version that watches.
    pub watching_version: i64,
    /// SHA-256 of its bundle.
    pub watching: &'a [u8],
    /// Only what came since then.
    pub since: DateTime<Utc>,
}

/// One block of one device.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct PairedRow {
    /// Number, in the order in which they came.
    pub id: i64,
    /// Device.
    pub device: String,
    /// First origin.
    pub from_time: DateTime<Utc>,
    /// End, exclusive.
    pub to_time: DateTime<Utc>,
    /// What was in charge is the champion, and not what a device runs that gave it up.
    pub beside_champion: bool,
    /// What was in charge may stand in for it: not a version whose rollout went back or was overtaken, and that nobody has accepted.
    pub stands_in: bool,
    /// Pairs of steps behind it.
    pub steps: i64,
    /// Mean absolute error of the model in charge.
    pub running_abs: f64,
    /// The same of the one that watches.
    pub watching_abs: f64,
    /// Mean quantile loss of the model in charge; 0 of both: they have no level in common.
    pub running_quantile: f64,
    /// The same of the one that watches.
    pub watching_quantile: f64,
}

impl Store {
    /// The number of the newest block of what watches, whatever it was compared with; 0: there is none.
    ///
    /// # Errors
    /// The database.
    pub async fn newest_paired_losses(&self, pair: &Pair<'_>) -> Result<i64> {
        sqlx::query_scalar(
            "SELECT coalesce(max(id), 0) FROM paired_losses WHERE forecaster = $1 AND watching_version = $2",
        )
        .bind(pair.forecaster)
        .bind(pair.watching_version)
        .fetch_one(self.pool())
        .await
        .during(format!("look for evidence on {}", pair.forecaster))
    }

    /// All blocks of what watches, in the order in which they came.
    ///
    /// # Errors
    /// The database.
    pub async fn paired_losses(&self, pair: &Pair<'_>) -> Result<Vec<PairedRow>> {
        sqlx::query_as(
            "SELECT id, device, from_time, to_time, running_version = $3 AND running = $5 AS beside_champion,
                coalesce(tried.accepted, true) AS stands_in, steps, running_abs, watching_abs, running_quantile, watching_quantile
             FROM paired_losses LEFT JOIN (
                SELECT model_version, bool_or(status = 'succeeded') OR EXISTS (SELECT FROM rollouts later
                    WHERE later.forecaster = $1 AND later.previous_version = r.model_version) AS accepted
                FROM rollouts r WHERE forecaster = $1 GROUP BY model_version) tried ON tried.model_version = running_version
             WHERE forecaster = $1 AND watching_version = $2 AND watching = $4 AND received_at >= $6 ORDER BY id",
        )
        .bind(pair.forecaster)
        .bind(pair.watching_version)
        .bind(pair.running_version)
        .bind(pair.watching)
        .bind(pair.running)
        .bind(pair.since)
        .fetch_all(self.pool())
        .await
        .during(format!("read the evidence on {}", pair.forecaster))
    }
}
