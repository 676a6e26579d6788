//! `/v1/experiments`: owns the routes by which people start, watch and stop experiments, never what is refused or why.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::Rest;
use super::extract::{JsonBody, Path, Query};
use super::lists::{Items, OfForecaster, Page, page};
use super::problem::Problem;
use crate::experiment::request::{self, Asked, Refusal};
use crate::rollout::request::Person;

/// An experiment that is asked for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewExperiment {
    /// Forecaster.
    forecaster: String,
    /// Version that is compared with.
    a: i64,
    /// Version that is compared.
    b: i64,
    /// Share of the devices that get B, 0.1 to 0.9; one half where it is left out.
    #[serde(default = "half")]
    share: f64,
    /// How long it takes.
    days: i32,
    /// Hours after a device joined that are not measured; 24 where it is left out.
    #[serde(default = "a_day")]
    settle_hours: i32,
    /// Labels that devices must carry, beside those of the forecaster's selector.
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// Sensor whose mean is compared; errors of forecasts where it is left out.
    #[serde(default)]
    sensor: Option<String>,
    /// The person who decides this.
    by: String,
    /// Why, kept with the decision.
    #[serde(default)]
    reason: String,
}

fn half() -> f64 {
    0.5
}

fn a_day() -> i32 {
    24
}

/// An experiment that was started.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Started {
    /// Its number.
    experiment: i64,
    /// What the number of devices can show, with warnings.
    #[schema(value_type = Object)]
    foreseen: Value,
}

/// Who ends it, and why.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Stop {
    /// The person who decides this.
    by: String,
    /// Why, kept with the experiment.
    #[serde(default)]
    reason: String,
}

/// An end on its way to the hub that drives experiments.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Stopping {
    /// The experiment's number.
    experiment: i64,
}

impl From<Refusal> for Problem {
    fn from(refused: Refusal) -> Self {
        let status = match refused {
            Refusal::Store(e) => return e.into(),
            Refusal::Forbidden(e) => return e.into(),
            Refusal::NotOpen(_) => StatusCode::NOT_FOUND,
            Refusal::Open(..) | Refusal::Incomparable(..) => StatusCode::CONFLICT,
            Refusal::Range(_) | Refusal::Label(..) => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self::new(status, refused.to_string())
    }
}

/// Starts an experiment in a person's name: two versions on randomised devices for a stated time.
///
/// # Errors
/// A version, number, label or name that does not hold, a rollout or experiment in the way, or the database.
#[utoipa::path(post, path = "/v1/experiments", request_body = NewExperiment, responses((status = 201, body = Started), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn start(
    State(rest): State<Rest>,
    JsonBody(new): JsonBody<NewExperiment>,
) -> Result<(StatusCode, Json<Started>), Problem> {
    let person = Person {
        name: &new.by,
        reason: &new.reason,
    };
    let asked = Asked {
        forecaster: new.forecaster,
        a: new.a,
        b: new.b,
        share: new.share,
        days: new.days,
        settle_hours: new.settle_hours,
        labels: new.labels,
        sensor: new.sensor,
    };
    let (experiment, foreseen) = request::start(&rest.hub.store, &asked, person).await?;
    let started = Started {
        experiment,
        foreseen: json!(foreseen),
    };
    Ok((StatusCode::CREATED, Json(started)))
}

/// Experiments, newest first.
///
/// # Errors
/// The database, or a page that is none.
#[utoipa::path(get, path = "/v1/experiments", params(Page, OfForecaster), responses((status = 200, body = Items)))]
pub(super) async fn experiments(
    State(rest): State<Rest>,
    Query(q): Query<Page>,
    Query(of): Query<OfForecaster>,
) -> Result<Json<Items>, Problem> {
    let (before, read) = q.before()?;
    let store = &rest.hub.store;
    let rows = store.experiments(of.forecaster.as_deref(), before, read);
    Ok(page(rows.await?, read, |r| r.id.to_string()))
}

/// One experiment with its report: at most five minutes old, and as it was kept once it has ended.
///
/// # Errors
/// No such experiment, or the database.
#[utoipa::path(get, path = "/v1/experiments/{id}", params(("id" = i64, Path)), responses((status = 200, body = Value), (status = 404, body = Problem)))]
pub(super) async fn experiment(
    State(rest): State<Rest>,
    Path(id): Path<i64>,
) -> Result<Json<Value>, Problem> {
    let store = &rest.hub.store;
    let (row, devices) = store.experiment(id).await?.ok_or_else(|| none(id))?;
    let report = rest.reports.of(store, &row, &devices).await?;
    let mut value = json!(row);
    value["report"] = report;
    Ok(Json(value))
}

fn none(id: i64) -> Problem {
    Problem::not_found(format!("there is no experiment {id}; see /v1/experiments"))
}

/// The devices of an experiment by name, what each drew and how it does with it.
///
/// # Errors
/// No such experiment, the database, or a page that is none.
#[utoipa::path(get, path = "/v1/experiments/{id}/devices", params(("id" = i64, Path), Page), responses((status = 200, body = Items), (status = 404, body = Problem)))]
pub(super) async fn devices(
    State(rest): State<Rest>,
    Path(id): Path<i64>,
    Query(q): Query<Page>,
) -> Result<Json<Items>, Problem> {
    let (after, read) = q.behind()?;
    let store = &rest.hub.store;
    let rows = store.experiment_devices(id, after, read).await?;
    if rows.is_empty() {
        store.experiment(id).await?.ok_or_else(|| none(id))?;
    }
    Ok(page(rows, read, |d| d.device.clone()))
}

/// Ends an experiment before its time in a person's name; the hub that drives experiments carries it out.
///
/// # Errors
/// No such experiment, nobody's name, or the database.
#[utoipa::path(post, path = "/v1/experiments/{id}/stop", params(("id" = i64, Path)), request_body = Stop, responses((status = 202, body = Stopping), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub(super) async fn stop(
    State(rest): State<Rest>,
    Path(id): Path<i64>,
    JsonBody(asked): JsonBody<Stop>,
) -> Result<(StatusCode, Json<Stopping>), Problem> {
    let person = Person {
        name: &asked.by,
        reason: &asked.reason,
    };
    request::stop(&rest.hub.store, id, person).await?;
    Ok((StatusCode::ACCEPTED, Json(Stopping { experiment: id })))
}
