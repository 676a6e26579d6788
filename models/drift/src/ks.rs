//! Two-sample Kolmogorov-Smirnov: owns the statistic and its p-value (SciPy's rules), never a decision.

use crate::{StatError, kolmogorov, two_sample::finite};

/// Largest sample for which the p-value is exact, as SciPy's method "auto" has it.
pub const EXACT_UP_TO: usize = 10_000;

/// Statistic and two-sided p-value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ks {
    /// Largest distance of the two empirical distribution functions.
    pub d: f64,
    /// Two-sided p-value.
    pub p: f64,
}

/// Compares two samples; non-finite values are dropped. Exact p up to [`EXACT_UP_TO`] values a side, asymptotic above.
///
/// # Errors
/// [`StatError::Empty`].
pub fn ks(reference: &[f64], current: &[f64]) -> Result<Ks, StatError> {
    let (a, b) = (
        finite(reference, "ks", "reference")?,
        finite(current, "ks", "current")?,
    );
    let gap = distance(&a, &b);
    let (n, m) = (a.len(), b.len());
    let d = gap as f64 / (n as f64 * m as f64);
    let p = if n.max(m) <= EXACT_UP_TO {
        exact(n, m, gap)
    } else {
        asymptotic(n, m, d)
    };
    Ok(Ks { d, p })
}

/// The p-value of any distance of samples of these sizes, by the same rule.
#[must_use]
pub fn p_value(n: usize, m: usize, d: f64) -> f64 {
    if n.max(m) <= EXACT_UP_TO {
        exact(n, m, (d * n as f64 * m as f64).round() as u64)
    } else {
        asymptotic(n, m, d)
    }
}

/// The asymptotic p-value: Kolmogorov's distribution at the effective size n m / (n + m), rounded to even at halves.
#[must_use]
pub fn asymptotic(n: usize, m: usize, d: f64) -> f64 {
    let (n, m) = (n as f64, m as f64);
    kolmogorov::tail((n * m / (n + m)).round_ties_even() as u64, d)
}

/// D times n m, a whole number: no rounding decides a tie. Both samples ascend.
fn distance(a: &[f64], b: &[f64]) -> u64 {
    let (n, m) = (a.len() as i64, b.len() as i64);
    let (mut i, mut j, mut most) = (0usize, 0usize, 0i64);
    while i < a.len() && j < b.len() {
        let x = a[i].min(b[j]);
        while i < a.len() && a[i] <= x {
            i += 1;
        }
        while j < b.len() && b[j] <= x {
            j += 1;
        }
        most = most.max((i as i64 * m - j as i64 * n).abs());
    }
    most.unsigned_abs()
}

/// The share of lattice paths from (0,0) to (n,m) that touch |i m - j n| >= gap. Summed by the last step of a uniformly
/// drawn path (from the left with probability i/(i+j)), so that all terms are positive and tiny p-values keep digits.
fn exact(n: usize, m: usize, gap: u64) -> f64 {
    if gap == 0 {
        return 1.0;
    }
    let (width, height, gap) = (n as i64, m as i64, gap as i64);
    let inverse: Vec<f64> = (0..=n + m).map(|steps| 1.0 / steps as f64).collect();
    // What lies outside is 1 and stays so: only the band between the two lines is walked.
    let mut row = vec![1.0; m + 1];
    let mut first = 0;
    for i in 0..=n {
        let middle = i as i64 * height;
        let least = ((middle - gap).div_euclid(width) + 1).max(0) as usize;
        let most = ((middle + gap - 1).div_euclid(width)).min(height) as usize;
        for below in &mut row[first..least.min(m + 1)] {
            *below = 1.0;
        }
        first = least.min(m + 1);
        let mut before = if first > 0 { 1.0 } else { 0.0 };
        let band = row.iter_mut().zip(&inverse[i..]).enumerate();
        for (j, (cell, inverse)) in band.take(most + 1).skip(first) {
            before = if i + j == 0 {
                0.0
            } else {
                // A factor of zero takes off what is not there.
                let left = if i > 0 { i as f64 * *cell } else { 0.0 };
                (left + j as f64 * before) * inverse
            };
            *cell = before;
        }
    }
    row[m].min(1.0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn small_cases_by_hand() {
        let r = ks(&[1.0, 2.0], &[3.0, 4.0]).unwrap();
        assert_eq!(r.d, 1.0);
        assert!((r.p - 1.0 / 3.0).abs() < 1e-15, "2 of the 6 paths");
        assert_eq!(ks(&[1.0, 1.0], &[1.0]).unwrap(), Ks { d: 0.0, p: 1.0 });
        assert!(ks(&[f64::NAN], &[1.0]).is_err());
        assert_eq!(ks(&[1.0, f64::INFINITY], &[1.0]).unwrap().d, 0.0);
    }

    #[test]
    fn large_samples_take_the_asymptotic_road() {
        let a: Vec<f64> = (0..10_001).map(f64::from).collect();
        let b: Vec<f64> = a.iter().map(|v| v + 100.0).collect();
        let r = ks(&a, &b).unwrap();
        assert!((r.p - asymptotic(10_001, 10_001, r.d)).abs() == 0.0 && r.p > 0.5);
    }
}
