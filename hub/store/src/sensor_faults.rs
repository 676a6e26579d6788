//! Spans of readings that sensors' faults spoilt: owns reading them from table `drift_signals`, never what is made of them.

use chrono::{DateTime, Utc};
use fieldcast_features::Millis;

use crate::error::Context as _;
use crate::features::Arrived;
use crate::time::{millis, timestamp};
use crate::{Result, Store};

/// Readings of a sensor that are not to be learnt from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SensorFault {
    /// Sensor name.
    pub sensor: String,
    /// Data time of the first one.
    pub from: Millis,
    /// Data time of the first one behind them.
    pub to: Millis,
}

impl SensorFault {
    /// Whether it spoilt a reading.
    #[must_use]
    pub fn holds(&self, sensor: &str, time: Millis) -> bool {
        self.sensor == sensor && (self.from..self.to).contains(&time)
    }
}

/// Silence spoils no reading, and a time that cannot be true is no bound of a span.
const SPOILT: &str = "kind = 'sensor' AND detector NOT IN ('missing', 'clock') AND onset < time";

impl Store {
    /// The faults of some sensors of a device with spoilt readings in `(from, to]`, as far as the device had told of them by `known`.
    ///
    /// # Errors
    /// The database.
    pub async fn sensor_faults(
        &self,
        device: &str,
        sensors: &[String],
        (from, to): (Millis, Millis),
        known: Option<DateTime<Utc>>,
    ) -> Result<Vec<SensorFault>> {
        let rows: Vec<(String, DateTime<Utc>, DateTime<Utc>)> =
            sqlx::query_as(sqlx::AssertSqlSafe(format!(
                "SELECT sensor, onset, time FROM drift_signals
             WHERE device = $1 AND sensor = ANY($2) AND time > $3 AND onset <= $4
               AND ($5::timestamptz IS NULL OR received_at <= $5) AND {SPOILT}"
            )))
            .bind(device)
            .bind(sensors)
            .bind(timestamp(from))
            .bind(timestamp(to))
            .bind(known)
            .fetch_all(self.pool())
            .await
            .during(format!("read the sensor faults of device {device}"))?;
        let fault = |(sensor, from, to)| SensorFault {
            sensor,
            from: millis(from),
            to: millis(to),
        };
        Ok(rows.into_iter().map(fault).collect())
    }

    /// The spans of the faults of some sensors of some devices that were told in `(after, until]`.
    pub(crate) async fn faults_told(
        &self,
        devices: &[String],
        sensors: &[String],
        (after, until): (DateTime<Utc>, DateTime<Utc>),
    ) -> Result<Vec<Arrived>> {
        let rows: Vec<(String, DateTime<Utc>, DateTime<Utc>)> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "SELECT device, onset, time FROM drift_signals
             WHERE received_at > $1 AND received_at <= $2 AND device = ANY($3) AND sensor = ANY($4) AND {SPOILT}"
        )))
        .bind(after)
        .bind(until)
        .bind(devices)
        .bind(sensors)
        .fetch_all(self.pool())
        .await
        .during("find the sensor faults told since feature rows were made")?;
        let span = |(device, from, to)| Arrived {
            device,
            from: millis(from),
            to: millis(to),
            newest: None,
        };
        Ok(rows.into_iter().map(span).collect())
    }
}
