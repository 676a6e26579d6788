//! Two-sample Cramér-von Mises: owns the statistic and its p-value (SciPy's rules), never a decision.

use crate::two_sample::{finite, ties};
use crate::{StatError, TestResult};

/// Largest sample for which the p-value is exact, as SciPy's method "auto" has it.
pub const EXACT_UP_TO: usize = 20;

/// SciPy stops its series at a term below this, and so leaves off what follows it; equal numbers need the same end.
const LAST_TERM: f64 = 1e-7;

/// Compares two samples by the squared difference of their distribution functions; ties take mid-ranks, non-finite values
/// are dropped. Exact p up to [`EXACT_UP_TO`] values a side, asymptotic above.
///
/// # Errors
/// [`StatError::Empty`]; [`StatError::TooFew`] with fewer than two values on a side.
pub fn cramer_von_mises(reference: &[f64], current: &[f64]) -> Result<TestResult, StatError> {
    const NAME: &str = "cramer_von_mises";
    let a = finite(reference, NAME, "reference")?;
    let b = finite(current, NAME, "current")?;
    if a.len() < 2 || b.len() < 2 {
        return Err(StatError::TooFew {
            statistic: NAME,
            needed: "two finite values a side",
        });
    }
    let (n, m) = (a.len() as f64, b.len() as f64);
    let (ra, rb) = rank_gaps(&a, &b);
    let u = n * ra + m * rb;
    let (k, all) = (n * m, n + m);
    let statistic = u / (k * all) - (4.0 * k - 1.0) / (6.0 * all);
    let p = if a.len().max(b.len()) <= EXACT_UP_TO {
        exact(u, a.len(), b.len())
    } else {
        asymptotic(statistic, n, m)
    };
    Ok(TestResult { statistic, p })
}

/// For each ascending sample the sum of squared differences between pooled mid-ranks and own ranks.
fn rank_gaps(a: &[f64], b: &[f64]) -> (f64, f64) {
    let (mut gap_a, mut gap_b) = (0.0, 0.0);
    for (from_i, i, from_j, j) in ties(a, b) {
        let rank = ((from_i + from_j + 1) as f64 + (i + j) as f64) / 2.0;
        gap_a += (from_i..i)
            .map(|r| (rank - (r + 1) as f64).powi(2))
            .sum::<f64>();
        gap_b += (from_j..j)
            .map(|r| (rank - (r + 1) as f64).powi(2))
            .sum::<f64>();
    }
    (gap_a, gap_b)
}

/// The share of interleavings whose statistic is at least this one, counted by Xiao, Gordon and Yakovlev (2006).
fn exact(u: f64, n: usize, m: usize) -> f64 {
    let lcm = (n * m / gcd(n, m)) as u64;
    let (step_n, step_m) = (lcm / n as u64, lcm / m as u64);
    let product = (n * m) as f64;
    let top = (lcm * lcm * (n + m) as u64) as f64 * (6.0 * u - product * (4.0 * product - 1.0));
    // The quotient of SciPy's floor division of floats, which takes the remainder off first.
    let bottom = 6.0 * product * product;
    let least = ((top - top.rem_euclid(bottom)) / bottom).round();
    let mut row: Vec<Vec<(u64, u64)>> = vec![Vec::new(); n + 1];
    row[0] = vec![(0, 1)];
    for i in 0..=m as u64 {
        let mut before: Vec<(u64, u64)> = Vec::new();
        for (j, cell) in row.iter_mut().enumerate() {
            let mut merged = merge(&before, cell);
            let gap = (step_n * j as u64).abs_diff(step_m * i);
            for (value, _) in &mut merged {
                *value += gap * gap;
            }
            cell.clone_from(&merged);
            before = merged;
        }
    }
    let mut ways = 0;
    let mut all = 0;
    for (value, count) in &row[n] {
        all += count;
        if *value as f64 >= least {
            ways += count;
        }
    }
    ways as f64 / all as f64
}

/// Two ascending frequency tables as one.
fn merge(a: &[(u64, u64)], b: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut out = Vec::with_capacity(a.len() + b.len());
    let (mut i, mut j) = (0, 0);
    loop {
        match (a.get(i), b.get(j)) {
            (Some(x), Some(y)) if x.0 == y.0 => {
                out.push((x.0, x.1 + y.1));
                i += 1;
                j += 1;
            }
            (Some(x), Some(y)) if x.0 < y.0 => {
                out.push(*x);
                i += 1;
            }
            (Some(x), None) => {
                out.push(*x);
                i += 1;
            }
            (_, Some(y)) => {
                out.push(*y);
                j += 1;
            }
            (None, None) => return out,
        }
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn asymptotic(statistic: f64, n: f64, m: f64) -> f64 {
    let (k, all) = (n * m, n + m);
    let mean = (1.0 + 1.0 / all) / 6.0;
    let variance = (all + 1.0) * (4.0 * k * all - 3.0 * (n * n + m * m) - 2.0 * k);
    let variance = variance / (45.0 * all * all * 4.0 * k);
    let t = 1.0 / 6.0 + (statistic - mean) / (45.0 * variance).sqrt();
    if t < 0.003 {
        1.0
    } else {
        (1.0 - limit(t)).max(0.0)
    }
}

/// The limiting distribution function (Csörgő and Faraway 1996, equation 1.2), summed as far as SciPy sums it.
fn limit(x: f64) -> f64 {
    let mut sum = 0.0;
    // Gamma(k + 1/2) / Gamma(k + 1), which begins with the root of pi.
    let mut gammas = std::f64::consts::PI.sqrt();
    for k in 0..100_000 {
        let k = f64::from(k);
        let y = 4.0 * k + 1.0;
        let front = gammas / (std::f64::consts::PI.powf(1.5) * x.sqrt());
        gammas *= (k + 0.5) / (k + 1.0);
        let term = front * y.sqrt() * quarter_bessel(y * y / (16.0 * x));
        sum += term;
        if term.abs() < LAST_TERM {
            break;
        }
    }
    sum
}

/// exp(-q) K(q) of the modified Bessel function of order 1/4: the integral of exp(-q (1 + cosh t)) cosh(t / 4) over t >= 0,
/// by trapezoids, which converge faster than any power here.
fn quarter_bessel(q: f64) -> f64 {
    let step = (0.5 / q.sqrt()).min(0.125);
    let mut sum = 0.5 * (-2.0 * q).exp();
    for i in 1..100_000 {
        let t = f64::from(i) * step;
        let term = (-q * (1.0 + t.cosh())).exp() * (t / 4.0).cosh();
        sum += term;
        if term <= sum * 1e-18 {
            break;
        }
    }
    sum * step
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn small_cases_by_hand() {
        // All six interleavings of two and two: the two that part the samples are the most extreme.
        let r = cramer_von_mises(&[1.0, 2.0], &[3.0, 4.0]).unwrap();
        assert!((r.p - 1.0 / 3.0).abs() < 1e-15, "{r:?}");
        assert!((r.statistic - 0.375).abs() < 1e-15, "{r:?}");
        assert!(cramer_von_mises(&[1.0], &[3.0, 4.0]).is_err());
        assert!(cramer_von_mises(&[f64::NAN, 1.0], &[3.0, 4.0]).is_err());
    }

    #[test]
    fn bessel_of_a_quarter() {
        // K_1/4(1) of SciPy 1.17.1.
        let k = quarter_bessel(1.0) * 1f64.exp();
        assert!((k / 0.430_739_774_448_580_4 - 1.0).abs() < 1e-13, "{k}");
    }
}
