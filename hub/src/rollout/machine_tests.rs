//! Tests of the rollout's state machine: examples of each promise, and properties over random histories.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use super::judge::counts;
use super::machine::{
    Action, DeviceState, Event, Evidence, Operator, Report, Rollout, Status, connected, step,
};
use super::plan::{Member, Mode, Need, Plan, Proof, Stage};

pub(super) const DEADLINE: i64 = 30 * 60_000;

/// Version 2 to `n` devices that run version 1, in the order of their numbers.
pub(super) fn rollout(plan: Plan, n: u32) -> Rollout {
    let member = |i: u32| Member {
        device: format!("d{i}"),
        rank: i,
        labels: [(
            "line".to_owned(),
            if i.is_multiple_of(2) { "a" } else { "b" }.to_owned(),
        )]
        .into(),
    };
    let members: Vec<Member> = (0..n).map(member).collect();
    let mut r = Rollout::new(plan, 2, &members, 7);
    r.previous = Some(1);
    for i in 0..n {
        connected(&mut r, &format!("d{i}"), false, 0);
    }
    r
}

fn fleet(n: u32) -> Rollout {
    rollout(Plan::all_at_once(0), n)
}

/// Everyone is connected from the beginning.
pub(super) fn online(mut r: Rollout) -> Rollout {
    let names: Vec<String> = r.devices.keys().cloned().collect();
    for name in names {
        connected(&mut r, &name, true, 0);
    }
    r
}

fn said(online: bool, generation: u64, phase: DeviceState, runs_new: bool) -> Report {
    Report {
        online,
        generation,
        phase,
        runs_new,
        version: if runs_new { 2 } else { 1 },
        reason: String::new(),
    }
}

fn report(r: &Rollout, device: &str, phase: DeviceState, runs_new: bool) -> Event {
    let generation = r.devices[device].generation;
    Event::Reports(vec![(
        device.into(),
        said(true, generation, phase, runs_new),
    )])
}

pub(super) fn tell(
    r: &mut Rollout,
    device: &str,
    phase: DeviceState,
    runs_new: bool,
    now: i64,
) -> Vec<Action> {
    let event = report(r, device, phase, runs_new);
    step(r, event, now)
}

#[test]
fn healthy_everywhere_promotes_once() {
    let mut r = fleet(3);
    let orders = step(&mut r, Event::Tick, 0);
    assert_eq!(orders.len(), 3);
    assert!(orders.iter().all(|a| matches!(
        a,
        Action::Order {
            generation: 8,
            mode: Mode::Active,
            ..
        }
    )));
    assert!(tell(&mut r, "d0", DeviceState::Healthy, true, 1).is_empty());
    assert!(tell(&mut r, "d1", DeviceState::Healthy, true, 2).is_empty());
    assert_eq!(
        tell(&mut r, "d2", DeviceState::Healthy, true, 3),
        vec![Action::Promote]
    );
    assert_eq!(r.status, Status::Succeeded);
    assert!(step(&mut r, Event::Tick, 4).is_empty());
}

#[test]
fn an_outdated_version_goes_back_also_while_paused_and_once() {
    let why = || Event::Outdated("outdated: since 2026-01-19 the error is 2.5 times".into());
    let mut r = online(fleet(2));
    step(&mut r, Event::Tick, 0);
    step(&mut r, Event::Operator(Operator::Pause, "ann".into()), 1);
    let back = step(&mut r, why(), 2);
    assert_eq!((r.status, back.len()), (Status::RollingBack, 2));
    let to_old = |a: &Action| matches!(a, Action::OrderBack { to: Some(1), .. });
    assert!(back.iter().all(to_old) && r.reason.starts_with("outdated"));
    assert!(step(&mut r, why(), 3).is_empty(), "said again");
    tell(&mut r, "d0", DeviceState::Healthy, false, 4);
    tell(&mut r, "d1", DeviceState::Healthy, false, 4);
    assert_eq!(r.status, Status::RolledBack);
    assert!(step(&mut r, why(), 5).is_empty() && r.status == Status::RolledBack);
}

