//! `fieldcast-hub serve`: owns its options, serve.json and the signals that end it, never the work of its parts.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::app;
use crate::config::ServeConfig;

/// Options of `serve`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address of REST interface and web page; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Address of the embedded broker; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:1883", value_name = "ADDRESS")]
    broker_listen: SocketAddr,
    /// A broker to use instead of the embedded one: mqtt://user:password@host:port or mqtts://...
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
    /// PEM file of the authority that signed the broker's certificate.
    #[arg(long, value_name = "FILE")]
    broker_ca: Option<PathBuf>,
}

/// Runs the hub until SIGINT or SIGTERM.
///
/// # Errors
/// A part that cannot start, with what to do.
pub async fn run(ctx: &Context, args: Args) -> Result<()> {
    let serve = ServeConfig {
        listen: args.listen,
        broker_listen: args.broker_listen,
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
    let mut running = app::start(&ctx.config, &serve, end.clone()).await?;
    let rest = match crate::rest::start(&mut running, serve.listen).await {
        Ok(rest) => rest,
        Err(error) => {
            running.stop().await?;
            return Err(error);
        }
    };
    let described = json!({
        "rest": format!("http://{rest}"), "broker": running.broker_url, "pid": std::process::id(),
    });
    let file = ctx.config.serve_file();
    let fresh = file.with_extension("json.new");
    std::fs::write(&fresh, described.to_string())
        .and_then(|()| std::fs::rename(&fresh, &file))
        .with_context(|| format!("write {}", file.display()))?;
    tracing::info!(rest = %format!("http://{rest}"), broker = %running.broker_url, "serving");
    end.cancelled().await;
    tracing::info!("stopping");
    let _ = std::fs::remove_file(&file);
    running.stop().await
}
