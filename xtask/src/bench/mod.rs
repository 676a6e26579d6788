//! `cargo xtask bench`: owns which benchmark is run, never what it measures.

mod infer;
mod peers;
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
}

pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    match &args.which {
        Which::Infer(args) => infer::run(args),
        Which::Train(args) => train::run(args),
    }
}
