//! What judging a fleet costs in memory: alone in its process, as the peak is the process's.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::convert::Infallible;

use fieldcast_features::{FeatureRow, ForecasterSpec, Window};
use fieldcast_train::evaluate::{self, Cases};
use fieldcast_train::{Prediction, Series, TrainingData};

const HOUR_MS: i64 = 3_600_000;
const START: i64 = 1_704_067_200_000;
const DEVICES: usize = 30;
const HOURS: i64 = 1_200;

/// Most memory so far, bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<usize>().unwrap() * 1024
}

#[test]
fn a_fleet_is_judged_in_a_fraction_of_the_memory_of_its_windows() {
    let spec: ForecasterSpec = serde_json::from_str(
        r#"{"name": "load", "target": "load", "inputs": ["load", "heat"], "period": "1h", "lookback": 168, "horizon": 24}"#,
    )
    .unwrap();
    let rows = |device: usize| {
        let row = move |hour: i64| FeatureRow {
            time: START + hour * HOUR_MS,
            values: vec![(hour % 24) as f64 + device as f64, (hour % 7) as f64],
        };
        (0..HOURS).map(row).collect()
    };
    let series = (0..DEVICES).map(|i| Series {
        device: format!("device-{i}"),
        rows: rows(i),
        weight_from: None,
    });
    let data = TrainingData {
        series: series.collect(),
    };
    let forecast = |w: &Window| {
        let mean = w
            .window
            .iter()
            .rev()
            .skip(1)
            .step_by(2)
            .take(w.horizon)
            .copied();
        let mean: Vec<f64> = mean.collect();
        let quantiles = mean.iter().flat_map(|m| [m - 1.0, *m, m + 1.0]).collect();
        Ok::<_, Infallible>(Prediction { mean, quantiles })
    };
    let levels = [0.1, 0.5, 0.9];
    let cases = Cases::new(&spec, &data, (START, i64::MAX), 1).unwrap();
    let one = cases.iter().next().unwrap();
    let each = 8 * (one.window.window.len() + one.window.future.len() + one.actual.len());
    let before = peak();
    let scores = evaluate::backtest(cases.iter(), &levels, forecast).unwrap();
    let daily = evaluate::daily_errors(cases.iter(), &data, HOUR_MS, forecast).unwrap();
    let widths = evaluate::width_errors(cases.iter(), &data, &levels, forecast).unwrap();
    assert!(widths.is_some() && daily.days > 30);
    let (grown, whole) = (peak() - before, each * scores.windows);
    assert!(whole > 100_000_000, "{whole}: too little to tell");
    assert!(grown < whole / 20, "grown by {grown} of {whole}");
}
