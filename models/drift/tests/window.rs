//! The default policy on made series: few false alarms where plain tests cry wolf, and drift is still found.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

#[path = "support/mmix.rs"]
mod mmix;

use fieldcast_drift::preset::{Column, Values};
use fieldcast_drift::two_sample::ks;
use fieldcast_drift::window::{Check, Grid, Moved, Options, check};
use mmix::Random;

/// Unit deviation, correlation `phi` from row to row.
fn slow(random: &mut Random, phi: f64, n: usize) -> Vec<f64> {
    let mut x = 0.0;
    let scale = (1.0 - phi * phi).sqrt();
    let mut next = || {
        x = phi * x + scale * random.normal();
        x
    };
    (0..n + 200).map(|_| next()).skip(200).collect()
}

fn numbers(name: &str, reference: Vec<f64>, current: Vec<f64>) -> Column {
    let of = |values| Values::Numbers {
        values,
        whole: false,
    };
    Column {
        name: name.into(),
        reference: of(reference),
        current: of(current),
    }
}

fn one(column: Column, seed: u64) -> Check {
    let none = Grid::default();
    let options = Options {
        seed,
        ..Options::default()
    };
    check(&[column], &none, &none, options).unwrap()
}

#[test]
fn slow_sensors_do_not_cry_wolf_and_moved_ones_are_found() {
    const WINDOWS: u64 = 200;
    let (mut false_alarms, mut plain, mut found) = (0, 0, 0);
    let mut far = 0;
    for seed in 0..WINDOWS {
        let all = slow(&mut Random(seed * 7919), 0.9, 1_400);
        let (reference, window) = (all[..1_000].to_vec(), all[1_300..].to_vec());
        plain += usize::from(ks(&reference, &window).unwrap().p <= 0.05);
        let moved: Vec<f64> = window.iter().map(|v| v + 2.5).collect();
        let unit: Vec<f64> = window.iter().map(|v| v * 1_000.0 + 5_000.0).collect();
        far += usize::from(one(numbers("x", reference.clone(), unit), seed).drift);
        false_alarms += usize::from(one(numbers("x", reference.clone(), window), seed).drift);
        found += usize::from(one(numbers("x", reference, moved), seed).drift);
    }
    assert!(plain > 120, "the fault that is avoided: {plain}");
    assert!(false_alarms <= 18, "{false_alarms} of {WINDOWS}");
    assert_eq!(far, WINDOWS as usize, "what is farthest is not excused");
    assert!(found >= 190, "{found} of {WINDOWS}");
}

#[test]
fn states_that_stay_do_not_cry_wolf_and_new_ones_are_found() {
    const WINDOWS: u64 = 100;
    let (mut false_alarms, mut found) = (0, 0);
    for seed in 0..WINDOWS {
        let mut random = Random(seed * 104_729);
        let mut state = 0;
        let mut next = || {
            if random.unit() < 0.04 {
                state = (random.unit() * 3.0) as usize;
            }
            Some(["off", "heat", "cool"][state].to_owned())
        };
        let reference: Vec<_> = (0..1_500).map(|_| next()).collect();
        let window: Vec<_> = (0..150).map(|_| next()).collect();
        let other = vec![Some("fault".to_owned()); 150];
        let column = |current: Vec<Option<String>>| Column {
            name: "state".into(),
            reference: Values::Words(reference.clone()),
            current: Values::Words(current),
        };
        false_alarms += usize::from(one(column(window), seed).drift);
        found += usize::from(one(column(other), seed).drift);
    }
    assert!(false_alarms <= 12, "{false_alarms} of {WINDOWS}");
    assert_eq!(found, WINDOWS as usize);
}

#[test]
fn many_columns_keep_the_rate_and_name_the_one_that_moved() {
    let mut random = Random(5);
    let mut columns: Vec<Column> = (0..30)
        .map(|i| {
            let all = slow(&mut random, 0.5, 700);
            numbers(&format!("s{i}"), all[..600].to_vec(), all[600..].to_vec())
        })
        .collect();
    let all = slow(&mut random, 0.5, 700);
    let moved = all[600..].iter().map(|v| v + 1.5).collect();
    columns.push(numbers("moved", all[..600].to_vec(), moved));
    let none = Grid::default();
    let done = check(&columns, &none, &none, Options::default()).unwrap();
    assert!(done.drift && done.columns[0].name == "moved");
    let Moved::Numbers {
        reference_mean,
        current_mean,
        ..
    } = done.columns[0].compared.moved
    else {
        panic!("numbers")
    };
    assert!(current_mean - reference_mean > 1.0);
    assert!(done.columns.iter().filter(|c| c.drift).count() <= 3);
    assert_eq!(
        done,
        check(&columns, &none, &none, Options::default()).unwrap()
    );
}

#[test]
fn hostile_columns_are_skipped_with_a_reason() {
    let good = slow(&mut Random(1), 0.0, 300);
    let holes: Vec<f64> = (0..300)
        .map(|i| if i % 2 == 0 { f64::NAN } else { good[i] })
        .collect();
    let columns = [
        numbers("good", good.clone(), good[..50].to_vec()),
        numbers("holes", holes.clone(), holes[..60].to_vec()),
        numbers("flat", vec![2.0; 300], vec![2.0; 50]),
        numbers("flat_moved", vec![2.0; 300], vec![3.0; 50]),
        numbers("gone", good.clone(), vec![f64::NAN; 50]),
        numbers("short", good.clone(), good[..9].to_vec()),
        numbers("huge", [1e300, -1e300].repeat(150), vec![f64::INFINITY; 50]),
        numbers(
            "vast",
            good.iter().map(|v| v * 1e300).collect(),
            good[..50].to_vec(),
        ),
    ];
    let none = Grid::default();
    let done = check(&columns, &none, &none, Options::default()).unwrap();
    let why = |name: &str| {
        let found = done.skipped.iter().find(|s| s.name == name);
        found.map(|s| s.reason.clone()).unwrap_or_default()
    };
    for (name, says) in [
        ("flat", "has only the value 2: nothing"),
        ("flat_moved", "50 other values in the current file"),
        ("gone", "has no value in the current file"),
        ("short", "has 9 values in the current file, 10 are needed"),
        ("huge", "has no value in the current file"),
    ] {
        assert!(why(name).contains(says), "{name}: {}", why(name));
    }
    for column in &done.columns {
        let p = column.compared.p;
        assert!((0.0..=1.0).contains(&p), "{} {p}", column.name);
    }
    assert!(check(&columns[2..], &none, &none, Options::default()).is_ok());
    let error = check(&columns[2..3], &none, &none, Options::default()).unwrap_err();
    assert!(error.to_string().contains("`flat` has only"), "{error}");
}
