//! `GET /v1/...`: owns the shape and paging of lists, never their contents.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, SecondsFormat, Utc};
use fieldcast_store::rollouts::FleetRow;
use fieldcast_wire::{Sha256, message, pb};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::Rest;
use super::extract::{Path, Query};
use super::problem::Problem;

const MAX_LIMIT: i64 = 1_000;

/// Paging and filters of every list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Page {
    /// Most items, 1 to 1000; 100 where it is left out.
    limit: Option<i64>,
    /// `next` of the page before.
    cursor: Option<String>,
    /// Only of this forecaster.
    forecaster: Option<String>,
    /// Only of this device.
    device: Option<String>,
    /// Only of this sensor (readings).
    sensor: Option<String>,
    /// Only from this time on (readings, forecasts), RFC 3339.
    from: Option<String>,
    /// Only such drift reports.
    confirmed: Option<bool>,
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
    fn window(&self) -> Result<(i64, i64), Problem> {
        let limit = self.limit.unwrap_or(100);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(Problem::invalid(format!(
                "limit {limit} must be 1 to {MAX_LIMIT}"
            )));
        }
        let offset = match &self.cursor {
            None => 0,
            Some(text) => text
                .parse::<i64>()
                .ok()
                .filter(|o| *o >= 0)
                .ok_or_else(|| {
                    Problem::invalid(format!(
                        "cursor `{text}` is none; pass `next` of the page before"
                    ))
                })?,
        };
        Ok((offset, limit))
    }

    fn from(&self) -> Result<Option<DateTime<Utc>>, Problem> {
        self.from.as_deref().map(time).transpose()
    }
}

