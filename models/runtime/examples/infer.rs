//! Our side of `cargo xtask bench infer`: owns the measured models and how they are timed here, never what is made of the times.
//!
//! `infer write DIR` writes models, windows and our outputs; `infer time DIR MODEL ENGINE CALLS` and `infer memory DIR MODEL ENGINE`
//! measure one of them, with ENGINE `fused` or `tract`, and print JSON.

#[path = "../tests/cases/mod.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod cases;

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use cases::Random;
use fieldcast_features::{ForecasterSpec, Window, calendar};
use fieldcast_onnx::build;
use fieldcast_runtime::{LoadedModel, Prediction, load_fused, load_plain};
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto};

/// Different windows, taken in turn.
const WINDOWS: usize = 16;
/// Forecasts after which a process has all the memory it needs.
const SETTLED: usize = 50;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["write", dir] => write(Path::new(dir)),
        ["time", dir, model, engine, calls] => time(Path::new(dir), model, engine, calls.parse()?),
        ["memory", dir, model, engine] => memory(Path::new(dir), model, engine),
        _ => Err("infer write DIR | time DIR MODEL ENGINE CALLS | memory DIR MODEL ENGINE".into()),
    }
}

fn windows(spec: &ForecasterSpec) -> Vec<Window> {
    let mut random = Random::new(5);
    let (t, f, k) = (spec.lookback, spec.inputs.len(), calendar::width(spec));
    let mut values = |n: usize, centre: f64| -> Vec<f64> {
        (0..n).map(|_| centre + 10.0 * random.next()).collect()
    };
    (0..WINDOWS)
        .map(|_| Window {
            origin: 0,
            lookback: t,
            inputs: f,
            window: values(t * f, 20.0),
            horizon: spec.horizon,
            future_width: k,
            future: values(spec.horizon * k, 0.0),
        })
        .collect()
}

fn write(dir: &Path) -> Result<(), Box<dyn Error>> {
    let mut index = Vec::new();
    for case in cases::large() {
        let (name, spec, params) = (case.name, case.spec, case.params);
        let onnx = build(&params, &[])?;
        let model = load_fused(&onnx, &spec)?;
        let mut columns: [Vec<f64>; 4] = Default::default();
        for window in windows(&spec) {
            let found = model.forecast(&window)?;
            let values = [
                &window.window,
                &window.future,
                &found.mean,
                &found.quantiles,
            ];
            for (column, values) in columns.iter_mut().zip(values) {
                column.extend_from_slice(values);
            }
        }
        for (column, of) in columns
            .iter()
            .zip(["window", "future", "mean", "quantiles"])
        {
            let bytes: Vec<u8> = column.iter().flat_map(|v| v.to_le_bytes()).collect();
            std::fs::write(dir.join(format!("{name}.{of}.f64")), bytes)?;
        }
        std::fs::write(dir.join(format!("{name}.onnx")), &onnx)?;
        std::fs::write(dir.join(format!("{name}.call.onnx")), only_a_call(&onnx)?)?;
        let s = params.shape();
        index.push(serde_json::json!({
            "name": name, "windows": WINDOWS, "lookback": s.lookback, "inputs": s.inputs, "horizon": s.horizon,
            "future_width": s.future_width, "quantiles": s.quantiles, "train_dev": case.train_dev,
        }));
    }
    std::fs::write(dir.join("models.json"), serde_json::to_vec(&index)?)?;
    Ok(())
}

/// A graph with the same inputs that does nothing with them: what a call costs by itself.
fn only_a_call(onnx: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    use prost::Message;
    let mut file = ModelProto::decode(onnx)?;
    let graph = file.graph.take().unwrap_or_default();
    let pass = |(input, output): (&str, &str)| NodeProto {
        op_type: "Identity".into(),
        name: output.into(),
        input: vec![input.into()],
        output: vec![output.into()],
        ..Default::default()
    };
    let mut outputs = graph.input.clone();
    for (output, name) in outputs.iter_mut().zip(["mean", "quantiles"]) {
        output.name = name.into();
    }
    file.graph = Some(GraphProto {
        name: "call".into(),
        node: [("window", "mean"), ("future", "quantiles")]
            .map(pass)
            .into(),
        input: graph.input,
        output: outputs,
        ..Default::default()
    });
    Ok(file.encode_to_vec())
}

fn load(
    dir: &Path,
    name: &str,
    engine: &str,
) -> Result<(LoadedModel, Vec<Window>), Box<dyn Error>> {
    let onnx = std::fs::read(dir.join(format!("{name}.onnx")))?;
    let found = cases::large().into_iter().find(|case| case.name == name);
    let spec = found.ok_or("there is no such model")?.spec;
    let model = match engine {
        "fused" => load_fused(&onnx, &spec)?,
        "tract" => load_plain(&onnx, &spec)?,
        _ => return Err("ENGINE is `fused` or `tract`".into()),
    };
    Ok((model, windows(&spec)))
}

fn time(dir: &Path, name: &str, engine: &str, calls: usize) -> Result<(), Box<dyn Error>> {
    let (model, windows) = load(dir, name, engine)?;
    let mut out = Prediction::default();
    let mut times = Vec::with_capacity(calls);
    for window in windows.iter().cycle().take(calls) {
        let start = Instant::now();
        model.forecast_into(window, &mut out)?;
        times.push(u64::try_from(start.elapsed().as_nanos())?);
    }
    times.sort_unstable();
    let median = times.get(calls / 2).ok_or("CALLS is at least 1")?;
    println!(
        "{}",
        serde_json::json!({"min_ns": times[0], "median_ns": median})
    );
    Ok(())
}

fn memory(dir: &Path, name: &str, engine: &str) -> Result<(), Box<dyn Error>> {
    let before = resident()?;
    let (model, windows) = load(dir, name, engine)?;
    let mut out = Prediction::default();
    for window in windows.iter().cycle().take(SETTLED) {
        model.forecast_into(window, &mut out)?;
    }
    let added = resident()?.saturating_sub(before);
    println!("{}", serde_json::json!({"before": before, "added": added}));
    Ok(())
}

/// Resident memory of this process, bytes.
fn resident() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kib = line.and_then(|l| l.split_whitespace().next());
    Ok(1024 * kib.ok_or("no VmRSS in /proc/self/status")?.parse::<u64>()?)
}
