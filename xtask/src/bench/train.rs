//! `cargo xtask bench train`: owns the figures of training and their goals, never a trainer; it runs an example of `models/train`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{median, peers, process};
use crate::command::{cargo, execute, output, root, target_dir};

const PACKAGES: &[&str] = &["torch==2.15.0", "numpy==2.4.6"];

/// Options of `bench train`.
#[derive(Debug, clap::Args)]
pub(crate) struct TrainArgs {
    /// Turns that ours and theirs take, one after the other.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// A line of the table.
struct Figure {
    name: &'static str,
    /// N, steps, input, hidden, output, batch.
    shape: [usize; 6],
    threads: usize,
    epochs: usize,
    /// `cpu_s` or `wall_s`.
    of: &'static str,
    goal: f64,
    aim: f64,
}

const CLASSIC: [usize; 6] = [700, 30, 2, 50, 1, 32];
const LARGE: [usize; 6] = [17_000, 48, 8, 64, 24, 128];

const FIGURES: &[Figure] = &[
    Figure {
        name: "train_classic_32_cpu",
        shape: CLASSIC,
        threads: 1,
        epochs: 20,
        of: "cpu_s",
        goal: 4.0,
        aim: 5.3,
    },
    Figure {
        name: "train_large_cpu",
        shape: LARGE,
        threads: 1,
        epochs: 2,
        of: "cpu_s",
        goal: 2.0,
        aim: 2.5,
    },
    Figure {
        name: "train_large_two_threads_wall",
        shape: LARGE,
        threads: 2,
        epochs: 2,
        of: "wall_s",
        goal: 2.5,
        aim: 4.0,
    },
];

pub(crate) fn run(args: &TrainArgs) -> Result<()> {
    ensure!(args.rounds > 0, "--rounds is at least 1");
    let python = peers::python("torch", PACKAGES)?;
    // With the features of the whole workspace, so that nothing is built twice.
    let parts = ["--example=epoch", "--bin=fieldcast-hub"];
    execute(
        cargo()?
            .args(["build", "--release", "--workspace"])
            .args(parts),
    )?;
    let ours = target_dir()?.join("release/examples/epoch");
    let script = root()?.join("xtask/src/bench/train.py");
    println!(
        "{:34}{:>10} {:8}{:>10} of what (goal; aim)",
        "figure", "value", "unit", "ratio"
    );
    for figure in FIGURES {
        figure.measure(args.rounds, &ours, (&python, &script))?;
    }
    process::run(args.rounds)
}

impl Figure {
    fn measure(
        &self,
        rounds: usize,
        ours: &PathBuf,
        (python, script): (&PathBuf, &PathBuf),
    ) -> Result<()> {
        let (mut own, mut peer) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            own.push(self.turn(&mut Command::new(ours))?);
            // What else the machine has for Python is none of a measurement's business.
            let mut theirs = Command::new(python);
            peer.push(self.turn(theirs.arg(script).env_remove("PYTHONPATH"))?);
        }
        let (own, peer) = (median(&mut own), median(&mut peer));
        println!(
            "{:34}{:>10.4} {:8}{:>9.2}x PyTorch {peer:.4} s an epoch ({}; {})",
            self.name,
            own,
            "s",
            peer / own,
            self.goal,
            self.aim
        );
        Ok(())
    }

    /// The quickest epoch of one process: what disturbs a turn only ever makes it slower.
    fn turn(&self, command: &mut Command) -> Result<f64> {
        let sizes = self.shape.iter().chain([&self.threads, &self.epochs]);
        let text = output(command.args(sizes.map(ToString::to_string)))?;
        let facts: Value = serde_json::from_str(&text)
            .with_context(|| format!("read `{}` of {}", text.trim(), self.name))?;
        let epochs = facts[self.of].as_array();
        let epochs = epochs.with_context(|| format!("`{}` is missing in {facts}", self.of))?;
        let least = epochs.iter().filter_map(Value::as_f64);
        Ok(least.fold(f64::INFINITY, f64::min))
    }
}
