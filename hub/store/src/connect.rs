//! The connection pool: owns its options and the migrations, never where the database comes from.

use std::path::PathBuf;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, PgConnection, PgPool};

use crate::error::{Context as _, Result};

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
        Ok(options
            .application_name("fieldcast-hub")
            // Committed must mean on disk, whatever the server's default says.
            .options([("synchronous_commit", "on"), ("TimeZone", "UTC")]))
    }
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
            .acquire_timeout(Duration::from_secs(10))
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
        MIGRATIONS
            .run(&self.pool)
            .await
            .map_err(|e| sqlx::Error::Migrate(Box::new(e)))
            .during("migrate the database")
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
            sqlx::raw_sql(sql)
                .execute(&mut connection)
                .await
                .during(format!("create database {name}"))?;
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
