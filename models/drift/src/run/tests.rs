//! Tests of the run time: owns made series, no product code.

use super::*;
use crate::window::random::Random;

fn slow(random: &mut Random, phi: f64, n: usize) -> Vec<f64> {
    let mut x = 0.0;
    let mut next = || {
        x = phi * x + random.normal();
        x
    };
    (0..n + 200).map(|_| next()).skip(200).collect()
}

fn seasonal(values: &[f64], first: i64) -> Vec<f64> {
    let at = |i: usize| 8.0 * ((i as f64 + first as f64) / 24.0 * std::f64::consts::TAU).sin();
    let each = values.iter().enumerate();
    each.map(|(i, v)| v + at(i)).collect()
}

fn options(run_length: f64, season: usize) -> RunOptions {
    RunOptions {
        run_length,
        season,
        ..RunOptions::default()
    }
}

#[test]
fn the_run_time_asked_for_is_the_one_there_is() {
    let mut random = Random::new(3);
    let mut ratios = Vec::new();
    for _ in 0..9 {
        let all = slow(&mut random, 0.9, 8_760 + 60_000);
        let all = seasonal(&all, -5);
        let reference = RunReference::fit(&all[..8_760], -5, &options(240.0, 24)).unwrap();
        assert_eq!(reference.lags(), 1);
        reference.validate().unwrap();
        let mut monitor = RunMonitor::default();
        let fresh = all[8_760..].iter().zip(8_755..);
        let alarms = fresh
            .filter_map(|(v, row)| monitor.update(&reference, row, *v))
            .count();
        ratios.push(60_000.0 / alarms as f64 / 240.0);
    }
    ratios.sort_by(f64::total_cmp);
    assert!((0.8..1.25).contains(&ratios[4]), "{ratios:?}");
}

#[test]
fn a_shift_is_found_dated_and_measured() {
    let mut random = Random::new(5);
    let mut all = slow(&mut random, 0.5, 9_000);
    for v in &mut all[8_500..] {
        *v += 4.0;
    }
    let reference = RunReference::fit(&all[..8_000], 0, &options(5_000.0, 0)).unwrap();
    let mut monitor = RunMonitor::default();
    let mut events = (8_000..).zip(&all[8_000..]);
    let event = events
        .find_map(|(row, v)| monitor.update(&reference, row, *v))
        .unwrap();
    assert!((8_500..8_540).contains(&event.row), "{event:?}");
    assert!((8_490..8_515).contains(&event.onset), "{event:?}");
    assert!((2.0..7.0).contains(&event.shift), "{event:?}");
    let down: Vec<f64> = all.iter().map(|v| -v).collect();
    let mut events = (8_000..).zip(&down[8_000..]);
    let reference = RunReference::fit(&down[..8_000], 0, &options(5_000.0, 0)).unwrap();
    let mut monitor = RunMonitor::default();
    let event = events
        .find_map(|(row, v)| monitor.update(&reference, row, *v))
        .unwrap();
    assert!(event.shift < -2.0, "{event:?}");
}

#[test]
fn residuals_of_the_stream_are_those_of_the_reference() {
    let mut random = Random::new(7);
    let mut all = seasonal(&slow(&mut random, 0.8, 2_000), 3);
    all[700] = f64::NAN;
    all[701] = f64::INFINITY;
    let grid = Grid {
        slots: (0..2_000).map(|i| slot(i + 3, 24)).collect(),
        breaks: Vec::new(),
    };
    let left = Whitener::fit(&all, &grid).apply(&all, &grid);
    let reference = RunReference::fit(&all, 3, &options(500.0, 24)).unwrap();
    let mut past = Vec::new();
    for (i, value) in all.iter().enumerate() {
        let row = i as i64 + 3;
        if !value.is_finite() {
            past.clear();
            continue;
        }
        let flat = value - reference.mean(row);
        if past.len() >= reference.lags() {
            let newest: Vec<f64> = past.iter().rev().copied().collect();
            let z = reference.residual(row, flat, &newest).unwrap();
            let known = clipped(left[i], reference.center, reference.deviation) - reference.offset;
            assert!((z - known).abs() < 1e-9, "{row}");
        } else {
            assert!(left[i].is_nan());
        }
        past.push(flat);
    }
}

