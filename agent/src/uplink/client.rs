//! The MQTT client: the one file that names rumqttc; owns one connection and its polling, never a retry.

use std::sync::Arc;
use std::time::Duration;

use fieldcast_wire::caps::MAX_PAYLOAD;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnectReturnCode, Filter, LastWill, Packet, RetainForwardRule, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, TlsError};
use rumqttc::{NetworkOptions, TlsConfiguration, Transport};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::identity::Identity;

/// What a connection tells.
#[derive(Debug)]
pub(super) enum LinkEvent {
    /// The broker accepted us.
    Connected,
    /// The broker granted the subscription.
    Subscribed,
    /// A message came.
    Message { topic: String, payload: Vec<u8> },
    /// The end, and why. Always the last one.
    Lost(String),
}

/// Messages on their way to the broker; more are refused, never waited for.
const OUTBOX: usize = 96;
/// Unacknowledged QoS 1 messages; rumqttc would set aside 65,536 places by itself.
const INFLIGHT: u16 = 64;
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Pings alone make an event each keep-alive; none for this long means a stuck event loop.
const WATCHDOG: Duration = Duration::from_secs(50);

/// One connection. Dropping it cuts it.
pub(super) struct Connection {
    client: AsyncClient,
    pub(super) events: mpsc::Receiver<LinkEvent>,
    poll: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.poll.abort();
    }
}

impl Connection {
    /// Begins to connect; a fresh client each time, so that no state of an old session survives.
    pub(super) fn open(
        identity: &Identity,
        clock: &Clock,
        will: (String, Vec<u8>),
    ) -> Result<Self, String> {
        let mut options = MqttOptions::new(
            identity.device.as_str(),
            &identity.broker.host,
            identity.broker.port,
        );
        options.set_clean_start(true);
        options.set_credentials(identity.device.as_str(), &identity.token);
        options.set_keep_alive(KEEP_ALIVE);
        options.set_outgoing_inflight_upper_limit(INFLIGHT);
        options.set_max_packet_size(u32::try_from(MAX_PAYLOAD + 4_096).ok());
        options.set_connection_timeout(10);
        // Small messages at once: an ack would else wait for the other side's delayed one, some 40 ms.
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        options.set_network_options(network);
        options.set_last_will(LastWill::new(will.0, will.1, QoS::AtLeastOnce, true, None));
        if identity.broker.tls {
            options.set_transport(tls(identity, clock)?);
        }
        let (client, event_loop) = AsyncClient::new(options, OUTBOX);
        let (tell, events) = mpsc::channel(64);
        let poll = tokio::spawn(poll(event_loop, tell));
        Ok(Self {
            client,
            events,
            poll,
        })
    }

    /// Queues a message; false where the outbox is full.
    pub(super) fn publish(&self, topic: String, retain: bool, payload: Vec<u8>) -> bool {
        self.client
            .try_publish(topic, QoS::AtLeastOnce, retain, payload)
            .is_ok()
    }

    /// Queues a subscription to all of these, without what the broker retains: a hub says it anew when it answers the sync.
    /// False where the outbox is full.
    pub(super) fn subscribe(&self, filters: impl IntoIterator<Item = String>) -> bool {
        let filters = filters.into_iter().map(|path| Filter {
            retain_forward_rule: RetainForwardRule::Never,
            ..Filter::new(path, QoS::AtLeastOnce)
        });
        self.client.try_subscribe_many(filters).is_ok()
    }

    /// Says goodbye, so that the broker keeps the last will to itself.
    pub(super) async fn close(mut self) {
        if self.client.try_disconnect().is_ok() {
            let ended = async { while self.events.recv().await.is_some() {} };
            // A broker that does not answer is left behind.
            let _ = tokio::time::timeout(Duration::from_secs(2), ended).await;
        }
    }
}

async fn poll(mut event_loop: EventLoop, tell: mpsc::Sender<LinkEvent>) {
    loop {
        let event = match tokio::time::timeout(WATCHDOG, event_loop.poll()).await {
            Ok(Ok(Event::Incoming(packet))) => incoming(packet),
            Ok(Ok(Event::Outgoing(rumqttc::Outgoing::Disconnect))) => {
                Some(LinkEvent::Lost("disconnected as asked".into()))
            }
            Ok(Ok(Event::Outgoing(_))) => None,
            Ok(Err(e)) => Some(LinkEvent::Lost(explain(&e))),
            Err(_) => Some(LinkEvent::Lost("the client made no progress".into())),
        };
        let Some(event) = event else { continue };
        let last = matches!(event, LinkEvent::Lost(_));
        // The receiver never waits for this task, so waiting for it cannot lock both.
        if tell.send(event).await.is_err() || last {
            return;
        }
    }
}

