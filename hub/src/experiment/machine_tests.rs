//! The machine of experiments: each transition, and what holds over random histories.

use std::collections::BTreeMap;

use fieldcast_drift::arms::Arm;
use proptest::prelude::*;

use super::assign::arm;
use super::machine::*;
use crate::rollout::machine::{DeviceState, Report};

const DAY: i64 = 86_400_000;

pub(super) fn planned() -> Experiment {
    Experiment {
        id: 7,
        versions: [3, 4],
        share_b: 0.5,
        length_ms: 10 * DAY,
        status: Status::Planned,
        reason: String::new(),
        created_at: 0,
        started_at: None,
        ends_at: None,
        members: BTreeMap::new(),
        generation: 20,
    }
}

fn fit(names: &[&str]) -> Event {
    Event::Fit(names.iter().map(|n| ((*n).to_owned(), 0)).collect())
}

fn says(device: &str, generation: u64, phase: DeviceState, runs_new: bool) -> (String, Report) {
    let report = Report {
        online: true,
        generation,
        phase,
        runs_new,
        version: 0,
        reason: "so".into(),
    };
    (device.to_owned(), report)
}

/// Running with these devices since time 0.
pub(super) fn running(names: &[&str]) -> Experiment {
    let mut e = planned();
    let orders = step(&mut e, fit(names), 0);
    assert_eq!(orders.len(), names.len());
    e
}

#[test]
fn it_begins_with_its_first_device_and_ends_when_its_time_and_a_day_are_over() {
    let mut e = planned();
    assert!(step(&mut e, fit(&[]), 5).is_empty());
    assert_eq!(e.status, Status::Planned);
    // The device knows a higher generation than the database.
    let orders = step(&mut e, Event::Fit(vec![("a".into(), 30)]), 5);
    assert_eq!(
        (orders[0].generation, orders[0].arm),
        (31, arm(7, "a", 0.5))
    );
    assert_eq!((e.status, e.ends_at), (Status::Running, Some(5 + 10 * DAY)));
    assert!(step(&mut e, Event::Fit(vec![("a".into(), 30)]), 6).is_empty());
    // Whoever comes in the first half joins, whoever comes later does not.
    assert_eq!(step(&mut e, fit(&["b"]), 5 * DAY)[0].generation, 21);
    assert!(step(&mut e, fit(&["c"]), 5 * DAY + 5).is_empty());
    step(&mut e, Event::Tick, 10 * DAY + 4);
    assert_eq!(e.status, Status::Running);
    step(&mut e, Event::Tick, 10 * DAY + 5);
    assert_eq!(e.status, Status::Collecting);
    assert!(!e.status.holds() && !e.status.is_final());
    // Its time is over: nobody can end it before.
    step(
        &mut e,
        Event::Stop("ann".into(), String::new()),
        10 * DAY + 6,
    );
    step(&mut e, Event::Floor(99), 10 * DAY + 6);
    assert_eq!(e.status, Status::Collecting);
    step(&mut e, Event::Tick, 11 * DAY + 5);
    assert_eq!((e.status, e.ends_at), (Status::Ended, Some(5 + 10 * DAY)));
}

#[test]
fn a_hub_that_was_away_for_long_ends_it_where_its_time_was_over() {
    let mut e = running(&["a", "b"]);
    step(&mut e, Event::Tick, 40 * DAY);
    assert_eq!((e.status, e.ends_at), (Status::Ended, Some(10 * DAY)));
}

#[test]
fn a_person_the_floor_and_failures_stop_it_and_say_why() {
    let stopped = |event| {
        let mut e = running(&["a", "b"]);
        step(&mut e, event, DAY);
        assert_eq!((e.status, e.ends_at), (Status::Stopped, Some(DAY)));
        e.reason
    };
    let stop = Event::Stop("ann".into(), "wrong sensor".into());
    assert_eq!(stopped(stop), "stopped by ann: wrong sensor");
    assert!(stopped(Event::Floor(4)).contains("version 3 is below"));
    let mut e = running(&["a", "b"]);
    step(&mut e, Event::Floor(3), DAY);
    assert_eq!(e.status, Status::Running);
    let mut e = planned();
    step(&mut e, Event::Tick, 7 * DAY - 1);
    assert_eq!(e.status, Status::Planned);
    step(&mut e, Event::Tick, 7 * DAY);
    assert_eq!((e.status, e.ends_at), (Status::Stopped, None));
}

