//! Inputs that stay and inputs that move, on generated weather; owns no product code.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use fieldcast_sim::{Period, SimSpec};
use fieldcast_wire::RecordBody;

use super::*;
use crate::pipeline::forecaster::tests::{slot, spec};
use crate::pipeline::forecaster::{Forecaster, Step, Stored};

const DAY_MS: Millis = 86_400_000;
const LEARNT: i64 = 365;

/// Hours of demand and temperature of one device.
fn rows(days: u32) -> Vec<FeatureRow> {
    let sim = SimSpec {
        seed: 5,
        start: 0,
        days,
        period: Period::Hour,
        devices: 1,
        changes: Vec::new(),
    };
    sim.rows(0)
        .map(|r| FeatureRow {
            time: r.time,
            values: vec![r.demand, r.temperature],
        })
        .collect()
}

fn split(rows: &[FeatureRow]) -> (&[FeatureRow], &[FeatureRow]) {
    rows.split_at(rows.partition_point(|r| r.time <= LEARNT * DAY_MS))
}

fn watch(learnt: &[FeatureRow], name: &[u8], device: &str) -> InputWatch {
    let spec = spec();
    let values = learnt.iter().map(|r| r.values.as_slice());
    let timed = learnt.iter().map(|r| (r.time, r.values.as_slice()));
    let reference = ReferenceStats::from_rows(&spec.channels(), values)
        .with_days(spec.period_ms(), &[("here", timed.collect())]);
    // As it comes out of a bundle.
    let bytes = serde_json::to_vec(&reference).unwrap();
    let reference: ReferenceStats = serde_json::from_slice(&bytes).unwrap();
    InputWatch::new(Sha256::of(name), 7, &spec, &reference, device)
}

/// Signals of days, the agent restarted each day.
fn signals(fresh: &InputWatch, rows: &[FeatureRow]) -> Vec<(usize, pb::DriftSignal)> {
    let mut all = all_signals(fresh, rows);
    all.retain(|(_, s)| s.detector != DETECTOR);
    all
}

/// Signals of days and of rows.
fn all_signals(fresh: &InputWatch, rows: &[FeatureRow]) -> Vec<(usize, pb::DriftSignal)> {
    let mut watch = fresh.clone();
    let mut out = Vec::new();
    for row in rows {
        out.extend(watch.add(row));
        if row.time % DAY_MS == DAY_MS / 2 {
            let kept = serde_json::to_vec(&watch).unwrap();
            assert!(kept.len() < 4_000, "{} bytes", kept.len());
            watch = fresh.clone().after(serde_json::from_slice(&kept).unwrap());
        }
    }
    out
}

#[test]
fn a_quiet_year_says_nothing_and_a_sensor_that_shifts_is_told_once_over_restarts() {
    let all = rows(2 * 365);
    let (learnt, live) = split(&all);
    let fresh = watch(learnt, b"x", "here");
    assert_eq!(signals(&fresh, live), []);
    let (from, until) = ((LEARNT + 60) * DAY_MS, (LEARNT + 160) * DAY_MS);
    let mut shifted = live.to_vec();
    let during = |r: &&mut FeatureRow| r.time > from && r.time <= until;
    for row in shifted.iter_mut().filter(during) {
        row.values[1] += 8.0;
    }
    let found = signals(&fresh, &shifted);
    let told: Vec<_> = found
        .iter()
        .map(|(input, s)| (*input, s.raised, s.detector.as_str()))
        .collect();
    let name = "cusum_daily_mean";
    assert_eq!(told, [(1, true, name), (1, false, name)], "{found:?}");
    let raised = &found[0].1;
    assert_eq!(raised.kind, pb::DriftKind::Covariate as i32);
    assert!(raised.time_ms > from && raised.time_ms <= from + 35 * DAY_MS);
    assert!((raised.onset_ms - from).abs() <= 7 * DAY_MS, "{raised:?}");
    assert!(raised.severity > 1.5 && raised.statistic > raised.threshold);
    assert!(found[1].1.time_ms > until);
    // A device that the bundle does not know learns its own level first.
    let found = signals(&watch(learnt, b"x", "elsewhere"), &shifted);
    assert_eq!(found.iter().filter(|(_, s)| s.raised).count(), 1);
}

