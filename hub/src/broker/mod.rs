//! The embedded MQTT broker: owns who may connect and what they may publish and read, never what is said.

mod direct;
mod door;

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use fieldcast_store::Store;
use fieldcast_wire::caps::MAX_PAYLOAD;
use fieldcast_wire::{DeviceId, Sha256, SiteId, Topics};
use mqtt5::broker::auth::{AuthProvider, AuthResult};
use mqtt5::broker::config::{BrokerConfig, StorageConfig};
use mqtt5::broker::events::BrokerEventHandler;
use mqtt5::broker::{BrokerShutdownHandle, MqttBroker, ResourceLimits, ResourceMonitor};
use mqtt5::packet::connect::ConnectPacket;
use mqtt5::protocol::v5::reason_codes::ReasonCode;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use door::Door;

use crate::sockets;

pub use direct::Direct;
pub(crate) use direct::{Inbox, Subscriber};

/// MQTT user names of consumers begin with it; no device's name can.
pub const CONSUMER: &str = "consumer:";
/// Files and sockets beside the broker's connections.
const BESIDE: u64 = 500;
/// The library closes a connection that has not said who it is by then.
const INTRODUCED_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks at how full the broker is.
const LOOKS: Duration = Duration::from_secs(10);
/// How long a token's hash is believed without asking the database again.
const TOKEN_KEPT: Duration = Duration::from_secs(5);

/// A running embedded broker.
pub struct Broker {
    /// Where it listens.
    pub address: SocketAddr,
    /// The hub's own way to devices and from them.
    pub direct: Direct,
    shutdown: BrokerShutdownHandle,
    task: JoinHandle<()>,
}

impl Broker {
    /// Binds and starts the broker; it takes so many connections, all of one address if need be.
    ///
    /// # Errors
    /// An address that is in use or not this machine's.
    pub async fn start(
        listen: SocketAddr,
        site: &SiteId,
        store: Store,
        connections: usize,
    ) -> Result<Self> {
        if !listen.ip().is_loopback() {
            return Err(anyhow!(
                "broker address {listen}: without TLS the embedded broker listens on loopback only; use 127.0.0.1, or \
                 a broker of your own with --broker"
            ));
        }
        let needed = connections as u64 + BESIDE;
        // As many again for those who knock, where the system gives them.
        let files = sockets::make_room(needed + connections as u64)?;
        if files < needed {
            tracing::warn!(
                "this process may open {files} files, {connections} connections to the broker need {needed}; raise the \
                 limit (LimitNOFILE= or `ulimit -Hn`), or ask for fewer with --broker-connections"
            );
        }
        let door = Arc::new(Door::new());
        let config = BrokerConfig {
            max_clients: connections,
            // What must be retained is republished from the database; nothing else may outlive the process.
            storage_config: StorageConfig::default().with_persistence(false),
            sys_topics_enabled: false,
            session_expiry_interval: Duration::from_secs(60),
            max_retained_message_size: MAX_PAYLOAD,
            ..BrokerConfig::default()
        }
        .with_bind_address(listen)
        .with_max_packet_size(MAX_PAYLOAD + 4_096)
        .with_event_handler(Arc::clone(&door) as Arc<dyn BrokerEventHandler>);
        let gate = Gate {
            topics: Topics::new(site),
            store,
            kept: Mutex::new(HashMap::new()),
            asking: Mutex::new(HashSet::new()),
            turn: tokio::sync::Mutex::new(()),
            consumers: tokio::sync::Mutex::new(()),
            door,
        };
        let mut broker = MqttBroker::with_config(config)
            .await
            .map_err(|e| anyhow!("{e}"))
            .with_context(|| format!("start the embedded broker on {listen}; is the port in use? --broker-listen names another"))?
            .with_auth_provider(Arc::new(gate));
        let address = broker
            .local_addr()
            .context("the embedded broker has no address")?;
        broker
            .resource_monitor()
            .update_limits(admission(files, connections));
        let shutdown = broker.shutdown_handle();
        let ended = CancellationToken::new();
        let direct = Direct::new(broker.router(), ended.clone());
        let monitor = broker.resource_monitor();
        let task = tokio::spawn(async move {
            // However it ends.
            let _told = ended.drop_guard();
            let ran = tokio::select! {
                ran = broker.run() => ran,
                () = tell_when_full(&monitor, connections) => Ok(()),
            };
            if let Err(error) = ran {
                tracing::error!(%error, "the embedded broker ended");
            }
        });
        Ok(Self {
            address,
            direct,
            shutdown,
            task,
        })
    }

    /// Ends the broker and its connections.
    pub async fn stop(mut self) {
        self.shutdown.shutdown();
        if tokio::time::timeout(Duration::from_secs(5), &mut self.task)
            .await
            .is_err()
        {
            self.task.abort();
        }
    }
}

