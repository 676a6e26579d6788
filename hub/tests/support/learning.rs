//! Training in tests: owns the data of a small world and one run over it, never what is expected of them.

use std::sync::Arc;

use fieldcast_hub::ingest::Ingestor;
use fieldcast_hub::jobs::Worker;
use fieldcast_hub::signing::Signer;
use fieldcast_hub::training::KIND;
use fieldcast_sim::{Period, SimSpec};
use fieldcast_store::Store;
use fieldcast_store::decisions::DecisionRow;
use fieldcast_store::jobs::JobRow;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Bed, add_device, bed, define, epoch, job, payload, reading};

pub const JAN_2026: i64 = 1_767_225_600_000;

pub fn signer(bed: &Bed) -> Arc<Signer> {
    Arc::new(Signer::open(&bed.dir.path().join("keys")).unwrap())
}

/// A device `a` and a forecaster `f` of its demand.
pub async fn begun() -> Bed {
    let bed = bed().await;
    add_device(&bed.store, "a", Some("secret")).await;
    define(&bed.store, "f", json!({})).await;
    bed
}

/// Days `[from, to)` of generated weather and demand of device `a`, as one batch.
pub async fn feed(store: &Store, number: u64, from: usize, to: usize) {
    let sim = SimSpec {
        seed: 3,
        start: JAN_2026,
        days: u32::try_from(to).unwrap(),
        period: Period::Hour,
        devices: 1,
        changes: Vec::new(),
    };
    let rows = sim.rows(0).skip(from * 24).take((to - from) * 24);
    let readings: Vec<_> = rows
        .flat_map(|r| {
            [
                reading("temperature", r.time, r.temperature),
                reading("demand", r.time, r.demand),
            ]
        })
        .collect();
    let bytes = payload(epoch(1), number, number * 1_000_000, readings);
    let mut ingestor = Ingestor::new(store.clone()).await.unwrap();
    let written = ingestor.write(&[job("a", &bytes)]).await.unwrap();
    assert_eq!(written.acks.len(), 1);
}

pub async fn enqueue(store: &Store, config: Value) -> i64 {
    let config = {
        let mut all = json!(fieldcast_train::TrainConfig::default());
        for (key, value) in config.as_object().unwrap() {
            all[key] = value.clone();
        }
        all
    };
    let request = json!({"trigger": "person", "reason": "test", "config": config});
    store.enqueue(KIND, "f", &request).await.unwrap().0
}

pub async fn train(bed: &Bed) -> JobRow {
    train_with(bed, json!({"max_epochs": 0})).await
}

pub async fn train_with(bed: &Bed, config: Value) -> JobRow {
    let id = enqueue(&bed.store, config).await;
    let worker = Worker::new(bed.store.clone(), signer(bed));
    let done = worker.once(None, &CancellationToken::new()).await.unwrap();
    assert_eq!(done, Some(id));
    let job = bed.store.job(id).await.unwrap().unwrap();
    assert_eq!(job.status, "succeeded", "{:?}", job.error);
    job
}

/// What the drift checks decided, newest first.
pub async fn checked(store: &Store) -> Vec<DecisionRow> {
    let mut all = store.decisions(Some("f"), None, 100).await.unwrap();
    all.retain(|d| d.decided_by == "drift check");
    all
}
