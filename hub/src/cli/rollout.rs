//! `fieldcast-hub rollout`: owns its options and output, never the work behind them.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::Context;
use crate::rollout::plan::Plan;
use crate::rollout::{driver, rows};

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
    /// Roll a model version out.
    Start {
        /// Forecaster.
        forecaster: String,
        /// Version.
        version: i64,
        /// TOML file with the stages; all devices at once where it is left out.
        #[arg(long)]
        plan: Option<PathBuf>,
    },
    /// Order nothing new until it is resumed.
    Pause {
        /// Number.
        id: i64,
    },
    /// Go on.
    Resume {
        /// Number.
        id: i64,
    },
    /// Let the next stage begin.
    Approve {
        /// Number.
        id: i64,
    },
    /// Order every device back.
    Abort {
        /// Number.
        id: i64,
    },
}

/// Runs the command.
///
/// # Errors
/// An unknown rollout or version, a plan that does not hold, or the database.
pub async fn run(ctx: &Context, args: Args) -> Result<()> {
    let database = ctx.database().await?;
    let store = database.store();
    let who = std::env::var("USER").unwrap_or_else(|_| "a person".to_owned());
    let (id, command) = match args.command {
        Command::List { forecaster } => {
            let rows = store.rollouts(forecaster.as_deref(), None, 1_000).await?;
            return ctx.print(&rows, || {
                let line = |r: &fieldcast_store::rollouts::RolloutRow| {
                    format!(
                        "{}\t{}\tversion {}\t{}\t{}",
                        r.id, r.forecaster, r.model_version, r.status, r.reason
                    )
                };
                rows.iter().map(line).collect::<Vec<_>>().join("\n")
            });
        }
        Command::Show { id } => {
            let Some((row, devices)) = store.rollout(id).await? else {
                bail!("there is no rollout {id}; see `rollout list`")
            };
            let evidence = rows::evidence_of(&row).map(|e| e.to_string());
            let stage = rows::stage_of(&row);
            let answer =
                json!({"rollout": row, "stage": stage, "evidence": evidence, "devices": devices});
            return ctx.print(&answer, || {
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
            });
        }
        Command::Start {
            forecaster,
            version,
            plan,
        } => {
            if store.model_version(&forecaster, version).await?.is_none() {
                bail!(
                    "`{forecaster}` has no version {version}; see `fieldcast-hub model list {forecaster}`"
                );
            }
            let floor = rows::floor_of(store.forecaster(&forecaster).await?.as_ref());
            if u64::try_from(version).unwrap_or(0) < floor {
                bail!(
                    "`{forecaster}` may run no version below {floor}; take a newer one, or lower `rollout.floor` in its definition"
                );
            }
            let plan = match plan {
                None => Plan::all_at_once(),
                Some(file) => {
                    let text = std::fs::read_to_string(&file)
                        .with_context(|| format!("read {}", file.display()))?;
                    toml::from_str(&text)
                        .with_context(|| format!("read rollout plan from {}", file.display()))?
                }
            };
            plan.validate()?;
            let id = driver::start(store, &forecaster, version, plan, &who).await?;
            return ctx.print(&json!({"rollout": id}), || {
                format!("rollout {id} started; `serve` drives it")
            });
        }
        Command::Pause { id } => (id, "pause"),
        Command::Resume { id } => (id, "resume"),
        Command::Approve { id } => (id, "approve"),
        Command::Abort { id } => (id, "abort"),
    };
    if !store.command_rollout(id, command, &who).await? {
        bail!("rollout {id} does not exist or has ended; see `rollout list`");
    }
    ctx.print(&json!({"rollout": id, "command": command}), || {
        format!("rollout {id}: {command} is on its way to `serve`")
    })
}
