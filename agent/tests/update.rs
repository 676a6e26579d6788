//! Signed bundles and orders through engine, updater and buffer, with a hub that is only a channel.

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

use std::sync::Arc;
use std::time::Duration;

use fieldcast_agent::config::LatencyConfig;
use fieldcast_agent::source::{Ingest, Item, RawReading};
use fieldcast_features::ForecasterSpec;
use fieldcast_wire::{Sha256, pb};
use tokio::sync::oneshot;
use update_support::device::{Device, HOUR};
use update_support::{
    bundle, bundle_of, desired, expiring, exploding, long, naive, naive_of, raised, signed_order,
    spec, thorough,
};

#[tokio::test]
async fn a_signed_bundle_is_fetched_in_blocks_verified_and_proves_itself_by_forecasts() {
    let dir = tempfile::tempdir().unwrap();
    let mut device = Device::start(dir.path()).await;
    device.hours(0..60).await;
    assert!(
        device.state().running.is_empty(),
        "a baseline before any bundle"
    );
    let bytes = bundle(&naive(0.0), 1, 0.0);
    device.order(&bytes, 1, 1, pb::Stage::Active).await;
    assert!(
        device.state().running.is_empty(),
        "running is said where forecasts are made"
    );
    device.hours(60..62).await;
    assert_eq!(device.state().running, Sha256::of(&bytes).0);
    assert_eq!(device.state().phase(), pb::ModelPhase::Active);
    let facts = device.board.facts();
    let influences = &facts.forecasters["demand"].influences;
    let of = |what: &str| influences.iter().find(|i| i.of == what).map(|i| i.size);
    assert!(of("input demand").unwrap() > 1.0, "{influences:?}");
    assert_eq!(
        of("newest step"),
        Some(0.0),
        "a season is what it repeats: {influences:?}"
    );
    device.hours(62..64).await;
    let state = device.phase(pb::ModelPhase::Healthy).await;
    assert_eq!(
        (state.model_version, state.last_good),
        (1, Sha256::of(&bytes).0.to_vec())
    );
    device.stop().await;

    let mut again = Device::start(dir.path()).await;
    again.phase(pb::ModelPhase::Healthy).await;
    let running = async {
        let mut hour = 64;
        while again.state().running.is_empty() {
            again.hours(hour..hour + 1).await;
            hour += 1;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), running)
        .await
        .unwrap();
    assert_eq!(
        again.state().running,
        Sha256::of(&bytes).0,
        "the same bundle after a restart"
    );
    again.stop().await;
}

