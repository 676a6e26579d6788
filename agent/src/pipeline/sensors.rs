//! Is a sensor broken: owns one monitor a sensor and what its findings become; never drops a reading.

use std::collections::BTreeMap;

use fieldcast_drift::run::channel::{BEFORE_MS, DETECTOR};
use fieldcast_drift::sensor::{Fault, SensorEvent, SensorMonitor, Worth};
use fieldcast_features::Millis;
use fieldcast_features::quality::Quality;
use fieldcast_wire::caps::MAX_SENSORS;
use fieldcast_wire::{Reading, RecordBody, pb};

use crate::config::SensorConfig;

/// Data after which a monitor is stored although nothing happened: what it has learnt of the sensor outlives a restart.
const HOUR_MS: Millis = 3_600_000;

/// Monitors of all sensors this device has heard of.
#[derive(Debug, Default)]
pub struct Sensors {
    configs: BTreeMap<String, SensorConfig>,
    watched: BTreeMap<String, Watched>,
}

#[derive(Debug)]
struct Watched {
    monitor: SensorMonitor,
    /// Whether its data time goes with the wall clock, so that the clock can tell that it is silent.
    live: bool,
    /// Hour in which it was stored last.
    stored: Option<Millis>,
}

impl Sensors {
    /// With what the configuration says of some of them.
    #[must_use]
    pub fn new(configs: BTreeMap<String, SensorConfig>) -> Self {
        Self {
            configs,
            watched: BTreeMap::new(),
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
        self.watched.contains_key(sensor) || self.watched.len() >= MAX_SENSORS
    }

    /// Whether the sensor is watched.
    #[must_use]
    pub fn watches(&self, sensor: &str) -> bool {
        self.watched.contains_key(sensor)
    }

    /// Sensors of the configuration that have no monitor yet.
    #[must_use]
    pub fn unmet(&self) -> Vec<String> {
        let names = self.configs.keys().filter(|name| !self.knows(name));
        names.cloned().collect()
    }

    /// Forgets every monitor, so that each is taken up again as it is stored.
    pub fn forget(&mut self) {
        self.watched.clear();
    }

    /// Takes up a stored monitor, or begins a new one; the limits are those of the configuration either way.
    pub fn meet(&mut self, sensor: &str, stored: Option<&[u8]>) {
        let config = self.configs.get(sensor);
        let limits = config.map_or_else(|| SensorConfig::default().limits(), SensorConfig::limits);
        let stored = stored.and_then(|b| serde_json::from_slice::<SensorMonitor>(b).ok());
        let monitor = match stored {
            Some(mut monitor) => {
                monitor.resume();
                monitor.set_limits(limits).map(|()| monitor)
            }
            None => SensorMonitor::new(limits),
        };
        match monitor {
            Ok(monitor) => {
                let watched = Watched {
                    monitor,
                    live: true,
                    stored: None,
                };
                self.watched.insert(sensor.to_owned(), watched);
            }
            Err(e) => tracing::warn!(sensor, "{e}; the sensor is not watched"),
        }
    }

    /// Tells which sensors have fallen silent: of `of` by data time `now`, else of all that go with the wall clock.
    pub fn silence(
        &mut self,
        now: Millis,
        of: Option<&[String]>,
        records: &mut Vec<RecordBody>,
        state: &mut Vec<(String, Vec<u8>)>,
    ) {
        let mut look = |name: &str, watched: &mut Watched| {
            let events = watched.monitor.check_silence(now);
            if !events.is_empty() {
                state.extend(watched.entry(name));
            }
            tell(name, &watched.monitor, &events, records);
        };
        match of {
            Some(names) => {
                for name in names {
                    if let Some(watched) = self.watched.get_mut(name) {
                        look(name, watched);
                    }
                }
            }
            None => {
                for (name, watched) in self.watched.iter_mut().filter(|(_, w)| w.live) {
                    look(name, watched);
                }
            }
        }
    }

    /// Judges a reading: its quality may sink; what changed becomes records and a state entry. `now` is the wall clock, and
    /// whether somebody vouches for it: only then can a sensor's time be ahead of it.
    pub fn judge(
        &mut self,
        reading: &mut Reading,
        (now, trusted): (Millis, bool),
        records: &mut Vec<RecordBody>,
        state: &mut Vec<(String, Vec<u8>)>,
    ) {
        let Some(watched) = self.watched.get_mut(&reading.sensor) else {
            return;
        };
        let (worth, events) =
            watched
                .monitor
                .update_at(reading.time, reading.value, trusted.then_some(now));
        let patience = watched.monitor.limits().missing_after_ms;
        watched.live = now.saturating_sub(reading.time) <= patience;
        let quality = match worth {
            Worth::Good => Quality::Good,
            Worth::Suspect => Quality::Suspect,
            Worth::Bad => Quality::Bad,
        };
        reading.quality = reading.quality.max(quality.as_u8());
        let hour = Some(reading.time.div_euclid(HOUR_MS));
        // A time that cannot be true says nothing about how much was learnt.
        if !events.is_empty() || (worth != Worth::Bad && watched.stored < hour) {
            watched.stored = hour.max(watched.stored);
            state.extend(watched.entry(&reading.sensor));
        }
        tell(&reading.sensor, &watched.monitor, &events, records);
    }

    /// Takes out of `records`, from the `from`-th on, sudden shifts that a sensor's fault explains.
    pub fn explain_shifts(&self, records: &mut Vec<RecordBody>, from: usize) {
        let explained = |record: &RecordBody| match record {
            RecordBody::Drift(d) if d.raised && d.detector == DETECTOR => {
                let watched = self.watched.get(&d.sensor);
                watched.is_some_and(|w| w.monitor.was_faulty_since(d.onset_ms - BEFORE_MS))
            }
            _ => false,
        };
        let mut at = 0;
        records.retain(|record| {
            at += 1;
            at <= from || !explained(record)
        });
    }

    /// Faults at present, by sensor.
    #[must_use]
    pub fn faults(&self) -> BTreeMap<String, Vec<String>> {
        self.watched
            .iter()
            .filter(|(_, w)| !w.monitor.active().is_empty())
            .map(|(name, w)| {
                let names = w.monitor.active().iter().map(|f| f.name().to_owned());
                (name.clone(), names.collect())
            })
            .collect()
    }
}

impl Watched {
    /// The state entry that stores its monitor.
    fn entry(&self, sensor: &str) -> Option<(String, Vec<u8>)> {
        let bytes = serde_json::to_vec(&self.monitor).ok()?;
        Some((Sensors::key(sensor), bytes))
    }
}

fn tell(
    sensor: &str,
    monitor: &SensorMonitor,
    events: &[SensorEvent],
    records: &mut Vec<RecordBody>,
) {
    for event in events {
        let conversion = monitor.conversion().filter(|_| event.fault == Fault::Unit);
        records.extend(report(sensor, event, conversion));
    }
}

/// What is said of a sensor that has a fault.
fn words(fault: Fault) -> &'static str {
    match fault {
        Fault::Stuck => "stuck",
        Fault::OutOfRange => "out of range",
        Fault::Missing => "missing",
        Fault::Spike => "giving a spike",
        Fault::Rate => "changing faster than is possible",
        Fault::Noise => "far noisier than usual",
        Fault::Unit => "giving another unit than before",
        Fault::Clock => "giving times that cannot be true",
    }
}

