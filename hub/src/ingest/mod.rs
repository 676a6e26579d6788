//! Ingest: takes batches and JSON readings into PostgreSQL and acknowledges after COMMIT, never before.

pub mod check;
pub mod dating;
mod group;
pub mod json;
mod json_mqtt;
mod lift;
pub mod out;
mod round;
mod writer;

use std::time::Duration;

use fieldcast_store::Store;
use fieldcast_store::quarantine::Quarantined;
use fieldcast_wire::caps::MAX_NAME;
use fieldcast_wire::{Batch, BatchError, DeviceId, DeviceTopic, Epoch, SCHEMA, Sha256, batch, pb};
use prost::Message as _;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::downlink::Downlink;
use crate::events::HubEvent;
use crate::mqtt::{Arrivals, Delivery, Room};
use fieldcast_store::ledger::RejectedRecord;

pub use round::sync;
pub use writer::{Ingestor, Written};

/// Most batches that share a transaction, and most bytes of them.
const GROUP: usize = 64;
const GROUP_BYTES: usize = 8 * 1024 * 1024;
/// Transactions begin so far apart, so that batches of many devices share one; a batch that comes alone does not wait.
const APART: Duration = Duration::from_millis(10);
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A batch on its way into the tables.
#[derive(Debug, Clone)]
pub struct Job {
    /// Whose.
    pub device: DeviceId,
    /// Decoded; without records where they cannot be read.
    pub batch: Batch,
    /// As it came.
    pub bytes: Vec<u8>,
    /// SHA-256 of its bytes.
    pub digest: Sha256,
    /// What is refused from the start.
    pub rejected: Vec<RejectedRecord>,
    /// Whether it came on the live lane.
    pub live: bool,
}

impl Job {
    /// Decodes a batch. One whose records cannot be read, though its header can, is refused as a whole and for good:
    /// sending the same bytes again would never help.
    ///
    /// # Errors
    /// Not even a header, or a schema that a newer hub will read.
    pub fn new(device: DeviceId, bytes: &[u8], live: bool) -> Result<Self, BatchError> {
        let decoded = batch::decode(bytes).and_then(|batch| match sound(&batch.clock) {
            true => Ok(batch),
            false => Err(BatchError::Malformed {
                what: format!("a boot id above {MAX_NAME} bytes or with a NUL character"),
            }),
        });
        let (batch, rejected) = match decoded {
            Ok(batch) => (batch, Vec::new()),
            Err(error @ BatchError::NewerSchema { .. }) => return Err(error),
            Err(error) => match header(bytes) {
                Some(batch) => (batch, vec![RejectedRecord::new(0, error.to_string())]),
                None => return Err(error),
            },
        };
        Ok(Self {
            device,
            batch,
            digest: Sha256::of(bytes),
            bytes: bytes.to_vec(),
            rejected,
            live,
        })
    }
}

/// Whether clocks can be stored and echoed.
fn sound(clock: &pb::ClockStamp) -> bool {
    clock.boot_id.len() <= MAX_NAME && !clock.boot_id.contains('\0')
}

fn header(payload: &[u8]) -> Option<Batch> {
    let m = pb::Batch::decode(payload).ok()?;
    let counts = m.schema > 0 && m.number > 0 && m.first_seq > 0 && m.last_seq >= m.first_seq;
    counts.then_some(())?;
    Some(Batch {
        epoch: Epoch::from_slice(&m.epoch).ok()?,
        number: m.number,
        first_seq: m.first_seq,
        last_seq: m.last_seq,
        clock: m.clock.filter(sound).unwrap_or_default(),
        records: Vec::new(),
    })
}

/// Takes telemetry until cancelled or its channel ends; holds at most one group while the database is away.
pub async fn run(
    mut ingestor: Ingestor,
    mut telemetry: Arrivals,
    downlink: Downlink,
    out: mpsc::Sender<out::Message>,
    events: broadcast::Sender<HubEvent>,
    end: CancellationToken,
) {
    let mut gathered_until = Instant::now();
    loop {
        let first = tokio::select! {
            first = telemetry.recv() => first,
            () = end.cancelled() => None,
        };
        let Some(first) = first else { return };
        let mut bytes = first.0.payload.len();
        let mut group = vec![first];
        while group.len() < GROUP && bytes < GROUP_BYTES {
            let Ok(Some(next)) = timeout_at(gathered_until, telemetry.recv()).await else {
                break;
            };
            bytes += next.0.payload.len();
            group.push(next);
        }
        gathered_until = Instant::now() + APART;
        tokio::select! {
            () = take(&mut ingestor, group, &downlink, &out, &events) => {}
            () = end.cancelled() => return,
        }
    }
}

