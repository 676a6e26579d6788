//! A world that changes while a rollout is open, on a real PostgreSQL: the version that learnt from the world before goes back, once,
//! and the retraining that follows knows since when.

use std::collections::HashMap;

use fieldcast_hub::drift::{check_all, verdict::Rules};
use fieldcast_hub::ingest::Ingestor;
use fieldcast_hub::rollout::driver::{Driver, Rounds};
use fieldcast_hub::rollout::plan::{Mode, Plan, Stage};
use fieldcast_hub::rollout::rows::prepare;
use fieldcast_store::Store;
use fieldcast_store::rollouts::BY_TRAINING;
use fieldcast_wire::{RecordBody, pb};
use serde_json::json;

use crate::support::learning::checked;
use crate::support::{self, Bed, crown, job, payload, psql, reading, register};
use crate::{obey, one, order, status};

pub(crate) const JAN_2026: i64 = 1_767_225_600_000;
pub(crate) const DAY_MS: i64 = 86_400_000;
/// The champion learnt until the first day, its errors grow on this one.
pub(crate) const CHANGE: i64 = 18;

/// Forty days of a constant target on device `a`, each hour with the champion's forecast; its errors are doubled and more from
/// the change on.
async fn live(store: &Store) {
    let hour_ms = DAY_MS / 24;
    let mut records = Vec::new();
    for hour in 0..40 * 24 {
        let (time, day) = (JAN_2026 + hour * hour_ms, hour / 24);
        let usual = 1.0 + 0.05 * (day % 3 - 1) as f64;
        let error = usual * if day >= CHANGE { 2.5 } else { 1.0 };
        records.push(reading("demand", time, 20.0));
        records.push(RecordBody::Forecast(pb::Forecast {
            forecaster: "f".into(),
            origin_ms: time,
            period_ms: hour_ms,
            mean: vec![20.0 + error; 6],
            made_by: "bundle".into(),
            bundle: vec![1; 32],
            model_version: 1,
            ..pb::Forecast::default()
        }));
    }
    let bytes = payload(support::epoch(1), 1, 1, records);
    let mut ingestor = Ingestor::new(store.clone()).await.unwrap();
    let written = ingestor.write(&[job("a", &bytes)]).await.unwrap();
    assert_eq!(written.acks.len(), 1);
}

/// A champion whose promise holds until the change, and a version 2 that learnt until a day.
async fn two(learnt_until: i64) -> (Bed, Driver) {
    let (bed, driver) = one().await;
    register(&bed.store, "f", 2).await;
    let daily = json!({"mean": 0.0, "between": 0.1, "std": 0.2, "lag1": 0.0, "fleet_std": 0.1, "days": 60, "levels": {"a": 0.0}});
    let manifest = json!({"calibration": {"daily": daily}});
    for (version, until) in [(1, 0), (2, learnt_until)] {
        let lineage =
            json!({"data_from": JAN_2026 - 300 * DAY_MS, "data_until": JAN_2026 + until * DAY_MS});
        psql(
            &bed,
            &format!(
                "UPDATE model_versions SET manifest = '{manifest}', lineage = '{lineage}' WHERE version = {version}"
            ),
        );
    }
    live(&bed.store).await;
    (bed, driver)
}

/// Version 2 watches on device `a`.
async fn watching(store: &Store, driver: &Driver, rounds: &mut Rounds, by: &str) -> i64 {
    let plan = Plan {
        stages: vec![
            Stage {
                // It stays open.
                soak_ms: 365 * DAY_MS,
                ..Stage::usual("shadow", Mode::Shadow, 100, 3_600_000)
            },
            Stage::usual("all", Mode::Active, 100, 3_600_000),
        ],
        floor: 0,
    };
    let rollout = prepare(store, "f", 2, plan, by).await.unwrap();
    let id = crate::created(store, &rollout).await;
    driver.tick(rounds).await;
    let ordered = order(store, "a").await.unwrap();
    assert_eq!(
        (ordered.model_version, ordered.stage()),
        (2, pb::Stage::Shadow)
    );
    id
}

/// A hub that just started looks at everything.
async fn look(store: &Store) {
    check_all(store, &Rules::default(), &mut HashMap::new(), true)
        .await
        .unwrap();
}

