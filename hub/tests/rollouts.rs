//! Rollouts on a real PostgreSQL, with devices that only report: which orders stand, what ends, and who keeps the title.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

#[path = "rollouts/evidence.rs"]
mod evidence;
#[path = "rollouts/experiments.rs"]
mod experiments;
#[path = "rollouts/given_up.rs"]
mod given_up;
#[path = "rollouts/outdated.rs"]
mod outdated;
#[path = "rollouts/stages.rs"]
mod stages;
mod support;

use std::sync::Arc;

use fieldcast_hub::downlink::Downlink;
use fieldcast_hub::rollout::driver::{Driver, Rounds};
use fieldcast_hub::rollout::plan::{Mode, Plan, Stage};
use fieldcast_hub::rollout::request::{self, Person, Refusal};
use fieldcast_hub::rollout::rows;
use fieldcast_hub::rollout::state::Operator;
use fieldcast_hub::signing::Signer;
use fieldcast_store::Store;
use fieldcast_store::decisions::NewDecision;
use fieldcast_store::desired::{NewOrder, UnpublishedRow};
use fieldcast_store::rollouts::NewRollout;
use fieldcast_store::states::NewState;
use fieldcast_wire::{Sha256, SiteId, message, pb};
use serde_json::json;
use support::{Bed, add_device, bed, crown, define, on_trial, psql, register, roll_out};
use tokio::sync::watch;

fn driver(bed: &Bed) -> Driver {
    let signer = Arc::new(Signer::open(&bed.dir.path().join("keys")).unwrap());
    let site = SiteId::new("s").unwrap();
    Driver {
        store: bed.store.clone(),
        signer: signer.clone(),
        downlink: Downlink::new(&site, bed.store.clone(), signer),
        site,
        leads: watch::channel(true).1,
    }
}

/// One model, `f` version 1, and one device that may connect, `a`.
async fn one() -> (Bed, Driver) {
    let bed = bed().await;
    add_device(&bed.store, "a", Some("secret")).await;
    define(&bed.store, "f", json!({})).await;
    register(&bed.store, "f", 1).await;
    on_trial(&bed, "f", 1);
    let driver = driver(&bed);
    (bed, driver)
}

async fn order(store: &Store, device: &str) -> Option<pb::Order> {
    let mut signed = store.desired_of(&[device.to_owned()]).await.unwrap();
    let signed = signed.remove(device)?.pop()?;
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
            last_forecast_ms: 1,
            ..Default::default()
        }],
        ..Default::default()
    };
    let raw = message::encode(&state);
    let new = NewState {
        device,
        state: &state,
        decoded: json!({"forecasters": [
            {"forecaster": "f", "model_version": running.1, "generation": generation,
             "phase": phase.as_str_name().trim_start_matches("MODEL_PHASE_").to_lowercase()},
        ]}),
        raw: &raw,
    };
    let stored = store.put_states(&[new]).await.unwrap();
    assert!(stored.contains(device));
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

async fn status(store: &Store, rollout: i64) -> String {
    store.rollout(rollout).await.unwrap().unwrap().0.status
}

async fn created(store: &Store, new: &NewRollout<'_>) -> i64 {
    let decision = NewDecision {
        forecaster: new.forecaster,
        decision: "roll_out",
        ..NewDecision::default()
    };
    let begun = store.create_rollout(new, &decision).await.unwrap();
    begun.unwrap()
}

async fn start(store: &Store, version: i64) -> i64 {
    roll_out(store, version, Plan::all_at_once(0)).await
}

const ANN: Person<'static> = Person {
    name: "ann",
    reason: "",
};

/// Ann does this to a rollout that takes it.
async fn steer(store: &Store, rollout: i64, what: Operator) {
    request::steer(store, rollout, what, ANN).await.unwrap();
}

