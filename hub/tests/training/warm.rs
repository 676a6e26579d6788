//! Trainings that begin at a model there is, on a real PostgreSQL: at the same forecaster's champion, or at another's.

use fieldcast_hub::jobs::Worker;
use fieldcast_hub::training::KIND;
use fieldcast_store::model_versions::ModelVersionRow;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::again;
use crate::support::learning::{begun, feed, signer, train_with};
use crate::support::{Bed, define, psql};

#[tokio::test(flavor = "multi_thread")]
async fn a_retraining_also_begins_at_the_champions_weights_and_says_which_beginning_was_better() {
    let bed = begun().await;
    let store = &bed.store;
    psql(
        &bed,
        r#"UPDATE forecasters SET retraining = '{"warm_start": true}'"#,
    );
    feed(store, 1, 0, 60).await;
    let short = json!({"max_epochs": 2, "seeds": 1, "forest": false});
    let train = async || {
        let job = train_with(&bed, short.clone()).await;
        let version = job.result.unwrap()["model_version"].as_i64().unwrap();
        let row = store.model_version("f", version).await.unwrap().unwrap();
        (job.id, row)
    };
    let (_, first) = train().await;
    assert!(first.lineage["warm"].is_null(), "nothing to begin at");
    assert!(first.champion);
    assert_ne!(first.lineage["chosen"], "ridge", "heads are wanted here");

    // The champion saw days that would select: what it knows must not speak for it.
    feed(store, 2, 60, 75).await;
    let (_, near) = train().await;
    let said = near.lineage["warm"]["reason"].as_str().unwrap();
    assert!(said.contains("seen rows that select"), "{said}");
    assert_eq!(near.lineage["warm"]["taken"], false);

    feed(store, 3, 75, 150).await;
    let (run, far) = train().await;
    let warm = &far.lineage["warm"];
    let (scratch, begun) = (
        warm["scratch"].as_f64().unwrap(),
        warm["warm"].as_f64().unwrap(),
    );
    assert_eq!(warm["taken"], json!(begun < scratch), "{warm}");
    assert_eq!(warm["onnx"], first.manifest["onnx_sha256"], "{warm}");
    let sealed = &far.manifest["training"]["parent"];
    let expected = match begun < scratch {
        true => first.manifest["onnx_sha256"].clone(),
        false => Value::Null,
    };
    assert_eq!(*sealed, expected);

    // Made again, it begins where it began, whoever is champion now.
    let answer = again(&bed, run).unwrap();
    let reason = answer["result"]["reason"].as_str().unwrap();
    assert!(reason.contains("the same, bit for bit"), "{reason}");
}

/// A forecaster whose trainings also begin at the champion of `with`, and the first model of it.
async fn first(bed: &Bed, name: &str, with: &str, other: Value) -> ModelVersionRow {
    define(&bed.store, name, other).await;
    let policy =
        json!({"begin_with": with, "training": {"max_epochs": 2, "seeds": 1, "forest": false}});
    psql(
        bed,
        &format!("UPDATE forecasters SET retraining = '{policy}' WHERE name = '{name}'"),
    );
    let request = json!({"trigger": "person", "reason": "test"});
    let id = bed.store.enqueue(KIND, name, &request).await.unwrap().0;
    let worker = Worker::new(bed.store.clone(), signer(bed));
    worker.once(None, &CancellationToken::new()).await.unwrap();
    let job = bed.store.job(id).await.unwrap().unwrap();
    assert_eq!(job.status, "succeeded", "{:?}", job.error);
    let made = bed.store.model_version(name, 1).await.unwrap();
    made.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_groups_first_model_also_begins_at_the_champion_of_the_forecaster_of_all() {
    let bed = begun().await;
    let store = &bed.store;
    psql(&bed, r#"UPDATE devices SET labels = '{"line": "a"}'"#);
    feed(store, 1, 0, 60).await;
    train_with(&bed, json!({"max_epochs": 2, "seeds": 1, "forest": false})).await;
    let all = store.champion("f").await.unwrap().unwrap();
    let until = all.lineage["data_until"].as_i64().unwrap();
    let group = json!({"selector": {"labels": {"line": "a"}}});

    // Nothing has happened since that the other has not seen: it would be judged on what it knows.
    let near = first(&bed, "near", "f", group.clone()).await;
    let said = near.lineage["warm"]["reason"].as_str().unwrap();
    assert!(said.contains("seen rows that select"), "{said}");
    for (name, with, other, why) in [
        (
            "long",
            "f",
            json!({"lookback": 72}),
            "of another definition",
        ),
        ("lone", "nobody", json!({}), "no champion of `nobody`"),
    ] {
        let made = first(&bed, name, with, other).await;
        let warm = &made.lineage["warm"];
        assert!(warm["reason"].as_str().unwrap().contains(why), "{warm}");
        assert!(warm["taken"] == false && made.champion, "{warm}");
    }

    feed(store, 2, 60, 75).await;
    let made = first(&bed, "line-a", "f", group).await;
    let warm = &made.lineage["warm"];
    assert_eq!(warm["forecaster"], "f", "{warm}");
    assert_eq!(warm["version"], all.version, "{warm}");
    assert_eq!(warm["onnx"], all.manifest["onnx_sha256"], "{warm}");
    let (scratch, begun) = (warm["scratch"].as_f64(), warm["warm"].as_f64());
    assert_eq!(warm["taken"], json!(begun.unwrap() < scratch.unwrap()));
    // It was chosen on days that were new to both.
    assert!(made.lineage["split"]["select_from"].as_i64().unwrap() > until);
    let sealed = &made.manifest["training"]["parent"];
    let expected = match warm["taken"] == true {
        true => all.manifest["onnx_sha256"].clone(),
        false => Value::Null,
    };
    assert_eq!(*sealed, expected);

    // Made again, it begins where it began, though it has a champion of its own now.
    let run = made.lineage["training_run"].as_i64().unwrap();
    let answer = again(&bed, run).unwrap();
    let reason = answer["result"]["reason"].as_str().unwrap();
    assert!(reason.contains("the same, bit for bit"), "{reason}");
}