#[tokio::test]
async fn a_bundle_that_the_disk_has_damaged_is_fetched_again_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let mut device = Device::start(dir.path()).await;
    let bytes = bundle(&naive(0.0), 1, 0.0);
    device.hours(0..60).await;
    device.order(&bytes, 1, 1, pb::Stage::Active).await;
    device.hours(60..66).await;
    device.phase(pb::ModelPhase::Healthy).await;
    device.stop().await;

    let sha = Sha256::of(&bytes);
    let file = dir.path().join(format!("bundles/{sha}.bundle"));
    let mut damaged = std::fs::read(&file).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(&file, damaged).unwrap();
    let mut again = Device::start(dir.path()).await;
    let refused = again.until(|s| s.reason.contains("damaged")).await;
    assert!(refused.running.is_empty(), "{refused:?}");
    again.serve(&bytes, 1).await;
    let hour = again.until_running(&bytes, 66).await;
    again.hours(hour..hour + 6).await;
    again.phase(pb::ModelPhase::Healthy).await;
    again.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_bundle_is_refused_and_the_last_good_one_stays_or_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut device = Device::start(dir.path()).await;
    let good = bundle(&naive(0.0), 1, 0.0);
    device.hours(0..60).await;
    device.order(&good, 1, 1, pb::Stage::Active).await;
    device.hours(60..66).await;
    device.phase(pb::ModelPhase::Healthy).await;
    let good_sha = Sha256::of(&good).0.to_vec();

    // Changed after it was signed; the order names the changed file.
    let mut tampered = bundle(&naive(1.0), 2, 0.0);
    let last = tampered.len() - 1;
    tampered[last] ^= 1;
    device.order(&tampered, 2, 2, pb::Stage::Active).await;
    assert_eq!(device.state().phase(), pb::ModelPhase::Rejected);
    let refused = device.state().reason.clone();
    assert!(refused.starts_with("V7"), "{refused}");

    // Signed, but this machine computes something else.
    let golden = bundle(&naive(2.0), 3, 1.0);
    device.order(&golden, 3, 3, pb::Stage::Active).await;
    assert_eq!(device.state().phase(), pb::ModelPhase::Rejected);
    assert!(
        device.state().reason.contains("golden"),
        "{}",
        device.state().reason
    );
    device.hours(66..68).await;
    assert_eq!(device.state().running, good_sha);

    // Passes every check and then gives no finite forecast.
    let exploding = bundle(&exploding(), 4, 0.0);
    device.order(&exploding, 4, 4, pb::Stage::Active).await;
    assert_eq!(device.state().phase(), pb::ModelPhase::Active);
    device.hours(68..70).await;
    device.phase(pb::ModelPhase::RolledBack).await;
    let back = async {
        let mut hour = 70;
        while device.state().running != good_sha {
            device.hours(hour..hour + 1).await;
            hour += 1;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), back)
        .await
        .unwrap();

    // An order of an earlier generation is a replay.
    let replayed = desired(&golden, 3, 3, pb::Stage::Active);
    device.hub.send(replayed).await.unwrap();
    device.hours(200..201).await;
    assert_eq!(device.state().generation, 4);
    device.stop().await;
}

#[tokio::test]
async fn power_cuts_on_probation_do_not_fail_a_good_bundle() {
    let dir = tempfile::tempdir().unwrap();
    let mut device = Device::start(dir.path()).await;
    device.hours(0..60).await;
    let next = bundle(&naive(1.0), 2, 0.0);
    device.order(&next, 2, 2, pb::Stage::Active).await;
    device.die().await;
    for _ in 0..3 {
        let mut cut = Device::start(dir.path()).await;
        cut.phase(pb::ModelPhase::Active).await;
        cut.die().await;
    }
    let mut last = Device::start(dir.path()).await;
    let hour = last.until_running(&next, 60).await;
    last.hours(hour..hour + 3).await;
    last.phase(pb::ModelPhase::Healthy).await;
    last.stop().await;
}

#[tokio::test]
async fn expiry_keeps_new_bundles_out_and_the_last_good_one_at_work() {
    let dir = tempfile::tempdir().unwrap();
    let mut device = Device::start(dir.path()).await;
    let expires = device.clock.trusted_ms() + 3_600_000;
    let good = expiring(&naive(0.0), 1, expires);
    device.hours(0..60).await;
    device.order(&good, 1, 1, pb::Stage::Active).await;
    device.hours(60..66).await;
    device.phase(pb::ModelPhase::Healthy).await;
    device.stop().await;

    let mut later = Device::start_at(dir.path(), expires + 1).await;
    later.phase(pb::ModelPhase::Healthy).await;
    let hour = later.until_running(&good, 66).await;
    // A new one that has expired is refused, and the old one still runs.
    let stale = expiring(&naive(1.0), 2, expires);
    later.order(&stale, 2, 2, pb::Stage::Active).await;
    let state = later.state();
    assert_eq!(state.phase(), pb::ModelPhase::Rejected);
    assert!(state.reason.starts_with("V5"), "{}", state.reason);
    // One that fails on probation gives way to it, expired as it is.
    let exploding = bundle(&exploding(), 3, 0.0);
    later.order(&exploding, 3, 3, pb::Stage::Active).await;
    later.hours(hour..hour + 2).await;
    later.phase(pb::ModelPhase::RolledBack).await;
    later.until_running(&good, hour + 2).await;
    assert_eq!(later.state().last_good, Sha256::of(&good).0);
    later.stop().await;
}

