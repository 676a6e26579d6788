//! The connection pool: owns its options and the migrations, never where the database comes from.

use std::path::PathBuf;
use std::time::Duration;

use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, PgConnection, PgPool};

use crate::error::{Context as _, Result, StoreError};

/// How long a server may take to let a connection in.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// To be read from in a statement whose commit need not wait for the disk: what a crash of the server takes of it is said
/// again, or made good by the next statement of its kind. What is acknowledged is never written so.
pub(crate) const UNHURRIED: &str =
    "(SELECT set_config('synchronous_commit', 'off', true)) AS unhurried";

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations");

/// Where a database is.
#[derive(Debug, Clone)]
pub enum Target {
    /// `postgres://...`.
    Url(String),
    /// A private cluster's socket.
    Socket {
        /// Directory of the socket.
        dir: PathBuf,
        /// Port that is part of the socket's name.
        port: u16,
        /// User.
        user: String,
        /// Its password.
        password: String,
        /// Database.
        database: String,
    },
}

impl Target {
    fn options(&self) -> Result<PgConnectOptions> {
        let options = match self {
            Self::Url(url) => url
                .parse::<PgConnectOptions>()
                .during("read the database URL")?,
            Self::Socket {
                dir,
                port,
                user,
                password,
                database,
            } => PgConnectOptions::new_without_pgpass()
                .socket(dir)
                .port(*port)
                .username(user)
                .password(password)
                .database(database),
        };
        Ok(options.application_name("fieldcast-hub").options([
            // Committed must mean on disk, whatever the server's default says.
            ("synchronous_commit", "on"),
            ("TimeZone", "UTC"),
            // The locks of a hub that lost its power are free within half a minute.
            ("tcp_keepalives_idle", "15"),
            ("tcp_keepalives_interval", "5"),
            ("tcp_keepalives_count", "3"),
        ]))
    }
}

/// What a migration ran into: a database that is away passes by itself, a version that is not this program's does not.
fn failed(error: MigrateError) -> StoreError {
    let (operation, source) = match error {
        MigrateError::Execute(source) => ("migrate the database".to_owned(), source),
        MigrateError::ExecuteMigration(source, number) => {
            (format!("run migration {number} of the database"), source)
        }
        other => (
            "migrate the database".to_owned(),
            sqlx::Error::Migrate(Box::new(other)),
        ),
    };
    StoreError { operation, source }
}

/// The hub's tables.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
}

impl Store {
    /// A pool of up to `connections`; connects when first used.
    ///
    /// # Errors
    /// A URL that is none.
    pub fn new(target: &Target, connections: u32) -> Result<Self> {
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(CONNECT_WITHIN)
            .connect_lazy_with(target.options()?);
        Ok(Self { pool })
    }

    /// The pool, for statements that have no method here.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// One round trip.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn ping(&self) -> Result<()> {
        sqlx::query("SELECT 1")
            .execute(&self.pool)
            .await
            .map(drop)
            .during("ask the database for a sign of life")
    }

    /// Brings the tables to this version.
    ///
    /// # Errors
    /// The database is away, or newer than this version.
    pub async fn migrate(&self) -> Result<()> {
        // A connection of its own: the pool tries again by itself and then only says that it timed out.
        let mut connection = self.connect().await?;
        MIGRATIONS.run(&mut connection).await.map_err(failed)?;
        connection.close().await.during("migrate the database")
    }

    async fn connect(&self) -> Result<PgConnection> {
        let options = self.pool.connect_options();
        let connected =
            tokio::time::timeout(CONNECT_WITHIN, PgConnection::connect_with(&options)).await;
        let late = || {
            let text = format!("no answer within {} s", CONNECT_WITHIN.as_secs());
            sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, text))
        };
        connected
            .unwrap_or_else(|_| Err(late()))
            .during("connect to the database")
    }

    /// Creates a database where it is missing, by way of the maintenance database of the same target.
    ///
    /// # Errors
    /// The server does not answer or refuses.
    pub async fn create_database(target: &Target, name: &str) -> Result<()> {
        let options = target.options()?.database("postgres");
        let mut connection = PgConnection::connect_with(&options)
            .await
            .during("connect to the database `postgres`")?;
        let exists: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)")
                .bind(name)
                .fetch_one(&mut connection)
                .await
                .during("list databases")?;
        if !exists {
            let quoted = name.replace('"', "\"\"");
            let sql = sqlx::AssertSqlSafe(format!("CREATE DATABASE \"{quoted}\""));
            let created = sqlx::raw_sql(sql).execute(&mut connection).await;
            // Two programs that begin together: the other one made it meanwhile (42P04, or 23505 where both were at it).
            let there = |e: &sqlx::Error| {
                let code = e.as_database_error().and_then(|e| e.code());
                matches!(code.as_deref(), Some("42P04" | "23505"))
            };
            match created {
                Err(e) if there(&e) => {}
                other => {
                    other.during(format!("create database {name}"))?;
                }
            }
        }
        connection
            .close()
            .await
            .during("close the maintenance connection")
    }

    /// Closes the pool's connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_migration_passes_by_itself_where_its_cause_does() {
        let away = || sqlx::Error::Io(std::io::ErrorKind::ConnectionRefused.into());
        assert!(failed(MigrateError::Execute(away())).is_transient());
        assert!(failed(MigrateError::ExecuteMigration(away(), 3)).is_transient());
        assert!(failed(MigrateError::Execute(sqlx::Error::PoolTimedOut)).is_transient());
        let newer = failed(MigrateError::VersionMissing(9));
        assert!(!newer.is_transient());
        assert!(newer.to_string().contains("fieldcast-hub migrate"));
    }
}