#[test]
fn a_claim_of_health_without_the_running_hash_is_not_success() {
    let mut r = fleet(1);
    step(&mut r, Event::Tick, 0);
    tell(&mut r, "d0", DeviceState::Healthy, false, 1);
    assert_eq!(
        (r.status, r.devices["d0"].state),
        (Status::Running, DeviceState::Active)
    );
    assert_eq!(
        tell(&mut r, "d0", DeviceState::Healthy, true, 2),
        vec![Action::Promote]
    );
}

#[test]
fn a_report_about_an_older_order_changes_nothing() {
    let mut r = fleet(1);
    step(&mut r, Event::Tick, 0);
    let old = said(true, 7, DeviceState::Healthy, true);
    step(&mut r, Event::Reports(vec![("d0".into(), old)]), 1);
    assert_eq!(r.devices["d0"].state, DeviceState::Pending);
}

#[test]
fn too_many_failures_order_everyone_back_with_a_new_generation() {
    let mut r = fleet(2);
    step(&mut r, Event::Tick, 0);
    tell(&mut r, "d1", DeviceState::Active, true, 1);
    let back = tell(&mut r, "d0", DeviceState::Rejected, false, 1);
    assert_eq!(back.len(), 2);
    assert!(
        back.iter()
            .all(|a| matches!(a, Action::OrderBack { generation: 9, .. }))
    );
    assert_eq!(r.status, Status::RollingBack);
    tell(&mut r, "d0", DeviceState::Healthy, false, 2);
    tell(&mut r, "d1", DeviceState::Healthy, true, 3);
    assert_eq!(
        r.status,
        Status::RollingBack,
        "d1 still runs the new bundle"
    );
    tell(&mut r, "d1", DeviceState::Healthy, false, 4);
    assert_eq!(r.status, Status::RolledBack);
    assert_eq!(
        r.devices["d0"].state,
        DeviceState::Rejected,
        "what happened stays visible"
    );
    assert_eq!(r.devices["d1"].state, DeviceState::RolledBack);
}

#[test]
fn a_device_that_is_there_is_waited_for_even_if_it_is_heard_last() {
    let mut r = fleet(2);
    step(&mut r, Event::Tick, 0);
    connected(&mut r, "d0", true, 0);
    connected(&mut r, "d1", true, 0);
    tell(&mut r, "d0", DeviceState::Failed, false, 1);
    tell(&mut r, "d0", DeviceState::Pending, false, 2);
    assert_eq!(r.status, Status::RollingBack, "d1 has not answered yet");
}

#[test]
fn offline_devices_neither_pass_nor_fail_and_too_few_pause_with_a_reason() {
    let mut r = fleet(4);
    step(&mut r, Event::Tick, 0);
    tell(&mut r, "d0", DeviceState::Healthy, true, 1);
    step(&mut r, Event::Tick, DEADLINE - 1);
    assert_eq!(r.status, Status::Running);
    step(&mut r, Event::Tick, DEADLINE);
    assert_eq!(r.status, Status::Paused);
    assert!(
        r.reason.contains("only 1 of 4") && r.reason.contains("3 offline"),
        "{}",
        r.reason
    );
    assert_eq!(counts(&r).failed, 0);
    tell(&mut r, "d1", DeviceState::Healthy, true, DEADLINE + 1);
    step(
        &mut r,
        Event::Operator(Operator::Resume, "ann".into()),
        DEADLINE + 2,
    );
    assert_eq!(r.status, Status::Running);
    let end = step(&mut r, Event::Tick, 2 * DEADLINE + 2);
    assert_eq!(
        end,
        vec![Action::Promote],
        "half of the fleet heard is enough at the deadline"
    );
}

#[test]
fn an_online_device_that_never_settles_times_out_and_a_newer_order_supersedes() {
    let mut r = online(fleet(1));
    step(&mut r, Event::Tick, 0);
    tell(&mut r, "d0", DeviceState::Downloading, false, 1);
    step(&mut r, Event::Tick, DEADLINE - 1);
    assert_eq!(r.devices["d0"].state, DeviceState::Downloading);
    step(&mut r, Event::Tick, DEADLINE);
    assert_eq!(r.devices["d0"].state, DeviceState::TimedOut);
    assert_eq!(r.status, Status::RollingBack);

    let mut r = fleet(1);
    step(&mut r, Event::Tick, 0);
    let newer = said(true, 99, DeviceState::Healthy, false);
    step(&mut r, Event::Reports(vec![("d0".into(), newer)]), 1);
    assert_eq!(r.status, Status::Superseded);
    assert_eq!(
        r.generation, 99,
        "a generation that a device knows is never given again"
    );
}

