//! The Diebold-Mariano test of equal accuracy: owns the statistic and its p-value, never a forecast.

use fieldcast_drift::special::student_two_sided;

/// Result of [`diebold_mariano`]; positive statistics speak against forecast a.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DieboldMariano {
    /// Mean loss difference over its HAC standard error.
    pub stat: f64,
    /// The same with Harvey, Leybourne and Newbold's small-sample factor.
    pub harvey: f64,
    /// Two-sided p-value of `harvey` under Student's t with n - 1 degrees of freedom.
    pub p: f64,
    /// Lags of the HAC variance.
    pub lags: usize,
}

/// Tests whether two forecasts' losses on the same origins, in time order, differ in mean.
///
/// `horizon` is the number of steps forecast at each origin: neighbouring losses overlap that far. The variance is
/// Newey and West's with Bartlett weights over `max(h - 1, ceil(n^(1/3)))` lags; the factor is
/// `sqrt((n + 1 - 2h + h(h-1)/n) / n)` (Harvey, Leybourne and Newbold, 1997).
/// None where fewer than 3 pairs are given, the lengths differ, a loss is not finite, or the horizon leaves no factor.
/// Equal losses throughout give p = 1.
#[must_use]
pub fn diebold_mariano(loss_a: &[f64], loss_b: &[f64], horizon: usize) -> Option<DieboldMariano> {
    let n = loss_a.len() as f64;
    let lags = horizon.saturating_sub(1).max(ceil_cube_root(loss_a.len()));
    with_lags(loss_a, loss_b, horizon, lags).filter(|_| n >= 3.0)
}

fn ceil_cube_root(n: usize) -> usize {
    let mut root = (n as f64).cbrt() as usize;
    while root * root * root < n {
        root += 1;
    }
    root
}

fn with_lags(
    loss_a: &[f64],
    loss_b: &[f64],
    horizon: usize,
    lags: usize,
) -> Option<DieboldMariano> {
    if loss_a.len() != loss_b.len() || loss_a.len() < 3 || horizon == 0 {
        return None;
    }
    let d: Vec<f64> = loss_a.iter().zip(loss_b).map(|(a, b)| a - b).collect();
    if !d.iter().all(|x| x.is_finite()) {
        return None;
    }
    let (n, h) = (d.len() as f64, horizon as f64);
    let mean = d.iter().sum::<f64>() / n;
    let covariance = |k: usize| {
        d[k..]
            .iter()
            .zip(&d)
            .map(|(a, b)| (a - mean) * (b - mean))
            .sum::<f64>()
            / n
    };
    let lags = lags.min(d.len() - 1);
    let tail: f64 = (1..=lags)
        .map(|k| (1.0 - k as f64 / (lags + 1) as f64) * covariance(k))
        .sum();
    let variance = (covariance(0) + 2.0 * tail) / n;
    let factor = (n + 1.0 - 2.0 * h + h * (h - 1.0) / n) / n;
    if factor <= 0.0 {
        return None;
    }
    if variance <= 0.0 {
        // Bartlett weights cannot give a negative variance, so the differences are all the same.
        let stat = if mean == 0.0 {
            0.0
        } else {
            f64::INFINITY.copysign(mean)
        };
        return Some(DieboldMariano {
            stat,
            harvey: stat,
            p: if mean == 0.0 { 1.0 } else { 0.0 },
            lags,
        });
    }
    let stat = mean / variance.sqrt();
    let harvey = stat * factor.sqrt();
    Some(DieboldMariano {
        stat,
        harvey,
        p: student_two_sided(harvey, n - 1.0),
        lags,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frac_sequence(step: f64, n: usize) -> impl Iterator<Item = f64> {
        (1..=n).map(move |i| (i as f64 * step).fract())
    }

    /// The sequences behind the values that SciPy and statsmodels gave.
    fn golden_losses() -> (Vec<f64>, Vec<f64>) {
        let a = frac_sequence(0.618_033_988_749_894_9, 200)
            .map(|f| (0.5 * (2.0 * f - 1.0)).abs())
            .collect();
        let b = frac_sequence(0.754_877_666_246_692_7, 200)
            .map(|f| (0.4 * (2.0 * f - 1.0)).abs())
            .collect();
        (a, b)
    }

    #[test]
    fn equals_the_golden_values() {
        let (a, b) = golden_losses();
        let result = diebold_mariano(&a, &b, 1).unwrap();
        assert_eq!(result.lags, 6);
        assert!(
            (result.harvey - 9.884_147_698_485_853).abs() < 1e-9,
            "{result:?}"
        );
        let plain = with_lags(&a, &b, 1, 0).unwrap();
        assert!(
            (plain.harvey - 3.755_353_146_537_717_5).abs() < 1e-9,
            "{plain:?}"
        );
        assert!(
            (plain.p - 0.000_227_225_308_134_816_4).abs() < 1e-12,
            "{plain:?}"
        );
    }

    #[test]
    fn swapping_the_forecasts_swaps_the_sign_only() {
        let (a, b) = golden_losses();
        let (one, other) = (
            diebold_mariano(&a, &b, 24).unwrap(),
            diebold_mariano(&b, &a, 24).unwrap(),
        );
        assert!((one.stat + other.stat).abs() < 1e-12 && (one.p - other.p).abs() < 1e-15);
        assert_eq!(one.lags, 23);
    }

    #[test]
    fn degenerate_pairs_are_told_apart() {
        let a = vec![1.0; 10];
        assert_eq!(diebold_mariano(&a, &a, 1).unwrap().p, 1.0);
        assert_eq!(diebold_mariano(&a, &[1.0; 9], 1), None);
        assert_eq!(diebold_mariano(&[1.0, f64::NAN, 2.0], &[1.0; 3], 1), None);
        assert_eq!(diebold_mariano(&[2.0; 10], &a, 1).unwrap().p, 0.0);
    }
}
