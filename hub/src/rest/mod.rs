//! The REST interface and its page: owns routes and their shapes, never decides anything.

mod commands;
mod experiments;
pub mod extract;
mod history;
pub mod lists;
mod local;
pub mod metrics;
mod models;
mod parameters;
pub mod predict;
pub mod problem;
pub mod push;
mod quarantine;
mod reports;
mod runs;
mod sketches;
mod steer;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use fieldcast_runtime::LoadedModel;
use fieldcast_wire::caps;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use utoipa::OpenApi;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt as _};
use utoipa_axum::routes;

use crate::app::{Hub, Running};
use crate::experiment::interim::Interim;
use problem::Problem;

/// What every handler sees.
#[derive(Debug, Clone)]
pub struct Rest {
    /// The running hub.
    pub hub: Hub,
    /// Counters of requests.
    pub requests: Arc<metrics::Requests>,
    /// Models in memory, by bundle digest.
    pub models: Arc<Mutex<HashMap<String, Arc<LoadedModel>>>>,
    /// Reports of experiments that go on.
    pub reports: Arc<Interim>,
}

#[derive(OpenApi)]
#[openapi(info(
    title = "Fieldcast hub",
    description = "Fleet, forecasts, models, drift and rollouts of one site. Lists answer {items, next}: pass `next` as `cursor`. A query parameter that a path does not name is refused with 400."
))]
struct Document;

/// Takes the address of the REST interface; what connects waits until [`serve`].
///
/// # Errors
/// An address that is in use or not this machine's, or one beyond loopback.
pub async fn bind(listen: SocketAddr) -> Result<TcpListener> {
    anyhow::ensure!(
        listen.ip().is_loopback(),
        "listen on {listen}: without TLS only loopback is allowed; use --listen 127.0.0.1:{} behind a proxy with TLS that asks for a password",
        listen.port()
    );
    TcpListener::bind(listen).await.with_context(|| {
        format!("listen on {listen} for REST; is the port in use? --listen names another")
    })
}

/// Serves the REST interface until the hub ends; returns its address.
///
/// # Errors
/// A listener without an address.
pub fn serve(running: &mut Running, listener: TcpListener) -> Result<SocketAddr> {
    let address = listener.local_addr().context("REST address")?;
    let end = running.hub.end.clone();
    let rest = Rest {
        hub: running.hub.clone(),
        requests: Arc::default(),
        reports: Arc::default(),
        models: Arc::default(),
    };
    let app = router(rest);
    running.spawn(async move {
        let served = axum::serve(listener, app).with_graceful_shutdown(end.cancelled_owned());
        if let Err(error) = served.await {
            tracing::error!(%error, "REST ended");
        }
    });
    Ok(address)
}

fn documented() -> (Router<Rest>, utoipa::openapi::OpenApi) {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(lists::devices))
        .routes(routes!(lists::forecasters))
        .routes(
            routes!(lists::models, models::import).layer(DefaultBodyLimit::max(caps::MAX_BUNDLE)),
        )
        .routes(routes!(models::model))
        .routes(routes!(models::model_diff))
        .routes(routes!(models::bundle))
        .routes(routes!(models::keys))
        .routes(routes!(steer::title))
        .routes(routes!(lists::training_runs))
        .routes(routes!(runs::training_run))
        .routes(routes!(runs::training_run_page))
        .routes(routes!(runs::training_run_logs))
        .routes(routes!(runs::cancel_training_run))
        .routes(routes!(lists::drift_reports))
        .routes(routes!(sketches::sketches))
        .routes(routes!(reports::drift_report))
        .routes(routes!(reports::drift_report_page))
        .routes(routes!(reports::forecaster_errors))
        .routes(routes!(lists::decisions))
        .routes(routes!(lists::alarms))
        .routes(routes!(lists::gaps))
        .routes(routes!(quarantine::quarantined))
        .routes(routes!(quarantine::quarantined_payload))
        .routes(routes!(commands::commands, commands::give))
        .routes(routes!(commands::command))
        .routes(routes!(lists::rollouts, steer::start))
        .routes(routes!(lists::open_rollouts))
        .routes(routes!(lists::rollout))
        .routes(routes!(lists::rollout_devices))
        .routes(routes!(steer::steer))
        .routes(routes!(experiments::experiments, experiments::start))
        .routes(routes!(experiments::experiment))
        .routes(routes!(experiments::devices))
        .routes(routes!(experiments::stop))
        .routes(routes!(lists::readings, push::push_readings))
        .routes(routes!(lists::forecasts))
        .routes(routes!(predict::predict))
        .routes(routes!(predict::predict_v1))
        .split_for_parts()
}

/// The OpenAPI document.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    documented().1
}

fn router(rest: Rest) -> Router {
    let (routes, document) = documented();
    let document = Arc::new(document);
    routes
        .route_layer(middleware::from_fn_with_state(
            Arc::clone(&document),
            parameters::check,
        ))
        .route_layer(middleware::from_fn_with_state(rest.clone(), prepared))
        .route("/", get(|| async { Html(include_str!("page.html")) }))
        .route("/docs", get(|| async { Html(include_str!("docs.html")) }))
        .route(
            "/openapi.json",
            get(move || async move { Json(document.as_ref().clone()) }),
        )
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics::metrics))
        .fallback(|| async { Problem::not_found("there is nothing here; see /docs") })
        .method_not_allowed_fallback(|method: Method, uri: Uri| async move {
            let text = format!("{} does not take {method}; see /docs", uri.path());
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, text)
        })
        .layer(middleware::from_fn(local::check))
        .layer(middleware::from_fn_with_state(rest.clone(), metrics::count))
        .with_state(rest)
}

async fn ready(State(rest): State<Rest>) -> Result<Json<Value>, Problem> {
    match rest.hub.not_ready().await {
        None => Ok(Json(json!({ "ready": true }))),
        Some(reason) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, reason)),
    }
}

/// Lets nobody ask tables that are not there yet.
async fn prepared(State(rest): State<Rest>, request: Request, next: Next) -> Response {
    if *rest.hub.prepared.borrow() {
        return next.run(request).await;
    }
    let text = "the hub waits for its database; see /readyz and try again";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}
