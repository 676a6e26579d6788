//! The REST interface of a real hub over a real PostgreSQL: paging, filters, refusals, and what a push sets off.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod support;

use std::process::Command;

use fieldcast_postgres::Binaries;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use serde_json::{Value, json};
use support::mosquitto::{Mosquitto, available};
use support::process::{Process, refused, run};
use support::{Bed, bed, deadline, free_port, http};

/// Five of everything that is listed.
const ROWS: &str = r#"
INSERT INTO devices (id) SELECT 'd' || i FROM generate_series(1, 5) i;
INSERT INTO forecasters (name, version, spec) SELECT 'f' || i, 1, jsonb_build_object('name', 'f' || i, 'target', 'y',
    'inputs', '["y"]'::jsonb, 'period', '1h', 'lookback', 24, 'horizon', 4) FROM generate_series(1, 5) i;
INSERT INTO bundles (sha, bytes) VALUES ('\x01', '\x02');
INSERT INTO jobs (kind, subject, payload, status, finished_at)
    SELECT 'train', 'f1', '{}', 'succeeded', now() FROM generate_series(1, 5);
INSERT INTO training_runs (id, forecaster, spec_version, trigger, reason, snapshot_at, seed, code_version)
    SELECT id, 'f1', 1, 'person', 'r', now(), 1, 'c' FROM jobs;
INSERT INTO model_versions (forecaster, version, bundle, manifest, metrics, lineage)
    SELECT 'f1', i, '\x01', '{}', '{}', '{}' FROM generate_series(1, 5) i;
INSERT INTO drift_reports (forecaster, model_version, onset, data_time, confirmed, report)
    SELECT 'f1', 1, now(), now(), i % 2 = 1, '{}' FROM generate_series(1, 5) i;
INSERT INTO decisions (forecaster, decision, reason, decided_by)
    SELECT 'f1', 'wait', 'r', 't' FROM generate_series(1, 5);
INSERT INTO rollouts (forecaster, model_version, status, reason, machine, created_by, finished_at)
    SELECT 'f1', i, 'done', 'r', '{}', 't', now() FROM generate_series(1, 5) i;
INSERT INTO deployments (rollout, device, state, reason, generation, machine)
    SELECT 5, 'd' || i, 'pending', '', 0, '{}' FROM generate_series(1, 5) i;
INSERT INTO experiments (forecaster, version_a, version_b, share_b, labels, days, settle_hours, foreseen, created_by)
    VALUES ('f1', 1, 2, 0.5, '{}', 1, 0, '{}', 't');
INSERT INTO experiment_devices (experiment, device, arm, generation, state, reason)
    SELECT 1, 'd' || i, 'a', 1, 'pending', '' FROM generate_series(1, 5) i;
INSERT INTO alarms (device, source, code, sensor, time, message, raised)
    SELECT 'd' || (1 + i % 2), 'hub', 'clone', '', now(), 'm', true FROM generate_series(1, 5) i;
INSERT INTO gaps (device, kind, epoch, first_seq, last_seq, reason)
    SELECT 'd1', 'buffer_full', gen_random_uuid(), i, i, 'full' FROM generate_series(1, 5) i;
INSERT INTO forecasts (device, forecaster, origin, period_ms, mean, levels, quantiles, made_by, bundle, model_version,
    shadow) SELECT 'd1', 'f1', now(), 1, '{1}', '{}', '{}', 'ridge', '', 0, false FROM generate_series(1, 5);
INSERT INTO sensors (device, name) VALUES ('d1', 'y');
INSERT INTO json_readings (sensor, time, value)
    SELECT s.id, '2026-01-01'::timestamptz + i * interval '1 hour', i FROM sensors s, generate_series(1, 5) i;
"#;

