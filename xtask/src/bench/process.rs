//! The retraining figure of `cargo xtask bench train`: owns whole processes from CSV to model, never what happens inside one.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use super::peers;
use super::series::{Table, write};
use crate::command::{output, root, target_dir};

const PACKAGES: &[&str] = &[
    "torch==2.15.0",
    "numpy==2.4.6",
    "pandas<3",
    "scikit-learn==1.7.2",
];
/// As many hours as the system that is replaced had rows.
const ROWS: usize = 730;

/// Measures one retraining from CSV to a file that forecasts, `rounds` times in turn, and prints the medians. The release build
/// is there.
pub(super) fn run(rounds: usize) -> Result<()> {
    let data = std::env::var_os("FIELDCAST_DATA")
        .context("set FIELDCAST_DATA to the folder of the public series")?;
    let python = peers::python("stack", PACKAGES)?;
    let dir = target_dir()?.join("bench-train");
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let csv = dir.join("hours.csv");
    cut(&Path::new(&data).join("ETTh1.csv"), &csv)?;
    let spec = dir.join("classic.json");
    let definition = serde_json::json!({"name": "classic", "target": "OT", "inputs": ["HUFL", "HULL"], "period": "1h",
        "lookback": 30, "horizon": 1, "preset": "classic"});
    std::fs::write(&spec, definition.to_string())
        .with_context(|| format!("write {}", spec.display()))?;
    let script = root()?.join("xtask/src/bench/process.py");
    let hub = target_dir()?.join("release/fieldcast-hub");
    let (mut own, mut peer) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let mut ours = Command::new(&hub);
        ours.args(["--json", "backtest", "--csv"]).arg(&csv);
        ours.arg("--forecaster")
            .arg(&spec)
            .arg("--onnx")
            .arg(dir.join("model.onnx"));
        own.push(seconds(&mut ours)?);
        // What else the machine has for Python is none of a measurement's business.
        let mut theirs = Command::new(&python);
        theirs.arg(&script).arg(&csv).arg(dir.join("model.pt"));
        peer.push(seconds(theirs.env_remove("PYTHONPATH"))?);
    }
    let (own, peer) = (super::median(&mut own), super::median(&mut peer));
    println!(
        "{:34}{own:>10.4} {:8}{:>9.2}x pandas, scikit-learn and PyTorch {peer:.3} s (20; 100)",
        "train_process_wall",
        "s",
        peer / own
    );
    Ok(())
}

fn seconds(command: &mut Command) -> Result<f64> {
    let began = Instant::now();
    output(command)?;
    Ok(began.elapsed().as_secs_f64())
}

/// The first hours of ETTh1, without a gap.
fn cut(from: &Path, to: &Path) -> Result<()> {
    let mut table = Table::read(from)?;
    table.truncate(ROWS);
    let columns = ["OT", "HUFL", "HULL"].map(|name| Ok((name, table.numbers(name)?)));
    let columns = columns.into_iter().collect::<Result<Vec<_>>>()?;
    write(to, &table.text("date")?, &columns)
}
