//! Special functions: owns the gamma and beta families that p-values need, never a test.

use std::ops::RangeInclusive;

/// ln Γ(x) for x > 0 (Lanczos, g = 7, nine terms; relative error near 1e-15).
#[must_use]
pub fn ln_gamma(x: f64) -> f64 {
    const C: [f64; 9] = [
        0.999_999_999_999_809_9,
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    if x < 0.5 {
        let pi = std::f64::consts::PI;
        return (pi / (pi * x).sin()).ln() - ln_gamma(1.0 - x);
    }
    let x = x - 1.0;
    let t = x + 7.5;
    let sum = C
        .iter()
        .enumerate()
        .skip(1)
        .fold(C[0], |sum, (i, c)| sum + c / (x + i as f64));
    0.5 * std::f64::consts::TAU.ln() + (x + 0.5) * t.ln() - t + sum.ln()
}

/// Regularised upper incomplete gamma function Q(a, x), a > 0, x >= 0 (series below a + 1, continued fraction above).
#[must_use]
pub fn gamma_q(a: f64, x: f64) -> f64 {
    if x.is_nan() || a.is_nan() || a <= 0.0 || x < 0.0 {
        return f64::NAN;
    }
    if x == 0.0 {
        return 1.0;
    }
    if x.is_infinite() {
        return 0.0;
    }
    let front = (a * x.ln() - x - ln_gamma(a)).exp();
    if x < a + 1.0 {
        let (mut term, mut sum, mut k) = (1.0 / a, 1.0 / a, a);
        for _ in 0..100_000 {
            k += 1.0;
            term *= x / k;
            sum += term;
            if term < sum * 1e-17 {
                break;
            }
        }
        return (1.0 - front * sum).max(0.0);
    }
    // Lentz's method on the continued fraction (Press et al., Numerical Recipes, section 6.2).
    let tiny = 1e-300;
    let mut b = x + 1.0 - a;
    let mut c = 1.0 / tiny;
    let mut d = 1.0 / b;
    let mut h = d;
    for i in 1..100_000 {
        let i = f64::from(i);
        let an = -i * (i - a);
        b += 2.0;
        d = an * d + b;
        d = 1.0 / if d.abs() < tiny { tiny } else { d };
        c = b + an / c;
        c = if c.abs() < tiny { tiny } else { c };
        let step = d * c;
        h *= step;
        if (step - 1.0).abs() < 1e-16 {
            break;
        }
    }
    front * h
}

/// P(X >= x) of chi-square with `freedom` degrees of freedom.
#[must_use]
pub fn chi_square_tail(x: f64, freedom: f64) -> f64 {
    gamma_q(freedom / 2.0, x / 2.0)
}

/// P(|Z| >= |z|) of the standard normal distribution.
#[must_use]
pub fn normal_two_sided(z: f64) -> f64 {
    gamma_q(0.5, z * z / 2.0)
}

/// P(|T| > |t|) for Student's t: the regularised incomplete beta I_x(df/2, 1/2) at x = df / (df + t²).
#[must_use]
pub fn student_two_sided(t: f64, df: f64) -> f64 {
    incomplete_beta(df / 2.0, 0.5, df / (df + t * t))
}

/// Regularised incomplete beta by Lentz's continued fraction (Numerical Recipes, section 6.4).
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    let front =
        (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (1.0 - x).ln()).exp();
    if x < (a + 1.0) / (a + b + 2.0) {
        front * beta_fraction(a, b, x) / a
    } else {
        1.0 - front * beta_fraction(b, a, 1.0 - x) / b
    }
}

fn beta_fraction(a: f64, b: f64, x: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let away = |v: f64| if v.abs() < TINY { TINY } else { v };
    let mut c = 1.0;
    let mut d = 1.0 / away(1.0 - (a + b) * x / (a + 1.0));
    let mut result = d;
    for m in 1..10_000 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let before = result;
        for term in [even, odd] {
            d = 1.0 / away(1.0 + term * d);
            c = away(1.0 + term / c);
            result *= d * c;
        }
        if (result - before).abs() <= 1e-16 * result.abs() {
            break;
        }
    }
    result
}

/// The t that |T| of Student's t exceeds with probability `p`, 0 < p < 1.
#[must_use]
pub fn student_critical(p: f64, df: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    while student_two_sided(high, df) > p && high < 1e150 {
        (low, high) = (high, 2.0 * high);
    }
    // Until no number lies between the two.
    loop {
        let middle = f64::midpoint(low, high);
        if middle <= low || middle >= high {
            return middle;
        }
        if student_two_sided(middle, df) > p {
            low = middle;
        } else {
            high = middle;
        }
    }
}

