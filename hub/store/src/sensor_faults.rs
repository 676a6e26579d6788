//! Spans of readings that sensors' faults spoilt: owns reading them from table `drift_signals` and adding those
//! that a file shows, never what is made of them.

use std::collections::BTreeMap;
use std::ops::Range;

use chrono::{DateTime, Utc};
use fieldcast_features::Millis;

use crate::error::Context as _;
use crate::features::Arrived;
use crate::time::{millis, timestamp};
use crate::{Result, Store};

/// Readings of a device that are not to be learnt from: spans of data time by sensor, apart from one another and ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spoilt(BTreeMap<String, Vec<Range<Millis>>>);

impl Spoilt {
    /// Of spans that may overlap.
    #[must_use]
    pub fn new(mut spans: Vec<(String, Range<Millis>)>) -> Self {
        spans.sort_unstable_by_key(|(_, span)| span.start);
        let mut by_sensor: BTreeMap<String, Vec<Range<Millis>>> = BTreeMap::new();
        for (sensor, span) in spans {
            let own = by_sensor.entry(sensor).or_default();
            match own.last_mut() {
                Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
                _ => own.push(span),
            }
        }
        Self(by_sensor)
    }

    /// Whether a reading is one of them.
    #[must_use]
    pub fn holds(&self, sensor: &str, time: Millis) -> bool {
        self.0.get(sensor).is_some_and(|own| {
            let begun = own.partition_point(|span| span.start <= time);
            begun > 0 && own[begun - 1].contains(&time)
        })
    }
}

/// What a fault of a sensor spoilt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Sensor.
    pub sensor: String,
    /// Its name in signals.
    pub fault: String,
    /// From the first reading that it spoilt to the first sound one.
    pub spoilt: Range<Millis>,
}

/// Silence spoils no reading, and a time that cannot be true is no bound of a span.
pub(crate) const SPOILT: &str =
    "kind = 'sensor' AND detector NOT IN ('missing', 'clock') AND onset < time";

impl Store {
    /// Adds faults that are over, those of them that are not known yet.
    ///
    /// # Errors
    /// The database.
    pub async fn add_sensor_faults(&self, device: &str, faults: &[Fault]) -> Result<()> {
        let of = |time: fn(&Fault) -> Millis| faults.iter().map(move |f| timestamp(time(f)));
        sqlx::query(
            "INSERT INTO drift_signals (device, kind, forecaster, sensor, detector, statistic, threshold, severity, time, onset, raised, model_version, data_count)
             SELECT $1, 'sensor', '', n.sensor, n.detector, 0, 0, 0, n.time, n.onset, false, 0, 0
             FROM unnest($2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[]) AS n(sensor, detector, onset, time)
             WHERE NOT EXISTS (SELECT FROM drift_signals s WHERE s.device = $1 AND s.kind = 'sensor' AND s.sensor = n.sensor
               AND s.time = n.time AND s.onset = n.onset AND s.detector = n.detector)",
        )
        .bind(device)
        .bind(faults.iter().map(|f| f.sensor.clone()).collect::<Vec<_>>())
        .bind(faults.iter().map(|f| f.fault.clone()).collect::<Vec<_>>())
        .bind(of(|f| f.spoilt.start).collect::<Vec<_>>())
        .bind(of(|f| f.spoilt.end).collect::<Vec<_>>())
        .execute(self.pool())
        .await
        .during(format!("store what faults spoilt of device {device}"))?;
        Ok(())
    }

    /// What faults of some sensors of a device spoilt in `(from, to]`, as far as the device had told of them by `known`.
    ///
    /// # Errors
    /// The database.
    pub async fn sensor_faults(
        &self,
        device: &str,
        sensors: &[String],
        (from, to): (Millis, Millis),
        known: Option<DateTime<Utc>>,
    ) -> Result<Spoilt> {
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
        let span = |(sensor, from, to)| (sensor, millis(from)..millis(to));
        Ok(Spoilt::new(rows.into_iter().map(span).collect()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_that_overlap_are_one_and_each_sensor_has_its_own() {
        let span = |sensor: &str, from, to| (sensor.to_owned(), from..to);
        let spans = [(50, 60), (10, 30), (20, 25), (28, 40)];
        let mut all: Vec<_> = spans.map(|(from, to)| span("a", from, to)).into();
        all.push(span("b", 45, 46));
        let spoilt = Spoilt::new(all);
        let held = |sensor: &str| -> Vec<Millis> {
            (0..70).filter(|t| spoilt.holds(sensor, *t)).collect()
        };
        assert_eq!(held("a"), (10..40).chain(50..60).collect::<Vec<_>>());
        assert_eq!(held("b"), [45]);
        assert!(held("c").is_empty());
    }
}
