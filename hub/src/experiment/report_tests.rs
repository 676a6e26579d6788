//! The report: what it says of made measures, when it may be decided by, and what is told beforehand.

use fieldcast_drift::arms::{Arm, Summary};
use fieldcast_store::measures::MeasureRow;

use super::machine::{Event, Experiment, Status, step};
use super::machine_tests::running;
use super::report::{Report, made};
use super::request::{Asked, foreseen};
use crate::rollout::machine::DeviceState;

fn names(n: usize) -> Vec<String> {
    (0..n).map(|n| format!("device-{n}")).collect()
}

fn with(n: usize, status: Status) -> Experiment {
    let names = names(n);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut e = running(&names);
    e.status = status;
    e
}

/// Devices that use 10 to 14 before, and 2 less with B.
fn measured(e: &Experiment, keep: impl Fn(&str, Arm) -> bool) -> Vec<MeasureRow> {
    let row = |(i, (device, member)): (usize, (&String, &super::machine::Member))| {
        let before = 10.0 + 4.0 * (i as f64 * 0.618).fract();
        let noise = 0.2 * (i as f64 * 0.755).fract();
        let after = before + noise - if member.arm == Arm::B { 2.0 } else { 0.0 };
        MeasureRow {
            device: device.clone(),
            after: keep(device, member.arm).then_some(after),
            before: Some(before),
            naive: None,
        }
    };
    e.members.iter().enumerate().map(row).collect()
}

fn energy(e: &Experiment) -> Report {
    made(e, Some("energy"), &measured(e, |_, _| true))
}

#[test]
fn the_report_has_effect_interval_and_sample_sizes_and_decides_only_at_the_end() {
    let e = with(60, Status::Ended);
    let report = energy(&e);
    let effect = report.effect.unwrap();
    assert!(
        effect.lower < -2.0 && -2.0 < effect.upper && effect.upper < -1.8,
        "{effect:?}"
    );
    assert!(
        effect.p < 0.001 && effect.explained.unwrap() > 0.5,
        "{effect:?}"
    );
    assert!(
        (-0.2..-0.13).contains(&report.relative.unwrap()),
        "{report:?}"
    );
    assert_eq!(report.a.assigned + report.b.assigned, 60);
    assert_eq!(report.a.measured.unwrap().devices, report.a.assigned);
    assert_eq!((report.a.version, report.b.version), (3, 4));
    assert!(report.decides && !report.balance.uneven, "{report:?}");
    for part in [
        "mean of `energy`",
        "A (version 3)",
        "95 % interval",
        "no title was moved",
    ] {
        assert!(report.words.contains(part), "{}", report.words);
    }
    for status in [Status::Running, Status::Collecting, Status::Stopped] {
        let report = energy(&with(60, status));
        assert!(!report.decides, "{report:?}");
        assert!(
            report.words.contains("not for deciding"),
            "{}",
            report.words
        );
        assert_eq!(report.effect, Some(effect));
    }
    let kept: Report = serde_json::from_value(serde_json::json!(report)).unwrap();
    assert_eq!(kept, report);
}

#[test]
fn devices_that_one_arm_lost_are_counted_and_uneven_arms_decide_nothing() {
    let mut e = with(100, Status::Ended);
    let a_few = made(&e, Some("energy"), &measured(&e, |d, _| !d.ends_with('7')));
    assert_eq!(a_few.a.lost + a_few.b.lost, 10);
    assert!(a_few.decides, "{a_few:?}");
    // B made half of its devices fall silent.
    let silent = |d: &str, arm| arm == Arm::A || d.as_bytes().last().is_some_and(|c| c % 2 == 0);
    let report = made(&e, Some("energy"), &measured(&e, silent));
    assert!(
        report.balance.lost < 0.001 && report.balance.assigned > 0.01,
        "{report:?}"
    );
    assert!(
        !report.decides && report.note.contains("not as they were drawn"),
        "{report:?}"
    );
    let failed = e.members.values_mut().find(|m| m.arm == Arm::B).unwrap();
    failed.state = DeviceState::RolledBack;
    assert_eq!(energy(&e).b.failed, 1);
}

