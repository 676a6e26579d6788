//! Tests of the fleet verdict: own made fleets, never real data.

#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;
use crate::window::random::Random;

fn fleet_verdict(all: &[Series], end: i64, rules: &Rules) -> Verdict {
    let (mut known, mut skipped) = (Vec::new(), Vec::new());
    for series in all {
        match judge(series, end, rules) {
            Ok(judged) => known.push(judged),
            Err(why) => skipped.push(why),
        }
    }
    confirm(&known, skipped, end, rules)
}

const HOUR: i64 = 3_600_000;

/// Hourly values of a day's season with slow noise, from hour `from` on.
fn hours(seed: u64, from: i64, n: i64, shift: f64) -> Vec<(i64, f64)> {
    let mut random = Random::new(seed);
    let mut x = 0.0;
    (0..n + 50)
        .map(|i| {
            x = 0.8 * x + random.normal();
            let turn = (from + i - 50) as f64 / 24.0 * std::f64::consts::TAU;
            ((from + i - 50) * HOUR, 20.0 + 4.0 * turn.sin() + x + shift)
        })
        .skip(50)
        .collect()
}

/// `n` devices; `moved` of them by `shift` from the last `days` days on.
fn fleet(n: u64, moved: u64, shift: f64, days: i64) -> (Vec<Series>, i64) {
    let (known, all) = (24 * 370, 24 * 430);
    let series = (0..n)
        .map(|d| {
            let mut whole = hours(d + 1, 0, all, 0.0);
            let from = (all - 24 * days) * HOUR;
            let changed = whole.iter_mut().filter(|(t, _)| d < moved && *t > from);
            changed.for_each(|(_, v)| *v += shift);
            let recent = whole.split_off(known as usize);
            Series {
                device: format!("d{d}"),
                sensor: "t".into(),
                reference: whole,
                recent,
            }
        })
        .collect();
    (series, all * HOUR)
}

#[test]
fn what_moved_is_named_with_its_day_and_the_rest_is_not() {
    let (all, end) = fleet(6, 2, 8.0, 20);
    let verdict = fleet_verdict(&all, end, &Rules::default());
    let mut names: Vec<&str> = verdict.changed.iter().map(|c| c.device.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["d0", "d1"], "{:?}", verdict.changed);
    let began = end - 20 * DAY_MS;
    for one in &verdict.changed {
        assert!((one.onset - began).abs() <= 2 * DAY_MS, "{one:?}");
        assert!(one.p.len() == 2 && one.p.iter().all(|p| *p < 0.01));
    }
    let shares: f64 = verdict.changed.iter().map(|c| c.contribution).sum();
    assert!((shares - 1.0).abs() < 1e-12 && verdict.compared == 6);
}

#[test]
fn one_window_is_not_enough_and_a_quiet_fleet_stays_quiet() {
    let (all, end) = fleet(6, 2, 8.0, 7);
    let verdict = fleet_verdict(&all, end, &Rules::default());
    assert!(verdict.changed.is_empty(), "{:?}", verdict.changed);
    let rules = Rules {
        windows: 1,
        ..Rules::default()
    };
    assert_eq!(fleet_verdict(&all, end, &rules).changed.len(), 2);
    let (all, end) = fleet(12, 0, 0.0, 0);
    let verdict = fleet_verdict(&all, end, &Rules::default());
    assert!(verdict.changed.is_empty() && verdict.compared == 12);
}

#[test]
fn in_a_season_that_was_never_seen_a_sudden_change_is_found_and_the_season_is_not() {
    let mut whole = hours(5, 0, 24 * 220, 0.0);
    // A summer that comes slowly, and a step of its own in the last two weeks.
    let summer = |t: i64| 10.0 * ((t as f64 / (90.0 * DAY_MS as f64)) - 1.0).max(0.0);
    whole.iter_mut().for_each(|(t, v)| *v += summer(*t));
    let end = 24 * 220 * HOUR;
    let split = |mut whole: Vec<(i64, f64)>| Series {
        device: "a".into(),
        sensor: "t".into(),
        recent: whole.split_off(24 * 90),
        reference: whole,
    };
    let quiet = fleet_verdict(&[split(whole.clone())], end, &Rules::default());
    assert!(quiet.changed.is_empty() && quiet.compared == 1, "{quiet:?}");
    let late = whole.iter_mut().filter(|(t, _)| *t > end - 14 * DAY_MS);
    late.for_each(|(_, v)| *v += 8.0);
    let moved = fleet_verdict(&[split(whole)], end, &Rules::default());
    assert_eq!(moved.changed.len(), 1, "{moved:?}");
    assert_eq!(moved.changed[0].against, Against::WeeksBefore);
}

#[test]
fn what_cannot_be_judged_says_why() {
    let (mut all, end) = fleet(3, 0, 0.0, 0);
    all[0].recent.clear();
    all[1].reference.truncate(24 * 90);
    all[1].recent = hours(9, 24 * 160, 24 * 30, 0.0);
    let at = |series: &[Series], end| fleet_verdict(series, end, &Rules::default());
    let why = |v: &Verdict| {
        v.skipped
            .iter()
            .map(|s| s.reason.clone())
            .collect::<Vec<_>>()
    };
    let verdict = at(&all, end);
    assert!(verdict.compared == 1 && why(&verdict)[0].contains("no value"));
    let verdict = at(&all[1..2], 24 * 190 * HOUR);
    assert!(
        why(&verdict)[0].contains("season of the year"),
        "{verdict:?}"
    );
    let none = Rules {
        rate: 0.0,
        ..Rules::default()
    };
    assert!(none.check().unwrap_err().to_string().contains("rate"));
    assert!(Rules::default().check().is_ok());
}
