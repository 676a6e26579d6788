//! Table `jobs`: owns leases, retries and cancellation, so that a job whose worker died is done by another.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::decisions::{self, NewDecision};
use crate::error::Context as _;
use crate::{Result, Store};

/// One job.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct JobRow {
    /// Number.
    pub id: i64,
    /// What is done: `train`.
    pub kind: String,
    /// For whom: the forecaster.
    pub subject: String,
    /// What the kind needs to know.
    pub payload: Value,
    /// `queued`, `running`, `succeeded`, `failed`, `cancelled`.
    pub status: String,
    /// Times it was claimed.
    pub attempts: i32,
    /// Times it may be claimed.
    pub max_attempts: i32,
    /// Someone asked for its end.
    pub cancel: bool,
    /// 0 to 1.
    pub progress: f64,
    /// What it does now.
    pub progress_text: String,
    /// What came out.
    pub result: Option<Value>,
    /// Why it failed.
    pub error: Option<String>,
    /// Worker that holds or held it.
    pub worker: Option<String>,
    /// Enqueued.
    pub created_at: DateTime<Utc>,
    /// First claimed.
    pub started_at: Option<DateTime<Utc>>,
    /// Ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// A line of a job's history.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct JobLine {
    /// Number, ascending over all jobs.
    pub id: i64,
    /// Written.
    pub time: DateTime<Utc>,
    /// What happened.
    pub line: String,
}

/// What a heartbeat tells the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// Go on.
    Held,
    /// Someone asked for the job's end.
    Cancelled,
    /// The lease passed to another worker: stop, write nothing.
    Lost,
}

/// What became of the wish that a job ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cancel {
    /// It ends, or has ended by that; its status.
    Asked(String),
    /// It is over, or its result is stored; its status.
    Over(String),
    /// There is no such job.
    Unknown,
}

/// One worker's hold on a job. What the job writes for good is written only while it lasts.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// The job.
    pub job: i64,
    /// Who claimed it.
    pub worker: &'a str,
    /// Which claim of the job it is.
    pub attempt: i32,
}

impl Claim<'_> {
    /// Whether the claim still stands; if so, nobody else can take the job before the transaction ends.
    pub(crate) async fn stands(
        &self,
        connection: &mut PgConnection,
    ) -> std::result::Result<bool, sqlx::Error> {
        let held: Option<(i64,)> = sqlx::query_as(
            "SELECT id FROM jobs WHERE id = $1 AND worker = $2 AND attempts = $3 AND status = 'running' AND NOT cancel
             FOR UPDATE",
        )
        .bind(self.job)
        .bind(self.worker)
        .bind(self.attempt)
        .fetch_optional(connection)
        .await?;
        Ok(held.is_some())
    }
}

impl JobRow {
    /// The hold of the worker that claimed it.
    #[must_use]
    pub fn claim(&self) -> Claim<'_> {
        Claim {
            job: self.id,
            worker: self.worker.as_deref().unwrap_or_default(),
            attempt: self.attempts,
        }
    }
}

const COLUMNS: &str = "id, kind, subject, payload, status, attempts, max_attempts, cancel, progress, progress_text, \
                       result, error, worker, created_at, started_at, finished_at";

async fn insert(
    connection: &mut PgConnection,
    kind: &str,
    subject: &str,
    payload: &Value,
) -> std::result::Result<(i64, bool), sqlx::Error> {
    // The live one may end between the two statements: then the second round inserts.
    loop {
        let new: Option<i64> = sqlx::query_scalar(
            "INSERT INTO jobs (kind, subject, payload) VALUES ($1, $2, $3)
             ON CONFLICT (kind, subject) WHERE status IN ('queued', 'running') DO NOTHING RETURNING id",
        )
        .bind(kind)
        .bind(subject)
        .bind(payload)
        .fetch_optional(&mut *connection)
        .await?;
        if let Some(id) = new {
            return Ok((id, true));
        }
        let live: Option<i64> = sqlx::query_scalar(
            "SELECT id FROM jobs WHERE kind = $1 AND subject = $2 AND status IN ('queued', 'running')",
        )
        .bind(kind)
        .bind(subject)
        .fetch_optional(&mut *connection)
        .await?;
        if let Some(id) = live {
            return Ok((id, false));
        }
    }
}

async fn insert_line(
    connection: &mut PgConnection,
    job: i64,
    line: &str,
) -> std::result::Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO job_log (job, line) VALUES ($1, $2)")
        .bind(job)
        .bind(line)
        .execute(connection)
        .await?;
    Ok(())
}

impl Store {
    /// Enqueues a job, unless one of its kind and subject is queued or running.
    /// Returns the job's number and whether it is new.
    ///
    /// # Errors
    /// The database.
    pub async fn enqueue(&self, kind: &str, subject: &str, payload: &Value) -> Result<(i64, bool)> {
        let failed = || format!("enqueue job for {subject}");
        let mut connection = self.pool().acquire().await.during(failed())?;
        insert(&mut connection, kind, subject, payload)
            .await
            .during(failed())
    }

