//! `cargo xtask bench`: owns which benchmark is run, never what it measures.

mod accuracy;
mod delivery;
mod drift;
mod infer;
pub(crate) mod peers;
mod process;
mod rollout;
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
    /// An LSTM's epoch beside PyTorch, and a whole retraining beside the usual Python stack.
    Train(train::TrainArgs),
    /// Forecasts of public series against their goals.
    Accuracy(accuracy::AccuracyArgs),
    /// A large fleet's memory and waits, and readings a second.
    Delivery(delivery::DeliveryArgs),
    /// False alarms, power and cost of drift checks, beside Evidently.
    Drift(drift::DriftArgs),
    /// Wrong, right and late verdicts on challengers of made fleets.
    Rollout(rollout::RolloutArgs),
}

pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    match &args.which {
        Which::Infer(args) => infer::run(args),
        Which::Train(args) => train::run(args),
        Which::Accuracy(args) => accuracy::run(args),
        Which::Delivery(args) => delivery::run(args),
        Which::Drift(args) => drift::run(args),
        Which::Rollout(args) => rollout::run(args),
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
