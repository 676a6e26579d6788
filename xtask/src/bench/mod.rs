//! `cargo xtask bench`: owns which benchmark is run, never what it measures.

mod accuracy;
mod series;

use anyhow::Result;

/// Options of `bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    which: Which,
}

#[derive(Debug, clap::Subcommand)]
enum Which {
    /// Forecasts of public series against their goals.
    Accuracy(accuracy::AccuracyArgs),
}

pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    match &args.which {
        Which::Accuracy(args) => accuracy::run(args),
    }
}
