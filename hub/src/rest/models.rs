//! `GET /v1/models/{version}...`: owns showing one version and what two differ in, never their contents.

use axum::Json;
use axum::extract::State;
use fieldcast_store::model_versions::ModelVersionRow;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use super::Rest;
use super::extract::{Path, Query};
use super::problem::Problem;
use crate::registry;

/// Whose version it is: each forecaster counts its own.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Whose {
    /// Forecaster.
    forecaster: String,
}

/// Two versions of a forecaster.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct With {
    /// Forecaster.
    forecaster: String,
    /// The version to compare with; the champion where it is left out.
    with: Option<i64>,
}

async fn find(rest: &Rest, forecaster: &str, version: i64) -> Result<ModelVersionRow, Problem> {
    let row = rest.hub.store.model_version(forecaster, version).await?;
    row.ok_or_else(|| {
        Problem::not_found(format!(
            "`{forecaster}` has no version {version}; see /v1/models?forecaster={forecaster}"
        ))
    })
}

/// One model version with its manifest, scores, lineage and titles.
///
/// # Errors
/// No such version, or the database.
#[utoipa::path(get, path = "/v1/models/{version}", params(("version" = i64, Path), Whose), responses((status = 200, body = Value), (status = 404, body = Problem)))]
pub(super) async fn model(
    State(rest): State<Rest>,
    Path(version): Path<i64>,
    Query(q): Query<Whose>,
) -> Result<Json<Value>, Problem> {
    let row = find(&rest, &q.forecaster, version).await?;
    Ok(Json(json!(row)))
}

/// What a version differs in from another: definition, data, training, scores, bundle.
///
/// # Errors
/// No such version, or the database.
#[utoipa::path(get, path = "/v1/models/{version}/diff", params(("version" = i64, Path), With), responses((status = 200, body = Value), (status = 404, body = Problem)))]
pub(super) async fn model_diff(
    State(rest): State<Rest>,
    Path(version): Path<i64>,
    Query(q): Query<With>,
) -> Result<Json<Value>, Problem> {
    let to = find(&rest, &q.forecaster, version).await?;
    let from = match q.with {
        Some(with) => find(&rest, &q.forecaster, with).await?,
        None => rest
            .hub
            .store
            .champion(&q.forecaster)
            .await?
            .ok_or_else(|| {
                Problem::not_found(format!(
                    "`{}` has no champion; name a version in `with`",
                    q.forecaster
                ))
            })?,
    };
    Ok(Json(json!(registry::diff::diff(&from, &to))))
}
