//! The hub's database: owns where it is and keeping a private one alive, never what is stored in it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fieldcast_postgres::{Cluster, Tuning, cluster_root};
use fieldcast_store::{Store, Target};

use crate::config::Config;

const DATABASE: &str = "fieldcast";
const CONNECTIONS: u32 = 16;

/// An open database. A private server stops with the last [`Database`] that uses it, in whichever process.
#[derive(Debug, Clone)]
pub struct Database {
    store: Store,
    cluster: Option<Arc<Mutex<Option<Cluster>>>>,
}

impl Database {
    /// Makes sure that [`Self::open`] will find a database and make none.
    ///
    /// # Errors
    /// A data directory without a private cluster, or one that may not be looked into.
    pub fn ensure_made(config: &Config) -> Result<()> {
        let dir = &config.data_dir;
        ensure!(
            config.database_url.is_some() || Cluster::is_made(&cluster_root(dir)?)?,
            "there is no hub in {}; --data-dir or FIELDCAST_HUB_DIR names the data directory of the one that is meant, DATABASE_URL a \
             PostgreSQL (and is this the user that it runs as?); `fieldcast-hub serve` makes a new one",
            dir.display()
        );
        Ok(())
    }

    /// `DATABASE_URL` where it is set; else the private cluster of the data directory, joined or started.
    ///
    /// # Errors
    /// No PostgreSQL on this machine, or it does not start; says what to do.
    pub async fn open(config: &Config) -> Result<Self> {
        if let Some(url) = &config.database_url {
            let store = Store::new(&Target::Url(url.clone()), CONNECTIONS)?;
            return Ok(Self {
                store,
                cluster: None,
            });
        }
        let data_dir = config.data_dir.clone();
        let cluster = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&data_dir)
                .with_context(|| format!("create data directory {}", data_dir.display()))?;
            let root = cluster_root(&data_dir)?;
            tracing::debug!(directory = %root.display(), "private PostgreSQL");
            Cluster::open(&root, Tuning::default()).map_err(anyhow::Error::from)
        })
        .await??;
        let target = Target::Socket {
            dir: cluster.socket_dir().to_path_buf(),
            port: cluster.port(),
            user: cluster.user().to_owned(),
            password: cluster.password().to_owned(),
            database: DATABASE.to_owned(),
        };
        Store::create_database(&target, DATABASE).await?;
        Ok(Self {
            store: Store::new(&target, CONNECTIONS)?,
            cluster: Some(Arc::new(Mutex::new(Some(cluster)))),
        })
    }

    /// The tables.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Starts a private server again that has died; for ever, until the future is dropped.
    pub async fn keep_alive(&self) {
        let Some(cluster) = self.cluster.clone() else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let cluster = Arc::clone(&cluster);
            let revived = tokio::task::spawn_blocking(move || {
                let mut cluster = cluster.lock().unwrap_or_else(PoisonError::into_inner);
                cluster.as_mut().map_or(Ok(false), Cluster::revive)
            })
            .await;
            match revived {
                Ok(Ok(true)) => {
                    tracing::warn!("the private PostgreSQL had died and was started again")
                }
                Ok(Err(error)) => tracing::error!(%error, "the private PostgreSQL does not start"),
                _ => {}
            }
        }
    }

    /// Closes the connections and gives up the private server.
    ///
    /// # Errors
    /// The server does not stop.
    pub async fn close(self) -> Result<()> {
        self.store.close().await;
        if let Some(cluster) = self.cluster {
            tokio::task::spawn_blocking(move || {
                let cluster = cluster
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take();
                cluster.map_or(Ok(false), Cluster::close)
            })
            .await??;
        }
        Ok(())
    }
}
