//! Workers: owns claiming, heartbeats, cancellation and retries of jobs, never what a job does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fieldcast_store::jobs::{JobRow, Lease};
use fieldcast_store::{Store, StoreError};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::features;
use crate::registry::{NoVersion, OpenError};
use crate::signing::Signer;
use crate::training;

/// A lease lasts this long without a heartbeat.
const LEASE_SECS: f64 = 30.0;
/// So long a job waits that a worker without the keys gave back, for one that has them.
const KEYLESS_SECS: f64 = 30.0;
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

    /// The job was cancelled, or is another worker's by now.
    #[must_use]
    pub fn claim_lost() -> Self {
        Self::fatal("cancelled, or taken over by another worker")
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

impl From<NoVersion> for JobError {
    fn from(e: NoVersion) -> Self {
        match e {
            NoVersion::Store(e) => e.into(),
            used_up @ NoVersion::UsedUp(..) => Self::fatal(used_up.to_string()),
        }
    }
}

impl From<OpenError> for JobError {
    fn from(e: OpenError) -> Self {
        match e {
            OpenError::Store(e) => e.into(),
            refused @ OpenError::Model { .. } => Self::fatal(refused.to_string()),
        }
    }
}

impl From<features::Error> for JobError {
    fn from(e: features::Error) -> Self {
        match e {
            features::Error::Store(e) => e.into(),
            busy @ features::Error::Busy(_) => Self {
                message: busy.to_string(),
                retry: true,
            },
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

    /// Asked between the parts of long work.
    ///
    /// # Errors
    /// The job must end.
    pub fn go_on(&self) -> Result<(), JobError> {
        match self.stopped() {
            true => Err(JobError::claim_lost()),
            false => Ok(()),
        }
    }

    fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    fn said(&self) -> (f64, String) {
        let said = self
            .shared
            .said
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        (said.progress, said.text.clone())
    }

    fn lines(&self) -> Vec<String> {
        let mut said = self
            .shared
            .said
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut said.lines)
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
        let handle = JobHandle::default();
        handle.line(format!("attempt {} by worker {}", job.attempts, self.name));
        let end = self.work(&job, &handle, cancel).await;
        match &end {
            Ok(End::Done(Err(e))) => handle.line(&e.message),
            Ok(End::Keyless(why)) => handle.line(why),
            Ok(End::WorkerStops) => handle.line("its worker stops; another one begins anew"),
            _ => {}
        }
        say(&self.store, job.id, &handle).await;
        let status = match end? {
            End::Done(outcome) => {
                let outcome = outcome
                    .map_err(|e| (e.message, e.retry.then(|| backoff(job.attempts, draw()))));
                self.store.finish_job(&job, &self.name, outcome).await?
            }
            End::Keyless(_) => {
                self.store
                    .release_job(&job, &self.name, KEYLESS_SECS)
                    .await?
            }
            End::WorkerStops => self.store.release_job(&job, &self.name, 0.0).await?,
            End::Lost => None,
        };
        tracing::info!(
            job = job.id,
            subject = job.subject,
            status = status.as_deref().unwrap_or("lost"),
            "job ended"
        );
        Ok(Some(job.id))
    }

    async fn work(
        &self,
        job: &JobRow,
        handle: &JobHandle,
        cancel: &CancellationToken,
    ) -> Result<End, StoreError> {
        // However this ends, what the job started on other threads must not go on.
        let _stop = StopOnDrop(handle);
        // In a task of its own: a lease must not run out because the job computes.
        let mut beating = JoinSet::new();
        beating.spawn(beat(
            self.store.clone(),
            job.clone(),
            self.name.clone(),
            handle.clone(),
        ));
        tokio::select! {
            end = self.task(job, handle) => Ok(end),
            () = cancel.cancelled() => Ok(End::WorkerStops),
            Some(ended) = beating.join_next() => match ended {
                Ok(Err(e)) => Err(e),
                // Wherever the job is: what it stores for good, it stores with its result, after which nobody can cancel it.
                Ok(Ok(Lease::Cancelled)) => Ok(End::Done(Err(JobError::fatal("its end was asked for")))),
                Ok(Ok(_)) | Err(_) => Ok(End::Lost),
            },
        }
    }

    async fn task(&self, job: &JobRow, handle: &JobHandle) -> End {
        if let Some(result) = &job.result {
            // An earlier attempt stored all, and its worker died before it could say so: nothing is left to sign.
            return End::Done(Ok(result.clone()));
        }
        // What a worker signs by a key that is no longer on the list, no device takes.
        if let Err(e) = self.signer.refresh(&self.store).await {
            return match e.downcast::<StoreError>() {
                Ok(e) => End::Done(Err(e.into())),
                Err(e) => End::Keyless(format!(
                    "this worker cannot take up the list of hub keys: {e:#}; copy the `keys` folder of a hub that has the new key; \
                     the job is left to other workers, and tried again later"
                )),
            };
        }
        End::Done(match job.kind.as_str() {
            "train" => training::run(&self.store, &self.signer, job, handle).await,
            other => Err(JobError::fatal(format!(
                "job kind `{other}` is unknown to this version; upgrade the hub"
            ))),
        })
    }
}

/// How a worker's hold on a job ends.
enum End {
    /// The job ended.
    Done(Result<Value, JobError>),
    /// The worker lacks the keys to sign what the job makes: the job is for another one, or for later.
    Keyless(String),
    /// The worker is told to stop: the job is for another one.
    WorkerStops,
    /// The lease went to another worker, which now owns the outcome.
    Lost,
}

struct StopOnDrop<'a>(&'a JobHandle);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Prolongs the lease and passes on what the job says, until the lease is lost or the job's end asked for; which of them.
async fn beat(
    store: Store,
    job: JobRow,
    worker: String,
    handle: JobHandle,
) -> Result<Lease, StoreError> {
    let mut beat = tokio::time::interval(HEARTBEAT);
    loop {
        beat.tick().await;
        say(&store, job.id, &handle).await;
        let (share, text) = handle.said();
        match store
            .heartbeat(job.id, &worker, job.attempts, LEASE_SECS, (share, &text))
            .await
        {
            Ok(Lease::Held) => {}
            Ok(ended) => return Ok(ended),
            Err(e) if e.is_transient() => tracing::warn!("jobs: {e}"),
            Err(e) => return Err(e),
        }
    }
}

/// Stores the lines of the job's history; a line that cannot be stored is no reason to end the job.
async fn say(store: &Store, job: i64, handle: &JobHandle) {
    for line in handle.lines() {
        if let Err(e) = store.job_line(job, &line).await {
            tracing::warn!(job, line, "jobs: {e}");
        }
    }
}

/// Seconds before attempt `n + 1`: exponential, up to ten minutes, and by `draw` (0 to 1) up to half of that less, so that what
/// failed together does not come back together.
fn backoff(attempts: i32, draw: f64) -> f64 {
    let most = (5.0 * 2_f64.powi(attempts.clamp(0, 10))).min(600.0);
    most * (1.0 - 0.5 * draw.clamp(0.0, 1.0))
}

/// A random share; version 4 UUIDs are random in their first bits.
fn draw() -> f64 {
    let (bits, ..) = uuid::Uuid::new_v4().as_fields();
    f64::from(bits) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_wait_longer_each_time_and_are_spread_over_half_of_it() {
        for (attempts, most) in [(1, 10.0), (2, 20.0), (3, 40.0), (30, 600.0)] {
            assert!((backoff(attempts, 0.0) - most).abs() < 1e-9);
            assert!((backoff(attempts, 1.0) - most / 2.0).abs() < 1e-9);
        }
        let drawn: Vec<f64> = (0..64).map(|_| draw()).collect();
        assert!(drawn.iter().all(|d| (0.0..=1.0).contains(d)));
        assert!(drawn.iter().any(|d| *d < 0.5) && drawn.iter().any(|d| *d > 0.5));
    }
}
