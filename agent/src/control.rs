//! What the agent can do to its own process: owns the switches that a command reaches, never who may use them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

/// Puts a log filter in force, or says why it is none; empty: the one of the start.
pub type SetLog = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// The switches; clones share them.
#[derive(Clone)]
pub struct Control {
    stop: CancellationToken,
    restart: Arc<AtomicBool>,
    log: SetLog,
}

impl Control {
    /// Switches of a process that ends with `stop`.
    #[must_use]
    pub fn new(stop: CancellationToken, log: SetLog) -> Self {
        Self {
            stop,
            restart: Arc::default(),
            log,
        }
    }

    /// Ends with the process.
    #[must_use]
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Ends the process in order, to start it again.
    pub fn restart(&self) {
        self.restart.store(true, Ordering::Relaxed);
        self.stop.cancel();
    }

    /// Whether the process is to start again once it has ended.
    #[must_use]
    pub fn restarts(&self) -> bool {
        self.restart.load(Ordering::Relaxed)
    }

    /// Another log filter.
    ///
    /// # Errors
    /// A text that is no filter.
    pub fn log(&self, filter: &str) -> Result<(), String> {
        (self.log)(filter)
    }
}
