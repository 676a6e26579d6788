//! Ingest: takes batches and JSON readings into PostgreSQL and acknowledges after COMMIT, never before.

pub mod check;
pub mod decide;
pub mod json;
pub mod out;
mod writer;

use std::collections::BTreeMap;
use std::time::Duration;

use fieldcast_store::Store;
use fieldcast_wire::{Batch, BatchError, DeviceId, DeviceTopic, Epoch, Sha256, batch, pb};
use prost::Message as _;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

use crate::downlink::Downlink;
use crate::events::HubEvent;
use crate::mqtt::Delivery;
use fieldcast_store::ledger::RejectedRecord;

pub use writer::{Ingestor, Written};

/// Most batches that share a transaction, and most bytes of them.
const GROUP: usize = 64;
const GROUP_BYTES: usize = 8 * 1024 * 1024;
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A batch on its way into the tables.
#[derive(Debug)]
pub struct Job {
    /// Whose.
    pub device: DeviceId,
    /// Decoded; without records where they cannot be read.
    pub batch: Batch,
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
    pub fn new(device: DeviceId, payload: &[u8], live: bool) -> Result<Self, BatchError> {
        let digest = Sha256::of(payload);
        match batch::decode(payload) {
            Ok(batch) => Ok(Self {
                device,
                batch,
                digest,
                rejected: Vec::new(),
                live,
            }),
            Err(error @ BatchError::NewerSchema { .. }) => Err(error),
            Err(error) => match header(payload) {
                Some(batch) => {
                    let rejected = vec![RejectedRecord {
                        seq: 0,
                        reason: error.to_string(),
                    }];
                    Ok(Self {
                        device,
                        batch,
                        digest,
                        rejected,
                        live,
                    })
                }
                None => Err(error),
            },
        }
    }
}

fn header(payload: &[u8]) -> Option<Batch> {
    let m = pb::Batch::decode(payload).ok()?;
    let sound = m.schema > 0 && m.number > 0 && m.first_seq > 0 && m.last_seq >= m.first_seq;
    sound.then_some(())?;
    Some(Batch {
        epoch: Epoch::from_slice(&m.epoch).ok()?,
        number: m.number,
        first_seq: m.first_seq,
        last_seq: m.last_seq,
        clock: m.clock.unwrap_or_default(),
        records: Vec::new(),
    })
}

/// Takes telemetry until cancelled or its channel ends; holds at most one group while the database is away.
pub async fn run(
    mut ingestor: Ingestor,
    mut telemetry: mpsc::Receiver<Delivery>,
    downlink: Downlink,
    out: mpsc::Sender<out::Message>,
    events: broadcast::Sender<HubEvent>,
    end: CancellationToken,
) {
    loop {
        let first = tokio::select! {
            first = telemetry.recv() => first,
            () = end.cancelled() => None,
        };
        let Some(first) = first else { return };
        let mut bytes = first.payload.len();
        let mut group = vec![first];
        while group.len() < GROUP && bytes < GROUP_BYTES {
            let Ok(next) = telemetry.try_recv() else {
                break;
            };
            bytes += next.payload.len();
            group.push(next);
        }
        tokio::select! {
            () = take(&mut ingestor, group, &downlink, &out, &events) => {}
            () = end.cancelled() => return,
        }
    }
}

async fn take(
    ingestor: &mut Ingestor,
    group: Vec<Delivery>,
    downlink: &Downlink,
    out: &mpsc::Sender<out::Message>,
    events: &broadcast::Sender<HubEvent>,
) {
    let mut jobs = Vec::new();
    let mut documents = Vec::new();
    let mut receipts = Vec::new();
    for delivery in group {
        if delivery.topic == DeviceTopic::Json {
            documents.push((delivery.device, delivery.payload));
        } else {
            let live = delivery.topic == DeviceTopic::Live;
            match Job::new(delivery.device.clone(), &delivery.payload, live) {
                Ok(job) => jobs.push(job),
                Err(error) => tracing::warn!(device = %delivery.device, %error, "batch not taken"),
            }
        }
        receipts.push(delivery.receipt);
    }
    // Two hubs that write the same batches meet in the same order and cannot lock each other out.
    jobs.sort_by(|a, b| {
        (&a.device, a.batch.epoch, a.batch.number).cmp(&(&b.device, b.batch.epoch, b.batch.number))
    });
    let mut backoff = BACKOFF.0;
    let written = loop {
        match ingestor.write(&jobs).await {
            Ok(written) => break written,
            Err(error) => {
                if error.is_transient() {
                    tracing::warn!(%error, "the database takes no batches; trying again");
                } else {
                    tracing::error!(%error, "batches cannot be written; trying again");
                }
                ingestor.forget();
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF.1);
            }
        }
    };
    publish(written, downlink, out, events).await;
    for (device, payload) in documents {
        json_document(ingestor.store(), &device, &payload, out, events).await;
    }
    for receipt in receipts {
        receipt.done().await;
    }
}

async fn publish(
    written: Written,
    downlink: &Downlink,
    out: &mpsc::Sender<out::Message>,
    events: &broadcast::Sender<HubEvent>,
) {
    for (device, ack) in written.acks {
        let topic = downlink.topics().device(&device, DeviceTopic::Ack);
        let payload = fieldcast_wire::message::encode(&ack);
        if let Err(error) = downlink.publish(&topic, payload, false).await {
            tracing::debug!(%device, error = %format!("{error:#}"), "ack not sent; the device sends its batch again");
        }
    }
    for message in written.out {
        // Consumers that must not miss anything read the database: here the newest is dropped when they are slow.
        let _ = out.try_send(message);
    }
    for event in written.events {
        let _ = events.send(event);
    }
}

async fn json_document(
    store: &Store,
    device: &DeviceId,
    payload: &[u8],
    out: &mpsc::Sender<out::Message>,
    events: &broadcast::Sender<HubEvent>,
) {
    let readings = match json::parse(payload) {
        Ok(readings) => readings,
        Err(error) => {
            tracing::warn!(%device, %error, "JSON readings not taken");
            return;
        }
    };
    match json::store(store, device, &readings).await {
        Ok(stored) => {
            for message in out::readings(device, &json::as_readings(&readings)) {
                let _ = out.try_send(message);
            }
            let newest: BTreeMap<_, _> = readings
                .iter()
                .map(|r| (r.sensor.clone(), r.time))
                .collect();
            let _ = events.send(HubEvent::Committed {
                device: device.clone(),
                newest,
                readings: stored.new,
            });
        }
        Err(error) => {
            tracing::warn!(%device, error = %format!("{error:#}"), "JSON readings not stored")
        }
    }
}
