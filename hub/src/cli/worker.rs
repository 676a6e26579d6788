//! `fieldcast-hub worker`: owns its options and the signals that end it, never the work behind them.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::app;
use crate::jobs::Worker;
use crate::pg::Database;
use crate::signing::Signer;

/// Options of `worker`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Takes jobs until SIGINT or SIGTERM.
///
/// # Errors
/// A private database that does not start, keys that cannot be read or are not the database's.
pub async fn run(ctx: &Context, _args: Args) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let signer = Arc::new(Signer::open(&ctx.config.keys_dir())?);
    let database = Database::open(&ctx.config).await?;
    let end = CancellationToken::new();
    let stopper = end.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stopper.cancel();
    });
    let store = database.store();
    let prepared = app::prepare(store, &signer, &end).await;
    if let Ok(Some(_)) = &prepared {
        Worker::new(store.clone(), signer).run(end).await;
    }
    database.close().await?;
    prepared.map(drop)
}
