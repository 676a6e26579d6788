//! `serve`: owns which tasks run, the channels between them and the order of their end; decides nothing else.
//!
//! Channels: `telemetry` and `leader` (MQTT -> ingest, leader; end with the connection's task), `out` (ingest, leader ->
//! consumers), `events` (whoever commits -> whoever listens). All are bounded; all tasks end with one token.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fieldcast_store::Store;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::config::{Config, ServeConfig};
use crate::downlink::Downlink;
use crate::events::HubEvent;
use crate::ingest::{self, Ingestor, out};
use crate::leader::{self, Desk};
use crate::mqtt::{self, Lanes, Link};
use crate::pg::Database;
use crate::signing::Signer;

/// How long tasks may take to end.
const DRAIN: Duration = Duration::from_secs(10);

/// How long the database may take to answer before the hub counts as not ready.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// Waits between tries of a database that is away: the first and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

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
    /// To other consumers.
    pub out: mpsc::Sender<out::Message>,
    /// Whether the tables are there and at this version.
    pub prepared: watch::Receiver<bool>,
    /// Whether this hub leads.
    pub leads: watch::Receiver<bool>,
    /// Ends every task.
    pub end: CancellationToken,
}

impl Hub {
    /// Why the database cannot be used at the moment; none where it can.
    pub async fn no_database(&self) -> Option<String> {
        match tokio::time::timeout(ANSWERS_WITHIN, self.store.ping()).await {
            Err(_) => Some(format!(
                "the database does not answer within {} s; check that PostgreSQL runs and accepts connections",
                ANSWERS_WITHIN.as_secs()
            )),
            Ok(Err(error)) => Some(error.to_string()),
            Ok(Ok(())) => (!*self.prepared.borrow()).then(|| {
                "the database is not at this version yet; it is brought there by itself".to_owned()
            }),
        }
    }

    /// Why this hub cannot do its work at the moment; none where it can.
    pub async fn not_ready(&self) -> Option<String> {
        if let Some(reason) = self.no_database().await {
            return Some(reason);
        }
        (!self.downlink.connected()).then(|| {
            "there is no connection to the broker; check that it runs and lets the hub in"
                .to_owned()
        })
    }
}

/// A started hub and its tasks.
pub struct Running {
    /// What its parts share.
    pub hub: Hub,
    /// `mqtt://host:port` that devices connect to.
    pub broker_url: String,
    broker: Option<Broker>,
    waiting: Option<Waiting>,
    tasks: JoinSet<()>,
    database: Database,
}

/// What the data path begins with once there is a database.
struct Waiting {
    site_broker: mqtt::Broker,
    out: mpsc::Receiver<out::Message>,
    prepared: watch::Sender<bool>,
    leads: watch::Sender<bool>,
}

/// Starts what needs no tables: the private database and broker where they are used, and what all parts share.
/// [`Running::begin`] starts the rest.
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
    let (broker, broker_url, site_broker) = match broker(config, serve, &store).await {
        Ok(found) => found,
        Err(error) => {
            database.close().await?;
            return Err(error);
        }
    };
    let (events, _) = broadcast::channel(1_024);
    let (out, out_rx) = mpsc::channel(out::QUEUE);
    let (prepared_tx, prepared) = watch::channel(false);
    let (leads_tx, leads) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let keeper = (database.clone(), end.clone());
    tasks.spawn(async move {
        tokio::select! {
            () = keeper.0.keep_alive() => {}
            () = keeper.1.cancelled() => {}
        }
    });
    let hub = Hub {
        config: config.clone(),
        downlink: Downlink::new(&config.site, store.clone(), Arc::clone(&signer)),
        store,
        signer,
        events,
        out,
        prepared,
        leads,
        end,
    };
    Ok(Running {
        hub,
        broker_url,
        broker,
        waiting: Some(Waiting {
            site_broker,
            out: out_rx,
            prepared: prepared_tx,
            leads: leads_tx,
        }),
        tasks,
        database,
    })
}

