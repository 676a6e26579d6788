//! A small seeded world for the unit tests: two devices, a daily cycle, a driver and holes.
#![allow(clippy::unwrap_used, reason = "tests")]

use fieldcast_features::{FeatureRow, ForecasterSpec};
use fieldcast_kernel::Rng;

use crate::{Series, TrainingData};

pub(crate) const HOUR_MS: i64 = 3_600_000;
/// Monday, 2024-01-01.
pub(crate) const START: i64 = 1_704_067_200_000;

pub(crate) fn spec() -> ForecasterSpec {
    serde_json::from_str(
        r#"{"name": "load", "target": "load", "inputs": ["load", "heat"], "period": "1h", "lookback": 48, "horizon": 6,
            "season": 12}"#,
    )
    .unwrap()
}

/// `days` of hourly rows of two devices; every 29th target and every 31st driver is missing, every 97th row absent.
pub(crate) fn data(days: usize, seed: u64) -> TrainingData {
    let mut rng = Rng::new(seed);
    let mut series = Vec::new();
    for (device, size) in [("north", 1.0), ("south", 30.0)] {
        let mut rows = Vec::new();
        let mut heat = 0.0_f64;
        for hour in 0..days * 24 {
            heat = 0.95 * heat + 0.3 * f64::from(rng.normal());
            let cycle = (std::f64::consts::TAU * (hour % 24) as f64 / 24.0).sin();
            let load = size * (5.0 + 2.0 * cycle + heat.max(0.0) + 0.2 * f64::from(rng.normal()));
            let values = vec![
                if hour % 29 == 7 { f64::NAN } else { load },
                if hour % 31 == 5 { f64::NAN } else { heat },
            ];
            if hour % 97 != 50 {
                rows.push(FeatureRow {
                    time: START + hour as i64 * HOUR_MS,
                    values,
                });
            }
        }
        series.push(Series {
            device: device.into(),
            rows,
            weight_from: None,
        });
    }
    TrainingData { series }
}
