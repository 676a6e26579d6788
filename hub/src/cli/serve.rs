//! `fieldcast-hub serve`: owns its options, serve.json and the signals that end it, never the work of its parts.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::app;
use crate::commands;
use crate::config::ServeConfig;
use crate::drift;
use crate::features;
use crate::jobs::Worker;
use crate::keys;
use crate::retention::{self, Retention};
use crate::rollout::driver::Driver;
use crate::triggers;

/// Options of `serve`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address of REST interface and web page; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Address of the embedded broker; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:1883", value_name = "ADDRESS")]
    broker_listen: SocketAddr,
    /// Connections that the embedded broker takes.
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    broker_connections: u32,
    /// A broker to use instead of the embedded one: mqtt://user:password@host:port or mqtts://...
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
    /// PEM file of the authority that signed the broker's certificate.
    #[arg(long, value_name = "FILE")]
    broker_ca: Option<PathBuf>,
    #[command(flatten)]
    retention: Retention,
}

/// Runs the hub until SIGINT or SIGTERM.
///
/// # Errors
/// A part that cannot start, with what to do.
pub async fn run(ctx: &Context, args: Args) -> Result<()> {
    let serve = ServeConfig {
        listen: args.listen,
        broker_listen: args.broker_listen,
        broker_connections: usize::try_from(args.broker_connections)?,
        broker: args.broker,
        broker_ca: args.broker_ca,
    };
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let end = CancellationToken::new();
    let stopper = end.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stopper.cancel();
    });
    // First of all, so that /healthz and /readyz answer while everything else still waits.
    let listener = crate::rest::bind(serve.listen).await?;
    let mut running = app::start(&ctx.config, &serve, end).await?;
    let file = ctx.config.serve_file();
    let served = serve_until_ended(&mut running, listener, &file, args.retention).await;
    let _ = std::fs::remove_file(&file);
    tracing::info!("stopping");
    let stopped = running.stop().await;
    served.and(stopped)
}

async fn serve_until_ended(
    running: &mut app::Running,
    listener: TcpListener,
    file: &Path,
    retention: Retention,
) -> Result<()> {
    let rest = crate::rest::serve(running, listener)?;
    let described = json!({
        "rest": format!("http://{rest}"), "broker": running.broker_url, "pid": std::process::id(),
    });
    let fresh = file.with_extension("json.new");
    std::fs::write(&fresh, described.to_string())
        .and_then(|()| std::fs::rename(&fresh, file))
        .with_context(|| format!("write {}", file.display()))?;
    tracing::info!(rest = %format!("http://{rest}"), broker = %running.broker_url, "serving");
    if running.begin().await? {
        tracing::info!("the database answers; data is taken");
        let hub = running.hub.clone();
        let (store, leads) = (hub.store.clone(), hub.leads.clone());
        running.spawn(features::run(store, leads, hub.end.clone()));
        running.spawn(retention::run(hub.store, retention, hub.leads, hub.end));
        spawn_loop(running);
        running.hub.end.cancelled().await;
    }
    Ok(())
}

/// The part that learns: job workers, confirmation of drift, rollouts.
fn spawn_loop(running: &mut app::Running) {
    let hub = running.hub.clone();
    let worker = Worker::new(hub.store.clone(), hub.signer.clone());
    let end = hub.end.clone();
    running.spawn(async move {
        // On a thread of its own: a job computes for long, and the data path must not wait for it.
        let runtime = tokio::runtime::Handle::current();
        let job = tokio::task::spawn_blocking(move || runtime.block_on(worker.run(end)));
        if let Err(error) = job.await {
            tracing::error!(%error, "the worker ended");
        }
    });
    running.spawn(drift::run(
        hub.store.clone(),
        drift::verdict::Rules::default(),
        hub.leads.clone(),
        hub.end.clone(),
    ));
    running.spawn(drift::daily::run(
        (hub.store.clone(), hub.signer.clone()),
        drift::verdict::Rules::default(),
        hub.leads.clone(),
        hub.end.clone(),
    ));
    running.spawn(drift::fleet::run(
        hub.store.clone(),
        hub.leads.clone(),
        hub.end.clone(),
    ));
    running.spawn(commands::run(hub.clone()));
    running.spawn(keys::attend(hub.clone()));
    running.spawn(triggers::run(
        hub.store.clone(),
        hub.leads.clone(),
        hub.end.clone(),
    ));
    let driver = Driver {
        store: hub.store,
        signer: hub.signer,
        downlink: hub.downlink,
        site: hub.config.site,
        leads: hub.leads,
    };
    running.spawn(async move { driver.run(hub.end).await });
}