/// The embedded broker, started, or the one that is named; its address for devices, and the hub's way to it.
async fn broker(
    config: &Config,
    serve: &ServeConfig,
    store: &Store,
) -> Result<(Option<Broker>, String, mqtt::Broker)> {
    let Some(url) = &serve.broker else {
        let broker = Broker::start(
            serve.broker_listen,
            &config.site,
            store.clone(),
            serve.broker_connections,
        )
        .await?;
        let url = format!("mqtt://{}", broker.address);
        let within = broker.direct.clone().into();
        return Ok((Some(broker), url, within));
    };
    let link = Link::parse(url, serve.broker_ca.clone())?;
    if let Some(tls) = &link.tls {
        // What cannot be read now is said now; it is read again for each connection.
        tls.transport()?;
    }
    let scheme = if link.tls.is_some() { "mqtts" } else { "mqtt" };
    let url = format!("{scheme}://{}:{}", link.host, link.port);
    Ok((None, url, link.into()))
}

/// Migrates and checks that the keys are the database's; waits with backoff for a database that is away. Answers the
/// name of the database, or none where `end` came first.
///
/// # Errors
/// A database of another version or of other keys, or one that refuses; each says what to do.
pub async fn prepare(
    store: &Store,
    signer: &Signer,
    end: &CancellationToken,
) -> Result<Option<Vec<u8>>> {
    let mut backoff = BACKOFF.0;
    loop {
        let tried = async {
            store.migrate().await?;
            let foreign = signer.foreign(store).await?;
            Ok((foreign, store.instance().await?))
        };
        let tried: fieldcast_store::Result<_> = tokio::select! {
            tried = tried => tried,
            () = end.cancelled() => return Ok(None),
        };
        match tried {
            Ok((None, instance)) => return Ok(Some(instance)),
            Ok((Some(foreign), _)) => anyhow::bail!(foreign),
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, "waiting for the database");
                tokio::select! {
                    () = tokio::time::sleep(backoff) => {}
                    () = end.cancelled() => return Ok(None),
                }
                backoff = (backoff * 2).min(BACKOFF.1);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

impl Running {
    /// Waits for the database, then starts the data path: connection, ingest, leader, features. The broker is waited
    /// for by its connection. Answers false where the hub was ended first.
    ///
    /// # Errors
    /// As [`prepare`].
    pub async fn begin(&mut self) -> Result<bool> {
        let Some(waiting) = self.waiting.take() else {
            return Ok(true);
        };
        let hub = self.hub.clone();
        let (instance, ingestor) = loop {
            let Some(instance) = prepare(&hub.store, &hub.signer, &hub.end).await? else {
                return Ok(false);
            };
            match Ingestor::new(hub.store.clone()).await {
                Ok(ingestor) => break (instance, ingestor),
                // The database went away in between: waited for once more.
                Err(error) if error.is_transient() => {}
                Err(error) => return Err(error.into()),
            }
        };
        let (store, downlink, events, end) = (&hub.store, &hub.downlink, &hub.events, &hub.end);
        let (connections_tx, connections) = watch::channel(0);
        let (lanes, readings, news) = Lanes::new();
        let desk = Desk {
            store: store.clone(),
            downlink: downlink.clone(),
            events: events.clone(),
            out: hub.out.clone(),
            instance,
        };
        let client_id = format!("fieldcast-hub-{}", uuid::Uuid::new_v4().simple());
        let tasks = &mut self.tasks;
        tasks.spawn(mqtt::run(
            waiting.site_broker,
            client_id,
            downlink.clone(),
            lanes,
            connections_tx,
            end.clone(),
        ));
        tasks.spawn(ingest::run(
            ingestor,
            readings,
            downlink.clone(),
            hub.out.clone(),
            events.clone(),
            end.clone(),
        ));
        tasks.spawn(out::run(waiting.out, downlink.clone(), end.clone()));
        tasks.spawn(leader::elect(
            store.clone(),
            downlink.clone(),
            connections.clone(),
            waiting.leads,
            end.clone(),
        ));
        tasks.spawn(leader::attend(
            downlink.clone(),
            connections,
            hub.leads.clone(),
            end.clone(),
        ));
        tasks.spawn(leader::run(desk, news, end.clone()));
        waiting.prepared.send_replace(true);
        Ok(true)
    }

    /// Adds a task that ends with the hub's token.
    pub fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Ends all tasks, then the broker, then the database.
    ///
    /// # Errors
    /// A private PostgreSQL that does not stop, or a hub that had ended by itself because it heard no device.
    pub async fn stop(mut self) -> Result<()> {
        let deaf = self.broker.as_ref().is_some_and(|b| b.direct.is_over());
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
        self.database.close().await?;
        ensure!(
            !deaf,
            "this hub heard no device any more (its log says what had ended); start it again"
        );
        Ok(())
    }
}
