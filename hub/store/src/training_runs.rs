//! Table `training_runs`: owns what each training read, made and concluded.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::AssertSqlSafe;

use crate::error::Context as _;
use crate::jobs::Claim;
use crate::{Result, Store};

/// One training run with its job's state. What its snapshot tells is none until that is taken.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct TrainingRunRow {
    /// Number, that of its job.
    pub id: i64,
    /// Forecaster.
    pub forecaster: String,
    /// Version of its definition.
    pub spec_version: Option<i64>,
    /// `drift` or `person`.
    pub trigger: String,
    /// Why, in words.
    pub reason: String,
    /// Rows known at this moment were read.
    pub snapshot_at: Option<DateTime<Utc>>,
    /// SHA-256 of the rows, hexadecimal.
    pub snapshot_sha: Option<String>,
    /// Rows read.
    pub snapshot_rows: i64,
    /// Seed of the random numbers.
    pub seed: i64,
    /// Version of the program.
    pub code_version: Option<String>,
    /// Models beside the baselines on the selection part.
    pub scores: Option<Value>,
    /// Challenger against champion.
    pub verdict: Option<Value>,
    /// The version that came out.
    pub model_version: Option<i64>,
    /// The job's status.
    pub status: String,
    /// The job's progress, 0 to 1.
    pub progress: f64,
    /// What it does now.
    pub progress_text: String,
    /// Why it failed.
    pub error: Option<String>,
    /// Was asked for.
    pub created_at: DateTime<Utc>,
    /// Ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// What is known when a run begins.
#[derive(Debug, Clone)]
pub struct NewTrainingRun<'a> {
    /// Forecaster.
    pub forecaster: &'a str,
    /// Version of its definition.
    pub spec_version: i64,
    /// `drift` or `person`.
    pub trigger: &'a str,
    /// Why, in words.
    pub reason: &'a str,
    /// Rows known at this moment are read.
    pub snapshot_at: DateTime<Utc>,
    /// SHA-256 over the rows.
    pub snapshot_sha: &'a [u8],
    /// Rows read.
    pub snapshot_rows: i64,
    /// Seed of the random numbers.
    pub seed: i64,
    /// Version of the program.
    pub code_version: &'a str,
}

/// What an interrupted attempt of a run left.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Interrupted {
    /// Rows known at this moment were read.
    pub snapshot_at: DateTime<Utc>,
    /// What had been learnt.
    pub checkpoint: Vec<u8>,
}

// Also what still waits, and what failed before its snapshot was taken. A payload may hold any number as its seed: the list is read all
// the same.
fn select(verdict: &str) -> String {
    format!(
        "SELECT j.id, j.subject AS forecaster, r.spec_version, coalesce(r.trigger, j.payload ->> 'trigger', '') AS trigger, \
    coalesce(r.reason, j.payload ->> 'reason', '') AS reason, r.snapshot_at, encode(r.snapshot_sha, 'hex') AS snapshot_sha, \
    coalesce(r.snapshot_rows, 0) AS snapshot_rows, coalesce(r.seed, CASE jsonb_typeof(j.payload -> 'seed') WHEN 'number' \
    THEN greatest(0, least(9223372036854775807, (j.payload ->> 'seed')::numeric))::bigint END, 1) AS seed, r.code_version, \
    r.scores, {verdict} AS verdict, r.model_version, j.status, j.progress, j.progress_text, j.error, j.created_at, j.finished_at \
    FROM jobs j LEFT JOIN training_runs r ON r.id = j.id WHERE j.kind = 'train'"
    )
}

/// What a verdict keeps of its losses by day is told of one run, not of many.
const BRIEF: &str = "CASE jsonb_typeof(r.verdict) WHEN 'object' THEN r.verdict - 'days' END";

impl Store {
    /// The latest time, by the clock that stamps what is received, of before all that is still being written: what was
    /// received until then is seen by every later read, and nothing is added to it.
    ///
    /// # Errors
    /// The database.
    pub async fn settled_time(&self) -> Result<DateTime<Utc>> {
        // A row is stamped when its transaction begins, long before others see it.
        sqlx::query_scalar(
            "SELECT least(now(), min(xact_start) - interval '1 microsecond') FROM pg_stat_activity
             WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()",
        )
        .fetch_one(self.pool())
        .await
        .during("find the time until which all is written")
    }