#[test]
fn a_device_has_its_own_time_from_when_it_was_there() {
    let mut r = fleet(2);
    step(&mut r, Event::Tick, 0);
    tell(&mut r, "d0", DeviceState::Healthy, true, 1);
    // d1 comes shortly before the stage's deadline and gets its whole time.
    let late = DEADLINE - 10;
    tell(&mut r, "d1", DeviceState::Downloading, false, late);
    step(&mut r, Event::Tick, DEADLINE + 10);
    assert_eq!(
        (r.status, r.devices["d1"].state),
        (Status::Running, DeviceState::Downloading)
    );
    // While it is away its time stands still.
    connected(&mut r, "d1", false, late + 100);
    connected(&mut r, "d1", true, late + 1_100);
    step(&mut r, Event::Tick, late + DEADLINE + 999);
    assert_eq!(r.devices["d1"].state, DeviceState::Downloading);
    step(&mut r, Event::Tick, late + DEADLINE + 1_000);
    assert_eq!(r.devices["d1"].state, DeviceState::TimedOut);
}

#[test]
fn one_failure_of_many_stops_nothing_and_one_of_one_does() {
    let mut r = fleet(1_000);
    step(&mut r, Event::Tick, 0);
    tell(&mut r, "d0", DeviceState::Failed, false, 1);
    tell(&mut r, "d1", DeviceState::Failed, false, 2);
    assert_eq!(r.status, Status::Running, "{}", r.reason);
    // At the deadline hardly anyone has been heard: that is a reason to look, not to go back.
    let mut late = r.clone();
    step(&mut late, Event::Tick, DEADLINE);
    assert_eq!(late.status, Status::Paused, "{}", late.reason);
    tell(&mut r, "d2", DeviceState::Failed, false, 3);
    assert_eq!(r.status, Status::RollingBack);
    assert!(
        r.reason.starts_with("3 of 3 devices failed"),
        "{}",
        r.reason
    );

    let mut r = fleet(1);
    step(&mut r, Event::Tick, 0);
    tell(&mut r, "d0", DeviceState::Failed, false, 1);
    assert_eq!(r.status, Status::RollingBack);
    // Of two, one that failed and one that does well are half: more than the plan allows.
    let mut r = fleet(2);
    step(&mut r, Event::Tick, 0);
    tell(&mut r, "d0", DeviceState::Healthy, true, 1);
    tell(&mut r, "d1", DeviceState::Failed, false, 2);
    assert_eq!(r.status, Status::RollingBack);
}

#[test]
fn few_failures_count_by_their_share_once_everyone_has_been_heard() {
    let mut plan = Plan::all_at_once(0);
    plan.stages[0].max_failed_share = 0.1;
    plan.stages[0].min_failed = 4;
    let mut r = rollout(plan, 8);
    step(&mut r, Event::Tick, 0);
    tell(&mut r, "d0", DeviceState::Failed, false, 1);
    for i in 1..7 {
        tell(&mut r, &format!("d{i}"), DeviceState::Healthy, true, 2);
    }
    assert_eq!(r.status, Status::Running, "{}", r.reason);
    tell(&mut r, "d7", DeviceState::Healthy, true, 3);
    assert_eq!(r.status, Status::RollingBack, "{}", r.reason);
}

#[test]
fn a_fleet_without_devices_promotes_at_once() {
    let mut r = fleet(0);
    assert_eq!(step(&mut r, Event::Tick, 0), vec![Action::Promote]);
    let mut r = rollout(shadowed(Need::Better).plan, 0);
    assert_eq!(step(&mut r, Event::Tick, 0), vec![Action::Promote]);
}