#[tokio::test]
async fn a_model_that_computes_far_longer_than_the_last_good_one_goes_back() {
    let dir = tempfile::tempdir().unwrap();
    let strict = LatencyConfig {
        budget_ms: None,
        floor_ms: 1,
    };
    let mut device = Device::start_with(dir.path(), 0, strict).await;
    device.hours(0..260).await;
    let good = bundle_of(long(), &naive_of(&long(), 0.0), 1, 0.0);
    device.order(&good, 1, 1, pb::Stage::Active).await;
    device.hours(260..268).await;
    device.phase(pb::ModelPhase::Healthy).await;
    let slow = bundle_of(long(), &thorough(), 2, 0.0);
    for (generation, stage, ended, hour) in [
        (2, pb::Stage::Shadow, pb::ModelPhase::Failed, 268),
        (3, pb::Stage::Active, pb::ModelPhase::RolledBack, 278),
    ] {
        device.order(&slow, 2, generation, stage).await;
        device.hours(hour..hour + 5).await;
        let state = device.phase(ended).await;
        assert!(state.reason.starts_with("slow: "), "{}", state.reason);
        let facts = device.board.facts().forecasters["demand"].clone();
        assert_eq!(facts.budget_us, 2_000_000);
        device.until_running(&good, hour + 5).await;
    }
    device.stop().await;
}

#[tokio::test]
async fn a_model_far_worse_than_the_naive_forecast_goes_back_by_itself_also_when_it_had_proved_itself()
 {
    let dir = tempfile::tempdir().unwrap();
    let mut device = Device::start(dir.path()).await;
    device.hours(0..60).await;
    let good = bundle(&naive(0.0), 1, 0.0);
    device.order(&good, 1, 1, pb::Stage::Active).await;
    device.hours(60..66).await;
    device.phase(pb::ModelPhase::Healthy).await;
    let wrong = bundle(&raised(9.0), 2, 0.0);
    device.order(&wrong, 2, 2, pb::Stage::Active).await;
    device.hours(66..72).await;
    let state = device.phase(pb::ModelPhase::Healthy).await;
    assert_eq!(state.last_good, Sha256::of(&wrong).0);
    assert_eq!(state.before, Sha256::of(&good).0, "the hub keeps it, too");
    device.hours(72..94).await;
    let state = device.phase(pb::ModelPhase::RolledBack).await;
    assert!(state.reason.contains("naive"), "{}", state.reason);
    assert_eq!(state.last_good, Sha256::of(&good).0);
    assert!(state.before.is_empty());
    device.until_running(&good, 94).await;
    device.stop().await;
}

#[tokio::test]
async fn a_bundle_without_room_waits_says_so_and_comes_once_there_is_some() {
    let dir = tempfile::tempdir().unwrap();
    let latency = LatencyConfig::default();
    let more_than_there_is = u64::MAX / 2;
    let mut full = Device::start_leaving(dir.path(), 0, latency, more_than_there_is).await;
    full.hours(0..60).await;
    let bytes = bundle(&naive(0.0), 1, 0.0);
    let order = desired(&bytes, 1, 1, pb::Stage::Active);
    full.hub.send(order).await.unwrap();
    let told = full.states.wait_for(|s| {
        s.first()
            .is_some_and(|s| s.reason.contains("no room for the bundle"))
    });
    tokio::time::timeout(Duration::from_secs(30), told)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(full.state().phase(), pb::ModelPhase::Downloading);
    assert!(full.asks.try_recv().is_err(), "no block is asked for");
    full.stop().await;
    // Nobody orders it again.
    let mut device = Device::start(dir.path()).await;
    device.serve(&bytes, 1).await;
    device.hours(60..66).await;
    device.phase(pb::ModelPhase::Healthy).await;
    device.stop().await;
}

