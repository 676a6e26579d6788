//! Experiments on a real PostgreSQL, with devices that only report: who is ordered what, and what is refused meanwhile.

use fieldcast_drift::arms::Arm;
use fieldcast_hub::experiment::assign::arm;
use fieldcast_hub::experiment::request::{self, Asked, Refusal};
use fieldcast_hub::registry::promote::{Way, promote};
use fieldcast_hub::registry::retention;
use fieldcast_hub::rollout::request::{self as rollouts, Person, Refusal as Forbidden, Stages};
use fieldcast_hub::rollout::rows;
use fieldcast_store::model_versions::Concluded;

use super::*;
use crate::support::conclude_all;

const ANN: Person<'_> = Person {
    name: "ann",
    reason: "less energy",
};

fn asked() -> Asked {
    Asked {
        forecaster: "f".into(),
        a: 1,
        b: 2,
        share: 0.5,
        days: 10,
        settle_hours: 24,
        labels: std::collections::BTreeMap::new(),
        sensor: Some("energy".into()),
    }
}

/// Six devices that run the champion, version 1 of two.
async fn six() -> (Bed, Driver, Vec<String>) {
    let (bed, driver) = one().await;
    let store = &bed.store;
    crown(store, "f", 1).await;
    register(store, "f", 2).await;
    let names: Vec<String> = ["a", "b", "c", "d", "e", "g"].map(String::from).to_vec();
    for name in &names {
        add_device(store, name, Some("secret")).await;
        let bundle = Sha256::of(b"f 1").0;
        say_of(store, name, 1, pb::ModelPhase::Healthy, (&bundle, 1), 0).await;
    }
    (bed, driver, names)
}

fn version_of(id: i64, device: &str) -> u64 {
    if arm(id, device, 0.5) == Arm::B { 2 } else { 1 }
}