/// 32 random bytes as hexadecimal digits: a token.
///
/// # Errors
/// The system gives no randomness.
pub fn random_token() -> Result<String> {
    use ring::rand::SecureRandom as _;
    let mut bytes = [0_u8; 32];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| anyhow!("make a token: the system gives no randomness; try again"))?;
    Ok(crate::signing::hex(&bytes))
}

/// How many may knock. More than there are files for until they have said who they are would use them all up: then nobody gets in,
/// and no other part of the hub can open a file.
fn admission(files: u64, connections: usize) -> ResourceLimits {
    let spare = files
        .saturating_sub(connections as u64 + BESIDE)
        .max(BESIDE);
    ResourceLimits {
        max_connections: connections,
        // A whole fleet may come by way of one router.
        max_connections_per_ip: connections,
        // No limit of their own.
        max_message_rate_per_client: 0,
        max_bandwidth_per_client: 0,
        max_connection_rate: u32::try_from(spare).unwrap_or(u32::MAX),
        rate_limit_window: INTRODUCED_WITHIN,
    }
}

/// Whoever comes to a full broker is shut out without a word: says so, each time that it becomes full. Never ends.
async fn tell_when_full(monitor: &ResourceMonitor, connections: usize) {
    let mut was = false;
    loop {
        tokio::time::sleep(LOOKS).await;
        let full = monitor.get_stats().await.current_connections >= connections;
        if full && !was {
            tracing::warn!(
                "the embedded broker has {connections} connections and takes no more; ask for more with --broker-connections, or use \
                 a broker of your own (--broker)"
            );
        }
        was = full;
    }
}

/// When the database was asked for a token's hash, and what it said; none where it has none or could not say.
type Kept = (Instant, Option<Vec<u8>>);

/// Who may do what; everything else is refused.
struct Gate {
    topics: Topics,
    store: Store,
    kept: Mutex<HashMap<String, Kept>>,
    /// Who waits for the database's answer. A whole fleet that comes back at once is a few questions, one after the other:
    /// while one is under way, all who come wait for the next.
    asking: Mutex<HashSet<String>>,
    turn: tokio::sync::Mutex<()>,
    /// Consumers ask one after the other, and keep no device from asking.
    consumers: tokio::sync::Mutex<()>,
    door: Arc<Door>,
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl Gate {
    /// What is known of a device's token: found, and not older than believed; or asked for after `since`, whatever it was.
    fn kept(&self, device: &str, since: Instant) -> Option<Option<Vec<u8>>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, hash) = kept.get(device)?;
        let good = *at >= since || (hash.is_some() && at.elapsed() < TOKEN_KEPT);
        good.then(|| hash.clone())
    }

    async fn token_hash(&self, device: &str) -> Option<Vec<u8>> {
        let since = Instant::now();
        if let Some(hash) = self.kept(device, since) {
            return hash;
        }
        self.asking
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(device.to_owned());
        let _turn = self.turn.lock().await;
        if let Some(hash) = self.kept(device, since) {
            return hash;
        }
        let mut names =
            std::mem::take(&mut *self.asking.lock().unwrap_or_else(PoisonError::into_inner));
        names.insert(device.to_owned());
        let names: Vec<String> = names.into_iter().collect();
        let now = Instant::now();
        let mut found = self
            .store
            .token_hashes(&names)
            .await
            .unwrap_or_else(|error| {
                tracing::warn!(%error, devices = names.len(), "cannot check tokens");
                HashMap::new()
            });
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() > 100_000 {
            kept.clear();
        }
        let own = found.get(device).cloned();
        for name in names {
            let hash = found.remove(&name);
            kept.insert(name, (now, hash));
        }
        own
    }

    async fn admits(&self, connect: &ConnectPacket) -> bool {
        let (Some(user), Some(password)) = (&connect.username, &connect.password) else {
            return false;
        };
        let offered = Sha256::of(password);
        if let Some(name) = user.strip_prefix(CONSUMER) {
            return self
                .admits_consumer(name, &connect.client_id, &offered)
                .await;
        }
        // Identity is device = user = client id: two devices can never share a session.
        if *user != connect.client_id || DeviceId::new(user.clone()).is_err() {
            return false;
        }
        match self.token_hash(user).await {
            Some(hash) => same(&offered.0, &hash),
            None => false,
        }
    }

    /// A consumer's client id is its own choice, but not one that would take a device's or a hub's session over.
    async fn admits_consumer(&self, name: &str, client_id: &str, offered: &Sha256) -> bool {
        if client_id.starts_with(direct::WITHIN) || DeviceId::new(name).is_err() {
            return false;
        }
        let _turn = self.consumers.lock().await;
        let asked = tokio::try_join!(
            self.store.consumer_token_hash(name),
            self.store.device(client_id)
        );
        match asked {
            Ok((Some(hash), None)) => same(&offered.0, &hash),
            Ok(_) => false,
            Err(error) => {
                tracing::warn!(%error, consumer = name, "cannot check a token");
                false
            }
        }
    }
}

