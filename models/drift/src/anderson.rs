//! Two-sample Anderson-Darling: owns the statistic with mid-ranks and its p-value (SciPy's rules), never a decision.

use crate::two_sample::{finite, ties};
use crate::{StatError, TestResult};

/// Least and largest p-value that the table of critical values knows; others are held at them.
const LEVELS: [f64; 7] = [0.25, 0.1, 0.05, 0.025, 0.01, 0.005, 0.001];
/// Critical values for two samples: the sums of Scholz and Stephens' (1987) coefficients of table 2.
const CRITICAL: [f64; 7] = [
    0.675 - 0.245 - 0.105,
    1.281 + 0.25 - 0.305,
    1.645 + 0.678 - 0.362,
    1.96 + 1.149 - 0.391,
    2.326 + 1.822 - 0.396,
    2.573 + 2.364 - 0.345,
    3.085 + 3.615 - 0.154,
];

/// Compares two samples with weight on the tails: SciPy's `anderson_ksamp` in its variant `midrank`, which Evidently takes.
/// The statistic is normalised; p is interpolated between 0.25 and 0.001 and held there. Non-finite values are dropped.
///
/// # Errors
/// [`StatError::Empty`]; [`StatError::TooFew`] with fewer than four values in all, or only one distinct value.
pub fn anderson_darling(reference: &[f64], current: &[f64]) -> Result<TestResult, StatError> {
    const NAME: &str = "anderson_darling";
    let a = finite(reference, NAME, "reference")?;
    let b = finite(current, NAME, "current")?;
    let all = a.len() + b.len();
    if all < 4 || (a[0] == a[a.len() - 1] && b[0] == b[b.len() - 1] && a[0] == b[0]) {
        return Err(StatError::TooFew {
            statistic: NAME,
            needed: "four finite values in all and two different ones",
        });
    }
    let raw = midrank(&a, &b);
    let statistic = (raw - 1.0) / variance(a.len() as f64, b.len() as f64).sqrt();
    let p = if statistic < CRITICAL[0] {
        LEVELS[0]
    } else if statistic > CRITICAL[6] {
        LEVELS[6]
    } else {
        parabola(statistic).exp()
    };
    Ok(TestResult { statistic, p })
}

/// A²akN of Scholz and Stephens (equation 7) over both ascending samples.
fn midrank(a: &[f64], b: &[f64]) -> f64 {
    let (n, m) = (a.len() as f64, b.len() as f64);
    let all = n + m;
    let mut sums = [0.0, 0.0];
    for (from_i, i, from_j, j) in ties(a, b) {
        let ties = (i + j - from_i - from_j) as f64;
        let below = (from_i + from_j) as f64 + ties / 2.0;
        let weight = below * (all - below) - all * ties / 4.0;
        for (sum, (from, to, size)) in sums.iter_mut().zip([(from_i, i, n), (from_j, j, m)]) {
            let own = (from + to) as f64 / 2.0;
            *sum += ties / all * (all * own - below * size).powi(2) / weight;
        }
    }
    (sums[0] / n + sums[1] / m) * (all - 1.0) / all
}

/// Variance of the statistic without ties (Scholz and Stephens, equation 4) for two samples.
fn variance(n: f64, m: f64) -> f64 {
    let all = n + m;
    let inverse = 1.0 / n + 1.0 / m;
    let (mut h, mut g) = (0.0, 0.0);
    let mut i = 2.0;
    while i < all {
        h += 1.0 / (all - i + 1.0);
        g += h / i;
        i += 1.0;
    }
    h += 1.0;
    let k = 2.0;
    let a = (4.0 * g - 6.0) * (k - 1.0) + (10.0 - 6.0 * g) * inverse;
    let b = (2.0 * g - 4.0) * k * k + 8.0 * h * k + (2.0 * g - 14.0 * h - 4.0) * inverse - 8.0 * h
        + 4.0 * g
        - 6.0;
    let c = (6.0 * h + 2.0 * g - 2.0) * k * k
        + (4.0 * h - 4.0 * g + 6.0) * k
        + (2.0 * h - 6.0) * inverse
        + 4.0 * h;
    let d = (2.0 * h + 6.0) * k * k - 4.0 * h * k;
    (a * all.powi(3) + b * all * all + c * all + d) / ((all - 1.0) * (all - 2.0) * (all - 3.0))
}

/// ln p at `x`: the least-squares parabola through the table, in polynomials that are orthogonal over its points.
fn parabola(x: f64) -> f64 {
    let n = CRITICAL.len() as f64;
    let mean = CRITICAL.iter().sum::<f64>() / n;
    let first = |x: f64| x - mean;
    let squares = CRITICAL.iter().map(|c| first(*c).powi(2)).sum::<f64>();
    let cubes = CRITICAL.iter().map(|c| first(*c).powi(3)).sum::<f64>();
    let second = |x: f64| first(x) * (first(x) - cubes / squares) - squares / n;
    let logs = LEVELS.map(f64::ln);
    let dot = |f: &dyn Fn(f64) -> f64| {
        let (mut with, mut own) = (0.0, 0.0);
        for (c, l) in CRITICAL.iter().zip(logs) {
            with += f(*c) * l;
            own += f(*c) * f(*c);
        }
        with / own
    };
    dot(&|_| 1.0) + dot(&first) * first(x) + dot(&second) * second(x)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn p_is_held_at_the_ends_of_the_table() {
        let a: Vec<f64> = (0..100).map(f64::from).collect();
        let b: Vec<f64> = a.iter().map(|v| v + 1_000.0).collect();
        assert_eq!(anderson_darling(&a, &a).unwrap().p, 0.25);
        assert_eq!(anderson_darling(&a, &b).unwrap().p, 0.001);
    }

    #[test]
    fn what_has_no_statistic_has_an_error() {
        assert!(anderson_darling(&[1.0; 9], &[1.0; 9]).is_err());
        assert!(anderson_darling(&[1.0], &[2.0, 3.0]).is_err());
        assert!(anderson_darling(&[f64::NAN], &[2.0, 3.0, 4.0]).is_err());
        assert!(anderson_darling(&[1.0; 9], &[2.0; 9]).unwrap().p <= 0.001);
    }
}
