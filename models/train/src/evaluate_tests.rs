//! Scores against values worked out by hand.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::convert::Infallible;

use super::*;

const DAY_MS: Millis = 86_400_000;

fn case(origin: Millis, actual: [f64; 2]) -> Case {
    let window = Window {
        origin,
        lookback: 1,
        inputs: 1,
        window: vec![0.0],
        horizon: 2,
        future_width: 0,
        future: vec![],
    };
    Case {
        series: 0,
        window,
        observed: 1.0,
        actual: actual.to_vec(),
        mase_unit: 2.0,
    }
}

#[test]
fn every_measure_has_its_textbook_value() {
    let cases = [case(0, [10.0, 20.0]), case(DAY_MS, [14.0, f64::NAN])];
    // Mean 11 and 20, interval [9, 13] and [19, 21] at levels 0.1 and 0.9; the median is one below the mean.
    let forecast = |_: &Window| {
        let quantiles = vec![9.0, 10.0, 13.0, 19.0, 19.0, 21.0];
        Ok::<_, Infallible>(Prediction {
            mean: vec![11.0, 20.0],
            quantiles,
        })
    };
    let scores = backtest(&cases, &[0.1, 0.5, 0.9], forecast).unwrap();
    assert_eq!((scores.windows, scores.points), (2, 3));
    assert!((scores.mae - (0.0 + 1.0 + 4.0) / 3.0).abs() < 1e-12);
    assert!((scores.rmse - f64::sqrt((1.0 + 0.0 + 9.0) / 3.0)).abs() < 1e-12);
    assert!((scores.mase - scores.mae / 2.0).abs() < 1e-12);
    assert!((scores.smape - (0.0 + 2.0 / 39.0 + 8.0 / 24.0) / 3.0).abs() < 1e-12);
    assert!(
        (scores.per_horizon[1].mae - 1.0).abs() < 1e-12
            && (scores.per_horizon[0].rmse - f64::sqrt(5.0)).abs() < 1e-12
    );
    let second = &scores.per_horizon[1];
    assert!((second.mase - 0.5).abs() < 1e-12 && (second.smape - 2.0 / 39.0).abs() < 1e-12);
    assert_eq!(second.coverage, [1.0]);
    assert!((second.wql - 2.0 * (0.1 + 0.5 + 0.1) / 3.0 / 20.0).abs() < 1e-12);
    assert!((scores.wql - 2.0 * scores.pinball * 3.0 / 44.0).abs() < 1e-12);
    let interval = scores.intervals[0];
    assert!(
        (interval.coverage - 2.0 / 3.0).abs() < 1e-12
            && (interval.width - 10.0 / 3.0).abs() < 1e-12
    );
    // 14 lies one above 13: 2 / 0.2 times 1.
    assert!(
        (interval.score - (10.0 + 10.0) / 3.0).abs() < 1e-9,
        "{interval:?}"
    );
    assert_eq!(scores.origin_losses, [(0, 0.25), (DAY_MS, 2.0)]);
    let pinball = (0.1 + 0.0 + 0.3) + (0.1 + 0.5 + 0.1) + (0.5 + 2.0 + 0.9);
    assert!(
        (scores.pinball - pinball / 9.0).abs() < 1e-12,
        "{}",
        scores.pinball
    );
}

#[test]
fn the_worst_month_shows_what_the_mean_hides() {
    // Sixty good days, then ten whose interval misses.
    let cases: Vec<Case> = (0..70)
        .map(|d| case(d * DAY_MS, [if d < 60 { 0.0 } else { 9.0 }; 2]))
        .collect();
    let forecast = |_: &Window| {
        Ok::<_, Infallible>(Prediction {
            mean: vec![0.0; 2],
            quantiles: vec![-1.0, 0.0, 1.0, -1.0, 0.0, 1.0],
        })
    };
    let scores = backtest(&cases, &[0.1, 0.5, 0.9], forecast).unwrap();
    assert!((scores.intervals[0].coverage - 60.0 / 70.0).abs() < 1e-12);
    assert!((scores.intervals[0].worst_coverage - 20.0 / 30.0).abs() < 1e-12);
}