/// Compares without telling by its time where the first difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (x, y)| differ | (x ^ y)) == 0
}

/// What a user may publish on.
#[must_use]
pub fn may_publish(topics: &Topics, user: &str, topic: &str) -> bool {
    match DeviceId::new(user) {
        Ok(device) => topic.starts_with(&topics.device_up_prefix(&device)),
        Err(_) => false,
    }
}

/// What a user may subscribe to.
#[must_use]
pub fn may_subscribe(topics: &Topics, user: &str, filter: &str) -> bool {
    let filter = match filter.strip_prefix("$share/") {
        Some(shared) => shared.split_once('/').map_or("", |(_, filter)| filter),
        None => filter,
    };
    let fleet = format!("{}/fleet/", topics.root());
    if user.starts_with(CONSUMER) {
        return filter.starts_with(&format!("{}/out/", topics.root()));
    }
    match DeviceId::new(user) {
        Ok(device) => {
            let down = topics.device_down(&device);
            filter.starts_with(down.trim_end_matches('#')) || filter.starts_with(&fleet)
        }
        Err(_) => false,
    }
}

impl AuthProvider for Gate {
    fn authenticate<'a>(
        &'a self,
        connect: &'a ConnectPacket,
        _from: SocketAddr,
    ) -> Answer<'a, mqtt5::error::Result<AuthResult>> {
        Box::pin(async move {
            if !self.admits(connect).await {
                tracing::warn!(client = %connect.client_id, "connection refused: unknown device or consumer, wrong token, or the client id of another");
                return Ok(AuthResult::fail(ReasonCode::BadUsernameOrPassword));
            }
            let user = connect.username.clone().unwrap_or_default();
            if !self.door.enter(&connect.client_id).await {
                return Ok(AuthResult::fail(ReasonCode::ServerBusy));
            }
            Ok(AuthResult::success_with_user(user))
        })
    }

    fn authorize_publish<'a>(
        &'a self,
        _client: &str,
        user: Option<&'a str>,
        topic: &'a str,
    ) -> Answer<'a, bool> {
        Box::pin(async move { user.is_some_and(|user| may_publish(&self.topics, user, topic)) })
    }

    fn authorize_subscribe<'a>(
        &'a self,
        _client: &str,
        user: Option<&'a str>,
        filter: &'a str,
    ) -> Answer<'a, bool> {
        Box::pin(async move { user.is_some_and(|user| may_subscribe(&self.topics, user, filter)) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn no_more_may_knock_than_there_are_files_for_while_they_do() {
        let knocks = |files, connections| admission(files, connections).max_connection_rate;
        assert_eq!(knocks(20_500, 10_000), 10_000);
        assert_eq!(knocks(11_500, 10_000), 1_000);
        // What the rest of the hub needs is not given away, but somebody must get in.
        assert_eq!(knocks(1_024, 10_000), 500);
        assert_eq!(admission(20_500, 10_000).max_connections, 10_000);
    }

    #[test]
    fn a_device_reaches_only_its_own_topics() {
        let topics = Topics::new(&SiteId::new("s").unwrap());
        let root = topics.root().to_owned();
        let publish =
            |user: &str, rest: &str| may_publish(&topics, user, &format!("{root}/{rest}"));
        let subscribe =
            |user: &str, rest: &str| may_subscribe(&topics, user, &format!("{root}/{rest}"));
        assert!(publish("a", "d/a/up/t/live"));
        for refused in [
            "d/b/up/t/live",
            "d/a/dn/ack",
            "d/ab/up/sync",
            "out/a/x",
            "fleet/x",
            "d/a/up",
        ] {
            assert!(!publish("a", refused), "{refused}");
        }
        assert!(subscribe("a", "d/a/dn/#") && subscribe("a", "fleet/#"));
        for refused in ["d/b/dn/#", "d/+/dn/#", "#", "d/a/up/#", "out/#", "d/#"] {
            assert!(!subscribe("a", refused), "{refused}");
        }
        assert!(!may_subscribe(&topics, "a", "#"));
        assert!(!may_subscribe(
            &topics,
            "a",
            &format!("$share/g/{root}/d/+/up/t/live")
        ));
        assert!(subscribe("consumer:c", "out/#") && subscribe("consumer:c", "out/a/x"));
        for refused in ["#", "d/a/dn/#", "d/+/up/#", "fleet/#", "+/a/x", "out"] {
            assert!(!subscribe("consumer:c", refused), "{refused}");
        }
        for refused in ["out/a/x", "d/a/up/sync", "d/c/up/sync", "fleet/x"] {
            assert!(!publish("consumer:c", refused), "{refused}");
        }
    }
}
