//! Writes the test models with random windows and what fused kernels, tract and trainer make of them, for comparison by
//! `onnxruntime_check.py`; never reads anything.
//!
//! `export_cases DIRECTORY [WINDOWS]`; `cargo xtask conformance onnx` runs both.

#[path = "../tests/cases/mod.rs"]
mod cases;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use cases::{Case, Random};
use fieldcast_features::{FeatureRow, Preset};
use fieldcast_train::{Series, TrainConfig, TrainError, TrainingData, fit};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("name the directory to write to")?;
    let count: usize = arguments.next().map_or(Ok(1_000), |n| n.parse())?;
    let directory = Path::new(&directory);
    let mut index = Vec::new();
    let small = cases::all().into_iter().map(|case| (case, true));
    let more = cases::large().into_iter().chain([trained()?]);
    for (case, stored) in small.chain(more.map(|case| (case, false))) {
        let onnx = fieldcast_onnx::build(&case.params, &[("case".into(), case.name.into())])?;
        let fused = fieldcast_runtime::load_fused(&onnx, &case.spec)?;
        let tract = fieldcast_runtime::load_plain(&onnx, &case.spec)?;
        let mut columns: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for window in cases::windows(&case.spec, count) {
            let fused = fused.forecast(&window)?;
            let tract = tract.forecast(&window)?;
            let trainer = fieldcast_train::predict(&case.params, &window)?;
            for (column, values) in [
                ("window", &window.window),
                ("future", &window.future),
                ("fused.mean", &fused.mean),
                ("fused.quantiles", &fused.quantiles),
                ("tract.mean", &tract.mean),
                ("tract.quantiles", &tract.quantiles),
                ("trainer.mean", &trainer.mean),
                ("trainer.quantiles", &trainer.quantiles),
            ] {
                columns.entry(column).or_default().extend_from_slice(values);
            }
        }
        std::fs::write(directory.join(format!("{}.onnx", case.name)), onnx)?;
        for (name, column) in columns {
            let bytes: Vec<u8> = column.iter().flat_map(|v| v.to_le_bytes()).collect();
            std::fs::write(directory.join(format!("{}.{name}.f64", case.name)), bytes)?;
        }
        let s = case.params.shape();
        index.push(serde_json::json!({
            "name": case.name, "stored": stored, "train_dev": case.train_dev, "windows": count, "lookback": s.lookback,
            "inputs": s.inputs, "horizon": s.horizon, "future_width": s.future_width, "quantiles": s.quantiles,
        }));
    }
    std::fs::write(directory.join("cases.json"), serde_json::to_vec(&index)?)?;
    Ok(())
}

/// What training makes of made data: ridge and the heads beside it.
fn trained() -> Result<Case, TrainError> {
    let mut spec = cases::spec(Preset::Default, 48, 12);
    spec.quantiles = vec![0.025, 0.1, 0.5, 0.9, 0.975];
    let mut random = Random::new(5);
    let mut heat = 0.0_f64;
    let row = |hour: i64| {
        // A daily cycle whose height follows the heat, bent: ridge cannot learn all of it.
        heat = 0.97 * heat + 3.0 * random.next();
        let cycle = (std::f64::consts::TAU * (hour % 24) as f64 / 24.0).sin();
        let demand = 400.0 + 60.0 * cycle + 20.0 * heat.abs() + 10.0 * random.next();
        let (temperature, humidity) = (24.0 + heat, 60.0 + 20.0 * random.next());
        FeatureRow {
            time: hour * 3_600_000,
            values: vec![temperature, humidity, demand],
        }
    };
    let data = TrainingData {
        series: vec![Series {
            device: "made".into(),
            rows: (0..24 * 180).map(row).collect(),
            weight_from: None,
        }],
    };
    let config = TrainConfig {
        seeds: 2,
        max_epochs: 12,
        learning_rate: 5e-3,
        forest: false,
        ..TrainConfig::default()
    };
    let trained = fit(&spec, &data, &config, &mut |_| ControlFlow::Continue(()))?;
    let heads = trained.models.into_iter().find(|(name, _)| name == "lstm");
    Ok(Case {
        name: "trained",
        spec,
        params: heads.map_or(trained.params, |(_, params)| params),
        train_dev: trained.train_dev_target,
    })
}
