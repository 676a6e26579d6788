//! Rows made of stored readings as the device makes them: owns how much is read at a time, never where rows are kept.

use chrono::{DateTime, Utc};
use fieldcast_features::grid::floor_of;
use fieldcast_features::resample::resample_sparse;
use fieldcast_features::{FeatureRow, ForecasterSpec, Millis, Quality, Sample};
use fieldcast_store::features::KeptRow;
use fieldcast_store::readings::StoredReading;
use fieldcast_store::sensor_faults::Spoilt;
use fieldcast_store::{Result, Store};

/// Readings that are wanted at a time, and how many are taken at most unless one slot has more.
const AT_ONCE: (usize, usize) = (100_000, 400_000);
/// Data time that is read first, and at most.
const SPAN: (Millis, Millis) = (86_400_000, 366 * 86_400_000);

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
    /// What is not learnt from, where somebody asks for that.
    faults: Spoilt,
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
            after: floor_of(rows.0, period),
            span: SPAN.0.max(period),
            faults: Spoilt::default(),
        }
    }

    /// With what of each row is learnt from.
    ///
    /// # Errors
    /// The database.
    pub(super) async fn with_faults(mut self) -> Result<Self> {
        let span = (self.after, self.rows.1);
        self.faults = self
            .store
            .sensor_faults(self.device, &self.sensors, span, self.known)
            .await?;
        Ok(self)
    }

    /// The next ones by time; none behind the last.
    ///
    /// # Errors
    /// The database.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<KeptRow>>> {
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
                self.after = self.after.max(floor_of(next - 1, period));
            }
            let until = floor_of(self.after.saturating_add(self.span), period).min(to);
            let span = (self.after, until);
            let most = (self.span > period).then_some(AT_ONCE.1);
            let readings = self
                .store
                .readings_known(self.device, &self.sensors, span, self.known, most)
                .await?;
            if most.is_some_and(|most| readings.len() >= most) {
                self.span = (self.span / 8).max(period);
                continue;
            }
            if readings.len() < AT_ONCE.0 {
                self.span = self.span.saturating_mul(2).min(SPAN.1.max(period));
            }
            self.after = until;
            let made = || kept(self.spec, &self.sensors, &readings, &self.faults);
            let mut rows = tokio::task::block_in_place(made);
            rows.retain(|r| r.row.time > from && r.row.time <= to);
            return Ok(Some(rows));
        }
    }

    /// Those behind `rows` too.
    ///
    /// # Errors
    /// The database.
    pub(super) async fn all(mut self, mut rows: Vec<KeptRow>) -> Result<Vec<KeptRow>> {
        while let Some(more) = self.next().await? {
            rows.extend(more);
        }
        Ok(rows)
    }
}

fn kept(
    spec: &ForecasterSpec,
    sensors: &[String],
    readings: &[StoredReading],
    faults: &Spoilt,
) -> Vec<KeptRow> {
    let spoilt = |r: &StoredReading| faults.holds(&r.sensor, r.time);
    let rows = made(spec, sensors, readings, |_| false);
    if !readings.iter().any(spoilt) {
        let as_it_is = |row| KeptRow { row, learnt: None };
        return rows.into_iter().map(as_it_is).collect();
    }
    let learnt = made(spec, sensors, readings, spoilt);
    let both = rows.into_iter().zip(learnt);
    both.map(|(row, learnt)| {
        let differs = !row.bits().eq(learnt.bits());
        let learnt = differs.then_some(learnt.values);
        KeptRow { row, learnt }
    })
    .collect()
}

/// The rows of readings, those that are spoilt missing.
fn made(
    spec: &ForecasterSpec,
    sensors: &[String],
    readings: &[StoredReading],
    spoilt: impl Fn(&StoredReading) -> bool,
) -> Vec<FeatureRow> {
    let samples: Vec<Sample> = readings
        .iter()
        .filter(|r| r.time_quality > 0)
        .flat_map(|r| {
            let quality = Quality::from_u8(r.quality).filter(|_| !spoilt(r));
            let quality = quality.unwrap_or(Quality::Bad);
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
