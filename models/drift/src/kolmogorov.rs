//! Kolmogorov's distribution for a finite n: owns its tail, chosen by region as Simard and L'Ecuyer (2011) do; never a test.

use crate::special::ln_gamma;
use std::f64::consts::PI;

/// Most terms of Smirnov's sum.
const MOST_TERMS: u64 = 1_000_000;

/// P(D_n >= x) of the two-sided one-sample statistic, the same regions as SciPy's `kstwo.sf`.
#[must_use]
pub fn tail(n: u64, x: f64) -> f64 {
    if x.is_nan() || n == 0 {
        return f64::NAN;
    }
    if x >= 1.0 {
        return 0.0;
    }
    let nf = n as f64;
    let t = nf * x;
    if t <= 0.5 {
        return 1.0;
    }
    if t <= 1.0 {
        let log = ln_gamma(nf + 1.0) - nf * nf.ln() + nf * (2.0 * t - 1.0).ln();
        return 1.0 - log.exp();
    }
    if t >= nf - 1.0 {
        return 2.0 * (1.0 - x).powf(nf);
    }
    let nxx = t * x;
    if x >= 0.5 || nxx > if n <= 140 { 4.0 } else { 2.2 } {
        return if nxx >= 370.0 {
            0.0
        } else {
            (2.0 * one_sided(n, x)).min(1.0)
        };
    }
    let cdf = if n <= 140 || (n <= 100_000 && nf * x.powf(1.5) <= 1.4) {
        durbin_matrix(n, x)
    } else {
        pelz_good(nf, x)
    };
    (1.0 - cdf).clamp(0.0, 1.0)
}

/// P(D_n+ >= x), Smirnov's sum of positive terms (Birnbaum and Tingey 1951): x / p times the binomial probability of j out of n
/// at p = x + j / n, taken as Loader (2000) does. Logarithms of factorials would cancel: at a million they leave eight digits.
fn one_sided(n: u64, x: f64) -> f64 {
    let nf = n as f64;
    if n > MOST_TERMS {
        // Maag and Dicaire (1971), as SciPy does from here on.
        return (-(6.0 * nf * x + 1.0).powi(2) / (18.0 * nf)).exp();
    }
    let most = (nf * (1.0 - x)).floor();
    let (t, all) = (nf * x, stirling_error(nf));
    let mut sum = (nf * (-x).ln_1p()).exp();
    let mut j = 1.0;
    while j <= most && j < nf && nf - j - t > 0.0 {
        let k = nf - j;
        // What is expected lies t above j, and t below the rest.
        let log = all
            - stirling_error(j)
            - stirling_error(k)
            - deviance(j, j + t, -t)
            - deviance(k, k - t, t);
        let binomial = log.exp() * (nf / (2.0 * PI * j * k)).sqrt();
        sum += x / (x + j / nf) * binomial;
        j += 1.0;
    }
    sum
}

/// ln(n!) less Stirling's formula, for n >= 1.
fn stirling_error(n: f64) -> f64 {
    if n < 16.0 {
        return ln_gamma(n + 1.0) - (n + 0.5) * n.ln() + n - 0.5 * (2.0 * PI).ln();
    }
    let m = 1.0 / (n * n);
    (1.0 / 12.0 - m * (1.0 / 360.0 - m * (1.0 / 1_260.0 - m * (1.0 / 1_680.0 - m / 1_188.0)))) / n
}

/// x ln(x / m) + m - x, where x - m is `gap`: without cancelling where the two are near.
fn deviance(x: f64, m: f64, gap: f64) -> f64 {
    let v = gap / (x + m);
    if v.abs() >= 0.1 {
        return x * (x / m).ln() - gap;
    }
    let (mut sum, mut term) = (gap * v, 2.0 * x * v);
    for k in 1..100 {
        term *= v * v;
        let next = sum + term / f64::from(2 * k + 1);
        if next == sum {
            break;
        }
        sum = next;
    }
    sum
}

