//! What only the leading hub does: sync, state, presence and block requests; owns their order, never telemetry.

mod blob;
mod decoded;

use std::hash::{Hash as _, Hasher as _};
use std::time::Duration;

use anyhow::{Context as _, Result};
use fieldcast_store::Store;
use fieldcast_store::ledger::instance_for;
use fieldcast_wire::caps::MAX_ACK_PROOFS;
use fieldcast_wire::{DeviceId, DeviceTopic, Epoch, SCHEMA, message, pb};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::downlink::Downlink;
use crate::events::HubEvent;
use crate::ingest::decide::{Held, sync as decide_sync, watermark};
use crate::ingest::{self, out};
use crate::mqtt::Delivery;

pub use decoded::state as state_json;

const LOOK: Duration = Duration::from_secs(2);

/// Tries to lead and says whether it does, until cancelled.
pub async fn elect(store: Store, leads: watch::Sender<bool>, end: CancellationToken) {
    while !end.is_cancelled() {
        match store.try_lead().await {
            Ok(Some(mut leadership)) => {
                tracing::info!("this hub leads");
                leads.send_replace(true);
                while leadership.alive().await && !end.is_cancelled() {
                    tokio::select! {
                        () = tokio::time::sleep(LOOK) => {}
                        () = end.cancelled() => {}
                    }
                }
                leads.send_replace(false);
                leadership.resign().await;
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "cannot lead without a database"),
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = end.cancelled() => {}
        }
    }
}

/// What is due on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Duty {
    Nothing,
    TakeOver,
    HandOver,
}

/// Decides by the number of the present connection and the one on which this hub took over.
fn duty(connection: u64, leads: bool, took_over: Option<u64>) -> Duty {
    let here = took_over == Some(connection);
    match (leads, here) {
        (true, false) if connection > 0 => Duty::TakeOver,
        (false, true) => Duty::HandOver,
        _ => Duty::Nothing,
    }
}

/// Subscribes the leader's topics and republishes what must be retained on every connection while this hub leads, and
/// gives the topics up when it no longer does; until cancelled. The one place that knows both.
pub async fn attend(
    downlink: Downlink,
    mut connections: watch::Receiver<u64>,
    mut leads: watch::Receiver<bool>,
    end: CancellationToken,
) {
    let mut took_over = None;
    loop {
        let (connection, lead) = (*connections.borrow_and_update(), *leads.borrow_and_update());
        let filters = downlink.topics().leader_filters();
        let done = match duty(connection, lead, took_over) {
            Duty::Nothing => Ok(()),
            Duty::TakeOver => {
                let subscribed = downlink.subscribe(filters).await;
                match subscribed {
                    Ok(()) => downlink.refresh_all().await,
                    Err(error) => Err(error),
                }
                .map(|()| took_over = Some(connection))
            }
            Duty::HandOver => downlink
                .unsubscribe(filters)
                .await
                .map(|()| took_over = None),
        };
        let again = done.is_err() && downlink.connected();
        if let (Err(error), true) = (done, again) {
            tracing::warn!(error = %format!("{error:#}"), "the leader's topics are not taken over or given up; trying again");
        }
        tokio::select! {
            changed = connections.changed() => if changed.is_err() { return },
            changed = leads.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(Duration::from_secs(1)), if again => {}
            () = end.cancelled() => return,
        }
    }
}

/// What handling needs.
#[derive(Debug, Clone)]
pub struct Desk {
    /// Tables.
    pub store: Store,
    /// To devices.
    pub downlink: Downlink,
    /// To the rest of the hub.
    pub events: broadcast::Sender<HubEvent>,
    /// To other consumers.
    pub out: mpsc::Sender<out::Message>,
    /// This database's name.
    pub instance: Vec<u8>,
}

/// Messages of one device are handled in their order, those of many devices side by side in so many lanes.
const SIDE_BY_SIDE: usize = 8;
/// Messages that may wait in a lane.
const WAITING: usize = 8_192;

/// A message that waits for its turn.
type Waiting = (DeviceId, DeviceTopic, Vec<u8>);

