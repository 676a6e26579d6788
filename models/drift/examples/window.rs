//! Simulated windows for `cargo xtask bench drift`: owns the made series and the rates, never a goal.

#[path = "../src/window/random.rs"]
mod splitmix;

use fieldcast_drift::preset::{Column, Values};
use fieldcast_drift::two_sample::ks;
use fieldcast_drift::window::{Grid, Options, check};
use splitmix::Random;

/// Rows of the reference and of a window, and the rate asked for.
const REFERENCE: usize = 1_000;
const WINDOW: usize = 100;
const RATE: f64 = 0.05;

/// A reference and the window that comes a random while after it.
fn series(random: &mut Random, phi: f64, season: usize) -> (Vec<f64>, Vec<f64>, usize) {
    let gap = (random.unit() * 500.0) as usize;
    let mut x = 0.0;
    let mut all = Vec::new();
    let scale = (1.0 - phi * phi).sqrt();
    for i in 0..300 + REFERENCE + gap + WINDOW {
        x = phi * x + scale * random.normal();
        let turn = i as f64 / season.max(1) as f64 * std::f64::consts::TAU;
        all.push(x + if season > 1 { 2.0 * turn.sin() } else { 0.0 });
    }
    let reference = all[300..300 + REFERENCE].to_vec();
    let window = all[300 + REFERENCE + gap..].to_vec();
    (reference, window, REFERENCE + gap)
}

/// Share of windows called drifted by ours and by plain Kolmogorov-Smirnov.
fn rates(windows: usize, phi: f64, season: usize, given: usize, shift: f64) -> (f64, f64) {
    let (mut ours, mut plain) = (0, 0);
    for seed in 0..windows as u64 {
        let mut random = Random(seed.wrapping_mul(0x1234_5678_9ABC_DEF1) ^ 0x5EED);
        let (reference, mut window, begins) = series(&mut random, phi, season);
        window.iter_mut().for_each(|v| *v += shift);
        plain += usize::from(ks(&reference, &window).is_ok_and(|k| k.p <= RATE));
        let grids = (
            Grid::regular(REFERENCE, given),
            Grid {
                slots: (begins..begins + WINDOW)
                    .map(|i| i % given.max(1))
                    .filter(|_| given > 1)
                    .collect(),
                breaks: Vec::new(),
            },
        );
        let numbers = |values| Values::Numbers {
            values,
            whole: false,
        };
        let column = Column {
            name: "x".into(),
            reference: numbers(reference),
            current: numbers(window),
        };
        let options = Options { rate: RATE, seed };
        ours += usize::from(check(&[column], &grids.0, &grids.1, options).is_ok_and(|c| c.drift));
    }
    (
        ours as f64 / windows as f64 * 100.0,
        plain as f64 / windows as f64 * 100.0,
    )
}

fn main() {
    let windows = std::env::args()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(2_000);
    for (name, phi, season, given, shift) in [
        ("false_iid", 0.0, 0, 0, 0.0),
        ("false_ar_0.5", 0.5, 0, 0, 0.0),
        ("false_ar_0.9", 0.9, 0, 0, 0.0),
        ("false_ar_0.99", 0.99, 0, 0, 0.0),
        ("false_sine_ar_0.9", 0.9, 24, 24, 0.0),
        ("false_sine_ar_0.9_unknown", 0.9, 24, 0, 0.0),
        ("power_iid_0.3", 0.0, 0, 0, 0.3),
        ("power_iid_0.5", 0.0, 0, 0, 0.5),
        ("power_ar_0.9_2", 0.9, 0, 0, 2.0),
        ("power_sine_ar_0.9_2", 0.9, 24, 24, 2.0),
    ] {
        let (ours, plain) = rates(windows, phi, season, given, shift);
        println!("{name} {ours:.2} {plain:.2}");
    }
}