fn fill(bed: &Bed) {
    let psql = Binaries::find().unwrap().program("psql");
    let out = Command::new(psql)
        .arg(bed.url("t"))
        .args(["-q", "-v", "ON_ERROR_STOP=1", "-c", ROWS])
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

/// All items by pages of two, and how many pages they took.
async fn walk(rest: &str, path: &str) -> (Vec<Value>, usize) {
    let (mut items, mut pages, mut cursor) = (Vec::new(), 0, String::new());
    let joint = if path.contains('?') { '&' } else { '?' };
    loop {
        let answer = http::get(rest, &format!("{path}{joint}limit=2{cursor}")).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        let page = answer.json();
        items.extend(page["items"].as_array().unwrap().iter().cloned());
        pages += 1;
        let Some(next) = page["next"].as_str() else {
            return (items, pages);
        };
        cursor = format!("&cursor={next}");
    }
}

#[tokio::test]
async fn every_list_pages_filters_and_refuses() {
    let bed = bed().await;
    fill(&bed);
    let dir = bed.dir.path().join("hub");
    let (hub, rest) = Process::serve(&dir, &bed.url("t"), &[]).await;
    hub.ready(&rest, 200).await;
    let named = [
        ("devices", "id", "d"),
        ("forecasters", "name", "f"),
        ("rollouts/5/devices", "device", "d"),
        ("experiments/1/devices", "device", "d"),
    ];
    for (list, key, letter) in named {
        let (items, pages) = walk(&rest, &format!("/v1/{list}")).await;
        let names: Vec<Value> = items.iter().map(|i| i[key].clone()).collect();
        let expected: Vec<Value> = (1..=5).map(|i| json!(format!("{letter}{i}"))).collect();
        assert_eq!((names, pages), (expected, 3), "{list}");
    }
    let counting = [
        ("models", "version"),
        ("training-runs", "id"),
        ("drift-reports", "id"),
        ("decisions", "id"),
        ("rollouts", "id"),
        ("alarms", "id"),
        ("gaps", "id"),
    ];
    for (list, key) in counting {
        let (items, pages) = walk(&rest, &format!("/v1/{list}")).await;
        let numbers: Vec<Value> = items.iter().map(|i| i[key].clone()).collect();
        let expected: Vec<Value> = (1..=5).rev().map(|i| json!(i)).collect();
        assert_eq!((numbers, pages), (expected, 3), "{list}");
        // A page that is full and the last one says that it is the last one.
        let exact = http::get(&rest, &format!("/v1/{list}?limit=5"))
            .await
            .json();
        assert_eq!(exact["next"], Value::Null, "{list}");
        // The largest number there is is refused, never added to.
        let path = format!("/v1/{list}?cursor={}", i64::MAX);
        let detail = http::get(&rest, &path).await.problem(422);
        assert!(detail.contains("cursor"), "{detail}");
    }
    let (readings, pages) = walk(&rest, "/v1/readings?device=d1&sensor=y").await;
    let values: Vec<Value> = readings.iter().map(|r| r["value"].clone()).collect();
    assert_eq!(
        (json!(values), pages),
        (json!([1.0, 2.0, 3.0, 4.0, 5.0]), 3)
    );
    assert_eq!(walk(&rest, "/v1/forecasts").await.0.len(), 5);
    for (path, count) in [
        ("/v1/drift-reports?confirmed=true", 3),
        ("/v1/drift-reports?confirmed=false", 2),
        ("/v1/drift-reports?forecaster=f2", 0),
        ("/v1/drift-reports?forecaster=f1", 5),
        ("/v1/alarms?device=d1", 2),
        ("/v1/gaps?device=d2", 0),
    ] {
        assert_eq!(walk(&rest, path).await.0.len(), count, "{path}");
    }
    for (list, _, _) in named {
        let path = format!("/v1/{list}?cursor={}", i64::MAX);
        assert_eq!(http::get(&rest, &path).await.status, 200);
    }
    for (method, path, named) in [
        (
            "GET",
            "/v1/readings?device=d1&sensor=y&to=2026-01-02",
            "`to` is no parameter of /v1/readings; there are `limit`, `cursor`, `device`, `sensor`, `from`",
        ),
        ("GET", "/v1/devices?sensor=y", "`sensor` is no"),
        ("GET", "/v1/alarms?limit=5&forecaster=f1", "`device`"),
        ("GET", "/v1/rollouts/5?device=d1", "takes no parameters"),
        ("POST", "/v1/readings?device=d1&sensor=y", "`device`"),
    ] {
        let answer = http::ask(&rest, method, path, "[]").await.unwrap();
        let detail = answer.problem(400);
        assert!(detail.contains(named), "{detail}");
    }
    let too_long = "x".repeat(2 * 1024 * 1024 + 1);
    for (method, path, body, status) in [
        ("GET", "/v1/devices?limit=abc", "", 422),
        ("GET", "/v1/devices?limit=0", "", 422),
        ("GET", "/v1/models?limit=1001", "", 422),
        ("GET", "/v1/drift-reports?confirmed=perhaps", "", 422),
        ("GET", "/v1/rollouts/abc", "", 422),
        ("GET", "/v1/rollouts/99", "", 404),
        ("GET", "/v1/rollouts/99/devices", "", 404),
        ("GET", "/v1/experiments/99/devices", "", 404),
        ("GET", "/v1/experiments/1/devices?limit=0", "", 422),
        ("GET", "/v1/readings?device=d1", "", 422),
        ("GET", "/v1/nothing", "", 404),
        ("POST", "/v1/devices", "", 405),
        ("DELETE", "/v1/readings", "", 405),
        ("POST", "/v1/readings", "[]", 422),
        ("POST", "/v1/readings?device=d1", &too_long, 413),
        ("POST", "/v1/predict", &too_long, 413),
    ] {
        let detail = http::ask(&rest, method, path, body)
            .await
            .unwrap()
            .problem(status);
        assert!(!detail.is_empty(), "{method} {path}");
    }
    hub.stop().await;
}

#[tokio::test]
async fn pushed_readings_reach_consumers() {
    if !available(&["mosquitto"]) {
        return;
    }
    let bed = bed().await;
    support::add_device(&bed.store, "a", None).await;
    let port = free_port();
    let _mosquitto = Mosquitto::start(bed.dir.path(), port);
    let broker = format!("mqtt://127.0.0.1:{port}");
    let dir = bed.dir.path().join("hub");
    let (hub, rest) = Process::serve(&dir, &bed.url("t"), &["--broker", &broker]).await;
    hub.ready(&rest, 200).await;
    let options = MqttOptions::new("consumer", "127.0.0.1", port);
    reads_what_is_pushed(options, &rest).await;
    hub.stop().await;
}

/// Subscribes, pushes a reading of device `a`, and waits for it.
async fn reads_what_is_pushed(options: MqttOptions, rest: &str) {
    let (consumer, mut events) = AsyncClient::new(options, 16);
    consumer
        .subscribe("fieldcast/v1/main/out/#", QoS::AtLeastOnce)
        .await
        .unwrap();
    let until = deadline();
    let mut pushed = false;
    let message = loop {
        assert!(std::time::Instant::now() < until, "nothing is published");
        let event = tokio::time::timeout(std::time::Duration::from_secs(20), events.poll());
        match event.await.unwrap() {
            Ok(Event::Incoming(Packet::SubAck(_))) if !pushed => {
                pushed = true;
                let body = json!([
                    {"sensor": "t", "time": "2026-01-01T00:00:00Z", "value": 1.5},
                    {"sensor": "no such/name", "time": "2026-01-01T00:00:00Z", "value": 2.5},
                ]);
                let path = "/v1/readings?device=a";
                let answer = http::ask(rest, "POST", path, &body.to_string())
                    .await
                    .unwrap();
                assert_eq!(answer.status, 200, "{}", answer.text);
                let done = answer.json();
                assert_eq!(
                    (&done["new"], done["rejected"].as_array().unwrap().len()),
                    (&json!(1), 1)
                );
            }
            Ok(Event::Incoming(Packet::Publish(p))) => break p,
            Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(message.topic, "fieldcast/v1/main/out/a/t");
    let body: Value = serde_json::from_slice(&message.payload).unwrap();
    let expected = json!({"device": "a", "sensor": "t",
        "readings": [{"time": "2026-01-01T00:00:00Z", "value": 1.5, "quality": 0}]});
    assert_eq!(body, expected);
}

#[tokio::test]
async fn consumers_are_let_in_at_the_embedded_broker() {
    let bed = bed().await;
    support::add_device(&bed.store, "a", None).await;
    let (dir, url) = (bed.dir.path().join("hub"), bed.url("t"));
    let (hub, rest) = Process::serve(&dir, &url, &[]).await;
    hub.ready(&rest, 200).await;
    let added = run(&dir, &url, &["consumer", "add", "board", "--json"]);
    assert!(added.status.success(), "{added:?}");
    let added: Value = serde_json::from_slice(&added.stdout).unwrap();
    assert_eq!(added["topics"], "fieldcast/v1/main/out/#");
    let said = refused(&dir, &url, &["consumer", "add", "board"]);
    assert!(said.contains("consumer remove board"), "{said}");
    let broker = added["broker"].as_str().unwrap();
    let port = broker.rsplit_once(':').unwrap().1.parse().unwrap();
    let options = |client: &str, token: &str| {
        let mut options = MqttOptions::new(client, "127.0.0.1", port);
        options.set_credentials("consumer:board", token.to_owned());
        options
    };
    let token = added["token"].as_str().unwrap();
    reads_what_is_pushed(options("any", token), &rest).await;
    let kept_out = |options: MqttOptions| async move {
        let (_client, mut events) = AsyncClient::new(options, 16);
        events.poll().await.is_err()
    };
    // A device's or a hub's session is not for the taking.
    for (client, token) in [("any", "wrong"), ("a", token), ("hub:leader", token)] {
        assert!(
            kept_out(options(client, token)).await,
            "{client} with {token}"
        );
    }
    assert!(
        run(&dir, &url, &["consumer", "remove", "board"])
            .status
            .success()
    );
    assert!(kept_out(options("any", token)).await);
    hub.stop().await;
}

#[tokio::test]
async fn a_device_gets_other_labels_and_keeps_its_token() {
    let bed = bed().await;
    support::add_device(&bed.store, "a", Some("secret")).await;
    let (dir, url) = (bed.dir.path().join("hub"), bed.url("t"));
    let label = |args: &[&str]| {
        let out = run(
            &dir,
            &url,
            &[&["device", "label", "a", "--json"], args].concat(),
        );
        let shown: Value = serde_json::from_slice(&out.stdout).unwrap();
        shown["labels"].clone()
    };
    let token = bed.store.token_hashes(&["a".to_owned()]).await.unwrap();
    assert_eq!(label(&["g=1", "h=2"]), json!({"g": "1", "h": "2"}));
    assert_eq!(label(&["g=3", "--remove", "h"]), json!({"g": "3"}));
    assert_eq!(
        bed.store.token_hashes(&["a".to_owned()]).await.unwrap(),
        token
    );
    let said = refused(&dir, &url, &["device", "label", "b", "g=1"]);
    assert!(said.contains("device list"), "{said}");
}

#[tokio::test]
async fn a_push_that_is_not_stored_says_whose_fault_it_is() {
    let bed = bed().await;
    support::add_device(&bed.store, "a", None).await;
    let dir = bed.dir.path().join("hub");
    let (hub, rest) = Process::serve(&dir, &bed.url("t"), &[]).await;
    hub.ready(&rest, 200).await;
    let good = r#"{"sensor": "t", "time": "2026-01-01T00:00:00Z", "value": 1.5}"#;
    let push = async |device: &str, body: &str, status: u16| {
        let path = format!("/v1/readings?device={device}");
        let answer = http::ask(&rest, "POST", &path, body).await.unwrap();
        answer.problem(status)
    };
    assert!(push("a", "[1", 422).await.contains("expected"));
    assert!(push("a/b", good, 422).await.contains("a/b"));
    assert!(push("stranger", good, 404).await.contains("device add"));
    // A damaged database is the hub's own fault, and no waiting mends it.
    support::psql(&bed, "ALTER TABLE json_readings RENAME TO gone");
    assert!(push("a", good, 500).await.contains("defect"));
    support::psql(&bed, "ALTER TABLE gone RENAME TO json_readings");
    support::kill_database(&bed);
    assert!(push("a", good, 503).await.contains("PostgreSQL"));
    hub.stop().await;
}
