//! `GET /v1/quarantined...`: owns showing what could not become rows, never why it could not.

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use fieldcast_wire::Sha256;
use serde_json::json;

use super::Rest;
use super::extract::{OCTETS, Path, Query};
use super::lists::{Items, OfDevice, Page, page, place, text_of};
use super::problem::Problem;
use crate::signing::hex;

/// Payloads that could not become rows, newest first, each with its reason.
///
/// # Errors
/// The database, or a page that is none.
#[utoipa::path(get, path = "/v1/quarantined", params(Page, OfDevice), responses((status = 200, body = Items)))]
pub(super) async fn quarantined(
    State(rest): State<Rest>,
    Query(q): Query<Page>,
    Query(of): Query<OfDevice>,
) -> Result<Json<Items>, Problem> {
    let window = q.window()?;
    let device = of.device.as_deref();
    let rows = rest
        .hub
        .store
        .quarantined(device, window.0, window.1)
        .await?;
    let items = rows.into_iter().map(|row| {
        json!({
            "device": row.device, "sha256": hex(&row.digest), "epoch": row.epoch, "batch": row.number,
            "reason": row.reason, "bytes": row.bytes, "received_at": text_of(row.received_at),
        })
    });
    Ok(page(items.collect::<Vec<_>>(), window.1, place(window)))
}

/// The bytes of a quarantined payload, as they came; `fieldcast-hub decode` shows what can be read of them.
///
/// # Errors
/// The database, or no such payload.
#[utoipa::path(
    get, path = "/v1/quarantined/{device}/{sha256}",
    params(("device" = String, Path, description = "Device"), ("sha256" = String, Path, description = "As the list says it")),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream"))
)]
pub(super) async fn quarantined_payload(
    State(rest): State<Rest>,
    Path((device, sha256)): Path<(String, String)>,
) -> Result<impl IntoResponse, Problem> {
    let digest = Sha256::from_hex(&sha256)
        .ok_or_else(|| Problem::invalid(format!("`{sha256}` is no SHA-256 of 64 hex digits")))?;
    let bytes = rest.hub.store.quarantined_bytes(&device, digest).await?;
    let bytes = bytes.ok_or_else(|| {
        Problem::not_found(format!(
            "device `{device}` has no quarantined payload {sha256}; GET /v1/quarantined lists them"
        ))
    })?;
    Ok(([(CONTENT_TYPE, OCTETS)], bytes))
}
