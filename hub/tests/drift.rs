//! What devices say of their inputs and errors, at a real hub: it is stored, shown and counted, and trains only what it should.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod support;

use std::collections::HashMap;

use fieldcast_hub::drift::{check_all, inputs, verdict::Rules};
use fieldcast_hub::ingest::Ingestor;
use fieldcast_store::Store;
use fieldcast_wire::{RecordBody, pb};
use serde_json::json;
use support::process::Process;
use support::{
    Bed, add_device, bed, deadline, define, epoch, http, job, on_trial, payload, psql, reading,
    register,
};

const JAN_2026: i64 = 1_767_225_600_000;
const DAY_MS: i64 = 86_400_000;

fn signal(kind: pb::DriftKind, detector: &str, raised: bool) -> RecordBody {
    RecordBody::Drift(pb::DriftSignal {
        kind: kind as i32,
        forecaster: "f".into(),
        sensor: "outside".into(),
        detector: detector.into(),
        statistic: 31.0,
        threshold: 27.0,
        severity: -2.25,
        time_ms: JAN_2026 + 20 * DAY_MS,
        onset_ms: JAN_2026,
        raised,
        model_version: 1,
        data_count: 20,
        ..pb::DriftSignal::default()
    })
}

async fn take(store: &Store, number: u64, records: Vec<RecordBody>) {
    let bytes = payload(epoch(1), number, number * 100, records);
    let mut ingestor = Ingestor::new(store.clone()).await.unwrap();
    let written = ingestor.write(&[job("a", &bytes)]).await.unwrap();
    assert_eq!(written.acks.len(), 1);
}

#[tokio::test]
async fn a_change_of_inputs_is_told_once_and_never_trains() {
    let bed = bed().await;
    let store = &bed.store;
    add_device(store, "a", None).await;
    define(store, "f", json!({})).await;
    register(store, "f", 1).await;
    on_trial(&bed, "f", 1);
    let covariate = pb::DriftKind::Covariate;
    let records = vec![
        reading("demand", JAN_2026 + 30 * DAY_MS, 1.0),
        signal(covariate, "cusum_daily_mean", true),
        signal(covariate, "cusum_daily_spread", true),
        signal(covariate, "cusum_daily_spread", false),
    ];
    take(store, 1, records).await;
    let decisions = store.decisions(None, None, 10).await.unwrap().len();
    let mut seen = HashMap::new();
    for _ in 0..2 {
        inputs::report_all(store).await.unwrap();
        check_all(store, &Rules::default(), &mut seen, true)
            .await
            .unwrap();
    }
    let reports = store.drift_reports(None, None, None, 10).await.unwrap();
    assert_eq!(reports.len(), 2, "one for each that was raised");
    for report in &reports {
        assert_eq!(
            (report.kind.as_str(), report.confirmed, report.model_version),
            ("covariate", false, 1)
        );
        let words = report.report["words"].as_str().unwrap();
        assert!(
            words.contains("outside of a") && words.contains("-2.2"),
            "{words}"
        );
    }
    let mut gauges = Vec::new();
    store.gauges(&mut gauges).await.unwrap();
    let value = |name: &str| gauges.iter().find(|g| g.0 == name).unwrap().2.clone();
    assert_eq!(
        value("fieldcast_drift_reports"),
        [("{kind=\"covariate\",confirmed=\"false\"}".to_owned(), 2.0)]
    );
    assert_eq!(
        value("fieldcast_drifting_inputs"),
        [("{forecaster=\"f\"}".to_owned(), 1.0)]
    );
    let after = store.decisions(None, None, 10).await.unwrap().len();
    assert_eq!(after, decisions, "nothing is decided");
    assert!(store.live_jobs().await.unwrap().is_empty());
    // The same words about its errors are looked into at once (this model has no calibration to look with).
    take(
        store,
        2,
        vec![signal(pb::DriftKind::Concept, "cusum_log_mae", true)],
    )
    .await;
    check_all(store, &Rules::default(), &mut seen, true)
        .await
        .unwrap();
    assert!(seen.contains_key("f"), "looked into");
}

