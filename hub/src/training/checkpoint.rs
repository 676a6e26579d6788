//! A training's checkpoint in the database: owns the way between the training's threads and the store, never its bytes.

use fieldcast_store::Store;
use fieldcast_store::jobs::{Claim, JobRow};
use fieldcast_train::Checkpoints;
use tokio::runtime::Handle;

/// The checkpoint of one attempt of a job.
pub(super) struct Kept {
    store: Store,
    runtime: Handle,
    job: i64,
    worker: String,
    attempt: i32,
    earlier: Option<Vec<u8>>,
}

impl Kept {
    /// For the job's present attempt, which goes on from `earlier`. Within a runtime only.
    pub(super) fn new(store: &Store, job: &JobRow, earlier: Option<Vec<u8>>) -> Self {
        let claim = job.claim();
        Self {
            store: store.clone(),
            runtime: Handle::current(),
            job: claim.job,
            worker: claim.worker.to_owned(),
            attempt: claim.attempt,
            earlier,
        }
    }
}

impl Checkpoints for Kept {
    fn load(&self) -> Option<Vec<u8>> {
        self.earlier.clone()
    }

    fn save(&self, bytes: &[u8]) {
        let claim = Claim {
            job: self.job,
            worker: &self.worker,
            attempt: self.attempt,
        };
        // A lost claim is the worker's to notice; its heartbeat stops the training.
        if let Err(error) = self
            .runtime
            .block_on(self.store.keep_checkpoint(&claim, bytes))
        {
            tracing::warn!(run = self.job, %error, "the training goes on without a checkpoint");
        }
    }
}