#[test]
fn a_failure_while_the_next_stage_waits_for_approval_sends_the_rollout_back() {
    let mut plan = Plan {
        stages: vec![
            Stage::usual("canary", Mode::Active, 50, DEADLINE),
            Stage::usual("all", Mode::Active, 100, DEADLINE),
        ],
        floor: 0,
    };
    plan.stages[1].approval = true;
    let mut r = rollout(plan, 2);
    step(&mut r, Event::Tick, 0);
    tell(&mut r, "d0", DeviceState::Healthy, true, 1);
    assert_eq!(r.status, Status::Awaiting);
    let back = tell(&mut r, "d0", DeviceState::RolledBack, false, 2);
    assert!(matches!(back[..], [Action::OrderBack { .. }]), "{back:?}");
}

#[test]
fn what_failed_is_told_with_its_commonest_reasons() {
    let mut r = fleet(3);
    step(&mut r, Event::Tick, 0);
    for (device, reason) in [("d0", "slow"), ("d1", "slow"), ("d2", "no space")] {
        let generation = r.devices[device].generation;
        let report = Report {
            reason: reason.into(),
            ..said(true, generation, DeviceState::Failed, false)
        };
        // All three in one round.
        step(&mut r, Event::Reports(vec![(device.into(), report)]), 1);
    }
    assert!(r.reason.ends_with("; 2 x slow"), "{}", r.reason);
}

#[test]
fn below_the_floor_nobody_goes_back_and_nobody_stays() {
    let mut plan = Plan::all_at_once(0);
    plan.floor = 2;
    let mut r = online(rollout(plan.clone(), 3));
    step(&mut r, Event::Tick, 0);
    // d0 fell back to version 1 by itself: it is ordered to run none, once.
    let stripped = tell(&mut r, "d0", DeviceState::RolledBack, false, 1);
    assert_eq!(
        stripped,
        vec![Action::OrderBack {
            device: "d0".into(),
            to: None,
            generation: 9
        }]
    );
    assert!(tell(&mut r, "d0", DeviceState::RolledBack, false, 2).is_empty());
    let back = step(&mut r, Event::Operator(Operator::Abort, "ann".into()), 3);
    assert!(
        back.len() == 3
            && back
                .iter()
                .all(|a| matches!(a, Action::OrderBack { to: None, .. })),
        "{back:?}"
    );
    for d in ["d0", "d1", "d2"] {
        tell(&mut r, d, DeviceState::Healthy, false, 4);
    }
    assert_eq!(r.status, Status::RollingBack, "they still run version 1");

    // A floor above the version itself, stated while it is rolled out.
    let mut r = online(rollout(plan, 1));
    step(&mut r, Event::Tick, 0);
    let back = step(&mut r, Event::Floor(3), 1);
    assert!(matches!(back[..], [Action::OrderBack { to: None, .. }]));
    assert!(r.reason.contains("below the floor"), "{}", r.reason);
}

fn shadowed(need: Need) -> Rollout {
    let proof = Proof {
        need,
        min_blocks: 3,
        max_blocks: 10,
        max_span_ms: 20 * 86_400_000,
        quiet_ms: 5 * DEADLINE,
    };
    let plan = Plan {
        stages: vec![
            Stage {
                evidence: Some(proof),
                ..Stage::usual("shadow", Mode::Shadow, 100, DEADLINE)
            },
            Stage::usual("all", Mode::Active, 100, DEADLINE),
        ],
        floor: 0,
    };
    plan.validate().unwrap();
    let mut r = online(rollout(plan, 1));
    step(&mut r, Event::Tick, 0);
    tell(&mut r, "d0", DeviceState::Shadowing, false, 1);
    r
}

fn blocks(blocks: u32) -> Evidence {
    Evidence {
        blocks,
        devices: 1,
        span_ms: i64::from(blocks) * 86_400_000,
        ..Evidence::default()
    }
}

