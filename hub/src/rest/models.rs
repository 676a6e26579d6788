//! `/v1/models...`: owns showing one version and what two differ in, and bundles going out and in; never what is refused or why.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use fieldcast_store::model_versions::ModelVersionRow;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use super::Rest;
use super::extract::{OCTETS, Octets, Path, Query};
use super::problem::Problem;
use crate::registry::import::{Imported, Keys, NotImported};
use crate::registry::{self, import};
use crate::rollout::request::Person;

/// Whose version it is: each forecaster counts its own.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Whose {
    /// Forecaster.
    forecaster: String,
}

/// Whose bundle comes, in whose name, and who made it.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Import {
    /// Forecaster; it must be defined here.
    forecaster: String,
    /// The person who decides this.
    by: String,
    /// Why, kept with the decision.
    #[serde(default)]
    reason: String,
    /// Where another hub made it: the public half of that hub's root, as its people tell it; 64 hex digits.
    root: Option<String>,
    /// And the `list` of that hub's `/v1/keys`.
    list: Option<String>,
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

/// A version's bundle, as devices get it.
///
/// # Errors
/// No such version, a bundle that was removed, or the database.
#[utoipa::path(get, path = "/v1/models/{version}/bundle", params(("version" = i64, Path), Whose), responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream"), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn bundle(
    State(rest): State<Rest>,
    Path(version): Path<i64>,
    Query(q): Query<Whose>,
) -> Result<impl IntoResponse, Problem> {
    let row = find(&rest, &q.forecaster, version).await?;
    let bytes = registry::bundle(&rest.hub.store, &row).await?;
    Ok(([(CONTENT_TYPE, OCTETS)], bytes))
}

/// This hub's public keys, by which another one checks its bundles.
#[utoipa::path(get, path = "/v1/keys", responses((status = 200, body = Keys)))]
pub(super) async fn keys(State(rest): State<Rest>) -> Json<Keys> {
    Json(Keys::of(&rest.hub.signer))
}

/// Makes a bundle a version, in a person's name: signatures are checked and the model runs once; one of another hub is signed
/// anew. It gets no title.
///
/// # Errors
/// A bundle that does not verify or run, or is here already; no such forecaster; nobody's name, or the database.
#[utoipa::path(post, path = "/v1/models", params(Import), request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses((status = 201, body = Imported), (status = 404, body = Problem), (status = 409, body = Problem), (status = 413, body = Problem), (status = 415, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn import(
    State(rest): State<Rest>,
    Query(q): Query<Import>,
    Octets(bytes): Octets,
) -> Result<(StatusCode, Json<Imported>), Problem> {
    let person = Person {
        name: &q.by,
        reason: &q.reason,
    };
    let keys = match (&q.root, &q.list) {
        (Some(root), Some(list)) => Some(Keys {
            root: root.clone(),
            list: list.clone(),
        }),
        (None, None) => None,
        _ => {
            return Err(Problem::invalid(
                "name `root` and `list` both, or neither where this hub made the bundle",
            ));
        }
    };
    let origin = keys.as_ref().map(|keys| (keys.root.as_str(), keys));
    let (store, signer) = (&rest.hub.store, &rest.hub.signer);
    let done = import::import(store, signer, &q.forecaster, bytes.into(), origin, person).await?;
    Ok((StatusCode::CREATED, Json(done)))
}

impl From<NotImported> for Problem {
    fn from(refused: NotImported) -> Self {
        let status = match refused {
            NotImported::Store(e) => return e.into(),
            NotImported::Refused(e) => return e.into(),
            NotImported::Failed(e) => return e.into(),
            NotImported::Bundle(_) => StatusCode::UNPROCESSABLE_ENTITY,
            NotImported::Undefined(_) => StatusCode::NOT_FOUND,
            NotImported::There(_) => StatusCode::CONFLICT,
        };
        Self::new(status, refused.to_string())
    }
}
