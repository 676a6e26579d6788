//! What of a file's readings sensors' faults spoilt: owns a monitor of each sensor, never the database.

use std::collections::BTreeMap;

use anyhow::Result;
use fieldcast_drift::sensor::{Fault, SensorLimits, SensorMonitor};
use fieldcast_features::Millis;
use fieldcast_store::sensor_faults::Fault as Found;

use super::table::Row;

/// A sensor that stands still for more than one of so many parts of a file's time is meant to: it is a set point or a category.
const STILL: Millis = 5;

/// What the monitors say of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Findings {
    /// How often each fault was found, by sensor.
    pub faults: BTreeMap<String, BTreeMap<&'static str, u64>>,
    /// Sensors that stand still for more than a fifth of the time, or again and again, which is taken for how they are.
    pub still: Vec<String>,
    /// Whether rows are older than those before them: then nothing was looked for.
    pub unordered: bool,
}

/// Watches the sensors of a file, with the limits that a device has by default.
pub(super) struct Watch {
    sensors: Vec<Watched>,
    span: Option<(Millis, Millis)>,
    unordered: bool,
}

impl Watch {
    /// # Errors
    /// None with the default limits.
    pub(super) fn new(sensors: &[String]) -> Result<Self> {
        let watched = |sensor: &String| Watched::new(sensor.clone());
        Ok(Self {
            sensors: sensors.iter().map(watched).collect::<Result<_>>()?,
            span: None,
            unordered: false,
        })
    }

    /// Takes the next rows.
    pub(super) fn take(&mut self, rows: &[Row]) {
        for row in rows {
            let (from, to) = self.span.unwrap_or((row.time, row.time));
            self.unordered |= row.time < to;
            self.span = Some((from, row.time));
            if self.unordered {
                return;
            }
            for (watched, value) in self.sensors.iter_mut().zip(&row.values) {
                if let Some(value) = value {
                    watched.take(row.time, *value);
                }
            }
        }
    }

    /// The file has ended: what was spoilt, and what is said of it.
    pub(super) fn end(self) -> (Vec<Found>, Findings) {
        let mut findings = Findings {
            unordered: self.unordered,
            ..Findings::default()
        };
        let Some((from, to)) = self.span.filter(|_| !self.unordered) else {
            return (Vec::new(), findings);
        };
        let mut spoilt = Vec::new();
        for watched in self.sensors {
            for (fault, spans) in watched.end(to) {
                let total: Millis = spans.iter().map(|(from, to)| to - from).sum();
                let still = total > (to - from) / STILL || watched.monitor.stands_still();
                if fault == Fault::Stuck.name() && still {
                    findings.still.push(watched.sensor.clone());
                    continue;
                }
                let faults = findings.faults.entry(watched.sensor.clone()).or_default();
                faults.insert(fault, spans.len() as u64);
                spoilt.extend(spans.into_iter().map(|(from, to)| Found {
                    sensor: watched.sensor.clone(),
                    fault: fault.to_owned(),
                    spoilt: from..to,
                }));
            }
        }
        (spoilt, findings)
    }
}

struct Watched {
    sensor: String,
    monitor: SensorMonitor,
    /// By fault: from the first reading that it spoilt to the first sound one.
    spans: BTreeMap<&'static str, Vec<(Millis, Millis)>>,
    /// Faults at present, and the first reading that each spoilt.
    open: BTreeMap<&'static str, Millis>,
}

impl Watched {
    fn new(sensor: String) -> Result<Self> {
        Ok(Self {
            sensor,
            monitor: SensorMonitor::new(SensorLimits::default())?,
            spans: BTreeMap::new(),
            open: BTreeMap::new(),
        })
    }

    fn take(&mut self, time: Millis, value: f64) {
        for event in self.monitor.update(time, value).1 {
            let fault = event.fault.name();
            if event.raised {
                self.open.insert(fault, event.onset);
                continue;
            }
            self.open.remove(fault);
            // Of a step that was first taken for a spike nothing is spoilt.
            if event.onset < event.time {
                let spans = self.spans.entry(fault).or_default();
                spans.push((event.onset, event.time));
            }
        }
    }

    /// By fault, with what lasts to the end of the file.
    fn end(&self, last: Millis) -> BTreeMap<&'static str, Vec<(Millis, Millis)>> {
        let mut spans = self.spans.clone();
        // Whether a last spike was a step is not known.
        for (fault, since) in self.open.iter().filter(|(f, _)| **f != Fault::Spike.name()) {
            spans.entry(fault).or_default().push((*since, last + 1));
        }
        spans
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const HOUR: Millis = 3_600_000;

    /// The hours of a file of one sensor that are spoilt, and what is said.
    fn watched(
        hours: impl Iterator<Item = i64>,
        value: impl Fn(i64) -> f64,
    ) -> (Vec<i64>, Findings) {
        let mut watch = Watch::new(&["t".to_owned()]).unwrap();
        for i in hours {
            let values = vec![Some(value(i))];
            watch.take(&[Row {
                time: i * HOUR,
                values,
            }]);
        }
        let (spoilt, findings) = watch.end();
        let hours = (0..1_000).filter(|i| spoilt.iter().any(|s| s.spoilt.contains(&(i * HOUR))));
        (hours.collect(), findings)
    }

    fn course(i: i64) -> f64 {
        let scatter = 2.0 * (i as f64 * 0.618_033_988_749_895).fract() - 1.0;
        18.0 + 5.0 * (i as f64 / 24.0 * std::f64::consts::TAU).sin() + scatter
    }

    #[test]
    fn a_spike_that_came_back_is_spoilt_and_a_step_is_not() {
        let (hours, findings) = watched(0..600, |i| match i {
            200 => course(i) + 90.0,
            400.. => course(i) + 60.0,
            _ => course(i),
        });
        assert_eq!(hours, [200]);
        assert_eq!(findings.faults["t"], BTreeMap::from([("spike", 1)]));
    }

    #[test]
    fn what_a_fault_spoilt_before_it_was_found_is_spoilt_up_to_the_end_of_the_file() {
        let (hours, findings) = watched(0..600, |i| course(i.min(500)));
        assert_eq!(hours, (501..600).collect::<Vec<_>>());
        assert_eq!(findings.faults["t"]["stuck"], 1);
    }

    #[test]
    fn what_stands_still_by_nature_is_named_however_long_it_stands() {
        for hours in [48, 50, 168] {
            let (spoilt, findings) = watched(0..900, |i| 1.0 + (i / hours) as f64);
            assert_eq!((spoilt, findings.faults), Default::default(), "{hours}");
            assert_eq!(findings.still, ["t"], "{hours}");
        }
    }

    #[test]
    fn sound_readings_are_not_spoilt_and_in_rows_of_no_order_nothing_is_looked_for() {
        assert_eq!(watched(0..600, course), Default::default());
        let (hours, findings) = watched((0..600).chain([10]), |i| course(i.min(500)));
        assert!(hours.is_empty() && findings.faults.is_empty() && findings.unordered);
    }
}
