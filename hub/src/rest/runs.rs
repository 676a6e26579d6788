//! `/v1/training-runs/{id}...`: owns the routes of one run, never what it does.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Html;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::Rest;
use super::extract::{JsonBody, Path, Query};
use super::lists::{Items, Page, page};
use super::problem::Problem;
use super::steer::By;
use crate::page::verdict;
use crate::training::cancel::{self, Refusal};

/// A run that was asked to end.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Cancelled {
    /// Its number.
    training_run: i64,
    /// Its status before it ends.
    status: String,
}

fn none(id: i64) -> Problem {
    Problem::not_found(format!(
        "there is no training run {id}; see /v1/training-runs"
    ))
}

/// One training run with its progress, scores and verdict.
///
/// # Errors
/// No such run, or the database.
#[utoipa::path(get, path = "/v1/training-runs/{id}", params(("id" = i64, Path)), responses((status = 200, body = Value), (status = 404, body = Problem)))]
pub(super) async fn training_run(
    State(rest): State<Rest>,
    Path(id): Path<i64>,
) -> Result<Json<Value>, Problem> {
    let row = rest.hub.store.training_run(id).await?;
    row.map(|row| Json(json!(row))).ok_or_else(|| none(id))
}

/// The verdict on what a run made as a page that needs nothing from elsewhere: numbers, losses by day, rules, who decided.
///
/// # Errors
/// No such run, one without a verdict, or the database.
#[utoipa::path(get, path = "/v1/training-runs/{id}/page", params(("id" = i64, Path)), responses((status = 200, content_type = "text/html", body = String), (status = 404, body = Problem)))]
pub(super) async fn training_run_page(
    State(rest): State<Rest>,
    Path(id): Path<i64>,
) -> Result<Html<String>, Problem> {
    let row = rest.hub.store.training_run(id).await?;
    let page = verdict::of(&row.ok_or_else(|| none(id))?);
    page.map(Html).ok_or_else(|| {
        Problem::not_found(format!(
            "training run {id} has no verdict; /v1/training-runs/{id} says how far it is"
        ))
    })
}

/// A run's history, oldest first; `next` goes on behind the last line.
///
/// # Errors
/// No such run, or the database.
#[utoipa::path(get, path = "/v1/training-runs/{id}/logs", params(("id" = i64, Path), Page), responses((status = 200, body = Items), (status = 404, body = Problem)))]
pub(super) async fn training_run_logs(
    State(rest): State<Rest>,
    Path(id): Path<i64>,
    Query(q): Query<Page>,
) -> Result<Json<Items>, Problem> {
    let (after, read) = q.window()?;
    let store = &rest.hub.store;
    if store.job(id).await?.is_none() {
        return Err(none(id));
    }
    let lines = store.job_lines(id, after).await?;
    let read_of = usize::try_from(read).unwrap_or(usize::MAX);
    let lines: Vec<_> = lines.into_iter().take(read_of).collect();
    Ok(page(lines, read, |l| l.id.to_string()))
}

impl From<Refusal> for Problem {
    fn from(refused: Refusal) -> Self {
        let status = match refused {
            Refusal::Store(e) => return e.into(),
            Refusal::Person(e) => return e.into(),
            Refusal::NoRun(_) => StatusCode::NOT_FOUND,
            Refusal::Over(..) => StatusCode::CONFLICT,
        };
        Self::new(status, refused.to_string())
    }
}

/// Asks a run to end, in a person's name, which its history keeps.
///
/// # Errors
/// No such run, one that is over, nobody's name, or the database.
#[utoipa::path(post, path = "/v1/training-runs/{id}/cancel", params(("id" = i64, Path)), request_body = By, responses((status = 202, body = Cancelled), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn cancel_training_run(
    State(rest): State<Rest>,
    Path(id): Path<i64>,
    JsonBody(asked): JsonBody<By>,
) -> Result<(StatusCode, Json<Cancelled>), Problem> {
    let status = cancel::cancel(&rest.hub.store, id, asked.person()).await?;
    let cancelled = Cancelled {
        training_run: id,
        status,
    };
    Ok((StatusCode::ACCEPTED, Json(cancelled)))
}
