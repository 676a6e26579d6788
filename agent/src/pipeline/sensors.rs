//! Is a sensor broken: owns one monitor a sensor and what its findings become; never drops a reading.

use std::collections::BTreeMap;

use fieldcast_drift::sensor::{Fault, SensorEvent, SensorLimits, SensorMonitor, Worth};
use fieldcast_features::quality::Quality;
use fieldcast_wire::caps::MAX_SENSORS;
use fieldcast_wire::{Reading, RecordBody, pb};

use crate::config::SensorConfig;

/// Monitors of all sensors this device has heard of.
#[derive(Debug, Default)]
pub struct Sensors {
    ranges: BTreeMap<String, SensorConfig>,
    monitors: BTreeMap<String, SensorMonitor>,
}

impl Sensors {
    /// With the configured ranges.
    #[must_use]
    pub fn new(ranges: BTreeMap<String, SensorConfig>) -> Self {
        Self {
            ranges,
            monitors: BTreeMap::new(),
        }
    }

    /// State key of a sensor's monitor.
    #[must_use]
    pub fn key(sensor: &str) -> String {
        format!("sensor/{sensor}")
    }

    /// Whether the sensor has a monitor already.
    #[must_use]
    pub fn knows(&self, sensor: &str) -> bool {
        self.monitors.contains_key(sensor) || self.monitors.len() >= MAX_SENSORS
    }

    /// Forgets every monitor, so that each is taken up again as it is stored.
    pub fn forget(&mut self) {
        self.monitors.clear();
    }

    /// Takes up a stored monitor, or begins a new one.
    pub fn meet(&mut self, sensor: &str, stored: Option<&[u8]>) {
        let range = self.ranges.get(sensor).copied().unwrap_or_default();
        let limits = SensorLimits {
            min: range.min,
            max: range.max,
            ..SensorLimits::default()
        };
        let stored = stored.and_then(|b| serde_json::from_slice::<SensorMonitor>(b).ok());
        match stored.map_or_else(|| SensorMonitor::new(limits), Ok) {
            Ok(monitor) => {
                self.monitors.insert(sensor.to_owned(), monitor);
            }
            Err(e) => tracing::warn!(sensor, "{e}; the sensor is not watched"),
        }
    }

    /// Judges a reading: its quality may sink; what changed becomes records and a state entry.
    pub fn judge(
        &mut self,
        reading: &mut Reading,
        records: &mut Vec<RecordBody>,
        state: &mut Vec<(String, Vec<u8>)>,
    ) {
        let Some(monitor) = self.monitors.get_mut(&reading.sensor) else {
            return;
        };
        let (worth, events) = monitor.update(reading.time, reading.value);
        let quality = match worth {
            Worth::Good => Quality::Good,
            Worth::Suspect => Quality::Suspect,
            Worth::Bad => Quality::Bad,
        };
        reading.quality = reading.quality.max(quality.as_u8());
        if events.is_empty() {
            return;
        }
        if let Ok(bytes) = serde_json::to_vec(monitor) {
            state.push((Self::key(&reading.sensor), bytes));
        }
        for event in events {
            records.extend(report(&reading.sensor, &event));
        }
    }

    /// Faults at present, by sensor.
    #[must_use]
    pub fn faults(&self) -> BTreeMap<String, Vec<String>> {
        self.monitors
            .iter()
            .filter(|(_, m)| !m.active().is_empty())
            .map(|(name, m)| {
                let names = m.active().iter().map(|f| name_of(*f).to_owned());
                (name.clone(), names.collect())
            })
            .collect()
    }
}

fn name_of(fault: Fault) -> &'static str {
    match fault {
        Fault::Stuck => "stuck",
        Fault::OutOfRange => "out_of_range",
        Fault::Missing => "missing",
        Fault::Spike => "spike",
    }
}

fn report(sensor: &str, event: &SensorEvent) -> Vec<RecordBody> {
    let name = name_of(event.fault);
    let state = if event.raised { "is" } else { "is no longer" };
    let value = event
        .value
        .map_or_else(String::new, |v| format!(", value {v}"));
    let mut out = vec![RecordBody::Alarm(pb::Alarm {
        code: format!("sensor_{name}"),
        sensor: sensor.to_owned(),
        time_ms: event.time,
        message: format!("sensor {sensor} {state} {}{value}", name.replace('_', " ")),
        raised: event.raised,
        ..pb::Alarm::default()
    })];
    // A spike is over with the next reading: an alarm, but no state of the sensor.
    if event.fault != Fault::Spike {
        out.push(RecordBody::Drift(pb::DriftSignal {
            kind: pb::DriftKind::Sensor as i32,
            sensor: sensor.to_owned(),
            detector: name.to_owned(),
            statistic: event.value.unwrap_or(0.0),
            time_ms: event.time,
            onset_ms: event.time,
            raised: event.raised,
            ..pb::DriftSignal::default()
        }));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_reported_once_and_so_is_its_end() {
        let mut sensors = Sensors::new(BTreeMap::from([(
            "t".to_owned(),
            SensorConfig {
                min: Some(0.0),
                max: Some(50.0),
            },
        )]));
        sensors.meet("t", None);
        let (mut records, mut state) = (Vec::new(), Vec::new());
        for (time, value, quality) in [(1, 20.0, 0), (2, 99.0, 2), (3, 98.0, 2), (4, 21.0, 0)] {
            let mut reading = Reading {
                sensor: "t".into(),
                time,
                value,
                quality: 0,
                time_source: pb::TimeSource::External,
            };
            sensors.judge(&mut reading, &mut records, &mut state);
            assert_eq!(reading.quality, quality);
        }
        let alarms: Vec<bool> = records
            .iter()
            .filter_map(|r| match r {
                RecordBody::Alarm(a) => Some(a.raised),
                _ => None,
            })
            .collect();
        assert_eq!(alarms, [true, false]);
        assert_eq!(records.len(), 4);
        assert_eq!(state.len(), 2);
        assert!(sensors.faults().is_empty());
    }
}
