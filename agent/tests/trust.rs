//! Commands, key lists and attacks on both through updater and buffer, with a hub that is only a channel.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    dead_code,
    reason = "tests; not all of the support is used here"
)]

mod update_support;

use fieldcast_agent::update::driver::FromHub;
use fieldcast_bundle::Kind;
use fieldcast_wire::caps::MAX_TEXT;
use fieldcast_wire::{message, pb};
use update_support::device::Device;
use update_support::{bundle, by, key_list, key_list_of, naive, order};

const HUB: (&str, u8) = ("hub", 2);

fn command(id: &str, name: &str, argument: &str) -> pb::Command {
    pb::Command {
        site: "plant".into(),
        device: "pi".into(),
        id: id.into(),
        expires_ms: i64::MAX,
        name: name.into(),
        argument: argument.into(),
    }
}

fn commanded(signed: pb::Signed) -> FromHub {
    FromHub::Desired(pb::Desired {
        key_list: Some(key_list()),
        orders: Vec::new(),
        commands: vec![signed],
    })
}

fn good(command: &pb::Command) -> FromHub {
    commanded(by(Kind::Command, message::encode(command), HUB))
}

#[tokio::test]
async fn a_command_is_carried_out_once_however_often_and_in_whichever_life_it_comes() {
    let dir = tempfile::tempdir().unwrap();
    let device = Device::start(dir.path()).await;
    let debug = command("c1", "log", "debug");
    for _ in 0..3 {
        device.hub.send(good(&debug)).await.unwrap();
    }
    // The same id with other words: who takes an id twice means the first.
    device
        .hub
        .send(good(&command("c1", "log", "trace")))
        .await
        .unwrap();
    device
        .hub
        .send(good(&command("c2", "report", "")))
        .await
        .unwrap();
    let (ok, text) = device.outcomes("c2").await[0].clone();
    assert!(ok && text.starts_with("fieldcast-agent"), "{text}");
    assert_eq!(device.outcomes("c1").await.len(), 1);
    assert_eq!(*device.filters.lock().unwrap(), ["debug"]);
    device.die().await;

    let again = Device::start(dir.path()).await;
    again.hub.send(good(&debug)).await.unwrap();
    again
        .hub
        .send(good(&command("c3", "fly", "")))
        .await
        .unwrap();
    let (ok, text) = again.outcomes("c3").await[0].clone();
    assert!(!ok && text.contains("no command `fly`"), "{text}");
    assert_eq!(again.outcomes("c1").await.len(), 1);
    assert!(
        again.filters.lock().unwrap().is_empty(),
        "not a second time"
    );
    again.stop().await;
}

#[tokio::test]
async fn a_command_that_a_death_interrupted_is_told_and_never_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut device = Device::start(dir.path()).await;
    device
        .hub
        .send(good(&command("r1", "restart", "")))
        .await
        .unwrap();
    let asked = device.control.stop().clone();
    tokio::time::timeout(std::time::Duration::from_secs(30), asked.cancelled())
        .await
        .unwrap();
    assert!(device.control.restarts());
    // As the disk is after a death between writing down and doing.
    let begun = serde_json::json!({"taken": [
        {"id": "r1", "name": "restart", "expires": i64::MAX, "ended": false},
        {"id": "l1", "name": "log", "expires": i64::MAX, "ended": false}]});
    let stored = device.handle.state("commands").await.unwrap().unwrap();
    let stored: serde_json::Value = serde_json::from_slice(&stored).unwrap();
    assert_eq!(
        stored["taken"][0], begun["taken"][0],
        "written before it is done"
    );
    let commit = fieldcast_agent::buffer::Commit {
        state: vec![("commands".to_owned(), begun.to_string().into_bytes())],
        ..Default::default()
    };
    device.handle.commit(commit).await.unwrap();
    device.die().await;

    device = Device::start(dir.path()).await;
    assert!(device.outcomes("r1").await[0].0, "it has started again");
    let (ok, text) = device.outcomes("l1").await[0].clone();
    assert!(!ok && text.contains("ended while"), "{text}");
    device
        .hub
        .send(good(&command("r1", "restart", "")))
        .await
        .unwrap();
    device
        .hub
        .send(good(&command("l1", "log", "debug")))
        .await
        .unwrap();
    device
        .hub
        .send(good(&command("c", "report", "")))
        .await
        .unwrap();
    device.outcomes("c").await;
    assert!(!device.control.restarts() && device.filters.lock().unwrap().is_empty());
    assert_eq!(device.outcomes("r1").await.len(), 1);
    device.stop().await;
}

#[tokio::test]
async fn after_the_list_of_commands_was_damaged_only_a_new_one_is_carried_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut device = Device::start(dir.path()).await;
    let commit = fieldcast_agent::buffer::Commit {
        state: vec![("commands".to_owned(), b"{\"taken\":[{\"id".to_vec())],
        ..Default::default()
    };
    device.handle.commit(commit).await.unwrap();
    device.die().await;

    device = Device::start(dir.path()).await;
    let retained = pb::Command {
        expires_ms: device.clock.wall_ms() + 86_400_000,
        ..command("old", "log", "debug")
    };
    for _ in 0..2 {
        device.hub.send(good(&retained)).await.unwrap();
    }
    let (ok, text) = device.outcomes("old").await[0].clone();
    assert!(!ok && text.contains("was damaged"), "{text}");
    assert!(device.filters.lock().unwrap().is_empty());
    device
        .hub
        .send(good(&command("new", "log", "info")))
        .await
        .unwrap();
    assert!(device.outcomes("new").await[0].0);
    assert_eq!(*device.filters.lock().unwrap(), ["info"]);
    assert_eq!(device.outcomes("old").await.len(), 1, "told once");
    device.stop().await;
}

