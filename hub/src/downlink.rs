//! What goes down to devices and out to consumers: owns publishing by the present way to the broker, never what to say.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use fieldcast_bundle::Kind;
use fieldcast_store::Store;
use fieldcast_store::commands::CommandRow;
use fieldcast_wire::{DeviceId, DeviceTopic, SiteId, Topics, message, pb};
use prost::bytes::Bytes;
use rumqttc::v5::mqttbytes::QoS;

use crate::mqtt::Way;
use crate::signing::Signer;

/// Devices whose orders are read at once.
const AT_ONCE: usize = 500;
const PUBLISH_WITHIN: Duration = Duration::from_secs(10);

/// Handle for publishing; cheap to clone.
#[derive(Debug, Clone)]
pub struct Downlink {
    way: Arc<Mutex<Option<Way>>>,
    topics: Topics,
    site: SiteId,
    /// What a device shall do is read and published by one at a time: what was read before never follows what was read after.
    orders: Arc<tokio::sync::Mutex<()>>,
    store: Store,
    signer: Arc<Signer>,
}

impl Downlink {
    /// A handle that has no way to the broker yet.
    #[must_use]
    pub fn new(site: &SiteId, store: Store, signer: Arc<Signer>) -> Self {
        Self {
            way: Arc::default(),
            topics: Topics::new(site),
            site: site.clone(),
            orders: Arc::default(),
            store,
            signer,
        }
    }

    /// Topic names of the site.
    #[must_use]
    pub fn topics(&self) -> &Topics {
        &self.topics
    }

    /// The present way to the broker, or none.
    pub(crate) fn set_way(&self, way: Option<Way>) {
        *self.way.lock().unwrap_or_else(PoisonError::into_inner) = way;
    }

    fn way(&self) -> Result<Way> {
        let way = self
            .way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        way.context("publish: there is no connection to the broker; it is made again by itself, or the log says what to do")
    }

    /// Whether there is a connection.
    #[must_use]
    pub fn connected(&self) -> bool {
        self.way().is_ok()
    }

    /// Publishes with QoS 1.
    ///
    /// # Errors
    /// No way to the broker, a topic that is none, or a connection that takes nothing for ten seconds.
    pub async fn publish(
        &self,
        topic: &str,
        payload: impl Into<Bytes>,
        retain: bool,
    ) -> Result<()> {
        match self.way()? {
            Way::Within(broker, _) => broker.publish(topic, payload, retain).await,
            Way::Connection(client) => {
                let publish = client.publish(topic, QoS::AtLeastOnce, retain, payload);
                within(&format!("publish on {topic}"), publish).await
            }
        }
    }

    /// Asks for topics, all at once; a connection ends where the broker refuses one.
    pub(crate) async fn subscribe(&self, filters: impl IntoIterator<Item = String>) -> Result<()> {
        match self.way()? {
            Way::Within(_, leader) => leader.subscribe(filters).await,
            Way::Connection(client) => {
                let filters = filters.into_iter().map(crate::mqtt::filter);
                within("subscribe", client.subscribe_many(filters)).await
            }
        }
    }

    /// Gives topics up.
    pub(crate) async fn unsubscribe(
        &self,
        filters: impl IntoIterator<Item = String>,
    ) -> Result<()> {
        match self.way()? {
            Way::Within(_, leader) => leader.unsubscribe(filters).await,
            Way::Connection(client) => {
                for filter in filters {
                    within("unsubscribe", client.unsubscribe(filter)).await?;
                }
            }
        }
        Ok(())
    }

    /// Publishes what each of these devices shall do, its retained orders and open commands, as the database has them, and
    /// names it to `done`. One that cannot be told is logged and left out.
    ///
    /// # Errors
    /// The database, or no connection; whoever was not named is to be published again.
    pub async fn refresh(&self, devices: &[String], mut done: impl FnMut(&str)) -> Result<()> {
        for devices in devices.chunks(AT_ONCE) {
            let _alone = self.orders.lock().await;
            let orders = self.store.desired_of(devices).await?;
            let mut commands: HashMap<String, Vec<pb::Signed>> = HashMap::new();
            for row in self.store.open_commands_of(devices).await? {
                let device = row.device.clone();
                commands.entry(device).or_default().push(self.command(row));
            }
            for device in devices {
                let signed = orders.get(device).map(Vec::as_slice).unwrap_or_default();
                let commands = commands.remove(device).unwrap_or_default();
                match self.desired(device, signed, commands) {
                    Ok((topic, desired)) => self.publish(&topic, desired, true).await?,
                    Err(error) => {
                        tracing::error!(device, error = %format!("{error:#}"), "its orders cannot be published");
                    }
                }
                done(device);
            }
        }
        Ok(())
    }

    /// The same for devices that have come, as far as they are known.
    ///
    /// # Errors
    /// As [`Self::refresh`].
    pub(crate) async fn greet(&self, devices: &[String], done: impl FnMut(&str)) -> Result<()> {
        let known = self.store.known_devices(devices).await?;
        let known: Vec<String> = known.into_keys().collect();
        self.refresh(&known, done).await
    }

    fn desired(
        &self,
        device: &str,
        signed: &[Vec<u8>],
        commands: Vec<pb::Signed>,
    ) -> Result<(String, Vec<u8>)> {
        let orders = signed
            .iter()
            .map(|bytes| {
                let signed = message::decode::<pb::Signed>("order", bytes)?;
                Ok(self.signer.signed_now(Kind::Order, signed))
            })
            .collect::<Result<Vec<_>>>()?;
        let desired = pb::Desired {
            key_list: Some(self.signer.key_list()),
            orders,
            commands,
        };
        let topic = self
            .topics
            .device(&DeviceId::new(device)?, DeviceTopic::Desired);
        Ok((topic, message::encode(&desired)))
    }

    fn command(&self, row: CommandRow) -> pb::Signed {
        let command = pb::Command {
            site: self.site.to_string(),
            device: row.device,
            id: row.id.to_string(),
            expires_ms: row.expires_at.timestamp_millis(),
            name: row.name,
            argument: row.argument,
        };
        self.signer.sign(Kind::Command, message::encode(&command))
    }

    /// The same for every device that has orders or open commands; where keys were changed, for every device: an old list must not
    /// be the newest that one has heard of.
    ///
    /// # Errors
    /// As [`Self::refresh`].
    pub async fn refresh_all(&self) -> Result<()> {
        let all = self.signer.list_version() > 1;
        let devices = self.store.ordered_devices(all).await?;
        self.refresh(&devices, |_| {}).await
    }
}

async fn within(
    what: &str,
    asked: impl Future<Output = Result<(), rumqttc::v5::ClientError>>,
) -> Result<()> {
    match tokio::time::timeout(PUBLISH_WITHIN, asked).await {
        Ok(done) => done.with_context(|| what.to_owned()),
        Err(_) => bail!("{what}: the broker takes nothing; check it"),
    }
}