#[test]
fn a_shadow_passes_when_it_has_been_shown_to_be_better_and_not_before() {
    let mut r = shadowed(Need::Better);
    assert_eq!((r.stage, r.status), (0, Status::Running));
    assert!(step(&mut r, Event::Evidence(blocks(9)), DEADLINE * 3).is_empty());
    assert!(
        r.reason.starts_with("gathers evidence: over 9"),
        "{}",
        r.reason
    );
    let better = Evidence {
        better: true,
        ..blocks(9)
    };
    let orders = step(&mut r, Event::Evidence(better), DEADLINE * 3 + 1);
    assert!(
        matches!(
            orders[..],
            [Action::Order {
                mode: Mode::Active,
                ..
            }]
        ),
        "{orders:?}"
    );
    assert_eq!(r.stage, 1);

    let mut r = shadowed(Need::NotHarmful);
    assert!(step(&mut r, Event::Evidence(blocks(2)), 3).is_empty());
    // What is not called worse yet may be worse all the same.
    let looks = |gain: f64, bet_better: f64| Evidence {
        gain,
        bet_better,
        ..blocks(3)
    };
    for (gain, bet_better) in [(-0.1, 0.8), (0.1, 1.9), (-0.1, 2.1)] {
        assert!(step(&mut r, Event::Evidence(looks(gain, bet_better)), 4).is_empty());
    }
    step(&mut r, Event::Evidence(looks(0.1, 2.1)), 5);
    assert_eq!(r.stage, 1);
    assert_eq!(shadowed(Need::None).stage, 1);
}

#[test]
fn what_watches_beside_a_champion_that_falls_below_the_floor_goes_back() {
    let mut r = shadowed(Need::Better);
    assert!(step(&mut r, Event::Floor(1), 2).is_empty());
    let back = step(&mut r, Event::Floor(2), 3);
    assert!(
        matches!(back[..], [Action::OrderBack { to: None, .. }]),
        "{back:?}"
    );
    assert!(r.reason.contains("version 1"), "{}", r.reason);
    // One that is only on its way to watching does not begin any more.
    let mut r = shadowed(Need::Better);
    if let Some(d) = r.devices.get_mut("d0") {
        d.state = DeviceState::Downloading;
    }
    step(&mut r, Event::Floor(2), 2);
    assert_eq!(r.status, Status::RollingBack);
}

#[test]
fn what_is_worse_or_not_better_in_time_goes_back_and_silence_pauses() {
    let harmful = Evidence {
        harmful: true,
        ..blocks(2)
    };
    for paused in [false, true] {
        let mut r = shadowed(Need::NotHarmful);
        if paused {
            step(&mut r, Event::Operator(Operator::Pause, "ann".into()), 2);
        }
        let back = step(&mut r, Event::Evidence(harmful.clone()), 3);
        assert!(matches!(back[..], [Action::OrderBack { to: Some(1), .. }]));
        assert!(r.reason.starts_with("shown to be worse"), "{}", r.reason);
    }

    let long = Evidence {
        span_ms: 20 * 86_400_000,
        ..blocks(4)
    };
    for evidence in [blocks(10), long] {
        let mut r = shadowed(Need::Better);
        let back = step(&mut r, Event::Evidence(evidence), 3);
        assert!(matches!(back[..], [Action::OrderBack { to: Some(1), .. }]));
        assert!(
            r.reason.starts_with("not shown to be better"),
            "{}",
            r.reason
        );
    }

    let mut r = shadowed(Need::Better);
    step(&mut r, Event::Evidence(blocks(1)), DEADLINE);
    // The same blocks once more are no news.
    step(&mut r, Event::Evidence(blocks(1)), 2 * DEADLINE);
    step(&mut r, Event::Tick, 6 * DEADLINE - 1);
    assert_eq!(r.status, Status::Running);
    step(&mut r, Event::Tick, 6 * DEADLINE);
    assert_eq!(r.status, Status::Paused);
    assert!(r.reason.starts_with("no new evidence"), "{}", r.reason);
    step(
        &mut r,
        Event::Operator(Operator::Resume, "ann".into()),
        7 * DEADLINE,
    );
    step(&mut r, Event::Tick, 8 * DEADLINE);
    assert_eq!(r.status, Status::Running, "{}", r.reason);
}

#[test]
fn where_there_is_no_champion_to_compare_with_a_shadow_needs_no_evidence() {
    let mut r = shadowed(Need::Better);
    r.previous = None;
    step(&mut r, Event::Tick, 2);
    assert_eq!(r.stage, 1);
}
