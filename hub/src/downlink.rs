//! What goes down to devices and out to consumers: owns publishing through the present connection, never what to say.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use fieldcast_bundle::Kind;
use fieldcast_store::Store;
use fieldcast_wire::{DeviceId, DeviceTopic, SiteId, Topics, message, pb};
use rumqttc::v5::AsyncClient;
use rumqttc::v5::mqttbytes::QoS;

use crate::signing::Signer;

const PUBLISH_WITHIN: Duration = Duration::from_secs(10);

/// Handle for publishing; cheap to clone.
#[derive(Debug, Clone)]
pub struct Downlink {
    client: Arc<Mutex<Option<AsyncClient>>>,
    topics: Topics,
    site: SiteId,
    /// What a device shall do is read and published by one at a time: what was read before never follows what was read after.
    orders: Arc<tokio::sync::Mutex<()>>,
    store: Store,
    signer: Arc<Signer>,
}

impl Downlink {
    /// A handle that has no connection yet.
    #[must_use]
    pub fn new(site: &SiteId, store: Store, signer: Arc<Signer>) -> Self {
        Self {
            client: Arc::default(),
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

    /// The present connection, or none.
    pub(crate) fn set_client(&self, client: Option<AsyncClient>) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = client;
    }

    fn client(&self) -> Result<AsyncClient> {
        let client = self
            .client
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        client.context("publish: there is no connection to the broker; it is made again by itself")
    }

    /// Whether there is a connection.
    #[must_use]
    pub fn connected(&self) -> bool {
        self.client().is_ok()
    }

    /// Publishes with QoS 1.
    ///
    /// # Errors
    /// No connection, or it takes nothing for ten seconds.
    pub async fn publish(&self, topic: &str, payload: Vec<u8>, retain: bool) -> Result<()> {
        let client = self.client()?;
        let publish = client.publish(topic, QoS::AtLeastOnce, retain, payload);
        within(&format!("publish on {topic}"), publish).await
    }

    /// Asks for topics, all at once; the connection ends where the broker refuses one.
    pub(crate) async fn subscribe(&self, filters: impl IntoIterator<Item = String>) -> Result<()> {
        let filters = filters.into_iter().map(crate::mqtt::filter);
        let asked = self.client()?;
        within("subscribe", asked.subscribe_many(filters)).await
    }

    /// Gives topics up.
    pub(crate) async fn unsubscribe(
        &self,
        filters: impl IntoIterator<Item = String>,
    ) -> Result<()> {
        let client = self.client()?;
        for filter in filters {
            within("unsubscribe", client.unsubscribe(filter)).await?;
        }
        Ok(())
    }

    /// Publishes the retained orders and open commands of a device as the database has them.
    ///
    /// # Errors
    /// The database, or no connection; the next connection publishes them again.
    pub async fn refresh_desired(&self, device: &DeviceId) -> Result<()> {
        let _alone = self.orders.lock().await;
        let signed = self.store.desired_of(device.as_str()).await?;
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
            commands: self.commands(device).await?,
        };
        let topic = self.topics.device(device, DeviceTopic::Desired);
        self.publish(&topic, message::encode(&desired), true).await
    }

    async fn commands(&self, device: &DeviceId) -> Result<Vec<pb::Signed>> {
        let open = self.store.open_commands(device.as_str()).await?;
        let signed = open.into_iter().map(|command| {
            let command = pb::Command {
                site: self.site.to_string(),
                device: command.device,
                id: command.id.to_string(),
                expires_ms: command.expires_at.timestamp_millis(),
                name: command.name,
                argument: command.argument,
            };
            self.signer.sign(Kind::Command, message::encode(&command))
        });
        Ok(signed.collect())
    }

    /// Publishes the retained orders of every device that has some; where keys were changed, of every device: an old list must not
    /// be the newest that one has heard of.
    ///
    /// # Errors
    /// As [`Self::refresh_desired`].
    pub async fn refresh_all(&self) -> Result<()> {
        let all = self.signer.list_version() > 1;
        for device in self.store.ordered_devices(all).await? {
            self.refresh_desired(&DeviceId::new(device)?).await?;
        }
        Ok(())
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
