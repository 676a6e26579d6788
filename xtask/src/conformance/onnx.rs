//! `cargo xtask conformance onnx`: owns the peers' versions and where models and windows lie meanwhile, never a forecast.

use std::process::Command;

use anyhow::{Context, Result};

use crate::bench::peers;
use crate::command::{cargo, execute, root, target_dir};

const PACKAGES: &[&str] = &["onnx==1.23.2", "onnxruntime==1.32.0", "numpy==2.4.6"];

/// Options of `conformance onnx`.
#[derive(Debug, clap::Args)]
pub(crate) struct OnnxArgs {
    /// Write the stored outputs of onnxruntime anew, to be read in the change's diff.
    #[arg(long)]
    bless: bool,
    /// Windows for each model: of eight kinds in turn.
    #[arg(long, default_value_t = 1_000)]
    windows: usize,
}

pub(crate) fn run(args: &OnnxArgs) -> Result<()> {
    let python = peers::python("onnx", PACKAGES)?;
    let target = target_dir()?;
    let dir = target.join("conformance/onnx");
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    // With the features of the whole workspace, so that nothing is built twice.
    execute(cargo()?.args(["build", "--workspace", "--example=export_cases"]))?;
    execute(
        Command::new(target.join("debug/examples/export_cases"))
            .arg(&dir)
            .arg(args.windows.to_string()),
    )?;
    let tests = root()?.join("models/runtime/tests");
    let mut check = Command::new(python);
    check.arg(tests.join("onnxruntime_check.py")).arg(&dir);
    if args.bless {
        check.arg(tests.join("fixtures/onnxruntime.json"));
    }
    // What else the machine has for Python is none of a comparison's business.
    execute(
        check
            .env_remove("PYTHONPATH")
            .env("PYTHONDONTWRITEBYTECODE", "1"),
    )
    .context(
        "compare with onnxruntime; what differs is named above, mend models/onnx or models/runtime",
    )
}
