//! What experiments measure on devices, computed where it is stored: owns these queries, never what is made of them.

use chrono::{DateTime, Utc};

use crate::error::Context as _;
use crate::{Result, Store};

/// What is measured, when.
#[derive(Debug, Clone, Copy)]
pub struct Span<'a> {
    /// Forecaster whose errors are measured, where no sensor is named.
    pub forecaster: &'a str,
    /// Sensor whose mean is measured.
    pub sensor: Option<&'a str>,
    /// How long before a device joined its own past is measured.
    pub before_hours: i32,
    /// How long after it joined nothing is measured.
    pub settle_hours: i32,
    /// What is measured ends here.
    pub until: DateTime<Utc>,
}

/// One device's measures.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct MeasureRow {
    /// Device.
    pub device: String,
    /// In the time of the experiment.
    pub after: Option<f64>,
    /// Before it joined.
    pub before: Option<f64>,
    /// Of errors: those of last season's values before it joined.
    pub naive: Option<f64>,
}

/// Errors of forecasts by whatever model was in charge, weighted by their numbers.
const ERRORS: &str = "
    SELECT d.device, a.mae AS after, b.mae AS before, b.naive FROM d
    LEFT JOIN LATERAL (
        SELECT sum(r.mean_abs_error * r.count) / sum(r.count)::float8 AS mae FROM residual_summaries r
        WHERE r.device = d.device AND r.forecaster = $1 AND NOT r.shadow AND r.count > 0 AND r.mean_abs_error < 1e150
        AND r.from_time >= d.joined + $4 * interval '1 hour' AND r.to_time > d.joined AND r.to_time <= $5) a ON true
    LEFT JOIN LATERAL (
        SELECT sum(r.mean_abs_error * r.count) / sum(r.count)::float8 AS mae,
            sum(r.naive_mean_abs_error * r.count) FILTER (WHERE r.naive_mean_abs_error < 1e150)
                / sum(r.count) FILTER (WHERE r.naive_mean_abs_error < 1e150)::float8 AS naive
        FROM residual_summaries r
        WHERE r.device = d.device AND r.forecaster = $1 AND NOT r.shadow AND r.count > 0 AND r.mean_abs_error < 1e150
        AND r.from_time >= d.joined - $6 * interval '1 hour' AND r.to_time <= d.joined) b ON true";

/// Means of hours' means, so that an hour with many readings counts as one. Readings whose time nobody vouches for stay out.
const MEANS: &str = "
    SELECT d.device, a.mean AS after, b.mean AS before, NULL::float8 AS naive FROM d
    LEFT JOIN LATERAL (SELECT avg(h.mean) AS mean FROM (
        SELECT avg(r.value) AS mean FROM device_readings r WHERE r.device = d.device AND r.sensor = $1
        AND r.time >= d.joined + $4 * interval '1 hour' AND r.time < $5
        AND r.quality < 2 AND r.time_quality > 0 AND abs(r.value) < 1e150
        GROUP BY date_trunc('hour', r.time)) h) a ON true
    LEFT JOIN LATERAL (SELECT avg(h.mean) AS mean FROM (
        SELECT avg(r.value) AS mean FROM device_readings r WHERE r.device = d.device AND r.sensor = $1
        AND r.time >= d.joined - $6 * interval '1 hour' AND r.time < d.joined
        AND r.quality < 2 AND r.time_quality > 0 AND abs(r.value) < 1e150
        GROUP BY date_trunc('hour', r.time)) h) b ON true";

impl Store {
    /// Measures devices, each from when it joined.
    ///
    /// # Errors
    /// The database.
    pub async fn measure(
        &self,
        span: &Span<'_>,
        (devices, joined): (&[&str], &[DateTime<Utc>]),
    ) -> Result<Vec<MeasureRow>> {
        let (query, of) = match span.sensor {
            Some(sensor) => (MEANS, sensor),
            None => (ERRORS, span.forecaster),
        };
        let sql = format!(
            "WITH d AS (SELECT * FROM unnest($2::text[], $3::timestamptz[]) AS d(device, joined)) {query} ORDER BY d.device"
        );
        sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(of)
            .bind(devices)
            .bind(joined)
            .bind(span.settle_hours)
            .bind(span.until)
            .bind(span.before_hours)
            .fetch_all(self.pool())
            .await
            .during(format!("measure {of} on {} devices", devices.len()))
    }
}
