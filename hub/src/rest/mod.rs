//! The REST interface and its page: owns routes and their shapes, never decides anything.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::app::{Hub, Running};

/// Binds the REST interface and serves it until the hub ends; returns its address.
///
/// # Errors
/// An address that is in use or not this machine's.
pub async fn start(running: &mut Running, listen: SocketAddr) -> Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .with_context(|| {
            format!("listen on {listen} for REST; is the port in use? --listen names another")
        })?;
    let address = listener.local_addr().context("REST address")?;
    let end = running.hub.end.clone();
    let app = router(running.hub.clone());
    running.spawn(async move {
        let served = axum::serve(listener, app).with_graceful_shutdown(end.cancelled_owned());
        if let Err(error) = served.await {
            tracing::error!(%error, "REST ended");
        }
    });
    Ok(address)
}

fn router(hub: Hub) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .with_state(hub)
}

async fn ready(State(hub): State<Hub>) -> (StatusCode, Json<Value>) {
    match hub.not_ready().await {
        None => (StatusCode::OK, Json(json!({ "ready": true }))),
        Some(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(json!({ "ready": false, "reason": reason })),
        ),
    }
}
