//! Writes the test models with random windows and our own outputs, for comparison by `onnxruntime_check.py`; never reads anything.
//!
//! `cargo run -p fieldcast-runtime --example export_cases -- DIRECTORY [WINDOWS]`

#[path = "../tests/cases/mod.rs"]
mod cases;

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("name the directory to write to")?;
    let count: usize = arguments.next().map_or(Ok(1_000), |n| n.parse())?;
    let directory = Path::new(&directory);
    let mut index = Vec::new();
    for case in cases::all() {
        let onnx = fieldcast_onnx::build(&case.params, &[("case".into(), case.name.into())])?;
        let model = fieldcast_runtime::load_onnx(&onnx, &case.spec)?;
        let mut columns: [Vec<f64>; 4] = Default::default();
        for window in cases::windows(&case.spec, count) {
            let found = model.forecast(&window)?;
            for (column, values) in columns.iter_mut().zip([
                &window.window,
                &window.future,
                &found.mean,
                &found.quantiles,
            ]) {
                column.extend_from_slice(values);
            }
        }
        std::fs::write(directory.join(format!("{}.onnx", case.name)), onnx)?;
        for (column, name) in columns
            .iter()
            .zip(["window", "future", "mean", "quantiles"])
        {
            let bytes: Vec<u8> = column.iter().flat_map(|v| v.to_le_bytes()).collect();
            std::fs::write(directory.join(format!("{}.{name}.f64", case.name)), bytes)?;
        }
        let s = case.params.shape();
        index.push(serde_json::json!({
            "name": case.name, "train_dev": case.train_dev, "windows": count, "lookback": s.lookback,
            "inputs": s.inputs, "horizon": s.horizon, "future_width": s.future_width, "quantiles": s.quantiles,
        }));
    }
    std::fs::write(directory.join("cases.json"), serde_json::to_vec(&index)?)?;
    Ok(())
}
