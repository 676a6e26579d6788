//! `cargo xtask bench delivery`: owns building the programs and starting what measures (`fieldcast-delivery`, examples), never how.

mod bytes;
mod copy;

use std::path::Path;
use std::process::Command;

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
    /// How long each figure of a rate is measured.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// With the unoptimised build: tells whether a figure works, not how large it is.
    #[arg(long)]
    debug: bool,
}

/// Takes the folder of the built programs.
type Measure = fn(&Path) -> Result<()>;

/// Figures that need no running programs; all others are those of `fieldcast-delivery`.
const EXAMPLES: [(&str, Measure); 2] = [("bytes", bytes::measure), ("copy", copy::measure)];

pub(crate) fn run(args: &DeliveryArgs) -> Result<()> {
    ensure!(
        args.devices > 0 && args.seconds > 0,
        "--devices and --seconds are at least 1"
    );
    // With the features of the whole workspace, so that nothing is built twice.
    let mut build = cargo()?;
    build.args(["build", "--workspace", "--bins"]);
    build.args(["--example=ingest_copy", "--example=bytes"]);
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
    let (here, there): (Vec<&String>, Vec<&String>) = args
        .figures
        .iter()
        .partition(|name| EXAMPLES.iter().any(|(known, _)| known == name));
    for (name, measure) in EXAMPLES {
        if args.figures.is_empty() || here.iter().any(|f| *f == name) {
            measure(&programs).with_context(|| format!("figure `{name}`"))?;
        }
    }
    if there.is_empty() && !args.figures.is_empty() {
        return Ok(());
    }
    let mut measure = Command::new(programs.join("fieldcast-delivery"));
    measure
        .env("FIELDCAST_BIN_DIR", &programs)
        .args(["--devices", &args.devices.to_string()])
        .args(["--seconds", &args.seconds.to_string()])
        .args(there);
    execute(&mut measure)
}

fn line(name: &str, value: f64, unit: &str, ratio: f64, of: &str) {
    println!("{name:34}{value:>10.2} {unit:8}{ratio:>9.2}x {of}");
}
