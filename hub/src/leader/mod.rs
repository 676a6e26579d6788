//! What only the leading hub does: sync, state, presence and block requests; owns their order, never telemetry.

mod blob;
mod decoded;
mod elect;
mod greet;
mod refusals;

use std::collections::BTreeMap;
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use fieldcast_store::states::NewState;
use fieldcast_store::{Store, StoreError};
use fieldcast_wire::message::MessageError;
use fieldcast_wire::{DeviceId, DeviceTopic, Epoch, message, pb};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use greet::Newcomers;
use refusals::{Refusal, Refusals, one_each};

use crate::downlink::Downlink;
use crate::events::HubEvent;
use crate::ingest::{self, out};
use crate::mqtt::Arrivals;

pub use decoded::state as state_json;
pub use elect::elect;

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
                .map(|()| {
                    tracing::info!(
                        "the leader's topics are taken over, and devices told what they shall do"
                    );
                    took_over = Some(connection);
                })
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

/// States that may wait.
const SAID: usize = 16_384;
/// States that are stored at once, and how long others are gathered after that.
const STATES_AT_ONCE: usize = 1_000;
const GATHER: Duration = Duration::from_millis(100);

/// A message that waits for its turn.
type Waiting = (DeviceId, DeviceTopic, Vec<u8>);

/// Handles the leader's messages until cancelled.
///
/// None of these is a record: what a hub that dies had waiting is retained by the broker, or said again by its device.
pub async fn run(desk: Desk, mut lane: Arrivals, end: CancellationToken) {
    let (asked, requests) = mpsc::channel(256);
    // Whoever takes over gets those of the whole fleet at once.
    let (said, states) = mpsc::channel(SAID);
    let (refusals, refused) = Refusals::new();
    let newcomers = Arc::new(Newcomers::default());
    let mut tasks = JoinSet::new();
    tasks.spawn(blob::run(desk.clone(), requests, end.clone()));
    tasks.spawn(refusals::run(
        desk.clone(),
        refused,
        refusals.dropped(),
        end.clone(),
    ));
    tasks.spawn(reports(desk.clone(), states, refusals.clone(), end.clone()));
    tasks.spawn(greet::run(
        desk.downlink.clone(),
        newcomers.clone(),
        end.clone(),
    ));
    let mut lanes = Vec::new();
    for _ in 0..SIDE_BY_SIDE {
        let (sender, waiting) = mpsc::channel(WAITING);
        lanes.push(sender);
        tasks.spawn(handle(desk.clone(), waiting, refusals.clone(), end.clone()));
    }
    loop {
        let delivery = tokio::select! {
            delivery = lane.recv() => delivery,
            () = end.cancelled() => None,
        };
        let Some((delivery, _room)) = delivery else {
            break;
        };
        let (device, topic) = (delivery.device, delivery.topic);
        if topic == DeviceTopic::Blob {
            match blob::read(&delivery.payload) {
                // A full queue drops the request: the device asks again for what it misses.
                Ok((sha, request)) => drop(asked.try_send((device, sha, request))),
                Err(reason) => refusals.add(Refusal {
                    device,
                    payload: delivery.payload,
                    reason,
                }),
            }
        } else {
            // Each connection begins with one: whatever becomes of it, its device has come.
            if topic == DeviceTopic::Sync {
                newcomers.add(&device);
            }
            let waits = match lanes.get(place(&device)) {
                Some(lane) if topic != DeviceTopic::State => lane
                    .try_send((device.clone(), topic, delivery.payload))
                    .is_ok(),
                _ => said.try_send((device.clone(), delivery.payload)).is_ok(),
            };
            if !waits {
                tracing::warn!(%device, ?topic, "too many messages wait; this one is dropped, its device says it again");
            }
        }
    }
    drop((asked, said, lanes, refusals));
    while tasks.join_next().await.is_some() {}
}

