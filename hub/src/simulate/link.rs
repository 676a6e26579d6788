//! A made device's connection: owns one MQTT client and its polling inside the device's own task, never a retry.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use fieldcast_wire::caps::MAX_PAYLOAD;
use rumqttc::Transport;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    Filter, LastWill, Packet, RetainForwardRule, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions};
use tokio_util::sync::ReusableBoxFuture;

use crate::mqtt::network;
use crate::tls::explain;

/// As on a device.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Unacknowledged QoS 1 messages: a device has few, and each place costs memory ten thousand times.
const INFLIGHT: u16 = 24;
const OUTBOX: usize = 48;

/// Where the devices connect.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) host: Arc<str>,
    pub(super) port: u16,
    pub(super) tls: Option<Transport>,
}

/// What a connection tells.
pub(super) enum Heard {
    Connected,
    Subscribed,
    Message(String, Vec<u8>),
    Nothing,
    /// Always the last.
    Lost(String),
}

type Polled = (EventLoop, Result<Event, ConnectionError>);

/// One connection. Dropping it cuts it.
pub(super) struct Link {
    client: AsyncClient,
    polling: ReusableBoxFuture<'static, Polled>,
}

impl Link {
    /// Begins to connect, with a clean start.
    pub(super) fn open(way: &Way, device: &str, token: &str, will: (String, Vec<u8>)) -> Self {
        let mut options = MqttOptions::new(device, way.host.as_ref(), way.port);
        options.set_clean_start(true);
        options.set_credentials(device, token);
        options.set_keep_alive(KEEP_ALIVE);
        options.set_outgoing_inflight_upper_limit(INFLIGHT);
        options.set_max_packet_size(u32::try_from(MAX_PAYLOAD + 4_096).ok());
        options.set_connection_timeout(20);
        options.set_network_options(network());
        options.set_last_will(LastWill::new(will.0, will.1, QoS::AtLeastOnce, true, None));
        if let Some(tls) = &way.tls {
            options.set_transport(tls.clone());
        }
        let (client, events) = AsyncClient::new(options, OUTBOX);
        Self {
            client,
            polling: ReusableBoxFuture::new(poll(events)),
        }
    }

    /// What comes next. May be dropped and called again: the polling itself goes on where it was.
    pub(super) async fn next(&mut self) -> Heard {
        let (events, result) = (&mut self.polling).await;
        let heard = match result {
            Ok(Event::Incoming(packet)) => incoming(packet),
            Ok(Event::Outgoing(rumqttc::Outgoing::Disconnect)) => Heard::Lost("as asked".into()),
            Ok(Event::Outgoing(_)) => Heard::Nothing,
            Err(e) => Heard::Lost(explain(&e)),
        };
        self.polling.set(poll(events));
        heard
    }

    /// Queues a message; false where the outbox is full.
    pub(super) fn publish(&self, topic: String, retain: bool, payload: Vec<u8>) -> bool {
        let sent = self
            .client
            .try_publish(topic, QoS::AtLeastOnce, retain, payload);
        sent.is_ok()
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
            let ended = async { while !matches!(self.next().await, Heard::Lost(_)) {} };
            let _ = tokio::time::timeout(Duration::from_secs(5), ended).await;
        }
    }
}

async fn poll(mut events: EventLoop) -> Polled {
    let polled = events.poll().await;
    (events, polled)
}

fn incoming(packet: Packet) -> Heard {
    match packet {
        Packet::ConnAck(_) => Heard::Connected,
        Packet::SubAck(ack) => {
            let granted = |c: &SubscribeReasonCode| matches!(c, SubscribeReasonCode::Success(_));
            if ack.return_codes.iter().all(granted) {
                Heard::Subscribed
            } else {
                Heard::Lost("the broker refused a subscription below `dn/`".into())
            }
        }
        Packet::Publish(p) => match String::from_utf8(p.topic.to_vec()) {
            Ok(topic) => Heard::Message(topic, p.payload.to_vec()),
            Err(_) => Heard::Nothing,
        },
        Packet::Disconnect(d) => Heard::Lost(format!("the broker ended it: {:?}", d.reason_code)),
        _ => Heard::Nothing,
    }
}