/// P(D_n <= x) exactly, by Durbin's matrix as Marsaglia, Tsang and Wang (2003) raise it to the n-th power.
fn durbin_matrix(n: u64, x: f64) -> f64 {
    let nf = n as f64;
    let k = (nf * x).ceil() as usize;
    let m = 2 * k - 1;
    let h = k as f64 - nf * x;
    let mut a = vec![0.0; m * m];
    for i in 0..m {
        for j in 0..m {
            a[i * m + j] = if i + 1 >= j { 1.0 } else { 0.0 };
        }
    }
    for i in 0..m {
        a[i * m] -= h.powi(i as i32 + 1);
        a[(m - 1) * m + i] -= h.powi((m - i) as i32);
    }
    a[(m - 1) * m] += if 2.0 * h - 1.0 > 0.0 {
        (2.0 * h - 1.0).powi(m as i32)
    } else {
        0.0
    };
    for i in 0..m {
        for j in 0..m {
            for g in 1..=(i + 1).saturating_sub(j) {
                a[i * m + j] /= g as f64;
            }
        }
    }
    let (q, mut exponent) = power(&a, m, n);
    let mut s = q[(k - 1) * m + k - 1];
    for i in 1..=n {
        s = s * i as f64 / nf;
        if s < 1e-140 {
            s *= 1e140;
            exponent -= 140;
        }
    }
    s * 10f64.powi(exponent)
}

/// The matrix to the n-th power as (mantissas, decimal exponent).
fn power(a: &[f64], m: usize, n: u64) -> (Vec<f64>, i32) {
    let multiply = |x: &[f64], y: &[f64]| {
        let mut out = vec![0.0; m * m];
        for i in 0..m {
            for l in 0..m {
                let v = x[i * m + l];
                for j in 0..m {
                    out[i * m + j] += v * y[l * m + j];
                }
            }
        }
        out
    };
    if n == 1 {
        return (a.to_vec(), 0);
    }
    let (half, e) = power(a, m, n / 2);
    let (mut out, mut e) = (multiply(&half, &half), 2 * e);
    if n % 2 == 1 {
        out = multiply(a, &out);
    }
    if out[(m / 2) * m + m / 2] > 1e140 {
        out.iter_mut().for_each(|v| *v *= 1e-140);
        e += 140;
    }
    (out, e)
}

