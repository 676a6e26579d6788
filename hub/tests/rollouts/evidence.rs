//! Evidence on a real PostgreSQL: what a device sends of two models decides which of them it runs.

use fieldcast_hub::ingest::Ingestor;
use fieldcast_hub::rollout::driver::Rounds;
use fieldcast_hub::rollout::policy::{Kind, Policy};
use fieldcast_hub::rollout::rows::evidence_of;
use fieldcast_wire::{RecordBody, Sha256, pb};
use serde_json::json;

use crate::support::{self, job, payload, register, roll_out};
use crate::{obey, one, order, status};

const DAY: i64 = 86_400_000;

/// What device `a` sends of a day on which version 1 ran and another watched, with that many times its loss.
fn day(number: i64, watching: i64, times: f64) -> RecordBody {
    // Days differ, and so do models from day to day.
    let old = 2.0 + 0.3 * ((number * 5 % 7) as f64 - 3.0) / 3.0;
    let new = old * (times + 0.05 * ((number * 3 % 5) as f64 - 2.0));
    RecordBody::Paired(pb::PairedLosses {
        forecaster: "f".into(),
        running: Sha256::of(b"f 1").0.to_vec(),
        watching: Sha256::of(format!("f {watching}").as_bytes()).0.to_vec(),
        running_version: 1,
        watching_version: watching.unsigned_abs(),
        from_ms: (20_000 + number) * DAY,
        to_ms: (20_001 + number) * DAY,
        origins: 24,
        steps: 144,
        running_abs: old,
        watching_abs: new,
        running_quantile: old / 2.0,
        watching_quantile: new / 2.0,
        ..Default::default()
    })
}

#[tokio::test]
async fn a_challenger_is_watched_and_only_the_better_one_gets_further() {
    let (bed, driver) = one().await;
    let (store, mut rounds, mut n) = (&bed.store, Rounds::default(), 0);
    let mut ingestor = Ingestor::new(store.clone()).await.unwrap();
    let policy = Policy {
        soak: "0s".into(),
        ..serde_json::from_value(json!({"evidence": {"max_blocks": 40}})).unwrap()
    };
    policy.validate().unwrap();
    let first = roll_out(store, 1, policy.plan(Kind::First, 3_600_000)).await;
    driver.tick(&mut rounds).await;
    obey(store, &["a"], &mut n).await;
    driver.tick(&mut rounds).await;
    assert_eq!(status(store, first).await, "succeeded");

    let (mut seq, mut batch) = (1, 1);
    // A fifth worse, the same, three tenths better.
    for (version, times, expected, word) in [
        (2, 1.2, "rolled_back", "shown to be worse"),
        (3, 1.0, "rolled_back", "not shown to be better"),
        (4, 0.7, "succeeded", "healthy on 1 of 1"),
    ] {
        register(store, "f", version).await;
        let plan = policy.plan(Kind::Challenger, 3_600_000);
        let rollout = roll_out(store, version, plan).await;
        driver.tick(&mut rounds).await;
        let watch = order(store, "a").await.unwrap();
        assert_eq!(
            (watch.stage(), watch.model_version),
            (pb::Stage::Shadow, version.unsigned_abs())
        );
        obey(store, &["a"], &mut n).await;
        driver.tick(&mut rounds).await;
        let (row, _) = store.rollout(rollout).await.unwrap().unwrap();
        assert!(row.reason.contains("no block"), "{}", row.reason);
        let mut decided = None;
        for number in 0..60 {
            // What another model did is beside the point.
            let bodies = vec![day(number, version, times), day(number, 9, 0.1)];
            let bytes = payload(support::epoch(1), batch, seq, bodies);
            let written = ingestor.write(&[job("a", &bytes)]).await.unwrap();
            assert!(written.acks[0].1.rejected.is_empty());
            (seq, batch) = (seq + 2, batch + 1);
            driver.tick(&mut rounds).await;
            let order = order(store, "a").await.unwrap();
            if order.generation != watch.generation {
                decided = Some((number, order));
                break;
            }
        }
        let (days, ordered) = decided.expect("decided in sixty days");
        assert!(days >= 7, "decided after {days} days");
        let next = if expected == "succeeded" { version } else { 1 };
        assert_eq!(
            (ordered.model_version, ordered.stage()),
            (next.unsigned_abs(), pb::Stage::Active)
        );
        for _ in 0..4 {
            obey(store, &["a"], &mut n).await;
            driver.tick(&mut rounds).await;
        }
        let (row, _) = store.rollout(rollout).await.unwrap().unwrap();
        assert_eq!(row.status, expected, "{}", row.reason);
        assert!(row.reason.starts_with(word), "{}", row.reason);
        let known = evidence_of(&row).unwrap();
        assert_eq!(i64::from(known.challenger), version - 1);
        assert!(
            known.needed_better > 20.0 && known.devices == 1,
            "{known:?}"
        );
        println!("version {version}, {days} days: {known}");
    }
    assert_eq!(store.champion("f").await.unwrap().unwrap().version, 4);
}

#[tokio::test]
async fn a_challenger_is_compared_with_what_runs_where_every_device_gave_the_champion_up() {
    let (bed, driver) = one().await;
    let (store, mut rounds, mut n) = (&bed.store, Rounds::default(), 0);
    let mut ingestor = Ingestor::new(store.clone()).await.unwrap();
    let policy = Policy {
        soak: "0s".into(),
        ..Policy::default()
    };
    let first = roll_out(store, 1, policy.plan(Kind::First, 3_600_000)).await;
    driver.tick(&mut rounds).await;
    obey(store, &["a"], &mut n).await;
    driver.tick(&mut rounds).await;
    assert_eq!(status(store, first).await, "succeeded");
    register(store, "f", 2).await;
    let rollout = roll_out(store, 2, policy.plan(Kind::Successor, 3_600_000)).await;
    driver.tick(&mut rounds).await;
    let watch = order(store, "a").await.unwrap();
    obey(store, &["a"], &mut n).await;
    // Its own baseline makes the device's forecasts.
    for number in 0..12 {
        let RecordBody::Paired(pair) = day(number, 2, 0.9) else {
            unreachable!("a pair")
        };
        let bodies = vec![RecordBody::Paired(pb::PairedLosses {
            running: Vec::new(),
            running_version: 0,
            ..pair
        })];
        let at = 1 + number.unsigned_abs();
        let bytes = payload(support::epoch(1), at, at, bodies);
        let written = ingestor.write(&[job("a", &bytes)]).await.unwrap();
        assert!(written.acks[0].1.rejected.is_empty());
        driver.tick(&mut rounds).await;
    }
    let ordered = order(store, "a").await.unwrap();
    assert!(ordered.generation > watch.generation);
    assert_eq!(
        (ordered.model_version, ordered.stage()),
        (2, pb::Stage::Active)
    );
    for _ in 0..4 {
        obey(store, &["a"], &mut n).await;
        driver.tick(&mut rounds).await;
    }
    assert_eq!(status(store, rollout).await, "succeeded");
    let (row, _) = store.rollout(rollout).await.unwrap().unwrap();
    let known = evidence_of(&row).unwrap();
    assert!(
        known.instead >= 7 && known.instead == known.blocks,
        "{known:?}"
    );
}
