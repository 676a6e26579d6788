//! Workers: owns claiming, heartbeats, cancellation and retries of jobs, never what a job does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fieldcast_store::jobs::{JobRow, Lease};
use fieldcast_store::{Store, StoreError};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::signing::Signer;
use crate::training;

/// A lease lasts this long without a heartbeat.
const LEASE_SECS: f64 = 30.0;
const HEARTBEAT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_secs(1);

/// Why a job did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct JobError {
    /// What happened and what to do.
    pub message: String,
    /// Trying again may help.
    pub retry: bool,
}

impl JobError {
    /// An error that trying again cannot cure.
    pub fn fatal(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            retry: false,
        }
    }
}

impl From<StoreError> for JobError {
    fn from(e: StoreError) -> Self {
        Self {
            message: e.to_string(),
            retry: e.is_transient(),
        }
    }
}

/// What a running job reports through, from any thread.
#[derive(Debug, Clone, Default)]
pub struct JobHandle {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    said: Mutex<Said>,
    stop: AtomicBool,
}

#[derive(Debug, Default)]
struct Said {
    progress: f64,
    text: String,
    lines: Vec<String>,
}

impl JobHandle {
    /// Says how far the job is, 0 to 1, and what it does.
    pub fn progress(&self, share: f64, text: impl Into<String>) {
        let mut said = self
            .shared
            .said
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        said.progress = share.clamp(0.0, 1.0);
        said.text = text.into();
    }

    /// Adds a line to the job's history.
    pub fn line(&self, line: impl Into<String>) {
        self.shared
            .said
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .lines
            .push(line.into());
    }

    /// Whether the job must end: cancelled, lease lost, or the worker stops.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    fn take(&self) -> (f64, String, Vec<String>) {
        let mut said = self
            .shared
            .said
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        (
            said.progress,
            said.text.clone(),
            std::mem::take(&mut said.lines),
        )
    }
}

/// A worker of the job table.
#[derive(Debug, Clone)]
pub struct Worker {
    store: Store,
    signer: Arc<Signer>,
    name: String,
}

impl Worker {
    /// A worker with a name of its own.
    #[must_use]
    pub fn new(store: Store, signer: Arc<Signer>) -> Self {
        Self {
            store,
            signer,
            name: format!("{}-{}", std::process::id(), uuid::Uuid::new_v4().simple()),
        }
    }

    /// Takes jobs until cancelled; errors of the database are logged and waited out.
    pub async fn run(&self, cancel: CancellationToken) {
        while !cancel.is_cancelled() {
            let busy = match self.once(None, &cancel).await {
                Ok(job) => job.is_some(),
                Err(e) => {
                    tracing::warn!("jobs: {e}");
                    false
                }
            };
            if !busy {
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = tokio::time::sleep(POLL) => {}
                }
            }
        }
    }

    /// Claims one job (with `only`, that one) and sees it to its end. None: there was nothing to claim.
    ///
    /// # Errors
    /// The database.
    pub async fn once(
        &self,
        only: Option<i64>,
        cancel: &CancellationToken,
    ) -> Result<Option<i64>, StoreError> {
        self.store.requeue_expired().await?;
        let Some(job) = self.store.claim_job(&self.name, LEASE_SECS, only).await? else {
            return Ok(None);
        };
        self.store
            .job_line(
                job.id,
                &format!("attempt {} by worker {}", job.attempts, self.name),
            )
            .await?;
        let handle = JobHandle::default();
        let outcome = self.work(&job, &handle, cancel).await?;
        let (_, _, lines) = handle.take();
        for line in lines {
            self.store.job_line(job.id, &line).await?;
        }
        let Some(outcome) = outcome else {
            return Ok(Some(job.id));
        };
        if let Err(e) = &outcome {
            self.store.job_line(job.id, &e.message).await?;
        }
        let outcome = outcome.map_err(|e| (e.message, e.retry.then(|| backoff(job.attempts))));
        let status = self.store.finish_job(&job, &self.name, outcome).await?;
        tracing::info!(
            job = job.id,
            subject = job.subject,
            status = status.as_deref().unwrap_or("lost"),
            "job ended"
        );
        Ok(Some(job.id))
    }

    /// None: the lease went to another worker, which now owns the outcome.
    async fn work(
        &self,
        job: &JobRow,
        handle: &JobHandle,
        cancel: &CancellationToken,
    ) -> Result<Option<Result<Value, JobError>>, StoreError> {
        let task = self.task(job, handle);
        tokio::pin!(task);
        let mut beat = tokio::time::interval(HEARTBEAT);
        loop {
            tokio::select! {
                outcome = &mut task => return Ok(Some(outcome)),
                () = cancel.cancelled(), if !handle.stopped() => handle.stop(),
                _ = beat.tick() => {
                    let (share, text, lines) = handle.take();
                    for line in lines {
                        self.store.job_line(job.id, &line).await?;
                    }
                    match self.store.heartbeat(job.id, &self.name, job.attempts, LEASE_SECS, (share, &text)).await {
                        Ok(Lease::Held) => {}
                        Ok(Lease::Cancelled) => handle.stop(),
                        Ok(Lease::Lost) => {
                            handle.stop();
                            return Ok(None);
                        }
                        Err(e) if e.is_transient() => tracing::warn!("jobs: {e}"),
                        Err(e) => return Err(e),
                    }
                }
            }
        }
    }

    async fn task(&self, job: &JobRow, handle: &JobHandle) -> Result<Value, JobError> {
        match job.kind.as_str() {
            "train" => training::run(&self.store, &self.signer, job, handle).await,
            other => Err(JobError::fatal(format!(
                "job kind `{other}` is unknown to this version; upgrade the hub"
            ))),
        }
    }
}

/// Seconds before attempt `n + 1`: exponential, up to ten minutes.
fn backoff(attempts: i32) -> f64 {
    (5.0 * 2_f64.powi(attempts.clamp(0, 10))).min(600.0)
}