fn incoming(packet: Packet) -> Option<LinkEvent> {
    match packet {
        Packet::ConnAck(_) => Some(LinkEvent::Connected),
        Packet::SubAck(ack) => {
            let granted = ack
                .return_codes
                .iter()
                .all(|c| matches!(c, SubscribeReasonCode::Success(_)));
            Some(if granted {
                LinkEvent::Subscribed
            } else {
                LinkEvent::Lost(
                    "the broker refused a subscription below `dn/`; check its access rules".into(),
                )
            })
        }
        Packet::Publish(p) => {
            let topic = String::from_utf8(p.topic.to_vec()).ok()?;
            Some(LinkEvent::Message {
                topic,
                payload: p.payload.to_vec(),
            })
        }
        Packet::Disconnect(d) => Some(LinkEvent::Lost(format!(
            "the broker ended it: {:?}",
            d.reason_code
        ))),
        _ => None,
    }
}

/// A failed connection with what to do about it.
fn explain(error: &ConnectionError) -> String {
    let advice = match error {
        ConnectionError::ConnectionRefused(code) => match code {
            ConnectReturnCode::NotAuthorized
            | ConnectReturnCode::BadUserNamePassword
            | ConnectReturnCode::Banned => {
                "the broker does not take this device's name and token; have the hub write the identity again with \
                 `fieldcast-hub device add`"
            }
            ConnectReturnCode::ServerBusy => "this device comes again by itself",
            _ => "see the broker's log for its reason",
        },
        ConnectionError::Tls(TlsError::Io(io)) | ConnectionError::Io(io) => {
            match io.get_ref().and_then(|e| e.downcast_ref()) {
                Some(error) => of_tls(error),
                None => "check that the broker runs and that `broker` in the identity is right",
            }
        }
        ConnectionError::Tls(TlsError::TLS(error)) => of_tls(error),
        _ => "check that the broker runs and that `broker` in the identity is right",
    };
    format!("{error}; {advice}")
}

fn of_tls(error: &rustls::Error) -> &'static str {
    use rustls::CertificateError as Bad;
    let rustls::Error::InvalidCertificate(bad) = error else {
        return "check that the broker speaks TLS on this port";
    };
    match bad {
        Bad::Expired | Bad::ExpiredContext { .. } => {
            "the broker's certificate has expired: renew it there, and check this device's clock"
        }
        Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
            "the broker's certificate is not valid yet: check this device's clock and the broker's"
        }
        Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
            "the broker's certificate is for another host: use the name in it, or have one made for this name"
        }
        _ => {
            "the broker's certificate is not vouched for by `ca_file`: copy the authority's certificate from the hub again"
        }
    }
}

/// Certificates are judged by a time that is never before the floor: a device may wake up in 1970.
#[derive(Debug)]
struct FloorTime(Clock);

impl rustls::time_provider::TimeProvider for FloorTime {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        let ms = u64::try_from(self.0.wall_ms()).ok()?;
        Some(rustls::pki_types::UnixTime::since_unix_epoch(
            Duration::from_millis(ms),
        ))
    }
}

fn tls(identity: &Identity, clock: &Clock) -> Result<Transport, String> {
    let file = identity
        .ca_file
        .as_deref()
        .ok_or("identity has no `ca_file`")?;
    let wrong = |e: &dyn std::fmt::Display| {
        format!(
            "ca_file {}: {e}; copy it from the hub again",
            file.display()
        )
    };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|e| wrong(&e))? {
        roots
            .add(certificate.map_err(|e| wrong(&e))?)
            .map_err(|e| wrong(&e))?;
    }
    if roots.is_empty() {
        return Err(wrong(&"no certificate in it"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        rustls::ClientConfig::builder_with_details(provider, Arc::new(FloorTime(clock.clone())))
            .with_safe_default_protocol_versions()
            .map_err(|e| wrong(&e))?
            .with_root_certificates(roots)
            .with_no_client_auth();
    Ok(Transport::tls_with_config(TlsConfiguration::Rustls(
        Arc::new(config),
    )))
}
