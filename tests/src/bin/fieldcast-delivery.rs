//! `fieldcast-delivery`: owns the options of the figures of delivery; `cargo xtask bench delivery` builds the programs and starts it.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use fieldcast_tests::delivery::{Plan, run};

const USAGE: &str = "fieldcast-delivery [--devices N] [--seconds S] [FIGURE ...]";

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)).and_then(|(names, plan)| run(&names, &plan)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<(Vec<String>, Plan)> {
    let mut plan = Plan {
        devices: 5_000,
        seconds: 60,
    };
    let mut names = Vec::new();
    while let Some(name) = args.next() {
        let mut value = || {
            args.next()
                .with_context(|| format!("{name} has no value; {USAGE}"))
        };
        match name.as_str() {
            "--devices" => plan.devices = value()?.parse()?,
            "--seconds" => plan.seconds = value()?.parse()?,
            _ if name.starts_with('-') => bail!("unknown option {name}; {USAGE}"),
            _ => names.push(name),
        }
    }
    Ok((names, plan))
}
