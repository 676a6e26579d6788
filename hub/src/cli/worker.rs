//! `fieldcast-hub worker`: owns its options and the signals that end it, never the work behind them.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::jobs::Worker;
use crate::signing::Signer;

/// Options of `worker`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Takes jobs until SIGINT or SIGTERM.
///
/// # Errors
/// No database, or keys that cannot be read.
pub async fn run(ctx: &Context, _args: Args) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let database = ctx.database().await?;
    let signer = Arc::new(Signer::open(&ctx.config.keys_dir())?);
    let worker = Worker::new(database.store().clone(), signer);
    let end = CancellationToken::new();
    let stopper = end.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stopper.cancel();
    });
    worker.run(end).await;
    database.close().await
}