/// The first of [`two`] versions is what device `a` runs; with the number of its last word.
pub(crate) async fn champion() -> (Bed, Driver, Rounds, u64) {
    let (bed, driver) = two(10).await;
    let (mut rounds, mut n) = (Rounds::default(), 0);
    let first = crate::start(&bed.store, 1).await;
    driver.tick(&mut rounds).await;
    obey(&bed.store, &["a"], &mut n).await;
    driver.tick(&mut rounds).await;
    assert_eq!(status(&bed.store, first).await, "succeeded");
    (bed, driver, rounds, n)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_after_what_it_learnt_takes_a_rollout_back_once_and_a_retraining_follows() {
    let (bed, driver, mut rounds, mut n) = champion().await;
    let store = &bed.store;
    let open = watching(store, &driver, &mut rounds, &format!("{BY_TRAINING}7")).await;
    obey(store, &["a"], &mut n).await;
    driver.tick(&mut rounds).await;
    assert_eq!(status(store, open).await, "running");

    // Two hubs find it at the same time, and a third before the rollout has moved.
    tokio::join!(look(store), look(store));
    look(store).await;
    let told = checked(store).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].decision, "outdated");
    for word in ["version 2", "2026-01-11", "2.5", "since 2026-01-19"] {
        assert!(told[0].reason.contains(word), "{word}: {}", told[0].reason);
    }
    let report = told[0].drift_report.unwrap();
    let report = store.drift_report(report).await.unwrap().unwrap();
    assert!(report.confirmed && report.model_version == 1);
    assert!(
        store.live_jobs().await.unwrap().is_empty(),
        "first it goes back"
    );

    driver.tick(&mut rounds).await;
    let (row, _) = store.rollout(open).await.unwrap().unwrap();
    assert_eq!(row.status, "rolling_back");
    assert_eq!(row.reason, told[0].reason);
    look(store).await;
    assert_eq!(
        checked(store).await.len(),
        1,
        "what goes back is left alone"
    );
    let back = order(store, "a").await.unwrap();
    assert_eq!((back.model_version, back.stage()), (1, pb::Stage::Active));
    obey(store, &["a"], &mut n).await;
    driver.tick(&mut rounds).await;
    assert_eq!(status(store, open).await, "rolled_back");
    assert_eq!(store.champion("f").await.unwrap().unwrap().version, 1);

    // What was told of a version is not looked at again before a week of data, where nobody complains.
    psql(
        &bed,
        "UPDATE drift_reports SET data_time = data_time - interval '7 days'",
    );
    look(store).await;
    let told = checked(store).await;
    assert_eq!(told[0].decision, "retrain", "{}", told[0].reason);
    let jobs = store.live_jobs().await.unwrap();
    assert_eq!(jobs.len(), 1);
    let onset = (jobs[0].payload["onset"].as_i64().unwrap() - JAN_2026) / DAY_MS;
    assert!((CHANGE - 1..=CHANGE + 1).contains(&onset), "{onset}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_learnt_from_the_change_goes_on_and_what_a_person_began_is_left_to_that_person() {
    // The change was seen by version 2.
    let (bed, driver) = two(30).await;
    let (store, mut rounds) = (&bed.store, Rounds::default());
    crown(store, "f", 1).await;
    let open = watching(store, &driver, &mut rounds, &format!("{BY_TRAINING}7")).await;
    look(store).await;
    assert!(checked(store).await.is_empty(), "there is nothing newer");
    driver.tick(&mut rounds).await;
    assert_eq!(status(store, open).await, "running");
    // It was not, but it is a person's.
    psql(&bed, "UPDATE rollouts SET created_by = 'ann'");
    let lineage = json!({"data_until": JAN_2026 + 10 * DAY_MS});
    psql(
        &bed,
        &format!("UPDATE model_versions SET lineage = '{lineage}' WHERE version = 2"),
    );
    look(store).await;
    let told = checked(store).await;
    assert_eq!((told.len(), told[0].decision.as_str()), (1, "wait"));
    assert!(
        told[0].reason.contains("ann began")
            && told[0].reason.contains(&format!("rollout abort {open}")),
        "{}",
        told[0].reason
    );
    driver.tick(&mut rounds).await;
    assert_eq!(status(store, open).await, "running");
}
