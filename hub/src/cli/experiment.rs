//! `fieldcast-hub experiment`: owns its options and output, never the work behind them.

use anyhow::{Result, bail};
use fieldcast_store::Store;
use fieldcast_store::experiments::ExperimentRow;
use serde_json::json;

use super::Context;
use super::device::pair;
use super::who::Who;
use crate::experiment::report;
use crate::experiment::request::{self, Asked, Foreseen};

/// Options of `experiment`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List experiments, newest first.
    List {
        /// Only of this forecaster.
        forecaster: Option<String>,
    },
    /// Show one experiment with its report; with --json its devices too.
    Show {
        /// Number.
        id: i64,
    },
    /// Let randomised devices run two versions for a stated time, and compare what comes of it.
    Start(Start),
    /// End an experiment before its time; its report is then not for deciding.
    Stop {
        /// Number.
        id: i64,
        #[command(flatten)]
        who: Who,
    },
}

#[derive(Debug, clap::Args)]
struct Start {
    /// Forecaster.
    #[arg(long)]
    forecaster: String,
    /// Version that is compared with.
    #[arg(long, value_name = "VERSION")]
    a: i64,
    /// Version that is compared.
    #[arg(long, value_name = "VERSION")]
    b: i64,
    /// Share of the devices that get B.
    #[arg(long, default_value_t = 0.5)]
    share: f64,
    /// How long it takes.
    #[arg(long)]
    days: i32,
    /// Hours after a device joined that are not measured.
    #[arg(long, value_name = "HOURS", default_value_t = 24)]
    settle: i32,
    /// Only devices with this label, `key=value`, beside those that the forecaster selects by; may be given again.
    #[arg(long = "label", value_name = "K=V", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// Sensor whose mean is compared; errors of forecasts where it is left out.
    #[arg(long)]
    sensor: Option<String>,
    #[command(flatten)]
    who: Who,
}

/// Runs the command.
///
/// # Errors
/// An unknown experiment or version, numbers that do not hold, something in the way, or the database.
pub async fn run(ctx: &Context, args: Args) -> Result<()> {
    let database = ctx.database().await?;
    let store = database.store();
    match args.command {
        Command::List { forecaster } => list(ctx, store, forecaster.as_deref()).await,
        Command::Show { id } => show(ctx, store, id).await,
        Command::Start(new) => start(ctx, store, new).await,
        Command::Stop { id, who } => {
            request::stop(store, id, who.person()).await?;
            ctx.print(&json!({"experiment": id}), || {
                format!("experiment {id}: its end is on its way to `serve`")
            })
        }
    }
}

async fn start(ctx: &Context, store: &Store, new: Start) -> Result<()> {
    let asked = Asked {
        forecaster: new.forecaster,
        a: new.a,
        b: new.b,
        share: new.share,
        days: new.days,
        settle_hours: new.settle,
        labels: new.labels.into_iter().collect(),
        sensor: new.sensor,
    };
    let (id, foreseen) = request::start(store, &asked, new.who.person()).await?;
    ctx.print(&json!({"experiment": id, "foreseen": foreseen}), || {
        told(id, &foreseen)
    })
}

fn told(id: i64, foreseen: &Foreseen) -> String {
    let devices = foreseen.devices;
    let mut lines = vec![format!(
        "experiment {id} started with {devices} devices that fit; `serve` drives it"
    )];
    if let (Some(before), Some(detectable)) = (foreseen.before, foreseen.detectable) {
        lines.push(format!(
            "before: mean {:.4}, deviation {:.4} over {} devices; a difference of {detectable:.4} is found four times in five, \
             smaller ones where devices' own past explains some of it",
            before.mean, before.deviation, before.devices
        ));
    }
    lines.extend(foreseen.warnings.iter().map(|w| format!("warning: {w}")));
    lines.join("\n")
}

async fn list(ctx: &Context, store: &Store, forecaster: Option<&str>) -> Result<()> {
    let rows = store.experiments(forecaster, None, 1_000).await?;
    ctx.print(&rows, || {
        rows.iter().map(line).collect::<Vec<_>>().join("\n")
    })
}

fn line(r: &ExperimentRow) -> String {
    format!(
        "{}\t{}\tversions {} and {}\t{} days\t{}\t{}",
        r.id, r.forecaster, r.version_a, r.version_b, r.days, r.status, r.reason
    )
}

async fn show(ctx: &Context, store: &Store, id: i64) -> Result<()> {
    let Some((row, devices)) = store.experiment(id).await? else {
        bail!("there is no experiment {id}; see `experiment list`")
    };
    let report = report::of(store, &row, &devices).await?;
    let answer = json!({"experiment": row, "report": report, "devices": devices});
    ctx.print(&answer, || {
        let words = report["words"].as_str().unwrap_or_default();
        let parts: Vec<&str> = words.split("; ").collect();
        format!("{}\n  {}", line(&row), parts.join("\n  "))
    })
}
