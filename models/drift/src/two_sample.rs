//! Distances and tests between a reference and a current sample: owns their formulas, never a threshold.

use crate::StatError;
use crate::bins::{fill_empty, normalise, shares, shares_of_distinct};
use crate::special::{chi_square_tail, normal_two_sided};

pub use crate::anderson::anderson_darling;
pub use crate::cramer::cramer_von_mises;
pub use crate::ks::{Ks, ks};

/// The finite values of a sample, ascending.
pub(crate) fn finite(
    sample: &[f64],
    statistic: &'static str,
    which: &'static str,
) -> Result<Vec<f64>, StatError> {
    let mut values: Vec<f64> = sample.iter().copied().filter(|v| v.is_finite()).collect();
    if values.is_empty() {
        return Err(StatError::Empty {
            statistic,
            sample: which,
        });
    }
    values.sort_by(f64::total_cmp);
    Ok(values)
}

/// The different values of both ascending samples, in order: for each where its equals begin and end in the one and in the other.
pub(crate) fn ties(a: &[f64], b: &[f64]) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    let (mut i, mut j) = (0, 0);
    std::iter::from_fn(move || {
        let x = match (a.get(i), b.get(j)) {
            (Some(x), Some(y)) => x.min(*y),
            (Some(x), None) | (None, Some(x)) => *x,
            (None, None) => return None,
        };
        let (from_i, from_j) = (i, j);
        i += a[i..].iter().take_while(|v| **v <= x).count();
        j += b[j..].iter().take_while(|v| **v <= x).count();
        Some((from_i, i, from_j, j))
    })
}

fn both(
    name: &'static str,
    reference: &[f64],
    current: &[f64],
) -> Result<(Vec<f64>, Vec<f64>), StatError> {
    Ok((
        finite(reference, name, "reference")?,
        finite(current, name, "current")?,
    ))
}

/// Wasserstein-1 distance over the reference's deviation (ddof 0, at least 0.001), as Evidently normalises it.
///
/// # Errors
/// [`StatError::Empty`].
pub fn wasserstein(reference: &[f64], current: &[f64]) -> Result<f64, StatError> {
    let (a, b) = both("wasserstein", reference, current)?;
    let n = a.len() as f64;
    let mean = a.iter().sum::<f64>() / n;
    let deviation = (a.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
    Ok(distance(&a, &b) / deviation.max(0.001))
}

/// Wasserstein-1 distance in the samples' own unit.
///
/// # Errors
/// [`StatError::Empty`].
pub fn wasserstein_plain(reference: &[f64], current: &[f64]) -> Result<f64, StatError> {
    let (a, b) = both("wasserstein", reference, current)?;
    Ok(distance(&a, &b))
}

/// Energy distance: the square root of twice the integral of (F - G)², as SciPy has it.
///
/// # Errors
/// [`StatError::Empty`].
pub fn energy(reference: &[f64], current: &[f64]) -> Result<f64, StatError> {
    let (a, b) = both("energy", reference, current)?;
    Ok((2.0 * integral(&a, &b, |gap| gap * gap)).sqrt())
}

/// Integral of |F - G| over ascending samples.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    integral(a, b, f64::abs)
}

/// Integral of a function of F - G over ascending samples.
fn integral(a: &[f64], b: &[f64], of: impl Fn(f64) -> f64) -> f64 {
    let (mut i, mut j, mut sum) = (0, 0, 0.0);
    let mut at = a[0].min(b[0]);
    while i < a.len() || j < b.len() {
        let next = match (a.get(i), b.get(j)) {
            (Some(x), Some(y)) => x.min(*y),
            (Some(x), None) | (None, Some(x)) => *x,
            (None, None) => break,
        };
        sum += (next - at) * of(i as f64 / a.len() as f64 - j as f64 / b.len() as f64);
        at = next;
        while a.get(i).is_some_and(|v| *v <= next) {
            i += 1;
        }
        while b.get(j).is_some_and(|v| *v <= next) {
            j += 1;
        }
    }
    sum
}

/// Population stability index of numeric samples (Evidently's bins and fill).
///
/// # Errors
/// [`StatError::Empty`].
pub fn psi(reference: &[f64], current: &[f64]) -> Result<f64, StatError> {
    let (a, b) = both("psi", reference, current)?;
    let (r, c) = shares(&a, &b);
    Ok(psi_shares(&r, &c))
}

/// Kullback-Leibler divergence reference || current of numeric samples (Evidently's bins and fill, natural logarithm).
///
/// # Errors
/// [`StatError::Empty`].
pub fn kl(reference: &[f64], current: &[f64]) -> Result<f64, StatError> {
    let (a, b) = both("kl", reference, current)?;
    let (r, c) = shares(&a, &b);
    Ok(kl_shares(&r, &c))
}

/// Jensen-Shannon distance (the square root of the divergence, natural logarithm) of numeric samples.
///
/// # Errors
/// [`StatError::Empty`].
pub fn js(reference: &[f64], current: &[f64]) -> Result<f64, StatError> {
    let (a, b) = both("js", reference, current)?;
    let (r, c) = shares(&a, &b);
    Ok(js_shares(&r, &c))
}

/// Hellinger distance of numeric samples.
///
/// # Errors
/// [`StatError::Empty`].
pub fn hellinger(reference: &[f64], current: &[f64]) -> Result<f64, StatError> {
    let (a, b) = both("hellinger", reference, current)?;
    let (r, c) = shares_of_distinct(&a, &b);
    Ok(hellinger_shares(&r, &c))
}

