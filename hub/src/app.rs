//! `serve`: owns which tasks run, the channels between them and the order of their end; decides nothing else.
//!
//! Channels: `telemetry` and `leader` (MQTT -> ingest, leader; end with the connection's task), `out` (ingest, leader ->
//! consumers), `events` (whoever commits -> whoever listens). All are bounded; all tasks end with one token.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use fieldcast_store::Store;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, HUB_USER};
use crate::config::{Config, ServeConfig};
use crate::downlink::Downlink;
use crate::events::HubEvent;
use crate::ingest::{self, Ingestor, out};
use crate::leader::{self, Desk};
use crate::mqtt::{self, LANE, Lanes, Link};
use crate::pg::Database;
use crate::signing::Signer;

/// How long tasks may take to end.
const DRAIN: Duration = Duration::from_secs(10);

/// What the parts of a running hub share.
#[derive(Debug, Clone)]
pub struct Hub {
    /// Options of every command.
    pub config: Config,
    /// Tables.
    pub store: Store,
    /// Private keys.
    pub signer: Arc<Signer>,
    /// To devices.
    pub downlink: Downlink,
    /// What is committed.
    pub events: broadcast::Sender<HubEvent>,
    /// Whether this hub leads.
    pub leads: watch::Receiver<bool>,
    /// Ends every task.
    pub end: CancellationToken,
}

impl Hub {
    /// Why this hub cannot do its work at the moment; none where it can.
    pub async fn not_ready(&self) -> Option<String> {
        if let Err(error) = self.store.ping().await {
            return Some(error.to_string());
        }
        (!self.downlink.connected()).then(|| "there is no connection to the broker".to_owned())
    }
}

/// A started hub and its tasks.
pub struct Running {
    /// What its parts share.
    pub hub: Hub,
    /// `mqtt://host:port` that devices connect to.
    pub broker_url: String,
    broker: Option<Broker>,
    tasks: JoinSet<()>,
    database: Database,
}

/// Starts the data path: database, broker, connection, ingest, leader, features. Waits for a database or broker that
/// is away, except where the private parts cannot start at all.
///
/// # Errors
/// No PostgreSQL to start, a port in use, keys that cannot be read: each says what to do.
pub async fn start(
    config: &Config,
    serve: &ServeConfig,
    end: CancellationToken,
) -> Result<Running> {
    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("create data directory {}", config.data_dir.display()))?;
    let signer = Arc::new(Signer::open(&config.keys_dir())?);
    let database = Database::open(config).await?;
    let store = database.store().clone();
    let instance = prepare(&store, &end).await?;
    let (broker, broker_url, link) = match &serve.broker {
        Some(url) => {
            let link = Link::parse(url, serve.broker_ca.clone())?;
            if let Some(tls) = &link.tls {
                tls.transport()?;
            }
            let scheme = if link.tls.is_some() { "mqtts" } else { "mqtt" };
            (
                None,
                format!("{scheme}://{}:{}", link.host, link.port),
                link,
            )
        }
        None => {
            let broker = Broker::start(serve.broker_listen, &config.site, store.clone()).await?;
            let link = Link {
                host: broker.address.ip().to_string(),
                port: broker.address.port(),
                tls: None,
                login: Some((HUB_USER.to_owned(), broker.password.clone())),
            };
            let url = format!("mqtt://{}", broker.address);
            (Some(broker), url, link)
        }
    };
    let downlink = Downlink::new(&config.site, store.clone(), Arc::clone(&signer));
    let (events, _) = broadcast::channel(1_024);
    let (leads_tx, leads) = watch::channel(false);
    let (connections_tx, connections) = watch::channel(0);
    let (telemetry, telemetry_rx) = mpsc::channel(LANE);
    let (leader_tx, leader_rx) = mpsc::channel(LANE);
    let (out_tx, out_rx) = mpsc::channel(out::QUEUE);
    let lanes = Lanes {
        telemetry,
        leader: leader_tx,
    };
    let ingestor = Ingestor::new(store.clone()).await?;
    let desk = Desk {
        store: store.clone(),
        downlink: downlink.clone(),
        events: events.clone(),
        out: out_tx.clone(),
        instance,
    };
    let client_id = format!("fieldcast-hub-{}", uuid::Uuid::new_v4().simple());
    let mut tasks = JoinSet::new();
    tasks.spawn(mqtt::run(
        link,
        client_id,
        downlink.clone(),
        lanes,
        connections_tx,
        end.clone(),
    ));
    tasks.spawn(ingest::run(
        ingestor,
        telemetry_rx,
        downlink.clone(),
        out_tx,
        events.clone(),
        end.clone(),
    ));
    tasks.spawn(out::run(out_rx, downlink.clone(), end.clone()));
    tasks.spawn(leader::elect(store.clone(), leads_tx, end.clone()));
    tasks.spawn(leader::attend(
        downlink.clone(),
        connections,
        leads.clone(),
        end.clone(),
    ));
    tasks.spawn(leader::run(desk, leader_rx, end.clone()));
    tasks.spawn(crate::features::run(
        store.clone(),
        events.clone(),
        end.clone(),
    ));
    let keeper = (database.clone(), end.clone());
    tasks.spawn(async move {
        tokio::select! {
            () = keeper.0.keep_alive() => {}
            () = keeper.1.cancelled() => {}
        }
    });
    let hub = Hub {
        config: config.clone(),
        store,
        signer,
        downlink,
        events,
        leads,
        end,
    };
    Ok(Running {
        hub,
        broker_url,
        broker,
        tasks,
        database,
    })
}

/// Migrates; waits with backoff for a database that is away.
async fn prepare(store: &Store, end: &CancellationToken) -> Result<Vec<u8>> {
    let mut backoff = Duration::from_millis(200);
    loop {
        let tried = match store.migrate().await {
            Ok(()) => store.instance().await,
            Err(error) => Err(error),
        };
        match tried {
            Ok(instance) => return Ok(instance),
            Err(error) if error.is_transient() && !end.is_cancelled() => {
                tracing::warn!(%error, "waiting for the database");
                tokio::select! {
                    () = tokio::time::sleep(backoff) => {}
                    () = end.cancelled() => {}
                }
                backoff = (backoff * 2).min(Duration::from_secs(5));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

impl Running {
    /// Adds a task that ends with the hub's token.
    pub fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Ends all tasks, then the broker, then the database.
    ///
    /// # Errors
    /// A private PostgreSQL that does not stop.
    pub async fn stop(mut self) -> Result<()> {
        self.hub.end.cancel();
        let drained = tokio::time::timeout(DRAIN, async {
            while self.tasks.join_next().await.is_some() {}
        });
        if drained.await.is_err() {
            tracing::warn!("some tasks did not end in time");
            self.tasks.abort_all();
        }
        if let Some(broker) = self.broker.take() {
            broker.stop().await;
        }
        self.database.close().await
    }
}
