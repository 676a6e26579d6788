//! Rollouts on a real PostgreSQL, with devices that only report: which orders stand, what ends, and who keeps the title.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod support;

use std::sync::Arc;

use fieldcast_hub::downlink::Downlink;
use fieldcast_hub::rollout::driver::{self, Driver, Rounds};
use fieldcast_hub::rollout::plan::{Mode, Plan, Stage};
use fieldcast_hub::signing::Signer;
use fieldcast_store::Store;
use fieldcast_store::desired::NewOrder;
use fieldcast_store::rollouts::NewRollout;
use fieldcast_wire::{Sha256, SiteId, message, pb};
use serde_json::json;
use support::{Bed, add_device, bed, define, register};

fn driver(bed: &Bed) -> Driver {
    let signer = Arc::new(Signer::open(&bed.dir.path().join("keys")).unwrap());
    let site = SiteId::new("s").unwrap();
    Driver {
        store: bed.store.clone(),
        signer: signer.clone(),
        downlink: Downlink::new(&site, bed.store.clone(), signer),
        site,
    }
}

/// One model, `f` version 1, and one device that may connect, `a`.
async fn one() -> (Bed, Driver) {
    let bed = bed().await;
    add_device(&bed.store, "a", Some("secret")).await;
    define(&bed.store, "f", json!({})).await;
    register(&bed.store, "f", 1).await;
    let driver = driver(&bed);
    (bed, driver)
}

async fn order(store: &Store, device: &str) -> Option<pb::Order> {
    let signed = store.desired_of(device).await.unwrap().pop()?;
    let signed: pb::Signed = message::decode("order", &signed).unwrap();
    Some(message::decode("order", &signed.payload).unwrap())
}

/// Device `a` is connected and reports on `f`.
async fn say(store: &Store, n: u64, phase: pb::ModelPhase, running: &[u8], generation: u64) {
    say_of(store, "a", n, phase, (running, 0), generation).await;
}

/// A device is connected and reports on `f`; `running` is the bundle that makes its forecasts and the version in it.
async fn say_of(
    store: &Store,
    device: &str,
    n: u64,
    phase: pb::ModelPhase,
    running: (&[u8], u64),
    generation: u64,
) {
    store.presence(device, 1, true, "").await.unwrap();
    let state = pb::State {
        boot: 1,
        n,
        forecasters: vec![pb::ForecasterState {
            forecaster: "f".into(),
            running: running.0.to_vec(),
            model_version: running.1,
            phase: phase as i32,
            generation,
            ..Default::default()
        }],
        ..Default::default()
    };
    let raw = message::encode(&state);
    assert!(
        store
            .put_state(device, &state, &json!({}), &raw)
            .await
            .unwrap()
    );
}

async fn status(store: &Store, rollout: i64) -> String {
    store.rollout(rollout).await.unwrap().unwrap().0.status
}

async fn start(store: &Store, version: i64) -> i64 {
    driver::start(store, "f", version, Plan::all_at_once(), "ann")
        .await
        .unwrap()
}

#[tokio::test]
async fn a_first_model_that_goes_back_is_ordered_away_and_the_answer_ends_the_rollout() {
    let (bed, driver) = one().await;
    let (store, mut rounds) = (&bed.store, Rounds::default());
    let rollout = start(store, 1).await;
    driver.tick(&mut rounds).await;
    let forward = order(store, "a").await.unwrap();
    assert_eq!((forward.model_version, forward.generation), (1, 1));
    say(store, 1, pb::ModelPhase::Active, &forward.bundle, 1).await;
    store
        .command_rollout(rollout, "abort", "ann")
        .await
        .unwrap();
    driver.tick(&mut rounds).await;
    let back = order(store, "a").await.unwrap();
    assert_eq!((back.model_version, back.generation), (0, 2));
    assert_eq!((back.bundle.len(), back.bundle_size), (0, 0));
    assert_eq!(back.stage(), pb::Stage::Active);
    driver.tick(&mut rounds).await;
    assert_eq!(status(store, rollout).await, "rolling_back");
    say(store, 2, pb::ModelPhase::None, &[], 2).await;
    driver.tick(&mut rounds).await;
    assert_eq!(status(store, rollout).await, "rolled_back");
    assert!(store.champion("f").await.unwrap().is_none());
    driver.tick(&mut rounds).await;
    assert_eq!(order(store, "a").await.unwrap().generation, 2);
}

