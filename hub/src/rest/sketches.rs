//! `GET /v1/sketches`: owns the merge of what devices told of a sensor's readings and its shape; it never reads a reading.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use fieldcast_drift::sketch::{Sketch, SketchError, Stored};
use fieldcast_features::{Millis, time_text};
use fieldcast_store::sketches::{MOST, SketchRow};
use fieldcast_wire::caps::{MAX_TIME_MS, MIN_TIME_MS};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Rest;
use super::extract::Query;
use super::problem::Problem;

const LEVELS: [f64; 9] = [0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99];

/// What is asked.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// Sensor.
    sensor: String,
    /// Only of this device.
    device: Option<String>,
    /// Only of weeks that begin at this time or later, RFC 3339.
    from: Option<String>,
    /// Only of weeks that end at this time or earlier, RFC 3339.
    to: Option<String>,
}

/// Good readings of one device or of all, merged.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Merged {
    /// Readings.
    count: u64,
    /// Suspect and bad ones that are not in it.
    left_out: u64,
    /// Mean.
    mean: Option<f64>,
    /// Deviation.
    deviation: Option<f64>,
    /// Smallest.
    min: Option<f64>,
    /// Largest.
    max: Option<f64>,
    /// Level and value; a rank is off by less than 2.4 % with 99 % probability.
    quantiles: Vec<(f64, f64)>,
}

/// The fleet and its devices.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Answer {
    /// Begin of the earliest week, ms UTC.
    from: Option<Millis>,
    /// End of the latest.
    to: Option<Millis>,
    /// Sketches that were merged.
    sketches: usize,
    /// All devices.
    fleet: Merged,
    /// Each device.
    devices: BTreeMap<String, Merged>,
}

/// Statistics of a sensor over weeks and devices, merged from the sketches that devices send each week.
///
/// # Errors
/// Times that are none, more sketches than one answer merges, or the database.
#[utoipa::path(get, path = "/v1/sketches", params(Asked), responses((status = 200, body = Answer), (status = 422, body = Problem)))]
pub(super) async fn sketches(
    State(rest): State<Rest>,
    Query(asked): Query<Asked>,
) -> Result<Json<Answer>, Problem> {
    let time = |text: &Option<String>, open| match text {
        None => Ok(open),
        Some(text) => time_text::parse(text).map_err(|e| Problem::invalid(e.to_string())),
    };
    let span = (
        time(&asked.from, MIN_TIME_MS)?,
        time(&asked.to, MAX_TIME_MS)?,
    );
    let store = &rest.hub.store;
    let rows = store
        .sketches(&asked.sensor, asked.device.as_deref(), span)
        .await?;
    if rows.len() as i64 >= MOST {
        return Err(Problem::invalid(format!(
            "more than {MOST} sketches of {} lie in that span; name a device, or a shorter span by `from` and `to`",
            asked.sensor
        )));
    }
    let broken = |e: String| Problem::new(axum::http::StatusCode::INTERNAL_SERVER_ERROR, e);
    let answer = tokio::task::spawn_blocking(move || merge(&rows))
        .await
        .map_err(|e| broken(e.to_string()))?
        .map_err(|e| broken(e.to_string()))?;
    Ok(Json(answer))
}

fn merge(rows: &[SketchRow]) -> Result<Answer, SketchError> {
    let (mut fleet, mut left) = (Sketch::default(), 0);
    let mut devices: BTreeMap<String, (Sketch, u64)> = BTreeMap::new();
    for row in rows {
        let sketch = Sketch::try_from(Stored {
            count: row.count.unsigned_abs(),
            mean: row.mean,
            squares: row.squares,
            kll: row.kll.clone(),
        })?;
        let out = row.left_out.unsigned_abs();
        fleet.merge(&sketch)?;
        left += out;
        let own = devices.entry(row.device.clone()).or_default();
        own.0.merge(&sketch)?;
        own.1 += out;
    }
    Ok(Answer {
        from: rows.iter().map(|r| r.from_time.timestamp_millis()).min(),
        to: rows.iter().map(|r| r.to_time.timestamp_millis()).max(),
        sketches: rows.len(),
        fleet: shown(&fleet, left),
        devices: devices
            .into_iter()
            .map(|(device, (sketch, left))| (device, shown(&sketch, left)))
            .collect(),
    })
}

fn shown(sketch: &Sketch, left_out: u64) -> Merged {
    let range = sketch.range();
    Merged {
        count: sketch.count(),
        left_out,
        mean: sketch.mean(),
        deviation: sketch.deviation(),
        min: range.map(|r| r.0),
        max: range.map(|r| r.1),
        quantiles: LEVELS
            .iter()
            .filter_map(|level| Some((*level, sketch.quantile(*level)?)))
            .collect(),
    }
}
