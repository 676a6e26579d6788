//! Tables of everything sequenced that is no reading: owns turning records into rows, never judges them.

use fieldcast_wire::{RecordBody, pb};
use serde_json::{Value, json};
use sqlx::PgConnection;
use sqlx::types::Json;

use crate::error::{Context as _, Result};
use crate::time::timestamp;

/// Rows of one table, ready for one statement.
struct Rows {
    table: &'static str,
    sql: &'static str,
    rows: Vec<Value>,
}

macro_rules! insert_sql {
    ($table:literal, $columns:literal) => {
        concat!(
            "INSERT INTO ",
            $table,
            " (",
            $columns,
            ") SELECT ",
            $columns,
            " FROM jsonb_populate_recordset(NULL::",
            $table,
            ", $1)"
        )
    };
}

const FORECASTS: &str = insert_sql!(
    "forecasts",
    "device, forecaster, origin, period_ms, mean, levels, quantiles, made_by, bundle, model_version, shadow, received_at"
);
const RESIDUALS: &str = insert_sql!(
    "residual_summaries",
    "device, forecaster, bundle, model_version, made_by, shadow, from_time, to_time, count, mean_error, \
     mean_abs_error, mean_squared_error, naive_mean_abs_error, covered, received_at"
);
const GAPS: &str = insert_sql!(
    "gaps",
    "device, kind, epoch, first_seq, last_seq, from_time, to_time, reason, received_at"
);
const DRIFTS: &str = insert_sql!(
    "drift_signals",
    // Without `received_at`: what was known of faults at a mark is asked by the database's own clock.
    "device, kind, forecaster, sensor, detector, statistic, threshold, severity, time, onset, raised, \
     model_version, data_count"
);
const ALARMS: &str = insert_sql!(
    "alarms",
    "device, source, code, sensor, time, message, raised, received_at"
);
const CLOCKS: &str = insert_sql!(
    "clock_facts",
    "device, boot_id, offset_ms, error_ms, synchronised, received_at"
);
const SKETCHES: &str = insert_sql!(
    "sensor_sketches",
    "device, sensor, from_time, to_time, count, left_out, mean, squares, kll, received_at"
);
const PAIRED: &str = insert_sql!(
    "paired_losses",
    "device, forecaster, running, watching, running_version, watching_version, from_time, to_time, origins, steps, \
     running_abs, watching_abs, running_quantile, watching_quantile, received_at"
);
const OUTCOMES: &str = insert_sql!(
    "outcomes",
    "device, subject, ok, message, time, received_at"
);

fn bytea(bytes: &[u8]) -> String {
    format!("\\x{}", hex::encode(bytes))
}

fn at(millis: i64) -> String {
    timestamp(millis).to_rfc3339()
}

fn maybe_at(millis: i64) -> Option<String> {
    (millis != 0).then(|| at(millis))
}

/// Inserts records of devices that are no readings, one statement a table.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    records: &[(&str, &RecordBody)],
) -> Result<()> {
    let mut tables: Vec<Rows> = Vec::new();
    #[allow(
        clippy::disallowed_methods,
        reason = "when it came in is process time, and this is where it comes in"
    )]
    let received_at = chrono::Utc::now().to_rfc3339();
    for (device, record) in records {
        let Some((table, sql, mut row)) = row(record) else {
            continue;
        };
        if let Some(fields) = row.as_object_mut() {
            fields.insert("device".into(), (*device).into());
            fields.insert("received_at".into(), received_at.as_str().into());
        }
        match tables.iter_mut().find(|rows| rows.table == table) {
            Some(rows) => rows.rows.push(row),
            None => tables.push(Rows {
                table,
                sql,
                rows: vec![row],
            }),
        }
    }
    for Rows { table, sql, rows } in tables {
        sqlx::query(sql)
            .bind(Json(&rows))
            .execute(&mut *connection)
            .await
            .during(format!("insert {} rows into {table}", rows.len()))?;
    }
    Ok(())
}

