//! Writes the test models with random windows and what fused kernels, tract and trainer make of them, for comparison by
//! `onnxruntime_check.py`; never reads anything.
//!
//! `cargo run -p fieldcast-runtime --example export_cases -- DIRECTORY [WINDOWS]`

#[path = "../tests/cases/mod.rs"]
mod cases;

use std::collections::BTreeMap;
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("name the directory to write to")?;
    let count: usize = arguments.next().map_or(Ok(1_000), |n| n.parse())?;
    let directory = Path::new(&directory);
    let mut index = Vec::new();
    let small = cases::all().into_iter().map(|case| (case, false));
    let large = cases::large().into_iter().map(|case| (case, true));
    for (case, large) in small.chain(large) {
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
            "name": case.name, "large": large, "train_dev": case.train_dev, "windows": count, "lookback": s.lookback,
            "inputs": s.inputs, "horizon": s.horizon, "future_width": s.future_width, "quantiles": s.quantiles,
        }));
    }
    std::fs::write(directory.join("cases.json"), serde_json::to_vec(&index)?)?;
    Ok(())
}