fn report(sensor: &str, event: &SensorEvent, conversion: Option<&str>) -> Vec<RecordBody> {
    let (name, words) = (event.fault.name(), words(event.fault));
    let state = if event.raised { "is" } else { "is no longer" };
    let conversion = conversion.map_or_else(String::new, |c| format!(" ({c})"));
    let value = event
        .value
        .map_or_else(String::new, |v| format!(", value {v}"));
    let mut out = vec![RecordBody::Alarm(pb::Alarm {
        code: format!("sensor_{name}"),
        sensor: sensor.to_owned(),
        time_ms: event.time,
        message: format!("sensor {sensor} {state} {words}{conversion}{value}"),
        raised: event.raised,
        ..pb::Alarm::default()
    })];
    // A spike is over with the next reading: no state of the sensor, but what is not to be learnt from.
    if event.fault != Fault::Spike || (!event.raised && event.onset < event.time) {
        out.push(RecordBody::Drift(pb::DriftSignal {
            kind: pb::DriftKind::Sensor as i32,
            sensor: sensor.to_owned(),
            detector: name.to_owned(),
            statistic: event.value.unwrap_or(0.0),
            time_ms: event.time,
            onset_ms: event.onset,
            raised: event.raised,
            ..pb::DriftSignal::default()
        }));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(time: Millis, value: f64) -> Reading {
        Reading {
            sensor: "t".into(),
            time,
            value,
            quality: 0,
            time_source: pb::TimeSource::External,
        }
    }

    #[test]
    fn a_fault_is_reported_once_and_so_is_its_end() {
        let mut sensors = Sensors::new(BTreeMap::from([(
            "t".to_owned(),
            SensorConfig {
                min: Some(0.0),
                max: Some(50.0),
                ..SensorConfig::default()
            },
        )]));
        sensors.meet("t", None);
        let (mut records, mut state) = (Vec::new(), Vec::new());
        for (time, value, quality) in [(1, 20.0, 0), (2, 99.0, 2), (3, 98.0, 2), (4, 21.0, 0)] {
            let mut reading = reading(time, value);
            sensors.judge(&mut reading, (5, false), &mut records, &mut state);
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
        assert_eq!(state.len(), 3, "of the first hour, and of each change");
        assert!(sensors.faults().is_empty());
    }

    #[test]
    fn a_shift_that_a_fault_explains_is_not_told() {
        let mut sensors = Sensors::default();
        sensors.meet("t", None);
        let (mut records, mut state) = (Vec::new(), Vec::new());
        for hour in 0..200 {
            let stuck = (60..140).contains(&hour);
            let value = (hour as f64 * 0.618).fract();
            let mut reading = reading(hour * HOUR_MS, if stuck { 0.5 } else { value });
            sensors.judge(&mut reading, (0, false), &mut records, &mut state);
        }
        let shift = |sensor: &str, onset: Millis, raised| {
            RecordBody::Drift(pb::DriftSignal {
                detector: DETECTOR.into(),
                sensor: sensor.into(),
                onset_ms: onset * HOUR_MS,
                raised,
                ..pb::DriftSignal::default()
            })
        };
        let all = [
            shift("t", 62, true),
            shift("t", 62, true),
            shift("t", 145, true),
            shift("t", 170, true),
            shift("t", 145, false),
            shift("unknown", 145, true),
        ];
        let mut told = all.to_vec();
        sensors.explain_shifts(&mut told, 1);
        assert_eq!(told, [&all[..1], &all[3..]].concat());
    }

    #[test]
    fn what_was_learnt_of_a_sensor_outlives_a_restart() {
        let course = |i: i64| {
            let scatter = 2.0 * (i as f64 * 0.618_033_988_749_895).fract() - 1.0;
            18.0 + 5.0 * (i as f64 / 24.0 * std::f64::consts::TAU).sin() + scatter
        };
        let mut kept: Option<Vec<u8>> = None;
        let mut said = Vec::new();
        // A restart each day, and one with which the unit changes.
        for day in 0..18 {
            let mut sensors = Sensors::default();
            sensors.meet("t", kept.as_deref());
            let begun = silence(&mut sensors, day * 86_400_000 + 900_000_000, None);
            assert_eq!(begun, [], "day {day}: nothing was looked for meanwhile");
            for i in day * 24..(day + 1) * 24 {
                let value = if day < 14 {
                    course(i)
                } else {
                    1.8 * course(i) + 32.0
                };
                let (mut records, mut state) = (Vec::new(), Vec::new());
                let mut reading = reading(i * 3_600_000, value);
                sensors.judge(&mut reading, (0, false), &mut records, &mut state);
                kept = state.pop().map(|(_, bytes)| bytes).or(kept);
                said.extend(alarms(&records));
            }
        }
        assert!(
            said.contains(&("sensor_unit_change".to_owned(), true)),
            "{said:?}"
        );
    }

    #[test]
    fn a_changed_unit_is_bad_and_named_and_so_are_noise_and_rate() {
        let config = SensorConfig {
            max_rate: Some(100.0),
            ..SensorConfig::default()
        };
        let mut sensors = Sensors::new(BTreeMap::from([("t".to_owned(), config)]));
        sensors.meet("t", None);
        let scatter = |i: i64| 2.0 * (i as f64 * 0.618_033_988_749_895).fract() - 1.0;
        let course =
            |i: i64| 18.0 + 5.0 * (i as f64 / 24.0 * std::f64::consts::TAU).sin() + scatter(i);
        let mut said = Vec::new();
        let mut bad = 0;
        for i in 0..700 {
            let value = match i {
                300..360 => 1.8 * course(i) + 32.0,
                500..540 => course(i) + 9.0 * scatter(7 * i),
                600 => 500.0,
                _ => course(i),
            };
            let (mut records, mut state) = (Vec::new(), Vec::new());
            let mut reading = reading(i * 3_600_000, value);
            let now = reading.time;
            sensors.judge(&mut reading, (now, false), &mut records, &mut state);
            bad += i64::from(reading.quality == Quality::Bad.as_u8());
            said.extend(records.iter().filter_map(|r| match r {
                RecordBody::Alarm(a) if a.raised && a.code != "sensor_spike" => {
                    Some(a.message.clone())
                }
                _ => None,
            }));
        }
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(said[0].contains("another unit than before (degrees Celsius to Fahrenheit)"));
        assert!(said[1].contains("far noisier than usual"));
        assert!(said[2].contains("changing faster than is possible, value 500"));
        assert!((30..70).contains(&bad), "{bad}");
        assert!(sensors.faults().is_empty());
    }

    fn sensors(missing_after: &str, max: f64) -> Sensors {
        let config = SensorConfig {
            max: Some(max),
            stuck_after: Some(3),
            missing_after: Some(missing_after.into()),
            ..SensorConfig::default()
        };
        Sensors::new(BTreeMap::from([("t".to_owned(), config)]))
    }

    /// Judges a reading of `t`; its quality and the alarms.
    fn judge(sensors: &mut Sensors, time: i64, now: i64, value: f64) -> (u8, Vec<(String, bool)>) {
        let (mut records, mut state) = (Vec::new(), Vec::new());
        let mut reading = reading(time, value);
        sensors.judge(&mut reading, (now, false), &mut records, &mut state);
        (reading.quality, alarms(&records))
    }

    fn alarms(records: &[RecordBody]) -> Vec<(String, bool)> {
        let alarm = |r: &RecordBody| match r {
            RecordBody::Alarm(a) => Some((a.code.clone(), a.raised)),
            _ => None,
        };
        records.iter().filter_map(alarm).collect()
    }

    fn silence(sensors: &mut Sensors, now: i64, of: Option<&[String]>) -> Vec<(String, bool)> {
        let (mut records, mut state) = (Vec::new(), Vec::new());
        sensors.silence(now, of, &mut records, &mut state);
        assert_eq!(records.is_empty(), state.is_empty());
        alarms(&records)
    }

    fn alarm(code: &str, raised: bool) -> Vec<(String, bool)> {
        vec![(code.to_owned(), raised)]
    }

    #[test]
    fn silence_is_missing_by_the_wall_clock_for_live_sensors_and_by_data_time_for_replayed_ones() {
        let mut s = sensors("1m", 50.0);
        assert_eq!(s.unmet(), ["t"]);
        s.meet("t", None);
        assert!(s.unmet().is_empty());
        judge(&mut s, 1_000_000, 1_000_000, 20.0);
        assert_eq!(silence(&mut s, 1_060_000, None), []);
        assert_eq!(
            silence(&mut s, 1_060_001, None),
            alarm("sensor_missing", true)
        );
        assert_eq!(silence(&mut s, 1_090_000, None), []);
        assert_eq!(
            judge(&mut s, 1_100_000, 1_100_000, 20.5).1,
            alarm("sensor_missing", false)
        );
        let mut s = sensors("1m", 50.0);
        s.meet("t", None);
        judge(&mut s, 1_000, 900_000_000, 20.0);
        assert_eq!(silence(&mut s, 900_000_000, None), []);
        let file = ["t".to_owned(), "u".to_owned()];
        assert_eq!(silence(&mut s, 61_000, Some(&file)), []);
        assert_eq!(
            silence(&mut s, 61_001, Some(&file)),
            alarm("sensor_missing", true)
        );
        let mut never = sensors("1m", 50.0);
        never.meet("t", None);
        assert_eq!(silence(&mut never, 10_000, None), []);
        assert_eq!(
            silence(&mut never, 70_001, None),
            alarm("sensor_missing", true)
        );
    }

    #[test]
    fn a_stuck_sensor_is_graded_bad_and_changed_limits_count_after_a_restart() {
        let mut s = sensors("0", 50.0);
        s.meet("t", None);
        let grades: Vec<u8> = (0..5).map(|i| judge(&mut s, i, i, 20.0).0).collect();
        assert_eq!(grades, [0, 0, 2, 2, 2]);
        let (mut records, mut state) = (Vec::new(), Vec::new());
        let mut reading = reading(9, 60.0);
        s.judge(&mut reading, (9, false), &mut records, &mut state);
        assert_eq!(
            alarms(&records).first(),
            alarm("sensor_out_of_range", true).first()
        );
        let mut wider = sensors("0", 80.0);
        wider.meet("t", state.pop().as_ref().map(|(_, bytes)| bytes.as_slice()));
        assert_eq!(wider.faults()["t"], ["stuck", "out_of_range"]);
        let (grade, told) = judge(&mut wider, 10, 10, 61.0);
        assert_eq!(grade, 0);
        assert!(
            told.contains(&("sensor_out_of_range".to_owned(), false)),
            "{told:?}"
        );
        assert!(wider.faults().is_empty());
    }

    #[test]
    fn a_time_ahead_of_a_clock_that_is_vouched_for_is_bad_and_told() {
        let mut s = sensors("0", 50.0);
        s.meet("t", None);
        let (mut records, mut state) = (Vec::new(), Vec::new());
        let mut value = 20.0;
        let mut one = |time, trusted| {
            value += 0.1;
            let mut reading = Reading {
                sensor: "t".into(),
                time,
                value,
                quality: 0,
                time_source: pb::TimeSource::Device,
            };
            s.judge(&mut reading, (1_000_000, trusted), &mut records, &mut state);
            reading.quality
        };
        let hour = 3_600_000;
        let grades = [
            one(900_000, true),
            one(1_000_000 + hour, true),
            one(950_000, true),
            one(1_000_000 + hour, false),
        ];
        assert_eq!(grades, [0, 2, 0, 0]);
        assert_eq!(
            alarms(&records),
            [
                ("sensor_clock".to_owned(), true),
                ("sensor_clock".to_owned(), false)
            ]
        );
    }
}
