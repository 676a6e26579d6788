//! Table `sensor_sketches`: owns reading what devices told of their sensors' spans, never merges them.

use chrono::{DateTime, Utc};
use fieldcast_features::Millis;

use crate::error::Context as _;
use crate::time::timestamp;
use crate::{Result, Store};

/// Most sketches of one answer.
pub const MOST: i64 = 10_000;

/// A stored sketch.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct SketchRow {
    /// Device.
    pub device: String,
    /// Begin of its span, exclusive.
    pub from_time: DateTime<Utc>,
    /// End of its span.
    pub to_time: DateTime<Utc>,
    /// Good readings behind it.
    pub count: i64,
    /// Suspect and bad ones.
    pub left_out: i64,
    /// Mean.
    pub mean: f64,
    /// Sum of squared distances from it.
    pub squares: f64,
    /// Quantiles.
    pub kll: Vec<u8>,
}

impl Store {
    /// Sketches of a sensor whose spans lie within `[from, to]`, of one device or of all, the newest first, at most
    /// [`MOST`].
    ///
    /// # Errors
    /// The database.
    pub async fn sketches(
        &self,
        sensor: &str,
        device: Option<&str>,
        (from, to): (Millis, Millis),
    ) -> Result<Vec<SketchRow>> {
        sqlx::query_as(
            "SELECT device, from_time, to_time, count, left_out, mean, squares, kll FROM sensor_sketches
             WHERE sensor = $1 AND ($2::text IS NULL OR device = $2) AND from_time >= $3 AND to_time <= $4
             ORDER BY to_time DESC, device LIMIT $5",
        )
        .bind(sensor)
        .bind(device)
        .bind(timestamp(from))
        .bind(timestamp(to))
        .bind(MOST)
        .fetch_all(self.pool())
        .await
        .during(format!("read the sketches of {sensor}"))
    }
}
