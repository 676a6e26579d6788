//! Planted sensor faults on ETTh1: how many are found, and how many are taken for drift; owns no product code.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

#[path = "planted/faults.rs"]
mod faults;

use faults::{HOUR_MS, START, columns, plant};
use fieldcast_drift::SensorMonitor;
use fieldcast_drift::sensor::{SensorLimits, Worth};

#[test]
fn planted_faults_are_found_and_not_taken_for_drift() {
    let Some(columns) = columns() else {
        return;
    };
    let counts = plant(&columns);
    for c in &counts {
        println!(
            "{:?}: found {} of {}, taken for drift {}, told as a shift {}; of {} spoilt readings {} are learnt from",
            c.fault, c.found, c.planted, c.drift, c.told, c.spoilt, c.learnt
        );
    }
    let sum = |of: fn(&faults::Count) -> usize| counts.iter().map(of).sum::<usize>();
    let (all, found, drift) = (sum(|c| c.planted), sum(|c| c.found), sum(|c| c.drift));
    // ETTh1 drifts by itself: such a place says nothing about what a fault is taken for.
    let anyway = sum(|c| c.drift_anyway);
    println!("drift without any fault: {anyway} of {all}");
    assert!(found as f64 >= 0.95 * all as f64, "found {found} of {all}");
    assert!(
        drift as f64 <= 0.05 * (all - anyway) as f64,
        "taken for drift {drift} of {}",
        all - anyway
    );
    let (told, anyway) = (sum(|c| c.told), sum(|c| c.told_anyway));
    println!("told as a shift without any fault: {anyway} of {all}");
    assert!(
        told as f64 <= 0.05 * (all - anyway) as f64,
        "told as a shift {told} of {}",
        all - anyway
    );
    // Most of what goes before a fault is seen was graded good.
    let (spoilt, learnt) = (sum(|c| c.spoilt), sum(|c| c.learnt));
    assert!(
        learnt as f64 <= 0.05 * spoilt as f64,
        "learnt from {learnt} of {spoilt}"
    );
}

/// What was graded good before a fault was seen is left out of training too; of series that nobody broke hardly anything is.
#[test]
fn little_that_is_not_broken_is_kept_from_training() {
    let missing = -200.0;
    let files = [
        ("ETTh1.csv", 1),
        ("bike_sharing_hour.csv", 10),
        ("uci_air_quality.csv", 1),
    ];
    let (mut out, mut of) = (0, 0);
    for (file, first) in files {
        let Some(columns) = faults::read(file, first) else {
            return;
        };
        for (name, values) in columns {
            let mut sensor = SensorMonitor::new(SensorLimits::default()).unwrap();
            let mut learnt = faults::Learnt::default();
            for (i, value) in values.iter().enumerate() {
                if *value == missing {
                    continue;
                }
                let time = START + i as i64 * HOUR_MS;
                learnt.take(time, &sensor.update(time, *value));
            }
            let (left, all) = learnt.left();
            println!("{file} {name}: {} of {all} left out", all - left.len());
            out += all - left.len();
            of += all;
        }
    }
    println!("{out} of {of}");
    assert!((out as f64) < 0.005 * of as f64, "{out} of {of}");
}

/// Weeks of ETTh1 as they are, in which no fault may be seen.
#[test]
fn what_is_not_broken_is_seldom_called_so() {
    let Some(columns) = columns() else {
        return;
    };
    let mut rows = 0;
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    let mut worse = 0;
    for (name, values) in &columns {
        let mut sensor = SensorMonitor::new(SensorLimits::default()).unwrap();
        for (i, value) in values.iter().enumerate() {
            let (worth, events) = sensor.update(START + i as i64 * HOUR_MS, *value);
            worse += usize::from(worth == Worth::Bad);
            rows += 1;
            for event in events.iter().filter(|e| e.raised) {
                *counts
                    .entry(format!("{name} {:?}", event.fault))
                    .or_default() += 1;
            }
        }
    }
    println!("{counts:?}; bad: {worse} of {rows} readings");
    assert!(
        (worse as f64) < 0.005 * f64::from(rows),
        "{worse} of {rows}"
    );
    let of = |fault: &str| -> usize {
        let named = counts.iter().filter(|(k, _)| k.ends_with(fault));
        named.map(|(_, n)| n).sum()
    };
    // Fourteen years of a column in all.
    assert!(
        of("Unit") <= 14 && of("Noise") <= 14 && of("Stuck") <= 14,
        "{counts:?}"
    );
}
