//! Table `drift_reports`: owns what the hub found when it checked the devices' drift signals.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

use crate::error::Context as _;
use crate::{Result, Store};

/// One report.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct DriftReportRow {
    /// Number.
    pub id: i64,
    /// Forecaster.
    pub forecaster: String,
    /// Model version that was judged.
    pub model_version: i64,
    /// `concept`: the hub's own look at the errors; `covariate`: a device's warning about its inputs; `inputs`: the hub's own
    /// look at the inputs of all devices.
    pub kind: String,
    /// Since when the world is different, data time.
    pub onset: DateTime<Utc>,
    /// Newest actual behind the verdict.
    pub data_time: DateTime<Utc>,
    /// Whether the hub has seen it in its own data; a single device's warning stands for itself.
    pub confirmed: bool,
    /// The numbers and the words.
    pub report: Value,
    /// Written.
    pub created_at: DateTime<Utc>,
}

/// An open drift signal of a device: raised and not ended since.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct OpenSignal {
    /// Who raised it.
    pub device: String,
    /// Forecaster.
    pub forecaster: String,
    /// The newest signal's number.
    pub id: i64,
    /// Detector.
    pub detector: String,
    /// Error now over the reference.
    pub severity: f64,
    /// Data time of the signal.
    pub time: DateTime<Utc>,
    /// Estimated beginning, data time.
    pub onset: DateTime<Utc>,
    /// Model that was running.
    pub model_version: i64,
}

/// A device's warning that an input is no longer what the model was trained on.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct InputSignal {
    /// Number.
    pub id: i64,
    /// Who raised it.
    pub device: String,
    /// Forecaster.
    pub forecaster: String,
    /// The input's sensor.
    pub sensor: String,
    /// Detector.
    pub detector: String,
    /// Its statistic.
    pub statistic: f64,
    /// What the statistic had to pass.
    pub threshold: f64,
    /// Shift in usual deviations of a day, with its sign.
    pub severity: f64,
    /// Data time of the signal.
    pub time: DateTime<Utc>,
    /// Estimated beginning, data time.
    pub onset: DateTime<Utc>,
    /// Model that was running.
    pub model_version: i64,
    /// Days behind it.
    pub data_count: i64,
}

impl Store {
    /// Raised warnings about inputs that have no report yet, oldest first, at most 100. A sudden shift (`cusum_rows`) is no warning by
    /// itself: each device may see one a month where nothing is.
    ///
    /// # Errors
    /// The database.
    pub async fn unreported_input_signals(&self) -> Result<Vec<InputSignal>> {
        sqlx::query_as(
            "SELECT id, device, forecaster, sensor, detector, statistic, threshold, severity, time, onset,
                model_version, data_count FROM drift_signals s
             WHERE kind = 'covariate' AND raised AND detector <> 'cusum_rows' AND NOT EXISTS (SELECT FROM drift_reports r WHERE r.signal = s.id)
             ORDER BY id LIMIT 100",
        )
        .fetch_all(self.pool())
        .await
        .during("read warnings about inputs")
    }