/// Exact two-sided p-value of `k` successes of `n` with chance `p` each: all counts that are no likelier.
#[must_use]
pub fn binomial_two_sided(k: u64, n: u64, p: f64) -> f64 {
    let chance = |k: u64| {
        (ln_ways(n, k) + k as f64 * p.ln() + n.saturating_sub(k) as f64 * (1.0 - p).ln()).exp()
    };
    no_likelier(0..=n, chance, k)
}

/// Fisher's exact two-sided p-value: `k` of `n` against `rest` of `others`, both counts of things with the same chance.
#[must_use]
pub fn fisher_two_sided((k, n): (u64, u64), (rest, others): (u64, u64)) -> f64 {
    let all = k + rest;
    let ways = ln_ways(n + others, all);
    let chance = |k: u64| (ln_ways(n, k) + ln_ways(others, all - k) - ways).exp();
    no_likelier(all.saturating_sub(others)..=n.min(all), chance, k)
}

/// ln of the ways to choose `k` of `n`.
fn ln_ways(n: u64, k: u64) -> f64 {
    let ln_factorial = |m: u64| ln_gamma(m as f64 + 1.0);
    ln_factorial(n) - ln_factorial(k) - ln_factorial(n.saturating_sub(k))
}

fn no_likelier(counts: RangeInclusive<u64>, chance: impl Fn(u64) -> f64, seen: u64) -> f64 {
    // Counts that are exactly as likely differ in their last digits.
    let most = chance(seen) * (1.0 + 1e-7);
    let sum: f64 = counts.map(chance).filter(|c| *c <= most).sum();
    sum.min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert!((ln_gamma(10.0) - 362_880f64.ln()).abs() < 1e-12);
        assert!((ln_gamma(0.5) - std::f64::consts::PI.sqrt().ln()).abs() < 1e-13);
        assert!((normal_two_sided(1.959_963_984_540_054) - 0.05).abs() < 1e-13);
        assert!((chi_square_tail(5.991_464_547_107_979, 2.0) - 0.05).abs() < 1e-13);
        assert!((chi_square_tail(1.0, 2.0) - (-0.5f64).exp()).abs() < 1e-14);
        assert!(gamma_q(-1.0, 1.0).is_nan() && gamma_q(1.0, f64::NAN).is_nan());
    }

    /// Values of SciPy 1.17.1: `2 * stats.t.sf(t, df)`, `stats.t.isf(p / 2, df)`, `stats.binomtest(k, n, p).pvalue`,
    /// `stats.fisher_exact([[a, n - a], [b, m - b]]).pvalue`.
    #[test]
    fn students_t_and_the_exact_tests_are_scipys() {
        for (t, df, p) in [
            (2.228_138_851_986_273_5, 10.0, 0.05),
            (0.37, 4.6, 0.727_799_880_889_295_6),
            (5.1, 17.2, 8.583_408_004_333_598e-5),
            (1.0, 1.0, 0.5),
        ] {
            assert!(
                (student_two_sided(t, df) / p - 1.0).abs() < 1e-11,
                "{t} {df}"
            );
        }
        for (p, df, t) in [
            (0.05, 10.0, 2.228_138_851_986_275_3),
            (0.4, 10.0, 0.879_057_828_550_588_9),
            (0.05, 3.7, 2.867_520_707_191_190_3),
            (0.01, 58.2, 2.662_976_981_159_209_4),
            (0.4, 2.0, 1.060_660_171_779_821),
        ] {
            assert!(
                (student_critical(p, df) / t - 1.0).abs() < 1e-11,
                "{p} {df}"
            );
        }
        for (k, n, chance, p) in [
            (3, 10, 0.5, 0.343_75),
            (40, 130, 0.5, 1.371_506_844_517_543_2e-5),
            (12, 100, 0.2, 0.045_348_959_953_569_634),
            (0, 12, 0.5, 0.000_488_281_25),
            (520, 1_000, 0.5, 0.217_448_293_204_141_5),
            (7, 9, 0.3, 0.004_290_893_999_999),
        ] {
            let found = binomial_two_sided(k, n, chance);
            assert!((found / p - 1.0).abs() < 1e-9, "{k} of {n}: {found}");
        }
        for (one, other, p) in [
            ((0, 43), (29, 57), 2.239_094_585_965_369_4e-9),
            ((5, 50), (6, 60), 1.0),
            ((3, 10), (7, 9), 0.069_778_518_694_927_35),
            ((40, 400), (75, 380), 0.000_166_976_045_135_905_05),
        ] {
            let found = fisher_two_sided(one, other);
            assert!((found / p - 1.0).abs() < 1e-9, "{one:?} {other:?}: {found}");
        }
    }
}
