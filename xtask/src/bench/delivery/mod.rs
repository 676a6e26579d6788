//! `cargo xtask bench delivery`: owns which figures of delivery there are and how a line looks; each figure is a file of its own.

mod bytes;
mod fleet;
mod hub;
mod one_core;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::command::{cargo, execute, target_dir};

/// Options of `bench delivery`.
#[derive(Debug, clap::Args)]
pub(crate) struct DeliveryArgs {
    /// Only these figures; by default all. May be given again.
    #[arg(long = "figure", value_name = "NAME")]
    figures: Vec<String>,
    /// Devices of the fleet.
    #[arg(long, default_value_t = 5_000)]
    devices: u32,
    /// How long each figure is measured.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// With the unoptimised build: tells whether a figure works, not how large it is.
    #[arg(long)]
    debug: bool,
}

/// What a figure is measured with.
struct Bench {
    hub: PathBuf,
    dir: PathBuf,
    devices: u32,
    seconds: u32,
}

type Measure = fn(&Bench) -> Result<()>;

const FIGURES: &[(&str, Measure)] = &[
    ("fleet", fleet::measure),
    ("one-core", one_core::measure),
    ("bytes", bytes::measure),
];

pub(crate) fn run(args: &DeliveryArgs) -> Result<()> {
    let names: Vec<&str> = FIGURES.iter().map(|(name, _)| *name).collect();
    for name in &args.figures {
        ensure!(
            names.contains(&name.as_str()),
            "there is no figure `{name}`; there are {}",
            names.join(", ")
        );
    }
    ensure!(
        args.devices > 0 && args.seconds > 0,
        "--devices and --seconds are at least 1"
    );
    // With the features of the whole workspace, so that nothing is built twice.
    let mut build = cargo()?;
    build.args(["build", "--workspace", "--bin=fieldcast-hub"]);
    let profile = if args.debug {
        "debug"
    } else {
        build.arg("--release");
        "release"
    };
    execute(&mut build)?;
    let target = target_dir()?;
    let bench = Bench {
        hub: target.join(profile).join("fieldcast-hub"),
        dir: target.join("bench-delivery"),
        devices: args.devices,
        seconds: args.seconds,
    };
    std::fs::create_dir_all(&bench.dir)
        .with_context(|| format!("create {}", bench.dir.display()))?;
    println!(
        "{:34}{:>10} {:8}{:>10} to what (goal; aim)",
        "figure", "value", "unit", "ratio"
    );
    for (name, measure) in FIGURES {
        if args.figures.is_empty() || args.figures.iter().any(|f| f == name) {
            measure(&bench).with_context(|| format!("figure `{name}`"))?;
        }
    }
    Ok(())
}

fn line(name: &str, value: f64, unit: &str, ratio: f64, of: &str) {
    println!("{name:34}{value:>10.2} {unit:8}{ratio:>9.2}x {of}");
}
