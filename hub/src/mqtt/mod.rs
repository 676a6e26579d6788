//! The hub's way to the broker: owns connecting, subscribing and handing messages over, never decodes a payload.

mod deliver;
mod lane;
mod offer;
mod within;

pub use lane::{Arrivals, Lane, Room, lane};

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use fieldcast_wire::caps::MAX_PAYLOAD;
use fieldcast_wire::{DeviceId, DeviceTopic};
use rumqttc::NetworkOptions;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::broker::{Direct, Subscriber};
use crate::downlink::Downlink;
use crate::tls::{Tls, explain};

/// Messages that the broker may have under way to this hub.
const IN_FLIGHT: u16 = 64;
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// An event loop that says nothing for so long (not even a ping) is thrown away.
const SILENCE: Duration = Duration::from_secs(60);
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// The broker of a site.
#[derive(Debug, Clone)]
pub enum Broker {
    /// The hub's own, in its process.
    Within(Direct),
    /// Another.
    At(Link),
}

impl From<Link> for Broker {
    fn from(link: Link) -> Self {
        Self::At(link)
    }
}

impl From<Direct> for Broker {
    fn from(direct: Direct) -> Self {
        Self::Within(direct)
    }
}

/// The present way to the broker.
#[derive(Debug, Clone)]
pub(crate) enum Way {
    /// Within its process; the leader's subscriptions are those of the second.
    Within(Direct, Subscriber),
    /// A connection.
    Connection(AsyncClient),
}

/// Where and as whom to connect.
#[derive(Debug, Clone)]
pub struct Link {
    /// Host.
    pub host: String,
    /// Port.
    pub port: u16,
    /// What vouches for the broker; none: no TLS.
    pub tls: Option<Tls>,
    /// User name and password.
    pub login: Option<(String, String)>,
}

impl Link {
    /// Reads `mqtt://[user:password@]host[:port]` or `mqtts://...`.
    ///
    /// # Errors
    /// What is wrong, and the form.
    pub fn parse(url: &str, authority: Option<PathBuf>) -> Result<Self> {
        const FORM: &str = "use mqtt://user:password@host:1883 or mqtts://user:password@host:8883";
        let (tls, rest) = match url.split_once("://") {
            Some(("mqtt", rest)) => (false, rest),
            Some(("mqtts", rest)) => (true, rest),
            _ => bail!("broker address has no known scheme; {FORM}"),
        };
        let (login, address) = match rest.rsplit_once('@') {
            Some((login, address)) => (Some(login), address),
            None => (None, rest),
        };
        let login = match login.map(|l| l.split_once(':')) {
            Some(Some((user, password))) => Some((user.to_owned(), password.to_owned())),
            Some(None) => bail!("broker address has a user without a password; {FORM}"),
            None => None,
        };
        let address = address.trim_end_matches('/');
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) => (
                host,
                port.parse()
                    .with_context(|| format!("broker port; {FORM}"))?,
            ),
            None => (address, if tls { 8883 } else { 1883 }),
        };
        if host.is_empty() {
            bail!("broker address names no host; {FORM}");
        }
        let tls = tls.then(|| authority.map_or(Tls::System, Tls::Authority));
        Ok(Self {
            host: host.to_owned(),
            port,
            tls,
            login,
        })
    }

    fn options(&self, client_id: &str) -> Result<MqttOptions> {
        let mut options = MqttOptions::new(client_id, self.host.clone(), self.port);
        options.set_keep_alive(KEEP_ALIVE);
        options.set_clean_start(true);
        // What comes is acknowledged by the library at once, whatever becomes of it: that is no word to a device, and no broker keeps anything for
        // a hub that is gone. Mosquitto 2.0 never keeps to the receive maximum once a message waits (each acknowledgement frees as many as may be
        // under way), and walks over all that is not acknowledged yet.
        options.set_receive_maximum(Some(IN_FLIGHT));
        options.set_outgoing_inflight_upper_limit(256);
        options.set_max_packet_size(u32::try_from(MAX_PAYLOAD + offer::HEADER).ok());
        options.set_connection_timeout(10);
        options.set_network_options(network());
        if let Some((user, password)) = &self.login {
            options.set_credentials(user, password);
        }
        if let Some(tls) = &self.tls {
            options.set_transport(tls.transport()?);
        }
        Ok(options)
    }
}

/// Small messages go at once: an ack would else wait for the other side's delayed one, some 40 ms.
pub(crate) fn network() -> NetworkOptions {
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network
}

/// A message from a device.
#[derive(Debug)]
pub struct Delivery {
    /// Who published it, by its topic.
    pub device: DeviceId,
    /// On which topic.
    pub topic: DeviceTopic,
    /// What.
    pub payload: Vec<u8>,
}

/// Where messages go. What comes over a connection is dropped where there is no room; what comes within the process waits for it.
#[derive(Debug, Clone)]
pub struct Lanes {
    /// Batches and JSON readings.
    pub telemetry: Lane,
    /// Sync, state, presence, block requests.
    pub leader: Lane,
}

impl Lanes {
    /// Both, empty, and where messages of them are taken: telemetry, the leader's.
    #[must_use]
    pub fn new() -> (Self, Arrivals, Arrivals) {
        let (telemetry, readings) = lane("telemetry", TELEMETRY_BYTES);
        let (leader, news) = lane("leader", LEADER_BYTES);
        (Self { telemetry, leader }, readings, news)
    }
}

