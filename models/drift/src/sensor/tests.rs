//! Tests of a sensor's checks: own the timelines that drive them.

#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

fn monitor() -> SensorMonitor {
    let limits = SensorLimits {
        min: Some(-50.0),
        max: Some(60.0),
        stuck_after: 5,
        stuck_for_ms: 0,
        missing_after_ms: 1_000,
        ..SensorLimits::default()
    };
    SensorMonitor::new(limits).unwrap()
}

fn kinds(events: &[SensorEvent]) -> Vec<(Fault, bool)> {
    events.iter().map(|e| (e.fault, e.raised)).collect()
}

/// Readings that wander a little.
fn warm(m: &mut SensorMonitor) -> i64 {
    for t in 0..40 {
        let (worth, events) = m.update(t * 10, 20.0 + (t as f64 * 0.618).fract());
        assert!(worth == Worth::Good && events.is_empty());
    }
    400
}

#[test]
fn a_look_before_the_first_reading_makes_no_older_one_late() {
    let mut m = monitor();
    assert!(m.check_silence(1_000_000).is_empty());
    let (worth, events) = m.update(500, 99.0);
    assert_eq!(worth, Worth::Bad);
    assert_eq!(kinds(&events), [(Fault::OutOfRange, true)]);
    let mut never = monitor();
    assert!(never.check_silence(1_000_000).is_empty());
    assert_eq!(never.check_silence(1_001_001).len(), 1);
}

#[test]
fn who_was_away_calls_nothing_missing_at_once_and_a_dead_sensor_soon() {
    let stored = |m: &SensorMonitor| serde_json::to_string(m).unwrap();
    let mut m = monitor();
    let last = warm(&mut m) - 10;
    let mut m: SensorMonitor = serde_json::from_str(&stored(&m)).unwrap();
    m.resume();
    assert!(m.check_silence(last + 9_000).is_empty());
    assert!(m.check_silence(last + 9_500).is_empty());
    // Away once more within the time that means "missing".
    let mut m: SensorMonitor = serde_json::from_str(&stored(&m)).unwrap();
    m.resume();
    assert!(m.check_silence(last + 9_700).is_empty());
    let told = m.check_silence(last + 10_201);
    assert_eq!(kinds(&told), [(Fault::Missing, true)]);
    let (_, over) = m.update(last + 10_300, 20.5);
    assert_eq!(kinds(&over), [(Fault::Missing, false)]);
    assert!(m.check_silence(last + 11_300).is_empty());
    assert_eq!(m.check_silence(last + 11_301).len(), 1);
}

#[test]
fn a_spike_is_suspect_and_a_new_level_is_believed() {
    let mut m = monitor();
    let t = warm(&mut m);
    let (worth, events) = m.update(t, 55.0);
    assert_eq!(
        (worth, kinds(&events)),
        (Worth::Suspect, vec![(Fault::Spike, true)])
    );
    assert_eq!(kinds(&m.update(t + 10, 20.3).1), [(Fault::Spike, false)]);
    let levels: Vec<Worth> = (0..6)
        .map(|i| m.update(t + 20 + i * 10, 50.0 + i as f64 / 10.0).0)
        .collect();
    assert_eq!(levels[2..5], [Worth::Suspect, Worth::Good, Worth::Good]);
}

#[test]
fn stuck_is_raised_and_cleared_but_not_at_rest() {
    let mut m = monitor();
    let (worths, events): (Vec<_>, Vec<_>) = (0..8).map(|i| m.update(i, 21.5)).unzip();
    assert_eq!(kinds(&events.concat()), [(Fault::Stuck, true)]);
    assert_eq!(worths[..4], [Worth::Good; 4]);
    assert_eq!(worths[4..], [Worth::Bad; 4]);
    let (worth, events) = m.update(9, 21.6);
    assert_eq!(
        (worth, kinds(&events)),
        (Worth::Good, vec![(Fault::Stuck, false)])
    );
    let mut rain = monitor();
    assert!((0..100).all(|i| rain.update(i, 0.0).1.is_empty()));
}

/// A channel that is looked at each ten seconds.
struct Room {
    monitor: SensorMonitor,
    time: i64,
}

impl Room {
    fn new() -> Self {
        Self {
            monitor: SensorMonitor::new(SensorLimits::default()).unwrap(),
            time: 0,
        }
    }