    /// Stores the beginning of a run; a second attempt of the same job replaces the first. False, and nothing is stored,
    /// where the claim no longer stands.
    ///
    /// # Errors
    /// The database.
    pub async fn begin_training_run(
        &self,
        claim: &Claim<'_>,
        run: &NewTrainingRun<'_>,
    ) -> Result<bool> {
        let failed = || format!("begin training run {}", claim.job);
        let mut tx = self.pool().begin().await.during(failed())?;
        if !claim.stands(&mut tx).await.during(failed())? {
            return Ok(false);
        }
        sqlx::query(
            "INSERT INTO training_runs (id, forecaster, spec_version, trigger, reason, snapshot_at, snapshot_sha,
                snapshot_rows, seed, code_version) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
             ON CONFLICT (id) DO UPDATE SET spec_version = excluded.spec_version, snapshot_at = excluded.snapshot_at,
                snapshot_sha = excluded.snapshot_sha, snapshot_rows = excluded.snapshot_rows,
                code_version = excluded.code_version, scores = NULL, verdict = NULL,
                checkpoint = CASE WHEN (training_runs.spec_version, training_runs.code_version, training_runs.snapshot_at)
                    = (excluded.spec_version, excluded.code_version, excluded.snapshot_at) THEN training_runs.checkpoint END",
        )
        .bind(claim.job)
        .bind(run.forecaster)
        .bind(run.spec_version)
        .bind(run.trigger)
        .bind(run.reason)
        .bind(run.snapshot_at)
        .bind(run.snapshot_sha)
        .bind(run.snapshot_rows)
        .bind(run.seed)
        .bind(run.code_version)
        .execute(&mut *tx)
        .await
        .during(failed())?;
        tx.commit().await.during(failed())?;
        Ok(true)
    }

    /// What an earlier attempt of this job, by the same program for the same definition, had learnt when it was interrupted.
    ///
    /// # Errors
    /// The database.
    pub async fn interrupted_training(
        &self,
        job: i64,
        spec_version: i64,
        code_version: &str,
    ) -> Result<Option<Interrupted>> {
        sqlx::query_as(
            "SELECT snapshot_at, checkpoint FROM training_runs
             WHERE id = $1 AND spec_version = $2 AND code_version = $3 AND checkpoint IS NOT NULL",
        )
        .bind(job)
        .bind(spec_version)
        .bind(code_version)
        .fetch_optional(self.pool())
        .await
        .during(format!("read the checkpoint of training run {job}"))
    }

    /// Keeps what a run has learnt so far, in place of what was kept before, and forgets what runs that have ended left. False,
    /// and nothing is kept, where the claim no longer stands.
    ///
    /// # Errors
    /// The database.
    pub async fn keep_checkpoint(&self, claim: &Claim<'_>, checkpoint: &[u8]) -> Result<bool> {
        let failed = || format!("keep the checkpoint of training run {}", claim.job);
        let mut tx = self.pool().begin().await.during(failed())?;
        if !claim.stands(&mut tx).await.during(failed())? {
            return Ok(false);
        }
        sqlx::query("UPDATE training_runs SET checkpoint = $2 WHERE id = $1")
            .bind(claim.job)
            .bind(checkpoint)
            .execute(&mut *tx)
            .await
            .during(failed())?;
        sqlx::query(
            "UPDATE training_runs r SET checkpoint = NULL FROM jobs j
             WHERE j.id = r.id AND r.checkpoint IS NOT NULL AND j.status NOT IN ('queued', 'running')",
        )
        .execute(&mut *tx)
        .await
        .during(failed())?;
        tx.commit().await.during(failed())?;
        Ok(true)
    }

    /// Runs, newest first; of one forecaster where it is named, below `before` where it is given. Their verdicts are without the
    /// losses by day.
    ///
    /// # Errors
    /// The database.
    pub async fn training_runs(
        &self,
        forecaster: Option<&str>,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<TrainingRunRow>> {
        sqlx::query_as(AssertSqlSafe(format!(
            "{} AND ($1::text IS NULL OR j.subject = $1) AND ($2::bigint IS NULL OR j.id < $2)
             ORDER BY j.id DESC LIMIT $3",
            select(BRIEF)
        )))
        .bind(forecaster)
        .bind(before)
        .bind(limit)
        .fetch_all(self.pool())
        .await
        .during("list training runs")
    }

    /// One run.
    ///
    /// # Errors
    /// The database.
    pub async fn training_run(&self, id: i64) -> Result<Option<TrainingRunRow>> {
        sqlx::query_as(AssertSqlSafe(format!(
            "{} AND j.id = $1",
            select("r.verdict")
        )))
        .bind(id)
        .fetch_optional(self.pool())
        .await
        .during(format!("read training run {}", id))
    }
}
