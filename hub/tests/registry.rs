//! The registry of a real hub over a real PostgreSQL: who moves titles, what people are shown and may ask, and what comes from
//! another hub.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod support;

use std::path::Path;
use std::sync::Arc;

use fieldcast_hub::jobs::Worker;
use fieldcast_hub::registry;
use fieldcast_hub::rollout::state::{DeviceState, Status};
use fieldcast_hub::signing::{Signer, hex};
use fieldcast_store::{Store, Target};
use fieldcast_wire::Sha256;
use serde_json::{Value, json};
use support::learning::{enqueue, feed, signer, train};
use support::process::{Process, refused, run};
use support::{add_device, bed, define, http, on_trial, psql, register, shown};
use tokio_util::sync::CancellationToken;

/// What a command prints as JSON; it must succeed.
fn said(dir: &Path, url: &str, args: &[&str]) -> Value {
    let out = run(dir, url, &[args, &["--json"]].concat());
    let error = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{args:?}: {error}");
    serde_json::from_slice(&out.stdout).unwrap()
}

/// Versions with the title, as the interface lists them.
async fn holders(rest: &str, title: &str) -> Vec<i64> {
    let all = http::get(rest, "/v1/models?forecaster=f").await.json();
    let all = all["items"].as_array().unwrap().clone();
    let with = all.iter().filter(|m| m[title] == json!(true));
    with.map(|m| m["version"].as_i64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn titles_move_by_rollouts_and_named_persons_alone() {
    let bed = bed().await;
    add_device(&bed.store, "a", Some("secret")).await;
    define(&bed.store, "f", json!({})).await;
    for version in 1..=3 {
        register(&bed.store, "f", version).await;
    }
    on_trial(&bed, "f", 1);
    let (dir, url) = (bed.dir.path().join("hub"), bed.url("t"));
    let (hub, rest) = Process::serve(&dir, &url, &[]).await;
    hub.ready(&rest, 200).await;
    assert_eq!(holders(&rest, "champion").await, [1]);
    assert!(holders(&rest, "challenger").await.is_empty());

    let ask = json!({"forecaster": "f", "version": 2, "by": "ann", "reason": "a trial"});
    let without = |key: &str, value: Value| {
        let mut other = ask.clone();
        other[key] = value;
        other
    };
    for (body, status) in [
        (without("by", json!(" ")), 422),
        (without("by", Value::Null), 422),
        (without("version", json!(9)), 404),
        (without("plan", json!({"stages": []})), 422),
        (without("plan", json!({"steps": []})), 422),
        (without("when", json!("now")), 422),
    ] {
        let detail = http::post(&rest, "/v1/rollouts", &body)
            .await
            .problem(status);
        assert!(!detail.is_empty(), "{body}");
    }
    // What a page of another site could send without being asked is refused.
    let plain = http::ask(&rest, "POST", "/v1/rollouts", &ask.to_string()).await;
    plain.unwrap().problem(415);
    assert!(bed.store.open_rollouts().await.unwrap().is_empty());

    let started = http::post(&rest, "/v1/rollouts", &ask).await;
    assert_eq!(started.status, 201, "{}", started.text);
    let id = started.json()["rollout"].as_i64().unwrap();
    assert_eq!(holders(&rest, "challenger").await, [2]);
    let title = json!({"forecaster": "f", "title": "champion", "by": "ann"});
    let detail = http::post(&rest, "/v1/models/3/title", &title)
        .await
        .problem(409);
    assert!(detail.contains(&format!("rollout abort {id}")), "{detail}");

    let open = said(&dir, &url, &["rollout", "status"]);
    assert_eq!(open[0]["rollout"], json!(id));
    assert!(!open[0]["waits_for"].as_str().unwrap().is_empty(), "{open}");
    assert_eq!(open[0]["devices"]["members"], 1, "{open}");
    let watching = {
        let (dir, url, id) = (dir.clone(), url.clone(), id.to_string());
        tokio::task::spawn_blocking(move || run(&dir, &url, &["rollout", "watch", &id, "--json"]))
    };
    let path = format!("/v1/rollouts/{id}");
    http::post(&rest, &format!("{path}/stop"), &json!({"by": "ann"}))
        .await
        .problem(404);
    let detail = http::post(&rest, &format!("{path}/approve"), &json!({"by": "ann"}))
        .await
        .problem(409);
    assert!(
        detail.contains("is running (") && detail.contains(&format!("rollout abort {id}")),
        "{detail}"
    );
    http::post(&rest, &format!("{path}/abort"), &json!({"by": ""}))
        .await
        .problem(422);
    let abort = json!({"by": "ann", "reason": "too hot"});
    let aborted = http::post(&rest, &format!("{path}/abort"), &abort).await;
    assert_eq!(aborted.status, 202, "{}", aborted.text);
    let watched = watching.await.unwrap();
    assert_eq!(watched.status.code(), Some(3), "{watched:?}");
    let lines = String::from_utf8(watched.stdout).unwrap();
    let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!(last["status"], "rolled_back");
    let reason = last["reason"].as_str().unwrap();
    assert!(reason.contains("aborted by ann: too hot"), "{last}");
    assert!(holders(&rest, "challenger").await.is_empty());
    let over = http::post(&rest, &format!("{path}/resume"), &json!({"by": "ann"}))
        .await
        .problem(409);
    assert!(over.contains("rolled_back"), "{over}");
    let approve = ["rollout", "approve", &id.to_string(), "--by"];
    let over = refused(
        &dir,
        &url,
        &[&approve[..], &["ann", "--reason", "cool"]].concat(),
    );
    assert!(over.contains("rolled_back"), "{over}");
    let nobody = refused(&dir, &url, &[&approve[..], &[""]].concat());
    assert!(nobody.contains("name the person"), "{nobody}");
    http::post(&rest, "/v1/rollouts/99/resume", &json!({"by": "ann"}))
        .await
        .problem(404);

    let promote = ["model", "promote", "f", "3", "--by", "ben"];
    said(&dir, &url, &[&promote[..], &["--challenger"]].concat());
    assert_eq!(holders(&rest, "challenger").await, [3]);
    let forecasters = http::get(&rest, "/v1/forecasters").await.json();
    assert_eq!(forecasters["items"][0]["challenger"], 3);
    let on_trial = || async {
        http::get(&rest, "/v1/forecasters").await.json()["items"][0]["on_trial"].clone()
    };
    assert_eq!(on_trial().await, true, "version 1 was never rolled out");
    let args = [&promote[..], &["--champion", "--reason", "checked by hand"]].concat();
    assert_eq!(said(&dir, &url, &args), json!({"champion": 3}));
    assert_eq!(on_trial().await, false);
    assert_eq!(holders(&rest, "champion").await, [3]);
    assert!(holders(&rest, "challenger").await.is_empty());
    let nobody = refused(&dir, &url, &["model", "promote", "f", "2", "--by", ""]);
    assert!(nobody.contains("name the person"), "{nobody}");
    let decided = http::get(&rest, "/v1/decisions?forecaster=f").await.json();
    let decided: Vec<_> = decided["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|d| d["decided_by"] == "ann" || d["decided_by"] == "ben")
        .map(|d| {
            (
                d["decision"].as_str().unwrap(),
                d["reason"].as_str().unwrap(),
            )
        })
        .collect();
    let expected = [
        ("promote", "version 3 is the champion: checked by hand"),
        ("challenge", "version 3 is the challenger"),
        ("roll_out", "version 2 is rolled out: a trial"),
    ];
    assert_eq!(decided, expected);

    let shown = http::get(&rest, "/v1/models/3?forecaster=f").await.json();
    assert_eq!(
        (&shown["version"], &shown["champion"]),
        (&json!(3), &json!(true))
    );
    let diff = http::get(&rest, "/v1/models/2/diff?forecaster=f")
        .await
        .json();
    assert_eq!((&diff["from"], &diff["to"]), (&json!(3), &json!(2)));
    let fields: Vec<_> = diff["bundle"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["field"].clone())
        .collect();
    assert_eq!(fields, [json!("sha256")], "of the same size");
    http::get(&rest, "/v1/models/9?forecaster=f")
        .await
        .problem(404);
    http::get(&rest, "/v1/models/3").await.problem(422);
    every_state_is_counted(&rest).await;
    hub.stop().await;
}

/// Also those that nothing is in: an alert on a state that never was would otherwise compare with nothing.
async fn every_state_is_counted(rest: &str) {
    let metrics = http::get(rest, "/metrics").await.text;
    let value = |name: &str, label: &str, state: &str| {
        let series = format!("{name}{{{label}=\"{state}\"}} ");
        let line = metrics.lines().find_map(|l| l.strip_prefix(&series));
        line.unwrap_or_else(|| panic!("no {series}in {metrics}"))
            .parse::<f64>()
            .unwrap()
    };
    for status in Status::ALL {
        let expected = f64::from(u8::from(status == Status::RolledBack));
        assert_eq!(
            value("fieldcast_rollouts", "status", status.as_str()),
            expected
        );
    }
    for state in DeviceState::ALL {
        assert_eq!(value("fieldcast_deployments", "state", state.as_str()), 0.0);
    }
    for (status, expected) in [
        ("queued", 0.0),
        ("running", 0.0),
        ("succeeded", 3.0),
        ("failed", 0.0),
        ("cancelled", 0.0),
    ] {
        assert_eq!(value("fieldcast_jobs", "status", status), expected);
    }
    assert_eq!(value("fieldcast_devices", "online", "true"), 0.0);
}

#[tokio::test]
async fn a_run_is_shown_followed_and_cancelled() {
    let bed = bed().await;
    define(&bed.store, "f", json!({})).await;
    register(&bed.store, "f", 1).await;
    on_trial(&bed, "f", 1);
    let (dir, url) = (bed.dir.path().join("hub"), bed.url("t"));
    let (hub, rest) = Process::serve(&dir, &url, &[]).await;
    hub.ready(&rest, 200).await;
    // Begins tomorrow, so that it still waits when it is cancelled.
    psql(
        &bed,
        "INSERT INTO jobs (kind, subject, payload, run_after) VALUES ('train', 'f', '{}', now() + interval '1 day')",
    );
    let id = bed.store.live_jobs().await.unwrap()[0].id;
    psql(
        &bed,
        r#"INSERT INTO training_runs (id, forecaster, spec_version, trigger, reason, snapshot_at, snapshot_sha, snapshot_rows, seed,
            code_version, verdict) VALUES (1, 'f', 1, 'person', 'test', now(), 'x', 1, 1, '0', '{"champion": null, "challenger": 1}')"#,
    );
    let judged = http::get(&rest, "/v1/training-runs/1/page").await;
    assert_eq!(judged.status, 200, "{}", judged.text);
    assert!(
        judged.text.contains("Training run 1 of f"),
        "{}",
        judged.text
    );
    for (run, why) in [(id, "no verdict"), (99, "no training run 99")] {
        let page = http::get(&rest, &format!("/v1/training-runs/{run}/page")).await;
        let detail = page.problem(404);
        assert!(detail.contains(why), "{detail}");
    }
    bed.store.job_line(id, "first").await.unwrap();
    bed.store.job_line(id, "second").await.unwrap();
    let path = format!("/v1/training-runs/{id}");
    let page = http::get(&rest, &format!("{path}/logs?limit=1"))
        .await
        .json();
    assert_eq!(page["items"][0]["line"], "first");
    let next = page["next"].as_str().unwrap();
    let page = http::get(&rest, &format!("{path}/logs?cursor={next}"))
        .await
        .json();
    assert_eq!(
        (&page["items"][0]["line"], &page["next"]),
        (&json!("second"), &Value::Null)
    );
    http::post(&rest, &format!("{path}/cancel"), &json!({"by": ""}))
        .await
        .problem(422);
    let cancelled = http::post(&rest, &format!("{path}/cancel"), &json!({"by": "ann"})).await;
    assert_eq!(cancelled.status, 202, "{}", cancelled.text);
    assert_eq!(
        bed.store.job(id).await.unwrap().unwrap().status,
        "cancelled"
    );
    let lines = bed.store.job_lines(id, 0).await.unwrap();
    assert_eq!(lines.last().unwrap().line, "ann asked for its end");
    // What is over says so, and its history tells of nobody who came too late.
    let over = http::post(&rest, &format!("{path}/cancel"), &json!({"by": "ben"})).await;
    assert!(over.problem(409).contains("(cancelled)"), "{}", over.text);
    let number = id.to_string();
    let over = refused(&dir, &url, &["run", "cancel", &number, "--by", "ben"]);
    assert!(over.contains("(cancelled)"), "{over}");
    let ann = http::get(&rest, &format!("{path}/logs")).await.json();
    assert_eq!(ann["items"].as_array().unwrap().len(), 3, "{ann}");
    for path in ["/v1/training-runs/99", "/v1/training-runs/99/logs"] {
        http::get(&rest, path).await.problem(404);
    }
    http::post(&rest, "/v1/training-runs/99/cancel", &json!({"by": "ann"}))
        .await
        .problem(404);
    // One that runs: how far it is, every line of its history with the day, and who ended it.
    psql(
        &bed,
        "INSERT INTO jobs (kind, subject, payload, status, worker, lease_until, progress, progress_text)
         VALUES ('train', 'f', '{}', 'running', 'w', now() + interval '1 day', 0.425, 'epoch 3 of at most 7');
         INSERT INTO job_log (job, line) SELECT max(id), 'line ' || n FROM jobs, generate_series(1, 2100) n GROUP BY n ORDER BY n",
    );
    let id = bed.store.live_jobs().await.unwrap()[0].id.to_string();
    let shown = |args: &[&str]| {
        let out = run(&dir, &url, args);
        assert!(out.status.success(), "{args:?}: {out:?}");
        String::from_utf8(out.stdout).unwrap()
    };
    let list = shown(&["run", "list"]);
    assert!(list.contains("running 42 % epoch 3 of at most 7"), "{list}");
    let asked = shown(&["run", "cancel", &id, "--by", "ann", "--reason", "too hot"]);
    assert!(asked.contains("running, ends soon"), "{asked}");
    let log = shown(&["run", "logs", &id]);
    let today = fieldcast_hub::clock::now().format("%Y-").to_string();
    assert_eq!(log.lines().count(), 2101);
    assert!(log.lines().all(|line| line.starts_with(&today)), "{log}");
    assert!(log.ends_with("ann asked for its end: too hot\n"), "{log}");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_of_another_hub_is_checked_and_signed_anew() {
    let bed = bed().await;
    add_device(&bed.store, "a", Some("secret")).await;
    define(&bed.store, "f", json!({})).await;
    feed(&bed.store, 1, 0, 60).await;
    train(&bed).await;
    let (there, here) = (bed.dir.path().to_path_buf(), bed.dir.path().join("here"));
    let (url, url_here) = (bed.url("t"), bed.url("u"));
    Store::create_database(&bed.target, "u").await.unwrap();
    let Target::Socket {
        dir,
        port,
        user,
        password,
        ..
    } = bed.target.clone()
    else {
        panic!("a socket");
    };
    let target = Target::Socket {
        dir,
        port,
        user,
        password,
        database: "u".to_owned(),
    };
    let store = Store::new(&target, 4).unwrap();
    store.migrate().await.unwrap();

    let (file, keys) = (
        bed.dir.path().join("f.bundle"),
        bed.dir.path().join("keys.json"),
    );
    let (file, keys) = (file.to_str().unwrap(), keys.to_str().unwrap());
    let exported = said(
        &there,
        &url,
        &["model", "export", "f", "--out", file, "--keys", keys],
    );
    assert_eq!(exported["version"], 1);
    let root = hex(&signer(&bed).root_public());
    let import = ["model", "import", "f", file, "--by", "ann"];
    let trusting = [&import[..], &["--root", &root, "--keys", keys]].concat();
    let undefined = refused(&here, &url_here, &trusting);
    assert!(undefined.contains("forecaster apply"), "{undefined}");
    define(&store, "f", json!({})).await;
    let foreign = refused(&here, &url_here, &import);
    assert!(foreign.contains("--root"), "{foreign}");
    let wrong = hex(&[7; 32]);
    let other = [&import[..], &["--root", &wrong, "--keys", keys]].concat();
    assert!(refused(&here, &url_here, &other).contains("not of"));
    let bytes = std::fs::read(file).unwrap();
    let mut changed = bytes.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    std::fs::write(file, &changed).unwrap();
    refused(&here, &url_here, &trusting);
    assert!(store.model_versions(None, 0, 9).await.unwrap().is_empty());
    std::fs::write(file, &bytes).unwrap();

    let done = said(&here, &url_here, &trusting);
    assert_eq!(
        (&done["version"], &done["signed_anew"]),
        (&json!(1), &json!(true))
    );
    let row = store.model_version("f", 1).await.unwrap().unwrap();
    assert!(!row.champion, "a title is for a person or a rollout");
    let own = Signer::open(&here.join("keys")).unwrap();
    let sha = Sha256::from_hex(&row.bundle).unwrap();
    let stored = store.bundle(&sha).await.unwrap().unwrap();
    let (made, original) = (
        registry::verified(&own, &row, &stored).unwrap(),
        bed.store.model_version("f", 1).await.unwrap().unwrap(),
    );
    assert_eq!(row.manifest, shown(made.manifest()));
    assert_eq!(
        row.manifest["onnx_sha256"],
        original.manifest["onnx_sha256"]
    );
    assert_eq!(row.lineage["imported"]["root"], json!(root));
    assert_eq!(row.lineage["imported"]["bundle"], json!(original.bundle));

    // Once more is the next version, and the same model.
    assert_eq!(said(&here, &url_here, &trusting)["version"], 2);
    let diff = said(&here, &url_here, &["model", "diff", "f", "1", "2"]);
    for part in ["definition", "data", "training", "scores"] {
        assert_eq!(diff[part], json!([]), "{part}: {diff}");
    }

    // This hub's own export is known by its version, and gives back a bundle that was removed.
    said(
        &here,
        &url_here,
        &["model", "export", "f", "1", "--out", file],
    );
    assert!(refused(&here, &url_here, &import).contains("already"));
    let locked = store.lock_bundles("f").await.unwrap();
    locked.remove(&[sha.0.to_vec()]).await.unwrap();
    let gone = refused(
        &here,
        &url_here,
        &["model", "promote", "f", "1", "--by", "ann"],
    );
    assert!(gone.contains("was removed"), "{gone}");
    assert_eq!(said(&here, &url_here, &import)["restored"], true);
    assert_eq!(store.bundle(&sha).await.unwrap().unwrap(), stored);
    let told = store.decisions(Some("f"), None, 1).await.unwrap();
    assert_eq!(
        (told[0].decision.as_str(), told[0].decided_by.as_str()),
        ("import", "ann")
    );
    assert!(told[0].reason.contains("given back"), "{told:?}");

    // As the champion it is judged on what it has not seen, and can be replaced.
    said(
        &here,
        &url_here,
        &["model", "promote", "f", "1", "--by", "ann", "--champion"],
    );
    add_device(&store, "a", Some("secret")).await;
    feed(&store, 1, 0, 90).await;
    let id = enqueue(&store, json!({"max_epochs": 0})).await;
    let worker = Worker::new(store.clone(), Arc::new(own));
    let done = worker.once(None, &CancellationToken::new()).await.unwrap();
    assert_eq!(done, Some(id));
    let next = store.model_version("f", 3).await.unwrap().unwrap();
    let windows = &next.metrics["holdout"]["champion"]["windows"];
    assert!(
        windows.as_u64().unwrap_or(0) > 100,
        "{}",
        next.metrics["holdout"]
    );
    assert_eq!(row.lineage["data_until"], original.lineage["data_until"]);
    over_rest((&there, &url), (&here, &url_here), &bytes, &root).await;
}

/// The same by the interfaces of both hubs.
async fn over_rest(there: (&Path, &str), here: (&Path, &str), exported: &[u8], root: &str) {
    let serve = async |(dir, url): (&Path, &str)| {
        let (hub, rest) = Process::serve(dir, url, &[]).await;
        hub.ready(&rest, 200).await;
        (hub, rest)
    };
    let ((hub_there, there), (hub_here, here)) = (serve(there).await, serve(here).await);
    let bundle = http::get(&there, "/v1/models/1/bundle?forecaster=f").await;
    assert_eq!(bundle.kind, "application/octet-stream");
    assert!(bundle.bytes == exported, "it is what the file holds");
    let keys = http::get(&there, "/v1/keys").await.json();
    assert_eq!(keys["root"], json!(root));

    let whose = |forecaster: &str, by: &str| format!("/v1/models?forecaster={forecaster}&by={by}");
    let list = keys["list"].as_str().unwrap();
    let trusting = format!("&root={root}&list={list}");
    let other = format!("&root={}&list={list}", hex(&[7; 32]));
    let mut changed = exported.to_vec();
    changed[exported.len() / 2] ^= 1;
    let too_large = vec![0; fieldcast_wire::caps::MAX_BUNDLE + 1];
    for (path, body, status) in [
        (whose("f", "ann"), exported, 422),
        (whose("f", "ann") + &other, exported, 422),
        (whose("f", "ann") + &format!("&root={root}"), exported, 422),
        (whose("f", "ann") + &trusting, &changed, 422),
        (whose("f", "ann") + &trusting, b"", 422),
        (whose("f", "%20") + &trusting, exported, 422),
        (whose("g", "ann") + &trusting, exported, 422),
        (whose("f", "ann") + &trusting, &too_large, 413),
    ] {
        let detail = http::post_bytes(&here, &path, body).await.problem(status);
        assert!(!detail.is_empty(), "{path}");
    }
    let path = whose("f", "ann") + &trusting;
    let plain = http::ask(&here, "POST", &path, "x").await;
    plain.unwrap().problem(415);
    let done = http::post_bytes(&here, &path, exported).await;
    assert_eq!(done.status, 201, "{}", done.text);
    let done = done.json();
    assert_eq!(
        (&done["version"], &done["signed_anew"]),
        (&json!(4), &json!(true))
    );
    assert_eq!(holders(&here, "champion").await, [1]);
    let own = http::get(&here, "/v1/models/4/bundle?forecaster=f").await;
    let again = http::post_bytes(&here, &whose("f", "ann"), &own.bytes).await;
    assert!(again.problem(409).contains("already"));
    http::get(&here, "/v1/models/9/bundle?forecaster=f")
        .await
        .problem(404);
    hub_there.stop().await;
    hub_here.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_revoked_once_its_models_are_signed_anew() {
    let bed = bed().await;
    add_device(&bed.store, "a", Some("secret")).await;
    define(&bed.store, "f", json!({})).await;
    feed(&bed.store, 1, 0, 60).await;
    train(&bed).await;
    let (dir, url) = (bed.dir.path(), bed.url("t"));
    let before = said(dir, &url, &["key", "list"]);
    let old = before["keys"][0]["id"].as_str().unwrap().to_owned();
    let only = refused(dir, &url, &["key", "revoke", &old]);
    assert!(only.contains("the only key"), "{only}");
    let rotated = said(dir, &url, &["key", "rotate"]);
    assert_eq!(rotated["version"], 2);

    let kept = refused(dir, &url, &["key", "revoke", &old]);
    assert!(kept.contains("model sign-anew f 1"), "{kept}");
    // Its first rollout is in the way of a person's title.
    let (hub, rest) = Process::serve(dir, &url, &[]).await;
    hub.ready(&rest, 200).await;
    let by = json!({"by": "ann"});
    let aborted = http::post(&rest, "/v1/rollouts/1/abort", &by).await;
    assert_eq!(aborted.status, 202, "{}", aborted.text);
    let watched = run(dir, &url, &["rollout", "watch", "1"]);
    assert_eq!(watched.status.code(), Some(3), "{watched:?}");
    let anew = said(dir, &url, &["model", "sign-anew", "f", "1", "--by", "ann"]);
    assert_eq!(anew["version"], 2);
    let promote = ["model", "promote", "f", "2", "--champion", "--by", "ann"];
    said(dir, &url, &promote);
    assert_eq!(said(dir, &url, &["key", "revoke", &old])["version"], 3);
    hub.stop().await;

    // As devices see it: the same model, and the old seal holds no more.
    let signer = signer(&bed);
    assert_eq!(signer.foreign(&bed.store).await.unwrap(), None);
    let mut opened = Vec::new();
    for version in [1, 2] {
        let row = bed
            .store
            .model_version("f", version)
            .await
            .unwrap()
            .unwrap();
        let sha = Sha256::from_hex(&row.bundle).unwrap();
        let bytes = bed.store.bundle(&sha).await.unwrap().unwrap();
        opened.push(registry::verified(&signer, &row, &bytes));
    }
    let [first, second] = &opened[..] else {
        panic!("two")
    };
    let why = first.as_ref().unwrap_err().to_string();
    assert!(why.contains("not in key list 3"), "{why}");
    let second = second.as_ref().unwrap();
    assert_eq!(second.manifest().version, 2);
    let row = bed.store.model_version("f", 1).await.unwrap().unwrap();
    assert_eq!(row.manifest["onnx_sha256"], second.manifest().onnx_sha256);
}
