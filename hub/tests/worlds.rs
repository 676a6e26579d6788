//! A world that comes back, on a real PostgreSQL with real models: the hub finds that the version of before does better, and that
//! version is what the retraining rolls out.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod support;

use fieldcast_hub::drift::daily::{Seen, look};
use fieldcast_hub::drift::verdict::Rules;
use fieldcast_hub::ingest::Ingestor;
use fieldcast_hub::jobs::Worker;
use fieldcast_hub::training::KIND;
use fieldcast_sim::{DAY_MS, Period, SimSpec};
use fieldcast_store::Store;
use fieldcast_wire::RecordBody;
use serde_json::{Value, json};
use support::learning::{JAN_2026, checked, signer, train};
use support::{Bed, add_device, bed, define, epoch, job, payload, psql, reading};
use tokio_util::sync::CancellationToken;

/// The second world begins on the first of these days, the third one lasts for a day, and then the first one is back.
const CHANGES: [u32; 3] = [200, 240, 241];

/// Days of made weather and demand of a device, as one batch.
async fn feed(store: &Store, device: &str, number: u64, days: std::ops::Range<usize>) {
    let sim = SimSpec {
        seed: 7,
        start: JAN_2026,
        days: u32::try_from(days.end).unwrap(),
        period: Period::Hour,
        devices: 1,
        changes: CHANGES
            .into_iter()
            .filter(|c| (*c as usize) < days.end)
            .collect(),
    };
    let rows = sim.rows(0).skip(days.start * 24);
    let readings: Vec<_> = rows
        .flat_map(|r| {
            [
                reading("temperature", r.time, r.temperature),
                reading("demand", r.time, r.demand),
            ]
        })
        .collect();
    store_batch(store, device, number, readings).await;
}

/// A day of device `b`, whose demand stands still.
async fn feed_stuck(store: &Store, day: usize) {
    let hours = (day * 24..(day + 1) * 24).map(|hour| JAN_2026 + hour as i64 * 3_600_000);
    let readings = hours.flat_map(|time| {
        let warm = (time / 3_600_000 % 24) as f64;
        [
            reading("temperature", time, warm),
            reading("demand", time, 0.0),
        ]
    });
    store_batch(store, "b", day as u64, readings.collect()).await;
}

async fn store_batch(store: &Store, device: &str, number: u64, readings: Vec<RecordBody>) {
    let bytes = payload(epoch(1), number, number * 1_000_000, readings);
    let mut ingestor = Ingestor::new(store.clone()).await.unwrap();
    let written = ingestor.write(&[job(device, &bytes)]).await.unwrap();
    assert_eq!(written.acks.len(), 1);
}

async fn work(bed: &Bed) -> Value {
    let worker = Worker::new(bed.store.clone(), signer(bed));
    let id = worker.once(None, &CancellationToken::new()).await.unwrap();
    let done = bed.store.job(id.unwrap()).await.unwrap().unwrap();
    assert_eq!(done.status, "succeeded", "{:?}", done.error);
    done.result.unwrap()
}