    /// It stays at a value; what is told of being stuck.
    fn stay(&mut self, value: f64, hours: f64) -> Vec<(Fault, bool)> {
        let mut told = Vec::new();
        let until = self.time + (hours * 3.6e6) as i64;
        while self.time < until {
            told.extend(self.monitor.update(self.time, value).1);
            self.time += 10_000;
        }
        told.retain(|e| e.fault == Fault::Stuck);
        kinds(&told)
    }

    /// It goes to and fro.
    fn move_about(&mut self, hours: f64) -> Vec<(Fault, bool)> {
        let mut told = Vec::new();
        for i in 0..(hours * 360.0) as i32 {
            told.extend(self.stay(19.0 + 0.5 * f64::from(i % 7), 1.0 / 360.0));
        }
        told
    }
}

#[test]
fn what_seldom_changes_is_not_stuck_and_what_stays_far_longer_is() {
    // At rest, and then for hours at one value; or moving all day, and still at night.
    for (still, hours) in [(450.0, 6.0), (18.5, 9.0)] {
        let mut room = Room::new();
        for day in 0..100 {
            let mut told = room.stay(0.0, 8.0);
            told.extend(room.move_about(24.0 - 8.0 - hours));
            told.extend(room.stay(still, hours));
            // The first days are all that it knows of itself.
            assert!(day < 4 || told.is_empty(), "{day}: {told:?}");
            let state = serde_json::to_vec(&room.monitor).unwrap();
            room.monitor = serde_json::from_slice(&state).unwrap();
        }
        room.move_about(0.1);
        assert_eq!(room.stay(20.25, 20.0), [(Fault::Stuck, true)]);
        // Whoever names a number means it.
        let mut limits = *room.monitor.limits();
        (limits.stuck_after, limits.stuck_for_ms) = (60, 0);
        room.monitor.set_limits(limits).unwrap();
        room.move_about(0.1);
        assert_eq!(room.stay(20.25, 0.2), [(Fault::Stuck, true)]);
    }
}

#[test]
fn time_in_which_nothing_was_read_is_none_of_a_stay() {
    let mut room = Room::new();
    room.move_about(1.0);
    for _ in 0..10 {
        assert_eq!(room.stay(4.0, 0.1), []);
        room.time += 5 * 3_600_000;
    }
    // Readings of each day go on however long the days are.
    let mut monitor = SensorMonitor::new(SensorLimits::default()).unwrap();
    let day = 86_400_000;
    let told: Vec<_> = (0..60)
        .flat_map(|i| monitor.update(i * day, 7.0).1)
        .collect();
    assert_eq!(kinds(&told), [(Fault::Stuck, true)]);
}

#[test]
fn a_step_is_no_fault_of_the_sensor_and_a_spike_is() {
    let mut m = monitor();
    let t = warm(&mut m);
    for i in 0..20 {
        m.update(t + i * 10, 50.0 + (i as f64 * 0.618).fract());
    }
    assert!(!m.was_faulty_since(0), "it was believed in the end");
    m.update(t + 200, 5.0);
    m.update(t + 210, 50.3);
    assert!(m.was_faulty_since(t + 210) && !m.was_faulty_since(t + 211));
}

#[test]
fn a_fault_tells_since_when_readings_are_spoilt_and_a_step_spoils_none() {
    let mut m = monitor();
    let t = warm(&mut m);
    let mut spans = |from: i64, values: &[f64]| -> Vec<(Fault, bool, i64, i64)> {
        let times = (0..).map(|i| t + (from + i) * 10);
        let events = times.zip(values).flat_map(|(t, v)| m.update(t, *v).1);
        let told = events.map(|e| (e.fault, e.raised, e.onset - t, e.time - t));
        told.collect()
    };
    let spike = |raised, from, to| (Fault::Spike, raised, from, to);
    let stuck = |raised, from, to| (Fault::Stuck, raised, from, to);
    let told = spans(0, &[55.0, 54.0, 20.3]);
    assert_eq!(told, [spike(true, 0, 0), spike(false, 0, 20)]);
    // What is believed in the end was true from the first reading on.
    let told = spans(3, &[50.0, 50.2, 50.1, 50.3, 50.2]);
    assert_eq!(told, [spike(true, 30, 30), spike(false, 60, 60)]);
    // The first of readings that are all the same was one.
    let told = spans(8, &[50.7, 50.7, 50.7, 50.7, 50.7, 50.7, 50.9]);
    assert_eq!(told, [stuck(true, 90, 120), stuck(false, 90, 140)]);
}

