//! `fieldcast-hub rollout`: owns its options and output, never the work behind them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use fieldcast_store::Store;
use serde_json::json;

use super::Context;
use super::who::Who;
use crate::rollout::overview::{self, Overview};
use crate::rollout::plan::Plan;
use crate::rollout::request::{self, Stages};
use crate::rollout::rows;
use crate::rollout::state::Operator;

const LOOK: Duration = Duration::from_secs(1);
/// Exit codes of `watch`; 1 is an error and 2 a wrong command line.
const ROLLED_BACK: u8 = 3;
const SUPERSEDED: u8 = 4;

/// Options of `rollout`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List rollouts, newest first.
    List {
        /// Only of this forecaster.
        forecaster: Option<String>,
    },
    /// Show one rollout with its devices.
    Show {
        /// Number.
        id: i64,
    },
    /// Show every open rollout, what it waits for, and its evidence.
    Status,
    /// Print a line whenever a rollout changes, until it ends: exit code 0 where it succeeded, 3 where it went back, 4 where a
    /// newer one took over.
    Watch {
        /// Number.
        id: i64,
    },
    /// Roll a model version out, by the stages of the forecaster's definition.
    Start {
        /// Forecaster.
        forecaster: String,
        /// Version.
        version: i64,
        /// TOML file with other stages.
        #[arg(long, conflicts_with = "all_at_once")]
        plan: Option<PathBuf>,
        /// Order it to every device at once, without canaries or evidence.
        #[arg(long)]
        all_at_once: bool,
        #[command(flatten)]
        who: Who,
    },
    /// Order nothing new until it is resumed.
    Pause {
        /// Number.
        id: i64,
        #[command(flatten)]
        who: Who,
    },
    /// Go on.
    Resume {
        /// Number.
        id: i64,
        #[command(flatten)]
        who: Who,
    },
    /// Let the next stage begin.
    Approve {
        /// Number.
        id: i64,
        #[command(flatten)]
        who: Who,
    },
    /// Order every device back.
    Abort {
        /// Number.
        id: i64,
        #[command(flatten)]
        who: Who,
    },
}

/// Runs the command.
///
/// # Errors
/// An unknown rollout or version, a plan that does not hold, or the database.
pub async fn run(ctx: &Context, args: Args) -> Result<ExitCode> {
    let database = ctx.database().await?;
    let store = database.store();
    match args.command {
        Command::Watch { id } => return watch(ctx, store, id).await,
        Command::Show { id } => show(ctx, store, id).await,
        Command::Status => status(ctx, store).await,
        Command::List { forecaster } => list(ctx, store, forecaster.as_deref()).await,
        Command::Start {
            forecaster,
            version,
            plan,
            all_at_once,
            who,
        } => {
            let stages = match plan {
                Some(file) => Stages::Planned(planned(&file)?),
                None if all_at_once => Stages::AllAtOnce,
                None => Stages::AsDefined,
            };
            let id = request::start(store, &forecaster, version, stages, who.person()).await?;
            ctx.print(&json!({"rollout": id}), || {
                format!("rollout {id} started; `serve` drives it")
            })
        }
        Command::Pause { id, who } => steer(ctx, store, (id, Operator::Pause), &who).await,
        Command::Resume { id, who } => steer(ctx, store, (id, Operator::Resume), &who).await,
        Command::Approve { id, who } => steer(ctx, store, (id, Operator::Approve), &who).await,
        Command::Abort { id, who } => steer(ctx, store, (id, Operator::Abort), &who).await,
    }?;
    Ok(ExitCode::SUCCESS)
}

async fn steer(ctx: &Context, store: &Store, (id, what): (i64, Operator), who: &Who) -> Result<()> {
    request::steer(store, id, what, who.person()).await?;
    let command = what.as_str();
    ctx.print(&json!({"rollout": id, "command": command}), || {
        format!("rollout {id}: {command} is on its way to `serve`")
    })
}

async fn list(ctx: &Context, store: &Store, forecaster: Option<&str>) -> Result<()> {
    let rows = store.rollouts(forecaster, None, 1_000).await?;
    ctx.print(&rows, || {
        let line = |r: &fieldcast_store::rollouts::RolloutRow| {
            format!(
                "{}\t{}\tversion {}\t{}\t{}",
                r.id, r.forecaster, r.model_version, r.status, r.reason
            )
        };
        rows.iter().map(line).collect::<Vec<_>>().join("\n")
    })
}

async fn status(ctx: &Context, store: &Store) -> Result<()> {
    let now = crate::clock::now().timestamp_millis();
    let open = overview::open(store, now).await?;
    ctx.print(&open, || match open.as_slice() {
        [] => "no rollout is open".to_owned(),
        open => {
            let lines: Vec<_> = open.iter().map(Overview::to_string).collect();
            lines.join("\n")
        }
    })
}

async fn watch(ctx: &Context, store: &Store, id: i64) -> Result<ExitCode> {
    let mut said = String::new();
    loop {
        let Some((row, devices)) = store.rollout(id).await? else {
            bail!("there is no rollout {id}; see `rollout list`")
        };
        let now = crate::clock::now().timestamp_millis();
        let seen = overview::overview(&row, &devices, now)?;
        let line = seen.to_string();
        if line != said {
            ctx.line(&seen, || line.clone())?;
            said = line;
        }
        match seen.status {
            "succeeded" => return Ok(ExitCode::SUCCESS),
            "rolled_back" => return Ok(ExitCode::from(ROLLED_BACK)),
            "superseded" => return Ok(ExitCode::from(SUPERSEDED)),
            _ => tokio::time::sleep(LOOK).await,
        }
    }
}

/// The stages in a file.
pub(super) fn planned(file: &Path) -> Result<Plan> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    toml::from_str(&text).with_context(|| format!("read rollout plan from {}", file.display()))
}

async fn show(ctx: &Context, store: &Store, id: i64) -> Result<()> {
    let Some((row, devices)) = store.rollout(id).await? else {
        bail!("there is no rollout {id}; see `rollout list`")
    };
    let evidence = rows::evidence_of(&row).map(|e| e.to_string());
    let stage = rows::stage_of(&row);
    let answer = json!({"rollout": row, "stage": stage, "evidence": evidence, "devices": devices});
    ctx.print(&answer, || {
        let line = |d: &fieldcast_store::rollouts::DeploymentRow| {
            format!(
                "  {}\t{}\tgeneration {}\t{}",
                d.device, d.state, d.generation, d.reason
            )
        };
        let head = format!(
            "rollout {id}: {} version {}: {} ({})",
            row.forecaster, row.model_version, row.status, row.reason
        );
        let evidence = evidence.map(|words| format!("  beside the champion: {words}"));
        std::iter::once(head)
            .chain(stage.map(|words| format!("  {words}")))
            .chain(evidence)
            .chain(devices.iter().map(line))
            .collect::<Vec<_>>()
            .join("\n")
    })
}
