//! Tests of the rollout's state machine: examples of each promise, and properties over random histories.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use proptest::prelude::*;

use super::machine::{
    Action, DeviceState, Event, Operator, Report, Rollout, Status, connected, counts, step,
};
use super::plan::{Mode, Plan, Stage};

const DEADLINE: i64 = 30 * 60_000;

fn fleet(n: u8) -> Rollout {
    Rollout::new(Plan::all_at_once(), (0..n).map(|i| (format!("d{i}"), i)), 7)
}

fn report(r: &Rollout, device: &str, phase: DeviceState, runs_new: bool) -> Event {
    let generation = r.devices[device].generation;
    Event::Report(
        device.into(),
        Report {
            online: true,
            generation,
            phase,
            runs_new,
            back: !runs_new,
            reason: String::new(),
        },
    )
}

fn tell(
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
    let old = Report {
        online: true,
        generation: 7,
        phase: DeviceState::Healthy,
        runs_new: true,
        back: false,
        reason: String::new(),
    };
    step(&mut r, Event::Report("d0".into(), old), 1);
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
    connected(&mut r, "d0", true);
    connected(&mut r, "d1", true);
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
    let mut r = fleet(1);
    step(&mut r, Event::Tick, 0);
    tell(&mut r, "d0", DeviceState::Downloading, false, 1);
    step(&mut r, Event::Tick, DEADLINE);
    assert_eq!(r.devices["d0"].state, DeviceState::TimedOut);
    assert_eq!(r.status, Status::RollingBack);

    let mut r = fleet(1);
    step(&mut r, Event::Tick, 0);
    let newer = Report {
        online: true,
        generation: 99,
        phase: DeviceState::Healthy,
        runs_new: false,
        back: true,
        reason: String::new(),
    };
    step(&mut r, Event::Report("d0".into(), newer), 1);
    assert_eq!(r.status, Status::Superseded);
    assert_eq!(
        r.generation, 99,
        "a generation that a device knows is never given again"
    );
}

#[test]
fn stages_shadow_then_canary_then_all_with_approval() {
    let stage = |name: &str, mode, percent, approval| Stage {
        name: name.into(),
        mode,
        percent,
        deadline_ms: DEADLINE,
        soak_ms: 10,
        max_failed_share: 0.2,
        min_failed: 3,
        min_online_share: 0.5,
        approval,
    };
    let plan = Plan {
        stages: vec![
            stage("shadow", Mode::Shadow, 100, false),
            stage("canary", Mode::Active, 10, false),
            stage("all", Mode::Active, 100, true),
        ],
    };
    plan.validate().unwrap();
    let mut r = Rollout::new(plan, [("a".to_owned(), 5), ("b".to_owned(), 50)], 0);
    assert_eq!(step(&mut r, Event::Tick, 0).len(), 2);
    tell(&mut r, "a", DeviceState::Shadowing, false, 1);
    tell(&mut r, "b", DeviceState::Shadowing, false, 2);
    let canary = step(&mut r, Event::Tick, 12);
    assert_eq!(
        canary,
        vec![Action::Order {
            device: "a".into(),
            mode: Mode::Active,
            generation: 2
        }]
    );
    tell(&mut r, "a", DeviceState::Healthy, true, 13);
    assert!(step(&mut r, Event::Tick, 23).is_empty());
    assert_eq!(r.status, Status::Awaiting);
    let all = step(&mut r, Event::Operator(Operator::Approve, "ann".into()), 24);
    assert_eq!(
        all,
        vec![Action::Order {
            device: "b".into(),
            mode: Mode::Active,
            generation: 3
        }]
    );
    tell(&mut r, "b", DeviceState::Healthy, true, 25);
    assert_eq!(step(&mut r, Event::Tick, 40), vec![Action::Promote]);
}

#[test]
fn a_stage_that_allows_fewer_failures_than_there_were_orders_nobody_forward() {
    let stage = |name: &str, percent, max_failed_share| Stage {
        name: name.into(),
        mode: Mode::Active,
        percent,
        deadline_ms: DEADLINE,
        soak_ms: 0,
        max_failed_share,
        min_failed: 3,
        min_online_share: 0.0,
        approval: false,
    };
    let plan = Plan {
        stages: vec![stage("half", 50, 0.6), stage("all", 100, 0.0)],
    };
    let mut r = Rollout::new(
        plan,
        [("d0".into(), 0), ("d1".into(), 16), ("d2".into(), 90)],
        3,
    );
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
fn one_failure_of_many_stops_nothing_and_one_of_one_does() {
    let mut r = Rollout::new(
        Plan::all_at_once(),
        (0..1_000).map(|i| (format!("d{i}"), (i % 100) as u8)),
        0,
    );
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
    let mut plan = Plan::all_at_once();
    plan.stages[0].max_failed_share = 0.1;
    plan.stages[0].min_failed = 4;
    let mut r = Rollout::new(plan, (0..8).map(|i| (format!("d{i}"), i)), 0);
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
}

fn any_phase() -> impl Strategy<Value = DeviceState> {
    prop_oneof![
        Just(DeviceState::Pending),
        Just(DeviceState::Downloading),
        Just(DeviceState::Verified),
        Just(DeviceState::Shadowing),
        Just(DeviceState::Active),
        Just(DeviceState::Healthy),
        Just(DeviceState::Failed),
        Just(DeviceState::RolledBack),
        Just(DeviceState::Rejected),
    ]
}

#[derive(Debug, Clone)]
enum Happening {
    Tick(i64),
    Report(u8, bool, u8, DeviceState, bool),
    Operator(Operator),
    Newer,
}

fn any_happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => (1..DEADLINE).prop_map(Happening::Tick),
        12 => (0..6u8, any::<bool>(), 0..3u8, any_phase(), any::<bool>())
            .prop_map(|(d, on, lag, phase, runs)| Happening::Report(d, on, lag, phase, runs)),
        3 => prop_oneof![
            Just(Operator::Pause), Just(Operator::Resume), Just(Operator::Approve), Just(Operator::Abort)
        ].prop_map(Happening::Operator),
        1 => Just(Happening::Newer),
    ]
}