/// A time as RFC 3339, or `YYYY-MM-DD[ HH:MM[:SS]]` in UTC.
pub(super) fn time(text: &str) -> Result<DateTime<Utc>, Problem> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.with_timezone(&Utc));
    }
    let text = text.replace('T', " ");
    let naive = ["%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M"]
        .iter()
        .find_map(|f| chrono::NaiveDateTime::parse_from_str(&text, f).ok())
        .or_else(|| {
            chrono::NaiveDate::parse_from_str(&text, "%Y-%m-%d")
                .ok()?
                .and_hms_opt(0, 0, 0)
        });
    naive.map(|t| t.and_utc()).ok_or_else(|| {
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

fn page<T: Serialize>(rows: &[T], (offset, limit): (i64, i64)) -> Json<Items> {
    let n = i64::try_from(rows.len()).unwrap_or(0);
    let next = (n == limit).then(|| (offset + n).to_string());
    Json(Items {
        items: rows.iter().map(value_of).collect(),
        next,
    })
}

/// Cuts a page out of a list that was read as a whole up to its end.
fn cut<T: Serialize>(rows: &[T], (offset, limit): (i64, i64)) -> Json<Items> {
    let at = usize::try_from(offset).unwrap_or(0).min(rows.len());
    let end = at
        .saturating_add(usize::try_from(limit).unwrap_or(0))
        .min(rows.len());
    let next = (end < rows.len()).then(|| end.to_string());
    Json(Items {
        items: rows[at..end].iter().map(value_of).collect(),
        next,
    })
}

fn running(device: &FleetRow) -> Vec<Value> {
    let state = device
        .raw
        .as_deref()
        .and_then(|raw| message::decode::<pb::State>("state", raw).ok());
    let hex = |bytes: &[u8]| Sha256::from_slice(bytes).map_or_else(String::new, |s| s.to_string());
    let one = |f: pb::ForecasterState| {
        let phase = f
            .phase()
            .as_str_name()
            .trim_start_matches("MODEL_PHASE_")
            .to_lowercase();
        json!({"forecaster": f.forecaster, "running": hex(&f.running), "model_version": f.model_version,
            "phase": phase, "reason": f.reason, "generation": f.generation, "forecasts": f.forecasts,
            "last_forecast": DateTime::from_timestamp_millis(f.last_forecast_ms).map(text_of)})
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
    let window = q.window()?;
    let fleet = rest.hub.store.fleet(&json!({}), "").await?;
    let Json(mut page) = cut(
        &fleet.iter().map(|d| d.device.clone()).collect::<Vec<_>>(),
        window,
    );
    for item in &mut page.items {
        let id = item.as_str().unwrap_or_default().to_owned();
        let Some(row) = rest.hub.store.device(&id).await? else {
            continue;
        };
        *item = json!(row);
        item["forecasters"] = json!(
            fleet
                .iter()
                .find(|d| d.device == id)
                .map(running)
                .unwrap_or_default()
        );
    }
    Ok(Json(page))
}

/// Forecasters with their definitions and champions.
///
/// # Errors
/// The database, or a page that is none.
#[utoipa::path(get, path = "/v1/forecasters", params(Page), responses((status = 200, body = Items)))]
pub async fn forecasters(State(rest): State<Rest>, Query(q): Query<Page>) -> Answer {
    let mut rows = Vec::new();
    for row in rest.hub.store.forecasters().await? {
        let champion = rest.hub.store.champion(&row.name).await?;
        let mut value = json!(row);
        value["champion"] = json!(champion.as_ref().map(|c| c.version));
        value["bundle"] = json!(champion.map(|c| c.bundle));
        rows.push(value);
    }
    Ok(cut(&rows, q.window()?))
}

/// Model versions, newest first.
///
/// # Errors
/// The database, or a page that is none.
#[utoipa::path(get, path = "/v1/models", params(Page), responses((status = 200, body = Items)))]
pub async fn models(State(rest): State<Rest>, Query(q): Query<Page>) -> Answer {
    let (offset, limit) = q.window()?;
    let mut rows = rest
        .hub
        .store
        .model_versions(q.forecaster.as_deref(), offset, limit)
        .await?;
    for row in &mut rows {
        // Golden vectors are for machines that run the bundle; here they would only fill pages.
        if let Some(manifest) = row.manifest.as_object_mut() {
            manifest.remove("golden");
        }
    }
    Ok(page(&rows, (offset, limit)))
}

/// Training runs, newest first.
///
/// # Errors
/// The database, or a page that is none.
#[utoipa::path(get, path = "/v1/training-runs", params(Page), responses((status = 200, body = Items)))]
pub async fn training_runs(State(rest): State<Rest>, Query(q): Query<Page>) -> Answer {
    let window = q.window()?;
    Ok(cut(
        &rest
            .hub
            .store
            .training_runs(q.forecaster.as_deref(), None, window.0 + window.1 + 1)
            .await?,
        window,
    ))
}

/// Drift reports, newest first.
///
/// # Errors
/// The database, or a page that is none.
#[utoipa::path(get, path = "/v1/drift-reports", params(Page), responses((status = 200, body = Items)))]
pub async fn drift_reports(State(rest): State<Rest>, Query(q): Query<Page>) -> Answer {
    let window = q.window()?;
    let mut rows = rest
        .hub
        .store
        .drift_reports(q.forecaster.as_deref(), None, 10_000)
        .await?;
    rows.retain(|r| q.confirmed.is_none_or(|c| r.confirmed == c));
    Ok(cut(&rows, window))
}

/// Decisions and their reasons, newest first.
///
/// # Errors
/// The database, or a page that is none.
#[utoipa::path(get, path = "/v1/decisions", params(Page), responses((status = 200, body = Items)))]
pub async fn decisions(State(rest): State<Rest>, Query(q): Query<Page>) -> Answer {
    let window = q.window()?;
    Ok(cut(
        &rest
            .hub
            .store
            .decisions(q.forecaster.as_deref(), None, window.0 + window.1 + 1)
            .await?,
        window,
    ))
}

/// Rollouts, newest first.
///
/// # Errors
/// The database, or a page that is none.
#[utoipa::path(get, path = "/v1/rollouts", params(Page), responses((status = 200, body = Items)))]
pub async fn rollouts(State(rest): State<Rest>, Query(q): Query<Page>) -> Answer {
    let window = q.window()?;
    Ok(cut(
        &rest
            .hub
            .store
            .rollouts(q.forecaster.as_deref(), None, window.0 + window.1 + 1)
            .await?,
        window,
    ))
}

/// One rollout with its devices.
///
/// # Errors
/// No such rollout, or the database.
#[utoipa::path(get, path = "/v1/rollouts/{id}", params(("id" = i64, Path)), responses((status = 200, body = Value), (status = 404, body = Problem)))]
pub async fn rollout(
    State(rest): State<Rest>,
    Path(id): Path<i64>,
) -> Result<Json<Value>, Problem> {
    let found = rest.hub.store.rollout(id).await?;
    let (row, devices) = found
        .ok_or_else(|| Problem::not_found(format!("there is no rollout {id}; see /v1/rollouts")))?;
    let mut value = json!(row);
    value["devices"] = json!(devices);
    Ok(Json(value))
}

/// Readings of one sensor, oldest first.
///
/// # Errors
/// `device` or `sensor` left out, or the database.
#[utoipa::path(get, path = "/v1/readings", params(Page), responses((status = 200, body = Items), (status = 422, body = Problem)))]
pub async fn readings(State(rest): State<Rest>, Query(q): Query<Page>) -> Answer {
    let (Some(device), Some(sensor)) = (&q.device, &q.sensor) else {
        return Err(Problem::invalid("name `device` and `sensor`"));
    };
    let window = q.window()?;
    Ok(page(
        &rest
            .hub
            .store
            .list_readings(device, sensor, q.from()?, window)
            .await?,
        window,
    ))
}

/// Forecasts, oldest first.
///
/// # Errors
/// The database, or a page that is none.
#[utoipa::path(get, path = "/v1/forecasts", params(Page), responses((status = 200, body = Items)))]
pub async fn forecasts(State(rest): State<Rest>, Query(q): Query<Page>) -> Answer {
    let window = q.window()?;
    let rows = rest
        .hub
        .store
        .list_forecasts(
            q.device.as_deref(),
            q.forecaster.as_deref(),
            q.from()?,
            window,
        )
        .await?;
    Ok(page(&rows, window))
}
