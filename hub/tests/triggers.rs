//! What asks for a retraining beside drift, with a real database: each decision is recorded with its reason, once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod support;

use std::collections::BTreeMap;

use fieldcast_hub::experiment::request::{self, Asked};
use fieldcast_hub::ingest::Ingestor;
use fieldcast_hub::rollout::request::Person;
use fieldcast_hub::triggers::{Said, look};
use fieldcast_store::Store;
use fieldcast_wire::{RecordBody, pb};
use serde_json::{Value, json};
use support::process::refused;
use support::{
    Bed, add_device, bed, define, epoch, job, on_trial, payload, psql, reading, register,
};

const START: i64 = 1_704_067_200_000;
const DAY_MS: i64 = 86_400_000;

/// A forecaster whose champion was made for a world that began on day 400, from its first twelve days.
async fn champion() -> Bed {
    let bed = bed().await;
    add_device(&bed.store, "a", None).await;
    define(&bed.store, "f", json!({})).await;
    register(&bed.store, "f", 1).await;
    on_trial(&bed, "f", 1);
    let day = |n: i64| START + n * DAY_MS;
    let lineage = json!({"data_from": day(0), "onset": day(400), "data_until": day(412)});
    psql(
        &bed,
        &format!("UPDATE model_versions SET lineage = '{lineage}'"),
    );
    bed
}

async fn reach(store: &Store, day: i64) {
    let bytes = payload(
        epoch(1),
        day as u64,
        day as u64,
        vec![reading("demand", START + day * DAY_MS, 1.0)],
    );
    let mut ingestor = Ingestor::new(store.clone()).await.unwrap();
    assert_eq!(
        ingestor
            .write(&[job("a", &bytes)])
            .await
            .unwrap()
            .acks
            .len(),
        1
    );
}

/// Days with their readings and the champion's forecasts, each off by `error` of its day.
async fn live(store: &Store, number: u64, days: std::ops::Range<i64>, error: impl Fn(i64) -> f64) {
    let hour_ms = DAY_MS / 24;
    let mut records = Vec::new();
    for hour in days.start * 24..days.end * 24 {
        let time = START + hour * hour_ms;
        records.push(reading("demand", time, 20.0));
        records.push(RecordBody::Forecast(pb::Forecast {
            forecaster: "f".into(),
            origin_ms: time,
            period_ms: hour_ms,
            mean: vec![20.0 + error(hour / 24); 6],
            made_by: "bundle".into(),
            bundle: vec![1; 32],
            model_version: 1,
            ..pb::Forecast::default()
        }));
    }
    let bytes = payload(epoch(1), number, number * 10_000, records);
    let mut ingestor = Ingestor::new(store.clone()).await.unwrap();
    let written = ingestor.write(&[job("a", &bytes)]).await.unwrap();
    assert_eq!(written.acks.len(), 1);
}

async fn decisions(store: &Store) -> Vec<(String, String)> {
    let all = store.decisions(Some("f"), None, 100).await.unwrap();
    all.into_iter()
        .filter(|d| d.decided_by == "triggers")
        .map(|d| (d.decision, d.reason))
        .collect()
}

