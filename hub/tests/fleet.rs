//! The hub's own look at a fleet's inputs, and at errors that nobody has measured: with a real database and stored readings.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod support;

use fieldcast_drift::sketch::{Sketch, Stored};
use fieldcast_hub::drift::fleet::{Seen, check_all};
use fieldcast_hub::drift::{estimate, inputs};
use fieldcast_hub::ingest::Ingestor;
use fieldcast_store::Store;
use fieldcast_wire::{RecordBody, pb};
use serde_json::json;
use support::process::Process;
use support::{
    Bed, add_device, bed, define, epoch, http, job, on_trial, payload, psql, reading, register,
};
use tokio_util::sync::CancellationToken;

/// 2025-01-06, a Monday.
const START: i64 = 1_736_121_600_000;
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// Days that the champion was trained on.
const KNOWN: i64 = 360;

/// A sensor's hour: a day's season and slow noise of its own.
fn value(sensor: &str, seed: u64, hours: i64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ sensor.len() as u64;
    let mut noise = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 * 2f64.powi(-52) - 1.0
    };
    let mut slow = 0.0;
    (0..hours)
        .map(|h| {
            slow = 0.7 * slow + noise();
            20.0 + 4.0 * (h as f64 / 24.0 * std::f64::consts::TAU).sin() + slow
        })
        .collect()
}

/// Hours `(from, to]` of both sensors of a device; `warmer` is added to its temperature.
async fn send(store: &Store, device: &str, (from, to): (i64, i64), warmer: f64) {
    let seed = u64::from(device.as_bytes()[0]);
    let mut records = Vec::new();
    for (sensor, shift) in [("temperature", warmer), ("demand", 0.0)] {
        let values = value(sensor, seed, to);
        let hours = values.iter().enumerate().skip(from as usize);
        records.extend(
            hours.map(|(h, v)| reading(sensor, START + (h as i64 + 1) * HOUR_MS, v + shift)),
        );
    }
    let mut ingestor = Ingestor::new(store.clone()).await.unwrap();
    let number = from as u64 + 1;
    for (part, records) in records.chunks(4_000).enumerate() {
        let number = number + part as u64;
        let bytes = payload(
            epoch(u128::from(seed)),
            number,
            number * 100_000,
            records.to_vec(),
        );
        let written = ingestor.write(&[job(device, &bytes)]).await.unwrap();
        assert_eq!(written.acks.len(), 1);
    }
}