#[tokio::test]
async fn hostile_commands_are_refused_with_the_number_of_their_check() {
    let dir = tempfile::tempdir().unwrap();
    let mut device = Device::start(dir.path()).await;
    let restart = command("x", "restart", "");
    let other = |change: fn(&mut pb::Command)| {
        let mut other = restart.clone();
        change(&mut other);
        by(Kind::Command, message::encode(&other), HUB)
    };
    let mut forged = by(Kind::Command, message::encode(&restart), HUB);
    forged.payload[2] ^= 1;
    for (what, signed, number) in [
        (
            "an unknown key",
            by(Kind::Command, message::encode(&restart), ("thief", 9)),
            "V2",
        ),
        (
            "another key under a known name",
            by(Kind::Command, message::encode(&restart), ("hub", 9)),
            "V2",
        ),
        (
            "a signature for orders",
            by(Kind::Order, message::encode(&restart), HUB),
            "V2",
        ),
        ("changed bytes", forged, "V2"),
        ("another device", other(|c| c.device = "pj".into()), "V3"),
        ("another site", other(|c| c.site = "plan".into()), "V3"),
        (
            "expired",
            other(|c| (c.id, c.expires_ms) = ("old".into(), 1)),
            "V5",
        ),
        (
            "too long",
            other(|c| (c.id, c.argument) = ("big".into(), "x".repeat(MAX_TEXT + 1))),
            "V6",
        ),
    ] {
        device.hub.send(commanded(signed)).await.unwrap();
        let told = device.refuses(number).await;
        assert!(told.len() > 10, "{what}: {told}");
        // What holds again says so, and shows the next refusal as a new one.
        device
            .hub
            .send(good(&command("fine", "report", "")))
            .await
            .unwrap();
        device
            .trust
            .wait_for(|t| t.refused.is_empty())
            .await
            .unwrap();
    }
    assert!(!device.control.restarts());
    // Only what a hub of ours signed for this device is worth a record, and only once.
    for _ in 0..3 {
        let old = other(|c| (c.id, c.expires_ms) = ("old".into(), 1));
        device.hub.send(commanded(old)).await.unwrap();
    }
    for (id, number) in [("old", "V5: "), ("big", "V6: ")] {
        let told = device.outcomes(id).await;
        assert!(
            told.len() == 1 && !told[0].0 && told[0].1.starts_with(number),
            "{told:?}"
        );
    }
    let known = device.records().await;
    let forged = |r: &fieldcast_wire::RecordBody| matches!(r, fieldcast_wire::RecordBody::Outcome(o) if o.subject == "x");
    assert!(!known.iter().any(forged), "{known:?}");
    device.stop().await;
}

#[tokio::test]
async fn keys_rotate_and_a_revoked_one_or_an_old_list_gives_no_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut device = Device::start(dir.path()).await;
    device.hours(0..60).await;
    let first = bundle(&naive(0.0), 1, 0.0);
    device.order(&first, 1, 1, pb::Stage::Active).await;
    device.hours(60..66).await;
    device.phase(pb::ModelPhase::Healthy).await;

    // Both keys count: the bundle is still the old key's, the order the new one's.
    let both = key_list_of(2, &[HUB, ("next", 3)]);
    let said = |key_list: &pb::Signed, order: &pb::Order, key| {
        FromHub::Desired(pb::Desired {
            key_list: Some(key_list.clone()),
            orders: vec![by(Kind::Order, message::encode(order), key)],
            commands: Vec::new(),
        })
    };
    let second = bundle(&naive(1.0), 2, 0.0);
    let two = order(&second, 2, 2, pb::Stage::Active);
    device
        .hub
        .send(said(&both, &two, ("next", 3)))
        .await
        .unwrap();
    device.serve(&second, 2).await;
    device.hours(66..70).await;
    device.phase(pb::ModelPhase::Healthy).await;
    assert_eq!(device.trust.borrow().key_list, 2);
    device.stop().await;

    // Revoked: what its holder orders is refused, also beside the list of before, and over a restart.
    let mut device = Device::start(dir.path()).await;
    device.trust.wait_for(|t| t.key_list == 2).await.unwrap();
    let without = key_list_of(3, &[("next", 3)]);
    let three = order(&first, 1, 3, pb::Stage::Active);
    device.hub.send(said(&without, &three, HUB)).await.unwrap();
    let told = device.refuses("V2").await;
    assert!(told.contains("not in key list 3"), "{told}");
    device.hub.send(said(&both, &three, HUB)).await.unwrap();
    let told = device.refuses("V1").await;
    assert!(
        told.contains("version 2 does not follow version 3"),
        "{told}"
    );
    device.stop().await;
    let mut device = Device::start(dir.path()).await;
    device.trust.wait_for(|t| t.key_list == 3).await.unwrap();
    device
        .hub
        .send(said(&key_list(), &three, HUB))
        .await
        .unwrap();
    device.refuses("V1").await;
    // What the revoked key had signed is not taken up again after a start.
    let state = device.until(|s| s.reason.contains("V2")).await;
    assert!(state.reason.contains("not in key list 3"), "{state:?}");
    assert_eq!((state.generation, state.model_version), (2, 0));
    device.stop().await;
}