#[tokio::test]
async fn a_running_hub_shows_it() {
    let bed = bed().await;
    add_device(&bed.store, "a", None).await;
    define(&bed.store, "f", json!({})).await;
    let dir = bed.dir.path().join("hub");
    let (hub, rest) = Process::serve(&dir, &bed.url("t"), &[]).await;
    hub.ready(&rest, 200).await;
    let raised = signal(pb::DriftKind::Covariate, "cusum_daily_mean", true);
    take(&bed.store, 1, vec![raised]).await;
    let until = deadline();
    let report = loop {
        let page = http::get(&rest, "/v1/drift-reports?forecaster=f").await;
        if let Some(report) = page.json()["items"].get(0) {
            break report.clone();
        }
        assert!(std::time::Instant::now() < until, "{}", page.text);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert_eq!(report["kind"], "covariate");
    assert_eq!(report["report"]["signals"][0]["sensor"], "outside");
    let metrics = http::get(&rest, "/metrics").await.text;
    assert!(
        metrics.contains("fieldcast_drift_reports{kind=\"covariate\",confirmed=\"false\"} 1"),
        "{metrics}"
    );
    hub.stop().await;
}

/// Hours of a constant target on one device, each with a forecast of a model version that is off by so much, where there is one.
async fn forecast(
    store: &Store,
    device: &str,
    hours: std::ops::Range<i64>,
    said: impl Fn(i64) -> Option<(u64, f64)>,
) {
    let hour_ms = DAY_MS / 24;
    let mut records = Vec::new();
    let first = u64::try_from(hours.start).unwrap() + 1;
    for hour in hours {
        let time = JAN_2026 + hour * hour_ms;
        records.push(reading("demand", time, 20.0));
        let Some((model_version, error)) = said(hour) else {
            continue;
        };
        records.push(RecordBody::Forecast(pb::Forecast {
            forecaster: "f".into(),
            origin_ms: time,
            period_ms: hour_ms,
            mean: vec![20.0 + error; 6],
            made_by: "bundle".into(),
            bundle: vec![1; 32],
            model_version,
            ..pb::Forecast::default()
        }));
    }
    let own = epoch(u128::from(device.as_bytes()[0]));
    let bytes = payload(own, first, first * 10_000, records);
    let mut ingestor = Ingestor::new(store.clone()).await.unwrap();
    let written = ingestor.write(&[job(device, &bytes)]).await.unwrap();
    assert_eq!(written.acks.len(), 1);
}

/// As if what has been told was told a day of data ago.
fn a_day_later(bed: &Bed) {
    psql(
        bed,
        "UPDATE drift_reports SET data_time = data_time - interval '1 day'",
    );
}

/// An error that is usual on a day.
fn usual(hour: i64) -> f64 {
    1.0 + 0.05 * (hour / 24 % 3 - 1) as f64
}

/// Version 1 of `f` knows three devices and how wrong it is on them.
fn promise(bed: &Bed) {
    let levels = json!({"a": 0.0, "b": 0.0, "c": 0.0});
    let bias = json!({"std": 0.1, "lag1": 0.0, "fleet_std": 0.1, "levels": levels});
    let daily = json!({"mean": 0.0, "between": 0.1, "std": 0.2, "lag1": 0.0, "fleet_std": 0.1, "days": 60,
        "levels": levels, "bias": bias});
    let manifest = json!({"calibration": {"daily": daily}});
    let lineage = json!({"data_until": JAN_2026});
    psql(
        bed,
        &format!("UPDATE model_versions SET manifest = '{manifest}', lineage = '{lineage}'"),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn forecasts_that_are_too_high_for_good_retrain_though_their_errors_are_no_larger() {
    let bed = bed().await;
    let store = &bed.store;
    define(store, "f", json!({})).await;
    register(store, "f", 1).await;
    on_trial(&bed, "f", 1);
    promise(&bed);
    // Too high and too low in turn by as much, then by more and by less.
    let error = |hour: i64| {
        let side = if hour % 2 == 0 { 1.0 } else { -1.0 };
        let shift = if hour >= 25 * 24 { 0.7 } else { 0.0 };
        side * usual(hour) + shift
    };
    for device in ["a", "b", "c"] {
        add_device(store, device, None).await;
    }
    let mut seen = HashMap::new();
    let mut told = Vec::new();
    for hours in [0..24 * 24, 24 * 24..50 * 24] {
        for device in ["a", "b", "c"] {
            forecast(store, device, hours.clone(), |hour| Some((1, error(hour)))).await;
        }
        // Nobody complains.
        check_all(store, &Rules::default(), &mut seen, true)
            .await
            .unwrap();
        told.push(store.drift_reports(None, None, None, 10).await.unwrap());
    }
    assert!(told[0].is_empty(), "{:?}", told[0]);
    let report = &told[1][0];
    let onset = (report.onset.timestamp_millis() - JAN_2026) / DAY_MS;
    assert!(report.confirmed && (24..=26).contains(&onset), "{onset}");
    let bias = report.report["bias"]["mean"].as_f64().unwrap();
    assert!((-0.75..-0.65).contains(&bias), "{bias}");
    let decision = store.decisions(Some("f"), None, 1).await.unwrap().remove(0);
    assert_eq!(decision.decision, "retrain", "{}", decision.reason);
    for word in [
        "forecasts are too high by 0.7",
        "the error is 1.0",
        "a, b, c",
    ] {
        assert!(decision.reason.contains(word), "{}", decision.reason);
    }
    assert_eq!(store.live_jobs().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn forecasts_from_windows_that_fill_up_confirm_nothing() {
    let bed = bed().await;
    let store = &bed.store;
    define(store, "f", json!({"lookback": 14 * 24})).await;
    register(store, "f", 1).await;
    on_trial(&bed, "f", 1);
    promise(&bed);
    // A month of history was imported; the devices begin without it. A week later the model has half of its window, and errs
    // until that is full.
    let begin = 30 * 24;
    let (half, full) = (begin + 7 * 24, begin + 12 * 24);
    let error = |hour: i64| usual(hour) * if hour < full { 4.0 } else { 1.0 };
    let said = |hour: i64| (hour >= begin).then(|| (u64::from(hour >= half), error(hour)));
    for device in ["a", "b", "c"] {
        add_device(store, device, None).await;
        forecast(store, device, 0..half + 9 * 24, said).await;
    }
    let mut raised = signal(pb::DriftKind::Concept, "cusum_log_mae", true);
    if let RecordBody::Drift(signal) = &mut raised {
        signal.onset_ms = JAN_2026 + 38 * DAY_MS;
        signal.time_ms = JAN_2026 + 40 * DAY_MS;
    }
    take(store, 1_000_000, vec![raised]).await;
    let confirmed = async || {
        let rules = Rules::default();
        check_all(store, &rules, &mut HashMap::new(), false)
            .await
            .unwrap();
        let report = store.drift_reports(None, None, None, 1).await.unwrap();
        (report[0].confirmed, report[0].report["words"].clone())
    };
    let (yes, words) = confirmed().await;
    assert!(!yes && words.to_string().contains("are needed"), "{words}");
    // What comes from full windows is judged as ever.
    let from = half + 9 * 24;
    for device in ["a", "b", "c"] {
        forecast(store, device, from..from + 10 * 24, |hour| {
            Some((1, 4.0 * usual(hour)))
        })
        .await;
    }
    let (yes, words) = confirmed().await;
    assert!(yes, "{words}");
}

/// Forty days of three devices, with errors to both sides that are four times the usual from the nineteenth on.
async fn three_grow_worse(store: &Store) {
    for device in ["a", "b", "c"] {
        add_device(store, device, None).await;
        forecast(store, device, 0..40 * 24, |hour| {
            let side = if hour % 2 == 0 { 1.0 } else { -1.0 };
            let worse = hour >= 18 * 24;
            Some((1, side * usual(hour) * if worse { 4.0 } else { 1.0 }))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_broken_sensors_gave_is_no_error_of_the_model() {
    let bed = bed().await;
    let store = &bed.store;
    define(store, "f", json!({})).await;
    register(store, "f", 1).await;
    on_trial(&bed, "f", 1);
    promise(&bed);
    three_grow_worse(store).await;
    psql(
        &bed,
        r#"UPDATE forecasters SET retraining = '{"a_day": 0}'"#,
    );
    let raised = signal(pb::DriftKind::Concept, "cusum_log_mae", true);
    take(store, 30, vec![raised]).await;
    let confirmed = async || {
        let rules = Rules::default();
        check_all(store, &rules, &mut HashMap::new(), false)
            .await
            .unwrap();
        let report = store.drift_reports(None, None, None, 1).await.unwrap();
        (report[0].confirmed, report[0].report["words"].clone())
    };
    let (yes, words) = confirmed().await;
    assert!(yes, "{words}");
    let (from, to) = (JAN_2026 + 18 * DAY_MS, JAN_2026 + 40 * DAY_MS);
    psql(
        &bed,
        &format!(
            "INSERT INTO drift_signals (device, kind, forecaster, sensor, detector, statistic, threshold, severity, time, onset, raised,
                model_version, data_count)
             SELECT d, 'sensor', '', 'demand', 'unit_change', 0, 0, 0, to_timestamp({to} / 1000.0), to_timestamp({from} / 1000.0), false, 0, 0
             FROM unnest('{{a,b,c}}'::text[]) d"
        ),
    );
    a_day_later(&bed);
    let (yes, words) = confirmed().await;
    assert!(!yes, "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_device_alone_retrains_nobody_and_is_named() {
    let bed = bed().await;
    let store = &bed.store;
    define(store, "f", json!({})).await;
    register(store, "f", 1).await;
    on_trial(&bed, "f", 1);
    promise(&bed);
    for device in ["a", "b", "c"] {
        add_device(store, device, None).await;
        let alone = device == "c";
        forecast(store, device, 0..40 * 24, |hour| {
            let changed = alone && hour >= 18 * 24;
            Some((1, usual(hour) * if changed { 4.0 } else { 1.0 }))
        })
        .await;
    }
    take(
        store,
        30,
        vec![signal(pb::DriftKind::Concept, "cusum_log_mae", true)],
    )
    .await;
    let checked = async || {
        let rules = Rules::default();
        check_all(store, &rules, &mut HashMap::new(), false)
            .await
            .unwrap();
        store.decisions(Some("f"), None, 1).await.unwrap().remove(0)
    };
    let refused = checked().await;
    assert_eq!(refused.decision, "refused", "{}", refused.reason);
    for word in [
        "`c`",
        "the other 2 devices are 1.0",
        "50.0 %",
        "max_device_share",
    ] {
        assert!(refused.reason.contains(word), "{}", refused.reason);
    }
    assert!(refused.job.is_none() && refused.drift_report.is_some());
    assert!(store.live_jobs().await.unwrap().is_empty());
    // A hub that begins anew knows what was told, and tells it again with the next day of data.
    assert_eq!(checked().await.id, refused.id);
    let reports = async || store.drift_reports(None, None, None, 10).await.unwrap();
    assert_eq!(reports().await.len(), 1);
    a_day_later(&bed);
    assert_ne!(checked().await.id, refused.id);
    assert_eq!(reports().await.len(), 2);
    // A fleet for which one device may speak is trained for it.
    psql(
        &bed,
        r#"UPDATE forecasters SET retraining = '{"max_device_share": 1.0}'"#,
    );
    // As if the hub had died before the decision was written: nothing is begun without it.
    psql(
        &bed,
        "ALTER TABLE decisions ADD CONSTRAINT dead CHECK (decision <> 'retrain')",
    );
    a_day_later(&bed);
    assert_eq!(checked().await.decision, "refused");
    assert!(store.live_jobs().await.unwrap().is_empty());
    psql(&bed, "ALTER TABLE decisions DROP CONSTRAINT dead");
    let retrained = checked().await;
    assert_eq!(retrained.decision, "retrain", "{}", retrained.reason);
    assert_eq!(store.live_jobs().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_shall_not_ask_keep_the_hub_from_finding_nothing() {
    let bed = bed().await;
    let store = &bed.store;
    define(store, "f", json!({})).await;
    register(store, "f", 1).await;
    on_trial(&bed, "f", 1);
    promise(&bed);
    three_grow_worse(store).await;
    psql(
        &bed,
        r#"UPDATE forecasters SET retraining = '{"drift": false}'"#,
    );
    let raised = signal(pb::DriftKind::Concept, "cusum_log_mae", true);
    take(store, 30, vec![raised]).await;
    let checked = async |unasked: bool| {
        let mut seen = HashMap::new();
        check_all(store, &Rules::default(), &mut seen, unasked)
            .await
            .unwrap();
    };
    checked(false).await;
    let told = store.drift_reports(None, None, None, 10).await.unwrap();
    assert!(told.is_empty(), "a device asked: {told:?}");
    checked(true).await;
    let told = store.decisions(Some("f"), None, 1).await.unwrap().remove(0);
    assert_eq!(told.decision, "retrain", "{}", told.reason);
    let jobs = store.live_jobs().await.unwrap();
    assert_eq!(jobs[0].payload["trigger"], "error");
}
