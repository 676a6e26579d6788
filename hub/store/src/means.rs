//! Means of readings over spans of time, computed where the readings are: owns that query, never what is made of them.

use chrono::{DateTime, Utc};
use fieldcast_features::Millis;

use crate::error::Context as _;
use crate::time::{millis, timestamp};
use crate::{Result, Store};

impl Store {
    /// Means of a sensor's good and suspect readings over `(t - span, t]`, at each `t` in `(from, to]` that has any, by time.
    /// Readings whose time nobody vouches for stay out, and values that no mean could hold.
    ///
    /// # Errors
    /// The database.
    pub async fn means(
        &self,
        device: &str,
        sensor: &str,
        (from, to): (Millis, Millis),
        span: Millis,
    ) -> Result<Vec<(Millis, f64)>> {
        let rows: Vec<(DateTime<Utc>, f64)> = sqlx::query_as(
            "WITH known AS (
                SELECT r.time, r.value FROM sensors s JOIN readings r ON r.sensor = s.id
                WHERE s.device = $1 AND s.name = $2 AND r.time > $3 AND r.time <= $4 AND r.quality < 2 AND r.time_quality > 0
                UNION ALL
                SELECT j.time, j.value FROM sensors s JOIN json_readings j ON j.sensor = s.id
                WHERE s.device = $1 AND s.name = $2 AND j.time > $3 AND j.time <= $4 AND j.quality < 2)
             SELECT date_bin($5::float8 * interval '1 millisecond', time - interval '1 microsecond', timestamptz 'epoch')
                    + $5::float8 * interval '1 millisecond' AS bin, avg(value)
             FROM known WHERE abs(value) < 1e150 GROUP BY bin ORDER BY bin",
        )
        .bind(device)
        .bind(sensor)
        .bind(timestamp(from))
        .bind(timestamp(to))
        .bind(span as f64)
        .fetch_all(self.pool())
        .await
        .during(format!("read the means of {sensor} of {device}"))?;
        Ok(rows.into_iter().map(|(t, v)| (millis(t), v)).collect())
    }
}
