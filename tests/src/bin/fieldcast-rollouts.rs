//! `fieldcast-rollouts`: owns the options of the figures of rollouts; `cargo xtask bench rollout` builds the programs and starts it.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use fieldcast_tests::rollouts::{Kills, Scale, Years, back, bad, cycles, kills, whole};

const USAGE: &str = "fieldcast-rollouts whole|back|bad|kills|cycles [--devices N] [--mosquitto] [--idle SECONDS] [--times N] [--rollouts N] [--seed S] \
                     [--days N] [--change-every DAYS] [--epochs N] [--talk]";

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut args: impl Iterator<Item = String>) -> Result<()> {
    let figure = args.next().context(USAGE)?;
    let mut scale = Scale {
        devices: 10_000,
        mosquitto: false,
        idle: Duration::from_secs(60),
        talk: false,
    };
    let mut times = 10;
    let mut plan = Kills {
        rollouts: 200,
        side_by_side: 2,
        seed: 1,
        every: Duration::from_secs(10),
    };
    let mut years = Years::default();
    while let Some(name) = args.next() {
        let mut value = || {
            args.next()
                .with_context(|| format!("{name} has no value; {USAGE}"))
        };
        match name.as_str() {
            "--devices" => scale.devices = value()?.parse()?,
            "--idle" => scale.idle = Duration::from_secs(value()?.parse()?),
            "--times" => times = value()?.parse()?,
            "--rollouts" => plan.rollouts = value()?.parse()?,
            "--seed" => {
                plan.seed = value()?.parse()?;
                years.seed = plan.seed;
            }
            "--days" => years.days = value()?.parse()?,
            "--change-every" => years.change_every = value()?.parse()?,
            "--epochs" => years.epochs = value()?.parse()?,
            "--mosquitto" => scale.mosquitto = true,
            "--talk" => scale.talk = true,
            _ => bail!("unknown option {name}; {USAGE}"),
        }
    }
    match figure.as_str() {
        "whole" => whole(scale),
        "back" => back(times),
        "bad" => bad(times).map(drop),
        "kills" => kills(plan).map(|report| println!("{report:#?}")),
        "cycles" => cycles(years),
        _ => bail!("there is no figure {figure}; {USAGE}"),
    }
}
