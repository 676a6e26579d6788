//! What can go wrong in the buffer: owns the wording; never hides a cause.

use std::path::PathBuf;

/// Why the buffer could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BufferError {
    /// SQLite failed.
    #[error(
        "buffer: {operation} failed ({source}); check free space and health of the disk, then restart the agent"
    )]
    Sql {
        /// What was being done.
        operation: &'static str,
        /// What SQLite says.
        #[source]
        source: rusqlite::Error,
    },
    /// A file of the buffer could not be made, read or renamed.
    #[error("buffer: {operation} of {} failed ({source}); check that the data folder exists and is writable", path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A record that must not be kept.
    #[error(
        "buffer: record refused: {problem}; correct the source, nothing of this commit was kept"
    )]
    Record {
        /// What is wrong with it.
        problem: String,
    },
    /// The file was written by a newer agent.
    #[error(
        "buffer: the file has layout {found}, this agent knows up to {known}; install the newer agent again"
    )]
    Newer {
        /// Layout found.
        found: i64,
        /// Newest layout known.
        known: i64,
    },
    /// Records cannot be sealed.
    #[error("buffer: sealing batch {number} failed ({source})")]
    Seal {
        /// Number of the batch.
        number: u64,
        /// What the codec says.
        #[source]
        source: fieldcast_wire::BatchError,
    },
    /// Stored bytes are not what was stored.
    #[error("buffer: {what} is damaged; the file is set aside and what can be read is kept")]
    Damaged {
        /// What was read.
        what: String,
    },
    /// No space, and nothing left that may be dropped.
    #[error("buffer: full, and nothing is left to drop; raise buffer.max_bytes or free disk space")]
    Full,
    /// The owning thread has ended.
    #[error("buffer: closed; restart the agent")]
    Closed,
    /// Several commits shared one transaction that failed.
    #[error("buffer: the shared transaction failed: {cause}")]
    Shared {
        /// What failed.
        cause: String,
    },
}

impl BufferError {
    /// Whether the file itself is broken, so that only setting it aside helps.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } => true,
            Self::Sql {
                source: rusqlite::Error::SqliteFailure(e, _),
                ..
            } => matches!(
                e.code,
                rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase
            ),
            Self::Sql { source, .. } => matches!(
                source,
                rusqlite::Error::FromSqlConversionFailure(..)
                    | rusqlite::Error::InvalidColumnType(..)
                    | rusqlite::Error::IntegralValueOutOfRange(..)
            ),
            _ => false,
        }
    }

    /// Whether there was no space on the disk.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(
            self,
            Self::Sql {
                source: rusqlite::Error::SqliteFailure(
                    rusqlite::ffi::Error {
                        code: rusqlite::ErrorCode::DiskFull,
                        ..
                    },
                    _
                ),
                ..
            }
        )
    }
}

impl BufferError {
    /// Whether the system failed to read or write. A full disk may show so: where a quota ends, or where room is missed
    /// only when written data is synced or SQLite's shared file grows.
    #[must_use]
    pub fn is_io(&self) -> bool {
        matches!(
            self,
            Self::Sql {
                source: rusqlite::Error::SqliteFailure(
                    rusqlite::ffi::Error {
                        code: rusqlite::ErrorCode::SystemIoFailure,
                        ..
                    },
                    _
                ),
                ..
            }
        )
    }
}

/// Names the operation in an SQLite error.
pub(super) fn sql(operation: &'static str) -> impl Fn(rusqlite::Error) -> BufferError {
    move |source| BufferError::Sql { operation, source }
}
