//! `cargo xtask bench`: owns which benchmark is run, never what it measures.

mod accuracy;
mod infer;
mod peers;
mod series;
mod train;

use anyhow::Result;

/// Options of `bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    which: Which,
}

#[derive(Debug, clap::Subcommand)]
enum Which {
    /// One window's latency and a model's memory, beside onnxruntime.
    Infer(infer::InferArgs),
    /// An LSTM's epoch beside PyTorch.
    Train(train::TrainArgs),
    /// Forecasts of public series against their goals.
    Accuracy(accuracy::AccuracyArgs),
}

pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    match &args.which {
        Which::Infer(args) => infer::run(args),
        Which::Train(args) => train::run(args),
        Which::Accuracy(args) => accuracy::run(args),
    }
}
