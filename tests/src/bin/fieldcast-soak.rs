//! `fieldcast-soak`: owns the options of a long run of the fault harness; `cargo xtask soak` builds the programs and starts it.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use fieldcast_tests::faults::{Plan, run};

const USAGE: &str = "fieldcast-soak [--minutes N] [--seed S] [--kills-per-minute K] [--rate READINGS_A_SECOND] \
                     [--devices N] [--embedded-broker] [--talk]";

fn main() -> ExitCode {
    match plan(std::env::args().skip(1)).and_then(|plan| run(&plan)) {
        Ok(report) => {
            println!("{report}");
            ExitCode::from(u8::from(!report.is_good()))
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn plan(mut args: impl Iterator<Item = String>) -> Result<Plan> {
    let mut plan = Plan {
        duration: Duration::from_secs(600),
        kills_per_minute: 14.0,
        rate: 2_000.0,
        devices: 4,
        talk: false,
        ..Plan::short(1)
    };
    while let Some(name) = args.next() {
        let mut value = || {
            args.next()
                .with_context(|| format!("{name} has no value; {USAGE}"))
        };
        match name.as_str() {
            "--minutes" => plan.duration = Duration::from_secs_f64(value()?.parse::<f64>()? * 60.0),
            "--seed" => plan.seed = value()?.parse()?,
            "--kills-per-minute" => plan.kills_per_minute = value()?.parse()?,
            "--rate" => plan.rate = value()?.parse()?,
            "--devices" => plan.devices = value()?.parse()?,
            "--embedded-broker" => plan.embedded_broker = true,
            "--talk" => plan.talk = true,
            _ => bail!("unknown option {name}; {USAGE}"),
        }
    }
    Ok(plan)
}
