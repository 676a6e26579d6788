//! `cargo xtask bench delivery`: owns building the programs and starting what measures (`fieldcast-delivery`, `ingest_copy`), never how.

mod copy;

use std::process::Command;

use anyhow::{Result, ensure};

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
    /// How long each figure of a rate is measured.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// With the unoptimised build: tells whether a figure works, not how large it is.
    #[arg(long)]
    debug: bool,
}

pub(crate) fn run(args: &DeliveryArgs) -> Result<()> {
    ensure!(
        args.devices > 0 && args.seconds > 0,
        "--devices and --seconds are at least 1"
    );
    let copy = args.figures.is_empty() || args.figures.iter().any(|f| f == "copy");
    let others: Vec<&String> = args.figures.iter().filter(|f| *f != "copy").collect();
    // With the features of the whole workspace, so that nothing is built twice.
    let mut build = cargo()?;
    build.args(["build", "--workspace", "--bins", "--example=ingest_copy"]);
    let profile = if args.debug {
        "debug"
    } else {
        build.arg("--release");
        "release"
    };
    execute(&mut build)?;
    let programs = target_dir()?.join(profile);
    println!(
        "{:34}{:>10} {:8}{:>10} to what (goal; aim)",
        "figure", "value", "unit", "ratio"
    );
    if copy {
        copy::measure(&programs, &target_dir()?)?;
    }
    if copy && others.is_empty() && !args.figures.is_empty() {
        return Ok(());
    }
    let mut measure = Command::new(programs.join("fieldcast-delivery"));
    measure
        .env("FIELDCAST_BIN_DIR", &programs)
        .args(["--devices", &args.devices.to_string()])
        .args(["--seconds", &args.seconds.to_string()])
        .args(others);
    execute(&mut measure)
}