fn any_plan() -> impl Strategy<Value = Plan> {
    let stage = (
        any::<bool>(),
        0..50_000i64,
        0.0..1.0f64,
        0.0..1.0f64,
        1..5usize,
        any::<bool>(),
    );
    (prop::collection::vec(stage, 1..4)).prop_map(|stages| {
        let n = stages.len();
        let stages = stages.into_iter().enumerate().map(
            |(i, (shadow, soak_ms, failed, online, min_failed, approval))| {
                let last = i + 1 == n;
                Stage {
                    name: format!("s{i}"),
                    mode: if shadow && !last {
                        Mode::Shadow
                    } else {
                        Mode::Active
                    },
                    percent: u8::try_from((i + 1) * 100 / n).unwrap(),
                    deadline_ms: DEADLINE,
                    soak_ms,
                    max_failed_share: failed,
                    min_failed,
                    min_online_share: online,
                    approval,
                }
            },
        );
        Plan {
            stages: stages.collect(),
        }
    })
}

fn play(r: &mut Rollout, now: &mut i64, h: &Happening) -> Vec<Action> {
    match h {
        Happening::Tick(ms) => {
            *now += ms;
            step(r, Event::Tick, *now)
        }
        Happening::Report(d, online, lag, phase, runs_new) => {
            let device = format!("d{d}");
            let generation = r.devices[&device]
                .generation
                .saturating_sub(u64::from(*lag));
            let report = Report {
                online: *online,
                generation,
                phase: *phase,
                runs_new: *runs_new,
                back: !*runs_new,
                reason: String::new(),
            };
            step(r, Event::Report(device, report), *now)
        }
        Happening::Operator(o) => step(r, Event::Operator(*o, "ann".into()), *now),
        Happening::Newer => step(r, Event::NewerRollout(2), *now),
    }
}

proptest! {
    #[test]
    fn generations_rise_no_state_is_dead_and_only_success_promotes(
        plan in any_plan(),
        happenings in prop::collection::vec(any_happening(), 0..80),
    ) {
        prop_assert!(plan.validate().is_ok());
        let mut r = Rollout::new(plan, (0..6u8).map(|i| (format!("d{i}"), i * 16)), 3);
        let mut now = 0;
        let mut last: std::collections::BTreeMap<String, u64> = std::collections::BTreeMap::new();
        let mut promoted = 0;
        let mut actions = step(&mut r, Event::Tick, now);
        for h in &happenings {
            for action in actions.drain(..) {
                match action {
                    Action::Order { device, generation, .. } | Action::OrderBack { device, generation } => {
                        let before = last.insert(device, generation).unwrap_or(3);
                        prop_assert!(generation > before, "{generation} after {before}");
                    }
                    Action::Promote => promoted += 1,
                }
            }
            let final_before = r.status.is_final().then(|| r.clone());
            actions = play(&mut r, &mut now, h);
            if let Some(before) = final_before {
                prop_assert_eq!(&before, &r, "a final state changed");
                prop_assert!(actions.is_empty());
            }
            if r.status == Status::Succeeded {
                let c = counts(&r);
                prop_assert!(c.open == 0, "done with devices still on the way");
            }
            let back = matches!(r.status, Status::RollingBack | Status::RolledBack);
            let ordered = actions.iter().any(|a| matches!(a, Action::Order { .. }));
            prop_assert!(!(back && ordered), "ordered forward while going back");
        }
        promoted += actions.iter().filter(|a| matches!(a, Action::Promote)).count();
        prop_assert!(promoted <= 1);
        prop_assert_eq!(promoted == 1, r.status == Status::Succeeded);

        // From wherever it is, everyone turning healthy with a person approving ends it well or shows why not.
        let mut end = r.clone();
        for _ in 0..30 {
            step(&mut end, Event::Operator(Operator::Resume, "ann".into()), now);
            step(&mut end, Event::Operator(Operator::Approve, "ann".into()), now);
            for d in 0..6u8 {
                let device = format!("d{d}");
                let back = end.status == Status::RollingBack;
                let event = report(&end, &device, DeviceState::Healthy, !back);
                step(&mut end, event, now);
            }
            now += 60_000;
            step(&mut end, Event::Tick, now);
        }
        prop_assert!(end.status.is_final(), "stuck in {:?}: {}", end.status, end.reason);

        // And an abort always ends it within one deadline, even with every device gone silent.
        let mut end = r;
        step(&mut end, Event::Operator(Operator::Abort, "ann".into()), now);
        step(&mut end, Event::Tick, now + DEADLINE);
        prop_assert!(end.status.is_final());
    }
}
