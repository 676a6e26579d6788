//! Stages on a real PostgreSQL: labelled groups, late joiners, the floor, and two hubs that drive at once.

use fieldcast_hub::rollout::driver::{Driver, Rounds};
use fieldcast_hub::rollout::overview::overview;
use fieldcast_hub::rollout::plan::{Mode, Plan, Stage};
use fieldcast_hub::rollout::state::Operator;
use fieldcast_store::Store;
use fieldcast_wire::{Sha256, pb};
use serde_json::json;

use crate::support::{self, Bed, add_device, bed, define, on_trial, register, roll_out};
use crate::{obey, order, say_of, start, status};

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
    on_trial(&bed, "f", 1);
    let driver = crate::driver(&bed);
    (bed, driver)
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
    let second = roll_out(store, 2, plan).await;
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
    crate::steer(store, second, Operator::Approve).await;
    for _ in 0..3 {
        driver.tick(&mut rounds).await;
        obey(store, &["a", "b", "c", "d", "early"], &mut n).await;
    }
    driver.tick(&mut rounds).await;
    assert_eq!(status(store, second).await, "succeeded");
    driver.tick(&mut rounds).await;
    assert_eq!(order(store, "late").await.unwrap().model_version, 2);
}

/// Line x, then all once a person approves.
fn halves() -> Plan {
    let line = |name: &str| Stage {
        labels: [("line".to_owned(), name.to_owned())].into(),
        ..Stage::usual(name, Mode::Active, 100, 3_600_000)
    };
    let all = Stage {
        approval: true,
        ..Stage::usual("all", Mode::Active, 100, 3_600_000)
    };
    Plan {
        stages: vec![line("x"), all],
        floor: 0,
    }
}

#[tokio::test]
async fn a_first_model_on_trial_reaches_nobody_by_way_of_the_next_ones_rollout() {
    let names = ["a", "b", "c", "d"];
    let (bed, driver) = several(&names).await;
    let (store, mut rounds, mut n) = (&bed.store, Rounds::default(), 0);
    let versions = async || {
        let mut versions = Vec::new();
        for name in names {
            versions.push(order(store, name).await.map(|o| o.model_version));
        }
        versions
    };
    let first = roll_out(store, 1, halves()).await;
    driver.tick(&mut rounds).await;
    obey(store, &names, &mut n).await;
    driver.tick(&mut rounds).await;
    assert_eq!(status(store, first).await, "awaiting");
    assert_eq!(versions().await, [Some(1), Some(1), None, None]);

    // Version 2 comes before anybody approved the rest of version 1.
    register(store, "f", 2).await;
    let second = roll_out(store, 2, halves()).await;
    for _ in 0..2 {
        driver.tick(&mut rounds).await;
    }
    assert_eq!(status(store, first).await, "superseded");
    assert_eq!(versions().await, [Some(2), Some(2), None, None]);
    assert_eq!(
        store
            .rollout(second)
            .await
            .unwrap()
            .unwrap()
            .0
            .previous_version,
        None,
        "nothing that has proved itself came before"
    );
    assert!(store.champion("f").await.unwrap().is_none());
    crate::steer(store, second, Operator::Abort).await;
    for _ in 0..2 {
        driver.tick(&mut rounds).await;
        obey(store, &names, &mut n).await;
    }
    driver.tick(&mut rounds).await;
    assert_eq!(status(store, second).await, "rolled_back");
    assert_eq!(versions().await, [Some(0), Some(0), None, None]);

    // One that is rolled out once more keeps the title on trial meanwhile, and success confirms it.
    register(store, "f", 3).await;
    on_trial(&bed, "f", 3);
    roll_out(store, 3, halves()).await;
    let again = roll_out(store, 3, Plan::all_at_once(0)).await;
    driver.tick(&mut rounds).await;
    assert_eq!(store.champion("f").await.unwrap().unwrap().version, 3);
    n = 100;
    obey(store, &names, &mut n).await;
    driver.tick(&mut rounds).await;
    assert_eq!(status(store, again).await, "succeeded");
    add_device(store, "late", Some("secret")).await;
    driver.tick(&mut rounds).await;
    assert_eq!(order(store, "late").await.unwrap().model_version, 3);
}

