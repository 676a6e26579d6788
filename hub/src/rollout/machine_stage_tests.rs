//! Tests of the rollout's stages: in which order devices get a model, and what lets a stage pass.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use super::machine::{Action, DeviceState, Event, Operator, Status, listening, step};
use super::machine_tests::{DEADLINE, online, rollout, tell};
use super::plan::{Mode, Plan, Stage};

#[test]
fn stages_shadow_then_canary_then_all_with_approval() {
    let stage = |name: &str, mode, percent, approval| Stage {
        soak_ms: 10,
        approval,
        ..Stage::usual(name, mode, percent, DEADLINE)
    };
    let plan = Plan {
        stages: vec![
            stage("shadow", Mode::Shadow, 100, false),
            stage("canary", Mode::Active, 10, false),
            stage("all", Mode::Active, 100, true),
        ],
        floor: 0,
    };
    plan.validate().unwrap();
    let mut r = rollout(plan, 2);
    assert_eq!(step(&mut r, Event::Tick, 0).len(), 2);
    tell(&mut r, "d0", DeviceState::Shadowing, false, 1);
    tell(&mut r, "d1", DeviceState::Shadowing, false, 2);
    let canary = step(&mut r, Event::Tick, 12);
    assert_eq!(
        canary,
        vec![Action::Order {
            device: "d0".into(),
            mode: Mode::Active,
            generation: 9
        }]
    );
    tell(&mut r, "d0", DeviceState::Healthy, true, 13);
    assert!(step(&mut r, Event::Tick, 23).is_empty());
    assert_eq!(r.status, Status::Awaiting);
    let all = step(&mut r, Event::Operator(Operator::Approve, "ann".into()), 24);
    assert_eq!(
        all,
        vec![Action::Order {
            device: "d1".into(),
            mode: Mode::Active,
            generation: 10
        }]
    );
    tell(&mut r, "d1", DeviceState::Healthy, true, 25);
    assert_eq!(step(&mut r, Event::Tick, 40), vec![Action::Promote]);
}

#[test]
fn a_stage_that_allows_fewer_failures_than_there_were_orders_nobody_forward() {
    let stage = |name: &str, percent, max_failed_share| Stage {
        max_failed_share,
        min_online_share: 0.0,
        ..Stage::usual(name, Mode::Active, percent, DEADLINE)
    };
    let plan = Plan {
        stages: vec![stage("half", 50, 0.6), stage("all", 100, 0.0)],
        floor: 0,
    };
    let mut r = online(rollout(plan, 3));
    step(&mut r, Event::Tick, 0);
    tell(&mut r, "d0", DeviceState::Pending, false, 1);
    tell(&mut r, "d1", DeviceState::Healthy, true, 2);
    // d0 is late, which the first stage forgives and the second does not.
    let actions = step(&mut r, Event::Tick, DEADLINE);
    assert_eq!(r.status, Status::RollingBack, "{}", r.reason);
    let back = |a: &Action| matches!(a, Action::OrderBack { .. });
    assert!(
        actions.len() == 2 && actions.iter().all(back),
        "{actions:?}"
    );
}

#[test]
fn a_healthy_device_that_starts_again_in_a_later_stage_has_a_deadline_anew() {
    let plan = Plan {
        stages: vec![
            Stage::usual("canary", Mode::Active, 50, DEADLINE),
            Stage {
                soak_ms: 10 * DEADLINE,
                ..Stage::usual("all", Mode::Active, 100, DEADLINE)
            },
        ],
        floor: 0,
    };
    let mut r = online(rollout(plan, 2));
    step(&mut r, Event::Tick, 0);
    tell(&mut r, "d0", DeviceState::Healthy, true, 1);
    tell(&mut r, "d1", DeviceState::Healthy, true, 3);
    // It has forecast nothing yet when it first speaks again.
    let again = DEADLINE + 5;
    tell(&mut r, "d0", DeviceState::Healthy, false, again);
    step(&mut r, Event::Tick, again + DEADLINE - 1);
    assert_eq!(r.devices["d0"].state, DeviceState::Active);
    assert_eq!(r.status, Status::Running, "{}", r.reason);
    step(&mut r, Event::Tick, again + DEADLINE);
    assert_eq!(r.devices["d0"].state, DeviceState::TimedOut);
}