    /// Devices and sensors of a forecaster whose own monitors of inputs stand raised.
    ///
    /// # Errors
    /// The database.
    pub async fn raised_inputs(
        &self,
        forecaster: &str,
        model_version: i64,
    ) -> Result<Vec<(String, String)>> {
        sqlx::query_as(
            "SELECT DISTINCT device, sensor FROM (
                SELECT DISTINCT ON (device, sensor, detector) device, sensor, raised FROM drift_signals
                WHERE kind = 'covariate' AND forecaster = $1 AND model_version = $2
                ORDER BY device, sensor, detector, id DESC) newest
             WHERE raised",
        )
        .bind(forecaster)
        .bind(model_version)
        .fetch_all(self.pool())
        .await
        .during(format!("read what devices say of the inputs of {forecaster}"))
    }

    /// Stores the report of a warning, once however often it is told.
    ///
    /// # Errors
    /// The database.
    pub async fn add_input_report(&self, signal: &InputSignal, report: &Value) -> Result<()> {
        sqlx::query(
            "INSERT INTO drift_reports (forecaster, model_version, onset, data_time, confirmed, report, kind, signal)
             VALUES ($1, $2, $3, $4, false, $5, 'covariate', $6) ON CONFLICT (signal) DO NOTHING",
        )
        .bind(&signal.forecaster)
        .bind(signal.model_version)
        .bind(signal.onset)
        .bind(signal.time)
        .bind(report)
        .bind(signal.id)
        .execute(self.pool())
        .await
        .during(format!(
            "store the report of drift signal {} of {}",
            signal.id, signal.device
        ))?;
        Ok(())
    }

    /// Concept-drift signals that stand: for each device and forecaster the newest one, where it is a raised one.
    ///
    /// # Errors
    /// The database.
    pub async fn open_concept_signals(&self) -> Result<Vec<OpenSignal>> {
        sqlx::query_as(
            "SELECT device, forecaster, id, detector, severity, time, onset, model_version FROM (
                SELECT DISTINCT ON (device, forecaster) * FROM drift_signals WHERE kind = 'concept'
                ORDER BY device, forecaster, id DESC) newest
             WHERE raised ORDER BY forecaster, device",
        )
        .fetch_all(self.pool())
        .await
        .during("read open drift signals")
    }

    /// Stores what the hub found by itself: of `concept` or `inputs`.
    ///
    /// # Errors
    /// The database.
    pub async fn add_drift_report(
        &self,
        kind: &str,
        (forecaster, model_version): (&str, i64),
        times: (DateTime<Utc>, DateTime<Utc>),
        confirmed: bool,
        report: &Value,
    ) -> Result<i64> {
        let (id,): (i64,) = sqlx::query_as(
            "INSERT INTO drift_reports (forecaster, model_version, onset, data_time, confirmed, report, kind)
             VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id",
        )
        .bind(forecaster)
        .bind(model_version)
        .bind(times.0)
        .bind(times.1)
        .bind(confirmed)
        .bind(report)
        .bind(kind)
        .fetch_one(self.pool())
        .await
        .during(format!("store a drift report of {}", forecaster))?;
        Ok(id)
    }

    /// The data time of the newest look at a version's errors that a decision came of. A report alone is no end of a look: who wrote it
    /// died before the decision.
    ///
    /// # Errors
    /// The database.
    pub async fn newest_decided_look(
        &self,
        forecaster: &str,
        model_version: i64,
    ) -> Result<Option<DateTime<Utc>>> {
        sqlx::query_scalar(
            "SELECT data_time FROM drift_reports r WHERE forecaster = $1 AND model_version = $2 AND kind = 'concept'
             AND EXISTS (SELECT FROM decisions d WHERE d.drift_report = r.id) ORDER BY id DESC LIMIT 1",
        )
        .bind(forecaster)
        .bind(model_version)
        .fetch_optional(self.pool())
        .await
        .during(format!("read the newest drift report of {forecaster}"))
    }

    /// The newest report of the inputs of a forecaster's fleet.
    ///
    /// # Errors
    /// The database.
    pub async fn newest_fleet_report(&self, forecaster: &str) -> Result<Option<DriftReportRow>> {
        sqlx::query_as(
            "SELECT id, forecaster, model_version, kind, onset, data_time, confirmed, report, created_at FROM drift_reports
             WHERE forecaster = $1 AND kind = 'inputs' ORDER BY id DESC LIMIT 1",
        )
        .bind(forecaster)
        .fetch_optional(self.pool())
        .await
        .during(format!("read the newest report of the inputs of {forecaster}"))
    }

    /// One report.
    ///
    /// # Errors
    /// The database.
    pub async fn drift_report(&self, id: i64) -> Result<Option<DriftReportRow>> {
        sqlx::query_as(
            "SELECT id, forecaster, model_version, kind, onset, data_time, confirmed, report, created_at FROM drift_reports
             WHERE id = $1",
        )
        .bind(id)
        .fetch_optional(self.pool())
        .await
        .during(format!("read drift report {id}"))
    }

    /// Reports without their drawings, newest first; of one forecaster, of one verdict, below `before` where these are given.
    ///
    /// # Errors
    /// The database.
    pub async fn drift_reports(
        &self,
        forecaster: Option<&str>,
        confirmed: Option<bool>,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<DriftReportRow>> {
        sqlx::query_as(
            "SELECT id, forecaster, model_version, kind, onset, data_time, confirmed, (report - 'panels') #- '{verdict,skipped}' AS report, created_at
             FROM drift_reports WHERE ($1::text IS NULL OR forecaster = $1) AND ($2::boolean IS NULL OR confirmed = $2)
             AND ($3::bigint IS NULL OR id < $3) ORDER BY id DESC LIMIT $4",
        )
        .bind(forecaster)
        .bind(confirmed)
        .bind(before)
        .bind(limit)
        .fetch_all(self.pool())
        .await
        .during("list drift reports")
    }
}