#[tokio::test]
async fn aborting_a_rollout_of_the_champion_leaves_it_the_champion() {
    let (bed, driver) = one().await;
    let (store, mut rounds) = (&bed.store, Rounds::default());
    let first = start(store, 1).await;
    driver.tick(&mut rounds).await;
    let bundle = order(store, "a").await.unwrap().bundle;
    say(store, 1, pb::ModelPhase::Healthy, &bundle, 1).await;
    driver.tick(&mut rounds).await;
    assert_eq!(status(store, first).await, "succeeded");

    let again = start(store, 1).await;
    driver.tick(&mut rounds).await;
    store.command_rollout(again, "abort", "ann").await.unwrap();
    driver.tick(&mut rounds).await;
    let back = order(store, "a").await.unwrap();
    assert_eq!((&back.bundle, back.model_version), (&bundle, 1));
    say(store, 2, pb::ModelPhase::Healthy, &bundle, back.generation).await;
    driver.tick(&mut rounds).await;
    assert_eq!(status(store, again).await, "rolled_back");
    assert_eq!(store.champion("f").await.unwrap().unwrap().version, 1);
}

#[tokio::test]
async fn a_rollout_that_cannot_be_read_holds_up_no_other_and_orders_wait_for_a_connection() {
    let (bed, driver) = one().await;
    let (store, mut rounds) = (&bed.store, Rounds::default());
    define(store, "broken", json!({})).await;
    register(store, "broken", 1).await;
    let broken = NewRollout {
        forecaster: "broken",
        model_version: 1,
        machine: json!({"status": "running", "reason": ""}),
        devices: Vec::new(),
        by: "ann".into(),
    };
    let broken = store.create_rollout(&broken).await.unwrap();
    let rollout = start(store, 1).await;
    assert!(broken < rollout);
    driver.tick(&mut rounds).await;
    assert_eq!(order(store, "a").await.unwrap().forecaster, "f");
    driver.tick(&mut rounds).await;
    assert!(
        rounds.unpublished.contains("a"),
        "it is still to be published"
    );
}

#[tokio::test]
async fn who_may_connect_gets_the_champion_and_gets_it_anew_when_the_order_expires() {
    let (bed, driver) = one().await;
    let (store, mut rounds) = (&bed.store, Rounds::default());
    // Made by an import: nobody will ever connect as it.
    add_device(store, "imported", None).await;
    driver.tick(&mut rounds).await;
    let first = order(store, "a").await.unwrap();
    assert_eq!((first.model_version, first.generation), (1, 1));
    assert!(order(store, "imported").await.is_none());
    let mut orders = store.lock_orders("f").await.unwrap();
    let expired = NewOrder {
        device: "a",
        forecaster: "f",
        bundle: &first.bundle,
        model_version: 1,
        stage: "active",
        generation: 2,
        expires_at: store.database_time().await.unwrap(),
        signed: b"expired",
    };
    assert!(orders.put(&expired).await.unwrap());
    assert!(
        !orders.put(&expired).await.unwrap(),
        "not above what stands"
    );
    orders.commit().await.unwrap();
    driver.tick(&mut rounds).await;
    let anew = order(store, "a").await.unwrap();
    assert_eq!((anew.model_version, anew.generation), (1, 3));
    assert!(anew.expires_ms > first.issued_ms + 80 * 86_400_000);
    driver.tick(&mut rounds).await;
    assert_eq!(order(store, "a").await.unwrap().generation, 3);

    let rollout = start(store, 1).await;
    let (_, devices) = store.rollout(rollout).await.unwrap().unwrap();
    let names: Vec<_> = devices.iter().map(|d| d.device.as_str()).collect();
    assert_eq!(names, ["a"]);
}

#[tokio::test]
async fn a_rollout_orders_above_what_was_ordered_while_it_was_prepared_and_ends_the_older_one() {
    let (bed, driver) = one().await;
    let (store, mut rounds) = (&bed.store, Rounds::default());
    let older = start(store, 1).await;
    driver.tick(&mut rounds).await;
    register(store, "f", 2).await;
    let new = driver::prepare(store, "f", 2, Plan::all_at_once(), "ann")
        .await
        .unwrap();
    let mut orders = store.lock_orders("f").await.unwrap();
    let between = NewOrder {
        device: "a",
        forecaster: "f",
        bundle: &Sha256::of(b"f 1").0,
        model_version: 1,
        stage: "active",
        generation: 7,
        expires_at: store.database_time().await.unwrap(),
        signed: b"between",
    };
    assert!(orders.put(&between).await.unwrap());
    orders.commit().await.unwrap();
    let newer = store.create_rollout(&new).await.unwrap();
    driver.tick(&mut rounds).await;
    let standing = order(store, "a").await.unwrap();
    assert_eq!((standing.model_version, standing.generation), (2, 8));
    assert_eq!(status(store, older).await, "superseded");
    assert_eq!(status(store, newer).await, "running");
}