    /// The same with the decision that leads to it, both or neither: what runs is in the budget, starts its cool-down, and is
    /// found where it fails. Nothing is decided where the job is not new.
    ///
    /// # Errors
    /// The database.
    pub async fn enqueue_decided(
        &self,
        kind: &str,
        payload: &Value,
        decision: &NewDecision<'_>,
    ) -> Result<(i64, bool)> {
        let subject = decision.forecaster;
        let failed = || format!("enqueue job for {subject}");
        let mut tx = self.pool().begin().await.during(failed())?;
        let (job, new) = insert(&mut tx, kind, subject, payload)
            .await
            .during(failed())?;
        if new {
            let decision = NewDecision {
                job: Some(job),
                ..decision.clone()
            };
            decisions::insert(&mut tx, &decision)
                .await
                .during(failed())?;
            tx.commit().await.during(failed())?;
        }
        Ok((job, new))
    }

    /// Queues again the running jobs whose lease has passed; without another attempt they fail, or have succeeded where their result is
    /// stored. Returns how many.
    ///
    /// # Errors
    /// The database.
    pub async fn requeue_expired(&self) -> Result<u64> {
        let done = sqlx::query(
            "UPDATE jobs SET lease_until = NULL,
                status = CASE WHEN cancel THEN 'cancelled' WHEN attempts < max_attempts THEN 'queued'
                    WHEN result IS NULL THEN 'failed' ELSE 'succeeded' END,
                error = CASE WHEN attempts >= max_attempts AND result IS NULL THEN 'its worker stopped without a word' ELSE error END,
                finished_at = CASE WHEN cancel OR attempts >= max_attempts THEN now() END
             WHERE status = 'running' AND lease_until < now()",
        )
        .execute(self.pool())
        .await
        .during("requeue expired jobs")?;
        Ok(done.rows_affected())
    }

    /// Claims the oldest queued job for `lease_secs`; with `only`, that job.
    ///
    /// # Errors
    /// The database.
    pub async fn claim_job(
        &self,
        worker: &str,
        lease_secs: f64,
        only: Option<i64>,
    ) -> Result<Option<JobRow>> {
        sqlx::query_as(AssertSqlSafe(format!(
            "UPDATE jobs SET status = 'running', worker = $1, attempts = attempts + 1,
                lease_until = now() + make_interval(secs => $2), started_at = coalesce(started_at, now())
             WHERE id = (SELECT id FROM jobs WHERE status = 'queued' AND run_after <= now() AND ($3::bigint IS NULL OR id = $3)
                         ORDER BY run_after, id FOR UPDATE SKIP LOCKED LIMIT 1)
             RETURNING {COLUMNS}"
        )))
        .bind(worker)
        .bind(lease_secs)
        .bind(only)
        .fetch_optional(self.pool())
        .await
        .during("claim a job")
    }

    /// Prolongs a lease and stores progress.
    ///
    /// # Errors
    /// The database.
    pub async fn heartbeat(
        &self,
        job: i64,
        worker: &str,
        attempt: i32,
        lease_secs: f64,
        progress: (f64, &str),
    ) -> Result<Lease> {
        let held: Option<(bool,)> = sqlx::query_as(
            "UPDATE jobs SET lease_until = now() + make_interval(secs => $4), progress = $5, progress_text = $6
             WHERE id = $1 AND worker = $2 AND attempts = $3 AND status = 'running' RETURNING cancel",
        )
        .bind(job)
        .bind(worker)
        .bind(attempt)
        .bind(lease_secs)
        .bind(progress.0)
        .bind(progress.1)
        .fetch_optional(self.pool())
        .await
        .during(format!("prolong the lease of job {}", job))?;
        Ok(match held {
            None => Lease::Lost,
            Some((true,)) => Lease::Cancelled,
            Some((false,)) => Lease::Held,
        })
    }

    /// Ends a job that this worker holds. An error queues it again after `retry_secs` while attempts are left
    /// and a retry is given; one that comes after the result was stored changes nothing: the job has succeeded. Returns the job's
    /// new status; none where the lease was lost.
    ///
    /// # Errors
    /// The database.
    pub async fn finish_job(
        &self,
        job: &JobRow,
        worker: &str,
        outcome: std::result::Result<Value, (String, Option<f64>)>,
    ) -> Result<Option<String>> {
        let (result, error, retry) = match outcome {
            Ok(result) => (Some(result), None, None),
            Err((error, retry)) => (
                None,
                Some(error),
                retry.filter(|_| job.attempts < job.max_attempts),
            ),
        };
        let status: Option<(String,)> = sqlx::query_as(
            "UPDATE jobs SET lease_until = NULL, result = coalesce($4, result), error = CASE WHEN result IS NULL THEN $5::text END,
                status = CASE WHEN $5 IS NULL OR result IS NOT NULL THEN 'succeeded' WHEN cancel THEN 'cancelled'
                              WHEN $6::float8 IS NULL THEN 'failed' ELSE 'queued' END,
                run_after = now() + make_interval(secs => coalesce($6, 0)),
                progress = CASE WHEN $5 IS NULL OR result IS NOT NULL THEN 1 ELSE progress END,
                finished_at = CASE WHEN $5 IS NULL OR result IS NOT NULL OR cancel OR $6 IS NULL THEN now() END
             WHERE id = $1 AND worker = $2 AND attempts = $3 AND status = 'running' RETURNING status",
        )
        .bind(job.id)
        .bind(worker)
        .bind(job.attempts)
        .bind(result)
        .bind(error)
        .bind(retry)
        .fetch_optional(self.pool())
        .await
        .during(format!("finish job {}", job.id))?;
        Ok(status.map(|(s,)| s))
    }