#[tokio::test]
async fn an_order_for_another_version_than_the_bundle_says_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut device = Device::start(dir.path()).await;
    device.hours(0..60).await;
    let bytes = bundle(&naive(0.0), 1, 0.0);
    device.order(&bytes, 2, 1, pb::Stage::Active).await;
    let state = device.state();
    assert_eq!(state.phase(), pb::ModelPhase::Rejected);
    assert!(
        state.reason.starts_with("V7") && state.reason.contains("version"),
        "{}",
        state.reason
    );
    device.stop().await;
}

#[tokio::test]
async fn a_shadow_watches_beside_the_model_that_runs() {
    let dir = tempfile::tempdir().unwrap();
    let mut device = Device::start(dir.path()).await;
    device.hours(0..60).await;
    let shadow = bundle(&naive(1.0), 2, 0.0);
    device.order(&shadow, 2, 1, pb::Stage::Shadow).await;
    device.hours(60..70).await;
    let state = device.phase(pb::ModelPhase::Shadowing).await;
    assert!(state.running.is_empty(), "what runs is still the baseline");
    device.hours(70..100).await;
    let [first, day] = &device.paired().await[..] else {
        panic!("two days ended")
    };
    assert_eq!((first.from_ms, day.from_ms), (48 * HOUR, 72 * HOUR));
    assert_eq!((day.origins, day.steps), (24, 48));
    assert_eq!((day.running.len(), day.watching_version), (0, 2));
    assert_eq!(day.watching, Sha256::of(&shadow).0);
    // Last season's values are right, and the shadow's outer quantiles two off: two of three levels, a tenth of two each.
    assert!(day.watching_abs.abs() < 1e-9, "{day:?}");
    assert!((day.watching_quantile - 0.4 / 3.0).abs() < 1e-6, "{day:?}");
    device.order(&shadow, 2, 2, pb::Stage::Active).await;
    device.hours(100..105).await;
    device.phase(pb::ModelPhase::Healthy).await;
    device.hours(105..150).await;
    assert_eq!(device.paired().await.len(), 2, "nothing watches any more");
    device.stop().await;
}

#[tokio::test]
async fn an_order_for_no_model_drops_the_bundle_and_the_baselines_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut device = Device::start(dir.path()).await;
    device.hours(0..60).await;
    let bytes = bundle(&naive(0.0), 1, 0.0);
    device.order(&bytes, 1, 1, pb::Stage::Active).await;
    device.hours(60..66).await;
    device.phase(pb::ModelPhase::Healthy).await;
    device
        .hub
        .send(signed_order(pb::Order {
            site: "plant".into(),
            device: "pi".into(),
            forecaster: "demand".into(),
            stage: pb::Stage::Active as i32,
            generation: 2,
            attempt: 1,
            expires_ms: i64::MAX,
            ..pb::Order::default()
        }))
        .await
        .unwrap();
    let state = device.phase(pb::ModelPhase::None).await;
    assert_eq!((state.generation, state.last_good.len()), (2, 0));
    device.hours(66..68).await;
    let state = device.state();
    assert!(
        state.running.is_empty(),
        "a baseline made the last forecast"
    );
    assert_eq!(state.last_forecast_ms, 67 * HOUR);
    // An order that is not obeyed says so, with the number of its check.
    let replayed = desired(&bytes, 1, 1, pb::Stage::Active);
    device.hub.send(replayed).await.unwrap();
    let told = device
        .states
        .wait_for(|s| s.first().is_some_and(|s| s.reason.starts_with("V4: ")));
    tokio::time::timeout(Duration::from_secs(30), told)
        .await
        .unwrap()
        .unwrap();
    device.stop().await;
}

