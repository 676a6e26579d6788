//! `POST /predict` as the replaced system answered it, and `POST /v1/predict`: owns their shapes, never a model.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::DateTime;
use fieldcast_features::{FeatureRow, ForecasterSpec, Millis, Preset, WindowBuilder};
use fieldcast_runtime::LoadedModel;
use fieldcast_store::model_versions::ModelVersionRow;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::Rest;
use super::extract::Body;
use super::history;
use super::lists::{text_of, time};
use super::problem::Problem;
use crate::features;
use crate::registry::{self, OpenError};

/// What the replaced system was asked.
#[derive(Debug, Deserialize, ToSchema)]
pub struct Weather {
    /// Degrees Celsius.
    temperature: f64,
    /// Percent.
    humidity: f64,
}

/// What it answered.
#[derive(Debug, Serialize, ToSchema)]
pub struct Demand {
    /// Version of the model.
    model_version: String,
    /// Demand of the next step.
    predicted_demand: f64,
}

fn detail(status: StatusCode, text: impl Into<String>) -> Response {
    (status, Json(json!({"detail": text.into()}))).into_response()
}

/// The next step's demand from the last stored rows and the request's.
#[utoipa::path(post, path = "/predict", request_body = Weather, responses((status = 200, body = Demand), (status = 422), (status = 500)))]
pub async fn predict(State(rest): State<Rest>, Body(body): Body) -> Response {
    let weather: Weather = match serde_json::from_slice(&body) {
        Ok(weather) => weather,
        Err(e) => {
            return detail(
                StatusCode::UNPROCESSABLE_ENTITY,
                format!("{e}; send {{\"temperature\": .., \"humidity\": ..}}"),
            );
        }
    };
    if !weather.temperature.is_finite() || !weather.humidity.is_finite() {
        return detail(
            StatusCode::UNPROCESSABLE_ENTITY,
            "temperature and humidity must be numbers",
        );
    }
    match from_weather(&rest, &weather).await {
        Ok(demand) => Json(demand).into_response(),
        Err(problem) => detail(StatusCode::INTERNAL_SERVER_ERROR, problem.detail),
    }
}

async fn from_weather(rest: &Rest, weather: &Weather) -> Result<Demand, Problem> {
    let store = &rest.hub.store;
    let mut found: Option<(ForecasterSpec, ModelVersionRow)> = None;
    for row in store.forecasters().await? {
        let fits = ["temperature", "humidity"]
            .iter()
            .all(|i| row.spec.inputs.iter().any(|x| x == i));
        let Some(champion) = store.champion(&row.name).await?.filter(|_| fits) else {
            continue;
        };
        // The replaced system had one model: where there are several, its own preset comes first.
        if found.is_none() || row.spec.preset == Preset::Classic {
            found = Some((row.spec, champion));
        }
    }
    let (spec, champion) = found.ok_or_else(|| {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "no model of temperature and humidity is trained; train one first",
        )
    })?;
    let (period, needed) = (spec.period_ms(), spec.lookback - 1);
    let mut history: Vec<FeatureRow> = Vec::new();
    for device in features::devices(store, &spec).await? {
        let rows = history::newest(store, &spec, &device, needed).await?;
        if rows.last().map(|r| r.time) > history.last().map(|r| r.time) {
            history = rows;
        }
    }
    if history.len() < needed {
        let text = format!(
            "not enough history: {} of {needed} rows are stored",
            history.len()
        );
        return Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, text));
    }
    let mut rows = history.split_off(history.len() - needed);
    let origin = rows.last().map_or(0, |r| r.time) + period;
    if spec.preset == Preset::Classic {
        for (back, row) in rows.iter_mut().rev().enumerate() {
            row.time = origin - period * (Millis::try_from(back).unwrap_or(0) + 1);
        }
    }
    let mut last = FeatureRow::missing(origin, spec.channels().len());
    for (channel, value) in spec.channels().iter().zip(&mut last.values) {
        match *channel {
            "temperature" => *value = weather.temperature,
            "humidity" => *value = weather.humidity,
            _ => {}
        }
    }
    rows.push(last);
    let model = loaded(rest, &champion).await?;
    let window = WindowBuilder::new(&spec)
        .and_then(|b| b.at(&rows, origin))
        .map_err(|e| Problem::invalid(e.to_string()))?;
    let out = model
        .forecast(&window)
        .map_err(|e| Problem::invalid(e.to_string()))?;
    let predicted_demand = out.mean.first().copied().unwrap_or(f64::NAN);
    Ok(Demand {
        model_version: champion.version.to_string(),
        predicted_demand,
    })
}

/// A question to any model.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// Forecaster.
    forecaster: String,
    /// Device whose stored readings are the history; may be left out where `history` is given.
    #[serde(default)]
    device: Option<String>,
    /// Grid time of the last row, RFC 3339; the newest where it is left out.
    #[serde(default)]
    origin: Option<String>,
    /// Rows in place of the stored ones.
    #[serde(default)]
    history: Option<Vec<HistoryRow>>,
    /// Version; the champion where it is left out.
    #[serde(default)]
    model_version: Option<i64>,
}

/// One row of history.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HistoryRow {
    /// Grid time, RFC 3339.
    time: String,
    /// Value of each channel; what is left out is missing.
    values: BTreeMap<String, Option<f64>>,
}