/// What waits longer than devices wait for an answer comes twice: no more than is written in seconds.
const TELEMETRY_BYTES: usize = 16 * 1024 * 1024;
/// Nothing says a state again within minutes.
const LEADER_BYTES: usize = 64 * 1024 * 1024;

/// Keeps the connection until cancelled, or until the hub's own broker has ended. `connections` counts connections on which telemetry is subscribed.
pub async fn run(
    broker: Broker,
    client_id: String,
    downlink: Downlink,
    lanes: Lanes,
    connections: watch::Sender<u64>,
    end: CancellationToken,
) {
    match broker {
        Broker::Within(direct) => within::run(direct, downlink, lanes, connections, end).await,
        Broker::At(link) => connect(link, client_id, downlink, lanes, connections, end).await,
    }
}

async fn connect(
    link: Link,
    client_id: String,
    downlink: Downlink,
    lanes: Lanes,
    connections: watch::Sender<u64>,
    end: CancellationToken,
) {
    let mut backoff = BACKOFF.0;
    loop {
        // A new client for each connection: nothing of a lost session can haunt the next one.
        let (lasted, error) = match link.options(&client_id) {
            Err(error) => (Duration::ZERO, error),
            Ok(options) => {
                let (client, events) = AsyncClient::new(options, 256);
                tokio::select! {
                    served = serve(client.clone(), events, &downlink, &lanes, &connections) => served,
                    () = end.cancelled() => {
                        downlink.set_way(None);
                        let _ = client.try_disconnect();
                        return;
                    }
                }
            }
        };
        downlink.set_way(None);
        if lasted > Duration::from_secs(30) {
            backoff = BACKOFF.0;
        }
        tracing::warn!(error = %format!("{error:#}"), "no connection to the broker at {}:{}; trying again", link.host, link.port);
        let wait = backoff.mul_f64(jitter());
        backoff = (backoff * 2).min(BACKOFF.1);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = end.cancelled() => return,
        }
    }
}

/// Between 0.5 and 1, so that many hubs do not come back at once.
fn jitter() -> f64 {
    f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 510.0 + 0.5
}

async fn serve(
    client: AsyncClient,
    mut events: EventLoop,
    downlink: &Downlink,
    lanes: &Lanes,
    connections: &watch::Sender<u64>,
) -> (Duration, anyhow::Error) {
    let mut since = std::time::Instant::now();
    let mut subscribed = false;
    let mut sharing = offer::Sharing::Shared;
    // Polling must never wait for itself: requests of this task are only ever tried.
    let subscribe = |sharing: offer::Sharing| {
        let filters = sharing.filters(downlink.topics()).map(filter);
        client
            .try_subscribe_many(filters)
            .map_err(anyhow::Error::from)
    };
    loop {
        let event = match tokio::time::timeout(SILENCE, events.poll()).await {
            Ok(Ok(event)) => event,
            Ok(Err(error)) => return (since.elapsed(), anyhow::anyhow!(explain(&error))),
            Err(_) => {
                return (
                    since.elapsed(),
                    anyhow::anyhow!("the connection says nothing any more"),
                );
            }
        };
        match event {
            Event::Incoming(Packet::ConnAck(answer)) => {
                since = std::time::Instant::now();
                sharing = match offer::sharing(&answer) {
                    Ok(sharing) => sharing,
                    Err(lack) => return (since.elapsed(), anyhow::anyhow!(lack)),
                };
                if let Err(error) = subscribe(sharing) {
                    return (Duration::ZERO, error);
                }
            }
            Event::Incoming(Packet::SubAck(answer)) => {
                match sharing.after(&answer.return_codes) {
                    Ok(None) => {}
                    Ok(Some(next)) => {
                        sharing = next;
                        if let Err(error) = subscribe(sharing) {
                            return (Duration::ZERO, error);
                        }
                        continue;
                    }
                    Err(refusal) => return (since.elapsed(), anyhow::anyhow!(refusal)),
                }
                // The first answer is that of telemetry: only now is there a connection to work with.
                if !subscribed {
                    subscribed = true;
                    if sharing == offer::Sharing::Everyone {
                        tracing::warn!(
                            "the broker offers no shared subscriptions: each hub of this site reads everything, and each batch is still stored once"
                        );
                    }
                    downlink.set_way(Some(Way::Connection(client.clone())));
                    connections.send_modify(|n| *n += 1);
                }
            }
            Event::Incoming(Packet::Publish(publish)) => {
                deliver::deliver(&publish, downlink.topics(), lanes);
            }
            Event::Incoming(Packet::Disconnect(bye)) => {
                return (
                    since.elapsed(),
                    anyhow::anyhow!("the broker disconnected: {:?}", bye.reason_code),
                );
            }
            _ => {}
        }
    }
}

/// A subscription with QoS 1.
pub(crate) fn filter(topic: String) -> Filter {
    Filter::new(topic, QoS::AtLeastOnce)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn broker_addresses() {
        let link = Link::parse("mqtt://u:p@w@host:1884", None).unwrap();
        assert_eq!((link.host.as_str(), link.port), ("host", 1884));
        assert_eq!(link.login, Some(("u".into(), "p@w".into())));
        let link = Link::parse("mqtts://host", None).unwrap();
        assert_eq!(link.port, 8883);
        assert!(matches!(link.tls, Some(Tls::System)));
        for wrong in [
            "host:1883",
            "http://host",
            "mqtt://user@host",
            "mqtt://host:x",
            "mqtt://",
        ] {
            assert!(Link::parse(wrong, None).is_err(), "{wrong}");
        }
    }
}
