//! `POST /v1/readings`: owns the route for things that run no agent, never the reading of their JSON.

use axum::Json;
use axum::extract::State;
use fieldcast_wire::DeviceId;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Rest;
use super::extract::{Body, Query};
use super::problem::Problem;
use crate::ingest::json::{self, JsonError};

/// Whose readings they are.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Whose {
    /// Device.
    device: String,
}

/// What became of them.
#[derive(Debug, Serialize, ToSchema)]
pub struct Pushed {
    /// Readings that were new.
    new: u64,
    /// Readings that were there already; they stay as they are.
    known: u64,
    /// Refused by themselves: place in the request and reason.
    rejected: Vec<String>,
}

/// Readings as JSON; again is no harm (one value a sensor and time).
///
/// # Errors
/// An unknown device, a malformed body, or the database.
#[utoipa::path(post, path = "/v1/readings", params(Whose), request_body = serde_json::Value, responses((status = 200, body = Pushed), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub async fn push_readings(
    State(rest): State<Rest>,
    Query(whose): Query<Whose>,
    Body(body): Body,
) -> Result<Json<Pushed>, Problem> {
    let device = DeviceId::new(whose.device).map_err(|e| Problem::invalid(e.to_string()))?;
    let readings = fieldcast_wire::json::parse(&body).map_err(JsonError::from)?;
    let stored = json::store(&rest.hub.store, &device, &readings).await?;
    json::tell(&device, &readings, &stored, &rest.hub.out, &rest.hub.events);
    let rejected = stored
        .rejected
        .iter()
        .map(|(at, why)| format!("reading {at}: {why}"))
        .collect();
    Ok(Json(Pushed {
        new: stored.new,
        known: stored.known,
        rejected,
    }))
}
