//! What people are told a rollout waits for, along one that is driven by the machine itself.

use std::collections::BTreeMap;

use super::super::machine::{Event, Operator, Report, connected, step};
use super::super::plan::{Member, Mode, Plan, Proof};
use super::*;

fn member(device: &str) -> Member {
    Member {
        device: device.to_owned(),
        rank: 0,
        labels: BTreeMap::new(),
    }
}

fn report(r: &Rollout, device: &str, phase: DeviceState) -> Event {
    let report = Report {
        online: true,
        generation: r.devices[device].generation,
        phase,
        runs_new: phase == DeviceState::Healthy,
        version: 2,
        reason: String::new(),
    };
    Event::Reports(vec![(device.to_owned(), report)])
}

#[test]
fn each_wait_is_named_until_the_next() {
    let mut shadow = Stage::usual("shadow", Mode::Shadow, 100, 600_000);
    shadow.evidence = Some(Proof {
        need: Need::Better,
        min_blocks: 3,
        max_blocks: 9,
        max_span_ms: i64::MAX,
        quiet_ms: 3_600_000,
    });
    let mut all = Stage::usual("all", Mode::Active, 100, 600_000);
    all.approval = true;
    all.soak_ms = 120_000;
    let plan = Plan {
        stages: vec![shadow, all],
        floor: 0,
    };
    let mut r = Rollout::new(plan, 2, &[member("a"), member("b")], 0);
    r.previous = Some(1);
    assert!(waits_for(&r, 7, 0).contains("to begin the stage"));
    connected(&mut r, "a", true, 0);
    step(&mut r, Event::Tick, 0);
    assert_eq!(
        waits_for(&r, 7, 0),
        "1 connected devices to settle; 1 offline devices, for another 10 min; 1 devices heard, 0 are; \
         evidence that it is better, 0 of at most 9 blocks"
    );

    let event = report(&r, "a", DeviceState::Shadowing);
    step(&mut r, event, 1_000);
    step(&mut r, Event::Tick, 601_000);
    assert_eq!(
        waits_for(&r, 7, 601_000),
        "evidence that it is better, 0 of at most 9 blocks"
    );
    let shown = Evidence {
        blocks: 4,
        better: true,
        ..Evidence::default()
    };
    step(&mut r, Event::Evidence(shown), 602_000);
    assert!(waits_for(&r, 7, 602_000).contains("rollout approve 7"));

    step(
        &mut r,
        Event::Operator(Operator::Approve, "ann".into()),
        603_000,
    );
    let event = report(&r, "a", DeviceState::Healthy);
    step(&mut r, event, 604_000);
    step(&mut r, Event::Tick, 1_300_000);
    assert_eq!(waits_for(&r, 7, 1_300_000), "the soak time, another 2 min");
    step(
        &mut r,
        Event::Operator(Operator::Pause, "ann".into()),
        1_301_000,
    );
    assert!(waits_for(&r, 7, 1_301_000).contains("rollout resume 7"));
    step(
        &mut r,
        Event::Operator(Operator::Abort, "ann".into()),
        1_302_000,
    );
    assert_eq!(
        waits_for(&r, 7, 1_302_000),
        "2 devices to go back: 0 have, 1 are offline and not waited for"
    );
    let mut event = report(&r, "a", DeviceState::Healthy);
    if let Event::Reports(reports) = &mut event {
        reports[0].1.runs_new = false;
    }
    step(&mut r, event, 1_303_000);
    assert_eq!(r.status, Status::RolledBack);
    assert!(waits_for(&r, 7, 1_303_000).contains("ended"));
}
