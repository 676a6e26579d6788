//! `GET /v1/...`: owns the shape and paging of lists, never their contents.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, SecondsFormat, Utc};
use fieldcast_features::time_text;
use fieldcast_store::aliases::Title;
use fieldcast_store::listing::DeviceItem;
use fieldcast_wire::{Sha256, message, pb};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::Rest;
use super::extract::{Path, Query};
use super::problem::Problem;
use crate::rollout;

const MAX_LIMIT: i64 = 1_000;
/// No list is longer; what is added to a cursor cannot overflow.
const MAX_CURSOR: i64 = 1 << 52;

/// Paging of every list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Page {
    /// Most items, 1 to 1000; 100 where it is left out.
    limit: Option<i64>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// A filter.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct OfForecaster {
    /// Only of this forecaster.
    pub(super) forecaster: Option<String>,
}

/// A filter.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct OfDevice {
    /// Only of this device.
    pub(super) device: Option<String>,
}

/// A filter.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Confirmed {
    /// Only such drift reports.
    confirmed: Option<bool>,
}

/// Whose readings.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct OfSensor {
    /// Device.
    device: String,
    /// Sensor.
    sensor: String,
}

/// A filter.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Since {
    /// Only from this time on, RFC 3339.
    from: Option<String>,
}

/// One page.
#[derive(Debug, Serialize, ToSchema)]
pub struct Items {
    /// In the list's order.
    items: Vec<Value>,
    /// Cursor of the page behind this one; null at the end.
    next: Option<String>,
}

type Answer = Result<Json<Items>, Problem>;

impl Page {
    fn limit(&self) -> Result<i64, Problem> {
        let limit = self.limit.unwrap_or(100);
        if (1..=MAX_LIMIT).contains(&limit) {
            return Ok(limit);
        }
        Err(Problem::invalid(format!(
            "limit {limit} must be 1 to {MAX_LIMIT}"
        )))
    }

    /// The cursor as a number: where it goes on, or below which it goes on.
    fn number(&self) -> Result<Option<i64>, Problem> {
        let Some(text) = &self.cursor else {
            return Ok(None);
        };
        let number = text
            .parse()
            .ok()
            .filter(|n| (0..=MAX_CURSOR).contains(n))
            .ok_or_else(|| {
                Problem::invalid(format!(
                    "cursor `{text}` is none; pass `next` of the page before"
                ))
            })?;
        Ok(Some(number))
    }

    /// Where a page begins, and how many rows show whether there is another behind it.
    pub(super) fn window(&self) -> Result<(i64, i64), Problem> {
        Ok((self.number()?.unwrap_or(0), self.limit()? + 1))
    }

    /// The same for lists that count down.
    pub(super) fn before(&self) -> Result<(Option<i64>, i64), Problem> {
        Ok((self.number()?, self.limit()? + 1))
    }

    /// The same for lists by name: behind which name a page begins.
    pub(super) fn behind(&self) -> Result<(&str, i64), Problem> {
        Ok((self.cursor.as_deref().unwrap_or(""), self.limit()? + 1))
    }
}

impl Since {
    fn time(&self) -> Result<Option<DateTime<Utc>>, Problem> {
        self.from.as_deref().map(time).transpose()
    }
}

/// A time as RFC 3339, or `YYYY-MM-DD[ HH:MM[:SS]]` in UTC.
pub(super) fn time(text: &str) -> Result<DateTime<Utc>, Problem> {
    // A year alone would be taken for Unix seconds.
    let number = text.trim().parse::<f64>().is_ok();
    let time = time_text::parse(text).ok().filter(|_| !number);
    time.and_then(DateTime::from_timestamp_millis)
        .ok_or_else(|| {
            Problem::invalid(format!(
                "`{text}` is no time; write it as 2026-01-31T12:00:00Z"
            ))
        })
}