#[tokio::test]
async fn what_a_state_does_not_take_is_refused_with_what_it_takes_and_unknown_words_do_nothing() {
    let (bed, driver) = one().await;
    let (store, mut rounds) = (&bed.store, Rounds::default());
    let mut plan = Plan::all_at_once(0);
    plan.stages[0].approval = true;
    let rollout = roll_out(store, 1, plan).await;
    driver.tick(&mut rounds).await;
    let refused = async |what: Operator, takes: &[&str]| {
        let refused = request::steer(store, rollout, what, ANN).await;
        let refused = refused.unwrap_err().to_string();
        let state = status(store, rollout).await;
        assert!(refused.contains(&format!("is {state} (")), "{refused}");
        for word in takes {
            let command = format!("`rollout {word} {rollout}`");
            assert!(refused.contains(&command), "{refused}");
        }
    };
    refused(Operator::Resume, &["approve", "abort"]).await;
    refused(Operator::Pause, &["approve", "abort"]).await;
    steer(store, rollout, Operator::Approve).await;
    driver.tick(&mut rounds).await;
    refused(Operator::Approve, &["pause", "abort"]).await;
    refused(Operator::Resume, &["pause", "abort"]).await;
    // Two within one round: each was possible when it was said, and the second finds nothing left to do.
    steer(store, rollout, Operator::Pause).await;
    steer(store, rollout, Operator::Pause).await;
    driver.tick(&mut rounds).await;
    refused(Operator::Pause, &["resume", "abort"]).await;
    steer(store, rollout, Operator::Resume).await;
    driver.tick(&mut rounds).await;

    // A newer hub's word, which its migration let in and this one carries out as nothing.
    psql(
        &bed,
        &format!(
            "ALTER TABLE rollout_commands DROP CONSTRAINT rollout_commands_command_check;
             INSERT INTO rollout_commands (rollout, command, who) VALUES ({rollout}, 'hasten', 'ann')"
        ),
    );
    driver.tick(&mut rounds).await;
    assert_eq!(status(store, rollout).await, "running");
    let order = order(store, "a").await.unwrap();
    say(store, 1, pb::ModelPhase::Active, &order.bundle, 1).await;
    steer(store, rollout, Operator::Abort).await;
    driver.tick(&mut rounds).await;
    refused(Operator::Abort, &["watch"]).await;
    say(store, 2, pb::ModelPhase::None, &[], 2).await;
    driver.tick(&mut rounds).await;
    assert_eq!(status(store, rollout).await, "rolled_back");
    for what in Operator::ALL {
        let refused = request::steer(store, rollout, what, ANN).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("rollout start"), "{refused}");
        let nothing = request::steer(store, rollout + 1, what, ANN).await;
        assert!(
            matches!(nothing, Err(Refusal::NoRollout(id)) if id == rollout + 1),
            "{nothing:?}"
        );
    }
}

#[tokio::test]
async fn two_approvals_of_one_stage_are_one() {
    let (bed, driver) = one().await;
    let (store, mut rounds, mut n) = (&bed.store, Rounds::default(), 0);
    let stage = |name: &str, percent, approval| Stage {
        approval,
        ..Stage::usual(name, Mode::Active, percent, 3_600_000)
    };
    let plan = Plan {
        stages: vec![
            stage("canary", 5, false),
            stage("quarter", 25, true),
            stage("all", 100, true),
        ],
        floor: 0,
    };
    let rollout = roll_out(store, 1, plan).await;
    driver.tick(&mut rounds).await;
    obey(store, &["a"], &mut n).await;
    driver.tick(&mut rounds).await;
    // Ann and Ben approve of the same stage, in which nobody is new, before any hub looks.
    for name in ["ann", "ben"] {
        let (approve, who) = (Operator::Approve, Person { name, ..ANN });
        request::steer(store, rollout, approve, who).await.unwrap();
    }
    for _ in 0..2 {
        driver.tick(&mut rounds).await;
        let (row, _) = store.rollout(rollout).await.unwrap().unwrap();
        assert_eq!(row.status, "awaiting", "nobody approved of `all`");
        assert_eq!(row.machine["stage"], 2);
    }
    steer(store, rollout, Operator::Approve).await;
    driver.tick(&mut rounds).await;
    assert_eq!(status(store, rollout).await, "succeeded");
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
    steer(store, rollout, Operator::Abort).await;
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
    steer(store, again, Operator::Abort).await;
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
    let broken = created(store, &broken).await;
    let rollout = start(store, 1).await;
    assert!(broken < rollout);
    driver.tick(&mut rounds).await;
    assert_eq!(order(store, "a").await.unwrap().forecaster, "f");
    driver.tick(&mut rounds).await;
    // Whoever gave it may be gone: it is the database that knows what is still to be published.
    let waiting = async || store.unpublished_orders(0.0).await.unwrap();
    let first = waiting().await;
    assert_eq!(first.len(), 1, "it is still to be published");
    assert_eq!(first[0].device, "a");
    let older = UnpublishedRow {
        generation: first[0].generation - 1,
        ..first[0].clone()
    };
    store.published_orders(&[older]).await.unwrap();
    assert_eq!(waiting().await, first);
    store.published_orders(&first).await.unwrap();
    assert_eq!(waiting().await, []);
    // The next one is to be published as well.
    steer(store, rollout, Operator::Abort).await;
    driver.tick(&mut rounds).await;
    assert_eq!(waiting().await.len(), 1);
    assert_eq!(store.unpublished_orders(3_600.0).await.unwrap(), []);
}