/// Handles the leader's messages until cancelled.
///
/// The broker is told at once that a message is here, not when it is dealt with: thousands of devices that connect together
/// would otherwise fill what the broker may have under way, and no telemetry would come through. None of these is a record:
/// what a hub that dies had waiting is retained by the broker, or said again by its device.
pub async fn run(desk: Desk, mut lane: mpsc::Receiver<Delivery>, end: CancellationToken) {
    let (asked, requests) = mpsc::channel(256);
    let mut tasks = JoinSet::new();
    tasks.spawn(blob::run(desk.clone(), requests, end.clone()));
    let mut lanes = Vec::new();
    for _ in 0..SIDE_BY_SIDE {
        let (sender, waiting) = mpsc::channel(WAITING);
        lanes.push(sender);
        tasks.spawn(handle(desk.clone(), waiting, end.clone()));
    }
    loop {
        let delivery = tokio::select! {
            delivery = lane.recv() => delivery,
            () = end.cancelled() => None,
        };
        let Some(delivery) = delivery else { break };
        let (device, topic) = (delivery.device, delivery.topic);
        if topic == DeviceTopic::Blob {
            match message::receive(&delivery.payload) {
                // A full queue drops the request: the device asks again for what it misses.
                Ok(request) => drop(asked.try_send((device, request))),
                Err(error) => tracing::warn!(%device, %error, "message not handled"),
            }
        } else if let Some(lane) = lanes.get(place(&device)) {
            let waits = lane.try_send((device.clone(), topic, delivery.payload));
            if waits.is_err() {
                tracing::warn!(%device, ?topic, "too many messages wait; this one is dropped, its device says it again");
            }
        }
        delivery.receipt.done().await;
    }
    drop((asked, lanes));
    while tasks.join_next().await.is_some() {}
}

/// The lane of a device: always the same.
fn place(device: &DeviceId) -> usize {
    let mut hasher = std::hash::DefaultHasher::new();
    device.hash(&mut hasher);
    usize::try_from(hasher.finish() % SIDE_BY_SIDE as u64).unwrap_or(0)
}

async fn handle(desk: Desk, mut waiting: mpsc::Receiver<Waiting>, end: CancellationToken) {
    loop {
        let message = tokio::select! {
            message = waiting.recv() => message,
            () = end.cancelled() => None,
        };
        let Some((device, topic, payload)) = message else {
            return;
        };
        let handled = match topic {
            DeviceTopic::Sync => desk.sync(&device, &payload).await,
            DeviceTopic::State => desk.state(&device, &payload).await,
            DeviceTopic::Presence => desk.presence(&device, &payload).await,
            _ => Ok(()),
        };
        if let Err(error) = handled {
            tracing::warn!(%device, ?topic, error = %format!("{error:#}"), "message not handled");
        }
    }
}

impl Desk {
    async fn known(&self, device: &DeviceId) -> Result<()> {
        let known = self.store.device(device.as_str()).await?.is_some();
        known.then_some(()).with_context(|| {
            format!("device `{device}` is unknown; `fieldcast-hub device add` makes it known")
        })
    }