#[test]
fn a_stage_without_anyone_new_needs_no_time() {
    let stage = |percent| Stage {
        soak_ms: 1_000,
        ..Stage::usual("s", Mode::Active, percent, DEADLINE)
    };
    let plan = Plan {
        stages: vec![stage(5), stage(25), stage(100)],
        floor: 0,
    };
    let mut r = rollout(plan, 1);
    step(&mut r, Event::Tick, 0);
    tell(&mut r, "d0", DeviceState::Healthy, true, 1);
    assert_eq!((r.stage, r.status), (0, Status::Running));
    assert_eq!(step(&mut r, Event::Tick, 1_001), vec![Action::Promote]);
}

#[test]
fn a_stage_whose_labels_nobody_carries_asks_a_person_and_is_not_skipped() {
    let plan = Plan {
        stages: vec![
            Stage {
                labels: [("line".to_owned(), "z".to_owned())].into(),
                soak_ms: 1_000,
                ..Stage::usual("canary", Mode::Active, 100, DEADLINE)
            },
            Stage::usual("all", Mode::Active, 100, DEADLINE),
        ],
        floor: 0,
    };
    let mut r = online(rollout(plan.clone(), 4));
    assert!(step(&mut r, Event::Tick, 0).is_empty());
    assert_eq!(r.status, Status::Paused);
    for word in ["canary", "line=z", "none of 4 devices", "abort", "resume"] {
        assert!(r.reason.contains(word), "{word}: {}", r.reason);
    }
    assert!(step(&mut r, Event::Tick, 2 * DEADLINE).is_empty());
    // Who goes on knows that nobody tries it first.
    let all = step(&mut r, Event::Operator(Operator::Resume, "ann".into()), 3);
    assert_eq!((r.status, r.stage, all.len()), (Status::Running, 1, 4));
    // Without devices there is nobody to carry a label.
    let mut r = rollout(plan, 0);
    assert_eq!(step(&mut r, Event::Tick, 0), vec![Action::Promote]);
}