/// A forecast.
#[derive(Debug, Serialize, ToSchema)]
pub struct Forecast {
    forecaster: String,
    device: Option<String>,
    model_version: i64,
    bundle: String,
    origin: String,
    /// Time of each step.
    times: Vec<String>,
    mean: Vec<f64>,
    levels: Vec<f64>,
    /// One list a step, in the order of `levels`.
    quantiles: Vec<Vec<f64>>,
}

/// Forecasts with any version of any forecaster.
///
/// # Errors
/// An unknown name, too little history, or the database.
#[utoipa::path(post, path = "/v1/predict", request_body = Question, responses((status = 200, body = Forecast), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub async fn predict_v1(
    State(rest): State<Rest>,
    Body(body): Body,
) -> Result<Json<Forecast>, Problem> {
    let q: Question =
        serde_json::from_slice(&body).map_err(|e| Problem::invalid(format!("{e}; see /docs")))?;
    let store = &rest.hub.store;
    let row = match q.model_version {
        Some(version) => store.model_version(&q.forecaster, version).await?,
        None => store.champion(&q.forecaster).await?,
    };
    let row = row.ok_or_else(|| {
        Problem::not_found(format!(
            "`{}` has no such model; see /v1/models?forecaster={}",
            q.forecaster, q.forecaster
        ))
    })?;
    let spec: ForecasterSpec = serde_json::from_value(row.manifest["forecaster"].clone())
        .map_err(|e| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    let origin = q
        .origin
        .as_deref()
        .map(time)
        .transpose()?
        .map(|t| t.timestamp_millis());
    let rows = rows_for(&rest, &spec, &q, origin).await?;
    let origin = match origin.or_else(|| rows.last().map(|r| r.time)) {
        Some(origin) => origin,
        None => {
            return Err(Problem::invalid(
                "there are no readings to forecast from; wait for some or send `history`",
            ));
        }
    };
    let model = loaded(&rest, &row).await?;
    let window = WindowBuilder::new(&spec)
        .and_then(|b| b.at(&rows, origin))
        .map_err(|e| Problem::invalid(e.to_string()))?;
    let out = model
        .forecast(&window)
        .map_err(|e| Problem::invalid(e.to_string()))?;
    let text = |ms: Millis| {
        DateTime::from_timestamp_millis(ms)
            .map(text_of)
            .unwrap_or_default()
    };
    Ok(Json(Forecast {
        forecaster: q.forecaster,
        device: q.device,
        model_version: row.version,
        bundle: row.bundle,
        origin: text(origin),
        times: (0..spec.horizon)
            .map(|h| text(window.horizon_time(h, spec.period_ms())))
            .collect(),
        mean: out.mean,
        levels: spec.quantiles.clone(),
        quantiles: out
            .quantiles
            .chunks(spec.quantiles.len().max(1))
            .map(<[f64]>::to_vec)
            .collect(),
    }))
}

async fn rows_for(
    rest: &Rest,
    spec: &ForecasterSpec,
    q: &Question,
    origin: Option<Millis>,
) -> Result<Vec<FeatureRow>, Problem> {
    if let Some(history) = &q.history {
        let mut rows = Vec::new();
        for given in history {
            let channels = spec.channels();
            if let Some(name) = given
                .values
                .keys()
                .find(|k| !channels.contains(&k.as_str()))
            {
                return Err(Problem::invalid(format!(
                    "history names `{name}`; the channels are {}",
                    channels.join(", ")
                )));
            }
            let mut row =
                FeatureRow::missing(time(&given.time)?.timestamp_millis(), channels.len());
            for (channel, value) in channels.iter().zip(&mut row.values) {
                *value = given
                    .values
                    .get(*channel)
                    .copied()
                    .flatten()
                    .unwrap_or(f64::NAN);
            }
            rows.push(row);
        }
        rows.sort_by_key(|r| r.time);
        return Ok(rows);
    }
    let store = &rest.hub.store;
    let device = q
        .device
        .as_ref()
        .ok_or_else(|| Problem::invalid("name a `device`, or send `history`"))?;
    if store.device(device).await?.is_none() {
        return Err(Problem::not_found(format!(
            "there is no device `{device}`; see /v1/devices"
        )));
    }
    let sensors: Vec<String> = spec
        .channels()
        .iter()
        .map(|c| spec.sensor_of(c).to_owned())
        .collect();
    let period = spec.period_ms();
    let until = match origin {
        Some(origin) => origin,
        None => match store.reading_span(device, &sensors).await? {
            Some((_, last)) => last.div_euclid(period) * period,
            None => return Ok(Vec::new()),
        },
    };
    let span = period * Millis::try_from(spec.lookback + 1).unwrap_or(1);
    Ok(features::newest_rows(store, spec, device, (until - span, until)).await?)
}

async fn loaded(rest: &Rest, row: &ModelVersionRow) -> Result<Arc<LoadedModel>, Problem> {
    let cached = rest
        .models
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&row.bundle)
        .cloned();
    if let Some(model) = cached {
        return Ok(model);
    }
    let model = registry::open(&rest.hub.store, &rest.hub.signer, row)
        .await
        .map_err(|e| match e {
            OpenError::Store(e) => e.into(),
            e => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
        })?;
    let mut models = rest.models.lock().unwrap_or_else(PoisonError::into_inner);
    if models.len() >= 16 {
        models.clear();
    }
    models.insert(row.bundle.clone(), Arc::clone(&model));
    Ok(model)
}