    /// Gives back a job that this worker holds, because the worker stops or lacks the keys for it: it is queued again for
    /// `after_secs` later, and this does not count among its attempts. Returns the job's new status; none where the lease was lost.
    ///
    /// # Errors
    /// The database.
    pub async fn release_job(
        &self,
        job: &JobRow,
        worker: &str,
        after_secs: f64,
    ) -> Result<Option<String>> {
        // `attempts` tells one claim from the next, so it never goes back.
        sqlx::query_scalar(
            "UPDATE jobs SET lease_until = NULL, run_after = now() + make_interval(secs => $4), max_attempts = max_attempts + 1, progress = 0,
                progress_text = '', status = CASE WHEN cancel THEN 'cancelled' ELSE 'queued' END,
                finished_at = CASE WHEN cancel THEN now() END
             WHERE id = $1 AND worker = $2 AND attempts = $3 AND status = 'running' RETURNING status",
        )
        .bind(job.id)
        .bind(worker)
        .bind(job.attempts)
        .bind(after_secs)
        .fetch_optional(self.pool())
        .await
        .during(format!("give back job {}", job.id))
    }

    /// Asks for a job's end, with the line that its history keeps of that: one that nobody works on ends at once, another at its
    /// worker's next heartbeat. One that has stored its result is over.
    ///
    /// # Errors
    /// The database.
    pub async fn cancel_job(&self, job: i64, line: &str) -> Result<Cancel> {
        let failed = || format!("cancel job {job}");
        let mut tx = self.pool().begin().await.during(failed())?;
        let asked: Option<String> = sqlx::query_scalar(
            "UPDATE jobs SET cancel = true,
                status = CASE WHEN status = 'queued' OR lease_until < now() THEN 'cancelled' ELSE status END,
                finished_at = CASE WHEN status = 'queued' OR lease_until < now() THEN now() END
             WHERE id = $1 AND status IN ('queued', 'running') AND result IS NULL RETURNING status",
        )
        .bind(job)
        .fetch_optional(&mut *tx)
        .await
        .during(failed())?;
        let Some(status) = asked else {
            // Two connections at once for each that is refused would empty the pool.
            drop(tx);
            let found = self.job(job).await?;
            return Ok(found.map_or(Cancel::Unknown, |j| Cancel::Over(j.status)));
        };
        insert_line(&mut tx, job, line).await.during(failed())?;
        tx.commit().await.during(failed())?;
        Ok(Cancel::Asked(status))
    }

    /// One job.
    ///
    /// # Errors
    /// The database.
    pub async fn job(&self, job: i64) -> Result<Option<JobRow>> {
        sqlx::query_as(AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM jobs WHERE id = $1"
        )))
        .bind(job)
        .fetch_optional(self.pool())
        .await
        .during(format!("read job {}", job))
    }

    /// Jobs that are queued or running.
    ///
    /// # Errors
    /// The database.
    pub async fn live_jobs(&self) -> Result<Vec<JobRow>> {
        sqlx::query_as(AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM jobs WHERE status IN ('queued', 'running') ORDER BY id"
        )))
        .fetch_all(self.pool())
        .await
        .during("list jobs")
    }

    /// Adds a line to a job's history.
    ///
    /// # Errors
    /// The database.
    pub async fn job_line(&self, job: i64, line: &str) -> Result<()> {
        let failed = || format!("log to job {job}");
        let mut connection = self.pool().acquire().await.during(failed())?;
        insert_line(&mut connection, job, line)
            .await
            .during(failed())
    }

    /// A job's lines after line number `after`, at most a thousand.
    ///
    /// # Errors
    /// The database.
    pub async fn job_lines(&self, job: i64, after: i64) -> Result<Vec<JobLine>> {
        sqlx::query_as(
            "SELECT id, time, line FROM job_log WHERE job = $1 AND id > $2 ORDER BY id LIMIT 1000",
        )
        .bind(job)
        .bind(after)
        .fetch_all(self.pool())
        .await
        .during(format!("read the log of job {}", job))
    }
}