/// Rounds until the report is kept, which a task of its own makes.
async fn reported(driver: &Driver, rounds: &mut Rounds, id: i64) -> serde_json::Value {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        driver.experiments(rounds).await;
        let (row, _) = driver.store.experiment(id).await.unwrap().unwrap();
        if let Some(report) = row.report {
            return report;
        }
        assert!(std::time::Instant::now() < until, "no report is kept");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

async fn status(store: &Store, id: i64) -> (String, String) {
    let (row, _) = store.experiment(id).await.unwrap().unwrap();
    (row.status, row.reason)
}

/// Time goes by for an experiment.
fn passes(bed: &Bed, days: i32) {
    let span = format!("interval '{days} days'");
    support::psql(
        bed,
        &format!(
            "UPDATE experiments SET created_at = created_at - {span}, started_at = started_at - {span}, ends_at = ends_at - {span};
             UPDATE experiment_devices SET joined_at = joined_at - {span}"
        ),
    );
}

#[tokio::test]
async fn devices_run_what_they_drew_until_its_time_is_over_and_then_the_champion() {
    let (bed, driver, names) = six().await;
    let (store, mut rounds) = (&bed.store, Rounds::default());
    driver.tick(&mut rounds).await;
    let (id, foreseen) = request::start(store, &asked(), ANN).await.unwrap();
    assert_eq!(foreseen.devices, 6);
    assert!(
        foreseen
            .warnings
            .iter()
            .any(|w| w.contains("fewer than 10")),
        "{foreseen:?}"
    );
    // Two hubs drive it.
    let (mut other, second) = (Rounds::default(), self::driver(&bed));
    tokio::join!(
        driver.experiments(&mut rounds),
        second.experiments(&mut other)
    );
    driver.experiments(&mut rounds).await;
    let (row, members) = store.experiment(id).await.unwrap().unwrap();
    assert_eq!((row.status.as_str(), members.len()), ("running", 6));
    for name in &names {
        let order = order(store, name).await.unwrap();
        assert_eq!(order.model_version, version_of(id, name), "{name}");
        assert_eq!(order.generation, 2, "above the champion's");
    }
    // A late joiner is drawn too, and nobody that is in it is ordered the champion in passing.
    add_device(store, "late", Some("secret")).await;
    say_of(store, "late", 1, pb::ModelPhase::None, (&[], 0), 9).await;
    driver.experiments(&mut rounds).await;
    driver.tick(&mut rounds).await;
    let late = order(store, "late").await.unwrap();
    assert_eq!(
        (late.model_version, late.generation),
        (version_of(id, "late"), 10)
    );
    let mut n = 20;
    let all: Vec<&str> = names.iter().map(String::as_str).chain(["late"]).collect();
    obey(store, &all, &mut n).await;
    driver.experiments(&mut rounds).await;
    let (_, members) = store.experiment(id).await.unwrap().unwrap();
    assert!(members.iter().all(|m| m.state == "healthy"), "{members:?}");

    passes(&bed, 6);
    add_device(store, "later", Some("secret")).await;
    say_of(store, "later", 1, pb::ModelPhase::None, (&[], 0), 0).await;
    driver.experiments(&mut rounds).await;
    driver.tick(&mut rounds).await;
    assert_eq!(
        order(store, "later").await.unwrap().model_version,
        1,
        "it is too late to join"
    );
    passes(&bed, 4);
    driver.experiments(&mut rounds).await;
    assert_eq!(status(store, id).await.0, "collecting");
    driver.tick(&mut rounds).await;
    for name in &all {
        let order = order(store, name).await.unwrap();
        assert_eq!(order.model_version, 1, "{name}");
        let again = version_of(id, name) == 2;
        let before = if *name == "late" { 10 } else { 2 };
        assert_eq!(
            order.generation > before,
            again,
            "{name}: who runs the champion is left alone"
        );
    }
    passes(&bed, 1);
    driver.experiments(&mut rounds).await;
    assert_eq!(status(store, id).await.0, "ended");
    let report = reported(&driver, &mut rounds, id).await;
    assert_eq!(report["decides"], false, "nothing was measured: {report}");
    assert_eq!(
        report["a"]["lost"].as_u64().unwrap() + report["b"]["lost"].as_u64().unwrap(),
        7
    );
    assert_eq!(store.champion("f").await.unwrap().unwrap().version, 1);
    assert!(store.open_experiments().await.unwrap().is_empty());
    let decisions = store.decisions(Some("f"), None, 2).await.unwrap();
    assert_eq!(decisions[0].decided_by, format!("experiment {id}"));
    assert_eq!(
        decisions[1].reason,
        "versions 1 and 2 are compared on devices for 10 days: less energy"
    );
}

#[tokio::test]
async fn a_rollout_a_title_and_an_experiment_are_in_each_others_way() {
    let (bed, driver, _) = six().await;
    let (store, mut rounds) = (&bed.store, Rounds::default());
    let stages = || Stages::Planned(Plan::all_at_once(0));
    let rollout = rollouts::start(store, "f", 2, stages(), ANN).await.unwrap();
    let refused = request::start(store, &asked(), ANN).await.unwrap_err();
    assert!(
        matches!(refused, Refusal::Forbidden(Forbidden::Open(id, _)) if id == rollout),
        "{refused}"
    );
    crate::steer(store, rollout, Operator::Abort).await;
    driver.tick(&mut rounds).await;
    let mut n = 5;
    obey(store, &["a", "b", "c", "d", "e", "g"], &mut n).await;
    driver.tick(&mut rounds).await;
    assert_eq!(super::status(store, rollout).await, "rolled_back");

    let (id, _) = request::start(store, &asked(), ANN).await.unwrap();
    let refused = request::start(store, &asked(), ANN).await.unwrap_err();
    assert!(
        matches!(refused, Refusal::Open(other, _) if other == id),
        "{refused}"
    );
    let refused = rollouts::start(store, "f", 2, stages(), ANN)
        .await
        .unwrap_err();
    assert!(
        matches!(refused, Forbidden::Experiment(other, _) if other == id),
        "{refused}"
    );
    assert!(store.open_rollouts().await.unwrap().is_empty());
    let refused = promote(store, "f", 2, Way::Champion, ANN)
        .await
        .unwrap_err();
    assert!(matches!(refused, Forbidden::Experiment(..)), "{refused}");

    // A training that ends meanwhile keeps its version, and its rollout waits for a person.
    store.enqueue("train", "f", &json!({})).await.unwrap();
    let job = store.claim_job("w", 30.0, None).await.unwrap().unwrap();
    let prepared = rows::prepare(store, "f", 3, Plan::all_at_once(0), "run")
        .await
        .unwrap();
    let of = ("f", 3, &b"f 3"[..]);
    let done = conclude_all(store, &job.claim(), of, Some(prepared), Some(1)).await;
    assert!(
        matches!(&done, Concluded::Stored(result) if result["rollout"].is_null()),
        "{done:?}"
    );
    let decisions = store.decisions(Some("f"), None, 1).await.unwrap();
    assert_eq!(decisions[0].decision, "wait");
    assert!(
        decisions[0].reason.contains(&format!("experiment {id}")),
        "{decisions:?}"
    );

    driver.experiments(&mut rounds).await;
    request::stop(store, id, ANN).await.unwrap();
    driver.experiments(&mut rounds).await;
    assert_eq!(
        status(store, id).await,
        ("stopped".into(), "stopped by ann: less energy".into())
    );
    let over = request::stop(store, id, ANN).await.unwrap_err();
    assert!(matches!(over, Refusal::NotOpen(_)), "{over}");
    driver.experiments(&mut rounds).await;
    driver.tick(&mut rounds).await;
    for device in ["a", "b", "c", "d", "e", "g"] {
        assert_eq!(order(store, device).await.unwrap().model_version, 1);
    }
    rollouts::start(store, "f", 3, stages(), ANN).await.unwrap();
}

#[tokio::test]
async fn bundles_of_an_experiment_stay_until_it_is_over() {
    let (bed, driver, _) = six().await;
    let store = &bed.store;
    for version in 3..=6 {
        register(store, "f", version).await;
    }
    let (id, _) = request::start(store, &asked(), ANN).await.unwrap();
    let removed = async || {
        let removed = retention::apply(store, 2).await.unwrap();
        removed.into_iter().map(|(_, v)| v).collect::<Vec<_>>()
    };
    // Nobody has been ordered version 2 yet.
    assert_eq!(removed().await, [4, 3]);
    request::stop(store, id, ANN).await.unwrap();
    driver.experiments(&mut Rounds::default()).await;
    assert_eq!(removed().await, [2]);
}

#[tokio::test]
async fn what_is_asked_for_is_checked_and_a_version_that_fails_ends_it() {
    let (bed, driver, names) = six().await;
    let (store, mut rounds) = (&bed.store, Rounds::default());
    let refused = async |change: fn(&mut Asked)| {
        let mut asked = asked();
        change(&mut asked);
        request::start(store, &asked, ANN)
            .await
            .unwrap_err()
            .to_string()
    };
    assert!(refused(|a| a.b = 1).await.contains("name two versions"));
    assert!(refused(|a| a.b = 9).await.contains("no version 9"));
    assert!(refused(|a| a.share = 0.05).await.contains("0.1 to 0.9"));
    assert!(refused(|a| a.days = 81).await.contains("1 to 80"));
    assert!(refused(|a| a.settle_hours = 121).await.contains("0 to 120"));
    assert!(
        refused(|a| a.sensor = None)
            .await
            .contains("cannot be compared")
    );
    let nobody = Person {
        name: " ",
        reason: "",
    };
    assert!(request::start(store, &asked(), nobody).await.is_err());
    assert!(store.experiments(None, None, 9).await.unwrap().is_empty());

    let (id, _) = request::start(store, &asked(), ANN).await.unwrap();
    driver.experiments(&mut rounds).await;
    let in_b: Vec<&String> = names.iter().filter(|n| version_of(id, n) == 2).collect();
    assert!(in_b.len() > 1, "drawn by the names above");
    for device in &in_b {
        let bundle = Sha256::of(b"f 1").0;
        say_of(
            store,
            device,
            9,
            pb::ModelPhase::RolledBack,
            (&bundle, 1),
            1,
        )
        .await;
    }
    driver.experiments(&mut rounds).await;
    let (state, reason) = status(store, id).await;
    assert_eq!(state, "stopped");
    assert!(reason.starts_with("version 2 failed on "), "{reason}");
    let report = reported(&driver, &mut rounds, id).await;
    assert!(report["b"]["failed"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn devices_that_nobody_selects_any_more_come_back_too() {
    let (bed, driver, names) = six().await;
    let (store, mut rounds) = (&bed.store, Rounds::default());
    driver.tick(&mut rounds).await;
    let north = json!({"selector": {"labels": {"site": "north"}, "sensors": {}}});
    define(store, "f", north).await;
    psql(&bed, "UPDATE devices SET labels = '{\"site\": \"north\"}'");
    let (id, _) = request::start(store, &asked(), ANN).await.unwrap();
    driver.experiments(&mut rounds).await;
    let in_b = names.iter().find(|n| version_of(id, n) == 2).unwrap();
    assert_eq!(order(store, in_b).await.unwrap().model_version, 2);
    psql(&bed, "UPDATE devices SET labels = '{}'");
    driver.tick(&mut rounds).await;
    let held = order(store, in_b).await.unwrap();
    assert_eq!(held.model_version, 2, "held as long as it runs");
    request::stop(store, id, ANN).await.unwrap();
    driver.experiments(&mut rounds).await;
    driver.tick(&mut rounds).await;
    for name in &names {
        assert_eq!(order(store, name).await.unwrap().model_version, 1, "{name}");
    }
    // Once: from then on nobody orders it anything.
    let back = order(store, in_b).await.unwrap().generation;
    driver.tick(&mut rounds).await;
    assert_eq!(order(store, in_b).await.unwrap().generation, back);
}

#[tokio::test]
async fn one_device_that_makes_up_its_generation_keeps_nobody_from_orders() {
    let (bed, driver, names) = six().await;
    let (store, mut rounds) = (&bed.store, Rounds::default());
    for (name, known) in [("x", i64::MAX as u64 - 1), ("y", u64::MAX)] {
        add_device(store, name, Some("secret")).await;
        say_of(store, name, 1, pb::ModelPhase::None, (&[], 0), known).await;
    }
    driver.tick(&mut rounds).await;
    let (id, _) = request::start(store, &asked(), ANN).await.unwrap();
    driver.experiments(&mut rounds).await;
    let (row, members) = store.experiment(id).await.unwrap().unwrap();
    assert_eq!((row.status.as_str(), members.len()), ("running", 6));
    for name in &names {
        let order = order(store, name).await.unwrap();
        assert_eq!(order.model_version, version_of(id, name), "{name}");
        assert!(order.generation < 10, "{name}: {}", order.generation);
    }
    for name in ["x", "y"] {
        assert!(order(store, name).await.is_none(), "{name} is left out");
    }
    request::stop(store, id, ANN).await.unwrap();
    driver.experiments(&mut rounds).await;
    // Nor does it use up those of a rollout.
    let stages = Stages::Planned(Plan::all_at_once(0));
    rollouts::start(store, "f", 2, stages, ANN).await.unwrap();
    driver.tick(&mut rounds).await;
    for name in &names {
        let order = order(store, name).await.unwrap();
        assert_eq!(order.model_version, 2, "{name}");
        assert!(order.generation < 20, "{name}: {}", order.generation);
    }
}

#[tokio::test]
async fn what_cannot_start_is_refused_before_anything_is_measured() {
    let (bed, _, _) = six().await;
    let store = &bed.store;
    let (id, _) = request::start(store, &asked(), ANN).await.unwrap();
    // Whoever measures now finds nothing to measure.
    psql(&bed, "ALTER VIEW device_readings RENAME TO away");
    let refused = request::start(store, &asked(), ANN).await.unwrap_err();
    assert!(
        matches!(refused, Refusal::Open(other, _) if other == id),
        "{refused}"
    );
}
