//! An experiment as people run it: a real hub with its broker, a made fleet, two trained versions, and a report in the end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod support;

use std::time::{Duration, Instant};

use fieldcast_drift::arms::Arm;
use fieldcast_hub::experiment::assign::arm;
use fieldcast_hub::experiment::machine::Status;
use fieldcast_hub::ingest::Ingestor;
use fieldcast_store::measures::{MeasureRow, Span};
use fieldcast_store::time::timestamp;
use fieldcast_wire::{Reading, RecordBody, pb};
use serde_json::{Value, json};
use support::fleet::{Going, LONG, model, reach, trained};
use support::process::{self, Process};
use support::{Bed, add_device, bed, epoch, http, job, payload, psql};

const HOUR: i64 = 3_600_000;
const DAYS: i64 = 10;

/// A command of the hub that must succeed; its JSON.
fn told(bed: &Bed, args: &str) -> Value {
    let dir = bed.dir.path().join("hub");
    let args = format!("--json {args}");
    let args: Vec<&str> = args.split_whitespace().collect();
    let out = process::run(&dir, &bed.url("t"), &args);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    serde_json::from_slice(&out.stdout).unwrap()
}

fn refused(bed: &Bed, args: &str) -> String {
    let dir = bed.dir.path().join("hub");
    let args: Vec<&str> = args.split_whitespace().collect();
    process::refused(&dir, &bed.url("t"), &args)
}

/// What devices use in the ten days until now: as large as the device is, and less where B steers it.
async fn use_energy(rest: &str, names: &[String], steered: impl Fn(&str) -> f64) {
    let end = fieldcast_hub::clock::now().timestamp_millis();
    for name in names {
        let i: f64 = name.bytes().map(f64::from).sum();
        let size = 20.0 + 5.0 * (i * 0.618).fract();
        let value = |h: i64| size + 0.3 * ((i + h as f64) * 0.755).fract() - steered(name);
        let readings: Vec<Value> = (1..DAYS * 24)
            .map(|h| json!({"sensor": "energy", "time": end - h * HOUR, "value": value(h)}))
            .collect();
        let path = format!("/v1/readings?device={name}");
        let answer = http::post(rest, &path, &json!({"readings": readings})).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.json()["rejected"], json!([]));
    }
}

/// The experiment moves into the past.
fn passes(bed: &Bed, days: i64) {
    let span = format!("interval '{days} days'");
    psql(
        bed,
        &format!(
            "UPDATE experiments SET started_at = started_at - {span}, ends_at = ends_at - {span};
             UPDATE experiment_devices SET joined_at = joined_at - {span}"
        ),
    );
}