/// Three devices with readings, and a champion that knows the first days of them.
async fn fleet() -> Bed {
    let bed = bed().await;
    for device in ["a", "b", "c"] {
        add_device(&bed.store, device, None).await;
        send(&bed.store, device, (0, 24 * (KNOWN + 14)), 0.0).await;
    }
    define(&bed.store, "f", json!({})).await;
    register(&bed.store, "f", 1).await;
    on_trial(&bed, "f", 1);
    let until = START + KNOWN * DAY_MS;
    psql(
        &bed,
        &format!("UPDATE model_versions SET lineage = jsonb_build_object('data_until', {until})"),
    );
    bed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_at_some_devices_is_told_once_with_its_day_and_so_is_its_end() {
    let bed = fleet().await;
    let store = &bed.store;
    let mut seen = Seen::new();
    check_all(store, &mut seen, &CancellationToken::new())
        .await
        .unwrap();
    let reports = async || {
        store
            .drift_reports(Some("f"), None, None, 10)
            .await
            .unwrap()
    };
    assert!(reports().await.is_empty(), "nothing has changed");
    let (from, to) = (24 * (KNOWN + 14), 24 * (KNOWN + 28));
    for (device, warmer) in [("a", 3.0), ("b", 3.0), ("c", 0.0)] {
        send(store, device, (from, to), warmer).await;
    }
    for mut seen in [seen, Seen::new()] {
        check_all(store, &mut seen, &CancellationToken::new())
            .await
            .unwrap();
        assert_eq!(
            reports().await.len(),
            1,
            "told once, also by a hub that began anew"
        );
    }
    let report = &reports().await[0];
    assert_eq!((report.kind.as_str(), report.confirmed), ("inputs", true));
    assert!(
        report.report.get("panels").is_none(),
        "lists go without drawings"
    );
    let words = report.report["words"].as_str().unwrap();
    assert!(
        words.starts_with("temperature at 2 devices (")
            && words.contains("has moved up by 1")
            && words.ends_with("whether forecasts are worse is not known yet; no retraining"),
        "{words}"
    );
    let began = START + (KNOWN + 14) * DAY_MS;
    let apart = (report.onset.timestamp_millis() - began).abs();
    assert!(apart <= 2 * DAY_MS, "{} days", apart / DAY_MS);
    assert!(store.live_jobs().await.unwrap().is_empty());

    let dir = bed.dir.path().join("hub");
    let (hub, rest) = Process::serve(&dir, &bed.url("t"), &[]).await;
    hub.ready(&rest, 200).await;
    let page = http::get(&rest, &format!("/v1/drift-reports/{}/page", report.id)).await;
    assert_eq!(page.status, 200);
    assert!(
        page.text.contains("<svg") && page.text.contains("temperature of a"),
        "{}",
        page.text
    );
    let whole = http::get(&rest, &format!("/v1/drift-reports/{}", report.id))
        .await
        .json();
    assert_eq!(whole["report"]["panels"].as_array().unwrap().len(), 2);
    assert_eq!(
        http::get(&rest, "/v1/drift-reports/999/page").await.status,
        404
    );
    hub.stop().await;

    for device in ["a", "b", "c"] {
        send(store, device, (to, 24 * (KNOWN + 42)), 0.0).await;
    }
    check_all(store, &mut Seen::new(), &CancellationToken::new())
        .await
        .unwrap();
    let after = reports().await;
    assert_eq!(after.len(), 2);
    assert!(!after[0].confirmed, "{:?}", after[0].report["words"]);
    assert!(
        after[0].report["words"]
            .as_str()
            .unwrap()
            .contains("again as version 1")
    );
    inputs::report_all(store).await.unwrap();
}

/// A day of hourly forecasts whose widest interval has a width.
fn forecasts(day: i64, width: f64) -> Vec<RecordBody> {
    (0..24)
        .map(|hour| {
            RecordBody::Forecast(pb::Forecast {
                forecaster: "f".into(),
                origin_ms: START + day * DAY_MS + hour * HOUR_MS,
                period_ms: HOUR_MS,
                mean: vec![20.0; 6],
                quantile_levels: vec![0.1, 0.5, 0.9],
                quantiles: [20.0 - width / 2.0, 20.0, 20.0 + width / 2.0].repeat(6),
                made_by: "bundle".into(),
                bundle: vec![1; 32],
                model_version: 1,
                ..pb::Forecast::default()
            })
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_that_nobody_measured_are_estimated_and_checked_by_those_that_were() {
    let bed = fleet().await;
    let store = &bed.store;
    let champion = || async { store.champion("f").await.unwrap().unwrap() };
    let spec = store.forecaster("f").await.unwrap().unwrap().spec;
    let none = estimate::errors(store, &spec, &champion().await)
        .await
        .unwrap();
    assert!(none.is_none(), "this training left no measure");
    let widths = json!({"slope": 1.0, "scatter": 0.3, "width": 0.0, "error": 0.0, "days": 60, "devices": {"a": [4f64.ln(), 2.5f64.ln()]}});
    psql(
        &bed,
        &format!(
            "UPDATE model_versions SET manifest = '{}'",
            json!({"calibration": {"widths": widths}})
        ),
    );
    let mut ingestor = Ingestor::new(store.clone()).await.unwrap();
    // Ten days with actual values; then the target falls silent, and the intervals grow to twice their width.
    for day in KNOWN..KNOWN + 20 {
        let width = if day < KNOWN + 13 { 4.0 } else { 8.0 };
        let number = 100_000 + day as u64;
        let bytes = payload(epoch(97), number, number * 100_000, forecasts(day, width));
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
    let errors = estimate::errors(store, &spec, &champion().await)
        .await
        .unwrap()
        .unwrap();
    let ratio = errors.estimated_ratio.unwrap();
    assert!((ratio - 2.0).abs() < 0.2, "{}", errors.words);
    assert!(
        (4..=6).contains(&errors.unmeasured_days),
        "{}",
        errors.words
    );
    let kept = errors.kept.unwrap();
    assert!(
        kept.days >= 12 && (0.5..2.0).contains(&kept.ratio),
        "{kept:?}"
    );
    let first = &errors.days[0];
    assert!(
        first.measured.is_some() && (first.estimated.error - 2.5).abs() < 1e-9,
        "{first:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sketches_of_devices_merge_into_the_fleets() {
    let bed = bed().await;
    for (number, (device, from)) in [("a", 0), ("b", 1_000)].into_iter().enumerate() {
        add_device(&bed.store, device, None).await;
        let mut sketch = Sketch::default();
        (from..from + 1_000).for_each(|v| sketch.add(f64::from(v)));
        let stored = Stored::from(sketch);
        let record = |count| {
            RecordBody::Sketch(pb::SensorSketch {
                sensor: "t".into(),
                from_ms: START,
                to_ms: START + 7 * DAY_MS,
                count,
                left_out: 3,
                mean: stored.mean,
                squares: stored.squares,
                kll: stored.kll.clone(),
                ..pb::SensorSketch::default()
            })
        };
        // The second one is not what it says: it is rejected by itself.
        let bytes = payload(
            epoch(number as u128 + 1),
            1,
            1,
            vec![record(1_000), record(7)],
        );
        let mut ingestor = Ingestor::new(bed.store.clone()).await.unwrap();
        assert_eq!(
            ingestor
                .write(&[job(device, &bytes)])
                .await
                .unwrap()
                .acks
                .len(),
            1
        );
    }
    let dir = bed.dir.path().join("hub");
    let (hub, rest) = Process::serve(&dir, &bed.url("t"), &[]).await;
    hub.ready(&rest, 200).await;
    let all = http::get(&rest, "/v1/sketches?sensor=t").await.json();
    assert_eq!(all["sketches"], 2);
    assert_eq!(
        (&all["fleet"]["count"], &all["fleet"]["left_out"]),
        (&json!(2_000), &json!(6))
    );
    assert_eq!(
        (&all["fleet"]["min"], &all["fleet"]["max"]),
        (&json!(0.0), &json!(1_999.0))
    );
    assert_eq!(all["fleet"]["mean"], 999.5);
    let median = all["fleet"]["quantiles"][4][1].as_f64().unwrap();
    assert!((median - 1_000.0).abs() < 50.0, "{median}");
    assert_eq!(all["devices"]["b"]["count"], 1_000);
    let none = http::get(&rest, "/v1/sketches?sensor=t&from=2030-01-01T00:00:00Z")
        .await
        .json();
    assert_eq!(
        (&none["sketches"], &none["fleet"]["count"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(
        http::get(&rest, "/v1/sketches?sensor=t&from=yesterday")
            .await
            .status,
        422
    );
    hub.stop().await;
}
