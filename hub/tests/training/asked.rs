//! What people ask of trainings, on a real PostgreSQL: that one ends, and that another begins beside it.

use std::time::{Duration, Instant};

use fieldcast_hub::jobs::Worker;
use fieldcast_hub::training::KIND;
use fieldcast_store::jobs::Cancel;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::learning::{begun, enqueue, feed, signer, train, train_with};
use crate::support::{deadline, process, psql};

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_cancelled_wherever_it_is() {
    let bed = begun().await;
    let store = &bed.store;
    feed(store, 1, 0, 60).await;
    // Another hub makes the feature rows, and takes its time.
    let busy = store.try_lock_features("f").await.unwrap().unwrap();
    let id = enqueue(store, json!({})).await;
    let worker = Worker::new(store.clone(), signer(&bed));
    let cancel = async {
        let until = deadline();
        while store.job(id).await.unwrap().unwrap().progress == 0.0 {
            assert!(Instant::now() < until, "it does not begin");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let asked = store.cancel_job(id, "enough").await.unwrap();
        assert_eq!(asked, Cancel::Asked("running".into()));
    };
    let end = CancellationToken::new();
    let both = async { tokio::join!(worker.once(None, &end), cancel) };
    let ended = tokio::time::timeout(Duration::from_secs(60), both).await;
    assert_eq!(ended.expect("it goes on").0.unwrap(), Some(id));
    busy.release().await;
    assert_eq!(store.job(id).await.unwrap().unwrap().status, "cancelled");
    // Whose worker died, ends at once: nobody else may ever look.
    let id = enqueue(store, json!({})).await;
    store.claim_job("dead", 0.0, None).await.unwrap().unwrap();
    let asked = store.cancel_job(id, "enough").await.unwrap();
    assert_eq!(asked, Cancel::Asked("cancelled".into()));
    // What is stored with its model is no longer anybody's to cancel.
    let id = train(&bed).await.id;
    psql(
        &bed,
        "UPDATE jobs SET status = 'running' WHERE result IS NOT NULL",
    );
    let late = store.cancel_job(id, "too late").await.unwrap();
    assert_eq!(late, Cancel::Over("running".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_beside_a_live_training_is_followed_or_refused_and_never_dropped() {
    let bed = begun().await;
    let store = &bed.store;
    feed(store, 1, 0, 60).await;
    let config = bed.dir.path().join("ridge.toml");
    std::fs::write(&config, "max_epochs = 0\n").unwrap();
    let (dir, url) = (bed.dir.path(), bed.url("t"));
    let train = ["--json", "train", "f", "--config", config.to_str().unwrap()];
    let run = |more: &[&str]| {
        let all = [&train[..], more].concat();
        let out = tokio::task::block_in_place(|| process::run(dir, &url, &all));
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        serde_json::from_slice::<Value>(&out.stdout).map_err(|_| said)
    };
    let first = run(&["--detach"]).unwrap();
    assert_eq!(run(&["--detach"]).unwrap(), first);
    let other = run(&["--detach", "--seed", "7"]).unwrap_err();
    assert!(
        other.contains("run cancel") && other.contains("something else"),
        "{other}"
    );
    // Its worker dies, and there is no other: who follows it sees it to its end.
    store.claim_job("dead", 0.0, None).await.unwrap().unwrap();
    let done = run(&[]).unwrap();
    assert_eq!(done["training_run"], first["training_run"]);
    assert_eq!(done["result"]["model_version"], 1, "{done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_that_brings_no_settings_takes_those_of_the_forecasters_policy() {
    let bed = begun().await;
    let store = &bed.store;
    psql(
        &bed,
        r#"UPDATE forecasters SET retraining = '{"training": {"max_epochs": 0, "forest": false}}'"#,
    );
    feed(store, 1, 0, 60).await;
    let worker = Worker::new(store.clone(), signer(&bed));
    let request = json!({"trigger": "drift", "reason": "test", "seed": 5});
    store.enqueue(KIND, "f", &request).await.unwrap();
    worker.once(None, &CancellationToken::new()).await.unwrap();
    let own = json!({"max_epochs": 0, "ridge_penalties": [0.5]});
    train_with(&bed, own).await;
    let mut used = Vec::new();
    for version in [1, 2] {
        let row = store.model_version("f", version).await.unwrap().unwrap();
        used.push(row.lineage["config"].clone());
    }
    assert_eq!(used[0]["max_epochs"], 0);
    assert_eq!(
        (&used[0]["forest"], &used[0]["seed"]),
        (&json!(false), &json!(5))
    );
    // Of the policy's settings none is left where a training brings its own.
    assert_eq!(
        (&used[1]["forest"], &used[1]["ridge_penalties"]),
        (&json!(true), &json!([0.5]))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_or_an_onset_that_cannot_be_is_refused_and_breaks_no_list() {
    let bed = begun().await;
    let store = &bed.store;
    feed(store, 1, 0, 60).await;
    let refused = |more: &[&str]| {
        let all = [&["train", "f", "--detach"][..], more].concat();
        let refused = || process::refused(bed.dir.path(), &bed.url("t"), &all);
        tokio::task::block_in_place(refused)
    };
    let seed = refused(&["--seed", "9223372036854775808"]);
    assert!(seed.contains("9223372036854775807"), "{seed}");
    // The newest reading is of the first of March.
    for onset in ["2026-06-01T00:00:00Z", "2999-01-01T00:00:00Z"] {
        let said = refused(&["--onset", onset]);
        assert!(said.contains("lies after 2026-03-01"), "{said}");
    }
    assert!(store.live_jobs().await.unwrap().is_empty());
    // What others asked for before is listed all the same.
    for (seed, shown) in [(json!(u64::MAX), i64::MAX), (json!(-1), 0), (json!("x"), 1)] {
        let request = json!({"trigger": "person", "reason": "", "seed": seed});
        store.enqueue(KIND, "f", &request).await.unwrap();
        let listed = store.training_runs(Some("f"), None, 1).await.unwrap();
        assert_eq!(listed[0].seed, shown);
        psql(&bed, "UPDATE jobs SET status = 'failed'");
    }
}
