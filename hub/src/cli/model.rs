//! `fieldcast-hub model`: owns its options and output, never the work behind them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use fieldcast_store::Store;
use fieldcast_store::model_versions::ModelVersionRow;
use serde_json::json;

use super::Context;
use super::who::Who;
use crate::registry;
use crate::registry::import::Keys;
use crate::registry::promote::{Promoted, Way};
use crate::rollout::request::Stages;

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
        /// Write this hub's public keys to a file, for `model import` of another hub.
        #[arg(long, value_name = "FILE")]
        keys: Option<PathBuf>,
    },
    /// Show what two versions differ in: definition, data, training, scores, bundle.
    Diff {
        /// Forecaster.
        forecaster: String,
        /// First version.
        from: i64,
        /// Second version; the champion where it is left out.
        to: Option<i64>,
    },
    /// Bring a version to devices, or give it a title, in a person's name.
    Promote(Promote),
    /// Make an exported bundle a version here: signatures are checked and the model runs once; one of another hub is signed anew.
    Import {
        /// Forecaster; it must be defined here.
        forecaster: String,
        /// What `model export` wrote.
        file: PathBuf,
        /// Public root key of the hub that made it, as its people tell it; 64 hex digits.
        #[arg(long, value_name = "HEX", requires = "keys")]
        root: Option<String>,
        /// What `model export --keys` of that hub wrote.
        #[arg(long, value_name = "FILE", requires = "root")]
        keys: Option<PathBuf>,
        #[command(flatten)]
        who: Who,
    },
    /// Sign a version by the key that signs now: the same model under the next number, before its key is revoked.
    SignAnew {
        /// Forecaster.
        forecaster: String,
        /// Version.
        version: i64,
        #[command(flatten)]
        who: Who,
    },
}

#[derive(Debug, clap::Args)]
struct Promote {
    /// Forecaster.
    forecaster: String,
    /// Version.
    version: i64,
    /// TOML file with the stages of the rollout; those of the forecaster's definition where it is left out.
    #[arg(long, conflicts_with_all = ["champion", "challenger"])]
    plan: Option<PathBuf>,
    /// Make it the champion at once, without a rollout: every device is ordered to run it.
    #[arg(long, conflicts_with = "challenger")]
    champion: bool,
    /// Only name it the challenger; no device is ordered anything.
    #[arg(long)]
    challenger: bool,
    #[command(flatten)]
    who: Who,
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
                        title(r)
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
            keys,
        } => {
            let row = find(&forecaster, version).await?;
            export(ctx, store, &row, &out, onnx, keys.as_deref()).await
        }
        Command::Diff {
            forecaster,
            from,
            to,
        } => {
            let (from, to) = (
                find(&forecaster, Some(from)).await?,
                find(&forecaster, to).await?,
            );
            let diff = registry::diff::diff(&from, &to);
            ctx.print(&diff, || diff.to_string())
        }
        Command::Promote(args) => promote(ctx, store, args).await,
        Command::SignAnew {
            forecaster,
            version,
            who,
        } => {
            let signer = ctx.signer(store).await?;
            let done =
                registry::import::sign_anew(store, &signer, &forecaster, version, who.person())
                    .await?;
            ctx.print(&done, || {
                format!(
                    "version {version} of {forecaster} is version {0} too, signed by key {1}; `model promote {forecaster} {0} \
                     --champion` has devices run it",
                    done.version,
                    signer.key_id()
                )
            })
        }
        Command::Import {
            forecaster,
            file,
            root,
            keys,
            who,
        } => {
            let bytes = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
            let keys = keys.as_deref().map(Keys::read).transpose()?;
            let origin = root.as_deref().zip(keys.as_ref());
            let signer = ctx.signer(store).await?;
            let done =
                registry::import::import(store, &signer, &forecaster, bytes, origin, who.person())
                    .await?;
            ctx.print(&done, || {
                let how = match (done.signed_anew, done.restored) {
                    (true, _) => ", signed anew by this hub",
                    (_, true) => ", its bundle put back",
                    _ => "",
                };
                format!(
                    "{forecaster} version {}{how}; `model promote {forecaster} {}` brings it to devices",
                    done.version, done.version
                )
            })
        }
    }
}

fn title(row: &ModelVersionRow) -> &'static str {
    match (row.champion, row.challenger, row.removed_at.is_some()) {
        (true, ..) if row.on_trial => "\tchampion, on trial",
        (true, ..) => "\tchampion",
        (_, true, _) => "\tchallenger",
        (_, _, true) => "\tbundle removed",
        _ => "",
    }
}

async fn promote(ctx: &Context, store: &Store, args: Promote) -> Result<()> {
    let way = match (args.champion, args.challenger, &args.plan) {
        (true, ..) => Way::Champion,
        (_, true, _) => Way::Challenger,
        (_, _, Some(file)) => Way::Rollout(Stages::Planned(super::rollout::planned(file)?)),
        _ => Way::Rollout(Stages::AsDefined),
    };
    let (forecaster, version) = (&args.forecaster, args.version);
    let done =
        registry::promote::promote(store, forecaster, version, way, args.who.person()).await?;
    let text = match done {
        Promoted::Rollout(id) => format!("rollout {id} started; `rollout watch {id}` follows it"),
        Promoted::Champion(_) => format!(
            "version {version} is the champion of {forecaster}; `serve` orders every device to run it"
        ),
        Promoted::Challenger(_) => {
            format!(
                "version {version} is the challenger of {forecaster}; no device is ordered anything"
            )
        }
    };
    ctx.print(&done, || text)
}

async fn export(
    ctx: &Context,
    store: &Store,
    row: &ModelVersionRow,
    out: &Path,
    onnx: bool,
    keys: Option<&Path>,
) -> Result<()> {
    let mut bytes = registry::bundle(store, row).await?;
    if onnx {
        let signer = ctx.signer(store).await?;
        bytes = registry::verified(&signer, row, &bytes)?.onnx().to_vec();
    }
    std::fs::write(out, &bytes).with_context(|| format!("write {}", out.display()))?;
    if let Some(file) = keys {
        let keys = Keys::of(ctx.signer(store).await?.as_ref());
        std::fs::write(file, serde_json::to_vec_pretty(&keys)?)
            .with_context(|| format!("write {}", file.display()))?;
    }
    let answer = json!({"file": out, "bytes": bytes.len(), "bundle": row.bundle, "version": row.version, "keys": keys});
    ctx.print(&answer, || {
        format!(
            "{} bytes of {} version {} to {}",
            bytes.len(),
            row.forecaster,
            row.version,
            out.display()
        )
    })
}