#[test]
fn errors_are_told_by_those_of_last_season_before_and_devices_without_are_lost() {
    let e = with(40, Status::Ended);
    let rows = |naive: Option<f64>| {
        let mut rows = measured(&e, |_, _| true);
        for (i, row) in rows.iter_mut().enumerate() {
            row.naive = if i < 4 { None } else { naive };
        }
        rows
    };
    let (one, two) = (
        made(&e, None, &rows(Some(1.0))),
        made(&e, None, &rows(Some(2.0))),
    );
    assert_eq!(one.a.lost + one.b.lost, 4);
    let (one, two) = (one.effect.unwrap(), two.effect.unwrap());
    assert!((one.difference - 2.0 * two.difference).abs() < 1e-9);
    assert!((one.p - two.p).abs() < 1e-12);
    let none = made(&e, None, &rows(Some(0.0)));
    assert_eq!((none.effect, none.a.measured), (None, None));
    assert!(
        !none.decides && none.note.contains("two devices in each arm"),
        "{none:?}"
    );
}

#[test]
fn a_device_with_next_to_no_scale_is_told_by_the_fleets_and_named() {
    let e = with(60, Status::Ended);
    let mut rows = measured(&e, |_, _| true);
    rows.iter_mut().for_each(|row| row.naive = Some(10.0));
    let tame = made(&e, None, &rows);
    assert!(tame.outlying.is_empty(), "{tame:?}");
    rows[5].naive = Some(1e-9);
    let wild = made(&e, None, &rows);
    assert_eq!(wild.outlying, [rows[5].device.clone()]);
    assert!(wild.words.contains(&rows[5].device), "{}", wild.words);
    // A hundredth of the others' scale, and no less.
    let most = wild
        .a
        .measured
        .unwrap()
        .mean
        .max(wild.b.measured.unwrap().mean);
    assert!(most < 1.4 * 101.0 / 20.0, "{wild:?}");
    let (tame, wild) = (tame.effect.unwrap(), wild.effect.unwrap());
    assert!(
        (wild.lower..=wild.upper).contains(&tame.difference),
        "{wild:?}"
    );
}

#[test]
fn values_that_overflow_are_lost_and_the_kept_report_can_be_read() {
    let e = with(60, Status::Ended);
    let mut rows = measured(&e, |_, _| true);
    rows.iter_mut().for_each(|row| row.naive = Some(1e-200));
    rows[0].naive = Some(1.0);
    let none = made(&e, None, &rows);
    assert_eq!(none.a.lost + none.b.lost, 59, "{none:?}");
    for huge in [1e149, -1e149, 1e61] {
        let mut rows = measured(&e, |_, _| true);
        rows[0].after = Some(huge);
        rows[1].before = Some(huge);
        let report = made(&e, Some("energy"), &rows);
        assert_eq!(report.a.lost + report.b.lost, 1, "{report:?}");
        let kept: Report = serde_json::from_value(serde_json::json!(report)).unwrap();
        assert_eq!(kept, report);
    }
    let mut rows = measured(&e, |_, _| true);
    rows[0].after = Some(1e60);
    rows[1].before = Some(-1e60);
    let report = made(&e, Some("energy"), &rows);
    let kept: Report = serde_json::from_value(serde_json::json!(report)).unwrap();
    assert_eq!(kept, report);
    assert!(!report.outlying.is_empty());
}

#[test]
fn an_experiment_without_devices_has_a_report_that_says_so() {
    let mut e = super::machine_tests::planned();
    assert!(
        made(&e, None, &[])
            .words
            .contains("waits for its first device")
    );
    step(&mut e, Event::Stop("ann".into(), String::new()), 1);
    assert!(made(&e, None, &[]).words.contains("stopped by ann"));
}

#[test]
fn what_can_be_found_is_told_beforehand_with_warnings() {
    let asked = Asked {
        forecaster: "f".into(),
        a: 1,
        b: 2,
        share: 0.25,
        days: 14,
        settle_hours: 24,
        labels: std::collections::BTreeMap::new(),
        sensor: Some("energy".into()),
    };
    let before = Summary {
        devices: 400,
        mean: 50.0,
        deviation: 5.0,
    };
    let many = foreseen(&asked, 400, before);
    // 2.8 x 5 x sqrt(1/300 + 1/100) = 1.6 of 50.
    assert!((many.detectable.unwrap() - 1.62).abs() < 0.02, "{many:?}");
    assert!(many.warnings.is_empty(), "{many:?}");
    let few = foreseen(
        &asked,
        12,
        Summary {
            devices: 12,
            ..before
        },
    );
    assert_eq!(few.warnings.len(), 2, "{few:?}");
    assert!(
        few.warnings[0].contains("about 9 for A and 3 for B"),
        "{few:?}"
    );
    assert!(few.warnings[1].contains("of the mean"), "{few:?}");
    let unknown = Summary {
        devices: 0,
        mean: 0.0,
        deviation: 0.0,
    };
    let unknown = foreseen(&asked, 400, unknown);
    assert!(
        unknown.detectable.is_none() && unknown.warnings[0].contains("`energy`"),
        "{unknown:?}"
    );
}
