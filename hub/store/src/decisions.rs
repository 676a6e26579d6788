//! Table `decisions`: owns why something was done or was not, never decides.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;

use crate::error::Context as _;
use crate::jobs::Claim;
use crate::{Result, Store};

/// One decision.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct DecisionRow {
    /// Number.
    pub id: i64,
    /// Forecaster.
    pub forecaster: String,
    /// One word: `retrain`, `wait`, `not_confirmed`, `cool_down`, `budget`, `refused`, `roll_out`, `keep`, `outdated`, `train` (a person).
    pub decision: String,
    /// Why, in words.
    pub reason: String,
    /// Report it rests on.
    pub drift_report: Option<i64>,
    /// Job it led to.
    pub job: Option<i64>,
    /// Data time at which it was taken.
    pub data_time: Option<DateTime<Utc>>,
    /// Who or what decided.
    pub decided_by: String,
    /// Process time.
    pub decided_at: DateTime<Utc>,
}

/// A decision about to be stored.
#[derive(Debug, Clone, Default)]
pub struct NewDecision<'a> {
    /// Forecaster.
    pub forecaster: &'a str,
    /// One word.
    pub decision: &'a str,
    /// Why, in words.
    pub reason: &'a str,
    /// Report it rests on.
    pub drift_report: Option<i64>,
    /// Job it led to.
    pub job: Option<i64>,
    /// Data time at which it was taken.
    pub data_time: Option<DateTime<Utc>>,
    /// Who or what decided.
    pub decided_by: &'a str,
}

pub(crate) async fn insert(
    connection: &mut PgConnection,
    new: &NewDecision<'_>,
) -> std::result::Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "INSERT INTO decisions (forecaster, decision, reason, drift_report, job, data_time, decided_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id",
    )
    .bind(new.forecaster)
    .bind(new.decision)
    .bind(new.reason)
    .bind(new.drift_report)
    .bind(new.job)
    .bind(new.data_time)
    .bind(new.decided_by)
    .fetch_one(connection)
    .await
}

impl Store {
    /// Stores a decision.
    ///
    /// # Errors
    /// The database.
    pub async fn record_decision(&self, new: &NewDecision<'_>) -> Result<i64> {
        let failed = || format!("record a decision on {}", new.forecaster);
        let mut connection = self.pool().acquire().await.during(failed())?;
        insert(&mut connection, new).await.during(failed())
    }

    /// Stores what a job decided, once, however often it is attempted. False, and nothing is stored, where the claim no
    /// longer stands.
    ///
    /// # Errors
    /// The database.
    pub async fn record_once(&self, claim: &Claim<'_>, new: &NewDecision<'_>) -> Result<bool> {
        let failed = || format!("record a decision on {}", new.forecaster);
        let mut tx = self.pool().begin().await.during(failed())?;
        if !claim.stands(&mut tx).await.during(failed())? {
            return Ok(false);
        }
        let told: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM decisions WHERE forecaster = $1 AND decision = $2 AND job = $3)",
        )
        .bind(new.forecaster)
        .bind(new.decision)
        .bind(claim.job)
        .fetch_one(&mut *tx)
        .await
        .during(failed())?;
        if !told {
            insert(&mut tx, new).await.during(failed())?;
        }
        tx.commit().await.during(failed())?;
        Ok(true)
    }

    /// Decisions, newest first, below `before` where it is given.
    ///
    /// # Errors
    /// The database.
    pub async fn decisions(
        &self,
        forecaster: Option<&str>,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<DecisionRow>> {
        let select = "SELECT id, forecaster, decision, reason, drift_report, job, data_time, decided_by, decided_at FROM decisions";
        let of = ("forecaster", forecaster);
        let rows = self.newest(select, of, (before, limit)).await;
        rows.during("list decisions")
    }

    /// The newest decision of one kind, those left out whose job failed or was cancelled: they led to nothing.
    ///
    /// # Errors
    /// The database.
    pub async fn last_decision(
        &self,
        forecaster: &str,
        decision: &str,
    ) -> Result<Option<DecisionRow>> {
        sqlx::query_as(
            "SELECT d.id, d.forecaster, d.decision, d.reason, d.drift_report, d.job, d.data_time, d.decided_by, d.decided_at
             FROM decisions d LEFT JOIN jobs j ON j.id = d.job
             WHERE d.forecaster = $1 AND d.decision = $2
             AND (j.id IS NULL OR j.status NOT IN ('failed', 'cancelled')) ORDER BY d.id DESC LIMIT 1",
        )
        .bind(forecaster)
        .bind(decision)
        .fetch_optional(self.pool())
        .await
        .during(format!("read decisions on {}", forecaster))
    }

    /// The newest decision of one who decides, whatever became of it.
    ///
    /// # Errors
    /// The database.
    pub async fn last_decision_by(
        &self,
        forecaster: &str,
        decided_by: &str,
    ) -> Result<Option<DecisionRow>> {
        sqlx::query_as(
            "SELECT id, forecaster, decision, reason, drift_report, job, data_time, decided_by, decided_at FROM decisions
             WHERE forecaster = $1 AND decided_by = $2 ORDER BY id DESC LIMIT 1",
        )
        .bind(forecaster)
        .bind(decided_by)
        .fetch_optional(self.pool())
        .await
        .during(format!("read decisions on {forecaster}"))
    }

    /// How many decisions of one kind were taken since a time.
    ///
    /// # Errors
    /// The database.
    pub async fn decisions_since(
        &self,
        forecaster: &str,
        decision: &str,
        since: DateTime<Utc>,
    ) -> Result<i64> {
        sqlx::query_scalar(
            "SELECT count(*) FROM decisions WHERE forecaster = $1 AND decision = $2 AND decided_at >= $3",
        )
        .bind(forecaster)
        .bind(decision)
        .bind(since)
        .fetch_one(self.pool())
        .await
        .during(format!("count decisions on {forecaster}"))
    }

    /// Whether a training that was decided on within the last day failed or was cancelled.
    ///
    /// # Errors
    /// The database.
    pub async fn training_failed_lately(&self, forecaster: &str) -> Result<bool> {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM decisions d JOIN jobs j ON j.id = d.job WHERE d.forecaster = $1
                AND d.decision = 'retrain' AND d.decided_at >= now() - interval '1 day' AND j.status IN ('failed', 'cancelled'))",
        )
        .bind(forecaster)
        .fetch_one(self.pool())
        .await
        .during(format!("look for failed trainings of {forecaster}"))
    }
}