#[test]
fn what_passed_while_nobody_listened_counts_for_nobody() {
    const SOAK: i64 = 1_000;
    const AWAY: i64 = 10 * DEADLINE;
    let plan = Plan {
        stages: vec![
            Stage {
                soak_ms: SOAK,
                ..Stage::usual("canary", Mode::Active, 50, DEADLINE)
            },
            Stage::usual("all", Mode::Active, 100, DEADLINE),
        ],
        floor: 0,
    };
    let ordered = || {
        let mut r = online(rollout(plan.clone(), 4));
        listening(&mut r, Some(-5), 0);
        let orders = step(&mut r, Event::Tick, 0);
        let canaries: Vec<String> = orders
            .into_iter()
            .map(|o| match o {
                Action::Order { device, .. } => device,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(canaries.len(), 2);
        (r, canaries)
    };
    // The canaries are well and soak when nobody listens any more. What they say first decides.
    let (mut r, canaries) = ordered();
    for d in &canaries {
        tell(&mut r, d, DeviceState::Healthy, true, 1);
    }
    assert!(r.passed_since.is_some());
    listening(&mut r, None, 2);
    assert!(step(&mut r, Event::Tick, AWAY).is_empty());
    listening(&mut r, Some(AWAY), AWAY);
    assert!(step(&mut r, Event::Tick, AWAY + 1).is_empty());
    assert_eq!((r.status, r.stage), (Status::Running, 0));
    for d in &canaries {
        tell(&mut r, d, DeviceState::RolledBack, false, AWAY + 2);
    }
    step(&mut r, Event::Tick, AWAY + 30_000);
    assert_eq!(r.status, Status::RollingBack, "{}", r.reason);
    // Devices on their way are not late for what nobody heard.
    let (mut r, canaries) = ordered();
    for d in &canaries {
        tell(&mut r, d, DeviceState::Downloading, false, 1);
    }
    listening(&mut r, Some(AWAY), AWAY);
    step(&mut r, Event::Tick, AWAY + 30_000 + DEADLINE - 1);
    assert_eq!((r.status, r.stage), (Status::Running, 0), "{}", r.reason);
    step(&mut r, Event::Tick, AWAY + 30_000 + DEADLINE);
    assert_eq!(r.status, Status::RollingBack, "{}", r.reason);
}

fn shadow_then_all(soak_ms: i64) -> Plan {
    let stage = |name: &str, mode, percent| Stage {
        soak_ms,
        max_failed_share: 0.5,
        ..Stage::usual(name, mode, percent, DEADLINE)
    };
    Plan {
        stages: vec![
            stage("shadow", Mode::Shadow, 100),
            stage("canary", Mode::Active, 10),
            stage("all", Mode::Active, 100),
        ],
        floor: 0,
    }
}

fn newer(watches: bool) -> Event {
    Event::NewerRollout { id: 9, watches }
}

#[test]
fn one_that_somebody_runs_goes_back_before_a_newer_shadow_takes_its_place() {
    let mut r = online(rollout(shadow_then_all(0), 2));
    step(&mut r, Event::Tick, 0);
    let mut watched = r.clone();
    step(&mut watched, newer(true), 1);
    assert_eq!(
        watched.status,
        Status::Superseded,
        "every device runs the champion"
    );
    for device in ["d0", "d1"] {
        tell(&mut r, device, DeviceState::Shadowing, false, 1);
    }
    tell(&mut r, "d0", DeviceState::Healthy, true, 2);
    let mut at_once = r.clone();
    assert!(step(&mut at_once, newer(false), 3).is_empty());
    assert_eq!(
        at_once.status,
        Status::Superseded,
        "the newer one orders all"
    );

    let back = step(&mut r, newer(true), 3);
    assert_eq!((back.len(), r.status), (2, Status::RollingBack));
    assert!(
        back.iter()
            .all(|a| matches!(a, Action::OrderBack { to: Some(1), .. }))
    );
    assert!(step(&mut r, newer(true), 4).is_empty());
    for device in ["d0", "d1"] {
        assert_eq!(r.status, Status::RollingBack);
        tell(&mut r, device, DeviceState::Healthy, false, 5);
    }
    assert_eq!(r.status, Status::Superseded);
    assert_eq!(r.reason, "rollout 9 took over");
    // One that goes back for a reason of its own ends as it would have.
    let mut aborted = online(rollout(Plan::all_at_once(0), 1));
    step(&mut aborted, Event::Tick, 0);
    step(
        &mut aborted,
        Event::Operator(Operator::Abort, "ann".into()),
        1,
    );
    step(&mut aborted, newer(true), 2);
    tell(&mut aborted, "d0", DeviceState::Healthy, false, 3);
    assert_eq!(aborted.status, Status::RolledBack);
}

#[test]
fn a_pause_is_no_soak() {
    let mut r = online(rollout(shadow_then_all(100), 2));
    step(&mut r, Event::Tick, 0);
    for device in ["d0", "d1"] {
        tell(&mut r, device, DeviceState::Shadowing, false, 1);
    }
    step(&mut r, Event::Operator(Operator::Pause, "ann".into()), 2);
    let resumed = step(&mut r, Event::Operator(Operator::Resume, "ann".into()), 500);
    assert!(resumed.is_empty() && r.stage == 0);
    step(&mut r, Event::Tick, 599);
    assert_eq!(r.stage, 0);
    step(&mut r, Event::Tick, 600);
    assert_eq!(r.stage, 1);
}

#[test]
fn a_watcher_that_is_late_watches_all_the_same() {
    let mut r = online(rollout(shadow_then_all(10), 4));
    step(&mut r, Event::Tick, 0);
    for device in ["d0", "d1", "d2"] {
        tell(&mut r, device, DeviceState::Shadowing, false, 1);
    }
    step(&mut r, Event::Tick, DEADLINE);
    assert_eq!(r.devices["d3"].state, DeviceState::TimedOut);
    tell(&mut r, "d3", DeviceState::Shadowing, false, DEADLINE + 1);
    assert_eq!(r.devices["d3"].state, DeviceState::Shadowing);
}

#[test]
fn an_order_that_soon_expires_is_given_anew_to_whoever_still_needs_it() {
    let mut r = online(rollout(shadow_then_all(0), 3));
    step(&mut r, Event::Tick, 0);
    for device in ["d0", "d1"] {
        tell(&mut r, device, DeviceState::Shadowing, false, 1);
    }
    tell(&mut r, "d2", DeviceState::Rejected, false, 1);
    assert_eq!(r.stage, 1);
    let all = ["d0", "d1", "d2"].map(str::to_owned).into();
    let given = step(&mut r, Event::Expiring(all), 2);
    // The canary is ordered it active, who watched goes on watching, and what refused it is not asked again.
    let order = |device: &str, mode| Action::Order {
        device: device.into(),
        mode,
        generation: 10,
    };
    assert_eq!(
        given,
        [order("d0", Mode::Active), order("d1", Mode::Shadow)]
    );
    step(&mut r, Event::Operator(Operator::Abort, "ann".into()), 3);
    let back = step(&mut r, Event::Expiring(vec!["d0".into()]), 4);
    assert!(back.is_empty(), "{back:?}");
}
