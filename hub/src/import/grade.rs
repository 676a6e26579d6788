//! What of a file's readings is spoilt: owns the faults that each sensor's monitor finds in it, never the database.
//!
//! A file is history: all that a fault spoilt, from before it was found to its end, is known once the file is read. So it is
//! read twice.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use anyhow::Result;
use fieldcast_drift::sensor::{Fault, SensorLimits, SensorMonitor};
use fieldcast_features::Millis;
use fieldcast_store::sensor_faults::Spoilt;

use super::table::{Options, Table};

/// A fault that would spoil more than one of so many readings of a sensor is none: a set point or a category stands still for
/// long, and is meant to.
const USUAL: u64 = 5;

/// How often each fault was found, by sensor.
pub type Found = BTreeMap<String, BTreeMap<&'static str, u64>>;

/// The spoilt readings of a file, and the faults that spoilt them.
#[derive(Debug, Default)]
pub(super) struct Grades {
    pub(super) spoilt: Spoilt,
    pub(super) found: Found,
    /// Sensors and what looks like a fault in more than a fifth of their readings.
    pub(super) usual: Vec<(String, &'static str)>,
}

impl Grades {
    /// Of a file's rows up to the first malformed one, which is told where the rows are written.
    ///
    /// # Errors
    /// As [`Table::open`].
    pub(super) fn of(path: &Path, options: &Options) -> Result<Self> {
        let mut table = Table::open(path, options)?;
        let watch = |_| Watched::new(SensorLimits::default());
        let mut watched: Vec<Watched> = table.sensors.iter().map(watch).collect::<Result<_>>()?;
        while let Ok(Some(row)) = table.next_row() {
            for (watched, value) in watched.iter_mut().zip(&row.values) {
                if let Some(value) = value {
                    watched.take(row.time, *value);
                }
            }
        }
        let mut grades = Self::default();
        let mut spans = Vec::new();
        for (sensor, watched) in table.sensors.iter().zip(watched) {
            for (fault, seen) in watched.faults() {
                if seen.readings * USUAL > watched.readings {
                    grades.usual.push((sensor.clone(), fault));
                    continue;
                }
                if !seen.spans.is_empty() {
                    let faults = grades.found.entry(sensor.clone()).or_default();
                    faults.insert(fault, seen.spans.len() as u64);
                }
                spans.extend(seen.spans.into_iter().map(|span| (sensor.clone(), span)));
            }
        }
        grades.spoilt = Spoilt::new(spans);
        Ok(grades)
    }
}

/// What is seen of one fault of a sensor.
#[derive(Default, Clone)]
struct Seen {
    /// Readings while it was there.
    readings: u64,
    /// From the first reading that it spoilt to the first sound one.
    spans: Vec<Range<Millis>>,
    since: Option<Millis>,
}

struct Watched {
    monitor: SensorMonitor,
    readings: u64,
    seen: BTreeMap<&'static str, Seen>,
}

impl Watched {
    fn new(limits: SensorLimits) -> Result<Self> {
        Ok(Self {
            monitor: SensorMonitor::new(limits)?,
            readings: 0,
            seen: BTreeMap::new(),
        })
    }

    fn take(&mut self, time: Millis, value: f64) {
        self.readings += 1;
        for event in self.monitor.update(time, value).1 {
            let seen = self.seen.entry(event.fault.name()).or_default();
            seen.since = event.raised.then_some(event.onset);
            // Of a step that was first taken for a spike nothing is spoilt.
            if !event.raised && event.onset < event.time {
                seen.spans.push(event.onset..event.time);
            }
        }
        for fault in self.monitor.active() {
            self.seen.entry(fault.name()).or_default().readings += 1;
        }
    }

    /// By fault, what lasts to the end of the file included.
    fn faults(&self) -> impl Iterator<Item = (&'static str, Seen)> {
        self.seen.iter().map(|(fault, seen)| {
            let mut seen = seen.clone();
            // Whether a last spike was a step is not known.
            if let Some(since) = seen.since.filter(|_| *fault != Fault::Spike.name()) {
                seen.spans.push(since..Millis::MAX);
            }
            (*fault, seen)
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const HOUR: Millis = 3_600_000;

    /// The hours of a file whose readings are spoilt, and what was found.
    fn graded(value: impl Fn(i64) -> String) -> (Vec<i64>, Found) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.csv");
        let rows = (0..600).map(|i| format!("{},{}\n", i * HOUR / 1_000, value(i)));
        std::fs::write(&path, format!("time,t\n{}", rows.collect::<String>())).unwrap();
        let grades = Grades::of(&path, &Options::default()).unwrap();
        let hours = (0..600).filter(|i| grades.spoilt.holds("t", i * HOUR));
        (hours.collect(), grades.found)
    }

    fn course(i: i64) -> f64 {
        let scatter = 2.0 * (i as f64 * 0.618_033_988_749_895).fract() - 1.0;
        18.0 + 5.0 * (i as f64 / 24.0 * std::f64::consts::TAU).sin() + scatter
    }

    #[test]
    fn a_spike_that_came_back_is_spoilt_and_a_step_is_not() {
        let (hours, found) = graded(|i| {
            let more = match i {
                200 => 90.0,
                400.. => 60.0,
                _ => 0.0,
            };
            (course(i) + more).to_string()
        });
        assert_eq!(hours, [200]);
        assert_eq!(found["t"]["spike"], 1);
    }

    #[test]
    fn what_a_fault_spoilt_before_it_was_found_and_up_to_the_end_of_the_file_is_spoilt() {
        let (hours, found) = graded(|i| course(i.min(500)).to_string());
        assert_eq!(hours, (501..600).collect::<Vec<_>>());
        assert_eq!(found["t"]["stuck"], 1);
    }

    #[test]
    fn what_stands_still_by_nature_is_not_spoilt_and_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.csv");
        let rows = (0..600).map(|i| format!("{},{}\n", i * HOUR / 1_000, 1 + i / 200));
        std::fs::write(&path, format!("time,season\n{}", rows.collect::<String>())).unwrap();
        let grades = Grades::of(&path, &Options::default()).unwrap();
        assert_eq!((grades.spoilt, grades.found), Default::default());
        assert_eq!(grades.usual, [("season".to_owned(), "stuck")]);
    }

    #[test]
    fn sound_readings_and_what_is_behind_a_malformed_row_are_not_graded() {
        let (hours, found) = graded(|i| match i {
            500 => "broken".into(),
            _ => course(i.min(520)).to_string(),
        });
        assert_eq!((hours, found), (vec![], Found::new()));
    }
}