fn policy(bed: &Bed, policy: &Value) {
    psql(
        bed,
        &format!("UPDATE forecasters SET retraining = '{policy}'"),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn twice_the_data_of_a_world_ask_for_one_training_and_never_for_two_at_once() {
    let bed = champion().await;
    let store = &bed.store;
    let mut said = Said::default();
    reach(store, 423).await;
    look(store, &mut said).await.unwrap();
    assert!(decisions(store).await.is_empty());
    reach(store, 424).await;
    for _ in 0..3 {
        look(store, &mut said).await.unwrap();
    }
    let told = decisions(store).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].0 == "retrain" && told[0].1.starts_with("24 days"),
        "{told:?}"
    );
    let jobs = store.live_jobs().await.unwrap();
    assert_eq!(jobs.len(), 1);
    assert_eq!(jobs[0].payload["trigger"], "volume");
    assert_eq!(jobs[0].payload["onset"], START + 400 * DAY_MS);
    // It made no better model: not again before what it had has doubled in turn.
    psql(&bed, "UPDATE jobs SET status = 'succeeded'");
    reach(store, 447).await;
    look(store, &mut said).await.unwrap();
    assert_eq!(decisions(store).await.len(), 1);
    reach(store, 448).await;
    look(store, &mut said).await.unwrap();
    assert_eq!(decisions(store).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_training_runs_that_no_decision_stands_behind() {
    let bed = champion().await;
    let store = &bed.store;
    let mut said = Said::default();
    reach(store, 424).await;
    // As if the hub had died before the decision was written.
    psql(
        &bed,
        "ALTER TABLE decisions ADD CONSTRAINT dead CHECK (decision NOT IN ('retrain', 'train'))",
    );
    look(store, &mut said).await.unwrap();
    let asked = ["train", "f", "--detach"];
    let died = || refused(bed.dir.path(), &bed.url("t"), &asked);
    let died = tokio::task::block_in_place(died);
    assert!(died.contains("dead"), "{died}");
    assert!(store.live_jobs().await.unwrap().is_empty());
    psql(&bed, "ALTER TABLE decisions DROP CONSTRAINT dead");
    look(store, &mut said).await.unwrap();
    let jobs = store.live_jobs().await.unwrap();
    let told = store.last_decision("f", "retrain").await.unwrap().unwrap();
    assert_eq!(told.job, Some(jobs[0].id));
}

#[tokio::test(flavor = "multi_thread")]
async fn more_data_are_not_learnt_from_while_the_newest_days_may_be_another_world() {
    let bed = champion().await;
    let store = &bed.store;
    let daily = json!({"mean": 0.0, "between": 0.1, "std": 0.2, "lag1": 0.0, "fleet_std": 0.1, "days": 60,
        "levels": {"a": 0.0}});
    let manifest = json!({"calibration": {"daily": daily}});
    psql(
        &bed,
        &format!("UPDATE model_versions SET manifest = '{manifest}'"),
    );
    let usual = |day: i64| 1.0 + 0.05 * (day % 3 - 1) as f64;
    let mut said = Said::default();
    live(store, 1, 412..425, |day| {
        usual(day) * if day >= 420 { 2.0 } else { 1.0 }
    })
    .await;
    for _ in 0..3 {
        look(store, &mut said).await.unwrap();
    }
    let told = decisions(store).await;
    assert_eq!((told.len(), told[0].0.as_str()), (1, "wait"), "{told:?}");
    for word in ["volume: 24 days", "may have changed just now"] {
        assert!(told[0].1.contains(word), "{told:?}");
    }
    assert!(store.live_jobs().await.unwrap().is_empty());
    // It passes, and the training goes on with the onset of before.
    live(store, 2, 425..440, usual).await;
    look(store, &mut said).await.unwrap();
    let told = decisions(store).await;
    assert_eq!((told.len(), told[0].0.as_str()), (2, "retrain"), "{told:?}");
    let jobs = store.live_jobs().await.unwrap();
    assert_eq!(jobs[0].payload["onset"], START + 400 * DAY_MS);
}

/// Begins an experiment of versions 1 and 2 of `f`.
async fn experiment(store: &Store) -> i64 {
    let asked = Asked {
        forecaster: "f".into(),
        a: 1,
        b: 2,
        share: 0.5,
        days: 10,
        settle_hours: 0,
        labels: BTreeMap::new(),
        sensor: Some("energy".into()),
    };
    let ann = Person {
        name: "ann",
        reason: "",
    };
    request::start(store, &asked, ann).await.unwrap().0
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_retrained_while_an_experiment_holds_the_devices() {
    let bed = champion().await;
    let store = &bed.store;
    register(store, "f", 2).await;
    let id = experiment(store).await;
    reach(store, 424).await;
    let mut said = Said::default();
    for _ in 0..2 {
        look(store, &mut said).await.unwrap();
    }
    let told = decisions(store).await;
    assert_eq!(told.len(), 1, "{told:?}");
    let waits = told[0]
        .1
        .contains("an experiment of this forecaster is under way");
    assert!(told[0].0 == "wait" && waits, "{told:?}");
    // Its time is over: what waited is looked at again.
    psql(
        &bed,
        &format!("UPDATE experiments SET status = 'collecting' WHERE id = {id}"),
    );
    look(store, &mut said).await.unwrap();
    assert_eq!(decisions(store).await[0].0, "retrain");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_reason_to_wait_is_told_too() {
    let bed = champion().await;
    let store = &bed.store;
    register(store, "f", 2).await;
    let mut said = Said::default();
    reach(store, 424).await;
    look(store, &mut said).await.unwrap();
    psql(&bed, "UPDATE jobs SET status = 'failed'");
    reach(store, 448).await;
    look(store, &mut said).await.unwrap();
    experiment(store).await;
    look(store, &mut said).await.unwrap();
    // Each once, also by a hub that begins anew.
    look(store, &mut said).await.unwrap();
    look(store, &mut Said::default()).await.unwrap();
    let told = decisions(store).await;
    assert_eq!(told.len(), 3, "{told:?}");
    for (at, why) in [(0, "experiment"), (1, "failed or was cancelled")] {
        assert!(told[at].0 == "wait" && told[at].1.contains(why), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_told_once_with_its_reason() {
    let bed = champion().await;
    let store = &bed.store;
    let mut said = Said::default();
    policy(
        &bed,
        &json!({"growth": 0, "every": "20d", "cool_down": "30d"}),
    );
    reach(store, 431).await;
    look(store, &mut said).await.unwrap();
    assert!(decisions(store).await.is_empty());
    reach(store, 432).await;
    look(store, &mut said).await.unwrap();
    assert_eq!(decisions(store).await[0].0, "retrain");
    psql(&bed, "UPDATE jobs SET status = 'succeeded'");
    reach(store, 453).await;
    for _ in 0..2 {
        look(store, &mut said).await.unwrap();
    }
    let told = decisions(store).await;
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0].0 == "cool_down" && told[0].1.contains("schedule: 21 days"),
        "{told:?}"
    );
    // A hub that begins anew knows it.
    look(store, &mut Said::default()).await.unwrap();
    assert_eq!(decisions(store).await.len(), 2);
    policy(
        &bed,
        &json!({"growth": 0, "every": "20d", "cool_down": "1d", "a_day": 1}),
    );
    look(store, &mut said).await.unwrap();
    let told = decisions(store).await;
    assert!(
        told[0].0 == "budget" && told[0].1.contains("1 are allowed"),
        "{told:?}"
    );
    assert!(store.live_jobs().await.unwrap().is_empty());
    // What a newer hub wrote stops nobody else's.
    policy(&bed, &json!({"later": 1}));
    define(store, "g", json!({})).await;
    register(store, "g", 1).await;
    on_trial(&bed, "g", 1);
    let day = |n: i64| START + n * DAY_MS;
    let lineage = json!({"data_from": day(0), "data_until": day(200)});
    psql(
        &bed,
        &format!("UPDATE model_versions SET lineage = '{lineage}' WHERE forecaster = 'g'"),
    );
    look(store, &mut said).await.unwrap();
    let live = store.live_jobs().await.unwrap();
    assert_eq!(
        live.iter().map(|j| j.subject.as_str()).collect::<Vec<_>>(),
        ["g"]
    );
    // A training that failed is not begun again at once.
    psql(
        &bed,
        "UPDATE jobs SET status = 'failed' WHERE subject = 'g'",
    );
    for _ in 0..2 {
        look(store, &mut said).await.unwrap();
    }
    assert!(store.live_jobs().await.unwrap().is_empty());
    let told = store.decisions(Some("g"), None, 10).await.unwrap();
    assert!(
        told[0].reason.contains("failed or was cancelled"),
        "{told:?}"
    );
}
