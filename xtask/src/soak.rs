//! `cargo xtask soak`: owns building the programs and starting the long run of the fault harness; never what it judges.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::command::{cargo, execute, target_dir};
use crate::install::{self, Need};

/// How long, how hard, and from which seed.
#[derive(Debug, Args)]
pub(crate) struct SoakArgs {
    /// How long faults go on.
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// Everything that is left to chance follows from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Kills of agents, hub, broker and PostgreSQL.
    #[arg(long, default_value_t = 14.0)]
    kills_per_minute: f64,
    /// Readings a second, all devices together.
    #[arg(long, default_value_t = 2_000.0)]
    rate: f64,
    /// The hub's own broker, also where Mosquitto is installed.
    #[arg(long)]
    embedded_broker: bool,
    /// Programs of the debug build: quicker to make, slower to run.
    #[arg(long)]
    debug: bool,
    /// Say every step.
    #[arg(long)]
    talk: bool,
}

/// Builds and runs; fails where a reading is lost or twice.
pub(crate) fn run(args: &SoakArgs) -> Result<()> {
    let mut needs = vec![Need::Postgres];
    if !args.embedded_broker {
        needs.push(Need::Mosquitto);
    }
    install::ensure(&needs)?;
    install::or_skip(Need::Faketime, "clocks do not jump");
    let mut build = cargo()?;
    build.args(["build", "--workspace", "--bins"]);
    if !args.debug {
        build.arg("--release");
    }
    execute(&mut build)?;
    let programs = target_dir()?.join(if args.debug { "debug" } else { "release" });
    let mut soak = Command::new(programs.join("fieldcast-soak"));
    soak.env("FIELDCAST_BIN_DIR", &programs);
    for (name, value) in [
        ("--minutes", args.minutes.to_string()),
        ("--seed", args.seed.to_string()),
        ("--kills-per-minute", args.kills_per_minute.to_string()),
        ("--rate", args.rate.to_string()),
    ] {
        soak.arg(name).arg(value);
    }
    for (name, given) in [
        ("--embedded-broker", args.embedded_broker),
        ("--talk", args.talk),
    ] {
        if given {
            soak.arg(name);
        }
    }
    execute(&mut soak)
}