/// PSI of shares: sum (r - c) ln(r / c) after filling empty bins.
#[must_use]
pub fn psi_shares(reference: &[f64], current: &[f64]) -> f64 {
    let (mut r, mut c) = (reference.to_vec(), current.to_vec());
    fill_empty(&mut r);
    fill_empty(&mut c);
    r.iter().zip(&c).map(|(r, c)| (r - c) * (r / c).ln()).sum()
}

/// KL divergence of shares, filled and then normalised.
#[must_use]
pub fn kl_shares(reference: &[f64], current: &[f64]) -> f64 {
    let (mut r, mut c) = (reference.to_vec(), current.to_vec());
    fill_empty(&mut r);
    fill_empty(&mut c);
    let (sum_r, sum_c) = (r.iter().sum::<f64>(), c.iter().sum::<f64>());
    r.iter()
        .zip(&c)
        .map(|(r, c)| (r / sum_r, c / sum_c))
        .map(|(r, c)| r * (r / c).ln())
        .sum()
}

/// Jensen-Shannon distance of shares.
#[must_use]
pub fn js_shares(reference: &[f64], current: &[f64]) -> f64 {
    let part = |p: f64, m: f64| if p > 0.0 { p * (p / m).ln() } else { 0.0 };
    let sum: f64 = reference
        .iter()
        .zip(current)
        .map(|(r, c)| {
            let m = f64::midpoint(*r, *c);
            part(*r, m) + part(*c, m)
        })
        .sum();
    (sum / 2.0).max(0.0).sqrt()
}

/// Hellinger distance of shares: sqrt(1 - sum sqrt(r c)).
#[must_use]
pub fn hellinger_shares(reference: &[f64], current: &[f64]) -> f64 {
    (1.0 - reference
        .iter()
        .zip(current)
        .map(|(r, c)| (r * c).sqrt())
        .sum::<f64>())
    .max(0.0)
    .sqrt()
}

fn check_counts(
    statistic: &'static str,
    reference: &[u64],
    current: &[u64],
) -> Result<(), StatError> {
    let fail = |problem: String| Err(StatError::Counts { statistic, problem });
    if reference.len() != current.len() {
        return fail(format!(
            "{} and {} categories",
            reference.len(),
            current.len()
        ));
    }
    if reference.iter().sum::<u64>() == 0 || current.iter().sum::<u64>() == 0 {
        return fail("one side counts nothing".into());
    }
    Ok(())
}

/// Shares of counted categories, for [`psi_shares`] and its siblings.
///
/// # Errors
/// [`StatError::Counts`].
pub fn category_shares(
    reference: &[u64],
    current: &[u64],
) -> Result<(Vec<f64>, Vec<f64>), StatError> {
    check_counts("shares", reference, current)?;
    Ok((normalise(reference), normalise(current)))
}

/// p-value of Pearson's chi-square: expected = reference counts scaled to the current total. A category that the
/// reference never saw gives 0; a single category gives 1.
///
/// # Errors
/// [`StatError::Counts`].
pub fn chi_square(reference: &[u64], current: &[u64]) -> Result<f64, StatError> {
    check_counts("chi_square", reference, current)?;
    let scale = current.iter().sum::<u64>() as f64 / reference.iter().sum::<u64>() as f64;
    let (mut statistic, mut used) = (0.0, 0u32);
    for (r, c) in reference.iter().zip(current) {
        match (*r, *c) {
            (0, 0) => {}
            (0, _) => return Ok(0.0),
            (r, c) => {
                let expected = r as f64 * scale;
                statistic += (c as f64 - expected).powi(2) / expected;
                used += 1;
            }
        }
    }
    Ok(if used < 2 {
        1.0
    } else {
        chi_square_tail(statistic, f64::from(used - 1))
    })
}

/// Two-sided p-value of the pooled two-proportion z test; counts of two categories a side. 1 where nothing varies.
///
/// # Errors
/// [`StatError::Counts`].
pub fn two_proportion_z(reference: [u64; 2], current: [u64; 2]) -> Result<f64, StatError> {
    check_counts("two_proportion_z", &reference, &current)?;
    let (n1, n2) = (
        (reference[0] + reference[1]) as f64,
        (current[0] + current[1]) as f64,
    );
    let (p1, p2) = (reference[0] as f64 / n1, current[0] as f64 / n2);
    let pooled = (reference[0] + current[0]) as f64 / (n1 + n2);
    let error = (pooled * (1.0 - pooled) * (1.0 / n1 + 1.0 / n2)).sqrt();
    Ok(if error > 0.0 {
        normal_two_sided((p1 - p2) / error)
    } else {
        1.0
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn hostile_samples_have_defined_results() {
        let nan = [f64::NAN, f64::INFINITY];
        for f in [wasserstein, psi, kl, js, hellinger] {
            assert!(f(&nan, &[1.0]).is_err() && f(&[1.0], &[]).is_err());
            assert!(
                f(&[3.0; 50], &[3.0; 9]).unwrap().abs() < 1e-12,
                "constants do not differ"
            );
            assert!(f(&[3.0; 50], &[1e300; 9]).unwrap() > 0.0);
        }
        assert_eq!(chi_square(&[5, 0], &[5, 1]).unwrap(), 0.0);
        assert_eq!(chi_square(&[5, 0], &[3, 0]).unwrap(), 1.0);
        assert!(chi_square(&[5], &[1, 2]).is_err() && chi_square(&[0, 0], &[1, 2]).is_err());
        assert_eq!(two_proportion_z([5, 0], [9, 0]).unwrap(), 1.0);
    }

    #[test]
    fn a_shift_moves_the_earth_by_itself() {
        let a: Vec<f64> = (0..100).map(f64::from).collect();
        let b: Vec<f64> = a.iter().map(|v| v + 7.0).collect();
        assert!((distance(&a, &b) - 7.0).abs() < 1e-9);
    }
}
