//! Training jobs on a real PostgreSQL: what a run stores, who may store it, and what a worker that stops leaves behind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

#[path = "training/asked.rs"]
mod asked;
#[path = "training/kept.rs"]
mod kept;
mod support;
#[path = "training/warm.rs"]
mod warm;

use std::time::Duration;

use fieldcast_hub::features;
use fieldcast_hub::jobs::Worker;
use fieldcast_hub::rollout::plan::Plan;
use fieldcast_hub::rollout::rows;
use fieldcast_hub::training::{KIND, snapshot};
use fieldcast_hub::{CODE_VERSION, registry};
use fieldcast_store::decisions::NewDecision;
use fieldcast_store::jobs::{Claim, JobRow};
use fieldcast_store::model_versions::Concluded;
use fieldcast_store::readings::ReadingColumns;
use fieldcast_store::training_runs::NewTrainingRun;
use serde_json::{Value, json};
use support::learning::{JAN_2026, begun, enqueue, feed, signer, train};
use support::{
    Bed, add_device, bed, conclude, conclude_all, deadline, define, on_trial, psql, register, shown,
};
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread")]
async fn a_run_stores_model_decision_and_rollout_and_judges_what_asks_the_same() {
    let bed = begun().await;
    let store = &bed.store;
    feed(store, 1, 0, 60).await;
    let job = train(&bed).await;
    let row = store.model_version("f", 1).await.unwrap().unwrap();
    assert!(row.champion);
    let result = job.result.unwrap();
    assert_eq!(result["bundle"], json!(row.bundle));
    let rollouts = store.rollouts(Some("f"), None, 10).await.unwrap();
    assert_eq!(rollouts.len(), 1);
    assert_eq!(result["rollout"], json!(rollouts[0].id));
    // What is shown of the bundle is what was signed.
    let sha = fieldcast_wire::Sha256::from_hex(&row.bundle).unwrap();
    let bytes = store.bundle(&sha).await.unwrap().unwrap();
    let verified = registry::verified(&signer(&bed), &row, &bytes).unwrap();
    assert_eq!(row.manifest, shown(verified.manifest()));
    assert_eq!(row.manifest["onnx_sha256"].as_str().unwrap().len(), 64);
    let run = store.training_run(job.id).await.unwrap().unwrap();
    assert_eq!(run.code_version.as_deref(), Some(CODE_VERSION));
    assert_eq!(row.lineage["code_version"], json!(CODE_VERSION));

    // Another window, other quantiles and a holiday: the champion is asked in its own way, over the same origins.
    let other = json!({"lookback": 36, "quantiles": [0.1, 0.5, 0.9], "holidays": ["2026-03-02"],
        "selector": {"labels": {}, "sensors": {"temperature": "temperature"}}});
    define(store, "f", other).await;
    feed(store, 2, 60, 90).await;
    train(&bed).await;
    let row = store.model_version("f", 2).await.unwrap().unwrap();
    let scores = &row.metrics["holdout"];
    let windows = |who: &str| scores[who]["windows"].as_u64().unwrap();
    assert!(windows("champion") > 100, "{scores}");
    assert_eq!(windows("champion"), windows("challenger"));
    // Both models' losses are kept by day beside the numbers, drawn, and left out where many runs are told of.
    let id = row.lineage["training_run"].as_i64().unwrap();
    let verdict = store.training_run(id).await.unwrap().unwrap().verdict;
    let verdict = verdict.unwrap();
    let recent = verdict["days"]["recent"].as_array().unwrap();
    assert!((5..=31).contains(&recent.len()), "{verdict}");
    let mean = |who: &str| {
        let losses = recent.iter().map(|day| day[who].as_f64().unwrap());
        losses.sum::<f64>() / recent.len() as f64
    };
    for who in ["champion", "challenger"] {
        let all = verdict["test"][format!("{who}_loss")].as_f64().unwrap();
        assert!((mean(who) / all - 1.0).abs() < 0.1, "{who}: {verdict}");
    }
    let listed = store.training_runs(Some("f"), None, 1).await.unwrap();
    let listed = listed[0].verdict.as_ref().unwrap();
    assert!(listed["days"].is_null() && listed["reason"] == verdict["reason"]);
    let file = bed.dir.path().join("verdict.html");
    let show = [
        "run",
        "show",
        &id.to_string(),
        "--html",
        file.to_str().unwrap(),
    ];
    let shown = || support::process::run(bed.dir.path(), &bed.url("t"), &show);
    let shown = tokio::task::block_in_place(shown);
    assert!(shown.status.success(), "{shown:?}");
    let page = std::fs::read_to_string(file).unwrap();
    assert!(
        page.contains("<svg") && page.contains("Decided by judge"),
        "{page}"
    );

    // Another horizon is another question.
    define(store, "f", json!({"horizon": 3})).await;
    feed(store, 3, 90, 100).await;
    let result = train(&bed).await.result.unwrap();
    assert!(
        result["reason"].as_str().unwrap().contains("definition"),
        "{result}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stops_gives_its_job_back() {
    let bed = begun().await;
    let store = &bed.store;
    feed(store, 1, 0, 60).await;
    let endless = json!({"max_epochs": 1_000_000, "patience": 1_000_000});
    let id = enqueue(store, endless).await;
    let retrain = NewDecision {
        forecaster: "f",
        decision: "retrain",
        job: Some(id),
        ..NewDecision::default()
    };
    store.record_decision(&retrain).await.unwrap();
    let worker = Worker::new(store.clone(), signer(&bed));
    let mut snapshot = None;
    for attempt in 1..=2 {
        let cancel = CancellationToken::new();
        let stopping = async {
            let until = deadline();
            let trains = |job: JobRow| job.progress_text.starts_with("epoch");
            while !trains(store.job(id).await.unwrap().unwrap()) {
                assert!(std::time::Instant::now() < until, "it does not train");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            cancel.cancel();
        };
        let (worked, ()) = tokio::join!(worker.once(None, &cancel), stopping);
        worked.unwrap();
        let job = store.job(id).await.unwrap().unwrap();
        assert_eq!((job.status.as_str(), job.error), ("queued", None));
        assert_eq!((job.attempts, job.max_attempts), (attempt, 3 + attempt));
        // The next attempt goes on from what this one learnt, with the readings that this one had.
        let run = store.training_run(id).await.unwrap().unwrap();
        let had = (run.snapshot_at, run.snapshot_sha);
        assert_eq!(*snapshot.get_or_insert_with(|| had.clone()), had);
        let kept = store
            .interrupted_training(id, 1, fieldcast_hub::CODE_VERSION)
            .await
            .unwrap();
        assert_eq!(Some(kept.unwrap().snapshot_at), run.snapshot_at);
        let day = 59 + usize::try_from(attempt).unwrap();
        feed(store, day as u64, day, day + 1).await;
    }
    let last = store.last_decision("f", "retrain").await.unwrap();
    assert!(last.is_some(), "what is still to be done counts");
    store.cancel_job(id, "enough").await.unwrap();
    let last = store.last_decision("f", "retrain").await.unwrap();
    assert!(last.is_none(), "what led to nothing holds nothing up");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_worker_that_holds_the_job_stores_a_model_and_only_once() {
    let bed = bed().await;
    let store = &bed.store;
    define(store, "f", json!({})).await;
    let id = enqueue(store, json!({})).await;
    // A lease of no length has passed as soon as it is given.
    let first = store.claim_job("one", 0.0, None).await.unwrap().unwrap();
    assert_eq!(store.requeue_expired().await.unwrap(), 1);
    let second = store.claim_job("two", 0.0, None).await.unwrap().unwrap();
    let run = NewTrainingRun {
        forecaster: "f",
        spec_version: 1,
        trigger: "person",
        reason: "",
        snapshot_at: store.settled_time().await.unwrap(),
        snapshot_sha: b"x",
        snapshot_rows: 1,
        seed: 1,
        code_version: "0",
    };
    let stale = Claim {
        attempt: second.attempts,
        ..first.claim()
    };
    for claim in [first.claim(), stale] {
        assert!(!store.begin_training_run(&claim, &run).await.unwrap());
        assert!(conclude(store, &claim, "f", 1).await.is_none());
    }
    assert!(store.model_versions(None, 0, 10).await.unwrap().is_empty());
    assert!(
        store
            .begin_training_run(&second.claim(), &run)
            .await
            .unwrap()
    );
    // What another program learnt is not gone on from.
    assert!(
        store
            .keep_checkpoint(&second.claim(), b"learnt")
            .await
            .unwrap()
    );
    let newer = NewTrainingRun {
        code_version: "1",
        ..run.clone()
    };
    for (begun, left) in [(&run, true), (&newer, false), (&run, false)] {
        assert!(
            store
                .begin_training_run(&second.claim(), begun)
                .await
                .unwrap()
        );
        let checkpoint = store.interrupted_training(id, 1, begun.code_version).await;
        assert_eq!(checkpoint.unwrap().is_some(), left, "{begun:?}");
    }
    let result = conclude(store, &second.claim(), "f", 1).await.unwrap();
    // The worker dies before its last word: the next one takes the result over and trains nothing, whatever keys it lacks.
    assert_eq!(store.requeue_expired().await.unwrap(), 1);
    store.put_key_list(9, b"lost", "ann").await.unwrap();
    let third = Worker::new(store.clone(), signer(&bed));
    let done = third.once(None, &CancellationToken::new()).await.unwrap();
    assert_eq!(done, Some(id));
    let ended = store.job(id).await.unwrap().unwrap();
    assert_eq!((ended.status.as_str(), ended.error), ("succeeded", None));
    assert_eq!(ended.result, Some(result));
    let id = enqueue(store, json!({})).await;
    let fourth = store.claim_job("four", 30.0, None).await.unwrap().unwrap();
    store.cancel_job(id, "enough").await.unwrap();
    let late = conclude(store, &fourth.claim(), "f", 2).await;
    assert!(late.is_none(), "a cancelled job stores nothing");
    assert_eq!(store.model_versions(None, 0, 10).await.unwrap().len(), 1);
    let stopped = Err(("told to stop".to_owned(), None));
    let ended = store.finish_job(&fourth, "four", stopped).await.unwrap();
    assert_eq!(ended.as_deref(), Some("cancelled"));
    // The last worker that may try stores everything, and dies before its last word.
    let id = enqueue(store, json!({})).await;
    let fifth = store
        .claim_job("five", 0.0, Some(id))
        .await
        .unwrap()
        .unwrap();
    psql(
        &bed,
        &format!("UPDATE jobs SET max_attempts = attempts WHERE id = {id}"),
    );
    conclude(store, &fifth.claim(), "f", 2).await.unwrap();
    assert_eq!(store.requeue_expired().await.unwrap(), 1);
    let ended = store.job(id).await.unwrap().unwrap();
    assert_eq!((ended.status.as_str(), ended.error), ("succeeded", None));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_judged_against_another_champion_is_not_rolled_out() {
    let bed = begun().await;
    let store = &bed.store;
    register(store, "f", 1).await;
    on_trial(&bed, "f", 1);
    enqueue(store, json!({})).await;
    let job = store.claim_job("w", 30.0, None).await.unwrap().unwrap();
    let conclude = async |version: i64, champion: Option<i64>| {
        let plan = Plan::all_at_once(0);
        let rollout = rows::prepare(store, "f", version, plan, "run")
            .await
            .unwrap();
        let of = ("f", version, &b"new"[..]);
        conclude_all(store, &job.claim(), of, Some(rollout), champion).await
    };
    assert_eq!(conclude(2, None).await, Concluded::Overtaken);
    assert_eq!(conclude(1, Some(1)).await, Concluded::Overtaken, "taken");
    assert!(store.open_rollouts().await.unwrap().is_empty());
    let stored = conclude(2, Some(1)).await;
    assert!(matches!(stored, Concluded::Stored(_)), "{stored:?}");
    assert_eq!(store.open_rollouts().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_holds_what_was_known_at_its_time() {
    let bed = bed().await;
    let store = &bed.store;
    add_device(store, "a", None).await;
    define(store, "f", json!({})).await;
    let spec = store.forecaster("f").await.unwrap().unwrap().spec;
    feed(store, 1, 0, 2).await;
    let known = store.settled_time().await.unwrap();
    let before = snapshot::take(store, &spec, JAN_2026 - 1, known)
        .await
        .unwrap();
    feed(store, 2, 2, 3).await;
    let again = snapshot::take(store, &spec, JAN_2026 - 1, known)
        .await
        .unwrap();
    assert_eq!(snapshot::digest(&before), snapshot::digest(&again));
    let now = store.settled_time().await.unwrap();
    let all = snapshot::take(store, &spec, JAN_2026 - 1, now)
        .await
        .unwrap();
    assert_eq!((before[0].rows.len(), all[0].rows.len()), (48, 72));
    // What is being written while the time is taken is in none of its snapshots, not even when it is there.
    let sensor = store.sensors("a").await.unwrap()[0].id;
    let mut late = ReadingColumns::default();
    late.push(sensor, JAN_2026 + 80 * 3_600_000, 1.0, 0, 2);
    let mut tx = store.begin_ingest().await.unwrap();
    tx.insert_readings(&late).await.unwrap();
    let open = store.settled_time().await.unwrap();
    tx.commit().await.unwrap();
    let seen = snapshot::take(store, &spec, JAN_2026 - 1, open)
        .await
        .unwrap();
    assert_eq!(snapshot::digest(&seen), snapshot::digest(&all));
    let now = store.settled_time().await.unwrap();
    let seen = snapshot::take(store, &spec, JAN_2026 - 1, now)
        .await
        .unwrap();
    assert!(seen[0].rows.len() > 72);
    // A row is the same wherever the reading of it begins.
    let half = 3_600_000 / 2;
    let from = JAN_2026 + 10 * 3_600_000;
    let rows = features::newest_rows(store, &spec, "a", (from - half, from))
        .await
        .unwrap();
    assert_eq!(rows, &all[0].rows[10..11]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_too_bad_or_too_short_is_refused_with_its_numbers() {
    let bed = begun().await;
    let store = &bed.store;
    let worker = Worker::new(store.clone(), signer(&bed));
    let id = enqueue(store, json!({"max_epochs": 0})).await;
    let listed = async || {
        let run = store
            .training_runs(Some("f"), None, 9)
            .await
            .unwrap()
            .remove(0);
        assert_eq!(
            (run.id, run.trigger.as_str(), run.snapshot_at),
            (id, "person", None)
        );
        (run.status, run.error.unwrap_or_default())
    };
    assert_eq!(listed().await.0, "queued");
    worker.once(None, &CancellationToken::new()).await.unwrap();
    let (status, error) = listed().await;
    assert!(
        status == "failed" && error.contains("no readings"),
        "{status}: {error}"
    );
    feed(store, 1, 0, 1).await;
    let refused = async |said: &[&str]| {
        let id = enqueue(store, json!({"max_epochs": 0})).await;
        worker.once(None, &CancellationToken::new()).await.unwrap();
        let job = store.job(id).await.unwrap().unwrap();
        let told = store.decisions(Some("f"), None, 1).await.unwrap().remove(0);
        assert_eq!((told.decision.as_str(), told.job), ("refused", Some(id)));
        assert_eq!(
            (job.status.as_str(), job.error),
            ("failed", Some(told.reason.clone()))
        );
        for word in said {
            assert!(told.reason.contains(word), "{}", told.reason);
        }
        assert!(
            store
                .training_run(id)
                .await
                .unwrap()
                .unwrap()
                .model_version
                .is_none()
        );
    };
    refused(&["more than 24 values of `demand`", "two seasons are 48"]).await;
    // Of forty more days nine in ten temperatures are no good.
    feed(store, 2, 1, 41).await;
    psql(
        &bed,
        "UPDATE readings SET quality = 2 WHERE extract(epoch FROM time)::bigint / 3600 % 10 <> 0
             AND sensor = (SELECT id FROM sensors WHERE name = 'temperature')",
    );
    refused(&["fewest on `a`", "70.0 % are asked", "min_quality"]).await;
    // A definition that is content with less is given it.
    psql(
        &bed,
        r#"UPDATE forecasters SET retraining = '{"min_quality": 0.3}'"#,
    );
    train(&bed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_odd_about_the_data_stands_in_the_log_of_the_run() {
    let bed = begun().await;
    feed(&bed.store, 1, 0, 40).await;
    psql(
        &bed,
        "UPDATE readings SET value = 4 WHERE sensor = (SELECT id FROM sensors WHERE name = 'temperature')",
    );
    let told = bed.store.job_lines(train(&bed).await.id, 0).await.unwrap();
    let warned = "warning: input `temperature` is 4 in every row; leave it out";
    assert!(told.iter().any(|l| l.line == warned), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_lists_every_rule_and_judges_older_days_that_neither_learnt_from() {
    let bed = begun().await;
    let store = &bed.store;
    feed(store, 1, 0, 300).await;
    train(&bed).await;
    feed(store, 2, 300, 330).await;
    let id = train(&bed).await.id;
    let verdict = store
        .training_run(id)
        .await
        .unwrap()
        .unwrap()
        .verdict
        .unwrap();
    let rules = verdict["rules"].as_array().unwrap();
    let names: Vec<_> = rules.iter().map(|r| r["rule"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        ["origins", "gain", "chance", "coverage", "old_windows"]
    );
    let old = &rules[4];
    assert_ne!(old["outcome"], "not_judged", "{old}");
    let older = &verdict["scores"]["older"];
    assert!(older["origins"].as_u64().unwrap() > 100, "{older}");
    for who in ["champion", "challenger", "naive"] {
        assert!(older[who].as_f64().unwrap() > 0.0, "{older}");
    }
    // Both say which days those were.
    for version in [1, 2] {
        let row = store.model_version("f", version).await.unwrap().unwrap();
        for span in older["spans"].as_array().unwrap() {
            assert!(
                row.lineage["unseen"].as_array().unwrap().contains(span),
                "{span}"
            );
        }
    }
    // A champion that learnt from all of it cannot be judged there.
    psql(
        &bed,
        "UPDATE model_versions SET lineage = lineage - 'unseen'",
    );
    feed(store, 3, 330, 340).await;
    let id = train(&bed).await.id;
    let verdict = store
        .training_run(id)
        .await
        .unwrap()
        .unwrap()
        .verdict
        .unwrap();
    let old = &verdict["rules"][4];
    assert_eq!(old["outcome"], "not_judged");
    assert!(
        old["words"].as_str().unwrap().contains("learnt from all"),
        "{old}"
    );
}

/// Makes a run again; its answer, or what it says instead.
fn again(bed: &Bed, run: i64) -> Result<Value, String> {
    let args = ["--json", "train", "--run", &run.to_string()];
    let made = || support::process::run(bed.dir.path(), &bed.url("t"), &args);
    let out = tokio::task::block_in_place(made);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    serde_json::from_slice(&out.stdout).map_err(|_| said)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_made_again_is_the_same_model_under_another_version() {
    let bed = begun().await;
    let store = &bed.store;
    feed(store, 1, 0, 60).await;
    // An LSTM too: it is what could depend on chance.
    let mut config = json!(fieldcast_train::TrainConfig::default());
    config["max_epochs"] = json!(1);
    config["seeds"] = json!(1);
    let mut request = json!({"trigger": "person", "reason": "test", "seed": 7, "config": config});
    let id = store.enqueue(KIND, "f", &request).await.unwrap().0;
    let worker = Worker::new(store.clone(), signer(&bed));
    worker.once(None, &CancellationToken::new()).await.unwrap();
    // Later readings, and another definition, are none of the run's business.
    feed(store, 2, 60, 70).await;
    define(store, "f", json!({"horizon": 3})).await;
    let answer = again(&bed, id).unwrap();
    assert_eq!(answer["result"]["model_version"], 2, "{answer}");
    assert_eq!(answer["result"]["better"], false);
    let reason = answer["result"]["reason"].as_str().unwrap();
    assert!(reason.contains("the same, bit for bit"), "{reason}");
    let first = store.model_version("f", 1).await.unwrap().unwrap();
    let second = store.model_version("f", 2).await.unwrap().unwrap();
    for key in ["onnx_sha256", "reference_sha256", "forecaster"] {
        assert_eq!(first.manifest[key], second.manifest[key], "{key}");
    }
    let mut golden = Vec::new();
    for row in [&first, &second] {
        let sha = fieldcast_wire::Sha256::from_hex(&row.bundle).unwrap();
        let bytes = store.bundle(&sha).await.unwrap().unwrap();
        let verified = registry::verified(&signer(&bed), row, &bytes).unwrap();
        golden.push(json!(verified.manifest().golden));
    }
    assert_eq!(golden[0], golden[1]);
    assert_ne!(first.bundle, second.bundle);
    assert!(first.champion && !second.champion);
    let told = store.decisions(Some("f"), None, 10).await.unwrap();
    let asked = told.iter().find(|d| d.decision == "train").unwrap();
    assert_eq!(asked.job, answer["training_run"].as_i64());
    let shell = std::env::var("USER").unwrap_or_else(|_| "a person".to_owned());
    assert_eq!(asked.decided_by, shell);
    // Another seed is told from it.
    request["again"] = json!(id);
    request["seed"] = json!(8);
    store.enqueue(KIND, "f", &request).await.unwrap();
    worker.once(None, &CancellationToken::new()).await.unwrap();
    let third = store.model_version("f", 3).await.unwrap().unwrap();
    assert_ne!(
        first.manifest["training"]["seed"],
        third.manifest["training"]["seed"]
    );
    let told = store.decisions(Some("f"), None, 1).await.unwrap();
    let same_model = first.manifest["onnx_sha256"] == third.manifest["onnx_sha256"];
    assert_eq!(
        told[0].reason.contains("another one"),
        !same_model,
        "{}",
        told[0].reason
    );
    // Rows that are gone are missed.
    psql(
        &bed,
        "DELETE FROM readings WHERE time < '2026-01-03'; DELETE FROM feature_rows WHERE time < '2026-01-03'",
    );
    let said = again(&bed, id).unwrap_err();
    assert!(said.contains("not all there any more"), "{said}");
}