#[test]
fn a_device_counts_only_for_the_order_of_its_arm_and_three_failures_in_an_arm_are_too_many() {
    let names: Vec<String> = (0..40).map(|n| format!("d{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut e = running(&names);
    let in_b: Vec<&str> = names
        .iter()
        .copied()
        .filter(|n| e.members[*n].arm == Arm::B)
        .collect();
    let say = |e: &mut Experiment, device: &str, phase, new| {
        let generation = e.members[device].generation;
        step(
            e,
            Event::Reports(vec![says(device, generation, phase, new)]),
            1,
        );
    };
    step(
        &mut e,
        Event::Reports(vec![says(in_b[0], 3, DeviceState::Failed, false)]),
        1,
    );
    assert_eq!(
        e.members[in_b[0]].state,
        DeviceState::Pending,
        "an older order's"
    );
    say(&mut e, in_b[0], DeviceState::Healthy, false);
    assert_eq!(
        e.members[in_b[0]].state,
        DeviceState::Active,
        "another bundle forecasts"
    );
    say(&mut e, in_b[0], DeviceState::Healthy, true);
    assert_eq!(e.members[in_b[0]].state, DeviceState::Healthy);
    // More than a third of those heard are too many, whatever else they do.
    for device in &in_b[1..8] {
        say(&mut e, device, DeviceState::Healthy, true);
    }
    for device in &in_b[8..12] {
        say(&mut e, device, DeviceState::RolledBack, false);
    }
    assert_eq!(e.status, Status::Running, "4 of 12");
    say(&mut e, in_b[7], DeviceState::RolledBack, false);
    assert_eq!(e.status, Status::Stopped, "5 of 12");
    assert!(
        e.reason.starts_with("version 4 failed on 5 of"),
        "{}",
        e.reason
    );
}

#[test]
fn who_fails_first_ends_nothing_before_others_were_heard() {
    let names: Vec<String> = (0..1_000).map(|n| format!("d{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut e = running(&names);
    let of = |e: &Experiment, arm| {
        let of = e.members.iter().filter(|(_, m)| m.arm == arm);
        of.map(|(name, m)| (name.clone(), m.generation))
            .collect::<Vec<_>>()
    };
    let in_b = of(&e, Arm::B);
    let say = |e: &mut Experiment, of: &[(String, u64)], phase| {
        let reports = of.iter().map(|(d, g)| says(d, *g, phase, false));
        step(e, Event::Reports(reports.collect()), 1);
    };
    say(&mut e, &in_b[..3], DeviceState::Rejected);
    assert_eq!(e.status, Status::Running, "3 of 3 heard, of hundreds");
    say(&mut e, &in_b[3..20], DeviceState::Downloading);
    say(&mut e, &in_b[3..6], DeviceState::Rejected);
    assert_eq!(e.status, Status::Running, "6 of 20 heard");
    say(&mut e, &in_b[6..7], DeviceState::Rejected);
    assert_eq!(e.status, Status::Stopped, "7 of 20 heard");
    // The first two of a fleet that comes one by one.
    let mut e = running(&["a", "b"]);
    let all: Vec<_> = of(&e, Arm::A).into_iter().chain(of(&e, Arm::B)).collect();
    say(&mut e, &all, DeviceState::Rejected);
    assert_eq!(e.status, Status::Running);
}

#[test]
fn a_device_that_says_it_knows_a_generation_far_above_is_left_out_and_uses_up_none() {
    let mut e = planned();
    let said = [u64::MAX, i64::MAX as u64, i64::MAX as u64 - 1, 1 << 33];
    let mut fit: Vec<(String, u64)> = (0..4).map(|n| format!("x{n}")).zip(said).collect();
    step(&mut e, Event::Fit(fit.clone()), 0);
    assert_eq!(e.status, Status::Planned, "nobody fits");
    fit.push(("a".into(), 30));
    let orders = step(&mut e, Event::Fit(fit), 1);
    assert_eq!(orders.len(), 1, "{orders:?}");
    assert_eq!((orders[0].device.as_str(), orders[0].generation), ("a", 31));
}

fn event() -> impl Strategy<Value = Event> {
    let device = || (0_u8..12).prop_map(|n| format!("d{n}"));
    let phase = prop::sample::select(DeviceState::ALL.to_vec());
    let report = (device(), 0_u64..60, phase, any::<bool>())
        .prop_map(|(device, generation, phase, new)| says(&device, generation, phase, new));
    prop_oneof![
        4 => prop::collection::vec((device(), 0_u64..50), 0..5).prop_map(Event::Fit),
        4 => prop::collection::vec(report, 0..4).prop_map(Event::Reports),
        1 => (0_u64..4).prop_map(Event::Floor),
        4 => Just(Event::Tick),
        1 => Just(Event::Stop("ann".into(), String::new())),
    ]
}

proptest! {
    #[test]
    fn over_any_history_arms_stay_orders_rise_and_it_ends(
        events in prop::collection::vec((event(), 0_i64..2 * DAY), 0..40),
    ) {
        let (mut e, mut now) = (planned(), 0);
        for (event, passes) in events {
            now += passes;
            let before = e.clone();
            let orders = step(&mut e, event, now);
            prop_assert!(orders.is_empty() || before.joins(now));
            for order in &orders {
                prop_assert!(order.generation > e.generation);
                prop_assert_eq!(order.arm, arm(e.id, &order.device, e.share_b));
                prop_assert!(!before.members.contains_key(&order.device));
            }
            for (device, member) in &before.members {
                let after = &e.members[device];
                prop_assert_eq!((member.arm, member.generation), (after.arm, after.generation));
            }
            if before.status.is_final() {
                prop_assert_eq!(&before, &e);
            }
            if e.status == Status::Stopped && e.reason.contains(" failed on ") {
                let many = [Arm::A, Arm::B].into_iter().any(|arm| {
                    let of = || e.members.values().filter(move |m| m.arm == arm);
                    let failed = of().filter(|m| m.state.failed()).count();
                    let heard = of().filter(|m| m.state != DeviceState::Pending).count();
                    failed >= 3 && 3 * failed > heard && 2 * heard >= of().count().min(20)
                });
                prop_assert!(many, "{:?}", e.members);
            }
            prop_assert!(e.status == Status::Planned || e.ends_at.is_some() || e.status == Status::Stopped);
        }
        // Whatever it is in, time alone leads to an end.
        step(&mut e, Event::Tick, now + 30 * DAY);
        prop_assert!(e.status.is_final(), "{:?}", e.status);
    }

    #[test]
    fn who_is_in_which_arm_does_not_depend_on_who_came_first(order in Just((0..30).collect::<Vec<_>>()).prop_shuffle()) {
        let mut e = planned();
        for n in order {
            step(&mut e, fit(&[&format!("d{n}")]), n);
        }
        let mut at_once = planned();
        let names: Vec<String> = (0..30).map(|n| format!("d{n}")).collect();
        step(&mut at_once, Event::Fit(names.into_iter().map(|n| (n, 0)).collect()), 0);
        prop_assert_eq!(e.members, at_once.members);
    }
}
