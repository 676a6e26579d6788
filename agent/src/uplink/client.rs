//! One MQTT connection: owns rumqttc and nothing else; a lost connection is never revived, a new one is made.
//!
//! The event loop is polled by its own task, so that publishing can never block it, and no state of a lost connection
//! lives on: the protocol's own acknowledgements make up for what was in it.

use std::time::Duration;

use fieldcast_wire::Topics;
use fieldcast_wire::caps::MAX_PAYLOAD;
use fieldcast_wire::topics::DeviceTopic;
use rumqttc::Transport;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, LastWill, Packet};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use tokio::sync::mpsc;

use crate::identity::Identity;

/// Messages between the connection's task and the driver.
const QUEUE: usize = 64;
/// No packet for so long (three keep-alives) means that the event loop hangs.
const WATCHDOG: Duration = Duration::from_secs(60);

/// What comes from a connection.
#[derive(Debug)]
pub(super) enum Incoming {
    /// Accepted and subscribed.
    Up,
    /// A message.
    Message {
        /// Its topic.
        topic: String,
        /// Its payload.
        payload: Vec<u8>,
    },
    /// The end of this connection, with the reason.
    Down(String),
}

/// An open or opening connection; dropping it ends it.
pub(super) struct Connection {
    client: AsyncClient,
    /// What comes from it; ends after [`Incoming::Down`].
    pub incoming: mpsc::Receiver<Incoming>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connection {
    /// Begins to connect with a clean start; `will` is the presence that the broker publishes at an ungraceful end.
    ///
    /// # Errors
    /// The CA file cannot be read.
    pub(super) fn open(identity: &Identity, topics: &Topics, will: Vec<u8>) -> std::io::Result<Self> {
        let device = &identity.device;
        let mut options = MqttOptions::new(device.as_str(), &identity.broker.host, identity.broker.port);
        options.set_keep_alive(Duration::from_secs(20));
        options.set_clean_start(true);
        options.set_credentials(device.as_str(), &identity.token);
        options.set_connection_timeout(10);
        // The default allocates 65,536 slots, 14 MB.
        options.set_outgoing_inflight_upper_limit(64);
        options.set_max_packet_size(u32::try_from(MAX_PAYLOAD + 4_096).ok());
        options.set_last_will(LastWill::new(
            topics.device(device, DeviceTopic::Presence),
            will,
            QoS::AtLeastOnce,
            true,
            None,
        ));
        if let Some(ca) = identity.ca_file.as_ref().filter(|_| identity.broker.tls) {
            // A second installation of the same provider answers an error that says so.
            let _ = rustls::crypto::ring::default_provider().install_default();
            options.set_transport(Transport::tls(std::fs::read(ca)?, None, None));
        }
        let filter = topics.device_down(device);
        let (client, mut events) = AsyncClient::new(options, QUEUE);
        let (tell, incoming) = mpsc::channel(QUEUE);
        let subscriber = client.clone();
        let task = tokio::spawn(async move {
            let reason = loop {
                match tokio::time::timeout(WATCHDOG, events.poll()).await {
                    Err(_) => break "nothing was heard for a minute".to_owned(),
                    Ok(Err(e)) => break e.to_string(),
                    Ok(Ok(Event::Incoming(Packet::ConnAck(ack)))) => {
                        if ack.code != ConnectReturnCode::Success {
                            break format!("the broker refused: {:?}", ack.code);
                        }
                        if let Err(e) = subscriber.try_subscribe(filter.as_str(), QoS::AtLeastOnce) {
                            break e.to_string();
                        }
                    }
                    Ok(Ok(Event::Incoming(Packet::SubAck(_)))) => {
                        if tell.send(Incoming::Up).await.is_err() {
                            return;
                        }
                    }
                    Ok(Ok(Event::Incoming(Packet::Publish(p)))) => {
                        let topic = String::from_utf8_lossy(&p.topic).into_owned();
                        if tell.send(Incoming::Message { topic, payload: p.payload.to_vec() }).await.is_err() {
                            return;
                        }
                    }
                    Ok(Ok(Event::Incoming(Packet::Disconnect(d)))) => {
                        break format!("the broker ended it: {:?}", d.reason_code);
                    }
                    Ok(Ok(_)) => {}
                }
            };
            // A driver that is gone needs no reason.
            let _ = tell.send(Incoming::Down(reason)).await;
        });
        Ok(Self { client, incoming, task })
    }

    /// Hands a message to the connection; false where its queue is full or it is gone.
    pub(super) fn publish(&self, topic: String, retain: bool, payload: Vec<u8>) -> bool {
        self.client.try_publish(topic, QoS::AtLeastOnce, retain, payload).is_ok()
    }

    /// Says good-bye, so that the broker does not publish the will.
    pub(super) fn goodbye(&self) {
        // A connection that is gone already needs no good-bye.
        let _ = self.client.try_disconnect();
    }
}
