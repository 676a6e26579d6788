//! What keeps a private PostgreSQL from running: owns the wording, with what to do next.

use std::path::{Path, PathBuf};

/// Why there is no private PostgreSQL.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No server binaries.
    #[error(
        "no PostgreSQL server found (looked in {looked_in}); install it with `apt-get install postgresql`, or name a \
         running one with DATABASE_URL"
    )]
    NoBinaries {
        /// Where it was looked for.
        looked_in: String,
    },
    /// PostgreSQL refuses to run as root and there is no other user for it.
    #[error(
        "PostgreSQL does not run as root and this machine has no user `postgres`; install it with \
         `apt-get install postgresql`, or start the hub as another user"
    )]
    NoUser,
    /// A file operation.
    #[error("{operation} {}: {source}; check its owner, mode and free space", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// `initdb` failed.
    #[error("initdb of {} failed: {output}; remove that directory and start again", data.display())]
    Init {
        /// Data directory.
        data: PathBuf,
        /// What it said.
        output: String,
    },
    /// The server ended, or did not become ready.
    #[error("PostgreSQL in {} did not start: {what}; its log ends:\n{log}", data.display())]
    Start {
        /// Data directory.
        data: PathBuf,
        /// What happened.
        what: String,
        /// Last lines of the log.
        log: String,
    },
    /// The server did not end.
    #[error(
        "PostgreSQL (pid {pid}) did not stop within {seconds} s; end it with `kill -INT {pid}`"
    )]
    Stop {
        /// Process id.
        pid: i32,
        /// Time waited.
        seconds: u64,
    },
}

/// Names the file operation that failed.
pub(crate) fn file<T>(
    operation: &'static str,
    path: &Path,
    result: std::io::Result<T>,
) -> Result<T, ClusterError> {
    result.map_err(|source| ClusterError::File {
        operation,
        path: path.to_path_buf(),
        source,
    })
}
