//! `fieldcast-hub run`: owns its options and output, never the work behind them.

use std::path::PathBuf;

use anyhow::{Context as _, Error, Result};
use fieldcast_store::training_runs::TrainingRunRow;
use serde_json::json;

use super::Context;
use super::who::Who;
use crate::page::verdict;
use crate::training::cancel;

/// Options of `run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List training runs, newest first.
    List {
        /// Only of this forecaster.
        forecaster: Option<String>,
    },
    /// Show one run with its scores and verdict.
    Show {
        /// Number.
        id: i64,
        /// Also write the verdict as an HTML page: numbers, losses by day, rules, who decided.
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
    },
    /// Show a run's history.
    Logs {
        /// Number.
        id: i64,
    },
    /// End a run.
    Cancel {
        /// Number.
        id: i64,
        #[command(flatten)]
        who: Who,
    },
}

/// Runs the command.
///
/// # Errors
/// An unknown run, or the database.
pub async fn run(ctx: &Context, args: Args) -> Result<()> {
    let database = ctx.database().await?;
    let store = database.store();
    match args.command {
        Command::List { forecaster } => {
            let rows = store
                .training_runs(forecaster.as_deref(), None, 1_000)
                .await?;
            ctx.print(&rows, || {
                rows.iter().map(line).collect::<Vec<_>>().join("\n")
            })
        }
        Command::Show { id, html } => {
            let row = store.training_run(id).await?.ok_or_else(|| none(id))?;
            if let Some(file) = html {
                let page = verdict::of(&row).with_context(|| {
                    format!("training run {id} is {}, it has no verdict; `fieldcast-hub run logs {id}` says why", row.status)
                })?;
                std::fs::write(&file, page).with_context(|| format!("write {}", file.display()))?;
            }
            ctx.print(&row, || {
                serde_json::to_string_pretty(&row).unwrap_or_default()
            })
        }
        Command::Logs { id } => {
            store.job(id).await?.ok_or_else(|| none(id))?;
            let mut lines = store.job_lines(id, 0).await?;
            while let Some(last) = lines.last() {
                let more = store.job_lines(id, last.id).await?;
                if more.is_empty() {
                    break;
                }
                lines.extend(more);
            }
            ctx.print(&lines, || {
                let line = |l: &fieldcast_store::jobs::JobLine| {
                    format!("{}  {}", l.time.format("%Y-%m-%d %H:%M:%S%.3f UTC"), l.line)
                };
                lines.iter().map(line).collect::<Vec<_>>().join("\n")
            })
        }
        Command::Cancel { id, who } => {
            let status = cancel::cancel(store, id, who.person()).await?;
            ctx.print(&json!({"training_run": id, "status": status}), || {
                let soon = match status.as_str() {
                    "running" => ", ends soon",
                    _ => "",
                };
                format!("training run {id}: {status}{soon}")
            })
        }
    }
}

fn line(r: &TrainingRunRow) -> String {
    let version = r
        .model_version
        .map_or_else(|| "-".to_owned(), |v| v.to_string());
    let status = match r.finished_at {
        Some(_) => r.status.clone(),
        None => format!(
            "{} {:.0} % {}",
            r.status,
            100.0 * r.progress,
            r.progress_text
        ),
    };
    format!(
        "{}\t{}\t{}\t{}\tversion {version}\t{}",
        r.id,
        r.forecaster,
        status.trim_end(),
        r.trigger,
        r.reason
    )
}

fn none(id: i64) -> Error {
    cancel::Refusal::NoRun(id).into()
}
