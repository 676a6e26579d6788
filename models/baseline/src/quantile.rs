//! Quantiles of residuals: owns ranks, small samples and the normal inverse, never what the residuals are of.

/// Fewest residuals from which a quantile is read; below that a normal shape is assumed.
pub const MIN_EMPIRICAL: usize = 20;

/// The quantile at `level` of an ascending sample, at rank (n + 1) x level as split-conformal prediction takes it,
/// linear between neighbours and held at the extremes. NaN for an empty sample.
#[must_use]
pub fn conformal(sorted: &[f64], level: f64) -> f64 {
    let (Some(&first), Some(&last)) = (sorted.first(), sorted.last()) else {
        return f64::NAN;
    };
    let rank = (sorted.len() as f64 + 1.0) * level - 1.0;
    if rank <= 0.0 {
        return first;
    }
    let below = rank.floor() as usize;
    if below + 1 >= sorted.len() {
        return last;
    }
    sorted[below] + (sorted[below + 1] - sorted[below]) * (rank - rank.floor())
}

/// Offsets of the quantiles from the mean, `levels.len()` a horizon step, row-major, ascending in each row.
///
/// `errors[h]` are the residuals (actual minus mean) at step `h`, in any order, non-finite ones ignored. With fewer
/// than [`MIN_EMPIRICAL`] a normal shape with their root mean square (widened by sqrt(1 + 2/n)) is taken; a step
/// without any takes the nearest earlier one, widened with the square root of the distance. `None` without residuals.
#[must_use]
pub fn offsets(errors: &[Vec<f64>], levels: &[f64]) -> Option<Vec<f64>> {
    let mut out = Vec::with_capacity(errors.len() * levels.len());
    let mut known: Option<(usize, f64)> = None;
    for (step, errors) in errors.iter().enumerate() {
        let mut sorted: Vec<f64> = errors.iter().copied().filter(|e| e.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len() as f64;
        if !sorted.is_empty() {
            let square = sorted.iter().map(|e| e * e).sum::<f64>() / n;
            known = Some((step, (square * (1.0 + 2.0 / n)).sqrt()));
        }
        if sorted.len() >= MIN_EMPIRICAL {
            out.extend(levels.iter().map(|level| conformal(&sorted, *level)));
        } else {
            let (at, scale) = known?;
            let scale = scale * ((step + 1) as f64 / (at + 1) as f64).sqrt();
            out.extend(levels.iter().map(|level| scale * normal_inverse(*level)));
        }
    }
    Some(out)
}

/// Inverse of the standard normal distribution function (Acklam's rational approximation, relative error 1.2e-9).
/// ∓infinity at 0 and 1, NaN outside.
#[must_use]
pub fn normal_inverse(p: f64) -> f64 {
    const A: [f64; 6] = [
        -3.969683028665376e1,
        2.209460984245205e2,
        -2.759285104469687e2,
        1.38357751867269e2,
        -3.066479806614716e1,
        2.506628277459239,
    ];
    const B: [f64; 6] = [
        -5.447609879822406e1,
        1.615858368580409e2,
        -1.556989798598866e2,
        6.680131188771972e1,
        -1.328068155288572e1,
        1.0,
    ];
    const C: [f64; 6] = [
        -7.784894002430293e-3,
        -3.223964580411365e-1,
        -2.400758277161838,
        -2.549732539343734,
        4.374664141464968,
        2.938163982698783,
    ];
    const D: [f64; 5] = [
        7.784695709041462e-3,
        3.224671290700398e-1,
        2.445134137142996,
        3.754408661907416,
        1.0,
    ];
    let horner = |c: &[f64], x: f64| c.iter().fold(0.0, |sum, c| sum * x + c);
    let tail = |p: f64| {
        let q = (-2.0 * p.ln()).sqrt();
        horner(&C, q) / horner(&D, q)
    };
    if !(0.0..=1.0).contains(&p) {
        f64::NAN
    } else if p == 0.0 {
        f64::NEG_INFINITY
    } else if p == 1.0 {
        f64::INFINITY
    } else if p < 0.02425 {
        tail(p)
    } else if p > 1.0 - 0.02425 {
        -tail(1.0 - p)
    } else {
        let q = p - 0.5;
        horner(&A, q * q) * q / horner(&B, q * q)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_normal_inverse_is_known_at_known_levels() {
        for (p, z) in [
            (0.5, 0.0),
            (0.975, 1.959963984540054),
            (0.01, -2.3263478740408408),
            (0.999, 3.090232306167813),
        ] {
            assert!((normal_inverse(p) - z).abs() < 1e-8, "{p}");
        }
        assert!(normal_inverse(f64::NAN).is_nan() && normal_inverse(1.5).is_nan());
    }

    #[test]
    fn few_residuals_are_widened_and_many_are_read() {
        let few = offsets(&[vec![1.0, -1.0], vec![]], &[0.1, 0.5, 0.9]).unwrap();
        assert!(few[0] < -1.28 && few[1].abs() < 1e-9 && few[2] > 1.28 && few[5] > few[2]);
        let many: Vec<f64> = (1..=99).map(f64::from).collect();
        assert_eq!(offsets(&[many], &[0.1, 0.5]).unwrap(), [10.0, 50.0]);
        assert!(offsets(&[vec![f64::NAN]], &[0.5]).is_none());
    }

    #[test]
    fn the_conformal_rank_stays_inside_the_sample() {
        assert_eq!(conformal(&[1.0, 2.0, 3.0], 0.999), 3.0);
        assert_eq!(conformal(&[1.0, 2.0, 3.0], 0.001), 1.0);
        assert!(conformal(&[], 0.5).is_nan());
    }
}