/// Devices `a`, `b`, ... with a label `line` that is `x` for the first half and `y` for the second.
async fn several(names: &[&str]) -> (Bed, Driver) {
    let bed = bed().await;
    for (i, name) in names.iter().enumerate() {
        let line = if 2 * i < names.len() { "x" } else { "y" };
        let labels = [("line".to_owned(), line.to_owned())].into();
        let hash = Sha256::of(name.as_bytes()).0;
        bed.store
            .put_device(name, &labels, Some(&hash[..]))
            .await
            .unwrap();
    }
    define(&bed.store, "f", json!({})).await;
    register(&bed.store, "f", 1).await;
    let driver = driver(&bed);
    (bed, driver)
}

/// Whoever is ordered something that it does not run yet does so and says that it is well.
async fn obey(store: &Store, names: &[&str], n: &mut u64) {
    for name in names {
        let Some(order) = order(store, name).await else {
            continue;
        };
        *n += 1;
        let phase = match order.stage() {
            pb::Stage::Shadow => pb::ModelPhase::Shadowing,
            _ if order.bundle.is_empty() => pb::ModelPhase::None,
            _ => pb::ModelPhase::Healthy,
        };
        let running = match order.stage() {
            pb::Stage::Shadow => (Sha256::of(b"f 1").0.to_vec(), 1),
            _ => (order.bundle.clone(), order.model_version),
        };
        let running = (&running.0[..], running.1);
        say_of(store, name, *n, phase, running, order.generation).await;
    }
}

#[tokio::test]
async fn labelled_groups_come_in_their_order_and_late_joiners_get_the_champion_meanwhile() {
    let names = ["a", "b", "c", "d"];
    let (bed, driver) = several(&names).await;
    let (store, mut rounds, mut n) = (&bed.store, Rounds::default(), 0);
    let first = start(store, 1).await;
    // While the first model is on trial there is nothing that late joiners could be given.
    driver.tick(&mut rounds).await;
    add_device(store, "early", Some("secret")).await;
    driver.tick(&mut rounds).await;
    assert!(order(store, "early").await.is_none());
    obey(store, &names, &mut n).await;
    driver.tick(&mut rounds).await;
    assert_eq!(status(store, first).await, "succeeded");

    register(store, "f", 2).await;
    let line = |name: &str| Stage {
        labels: [("line".to_owned(), name.to_owned())].into(),
        approval: name == "y",
        ..Stage::usual(name, Mode::Active, 100, 3_600_000)
    };
    let plan = Plan {
        stages: vec![
            line("x"),
            line("y"),
            Stage::usual("all", Mode::Active, 100, 3_600_000),
        ],
        floor: 0,
    };
    let second = driver::start(store, "f", 2, plan, "ann").await.unwrap();
    driver.tick(&mut rounds).await;
    obey(store, &names, &mut n).await;
    driver.tick(&mut rounds).await;
    assert_eq!(status(store, second).await, "awaiting");
    let mut versions = Vec::new();
    for name in names {
        versions.push(order(store, name).await.unwrap().model_version);
    }
    assert_eq!(versions, [2, 2, 1, 1], "only line x");

    add_device(store, "late", Some("secret")).await;
    driver.tick(&mut rounds).await;
    let late = order(store, "late").await.unwrap();
    assert_eq!((late.model_version, late.stage()), (1, pb::Stage::Active));
    store
        .command_rollout(second, "approve", "ann")
        .await
        .unwrap();
    for _ in 0..3 {
        driver.tick(&mut rounds).await;
        obey(store, &["a", "b", "c", "d", "early"], &mut n).await;
    }
    driver.tick(&mut rounds).await;
    assert_eq!(status(store, second).await, "succeeded");
    driver.tick(&mut rounds).await;
    assert_eq!(order(store, "late").await.unwrap().model_version, 2);
}