/// The lane of a device: always the same.
fn place(device: &DeviceId) -> usize {
    let mut hasher = std::hash::DefaultHasher::new();
    device.hash(&mut hasher);
    usize::try_from(hasher.finish() % SIDE_BY_SIDE as u64).unwrap_or(0)
}

async fn handle(
    desk: Desk,
    mut waiting: mpsc::Receiver<Waiting>,
    refusals: Refusals,
    end: CancellationToken,
) {
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
            DeviceTopic::Presence => desk.presence(&device, &payload).await,
            _ => Ok(()),
        };
        match handled {
            Ok(()) => {}
            Err(Unhandled::Unreadable(reason)) => refusals.add(Refusal {
                device,
                payload,
                reason,
            }),
            Err(Unhandled::Failed(error)) => {
                tracing::warn!(%device, ?topic, error = %format!("{error:#}"), "message not handled");
            }
        }
    }
}

/// A state as it came.
type Said = (DeviceId, Vec<u8>);
/// The newest state of each device, decoded and as it came.
type Newest = BTreeMap<DeviceId, (pb::State, Vec<u8>)>;

/// The newest state of each device, and of those that cannot be read one a device.
fn read(said: Vec<Said>) -> (Newest, Vec<Refusal>) {
    let (mut newest, mut unread) = (Newest::new(), Vec::new());
    for (device, payload) in said {
        let state = message::receive::<pb::State>(&payload).map_err(|e| e.to_string());
        match state.and_then(within) {
            Ok(state) => {
                let older = newest.get(&device).map(|(s, _)| (s.boot, s.n));
                if older < Some((state.boot, state.n)) {
                    newest.insert(device, (state, payload));
                }
            }
            Err(reason) => unread.push(Refusal {
                device,
                payload,
                reason,
            }),
        }
    }
    (newest, one_each(unread))
}

/// The state, where it names only numbers that a hub can have given.
fn within(state: pb::State) -> Result<pb::State, String> {
    let given = |n: u64| i64::try_from(n).is_ok();
    match state.forecasters.iter().find(|f| {
        [f.model_version, f.newest_version, f.generation]
            .into_iter()
            .any(|n| !given(n))
    }) {
        Some(f) => Err(format!(
            "a version or generation of `{}` that no hub gives; set the agent up anew",
            f.forecaster
        )),
        None => Ok(state),
    }
}

/// Stores states, those that came meanwhile at once: a fleet that obeys an order reports by thousands.
async fn reports(
    desk: Desk,
    mut waiting: mpsc::Receiver<Said>,
    refusals: Refusals,
    end: CancellationToken,
) {
    let mut states = Vec::new();
    loop {
        tokio::select! {
            _ = waiting.recv_many(&mut states, STATES_AT_ONCE) => {}
            () = end.cancelled() => return,
        }
        if states.is_empty() {
            return;
        }
        let (newest, unread) = read(std::mem::take(&mut states));
        let stored = tokio::select! {
            stored = desk.states(newest) => stored,
            () = end.cancelled() => return,
        };
        if let Err(error) = stored {
            tracing::warn!(error = %format!("{error:#}"), "states not stored");
        }
        for refusal in unread {
            refusals.add(refusal);
        }
        tokio::select! {
            () = tokio::time::sleep(GATHER) => {}
            () = end.cancelled() => return,
        }
    }
}

/// Why a message was not handled.
#[derive(Debug)]
pub enum Unhandled {
    /// It cannot be read: it goes into quarantine, and its sender is told why.
    Unreadable(String),
    /// Anything else; its device says it again.
    Failed(anyhow::Error),
}

impl From<MessageError> for Unhandled {
    fn from(error: MessageError) -> Self {
        Self::Unreadable(error.to_string())
    }
}

impl From<anyhow::Error> for Unhandled {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<StoreError> for Unhandled {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

impl Desk {
    async fn refuse(&self, refusal: &Refusal) {
        ingest::refuse(
            &self.store,
            &self.downlink,
            &refusal.device,
            &refusal.payload,
            &refusal.reason,
            &self.out,
        )
        .await;
    }