#[tokio::test]
async fn who_knows_a_newer_order_than_a_restored_database_is_called_in() {
    let (bed, driver) = one().await;
    let store = &bed.store;
    crown(store, "f", 1).await;
    driver.tick(&mut Rounds::default()).await;
    let lost = [9; 32];
    say_of(store, "a", 2, pb::ModelPhase::Healthy, (&lost, 7), 12).await;
    driver.tick(&mut Rounds::default()).await;
    let anew = order(store, "a").await.unwrap();
    assert_eq!((anew.model_version, anew.generation), (1, 13));
    driver.tick(&mut Rounds::default()).await;
    assert_eq!(order(store, "a").await.unwrap().generation, 13);
}

#[tokio::test]
async fn who_goes_back_below_the_floor_outside_a_rollout_is_called_in() {
    let (bed, driver) = one().await;
    let store = &bed.store;
    register(store, "f", 2).await;
    crown(store, "f", 2).await;
    driver.tick(&mut Rounds::default()).await;
    let row = store.forecaster("f").await.unwrap().unwrap();
    let own = json!({"floor": 2});
    let applied = store.apply_forecaster(&row.spec, &row.retraining, &own);
    applied.await.unwrap();
    let old = [9; 32];
    // Gave version 2 up for the one before.
    say_of(store, "a", 2, pb::ModelPhase::RolledBack, (&old, 1), 1).await;
    // It is to let go of version 1 before it tries the champion once more: otherwise it would go back to it again. Until its next forecast
    // it still names version 1.
    for n in 3..5 {
        driver.tick(&mut Rounds::default()).await;
        let none = order(store, "a").await.unwrap();
        assert_eq!((none.model_version, none.generation), (0, 2));
        say_of(store, "a", n, pb::ModelPhase::None, (&old, 1), 2).await;
    }
    say_of(store, "a", 5, pb::ModelPhase::None, (&[], 0), 2).await;
    for n in 6..8 {
        driver.tick(&mut Rounds::default()).await;
        let once_more = order(store, "a").await.unwrap();
        assert_eq!((once_more.model_version, once_more.generation), (2, 3));
        // On the way there it is not called in again.
        say_of(store, "a", n, pb::ModelPhase::Downloading, (&old, 1), 3).await;
    }
}

#[tokio::test]
async fn who_may_connect_gets_the_champion_and_gets_it_anew_when_the_order_expires() {
    let (bed, driver) = one().await;
    let (store, mut rounds) = (&bed.store, Rounds::default());
    // Made by an import: nobody will ever connect as it.
    add_device(store, "imported", None).await;
    driver.tick(&mut rounds).await;
    assert!(order(store, "a").await.is_none(), "it is on trial");
    crown(store, "f", 1).await;
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
        // Who is away for less than a week finds one that still holds.
        expires_at: store.settled_time().await.unwrap() + chrono::TimeDelta::days(6),
        signed: b"expired",
    };
    let expired = [expired];
    assert_eq!(orders.put(&expired).await.unwrap(), 1);
    let again = orders.put(&expired).await.unwrap();
    assert_eq!(again, 0, "not above what stands");
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
    let new = rows::prepare(store, "f", 2, Plan::all_at_once(0), "ann")
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
        expires_at: store.settled_time().await.unwrap(),
        signed: b"between",
    };
    assert_eq!(orders.put(&[between]).await.unwrap(), 1);
    orders.commit().await.unwrap();
    let newer = created(store, &new).await;
    driver.tick(&mut rounds).await;
    let standing = order(store, "a").await.unwrap();
    assert_eq!((standing.model_version, standing.generation), (2, 8));
    assert_eq!(status(store, older).await, "superseded");
    assert_eq!(status(store, newer).await, "running");
}

#[tokio::test]
async fn a_champion_that_is_rolled_out_once_more_holds_its_title_since_it_got_it() {
    let bed = bed().await;
    let store = &bed.store;
    add_device(store, "a", Some("secret")).await;
    define(store, "f", json!({})).await;
    register(store, "f", 1).await;
    on_trial(&bed, "f", 1);
    psql(
        &bed,
        "UPDATE champions SET since = '2020-01-01 00:00:00+00'",
    );
    let id = roll_out(store, 1, Plan::all_at_once(0)).await;
    let mut locked = store.lock_rollout(id).await.unwrap().unwrap();
    locked.promote().await.unwrap();
    locked.commit().await.unwrap();
    psql(
        &bed,
        "DO $$ BEGIN ASSERT (SELECT since FROM champions) = '2020-01-01 00:00:00+00'; END $$",
    );
}