/// What was measured until now moves into the past.
fn readings_pass(bed: &Bed, days: i64) {
    let span = format!("interval '{days} days'");
    psql(
        bed,
        &format!("UPDATE json_readings SET time = time - {span}"),
    );
}

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let until = Instant::now() + LONG;
    while !holds().await {
        assert!(Instant::now() < until, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_versions_on_a_fleet_for_ten_days_end_in_a_report_with_effect_interval_and_sample_size()
{
    let bed = bed().await;
    let store = &bed.store;
    let (dir, url) = (bed.dir.path().join("hub"), bed.url("t"));
    let (hub, rest) = Process::serve(&dir, &url, &[]).await;
    hub.ready(&rest, 200).await;
    model(store).await;
    trained(store, 2).await;
    let no_rollout = async || store.open_rollouts().await.unwrap().is_empty();
    until("no rollout is open", no_rollout).await;
    let pace = "--batch-every 500ms --rate 4 --speed 36000 --sensors 2";
    let fleet = Going::start(&dir, &url, &format!("--devices 16 --prefix x- {pace}"));
    reach(store, "x-", 16, "healthy").await;
    let mut names: Vec<String> = (1..=16).map(|n| format!("x-{n:05}")).collect();
    use_energy(&rest, &names, |_| 0.0).await;

    let begun = "experiment start --forecaster f --a 1 --b 2 --days 10 --sensor energy --by ann --reason less";
    let begun = told(&bed, begun);
    let id = begun["experiment"].as_i64().unwrap();
    assert_eq!(begun["foreseen"]["devices"], 16);
    assert!(
        begun["foreseen"]["detectable"].as_f64().unwrap() > 0.5,
        "{begun}"
    );
    let said = refused(&bed, "rollout start f 2 --by ann");
    assert!(said.contains(&format!("experiment {id} of `f`")), "{said}");
    // Two more come a little later.
    let late = Going::start(&dir, &url, &format!("--devices 8 --prefix late- {pace}"));
    reach(store, "late-", 8, "healthy").await;
    names.extend((1..=8).map(|n| format!("late-{n:05}")));
    use_energy(&rest, &names[16..], |_| 0.0).await;
    let version = |name: &str| i64::from(arm(id, name, 0.5) == Arm::B) + 1;
    let runs = async |wanted: &dyn Fn(&str) -> i64| {
        for name in &names {
            let state = store.device_state(name).await.unwrap().unwrap();
            let f = &state["forecasters"][0];
            if f["phase"] != "healthy" || f["model_version"] != json!(wanted(name)) {
                return false;
            }
        }
        true
    };
    until("every device runs what it drew", async || {
        runs(&version).await
    })
    .await;
    let in_b = names.iter().filter(|n| version(n) == 2).count();
    assert!((6..=18).contains(&in_b), "{in_b}");
    let shown = http::get(&rest, &format!("/v1/experiments/{id}"))
        .await
        .json();
    assert_eq!(
        (&shown["status"], &shown["report"]["decides"]),
        (&json!("running"), &json!(false))
    );
    let again = http::get(&rest, &format!("/v1/experiments/{id}"))
        .await
        .json();
    assert!(again["report"]["made_at"].is_string(), "{again}");
    assert_eq!(
        again["report"]["made_at"], shown["report"]["made_at"],
        "it is not made anew each time somebody looks"
    );

    // Ten days later: with B a device uses two less.
    passes(&bed, DAYS);
    readings_pass(&bed, DAYS);
    let saved = |name: &str| if version(name) == 2 { 2.0 } else { 0.0 };
    use_energy(&rest, &names, saved).await;
    until("every device is back", async || runs(&|_| 1).await).await;
    let shown = http::get(&rest, &format!("/v1/experiments/{id}"))
        .await
        .json();
    assert_eq!(shown["status"], "collecting");
    assert!(
        shown["report"]["note"]
            .as_str()
            .unwrap()
            .contains("not for deciding")
    );
    passes(&bed, 1);
    let kept = async || {
        store
            .experiment(id)
            .await
            .unwrap()
            .unwrap()
            .0
            .report
            .is_some()
    };
    until("the report is kept", kept).await;

    let shown = told(&bed, &format!("experiment show {id}"));
    let (report, devices) = (&shown["report"], &shown["devices"]);
    assert_eq!(shown["experiment"]["status"], "ended");
    assert_eq!(report["decides"], true, "{report}");
    assert_eq!(report["b"]["measured"]["devices"], in_b);
    assert_eq!(report["a"]["measured"]["devices"], names.len() - in_b);
    assert_eq!(
        (&report["a"]["lost"], &report["b"]["lost"]),
        (&json!(0), &json!(0))
    );
    let effect = |key: &str| report["effect"][key].as_f64().unwrap();
    assert!(effect("lower") < -2.0 && -2.0 < effect("upper"), "{report}");
    assert!(effect("upper") < -1.0 && effect("p") < 0.001, "{report}");
    assert!(effect("explained") > 0.3, "{report}");
    let listed = format!("/v1/experiments/{id}/devices?limit=1000");
    let listed = http::get(&rest, &listed).await.json();
    assert_eq!(&listed["items"], devices);
    for device in devices.as_array().unwrap() {
        let name = device["device"].as_str().unwrap();
        assert_eq!(
            device["arm"],
            if version(name) == 2 { "b" } else { "a" },
            "{device}"
        );
    }
    // No title has moved.
    assert_eq!(store.champion("f").await.unwrap().unwrap().version, 1);
    let models = http::get(&rest, "/v1/models?forecaster=f").await.json();
    let challengers = models["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|m| m["challenger"] == true);
    assert_eq!(challengers.count(), 0, "{models}");
    let list = http::get(&rest, "/v1/experiments?forecaster=f")
        .await
        .json();
    assert_eq!(
        (list["items"].as_array().unwrap().len(), &list["next"]),
        (1, &Value::Null)
    );
    let metrics = http::get(&rest, "/metrics").await.text;
    for status in Status::ALL {
        let count = u8::from(status == Status::Ended);
        let line = format!(
            "fieldcast_experiments{{status=\"{}\"}} {count}",
            status.as_str()
        );
        assert!(metrics.contains(&line), "{line}");
    }
    over_rest(&rest).await;
    for fleet in [fleet, late] {
        let told = fleet.end();
        assert_eq!(told["fleet"]["disobeyed"], 0, "{told}");
    }
    hub.stop().await;
}

/// The same things over REST: started with errors of forecasts as the outcome, refused, stopped.
async fn over_rest(rest: &str) {
    let new = json!({"forecaster": "f", "a": 1, "b": 2, "days": 14, "by": "ann"});
    let started = http::post(rest, "/v1/experiments", &new).await;
    assert_eq!(started.status, 201, "{}", started.text);
    let id = started.json()["experiment"].as_i64().unwrap();
    let again = http::post(rest, "/v1/experiments", &new).await.problem(409);
    assert!(again.contains(&format!("experiment {id}")), "{again}");
    let mut wrong = new.clone();
    wrong["share"] = json!(2);
    http::post(rest, "/v1/experiments", &wrong)
        .await
        .problem(422);
    let stop = format!("/v1/experiments/{id}/stop");
    let ann = json!({"by": "ann", "reason": "enough"});
    assert_eq!(http::post(rest, &stop, &ann).await.status, 202);
    let stopped = async || {
        let shown = http::get(rest, &format!("/v1/experiments/{id}"))
            .await
            .json();
        shown["status"] == "stopped" && shown["reason"] == "stopped by ann: enough"
    };
    until("it has stopped", stopped).await;
    http::post(rest, &stop, &ann).await.problem(404);
    http::get(rest, "/v1/experiments/99").await.problem(404);
}

/// 2026-03-01.
const JOINED: i64 = 1_772_323_200_000;

/// A summary of errors of `f` from so many hours after a device joined.
fn errors(
    from: i64,
    to: i64,
    (count, mean): (u32, f64),
    naive: Option<f64>,
) -> pb::ResidualSummary {
    pb::ResidualSummary {
        forecaster: "f".into(),
        made_by: "ridge".into(),
        from_ms: JOINED + from * HOUR,
        to_ms: JOINED + to * HOUR,
        count,
        mean_abs_error: mean,
        mean_squared_error: mean * mean,
        naive_mean_abs_error: naive,
        ..pb::ResidualSummary::default()
    }
}

fn energy(hours: f64, value: f64, quality: u8) -> RecordBody {
    RecordBody::Reading(Reading {
        sensor: "energy".into(),
        time: JOINED + (hours * HOUR as f64) as i64,
        value,
        quality,
        time_source: pb::TimeSource::External,
    })
}

#[tokio::test]
async fn a_device_is_measured_in_its_time_and_before_it_joined_and_nowhere_between() {
    let bed = bed().await;
    let store = &bed.store;
    for name in ["a", "b"] {
        add_device(store, name, None).await;
    }
    let shadow = pb::ResidualSummary {
        shadow: true,
        ..errors(-48, -24, (90, 50.0), Some(50.0))
    };
    let other = pb::ResidualSummary {
        forecaster: "g".into(),
        ..errors(48, 72, (90, 50.0), Some(50.0))
    };
    let summaries = [
        errors(-270, -246, (90, 50.0), Some(50.0)),
        errors(-72, -48, (10, 2.0), Some(4.0)),
        errors(-48, -24, (30, 4.0), None),
        errors(-12, 12, (90, 50.0), Some(50.0)),
        errors(12, 36, (90, 50.0), Some(50.0)),
        errors(24, 48, (10, 6.0), Some(50.0)),
        errors(48, 72, (30, 10.0), None),
        errors(228, 252, (90, 50.0), Some(50.0)),
        shadow,
        other,
    ];
    let readings = [
        energy(-241.0, 900.0, 0),
        // Two in one hour count as much as one in the next.
        energy(-3.9, 10.0, 0),
        energy(-3.6, 20.0, 1),
        energy(-2.5, 25.0, 0),
        energy(5.0, 900.0, 0),
        energy(24.0, 30.0, 0),
        energy(30.0, 900.0, 2),
        energy(40.0, 40.0, 0),
        energy(240.0, 900.0, 0),
    ];
    let records = summaries
        .map(RecordBody::Residual)
        .into_iter()
        .chain(readings);
    let bytes = payload(epoch(1), 1, 1, records.collect());
    let mut ingestor = Ingestor::new(store.clone()).await.unwrap();
    let written = ingestor.write(&[job("a", &bytes)]).await.unwrap();
    assert_eq!(written.acks[0].1.rejected, []);
    let mut span = Span {
        forecaster: "f",
        sensor: None,
        before_hours: 240,
        settle_hours: 24,
        until: timestamp(JOINED + 240 * HOUR),
    };
    let joined = [timestamp(JOINED); 2];
    let row = |device: &str, after, before, naive| MeasureRow {
        device: device.into(),
        after,
        before,
        naive,
    };
    let found = store.measure(&span, (&["a", "b"], &joined)).await.unwrap();
    let nothing = row("b", None, None, None);
    assert_eq!(
        found,
        [row("a", Some(9.0), Some(3.5), Some(4.0)), nothing.clone()]
    );
    span.sensor = Some("energy");
    let found = store.measure(&span, (&["a", "b"], &joined)).await.unwrap();
    assert_eq!(found, [row("a", Some(35.0), Some(20.0), None), nothing]);
}
