//! What happens around a training, on a real PostgreSQL: a database or keys that are away cost no work, a champion that is gone no title.

use fieldcast_hub::jobs::Worker;
use fieldcast_hub::rollout::plan::Plan;
use fieldcast_hub::rollout::rows;
use fieldcast_store::aliases::Title;
use fieldcast_store::model_versions::Concluded;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::learning::{begun, enqueue, feed, signer, train};
use crate::support::{conclude, conclude_all, psql, register};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_back_gets_no_title_and_is_judged_anew_without_its_champion() {
    let bed = begun().await;
    let store = &bed.store;
    // As a run that is made again, after the first rollout went back.
    register(store, "f", 1).await;
    assert!(store.champion("f").await.unwrap().is_none());
    enqueue(store, json!({})).await;
    let job = store.claim_job("w", 30.0, None).await.unwrap().unwrap();
    let of = ("f", 2, &b"new"[..]);
    // Worse than version 1, which went back meanwhile.
    let late = conclude_all(store, &job.claim(), of, None, Some(1)).await;
    assert_eq!(late, Concluded::Overtaken);
    assert!(store.model_version("f", 2).await.unwrap().is_none());
    // Judged anew there is nobody to beat: the title comes with the rollout.
    let plan = Plan::all_at_once(0);
    let rollout = rows::prepare(store, "f", 2, plan, "run").await.unwrap();
    let done = conclude_all(store, &job.claim(), of, Some(rollout), None).await;
    assert!(matches!(done, Concluded::Stored(_)), "{done:?}");
    let champion = store.champion("f").await.unwrap().unwrap();
    assert!(champion.version == 2 && champion.on_trial, "{champion:?}");
    assert_eq!(store.holder(Title::Challenger, "f").await.unwrap(), None);
    let open = store.open_rollouts().await.unwrap();
    assert_eq!(open[0].previous_version, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_the_keys_leaves_the_job_to_others_and_a_stored_result_stays() {
    let bed = begun().await;
    let store = &bed.store;
    store.put_key_list(9, b"lost", "ann").await.unwrap();
    let id = enqueue(store, json!({})).await;
    let worker = Worker::new(store.clone(), signer(&bed));
    // More often than a job may fail.
    for _ in 0..4 {
        let done = worker.once(Some(id), &CancellationToken::new()).await;
        assert_eq!(done.unwrap(), Some(id));
        let job = store.job(id).await.unwrap().unwrap();
        assert_eq!((job.status.as_str(), job.error), ("queued", None));
        let soon = store.claim_job("soon", 30.0, Some(id)).await.unwrap();
        assert!(soon.is_none(), "it waits");
        psql(&bed, "UPDATE jobs SET run_after = now()");
    }
    let told = store.job_lines(id, 0).await.unwrap();
    assert!(told.iter().any(|l| l.line.contains("`keys` folder")));
    // All is stored, and the connection breaks before the worker hears of it.
    let job = store.claim_job("w", 30.0, Some(id)).await.unwrap().unwrap();
    let result = conclude(store, &job.claim(), "f", 1).await;
    let broken = Err(("the database is away".to_owned(), Some(1.0)));
    let ended = store.finish_job(&job, "w", broken).await.unwrap();
    assert_eq!(ended.as_deref(), Some("succeeded"));
    let job = store.job(id).await.unwrap().unwrap();
    assert_eq!((job.result, job.error), (result, None));
    assert!(job.finished_at.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_late_in_a_training_is_waited_for() {
    let bed = begun().await;
    let store = &bed.store;
    feed(store, 1, 0, 60).await;
    train(&bed).await;
    feed(store, 2, 60, 90).await;
    // Whoever reads the bytes of a bundle is told that the server shuts down.
    psql(
        &bed,
        "UPDATE bundles SET size = length(bytes); ALTER TABLE bundles RENAME TO elsewhere;
         CREATE FUNCTION away(bytea) RETURNS bytea STABLE LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'the server shuts down' USING ERRCODE = '57P01'; END $$;
         CREATE VIEW bundles AS SELECT sha, away(bytes) AS bytes, size, removed_at, restored_at FROM elsewhere;",
    );
    let id = enqueue(store, json!({"max_epochs": 0})).await;
    let worker = Worker::new(store.clone(), signer(&bed));
    for policy in ["{}", r#"{"warm_start": true}"#] {
        psql(
            &bed,
            &format!(
                "UPDATE forecasters SET retraining = '{policy}'; UPDATE jobs SET run_after = now()"
            ),
        );
        worker
            .once(Some(id), &CancellationToken::new())
            .await
            .unwrap();
        let job = store.job(id).await.unwrap().unwrap();
        let why = job.error.unwrap_or_default();
        assert_eq!(job.status, "queued", "{why}");
        assert!(why.contains("the server shuts down"), "{why}");
    }
    let told = store.job_lines(id, 0).await.unwrap();
    let refused = told.iter().any(|l| l.line.starts_with("warm start"));
    assert!(!refused, "{told:?}");
    psql(
        &bed,
        "DROP VIEW bundles; ALTER TABLE elsewhere RENAME TO bundles; UPDATE jobs SET run_after = now()",
    );
    worker
        .once(Some(id), &CancellationToken::new())
        .await
        .unwrap();
    let job = store.job(id).await.unwrap().unwrap();
    assert_eq!(job.status, "succeeded", "{:?}", job.error);
}
