//! `GET /v1/drift-reports/...` and the errors of a forecaster: owns the shape of one report, never its contents.

use axum::Json;
use axum::extract::State;
use axum::response::Html;
use fieldcast_store::drift_reports::DriftReportRow;
use serde_json::{Value, json};

use super::Rest;
use super::extract::Path;
use super::problem::Problem;
use crate::drift::estimate;
use crate::page::{Panel, page};

/// One drift report with everything behind it.
///
/// # Errors
/// No such report, or the database.
#[utoipa::path(get, path = "/v1/drift-reports/{id}", params(("id" = i64, Path)), responses((status = 200, body = Value), (status = 404, body = Problem)))]
pub(super) async fn drift_report(
    State(rest): State<Rest>,
    Path(id): Path<i64>,
) -> Result<Json<Value>, Problem> {
    Ok(Json(json!(find(&rest, id).await?)))
}

/// One drift report as a page that needs nothing from elsewhere.
///
/// # Errors
/// No such report, or the database.
#[utoipa::path(get, path = "/v1/drift-reports/{id}/page", params(("id" = i64, Path)), responses((status = 200, content_type = "text/html", body = String), (status = 404, body = Problem)))]
pub(super) async fn drift_report_page(
    State(rest): State<Rest>,
    Path(id): Path<i64>,
) -> Result<Html<String>, Problem> {
    let row = find(&rest, id).await?;
    let words = row.report["words"]
        .as_str()
        .unwrap_or("No words were stored.");
    let of = match row.kind.as_str() {
        "concept" => "the errors of the forecasts",
        _ => "the inputs",
    };
    let about = [
        format!(
            "Drift report {} on {of} of {}, model version {}; data until {}.",
            row.id,
            row.forecaster,
            row.model_version,
            row.data_time.format("%-d %B %Y %H:%M UTC")
        ),
        match (row.kind.as_str(), row.confirmed) {
            ("covariate", _) => {
                "A device's warning; the hub's own look at the inputs is a report by itself."
                    .to_owned()
            }
            (_, true) => format!("Confirmed; began about {}.", row.onset.format("%-d %B %Y")),
            (_, false) => "Not confirmed.".to_owned(),
        },
    ];
    let panels: Vec<Panel> =
        serde_json::from_value(row.report["panels"].clone()).unwrap_or_default();
    let drift = row.confirmed || row.kind == "covariate";
    Ok(Html(page(words, drift, &about, &panels)))
}

async fn find(rest: &Rest, id: i64) -> Result<DriftReportRow, Problem> {
    rest.hub.store.drift_report(id).await?.ok_or_else(|| {
        Problem::not_found(format!(
            "there is no drift report {id}; see /v1/drift-reports"
        ))
    })
}

/// Errors of the champion day by day: measured, and estimated by the width of its intervals where actual values are still to come.
///
/// # Errors
/// No such forecaster, no champion, one whose training left no measure, or the database.
#[utoipa::path(get, path = "/v1/forecasters/{name}/errors", params(("name" = String, Path)), responses((status = 200, body = Value), (status = 404, body = Problem)))]
pub(super) async fn forecaster_errors(
    State(rest): State<Rest>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    let store = &rest.hub.store;
    let forecaster = store.forecaster(&name).await?.ok_or_else(|| {
        Problem::not_found(format!(
            "there is no forecaster {name}; see /v1/forecasters"
        ))
    })?;
    let champion = store.champion(&name).await?.ok_or_else(|| {
        Problem::not_found(format!("{name} has no champion yet; see /v1/training-runs"))
    })?;
    let found = estimate::errors(store, &forecaster.spec, &champion).await;
    let found = found?.ok_or_else(|| {
        Problem::not_found(format!(
            "version {} of {name} has made no forecast yet, or its training measured too few days; see /v1/forecasts",
            champion.version
        ))
    })?;
    Ok(Json(json!(found)))
}
