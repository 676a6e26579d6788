//! `fieldcast-hub model`: owns its options and output, never the work behind them.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use fieldcast_store::model_versions::ModelVersionRow;
use fieldcast_wire::Sha256;
use serde_json::json;

use super::Context;

/// Options of `model`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List model versions, newest first.
    List {
        /// Only of this forecaster.
        forecaster: Option<String>,
    },
    /// Show one version with its manifest and lineage.
    Show {
        /// Forecaster.
        forecaster: String,
        /// Version; the champion where it is left out.
        version: Option<i64>,
    },
    /// Write a version's bundle, or only its ONNX graph, to a file.
    Export {
        /// Forecaster.
        forecaster: String,
        /// Version; the champion where it is left out.
        version: Option<i64>,
        /// Where to.
        #[arg(long)]
        out: PathBuf,
        /// Only the ONNX graph.
        #[arg(long)]
        onnx: bool,
    },
}

/// Runs the command.
///
/// # Errors
/// An unknown version, a file that cannot be written, or the database.
pub async fn run(ctx: &Context, args: Args) -> Result<()> {
    let database = ctx.database().await?;
    let store = database.store();
    let find = async |forecaster: &str, version: Option<i64>| -> Result<ModelVersionRow> {
        let row = match version {
            Some(version) => store.model_version(forecaster, version).await?,
            None => store.champion(forecaster).await?,
        };
        row.with_context(|| {
            format!("`{forecaster}` has no such model; see `fieldcast-hub model list {forecaster}`")
        })
    };
    match args.command {
        Command::List { forecaster } => {
            let rows = store
                .model_versions(forecaster.as_deref(), 0, 1_000)
                .await?;
            ctx.print(&rows, || {
                let line = |r: &ModelVersionRow| {
                    format!(
                        "{}\t{}\t{}\t{}\t{}{}",
                        r.forecaster,
                        r.version,
                        r.lineage["chosen"].as_str().unwrap_or(""),
                        &r.bundle[..12],
                        r.created_at.format("%Y-%m-%d %H:%M:%S"),
                        if r.champion { "\tchampion" } else { "" }
                    )
                };
                rows.iter().map(line).collect::<Vec<_>>().join("\n")
            })
        }
        Command::Show {
            forecaster,
            version,
        } => {
            let row = find(&forecaster, version).await?;
            ctx.print(&row, || {
                serde_json::to_string_pretty(&row).unwrap_or_default()
            })
        }
        Command::Export {
            forecaster,
            version,
            out,
            onnx,
        } => {
            let row = find(&forecaster, version).await?;
            let sha = Sha256::from_hex(&row.bundle).context("the bundle's digest is malformed")?;
            let Some(mut bytes) = store.bundle(&sha).await? else {
                bail!("bundle {sha} is missing; restore the database")
            };
            if onnx {
                let signer = ctx.signer(store).await?;
                bytes = crate::registry::verified(&signer, &row, &bytes)?
                    .onnx()
                    .to_vec();
            }
            std::fs::write(&out, &bytes).with_context(|| format!("write {}", out.display()))?;
            let answer = json!({"file": out, "bytes": bytes.len(), "bundle": row.bundle, "version": row.version});
            ctx.print(&answer, || {
                format!(
                    "{} bytes of {forecaster} version {} to {}",
                    bytes.len(),
                    row.version,
                    out.display()
                )
            })
        }
    }
}
