//! Cholesky factorisation and triangular solves in f64: owns no model.

/// Replaces the lower triangle of the symmetric row-major `a` (`n` x `n`) by its Cholesky factor.
///
/// False where `a` is not positive definite; `a` is then of no more use.
#[must_use]
pub(crate) fn cholesky(a: &mut [f64], n: usize) -> bool {
    for i in 0..n {
        let (done, rest) = a.split_at_mut(i * n);
        let row = &mut rest[..n];
        for j in 0..i {
            let above = &done[j * n..][..=j];
            row[j] = (row[j] - dot(&row[..j], &above[..j])) / above[j];
        }
        let square = row[i] - dot(&row[..i], &row[..i]);
        // A pivot lost to rounding would only blow up what follows.
        if !square.is_finite() || square <= row[i].abs() * 1e-14 {
            return false;
        }
        row[i] = square.sqrt();
    }
    true
}

/// Solves `L Lᵀ X = B` in place; `b` is `n` x `m` row-major, `l` the factor of [`cholesky`].
pub(crate) fn solve(l: &[f64], n: usize, b: &mut [f64], m: usize) {
    for i in 0..n {
        let (above, rest) = b.split_at_mut(i * m);
        let row = &mut rest[..m];
        for (x, factor) in above.chunks_exact(m).zip(&l[i * n..]) {
            subtract(row, *factor, x);
        }
        row.iter_mut().for_each(|v| *v /= l[i * n + i]);
    }
    for i in (0..n).rev() {
        let (head, below) = b.split_at_mut((i + 1) * m);
        let row = &mut head[i * m..];
        for (k, x) in below.chunks_exact(m).enumerate() {
            subtract(row, l[(i + 1 + k) * n + i], x);
        }
        row.iter_mut().for_each(|v| *v /= l[i * n + i]);
    }
}

fn subtract(row: &mut [f64], factor: f64, x: &[f64]) {
    for (r, v) in row.iter_mut().zip(x) {
        *r -= factor * v;
    }
}

/// Eight partial sums, so that the compiler may keep them in vector registers.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f64 = a8
        .remainder()
        .iter()
        .zip(b8.remainder())
        .map(|(x, y)| x * y)
        .sum();
    for (x, y) in a8.zip(b8) {
        for k in 0..8 {
            sums[k] += x[k] * y[k];
        }
    }
    sums.iter().sum::<f64>() + tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn solves_what_it_factors() {
        let (n, m) = (19, 3);
        let mut rng = fieldcast_kernel::Rng::new(9);
        let half: Vec<f64> = (0..n * n).map(|_| f64::from(rng.normal())).collect();
        let at = |i: usize, j: usize| {
            (0..n)
                .map(|k| half[i * n + k] * half[j * n + k])
                .sum::<f64>()
        };
        let a: Vec<f64> = (0..n * n)
            .map(|q| at(q / n, q % n) + f64::from(u8::from(q / n == q % n)))
            .collect();
        let x: Vec<f64> = (0..n * m).map(|i| i as f64 - 20.0).collect();
        let mut b: Vec<f64> = (0..n * m)
            .map(|q| (0..n).map(|k| a[q / m * n + k] * x[k * m + q % m]).sum())
            .collect();
        let mut factor = a.clone();
        assert!(cholesky(&mut factor, n));
        solve(&factor, n, &mut b, m);
        assert!(b.iter().zip(&x).all(|(b, x)| (b - x).abs() < 1e-8));
    }

    #[test]
    fn what_is_not_positive_definite_is_refused() {
        assert!(!cholesky(&mut [1.0, 2.0, 2.0, 1.0], 2));
        assert!(!cholesky(&mut [1.0, 1.0, 1.0, 1.0], 2));
        assert!(!cholesky(&mut [f64::NAN], 1));
    }
}