/// What is rolled out has reached every device.
fn reached(bed: &Bed) {
    psql(
        bed,
        "UPDATE rollouts SET status = 'succeeded', finished_at = now() WHERE finished_at IS NULL",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_version_of_before_is_found_and_rolled_out_again() {
    let bed = bed().await;
    let store = &bed.store;
    add_device(store, "a", Some("secret")).await;
    define(store, "f", json!({"horizon": 24, "lookback": 48})).await;
    let training = json!({"training": {"max_epochs": 0, "forest": false}});
    psql(
        &bed,
        &format!("UPDATE forecasters SET retraining = '{training}'"),
    );
    feed(store, "a", 1, 0..200).await;
    train(&bed).await;
    reached(&bed);
    feed(store, "a", 2, 200..240).await;
    let onset = JAN_2026 + 200 * DAY_MS;
    let request = json!({"trigger": "drift", "reason": "test", "onset": onset, "seed": 2});
    store.enqueue(KIND, "f", &request).await.unwrap();
    // Whatever the judge says of it, it is what runs in the second world.
    assert_eq!(work(&bed).await["model_version"], 2);
    psql(
        &bed,
        "UPDATE champions SET version = 2, on_trial = false WHERE grp = 'all'",
    );
    reached(&bed);

    // In the champion's world nothing is said, however often it is looked.
    let (rules, signer) = (Rules::default(), signer(&bed));
    let mut seen = Seen::default();
    for _ in 0..2 {
        look(store, &signer, &rules, &mut seen).await.unwrap();
    }
    assert!(checked(store).await.is_empty());
    // A device whose target stands still keeps no other from being asked about.
    add_device(store, "b", Some("secret")).await;
    // Nor does one that is away for a week: what it brings then counts as much.
    add_device(store, "c", Some("secret")).await;
    // Day by day, the world of version 1 is back; a hub that begins anew on the last day finds the same.
    let mut found = None;
    for day in 240..285 {
        feed(store, "a", day as u64, day..day + 1).await;
        match day {
            ..=246 => {}
            247 => feed(store, "c", 247, 230..248).await,
            _ => feed(store, "c", day as u64, day..day + 1).await,
        }
        feed_stuck(store, day).await;
        look(store, &signer, &rules, &mut seen).await.unwrap();
        if let Some(decision) = checked(store).await.first() {
            found = Some((day, decision.clone()));
            break;
        }
    }
    let (day, decision) = found.unwrap_or_else(|| panic!("not found in six weeks: {seen:#?}"));
    assert!(day >= 248, "on day {day}: {}", decision.reason);
    assert_eq!(decision.decision, "retrain", "{}", decision.reason);
    assert!(
        decision.reason.contains("version 1 of before"),
        "{}",
        decision.reason
    );
    let report = decision.drift_report.unwrap();
    let report = store.drift_report(report).await.unwrap().unwrap();
    assert!(report.confirmed);
    let began = (report.onset.timestamp_millis() - JAN_2026) / DAY_MS;
    assert!((236..=246).contains(&began), "since day {began}");
    let devices = report.report["verdict"]["devices"].as_array().unwrap();
    let days = |name: &str| devices.iter().find(|d| d["device"] == name).unwrap()["days"].clone();
    assert_eq!(days("c"), days("a"), "{devices:?}");
    assert_eq!(
        report.report["rivals"][0]["version"], 1,
        "{}",
        report.report
    );
    let jobs = store.live_jobs().await.unwrap();
    assert_eq!(jobs[0].payload["trigger"], "rival");
    assert_eq!(jobs[0].payload["onset"], report.onset.timestamp_millis());
    // While it trains nothing is looked at, by no hub.
    look(store, &signer, &rules, &mut Seen::default())
        .await
        .unwrap();
    assert_eq!(checked(store).await.len(), 1);

    let result = work(&bed).await;
    assert_eq!(result["better"], true, "{result}");
    let [first, third] = [1, 3].map(|version| store.model_version("f", version));
    let (first, third) = (first.await.unwrap().unwrap(), third.await.unwrap().unwrap());
    assert_eq!(third.lineage["known"], 1);
    assert_eq!(third.lineage["onset"], report.onset.timestamp_millis());
    assert_eq!(third.manifest["onnx_sha256"], first.manifest["onnx_sha256"]);
    assert_ne!(third.bundle, first.bundle);
    assert_ne!(
        third.manifest["calibration"]["daily"], first.manifest["calibration"]["daily"],
        "its errors are measured in the world of today"
    );
    let open = store.open_rollouts().await.unwrap();
    assert_eq!((open.len(), open[0].model_version), (1, 3));
    // Made again it takes the same weights.
    let run = result["model_version"].as_i64().and(decision.job).unwrap();
    let request = json!({"trigger": "person", "reason": "test", "again": run});
    store.enqueue(KIND, "f", &request).await.unwrap();
    let again = work(&bed).await;
    let reason = again["reason"].as_str().unwrap();
    assert!(reason.contains("bit for bit"), "{reason}");
}