async fn take(
    ingestor: &mut Ingestor,
    group: Vec<(Delivery, Room)>,
    downlink: &Downlink,
    out: &mpsc::Sender<out::Message>,
    events: &broadcast::Sender<HubEvent>,
) {
    let mut jobs = Vec::new();
    let mut documents = Vec::new();
    let mut rooms = Vec::new();
    for (delivery, room) in group {
        rooms.push(room);
        if delivery.topic == DeviceTopic::Json {
            documents.push((delivery.device, delivery.payload));
        } else {
            let live = delivery.topic == DeviceTopic::Live;
            match Job::new(delivery.device.clone(), &delivery.payload, live) {
                Ok(job) => jobs.push(job),
                Err(error @ BatchError::NewerSchema { .. }) => {
                    tracing::warn!(device = %delivery.device, %error, "batch not taken");
                }
                Err(error) => {
                    let (device, payload) = (&delivery.device, &delivery.payload);
                    refuse(
                        ingestor.store(),
                        downlink,
                        device,
                        payload,
                        &error.to_string(),
                        out,
                    )
                    .await;
                }
            }
        }
    }
    // Two hubs that write the same batches meet in the same order and cannot lock each other out.
    jobs.sort_by(|a, b| {
        (&a.device, a.batch.epoch, a.batch.number).cmp(&(&b.device, b.batch.epoch, b.batch.number))
    });
    for written in write(ingestor, jobs).await {
        publish(written, downlink, out, events).await;
    }
    for (device, payload) in documents {
        json_mqtt::document(ingestor.store(), downlink, &device, &payload, out, events).await;
    }
    // Until now these messages took room in their lane.
    drop(rooms);
}

/// Waits longer each time.
struct Backoff(Duration);

impl Backoff {
    fn new() -> Self {
        Self(BACKOFF.0)
    }

    async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(BACKOFF.1);
    }
}

/// Writes a group: while the database is away, again and again; where it is there and refuses, each batch by itself, so
/// that one device cannot stop the others.
async fn write(ingestor: &mut Ingestor, jobs: Vec<Job>) -> Vec<Written> {
    let mut all = Vec::new();
    let mut backoff = Backoff::new();
    let mut groups = vec![jobs];
    while let Some(jobs) = groups.pop() {
        match ingestor.write(&jobs).await {
            Ok(written) => all.push(written),
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, "the database takes no batches; trying again");
                ingestor.forget();
                backoff.wait().await;
                groups.push(jobs);
            }
            Err(error) if jobs.len() > 1 => {
                tracing::error!(%error, "batches cannot be written together; trying each by itself");
                ingestor.forget();
                groups.extend(jobs.into_iter().rev().map(|job| vec![job]));
            }
            Err(error) => {
                for job in &jobs {
                    tracing::error!(device = %job.device, batch = job.batch.number, %error,
                        "a batch cannot be written and is not acknowledged; its device sends it again");
                }
                ingestor.forget();
                backoff.wait().await;
            }
        }
    }
    all
}

/// Keeps what a device sent and nobody can read, and tells it why.
pub async fn refuse(
    store: &Store,
    downlink: &Downlink,
    device: &DeviceId,
    payload: &[u8],
    reason: &str,
    out: &mpsc::Sender<out::Message>,
) {
    tracing::warn!(%device, reason, "a message that cannot be read goes into quarantine");
    if stray(store, device, payload, reason, out).await {
        answer(downlink, device, &refusal(reason)).await;
    }
}

/// An ack that is about no epoch: something that a device sent was not taken, and why.
fn refusal(reason: impl Into<String>) -> pb::Ack {
    pb::Ack {
        schema: SCHEMA,
        reason: RejectedRecord::new(0, reason).reason,
        hub_time_ms: now_ms(),
        ..pb::Ack::default()
    }
}

/// Keeps bytes that could not become rows and name no batch; false where the device is unknown.
async fn stray(
    store: &Store,
    device: &DeviceId,
    payload: &[u8],
    reason: &str,
    out: &mpsc::Sender<out::Message>,
) -> bool {
    let reason = RejectedRecord::new(0, reason).reason;
    let kept = Quarantined {
        device: device.as_str(),
        digest: Sha256::of(payload),
        batch: None,
        reason: &reason,
        bytes: payload,
    };
    let mut backoff = Backoff::new();
    loop {
        let tried = match store.device(device.as_str()).await {
            Ok(None) => return false,
            Ok(Some(_)) => store.quarantine(&kept).await,
            Err(error) => Err(error),
        };
        match tried {
            Ok(raised) => {
                if raised {
                    let _ = out.try_send(out::hub_alarm(device, "quarantined", &reason));
                }
                return true;
            }
            Err(error) if error.is_transient() => backoff.wait().await,
            Err(error) => {
                tracing::error!(%device, %error, "a message that cannot be read is lost");
                return true;
            }
        }
    }
}

/// Publishes an ack.
async fn answer(downlink: &Downlink, device: &DeviceId, ack: &pb::Ack) {
    let topic = downlink.topics().device(device, DeviceTopic::Ack);
    let payload = fieldcast_wire::message::encode(ack);
    if let Err(error) = downlink.publish(&topic, payload, false).await {
        tracing::debug!(%device, error = %format!("{error:#}"), "ack not sent; the device sends its batch again");
    }
}

async fn publish(
    written: Written,
    downlink: &Downlink,
    out: &mpsc::Sender<out::Message>,
    events: &broadcast::Sender<HubEvent>,
) {
    for (device, ack) in written.acks {
        answer(downlink, &device, &ack).await;
    }
    for message in written.out {
        // Consumers that must not miss anything read the database: here the newest is dropped when they are slow.
        let _ = out.try_send(message);
    }
    for event in written.events {
        let _ = events.send(event);
    }
}

/// Process time of the hub, milliseconds UTC.
pub(crate) fn now_ms() -> i64 {
    crate::clock::now().timestamp_millis()
}
