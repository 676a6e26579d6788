//! Tests of what a retraining is refused for: owns made snapshots and verdicts, never a database.
#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::json;

use super::*;

const HOUR_MS: Millis = 3_600_000;

fn spec() -> ForecasterSpec {
    serde_json::from_value(
        json!({"name": "f", "target": "demand", "inputs": ["temperature", "demand"],
        "period": "1h", "lookback": 48, "horizon": 6}),
    )
    .unwrap()
}

/// Hours `[from, to)`, of which `good` says whether temperature and demand are there.
fn device(
    name: &str,
    (from, to): (Millis, Millis),
    good: impl Fn(Millis) -> [bool; 2],
) -> DeviceRows {
    let value = |there: bool| if there { 1.0 } else { f64::NAN };
    let rows = (from..to).map(|h| FeatureRow {
        time: h * HOUR_MS,
        values: good(h).map(value).to_vec(),
    });
    DeviceRows {
        device: name.into(),
        rows: rows.collect(),
        spoilt: 0,
    }
}

#[test]
fn a_snapshot_with_too_few_good_values_names_the_share_and_the_device() {
    let whole = device("a", (0, 100), |_| [true; 2]);
    let half = device("b", (0, 100), |h| [h % 10 == 0; 2]);
    let policy = Policy::default();
    assert_eq!(
        snapshot(&spec(), std::slice::from_ref(&whole), &policy),
        Ok(())
    );
    let refused = snapshot(&spec(), &[whole, half.clone()], &policy).unwrap_err();
    let words = refused.to_string();
    assert!(
        words.contains("220 of 400") && words.contains("55.0 %") && words.contains("`b`: 10.0 %"),
        "{words}"
    );
    let lenient = Policy {
        min_quality: 0.05,
        ..policy
    };
    // Ten values of the target are no two seasons.
    let words = snapshot(&spec(), &[half], &lenient)
        .unwrap_err()
        .to_string();
    assert!(
        words.contains("more than 10") && words.contains("are 48"),
        "{words}"
    );
}

#[test]
fn rows_that_are_not_there_count_as_missing_but_not_where_no_window_spans_the_hole() {
    let mut holes = device("a", (0, 200), |_| [true; 2]);
    holes.rows.retain(|r| r.time / HOUR_MS % 4 < 2);
    let words = snapshot(&spec(), &[holes], &Policy::default());
    assert!(words.unwrap_err().to_string().contains("200 of 396"));
    let mut away = device("a", (0, 1_000), |_| [true; 2]);
    away.rows
        .retain(|r| !(100..900).contains(&(r.time / HOUR_MS)));
    assert_eq!(snapshot(&spec(), &[away], &Policy::default()), Ok(()));
}

#[test]
fn two_seasons_are_enough_and_one_step_less_is_not() {
    let hours = |n| [device("a", (0, n), |_| [true; 2])];
    assert_eq!(snapshot(&spec(), &hours(48), &Policy::default()), Ok(()));
    let refused = snapshot(&spec(), &hours(47), &Policy::default());
    assert!(matches!(
        refused,
        Err(Refusal::Seasons {
            steps: 47,
            asked: 48,
            ..
        })
    ));
}

fn verdicts(ratios: &[f64]) -> Vec<DeviceVerdict> {
    let one = |(i, ratio): (usize, &f64)| DeviceVerdict {
        device: format!("d{i}"),
        days: 20,
        ratio: *ratio,
        t: 0.0,
        above: 0.5,
        drifted: *ratio >= 1.15,
    };
    ratios.iter().enumerate().map(one).collect()
}

#[test]
fn a_change_of_one_device_among_three_is_that_devices() {
    let policy = Policy::default();
    let judge = |ratios: &[f64], policy: &Policy| change(&verdicts(ratios), 1.15, policy);
    let words = judge(&[1.02, 2.5, 0.97], &policy).unwrap_err().to_string();
    for word in [
        "97.9 %",
        "`d1`",
        "other 2 devices are 0.99 times",
        "most 50.0 %",
    ] {
        assert!(words.contains(word), "{words}");
    }
    // A second one that shows a little of it makes it no change of all.
    for odd in [
        &[1.2, 9.0, 0.97][..],
        &[1.3, 2.0, 1.0],
        &[1.2, 4.0, 1.0, 1.0, 1.0],
    ] {
        assert!(judge(odd, &policy).is_err(), "{odd:?}");
    }
    // Two devices do not outvote each other, and of three changed alike, or two of them, none is the odd one.
    for fine in [
        &[1.02, 2.5][..],
        &[1.5, 1.6, 1.0],
        &[1.3, 1.4, 1.3],
        &[0.9; 3],
        &[],
    ] {
        assert_eq!(judge(fine, &policy), Ok(()), "{fine:?}");
    }
    let lenient = Policy {
        max_device_share: 1.0,
        ..policy
    };
    assert_eq!(judge(&[1.0, 2.5, 1.0], &lenient), Ok(()));
}