    async fn known(&self, device: &DeviceId) -> Result<()> {
        let known = self.store.device(device.as_str()).await?.is_some();
        known.then_some(()).with_context(|| unknown(device))
    }

    /// Answers a sync with an ack.
    ///
    /// # Errors
    /// An unknown device, a malformed message, or the database.
    pub async fn sync(&self, device: &DeviceId, payload: &[u8]) -> Result<(), Unhandled> {
        let sync: pb::Sync = message::receive(payload)?;
        self.known(device).await?;
        let epoch = Epoch::from_slice(&sync.epoch);
        let epoch = epoch.map_err(|error| Unhandled::Unreadable(error.to_string()))?;
        let database = self.instance.clone();
        let (ack, alarms) = ingest::sync(&self.store, database, device, epoch, sync).await?;
        for alarm in alarms {
            let _ = self.out.try_send(alarm);
        }
        let Some(ack) = ack else { return Ok(()) };
        let topic = self.downlink.topics().device(device, DeviceTopic::Ack);
        self.downlink
            .publish(&topic, message::encode(&ack), false)
            .await?;
        Ok(())
    }

    /// Stores states of devices where they are newer; those of unknown devices are named in the log.
    async fn states(&self, mut newest: Newest) -> Result<()> {
        let names: Vec<String> = newest.keys().map(ToString::to_string).collect();
        let known = self.store.known_devices(&names).await?;
        newest.retain(|device, _| {
            let known = known.contains_key(device.as_str());
            if !known {
                tracing::warn!("{}", unknown(device));
            }
            known
        });
        let states: Vec<NewState<'_>> = newest
            .iter()
            .map(|(device, (state, raw))| NewState {
                device: device.as_str(),
                state,
                decoded: state_json(state),
                raw,
            })
            .collect();
        let stored = self.store.put_states(&states).await?;
        for (device, (state, _)) in newest {
            if stored.contains(device.as_str()) {
                let state = Box::new(state);
                let _ = self.events.send(HubEvent::State { device, state });
            }
        }
        Ok(())
    }

    /// Stores whether a device is there; a will older than the latest birth changes nothing.
    ///
    /// # Errors
    /// A malformed message, or the database.
    pub async fn presence(&self, device: &DeviceId, payload: &[u8]) -> Result<(), Unhandled> {
        let m: pb::Presence = message::receive(payload)?;
        let session = i64::try_from(m.session).unwrap_or(i64::MAX);
        self.store
            .presence(device.as_str(), session, m.online, &m.agent_version)
            .await?;
        Ok(())
    }
}

fn unknown(device: &DeviceId) -> String {
    format!("device `{device}` is unknown; `fieldcast-hub device add` makes it known")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn states_that_cannot_be_read_stand_in_no_others_way_and_count_once_a_device() {
        let name = |name: &str| DeviceId::new(name).unwrap();
        let state = |n| {
            message::encode(&pb::State {
                boot: 1,
                n,
                ..pb::State::default()
            })
        };
        let mut said = vec![(name("a"), vec![0xff; 9]); 500];
        said.extend([(name("a"), state(1)), (name("b"), state(3))]);
        said.extend([(name("b"), state(2)), (name("c"), vec![0xff; 9])]);
        let claims = |version, generation| {
            let f = pb::ForecasterState {
                model_version: version,
                generation,
                ..pb::ForecasterState::default()
            };
            message::encode(&pb::State {
                forecasters: vec![f],
                ..pb::State::default()
            })
        };
        said.extend([
            (name("d"), claims(u64::MAX, 1)),
            (name("e"), claims(1, 1 << 63)),
        ]);
        let (newest, unread) = read(said);
        let newest: Vec<(&str, u64)> = newest.iter().map(|(d, s)| (d.as_str(), s.0.n)).collect();
        assert_eq!(newest, [("a", 1), ("b", 3)]);
        let unread: Vec<&str> = unread.iter().map(|r| r.device.as_str()).collect();
        assert_eq!(unread, ["a", "c", "d", "e"]);
    }

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
