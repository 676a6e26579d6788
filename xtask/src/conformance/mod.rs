//! `cargo xtask conformance`: owns which comparison with others' programs is made, never a number of ours.

pub(crate) mod drift;
mod onnx;

use anyhow::Result;

/// Options of `conformance`.
#[derive(Debug, clap::Args)]
pub(crate) struct ConformanceArgs {
    #[command(subcommand)]
    which: Which,
}

#[derive(Debug, clap::Subcommand)]
enum Which {
    /// Statistics and decisions of drift beside SciPy, Evidently and River.
    Drift(drift::DriftArgs),
    /// Forecasts of every kind of model beside onnxruntime, and the graphs before onnx's checker.
    Onnx(onnx::OnnxArgs),
}

pub(crate) fn run(args: &ConformanceArgs) -> Result<()> {
    match &args.which {
        Which::Drift(args) => drift::run(args),
        Which::Onnx(args) => onnx::run(args),
    }
}