pub(super) fn text_of(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// Times as everywhere in this interface: RFC 3339 in UTC without needless digits.
fn value_of(row: &impl Serialize) -> Value {
    let mut value = json!(row);
    for key in ["time", "origin"] {
        if let Some(text) = value[key]
            .as_str()
            .and_then(|t| DateTime::parse_from_rfc3339(t).ok())
        {
            value[key] = json!(text_of(text.with_timezone(&Utc)));
        }
    }
    value
}

/// A page of rows of which one more was read than belongs to it; `cursor` is told the last row of the page.
pub(super) fn page<T: Serialize>(
    mut rows: Vec<T>,
    read: i64,
    cursor: impl FnOnce(&T) -> String,
) -> Json<Items> {
    let limit = usize::try_from(read - 1).unwrap_or(0);
    let more = rows.len() > limit;
    rows.truncate(limit);
    Json(Items {
        next: rows.last().filter(|_| more).map(cursor),
        items: rows.iter().map(value_of).collect(),
    })
}

/// The cursor of lists that go on at a place.
pub(super) fn place<T>((offset, read): (i64, i64)) -> impl FnOnce(&T) -> String {
    move |_| offset.saturating_add(read - 1).to_string()
}

/// A device with what its last state says of trust and models.
fn described(item: &DeviceItem) -> Value {
    let raw = item.raw.as_deref();
    let state = raw.and_then(|raw| message::decode::<pb::State>("state", raw).ok());
    let mut value = json!(item.device);
    value["key_list_version"] = json!(state.as_ref().map(|s| s.key_list_version));
    value["refused"] = json!(state.as_ref().map(|s| s.refused.as_str()));
    value["forecasters"] = json!(running(state));
    value
}

fn running(state: Option<pb::State>) -> Vec<Value> {
    let hex = |bytes: &[u8]| Sha256::from_slice(bytes).map_or_else(String::new, |s| s.to_string());
    let one = |f: pb::ForecasterState| {
        let phase = f
            .phase()
            .as_str_name()
            .trim_start_matches("MODEL_PHASE_")
            .to_lowercase();
        // Since the agent's start there may have been none.
        let last = Some(f.last_forecast_ms).filter(|ms| *ms > 0);
        let last = last.and_then(DateTime::from_timestamp_millis);
        json!({"forecaster": f.forecaster, "running": hex(&f.running), "model_version": f.model_version,
            "phase": phase, "reason": f.reason, "generation": f.generation, "forecasts": f.forecasts,
            "last_forecast": last.map(text_of)})
    };
    state
        .map(|s| s.forecasters.into_iter().map(one).collect())
        .unwrap_or_default()
}

/// Devices and what runs on them, by name.
///
/// # Errors
/// The database, or a page that is none.
#[utoipa::path(get, path = "/v1/devices", params(Page), responses((status = 200, body = Items)))]
pub async fn devices(State(rest): State<Rest>, Query(q): Query<Page>) -> Answer {
    let (after, read) = q.behind()?;
    let rows: Vec<Value> = rest
        .hub
        .store
        .list_devices(after, read)
        .await?
        .iter()
        .map(described)
        .collect();
    Ok(page(rows, read, |d| named(d, "id")))
}

fn named(row: &Value, key: &str) -> String {
    row[key].as_str().unwrap_or_default().to_owned()
}

/// Forecasters with their definitions, champions and challengers, by name.
///
/// # Errors
/// The database, or a page that is none.
#[utoipa::path(get, path = "/v1/forecasters", params(Page), responses((status = 200, body = Items)))]
pub async fn forecasters(State(rest): State<Rest>, Query(q): Query<Page>) -> Answer {
    let (after, read) = q.behind()?;
    let wanted = usize::try_from(read).unwrap_or(0);
    let mut rows = rest.hub.store.forecasters().await?;
    // The same order as the cursor's comparison, whatever the database's collation is.
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    let mut values = Vec::new();
    for row in rows
        .into_iter()
        .filter(|f| f.name.as_str() > after)
        .take(wanted)
    {
        let champion = rest.hub.store.champion(&row.name).await?;
        let challenger = rest.hub.store.holder(Title::Challenger, &row.name).await?;
        let mut value = json!(row);
        value["challenger"] = json!(challenger);
        value["champion"] = json!(champion.as_ref().map(|c| c.version));
        value["on_trial"] = json!(champion.as_ref().is_some_and(|c| c.on_trial));
        value["bundle"] = json!(champion.map(|c| c.bundle));
        values.push(value);
    }
    Ok(page(values, read, |f| named(f, "name")))
}

/// Model versions, newest first.
///
/// # Errors
/// The database, or a page that is none.
#[utoipa::path(get, path = "/v1/models", params(Page, OfForecaster), responses((status = 200, body = Items)))]
pub async fn models(
    State(rest): State<Rest>,
    Query(q): Query<Page>,
    Query(of): Query<OfForecaster>,
) -> Answer {
    let window = q.window()?;
    let rows = rest
        .hub
        .store
        .model_versions(of.forecaster.as_deref(), window.0, window.1)
        .await?;
    Ok(page(rows, window.1, place(window)))
}

/// Training runs, newest first.
///
/// # Errors
/// The database, or a page that is none.
#[utoipa::path(get, path = "/v1/training-runs", params(Page, OfForecaster), responses((status = 200, body = Items)))]
pub async fn training_runs(
    State(rest): State<Rest>,
    Query(q): Query<Page>,
    Query(of): Query<OfForecaster>,
) -> Answer {
    let (before, read) = q.before()?;
    let rows = rest
        .hub
        .store
        .training_runs(of.forecaster.as_deref(), before, read)
        .await?;
    Ok(page(rows, read, |r| r.id.to_string()))
}

/// Drift reports, newest first.
///
/// # Errors
/// The database, or a page that is none.
#[utoipa::path(get, path = "/v1/drift-reports", params(Page, OfForecaster, Confirmed), responses((status = 200, body = Items)))]
pub async fn drift_reports(
    State(rest): State<Rest>,
    Query(q): Query<Page>,
    Query(of): Query<OfForecaster>,
    Query(only): Query<Confirmed>,
) -> Answer {
    let (before, read) = q.before()?;
    let rows = rest
        .hub
        .store
        .drift_reports(of.forecaster.as_deref(), only.confirmed, before, read)
        .await?;
    Ok(page(rows, read, |r| r.id.to_string()))
}

/// Alarms that devices and hub raised or ended, newest first.
///
/// # Errors
/// The database, or a page that is none.
#[utoipa::path(get, path = "/v1/alarms", params(Page, OfDevice), responses((status = 200, body = Items)))]
pub async fn alarms(
    State(rest): State<Rest>,
    Query(q): Query<Page>,
    Query(of): Query<OfDevice>,
) -> Answer {
    let (before, read) = q.before()?;
    let rows = rest
        .hub
        .store
        .alarms(of.device.as_deref(), before, read)
        .await?;
    Ok(page(rows, read, |r| r.id.to_string()))
}

/// What devices had to drop or could not read, newest first: no loss is silent.
///
/// # Errors
/// The database, or a page that is none.
#[utoipa::path(get, path = "/v1/gaps", params(Page, OfDevice), responses((status = 200, body = Items)))]
pub async fn gaps(
    State(rest): State<Rest>,
    Query(q): Query<Page>,
    Query(of): Query<OfDevice>,
) -> Answer {
    let (before, read) = q.before()?;
    let rows = rest
        .hub
        .store
        .gaps(of.device.as_deref(), before, read)
        .await?;
    Ok(page(rows, read, |r| r.id.to_string()))
}

/// Decisions and their reasons, newest first.
///
/// # Errors
/// The database, or a page that is none.
#[utoipa::path(get, path = "/v1/decisions", params(Page, OfForecaster), responses((status = 200, body = Items)))]
pub async fn decisions(
    State(rest): State<Rest>,
    Query(q): Query<Page>,
    Query(of): Query<OfForecaster>,
) -> Answer {
    let (before, read) = q.before()?;
    let rows = rest
        .hub
        .store
        .decisions(of.forecaster.as_deref(), before, read)
        .await?;
    Ok(page(rows, read, |r| r.id.to_string()))
}

/// Rollouts, newest first.
///
/// # Errors
/// The database, or a page that is none.
#[utoipa::path(get, path = "/v1/rollouts", params(Page, OfForecaster), responses((status = 200, body = Items)))]
pub async fn rollouts(
    State(rest): State<Rest>,
    Query(q): Query<Page>,
    Query(of): Query<OfForecaster>,
) -> Answer {
    let (before, read) = q.before()?;
    let rows = rest
        .hub
        .store
        .rollouts(of.forecaster.as_deref(), before, read)
        .await?;
    Ok(page(rows, read, |r| r.id.to_string()))
}

/// Open rollouts, oldest first, each with what it waits for: what `rollout status` shows.
///
/// # Errors
/// The database, or a state that a newer hub wrote.
#[utoipa::path(get, path = "/v1/open-rollouts", responses((status = 200, body = Items)))]
pub async fn open_rollouts(State(rest): State<Rest>) -> Answer {
    let now = crate::clock::now().timestamp_millis();
    let open = rollout::overview::open(&rest.hub.store, now).await?;
    Ok(Json(Items {
        items: open.iter().map(|o| json!(o)).collect(),
        next: None,
    }))
}

/// One rollout with how many devices are how far and what it waits for, and what the new model showed beside the old one: in numbers (`machine.evidence`) and in words.
///
/// # Errors
/// No such rollout, or the database.
#[utoipa::path(get, path = "/v1/rollouts/{id}", params(("id" = i64, Path)), responses((status = 200, body = Value), (status = 404, body = Problem)))]
pub async fn rollout(
    State(rest): State<Rest>,
    Path(id): Path<i64>,
) -> Result<Json<Value>, Problem> {
    let (row, devices) = rest
        .hub
        .store
        .rollout(id)
        .await?
        .ok_or_else(|| no_rollout(id))?;
    let mut value = json!(row);
    value["evidence"] = json!(rollout::rows::evidence_of(&row).map(|e| e.to_string()));
    value["stage"] = json!(rollout::rows::stage_of(&row));
    let now = crate::clock::now().timestamp_millis();
    if let Ok(seen) = rollout::overview::overview(&row, &devices, now) {
        value["waits_for"] = json!(seen.waits_for);
        value["counts"] = json!(seen.devices);
    }
    Ok(Json(value))
}

fn no_rollout(id: i64) -> Problem {
    Problem::not_found(format!("there is no rollout {id}; see /v1/rollouts"))
}

/// The devices of a rollout by name, and how far each is.
///
/// # Errors
/// No such rollout, the database, or a page that is none.
#[utoipa::path(get, path = "/v1/rollouts/{id}/devices", params(("id" = i64, Path), Page), responses((status = 200, body = Items), (status = 404, body = Problem)))]
pub async fn rollout_devices(
    State(rest): State<Rest>,
    Path(id): Path<i64>,
    Query(q): Query<Page>,
) -> Answer {
    let (after, read) = q.behind()?;
    let store = &rest.hub.store;
    let rows = store.rollout_devices(id, after, read).await?;
    if rows.is_empty() {
        store.rollout(id).await?.ok_or_else(|| no_rollout(id))?;
    }
    Ok(page(rows, read, |d| d.device.clone()))
}

/// Readings of one sensor, oldest first.
///
/// # Errors
/// `device` or `sensor` left out, or the database.
#[utoipa::path(get, path = "/v1/readings", params(Page, OfSensor, Since), responses((status = 200, body = Items), (status = 422, body = Problem)))]
pub async fn readings(
    State(rest): State<Rest>,
    Query(q): Query<Page>,
    Query(of): Query<OfSensor>,
    Query(since): Query<Since>,
) -> Answer {
    let window = q.window()?;
    let rows = rest
        .hub
        .store
        .list_readings(&of.device, &of.sensor, since.time()?, window)
        .await?;
    Ok(page(rows, window.1, place(window)))
}

/// Forecasts, oldest first.
///
/// # Errors
/// The database, or a page that is none.
#[utoipa::path(get, path = "/v1/forecasts", params(Page, OfDevice, OfForecaster, Since), responses((status = 200, body = Items)))]
pub async fn forecasts(
    State(rest): State<Rest>,
    Query(q): Query<Page>,
    Query(device): Query<OfDevice>,
    Query(forecaster): Query<OfForecaster>,
    Query(since): Query<Since>,
) -> Answer {
    let window = q.window()?;
    let rows = rest
        .hub
        .store
        .list_forecasts(
            device.device.as_deref(),
            forecaster.forecaster.as_deref(),
            since.time()?,
            window,
        )
        .await?;
    Ok(page(rows, window.1, place(window)))
}
