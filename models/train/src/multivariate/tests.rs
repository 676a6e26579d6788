//! Tests of the comparison of columns together.

use fieldcast_drift::preset::{Column, Values};
use fieldcast_drift::window::{Grid, Options, check};
use fieldcast_kernel::Rng;

use super::{Joint, compare};

const REFERENCE: usize = 800;
const WINDOW: usize = 120;

/// Slow columns `a`, `b`, `c` of which `a` and `b` go together, in the window against each other where `flips`.
fn columns(seed: u64, flips: bool) -> Vec<Column> {
    let mut rng = Rng::new(seed);
    let mut state = [0.0; 3];
    let mut values = [Vec::new(), Vec::new(), Vec::new()];
    for i in 0..100 + REFERENCE + WINDOW {
        let mut normal = || f64::from(rng.normal());
        let (common, own) = (0.85 * normal(), [0.5 * normal(), 0.5 * normal(), normal()]);
        let sign = if flips && i >= 100 + REFERENCE {
            -1.0
        } else {
            1.0
        };
        let new = [common + own[0], sign * common + own[1], own[2]];
        for ((x, new), values) in state.iter_mut().zip(new).zip(&mut values) {
            *x = 0.9 * *x + new;
            values.push(*x);
        }
    }
    let numbers = |values: &[f64]| Values::Numbers {
        values: values.to_vec(),
        whole: false,
    };
    ["a", "b", "c"]
        .iter()
        .zip(&values)
        .map(|(name, v)| Column {
            name: (*name).into(),
            reference: numbers(&v[100..100 + REFERENCE]),
            current: numbers(&v[100 + REFERENCE..]),
        })
        .collect()
}

fn joint(columns: &[Column]) -> Joint {
    compare(columns, &Grid::default(), &Grid::default(), 1).unwrap()
}

fn cells(values: &mut Values) -> &mut Vec<f64> {
    match values {
        Values::Numbers { values, .. } => values,
        Values::Words(_) => unreachable!(),
    }
}

#[test]
fn a_turned_correlation_is_found_with_its_two_columns() {
    let flipped = columns(3, true);
    let grid = Grid::default();
    assert!(
        !check(&flipped, &grid, &grid, Options::default())
            .unwrap()
            .drift
    );
    let found = joint(&flipped);
    assert!(found.p < 1e-4 && found.auc > 0.7, "{found:?}");
    assert!(found.reconstruction > 1.3 * found.reconstruction_reference);
    let mut chiefly = found.chiefly();
    chiefly.sort_unstable();
    assert_eq!(chiefly, ["a", "b"], "{found:?}");
    assert_eq!(found, joint(&flipped));
}

#[test]
fn columns_that_stay_together_are_not_called() {
    let quiet = (0..8).filter(|seed| joint(&columns(*seed, false)).p <= 0.05);
    assert!(quiet.count() <= 2);
}

#[test]
fn gaps_are_no_change_but_do_not_hide_one() {
    for (flips, fewest, most) in [(false, 0.01, 1.0), (true, 0.0, 1e-3)] {
        let mut torn = columns(5, flips);
        for (c, column) in torn.iter_mut().enumerate() {
            let gaps = cells(&mut column.current).iter_mut().skip(7 * c);
            gaps.step_by(12).for_each(|v| *v = f64::NAN);
        }
        let found = joint(&torn);
        assert!(found.filled > 0.05, "{found:?}");
        assert!((fewest..=most).contains(&found.p), "{found:?}");
    }
    let mut torn = columns(5, true);
    cells(&mut torn[2].current)[20..].fill(f64::NAN);
    let found = joint(&torn);
    assert!(found.left_out[0].reason.contains("gaps") && found.left_out[0].name == "c");
    assert!(found.p < 1e-3 && found.columns.len() == 2, "{found:?}");
}

#[test]
fn what_cannot_be_compared_says_why() {
    let grid = Grid::default();
    let whole = columns(1, false);
    let why = |columns: &[Column]| compare(columns, &grid, &grid, 1).unwrap_err();
    assert!(why(&whole[..1]).contains("few gaps: 1, two are needed"));
    assert!(why(&[]).contains("few gaps: 0"));
    let mut short = whole.clone();
    for column in &mut short {
        cells(&mut column.current).truncate(20);
    }
    assert!(why(&short).contains("in the current file, 40 are needed"));
    for column in &mut short {
        cells(&mut column.current).clear();
    }
    assert!(why(&short).contains("needed"), "{}", why(&short));
    let mut constant = whole;
    cells(&mut constant[0].reference).fill(1.0);
    assert!(joint(&constant).left_out[0].reason.contains("too few"));
}

#[test]
fn a_long_window_is_thinned_and_columns_of_one_another_are_borne() {
    let mut twice = columns(2, false);
    for column in &mut twice {
        let reference = cells(&mut column.reference).clone();
        *cells(&mut column.current) = reference;
    }
    let copy = Column {
        name: "d".into(),
        ..twice[0].clone()
    };
    twice.push(copy);
    let found = joint(&twice);
    assert_eq!(found.current_rows, found.reference_rows / 3);
    assert!(found.p > 0.05, "{found:?}");
}
