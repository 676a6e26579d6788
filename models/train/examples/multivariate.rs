//! Simulated windows of several columns for `cargo xtask bench drift`: owns the made series and the rates, never a goal.

use std::time::Instant;

use fieldcast_drift::preset::{Column, Values};
use fieldcast_drift::window::{Grid, Options, check, discoveries};
use fieldcast_kernel::Rng;
use fieldcast_train::multivariate::compare;

/// Rows of the reference, and the rate asked for.
const REFERENCE: usize = 1_000;
const RATE: f64 = 0.05;

/// What is made.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    columns: usize,
    window: usize,
    /// Autocorrelation from row to row.
    phi: f64,
    /// Rows of a day; 0 = none.
    season: usize,
    /// Correlation of every column with what they have in common.
    loading: f64,
    /// Whether the first column turns against the others in the window.
    flips: bool,
    /// Of Student's t with 3 degrees of freedom instead of normal.
    heavy: bool,
}

/// Columns that share a part, and a window that comes a random while after the reference.
fn series(case: Case, rng: &mut Rng) -> (Vec<Column>, usize) {
    let gap = rng.below(500);
    let (from, begins) = (300, 300 + REFERENCE + gap);
    let scale = (1.0 - case.phi * case.phi).sqrt();
    let own = (1.0 - case.loading * case.loading).sqrt();
    let mut state = vec![0.0; case.columns];
    let mut values = vec![Vec::new(); case.columns];
    let noise = |rng: &mut Rng| {
        let z = f64::from(rng.normal());
        if case.heavy {
            let square: f64 = (0..3).map(|_| f64::from(rng.normal()).powi(2)).sum();
            z / square.sqrt()
        } else {
            z
        }
    };
    for i in 0..begins + case.window {
        let common = noise(rng);
        for (c, x) in state.iter_mut().enumerate() {
            let sign = if case.flips && c == 0 && i + 50 >= begins {
                -1.0
            } else {
                1.0
            };
            *x = case.phi * *x + scale * (case.loading * sign * common + own * noise(rng));
            let turn = (i + 3 * c) as f64 / case.season.max(1) as f64 * std::f64::consts::TAU;
            values[c].push(
                *x + if case.season > 1 {
                    2.0 * turn.sin()
                } else {
                    0.0
                },
            );
        }
    }
    let numbers = |values: &[f64]| Values::Numbers {
        values: values.to_vec(),
        whole: false,
    };
    let columns = values.iter().enumerate().map(|(c, v)| Column {
        name: format!("x{c}"),
        reference: numbers(&v[from..from + REFERENCE]),
        current: numbers(&v[begins..]),
    });
    (columns.collect(), begins - from)
}

/// Prints shares of windows called drifted by the columns together, by the whole check, by the columns alone, by the classifier
/// and by the components; then milliseconds for the columns together.
fn rates(case: Case, windows: usize) {
    let mut counts = [0_usize; 5];
    let mut took = 0.0;
    for seed in 0..windows as u64 {
        let mut rng = Rng::new(seed.wrapping_mul(0x1234_5678_9ABC_DEF1) ^ 0x5EED);
        let (columns, begins) = series(case, &mut rng);
        let slot = |rows: std::ops::Range<usize>| Grid {
            slots: rows
                .map(|i| i % case.season.max(1))
                .filter(|_| case.season > 1)
                .collect(),
            breaks: Vec::new(),
        };
        let grids = (slot(0..REFERENCE), slot(begins..begins + case.window));
        let options = Options { rate: RATE, seed };
        let began = Instant::now();
        let joint = compare(&columns, &grids.0, &grids.1, seed);
        took += began.elapsed().as_secs_f64();
        let (Ok(single), Ok(joint)) = (check(&columns, &grids.0, &grids.1, options), joint) else {
            continue;
        };
        let mut p: Vec<f64> = single.columns.iter().map(|c| c.compared.p).collect();
        p.push(joint.p);
        for (count, hit) in counts.iter_mut().zip([
            joint.p <= RATE,
            discoveries(&p, RATE).contains(&true),
            single.drift,
            joint.p_auc <= RATE,
            joint.p_reconstruction <= RATE,
        ]) {
            *count += usize::from(hit);
        }
    }
    let share = |c: usize| c as f64 / windows as f64 * 100.0;
    let words: Vec<String> = counts.iter().map(|c| format!("{:.2}", share(*c))).collect();
    println!(
        "{} {} {:.1}",
        case.name,
        words.join(" "),
        took / windows as f64 * 1e3
    );
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let windows = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(200);
    let only = arguments.next().unwrap_or_default();
    let case = |name, columns, window, phi, season, loading, flips| Case {
        name,
        columns,
        window,
        phi,
        season,
        loading,
        flips,
        heavy: false,
    };
    for case in [
        case("false_iid", 5, 150, 0.0, 0, 0.7, false),
        case("false_ar_0.9", 3, 100, 0.9, 0, 0.7, false),
        case("false_ar_0.9_5", 5, 200, 0.9, 0, 0.7, false),
        case("false_ar_0.99", 5, 150, 0.99, 0, 0.7, false),
        case("false_sine_ar_0.9", 4, 100, 0.9, 24, 0.7, false),
        case("false_sine_ar_0.9_6", 6, 200, 0.9, 24, 0.7, false),
        Case {
            heavy: true,
            ..case("false_heavy_ar_0.9", 5, 150, 0.9, 0, 0.7, false)
        },
        case("power_flip_ar_0.9", 5, 150, 0.9, 0, 0.8, true),
        case("power_flip_sine_ar_0.9", 5, 100, 0.9, 24, 0.8, true),
        case("power_flip_pair", 2, 100, 0.9, 24, 0.8, true),
        case("power_flip_weak", 5, 150, 0.9, 0, 0.45, true),
    ] {
        if case.name.contains(&only) {
            rates(case, windows);
        }
    }
}
