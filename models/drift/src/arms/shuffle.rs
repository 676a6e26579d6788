//! The randomisation test: owns drawing other assignments of the same devices, never the statistic's interval.
//!
//! Had the arms no effect on any device, each assignment with as many devices in B would have given the same values. The
//! statistic is Welch's t, not the difference itself, so that arms of equal mean and unequal variance are told apart no
//! more often than stated, as numbers grow (Janssen, 1997).

use crate::window::random::Random;

/// Assignments that are drawn.
const ROUNDS: usize = 4_999;

/// Share of assignments whose |t| is at least `observed`, the observed one counted among them.
pub(super) fn p(values: &[f64], in_b: usize, observed: f64, seed: u64) -> f64 {
    let n = values.len();
    let mean = values.iter().sum::<f64>() / n as f64;
    // About the mean, so that sums of squares keep their digits.
    let mut values: Vec<f64> = values.iter().map(|v| v - mean).collect();
    let (sum, squares) = totals(&values);
    let mut random = Random::new(seed);
    let mut as_far = 0;
    for _ in 0..ROUNDS {
        for i in 0..in_b {
            let other = i + random.below(n - i);
            values.swap(i, other);
        }
        let (sum_b, squares_b) = totals(&values[..in_b]);
        let a = moments(sum - sum_b, squares - squares_b, n - in_b);
        let b = moments(sum_b, squares_b, in_b);
        let t = (b.0 - a.0).abs() / (a.1 + b.1).sqrt();
        // Equal assignments differ in their last digits.
        if t >= observed * (1.0 - 1e-9) {
            as_far += 1;
        }
    }
    f64::from(as_far + 1) / (ROUNDS + 1) as f64
}

fn totals(values: &[f64]) -> (f64, f64) {
    let add = |(sum, squares): (f64, f64), v: &f64| (sum + v, squares + v * v);
    values.iter().fold((0.0, 0.0), add)
}

/// The mean, and its squared standard error.
fn moments(sum: f64, squares: f64, count: usize) -> (f64, f64) {
    let n = count as f64;
    let mean = sum / n;
    let variance = (squares - n * mean * mean).max(0.0) / (n - 1.0);
    (mean, variance / n)
}
