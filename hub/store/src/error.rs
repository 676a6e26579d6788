//! What can go wrong with the database: owns the wording and which errors pass by themselves.

/// Result of every store operation.
pub type Result<T> = std::result::Result<T, StoreError>;

/// A failed database operation.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {source}; {advice}", advice = self.advice())]
pub struct StoreError {
    /// What was tried, and with what.
    pub operation: String,
    /// What the database or the connection says.
    #[source]
    pub source: sqlx::Error,
}

impl StoreError {
    /// Whether the same operation may succeed later: the database is away, restarting or was in the way of another
    /// transaction.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match &self.source {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => true,
            sqlx::Error::Database(e) => e.code().is_some_and(|code| {
                // connection, resources, operator intervention, serialisation and deadlock, locks, read-only standby
                ["08", "53", "57", "58", "40", "55"]
                    .iter()
                    .any(|class| code.starts_with(class))
                    || code == "25006"
                    // a month that retention removed while a writer believed that it is there
                    || (code == "23514" && e.table() == Some("readings") && e.constraint().is_none())
            }),
            _ => false,
        }
    }

    /// Whether the values themselves are what the database refuses, so that other values would pass.
    #[must_use]
    pub fn is_about_data(&self) -> bool {
        match &self.source {
            sqlx::Error::Encode(_) => true,
            // data exceptions, broken constraints, limits of one value
            sqlx::Error::Database(e) => e.code().is_some_and(|code| {
                ["22", "23", "54"]
                    .iter()
                    .any(|class| code.starts_with(class))
            }),
            _ => false,
        }
    }

    fn advice(&self) -> &'static str {
        let code = self.source.as_database_error().and_then(|e| e.code());
        if self.is_transient() {
            "check that PostgreSQL runs and accepts connections; it is tried again by itself where the hub can wait"
        } else if matches!(self.source, sqlx::Error::Migrate(_)) {
            "run the same version of `fieldcast-hub migrate` that the database was last used with, or a newer one"
        } else if matches!(self.source, sqlx::Error::RowNotFound) {
            "what it is about was removed in the meantime; list it again and choose another"
        } else if matches!(self.source, sqlx::Error::Configuration(_)) {
            "write the database's address as postgres://user:password@host:port/name (DATABASE_URL or --database-url)"
        } else if matches!(code.as_deref(), Some("28000" | "28P01")) {
            "correct user and password in DATABASE_URL or --database-url, or let them in by pg_hba.conf"
        } else if code.as_deref() == Some("3D000") {
            "create that database with `createdb`, or name another in DATABASE_URL or --database-url"
        } else if code.as_deref() == Some("42501") {
            "make the hub's user the owner of the database, or grant it what is missing"
        } else {
            "this is a defect or a damaged database: keep the log and report it"
        }
    }
}

/// Names the operation that failed.
pub trait Context<T> {
    /// Wraps the error with what was tried.
    ///
    /// # Errors
    /// The same error, named.
    fn during(self, operation: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<sqlx::Error>> Context<T> for std::result::Result<T, E> {
    fn during(self, operation: impl Into<String>) -> Result<T> {
        self.map_err(|source| StoreError {
            operation: operation.into(),
            source: source.into(),
        })
    }
}