    /// Answers a sync with an ack.
    ///
    /// # Errors
    /// An unknown device, a malformed message, or the database.
    pub async fn sync(&self, device: &DeviceId, payload: &[u8]) -> Result<()> {
        let sync: pb::Sync = message::receive(payload)?;
        self.known(device).await?;
        let epoch = Epoch::from_slice(&sync.epoch)?;
        let known = self
            .store
            .batches_from(device.as_str(), epoch, sync.next_batch)
            .await?;
        let session = i64::try_from(sync.session).unwrap_or(i64::MAX);
        let before = self.store.session(device.as_str(), session).await?;
        let before = u64::try_from(before).unwrap_or(0);
        let mut tx = self.store.begin_ingest().await?;
        let mut committed = tx.committed(device.as_str(), epoch).await?;
        let mut restored = tx.restored(device.as_str()).await?;
        let last = (device.to_string(), epoch, sync.last_acked);
        let last_acked = sync.last_acked == 0 || !tx.ledger_rows(&[last]).await?.is_empty();
        let held = Held {
            last_acked,
            known: &known,
            through: watermark(&committed, &[]).0,
            session: before,
            instance: &instance_for(&self.instance, restored),
        };
        let verdict = decide_sync(&sync, &held);
        if let Some(why) = &verdict.forgotten {
            tracing::error!(%device, "{why}");
            restored = tx.renew_for(device.as_str()).await?;
            tx.raise(device.as_str(), "hub_restored", why).await?;
            let _ = self
                .out
                .try_send(out::hub_alarm(device, "hub_restored", why));
        }
        if let Some(why) = &verdict.new_epoch
            && tx.spend(device.as_str(), epoch, why).await?
        {
            // A second live instance shows by this alone where both count the same sessions.
            tracing::warn!(%device, "{why}");
            tx.raise(device.as_str(), "clone", why).await?;
            let _ = self.out.try_send(out::hub_alarm(device, "clone", why));
        }
        if let Some(why) = &verdict.clone {
            tx.raise(device.as_str(), "clone", why).await?;
            let _ = self.out.try_send(out::hub_alarm(device, "clone", why));
        }
        committed.through = committed.through.max(verdict.floor);
        let (through, ranges) = watermark(&committed, &[]);
        tx.set_through(device.as_str(), epoch, through).await?;
        // The device may have missed acks: those of what it still counts as waiting come first.
        let proven = tx
            .digests(device.as_str(), epoch, sync.acked_through, MAX_ACK_PROOFS)
            .await?;
        tx.commit().await?;
        let reason = verdict.new_epoch.or(committed.spent);
        let clock = sync.clock.unwrap_or_default();
        let ack = pb::Ack {
            schema: SCHEMA,
            epoch: sync.epoch,
            through,
            ranges,
            proofs: proven.iter().map(ingest::proof).collect(),
            rejected: Vec::new(),
            hub_instance: instance_for(&self.instance, restored),
            hub_time_ms: crate::clock::now().timestamp_millis(),
            echo_monotonic_ms: clock.monotonic_ms,
            echo_boot_id: clock.boot_id,
            new_epoch: reason.is_some(),
            reason: reason.unwrap_or_default(),
        };
        let topic = self.downlink.topics().device(device, DeviceTopic::Ack);
        self.downlink
            .publish(&topic, message::encode(&ack), false)
            .await
    }

    /// Stores a device's state where it is newer.
    ///
    /// # Errors
    /// An unknown device, a malformed message, or the database.
    pub async fn state(&self, device: &DeviceId, payload: &[u8]) -> Result<()> {
        let state: pb::State = message::receive(payload)?;
        self.known(device).await?;
        if self
            .store
            .put_state(device.as_str(), &state, &state_json(&state), payload)
            .await?
        {
            let _ = self.events.send(HubEvent::State {
                device: device.clone(),
                state: Box::new(state),
            });
        }
        Ok(())
    }

    /// Stores whether a device is there; a will older than the latest birth changes nothing.
    ///
    /// # Errors
    /// A malformed message, or the database.
    pub async fn presence(&self, device: &DeviceId, payload: &[u8]) -> Result<()> {
        let m: pb::Presence = message::receive(payload)?;
        let session = i64::try_from(m.session).unwrap_or(i64::MAX);
        self.store
            .presence(device.as_str(), session, m.online, &m.agent_version)
            .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leaders_topics_follow_connection_and_leadership_in_whichever_order_they_come() {
        assert_eq!(duty(0, true, None), Duty::Nothing, "leads, not connected");
        assert_eq!(duty(1, true, None), Duty::TakeOver);
        assert_eq!(duty(1, true, Some(1)), Duty::Nothing);
        assert_eq!(duty(2, true, Some(1)), Duty::TakeOver, "a new connection");
        assert_eq!(duty(1, false, None), Duty::Nothing);
        assert_eq!(duty(2, false, Some(2)), Duty::HandOver);
        assert_eq!(
            duty(3, false, Some(2)),
            Duty::Nothing,
            "gone with its connection"
        );
    }
}
