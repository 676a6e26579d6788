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
use serde_json::{Value, json};
use support::fleet::{Going, LONG, model, reach, trained};
use support::process::{self, Process};
use support::{Bed, bed, http, psql};

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
    let now = Instant::now();
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
    assert!(now.elapsed() < LONG);
}

/// The experiment moves into the past, and with it what was measured until now; a day more takes the first day of its time, in
/// which nothing is measured, into what is before.
fn passes(bed: &Bed, days: i64) {
    let span = format!("interval '{days} days'");
    psql(
        bed,
        &format!(
            "UPDATE experiments SET started_at = started_at - {span}, ends_at = ends_at - {span};
             UPDATE experiment_devices SET joined_at = joined_at - {span};
             UPDATE json_readings SET time = time - {span} WHERE {days} = {DAYS}"
        ),
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
    let said = refused(&bed, "rollout start f 2");
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

    // Ten days later: with B a device uses two less.
    passes(&bed, DAYS);
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
