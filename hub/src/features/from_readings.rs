//! Rows made of stored readings as the device makes them: owns how much is read at a time, never where rows are kept.

use chrono::{DateTime, Utc};
use fieldcast_features::resample::resample_sparse;
use fieldcast_features::{FeatureRow, ForecasterSpec, Millis, Quality, Sample};
use fieldcast_store::readings::StoredReading;
use fieldcast_store::{Result, Store};

/// Readings that are asked for at a time, about: what a year at one a second is cut into.
const AT_ONCE: usize = 100_000;
/// Data time that is read first, and at most.
const SPAN: (Millis, Millis) = (31 * 86_400_000, 366 * 86_400_000);

/// A forecaster's sensors in the order of its channels.
pub(super) fn sensors(spec: &ForecasterSpec) -> Vec<String> {
    let sensor = |c: &str| spec.sensor_of(c).to_owned();
    spec.channels().iter().map(|c| sensor(c)).collect()
}

/// The rows of a device, lot by lot.
pub(super) struct Made<'a> {
    store: &'a Store,
    spec: &'a ForecasterSpec,
    device: &'a str,
    sensors: Vec<String>,
    rows: (Millis, Millis),
    known: Option<DateTime<Utc>>,
    after: Millis,
    span: Millis,
}

impl<'a> Made<'a> {
    /// Those with grid times in `(from, to]` whose slot holds a reading, of readings received until `known`, or all. Readings
    /// whose time nobody vouches for stay out, and bad ones count as missing.
    pub(super) fn new(
        store: &'a Store,
        spec: &'a ForecasterSpec,
        device: &'a str,
        rows: (Millis, Millis),
        known: Option<DateTime<Utc>>,
    ) -> Self {
        let period = spec.period_ms().max(1);
        Self {
            store,
            spec,
            device,
            sensors: sensors(spec),
            rows,
            known,
            // The first row takes in readings from before `from` where that lies between two grid times.
            after: down(rows.0, period),
            span: SPAN.0.max(period),
        }
    }

    /// The next ones by time; none behind the last.
    ///
    /// # Errors
    /// The database.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<FeatureRow>>> {
        let (from, to) = self.rows;
        let period = self.spec.period_ms().max(1);
        loop {
            if self.after >= to {
                return Ok(None);
            }
            if to - self.after > self.span {
                let rest = (self.after, to);
                let next = self.store.next_reading(self.device, &self.sensors, rest);
                let Some(next) = next.await? else {
                    return Ok(None);
                };
                // What lies between is empty.
                self.after = self.after.max(down(next - 1, period));
            }
            let until = down(self.after.saturating_add(self.span), period).min(to);
            let span = (self.after, until);
            let readings = self
                .store
                .readings_known(self.device, &self.sensors, span, self.known)
                .await?;
            if readings.len() > 4 * AT_ONCE && self.span > period {
                self.span = (self.span / 8).max(period);
                continue;
            }
            if readings.len() < AT_ONCE {
                self.span = self.span.saturating_mul(2).min(SPAN.1.max(period));
            }
            self.after = until;
            let made = || made(self.spec, &self.sensors, &readings);
            let mut rows = tokio::task::block_in_place(made);
            rows.retain(|r| r.time > from && r.time <= to);
            return Ok(Some(rows));
        }
    }
}

fn down(time: Millis, period: Millis) -> Millis {
    time.div_euclid(period) * period
}

fn made(spec: &ForecasterSpec, sensors: &[String], readings: &[StoredReading]) -> Vec<FeatureRow> {
    let samples: Vec<Sample> = readings
        .iter()
        .filter(|r| r.time_quality > 0)
        .flat_map(|r| {
            let quality = Quality::from_u8(r.quality).unwrap_or(Quality::Bad);
            // One sensor may stand behind several channels.
            let of_sensor = sensors.iter().enumerate().filter(|(_, s)| **s == r.sensor);
            of_sensor.map(move |(channel, _)| Sample {
                channel,
                time: r.time,
                value: quality.admit(r.value),
            })
        })
        .collect();
    resample_sparse(spec, &samples)
}