#[test]
fn what_came_between_two_judged_readings_is_spoilt_as_the_later_one_is() {
    let mut m = SensorMonitor::new(SensorLimits::default()).unwrap();
    let minute = 60_000;
    let celsius = |i: i64| {
        let noise = (i as f64 * 0.618_033_988_749_895).fract() - 0.5;
        18.0 + 5.0 * (i as f64 / 360.0 * std::f64::consts::TAU).sin() + noise
    };
    for i in 0..12_000 {
        m.update(i * minute, celsius(i));
    }
    let fahrenheit = |i: i64| 32.0 + 1.8 * celsius(i);
    let changed = 12_001;
    let found = (changed..changed + 3_000)
        .flat_map(|i| m.update(i * minute, fahrenheit(i)).1)
        .find(|e| e.fault == Fault::Unit && e.raised)
        .unwrap();
    let from = (changed - 14) * minute..=changed * minute;
    assert!(
        from.contains(&found.onset),
        "{}",
        found.onset / minute - changed
    );
}

#[test]
fn new_limits_end_a_fault_of_the_old_ones() {
    let mut m = monitor();
    m.update(0, 99.0);
    assert_eq!(m.active(), [Fault::OutOfRange]);
    let wide = SensorLimits {
        max: Some(100.0),
        ..*m.limits()
    };
    m.set_limits(wide).unwrap();
    let (worth, events) = m.update(1, 99.0);
    assert_eq!(
        (worth, kinds(&events)),
        (Worth::Good, vec![(Fault::OutOfRange, false)])
    );
    assert!(
        m.set_limits(SensorLimits {
            max: Some(f64::NAN),
            ..wide
        })
        .is_err()
    );
    assert_eq!(m.limits(), &wide);
}

#[test]
fn what_changes_too_fast_is_bad_until_time_allows_it() {
    let mut m = SensorMonitor::new(SensorLimits {
        max_rate: Some(6.0),
        ..SensorLimits::default()
    })
    .unwrap();
    let minute = 60_000;
    assert_eq!(m.update(0, 20.0).0, Worth::Good);
    let (worth, events) = m.update(10 * minute, 21.5);
    assert_eq!(
        (worth, kinds(&events)),
        (Worth::Bad, vec![(Fault::Rate, true)])
    );
    assert_eq!(
        kinds(&m.update(20 * minute, 21.5).1),
        [(Fault::Rate, false)]
    );
    let never = SensorLimits {
        max_rate: Some(0.0),
        ..SensorLimits::default()
    };
    assert!(m.set_limits(never).is_err());
}

#[test]
fn a_long_pause_is_no_change_of_unit() {
    let course = |i: i64| {
        let hour = i as f64 / 24.0 * std::f64::consts::TAU;
        18.0 + 5.0 * hour.sin() + (i as f64 * 0.618).fract()
    };
    for (pause, found) in [(2, true), (60 * 24, false)] {
        let mut m = SensorMonitor::new(SensorLimits::default()).unwrap();
        (0..300).for_each(|i| {
            m.update(i * 3_600_000, course(i));
        });
        let units = (300..380).map(|i| {
            m.update((i + pause) * 3_600_000, 1.8 * course(i) + 32.0);
            m.active().contains(&Fault::Unit)
        });
        assert_eq!(units.last(), Some(found), "{pause} hours");
    }
}

#[test]
fn range_silence_and_nonsense() {
    let mut m = monitor();
    assert_eq!(m.update(0, 99.0).0, Worth::Bad);
    assert_eq!(m.active(), [Fault::OutOfRange]);
    assert_eq!(kinds(&m.update(10, 20.0).1), [(Fault::OutOfRange, false)]);
    assert_eq!(m.update(500, f64::NAN).0, Worth::Bad);
    assert_eq!(kinds(&m.check_silence(1_011)), [(Fault::Missing, true)]);
    assert!(m.check_silence(2_000).is_empty());
    assert_eq!(kinds(&m.update(2_100, 20.1).1), [(Fault::Missing, false)]);
    assert!(m.check_silence(i64::MAX).len() == 1 && m.update(i64::MIN, 1.0).1.is_empty());
    assert!(
        SensorMonitor::new(SensorLimits {
            min: Some(2.0),
            max: Some(1.0),
            ..Default::default()
        })
        .is_err()
    );
    let json = serde_json::to_string(&m).unwrap();
    assert_eq!(serde_json::from_str::<SensorMonitor>(&json).unwrap(), m);
}