#[tokio::test]
async fn no_device_is_left_below_the_floor() {
    let names = ["a", "b"];
    let (bed, driver) = several(&names).await;
    let (store, mut rounds, mut n) = (&bed.store, Rounds::default(), 0);
    start(store, 1).await;
    driver.tick(&mut rounds).await;
    obey(store, &names, &mut n).await;
    driver.tick(&mut rounds).await;
    register(store, "f", 2).await;
    let plan = Plan {
        floor: 2,
        ..Plan::all_at_once()
    };
    let rollout = driver::start(store, "f", 2, plan, "ann").await.unwrap();
    driver.tick(&mut rounds).await;
    // `a` fails and falls back to version 1 by itself.
    let given = order(store, "a").await.unwrap();
    let old = Sha256::of(b"f 1").0;
    let phase = pb::ModelPhase::RolledBack;
    say_of(store, "a", 100, phase, (&old[..], 1), given.generation).await;
    driver.tick(&mut rounds).await;
    for name in names {
        let order = order(store, name).await.unwrap();
        assert_eq!(order.model_version, 0, "{name} is ordered to run none");
    }
    n = 200;
    obey(store, &names, &mut n).await;
    driver.tick(&mut rounds).await;
    assert_eq!(status(store, rollout).await, "rolled_back");

    // As the forecaster's own rule it holds outside rollouts too: the champion is below it.
    let row = store.forecaster("f").await.unwrap().unwrap();
    store
        .apply_forecaster(&row.spec, &row.retraining, &json!({"floor": 2}))
        .await
        .unwrap();
    add_device(store, "late", Some("secret")).await;
    driver.tick(&mut rounds).await;
    assert!(order(store, "late").await.is_none());
    assert_eq!(order(store, "b").await.unwrap().model_version, 0);
    let below = driver::start(store, "f", 1, Plan::all_at_once(), "ann")
        .await
        .unwrap();
    driver.tick(&mut rounds).await;
    let row = store.rollout(below).await.unwrap().unwrap().0;
    assert_eq!(row.status, "rolled_back");
    assert!(row.reason.contains("below the floor"), "{}", row.reason);
}

#[tokio::test]
async fn two_hubs_drive_the_same_rollouts_and_order_nothing_twice() {
    let names: Vec<String> = (0..12).map(|i| format!("d{i:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (bed, one) = several(&names).await;
    let other = Driver {
        store: Store::new(&bed.target, 8).unwrap(),
        ..one.clone()
    };
    support::psql(
        &bed,
        "CREATE TABLE given (device text, generation bigint, model_version bigint, stage text);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO given VALUES (NEW.device, NEW.generation, NEW.model_version, NEW.stage); RETURN NEW; END $$;
         CREATE TRIGGER note AFTER INSERT OR UPDATE ON desired FOR EACH ROW EXECUTE FUNCTION note();",
    );
    let (store, mut n) = (&bed.store, 0);
    let (mut mine, mut others) = (Rounds::default(), Rounds::default());
    let stage = |name, mode, percent| Stage::usual(name, mode, percent, 3_600_000);
    for version in 1..=4 {
        if version > 1 {
            register(store, "f", version).await;
        }
        let plan = Plan {
            stages: vec![
                stage("shadow", Mode::Shadow, 50),
                stage("canary", Mode::Active, 10),
                stage("half", Mode::Active, 50),
                stage("all", Mode::Active, 100),
            ],
            floor: 0,
        };
        let rollout = driver::start(store, "f", version, plan, "ann")
            .await
            .unwrap();
        // The last one is sent back in the middle.
        for round in 0..40 {
            let obeying = obey(store, &names, &mut n);
            tokio::join!(one.tick(&mut mine), other.tick(&mut others), obeying);
            if version == 4 && round == 3 {
                store
                    .command_rollout(rollout, "abort", "ann")
                    .await
                    .unwrap();
            }
            if store.open_rollouts().await.unwrap().is_empty() {
                break;
            }
        }
        let expected = if version == 4 {
            "rolled_back"
        } else {
            "succeeded"
        };
        assert_eq!(status(store, rollout).await, expected, "version {version}");
    }
    // Each order once: no generation twice for a device, and no device more often in a stage than the plan has it.
    support::psql(
        &bed,
        "DO $$ BEGIN
            IF EXISTS (SELECT 1 FROM given GROUP BY device, generation HAVING count(*) > 1) THEN
                RAISE EXCEPTION 'a generation was given twice'; END IF;
            IF EXISTS (SELECT 1 FROM given WHERE model_version IN (1, 2) GROUP BY device, model_version, stage
                       HAVING count(*) > 1) THEN
                RAISE EXCEPTION 'a device was ordered twice'; END IF;
            IF (SELECT count(*) FROM given WHERE model_version = 2) <> 6 + 12 THEN
                RAISE EXCEPTION 'not everyone was ordered'; END IF;
         END $$;",
    );
}