/// P(D_n <= x) by the expansion of Pelz and Good (1976) in the form that converges for small x * sqrt(n).
fn pelz_good(n: f64, x: f64) -> f64 {
    let z = n.sqrt() * x;
    let (p2, p4, p6) = (PI * PI, PI.powi(4), PI.powi(6));
    let (z2, z3, z4, z6) = (z * z, z.powi(3), z.powi(4), z.powi(6));
    let log_q = -p2 / 8.0 / z2;
    if log_q < -708.0 {
        return 0.0;
    }
    let q = log_q.exp();
    let k3 = [
        -30.0 * z6 - 90.0 * z.powi(8),
        p2 * (135.0 * z4 - 96.0 * z6) / 4.0,
        p4 * (-60.0 * z2 + 212.0 * z4) / 16.0,
        p6 * (5.0 - 30.0 * z2) / 64.0,
    ];
    let k2 = [
        6.0 * z6 + 2.0 * z4,
        (2.0 * z4 - 5.0 * z2) * p2 / 4.0,
        p4 * (1.0 - 2.0 * z2) / 16.0,
    ];
    let mut sums = [0.0; 4];
    let terms = (16.0 * z / PI).ceil() as u32;
    for k in (1..=terms).rev() {
        let m2 = f64::from(2 * k - 1).powi(2);
        let (m4, m6) = (m2 * m2, m2 * m2 * m2);
        let row = [
            1.0,
            -z2 + p2 / 4.0 * m2,
            k2[0] + k2[1] * m2 + k2[2] * m4,
            k3[0] + k3[1] * m2 + k3[2] * m4 + k3[3] * m6,
        ];
        let step = q.powi(8 * k as i32);
        for (sum, term) in sums.iter_mut().zip(row) {
            *sum = *sum * step + term;
        }
    }
    let root = (2.0 * PI).sqrt();
    for (sum, by) in sums
        .iter_mut()
        .zip([z, 6.0 * z4, 72.0 * z.powi(7), 6480.0 * z.powi(10)])
    {
        *sum *= q * root / by;
    }
    let q = (-p2 / 2.0 / z2).exp();
    let (mut extra2, mut extra3) = (0.0, 0.0);
    for k in (1..=terms).rev() {
        let (k, kpi) = (f64::from(k), PI * f64::from(k));
        let weight = k * k * q.powf(k * k);
        extra2 += weight;
        extra3 += (3f64.sqrt() * z + kpi) * (3f64.sqrt() * z - kpi) * weight;
    }
    sums[2] += extra2 * p2 * root / (-36.0 * z3);
    sums[3] += extra3 * p2 * root / (216.0 * z6);
    sums[0] + sums[1] / n.sqrt() + sums[2] / n + sums[3] / n.powf(1.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_regions_meet() {
        for (n, x) in [
            (10u64, 0.274),
            (140, 0.12),
            (50, 0.2),
            (300, 0.06),
            (300, 0.08),
        ] {
            let exact = 1.0 - durbin_matrix(n, x);
            assert!(
                (tail(n, x) - exact).abs() < 2e-5 * exact.max(1e-3),
                "{n} {x} {} {exact}",
                tail(n, x)
            );
        }
        // Marsaglia, Tsang and Wang's own example.
        assert!((durbin_matrix(10, 0.274) - 0.628_479_615_454_4).abs() < 1e-9);
        let gap = (pelz_good(300.0, 0.06) - durbin_matrix(300, 0.06)).abs();
        assert!(gap < 1e-6, "{gap}");
    }

    /// n, x and SciPy 1.17.1's `kstwo.sf`.
    const GOLDEN: [(u64, f64, f64); 30] = [
        (150, 0.0447213595, 0.9118065700267481),
        (150, 0.118321596, 0.02751843758851391),
        (150, 0.123827837, 0.01834001936326798),
        (150, 0.282842712, 4.135948940059636e-11),
        (150, 0.447213595, 7.031545436040914e-28),
        (1_000, 0.0173205081, 0.9198987608166738),
        (1_000, 0.0458257569, 0.02905832002084252),
        (1_000, 0.0479583152, 0.01944481040147215),
        (1_000, 0.109544512, 6.614342255518995e-11),
        (1_000, 0.173205081, 1.0521517056133645e-26),
        (20_000, 0.00387298335, 0.9239220895881787),
        (20_000, 0.0102469508, 0.029785339475187467),
        (20_000, 0.0107238053, 0.019959128013161343),
        (20_000, 0.0244948974, 7.406188941239208e-11),
        (20_000, 0.0387298335, 1.673937245344056e-26),
        (100_001, 0.00173204215, 0.9245650702238037),
        (100_001, 0.00458255278, 0.02989926220264638),
        (100_001, 0.00479580754, 0.020039232042090252),
        (100_001, 0.0109543964, 7.490931862903173e-11),
        (100_001, 0.0173204215, 1.724512006003617e-26),
        (1_000_000, 0.000547722558, 0.9249210076471761),
        (1_000_000, 0.00144913767, 0.029962062712414084),
        (1_000_000, 0.00151657509, 0.0200833290967344),
        (1_000_000, 0.00346410162, 7.53241011718908e-11),
        (1_000_000, 0.00547722558, 1.744244129617153e-26),
        (5_000_000, 0.000244948974, 0.9250120330690534),
        (5_000_000, 0.00064807407, 0.029978091606096324),
        (5_000_000, 0.000678232998, 0.02009458342365702),
        (5_000_000, 0.00154919334, 7.542474791262517e-11),
        (5_000_000, 0.00244948974, 1.7484448408706947e-26),
    ];

    #[test]
    fn large_sizes_keep_their_digits() {
        for (n, x, p) in GOLDEN {
            let own = tail(n, x);
            assert!((own / p - 1.0).abs() < 1e-9, "{n} {x}: {own} {p}");
        }
    }

    #[test]
    fn the_ends_are_sure() {
        assert_eq!(tail(10, 0.01), 1.0);
        assert_eq!(tail(10, 1.0), 0.0);
        assert!(tail(0, 0.5).is_nan() && tail(5, f64::NAN).is_nan());
        assert!((tail(4, 0.2) - (1.0 - 24.0 / 256.0 * 0.6f64.powi(4))).abs() < 1e-14);
    }
}