#[tokio::test]
async fn a_newer_shadow_waits_until_the_older_ones_devices_run_the_champion_again() {
    let names = ["a", "b"];
    let (bed, driver) = several(&names).await;
    let (store, mut rounds, mut n) = (&bed.store, Rounds::default(), 0);
    start(store, 1).await;
    driver.tick(&mut rounds).await;
    obey(store, &names, &mut n).await;
    driver.tick(&mut rounds).await;
    register(store, "f", 2).await;
    let older = roll_out(store, 2, halves()).await;
    driver.tick(&mut rounds).await;
    obey(store, &names, &mut n).await;
    driver.tick(&mut rounds).await;
    assert_eq!(order(store, "a").await.unwrap().model_version, 2);
    assert_eq!(status(store, older).await, "awaiting");

    register(store, "f", 3).await;
    let shadow = Stage::usual("shadow", Mode::Shadow, 100, 3_600_000);
    let mut plan = halves();
    plan.stages.insert(0, shadow);
    let newer = roll_out(store, 3, plan).await;
    for _ in 0..3 {
        driver.tick(&mut rounds).await;
        assert_eq!(status(store, older).await, "rolling_back");
        let back = order(store, "a").await.unwrap();
        assert_eq!((back.model_version, back.stage()), (1, pb::Stage::Active));
        assert_ne!(order(store, "b").await.unwrap().model_version, 3);
        let (row, devices) = store.rollout(newer).await.unwrap().unwrap();
        let waits = overview(&row, &devices, 0).unwrap().waits_for;
        assert!(waits.contains(&format!("of rollout {older}")), "{waits}");
    }
    obey(store, &names, &mut n).await;
    for _ in 0..2 {
        driver.tick(&mut rounds).await;
    }
    assert_eq!(status(store, older).await, "superseded");
    for name in names {
        let watch = order(store, name).await.unwrap();
        assert_eq!((watch.model_version, watch.stage()), (3, pb::Stage::Shadow));
    }
    assert_eq!(status(store, newer).await, "running");

    // Who is away for months finds an order that holds.
    let given = order(store, "b").await.unwrap();
    support::psql(
        &bed,
        "UPDATE desired SET expires_at = now() + interval '6 days' WHERE device = 'b'",
    );
    let mut anew = Rounds::default();
    driver.tick(&mut anew).await;
    let again = order(store, "b").await.unwrap();
    assert_eq!((again.model_version, again.stage()), (3, pb::Stage::Shadow));
    assert!(again.generation > given.generation);
    assert_eq!(
        order(store, "a").await.unwrap().generation,
        given.generation
    );
    driver.tick(&mut anew).await;
    assert_eq!(
        order(store, "b").await.unwrap().generation,
        again.generation
    );
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
        ..Plan::all_at_once(0)
    };
    let rollout = roll_out(store, 2, plan).await;
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
    let floor = async |floor: i64| {
        let own = json!({"floor": floor});
        let applied = store.apply_forecaster(&row.spec, &row.retraining, &own);
        applied.await.unwrap();
    };
    floor(2).await;
    add_device(store, "late", Some("secret")).await;
    driver.tick(&mut rounds).await;
    assert!(order(store, "late").await.is_none());
    assert_eq!(order(store, "b").await.unwrap().model_version, 0);
    // A version that was allowed when its rollout began goes back, too.
    floor(0).await;
    let below = roll_out(store, 1, Plan::all_at_once(0)).await;
    floor(2).await;
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
        let rollout = roll_out(store, version, plan).await;
        let until = support::deadline();
        let mut sent_back = false;
        loop {
            assert!(std::time::Instant::now() < until, "version {version}");
            let obeying = obey(store, &names, &mut n);
            tokio::join!(one.tick(&mut mine), other.tick(&mut others), obeying);
            // The last one is sent back in the middle.
            let (row, _) = store.rollout(rollout).await.unwrap().unwrap();
            if version == 4 && !sent_back && row.machine["stage"].as_u64() >= Some(1) {
                crate::steer(store, rollout, Operator::Abort).await;
                sent_back = true;
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
