//! The figures of delivery that need real processes: owns which there are and how a line looks; each is a file of its own.

mod backlog;
mod bed;
mod durable;
mod fleet;
mod idle;
mod one_core;
mod usage;
mod week;

use anyhow::{Context, Result, ensure};

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Devices of the fleet.
    pub devices: u32,
    /// How long a figure of a rate is measured.
    pub seconds: u32,
}

type Measure = fn(&Plan) -> Result<()>;

const FIGURES: [(&str, Measure); 7] = [
    ("fleet", fleet::measure),
    ("fleet-mosquitto", fleet::over_mosquitto),
    ("one-core", one_core::measure),
    ("durable", durable::measure),
    ("idle", idle::measure),
    ("backlog", backlog::measure),
    ("week", week::measure),
];

/// Measures these figures, or all where none is named, and prints a line for each number.
///
/// # Errors
/// A name that is no figure's, or processes that do not do their work; then no line is printed.
pub fn run(names: &[String], plan: &Plan) -> Result<()> {
    for name in names {
        ensure!(
            FIGURES.iter().any(|(known, _)| known == name),
            "there is no figure `{name}`; there are {}",
            FIGURES.map(|(known, _)| known).join(", ")
        );
    }
    ensure!(
        plan.devices > 0 && plan.seconds > 0,
        "--devices and --seconds are at least 1"
    );
    for (name, measure) in FIGURES {
        if names.is_empty() || names.iter().any(|n| n == name) {
            measure(plan).with_context(|| format!("figure `{name}`"))?;
        }
    }
    Ok(())
}

/// `ratio` is to what `of` says.
fn line(name: &str, value: f64, unit: &str, ratio: f64, of: &str) {
    println!("{name:34}{value:>10.1} {unit:8}{ratio:>9.2}x {of}");
}