#[test]
fn missing_rows_and_old_ones_change_no_sum_and_are_not_bridged() {
    let mut random = Random::new(9);
    let all = slow(&mut random, 0.9, 3_000);
    let reference = RunReference::fit(&all, 0, &RunOptions::default()).unwrap();
    let mut monitor = RunMonitor::default();
    for (row, v) in (0..50).zip(&all) {
        monitor.update(&reference, row, *v);
    }
    let before = monitor.clone();
    monitor.update(&reference, 49, 1e6);
    monitor.update(&reference, 3, -1e6);
    assert_eq!(monitor, before);
    for (row, v) in [(50, f64::NAN), (51, f64::INFINITY), (52, f64::MAX)] {
        assert_eq!(monitor.update(&reference, row, v), None);
    }
    assert_eq!(monitor.sums, before.sums);
    monitor.update(&reference, 53, 1e3);
    assert_eq!(
        monitor.sums, before.sums,
        "nothing is known of the row before"
    );
    let mut other = before.clone();
    other.update(&reference, 60, 1e3);
    assert_eq!(other.sums, before.sums, "rows were left out");
    // A single wild value is clipped, and does not alarm.
    let mut wild = before;
    assert_eq!(wild.update(&reference, 50, 1e140), None);
    assert_eq!(wild.update(&reference, i64::MAX, 0.0), None);
    assert_eq!(wild.update(&reference, i64::MAX, 0.0), None);
}

#[test]
fn state_is_small_and_goes_on_where_it_was() {
    let mut random = Random::new(11);
    let all = seasonal(&slow(&mut random, 0.7, 6_000), 0);
    let reference = RunReference::fit(&all[..3_000], 0, &options(100.0, 24)).unwrap();
    let again = RunReference::fit(&all[..3_000], 0, &options(100.0, 24)).unwrap();
    assert_eq!(reference, again, "the seed decides");
    let text = serde_json::to_string(&reference).unwrap();
    let carried: RunReference = serde_json::from_str(&text).unwrap();
    let (mut one, mut two) = (RunMonitor::default(), RunMonitor::default());
    let mut alarms = 0;
    for (row, v) in (3_000..).zip(&all[3_000..]) {
        let event = one.update(&reference, row, *v);
        assert_eq!(event, two.update(&carried, row, *v));
        alarms += usize::from(event.is_some());
        let text = serde_json::to_string(&two).unwrap();
        two = serde_json::from_str(&text).unwrap();
    }
    assert!(alarms > 5 && one == two);
    assert!(size_of::<RunMonitor>() <= 192);
}

#[test]
fn what_cannot_be_learnt_from_is_refused_with_a_reason() {
    let mut random = Random::new(13);
    let good = slow(&mut random, 0.5, 1_000);
    let day: Vec<f64> = (0..1_000).map(|i| f64::from(i % 24)).collect();
    let says = |values: &[f64], options: RunOptions| {
        RunReference::fit(values, 0, &options)
            .unwrap_err()
            .to_string()
    };
    for (text, error) in [
        (
            "a constant says nothing",
            says(&[1e6 + 0.1; 1_000], options(720.0, 0)),
        ),
        (
            "a constant says nothing",
            says(&[0.0; 1_000], options(720.0, 24)),
        ),
        ("a constant says nothing", says(&day, options(720.0, 24))),
        ("200 rows", says(&good[..150], options(720.0, 0))),
        ("200 rows", says(&[f64::NAN; 1_000], options(720.0, 0))),
        ("200 rows", says(&[], options(720.0, 24))),
        ("four whole seasons", says(&good, options(720.0, 400))),
        ("run_length must be", says(&good, options(f64::NAN, 0))),
        ("season must have", says(&good, options(720.0, usize::MAX))),
        (
            "k must be",
            says(
                &good,
                RunOptions {
                    k: 0.0,
                    ..RunOptions::default()
                },
            ),
        ),
    ] {
        assert!(error.contains(text), "{error}");
    }
    let mut broken = RunReference::fit(&good, 0, &RunOptions::default()).unwrap();
    broken.weights.clear();
    assert!(broken.validate().is_err());
    assert_eq!(RunMonitor::default().update(&broken, 0, 1.0), None);
    broken.weights = vec![0.1; 40];
    assert!(broken.validate().is_err());
    assert_eq!(RunMonitor::default().update(&broken, 0, 1.0), None);
}