#[test]
fn another_bundle_begins_anew_and_one_without_days_watches_nothing() {
    let all = rows(480);
    let (learnt, live) = split(&all);
    let mut broken = live.to_vec();
    broken.iter_mut().for_each(|r| r.values[1] += 12.0);
    let mut old = watch(learnt, b"x", "here");
    let mut told: Vec<_> = broken.iter().flat_map(|r| old.add(r)).collect();
    told.retain(|(_, s)| s.detector != DETECTOR);
    assert_eq!(told.len(), 1);
    assert_eq!(old.raised().collect::<Vec<_>>(), [1]);
    assert_eq!(watch(learnt, b"x", "here").after(old.clone()), old);
    let new = watch(learnt, b"y", "here");
    assert_eq!(new.clone().after(old), new);
    let silent = ReferenceStats::default();
    let mut silent = InputWatch::new(Sha256::of(b"x"), 1, &spec(), &silent, "here");
    assert!(broken.iter().all(|r| silent.add(r).is_empty()));
}

#[test]
fn a_forecaster_names_the_sensor_and_goes_on_after_a_restart() {
    let all = rows(410);
    let (learnt, live) = split(&all);
    let make = || {
        let mut f = Forecaster::new(spec()).unwrap();
        f.set_active(Some(slot("x", 1.0)));
        f
    };
    let feed = |f: &mut Forecaster, rows: &[FeatureRow]| {
        let mut step = Step::default();
        for row in rows {
            f.reading("sold", row.time, row.values[0] + 200.0);
            f.reading("temperature", row.time, row.values[1]);
            f.advance(&mut step);
        }
        step
    };
    let drifts = |step: &Step| -> Vec<pb::DriftSignal> {
        let drift = |r: &RecordBody| match r {
            RecordBody::Drift(d) if d.detector != DETECTOR => Some(d.clone()),
            _ => None,
        };
        step.records.iter().filter_map(drift).collect()
    };
    let error_watch = || super::super::drift::ErrorWatch::new(Sha256::of(b"x"), 7, DAY_MS, None);
    let mut f = make();
    f.watch(error_watch(), watch(learnt, b"x", "here"));
    let first = feed(&mut f, &live[..24 * 5]);
    assert_eq!(drifts(&first), []);
    let state: std::collections::BTreeMap<_, _> = first.state.into_iter().collect();
    let mut f = make();
    f.restore(&Stored {
        kept: state.get(&Forecaster::state_key("demand")).cloned(),
        ..Stored::default()
    });
    f.watch(error_watch(), watch(learnt, b"x", "here"));
    let found = drifts(&feed(&mut f, &live[24 * 5..]));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        (found[0].sensor.as_str(), found[0].forecaster.as_str()),
        ("sold", "demand")
    );
    assert!(found[0].onset_ms <= (LEARNT + 3) * DAY_MS, "{found:?}");
    assert_eq!(f.drifting_inputs(), ["sold"]);
    // Without a bundle there is nothing that they could differ from.
    f.set_active(None);
    assert!(f.drifting_inputs().is_empty());
}

#[test]
fn a_sudden_shift_is_told_within_two_weeks_and_a_quiet_year_is_called_one_about_once_a_month() {
    let all = rows(2 * 365);
    let (learnt, live) = split(&all);
    let fresh = watch(learnt, b"x", "here");
    let told = |rows: &[FeatureRow]| {
        let mut found = all_signals(&fresh, rows);
        found.retain(|(_, s)| s.detector == DETECTOR && s.raised);
        found
    };
    let quiet = told(live).len();
    assert!(quiet <= 24, "{quiet} in a year of two inputs");
    let mut shifted = Vec::new();
    let mut found = 0;
    for day in [60, 100, 140, 180] {
        let from = (LEARNT + day) * DAY_MS;
        shifted = live.to_vec();
        let after = |r: &&mut FeatureRow| r.time > from;
        shifted
            .iter_mut()
            .filter(after)
            .for_each(|r| r.values[1] += 8.0);
        let near = |s: &pb::DriftSignal| s.time_ms > from && s.time_ms <= from + 14 * DAY_MS;
        let all = told(&shifted);
        let first = all.iter().find(|(input, s)| *input == 1 && near(s));
        let moved = |s: &pb::DriftSignal| (0.5..8.0).contains(&s.severity);
        found += usize::from(first.is_some_and(|(_, s)| moved(s)));
    }
    // One that falls into a false alarm, which stands for a week, is not told anew.
    assert!(found >= 3, "{found} of 4");
    // Of a device that the bundle does not know nobody knows where its rows lie.
    let mut stranger = all_signals(&watch(learnt, b"x", "elsewhere"), &shifted);
    stranger.retain(|(_, s)| s.detector == DETECTOR);
    assert_eq!(stranger, []);
}