#[tokio::test]
async fn a_shadow_with_another_window_does_not_disturb_the_model_that_runs() {
    let dir = tempfile::tempdir().unwrap();
    let mut device = Device::start(dir.path()).await;
    device.hours(0..60).await;
    let good = bundle(&naive(0.0), 1, 0.0);
    device.order(&good, 1, 1, pb::Stage::Active).await;
    device.hours(60..66).await;
    device.phase(pb::ModelPhase::Healthy).await;
    let wide = ForecasterSpec {
        lookback: 48,
        ..spec()
    };
    let shadow = bundle_of(wide.clone(), &naive_of(&wide, 1.0), 2, 0.0);
    device.order(&shadow, 2, 2, pb::Stage::Shadow).await;
    device.hours(66..76).await;
    let state = device.state();
    assert_eq!(state.running, Sha256::of(&good).0, "{}", state.reason);
    assert_eq!(state.phase(), pb::ModelPhase::Shadowing, "{}", state.reason);
    device.hours(76..100).await;
    let found = device.paired().await;
    // The day in which it came, and the one that it saw from beginning to end.
    let days: Vec<i64> = found.iter().map(|p| p.from_ms / HOUR).collect();
    assert_eq!(days, [48, 72]);
    let day = &found[1];
    assert_eq!((day.origins, day.steps), (24, 48));
    assert_eq!(
        (&day.running[..], &day.watching[..]),
        (&Sha256::of(&good).0[..], &Sha256::of(&shadow).0[..])
    );
    assert!((day.watching_quantile - 0.4 / 3.0).abs() < 1e-6, "{day:?}");
    device.stop().await;
    // After a restart it goes on with the day that was open.
    let mut again = Device::start(dir.path()).await;
    again.phase(pb::ModelPhase::Shadowing).await;
    let hour = again.until_running(&good, 100).await;
    assert!(hour < 110, "{hour}");
    again.hours(hour..124).await;
    let found = again.paired().await;
    let day = found.last().unwrap();
    assert_eq!((found.len(), day.from_ms), (3, 96 * HOUR));
    // Four origins came before the restart; how many follow depends on when the shadow is loaded again.
    assert!(day.origins >= 4, "{day:?}");
    let mut shown = 124;
    while again.paired().await.last().unwrap().origins < 24 {
        assert!(
            shown < 124 + 60 * 24,
            "the shadow never watches a whole day again"
        );
        again.hours(shown..shown + 24).await;
        shown += 24;
    }
    again.stop().await;
}

#[tokio::test]
async fn a_model_comes_back_after_the_buffer_could_not_be_written_for_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let mut device = Device::start(dir.path()).await;
    device.hours(0..60).await;
    let good = bundle(&naive(0.0), 1, 0.0);
    device.order(&good, 1, 1, pb::Stage::Active).await;
    device.hours(60..66).await;
    device.phase(pb::ModelPhase::Healthy).await;
    // Another process holds the file: every commit fails until it lets go.
    let other = rusqlite::Connection::open(dir.path().join("buffer.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (reply, answer) = oneshot::channel();
    let reading = RawReading {
        sensor: "demand".into(),
        time: 66 * HOUR,
        value: 1.0,
        time_source: pb::TimeSource::External,
    };
    let ingest = Ingest {
        source: "test".into(),
        sensors: Arc::new(["demand".to_owned()]),
        items: vec![Item::Reading(reading)],
        cursor: None,
        alarms: Vec::new(),
        reply,
    };
    device.ingests.send(ingest).await.unwrap();
    assert!(answer.await.unwrap().is_err());
    // What came meanwhile fails too, taking up the buffer included.
    let refused = device.handle.commit(fieldcast_agent::buffer::Commit {
        state: vec![("x".into(), Vec::new())],
        ..Default::default()
    });
    assert!(refused.await.is_err());
    other.execute_batch("ROLLBACK").unwrap();
    drop(other);
    let back = async {
        let mut hour = 66;
        loop {
            device.hours_if_taken(hour..hour + 1).await;
            hour += 1;
            let state = device.state();
            if state.last_forecast_ms >= 66 * HOUR && state.running == Sha256::of(&good).0 {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), back)
        .await
        .unwrap();
    device.stop().await;
}