fn row(record: &RecordBody) -> Option<(&'static str, &'static str, Value)> {
    Some(match record {
        RecordBody::Reading(_) => return None,
        RecordBody::Forecast(m) => ("forecasts", FORECASTS, forecast(m)),
        RecordBody::Residual(m) => ("residual_summaries", RESIDUALS, residual(m)),
        RecordBody::Gap(m) => ("gaps", GAPS, gap(m)),
        RecordBody::Drift(m) => ("drift_signals", DRIFTS, drift(m)),
        RecordBody::Alarm(m) => (
            "alarms",
            ALARMS,
            json!({ "source": "device", "code": m.code, "sensor": m.sensor, "time": at(m.time_ms),
                    "message": m.message, "raised": m.raised }),
        ),
        RecordBody::Clock(m) => (
            "clock_facts",
            CLOCKS,
            json!({ "boot_id": m.boot_id, "offset_ms": m.offset_ms, "error_ms": m.error_ms,
                    "synchronised": m.synchronised }),
        ),
        RecordBody::Sketch(m) => (
            "sensor_sketches",
            SKETCHES,
            json!({ "sensor": m.sensor, "from_time": at(m.from_ms), "to_time": at(m.to_ms), "count": m.count,
                    "left_out": m.left_out, "mean": m.mean, "squares": m.squares, "kll": bytea(&m.kll) }),
        ),
        RecordBody::Paired(m) => ("paired_losses", PAIRED, paired(m)),
        RecordBody::Outcome(m) => (
            "outcomes",
            OUTCOMES,
            json!({ "subject": m.subject, "ok": m.ok, "message": m.message, "time": at(m.time_ms) }),
        ),
    })
}

fn forecast(m: &pb::Forecast) -> Value {
    json!({
        "forecaster": m.forecaster, "origin": at(m.origin_ms), "period_ms": m.period_ms, "mean": m.mean,
        "levels": m.quantile_levels, "quantiles": m.quantiles, "made_by": m.made_by,
        "bundle": bytea(&m.bundle), "model_version": m.model_version, "shadow": m.shadow,
    })
}

fn residual(m: &pb::ResidualSummary) -> Value {
    json!({
        "forecaster": m.forecaster, "bundle": bytea(&m.bundle), "model_version": m.model_version,
        "made_by": m.made_by, "shadow": m.shadow, "from_time": at(m.from_ms), "to_time": at(m.to_ms),
        "count": m.count, "mean_error": m.mean_error, "mean_abs_error": m.mean_abs_error,
        "mean_squared_error": m.mean_squared_error, "naive_mean_abs_error": m.naive_mean_abs_error,
        "covered": m.covered,
    })
}

fn paired(m: &pb::PairedLosses) -> Value {
    json!({
        "forecaster": m.forecaster, "running": bytea(&m.running), "watching": bytea(&m.watching),
        "running_version": m.running_version, "watching_version": m.watching_version, "from_time": at(m.from_ms),
        "to_time": at(m.to_ms), "origins": m.origins, "steps": m.steps, "running_abs": m.running_abs,
        "watching_abs": m.watching_abs, "running_quantile": m.running_quantile,
        "watching_quantile": m.watching_quantile,
    })
}

fn gap(m: &pb::Gap) -> Value {
    let kind = match m.kind() {
        pb::GapKind::BufferFull => "buffer_full",
        pb::GapKind::Unreadable => "unreadable",
        pb::GapKind::BeforeTail => "before_tail",
        pb::GapKind::Unspecified => "unspecified",
    };
    let epoch = fieldcast_wire::Epoch::from_slice(&m.epoch).ok();
    json!({
        "kind": kind, "epoch": epoch.map(|e| e.to_string()), "first_seq": m.first_seq, "last_seq": m.last_seq,
        "from_time": maybe_at(m.from_ms), "to_time": maybe_at(m.to_ms), "reason": m.reason,
    })
}

/// The name of a drift kind in the tables and everywhere else outside the wire.
#[must_use]
pub fn drift_kind(kind: pb::DriftKind) -> &'static str {
    match kind {
        pb::DriftKind::Covariate => "covariate",
        pb::DriftKind::Concept => "concept",
        pb::DriftKind::Sensor => "sensor",
        pb::DriftKind::Unspecified => "unspecified",
    }
}

fn drift(m: &pb::DriftSignal) -> Value {
    json!({
        "kind": drift_kind(m.kind()), "forecaster": m.forecaster, "sensor": m.sensor, "detector": m.detector,
        "statistic": m.statistic, "threshold": m.threshold, "severity": m.severity, "time": at(m.time_ms),
        "onset": at(m.onset_ms), "raised": m.raised, "model_version": m.model_version, "data_count": m.data_count,
    })
}
