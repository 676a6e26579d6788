//! Linear regression with a penalty: owns normal equations, their Cholesky solution and prediction, never features.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, Axis, Slice};
use serde::{Deserialize, Serialize};

/// Rows that are multiplied at once: large enough for the matrix product to pay, small enough for a device.
const BLOCK: usize = 64;

/// Why a regression cannot be accumulated or solved.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RidgeError {
    /// A row has other lengths than the equations.
    #[error(
        "ridge: a row has {inputs} inputs and {outputs} outputs, expected {expected_inputs} and {expected_outputs}; build every row alike"
    )]
    Shape {
        /// Inputs of the row.
        inputs: usize,
        /// Outputs of the row.
        outputs: usize,
        /// Inputs of the equations.
        expected_inputs: usize,
        /// Outputs of the equations.
        expected_outputs: usize,
    },
    /// A row, its weight or lambda is NaN, infinite or negative where it must not be.
    #[error("ridge: {what} is not a usable number; fill or skip rows with missing values")]
    NotFinite {
        /// Which number.
        what: &'static str,
    },
    /// Nothing was added.
    #[error("ridge: there are no rows to fit; add rows before solving")]
    Empty,
    /// The equations have no unique solution.
    #[error("ridge: column {column} depends on others at lambda {lambda}; raise lambda")]
    Singular {
        /// The first dependent column.
        column: usize,
        /// The penalty that did not suffice.
        lambda: f64,
    },
}

/// Weighted normal equations, filled row by row; memory is inputs x (inputs + outputs), whatever the number of rows.
///
/// Sums are taken about the first row, so that a large common offset costs no digits. Row order changes the result
/// only in the last bits; the same order gives the same bits.
#[derive(Debug, Clone)]
pub struct NormalEquations {
    inputs: usize,
    outputs: usize,
    shift: Option<(Vec<f64>, Vec<f64>)>,
    block_x: Array2<f64>,
    block_y: Array2<f64>,
    filled: usize,
    rows: usize,
    gram: Array2<f64>,
    cross: Array2<f64>,
}

impl NormalEquations {
    /// Empty equations for rows of `inputs` numbers and `outputs` results.
    #[must_use]
    pub fn new(inputs: usize, outputs: usize) -> Self {
        Self {
            inputs,
            outputs,
            shift: None,
            block_x: Array2::zeros((BLOCK, inputs + 1)),
            block_y: Array2::zeros((BLOCK, outputs)),
            filled: 0,
            rows: 0,
            gram: Array2::zeros((inputs + 1, inputs + 1)),
            cross: Array2::zeros((inputs + 1, outputs)),
        }
    }

    /// Rows added so far.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Adds one row that counts `weight` times.
    ///
    /// # Errors
    /// [`RidgeError::Shape`], [`RidgeError::NotFinite`]; the equations are unchanged then.
    pub fn add(&mut self, x: &[f64], y: &[f64], weight: f64) -> Result<(), RidgeError> {
        if x.len() != self.inputs || y.len() != self.outputs {
            return Err(RidgeError::Shape {
                inputs: x.len(),
                outputs: y.len(),
                expected_inputs: self.inputs,
                expected_outputs: self.outputs,
            });
        }
        let check = |ok: bool, what| {
            if ok {
                Ok(())
            } else {
                Err(RidgeError::NotFinite { what })
            }
        };
        check(x.iter().all(|v| v.abs() < 1e150), "an input")?;
        check(y.iter().all(|v| v.abs() < 1e150), "an output")?;
        check((0.0..1e100).contains(&weight), "a weight")?;
        let (shift_x, shift_y) = self.shift.get_or_insert_with(|| (x.to_vec(), y.to_vec()));
        let root = weight.sqrt();
        let mut row = self.block_x.row_mut(self.filled);
        for ((cell, value), shift) in row.iter_mut().zip(x).zip(shift_x.iter()) {
            *cell = root * (value - shift);
        }
        row[self.inputs] = root;
        for ((cell, value), shift) in self
            .block_y
            .row_mut(self.filled)
            .iter_mut()
            .zip(y)
            .zip(shift_y.iter())
        {
            *cell = root * (value - shift);
        }
        self.filled += 1;
        self.rows += 1;
        if self.filled == BLOCK {
            self.flush();
        }
        Ok(())
    }

    fn flush(&mut self) {
        let filled = Slice::from(..self.filled);
        let x = self.block_x.slice_axis(Axis(0), filled);
        let y = self.block_y.slice_axis(Axis(0), filled);
        general_mat_mul(1.0, &x.t(), &x, 1.0, &mut self.gram);
        general_mat_mul(1.0, &x.t(), &y, 1.0, &mut self.cross);
        self.filled = 0;
    }

    /// Minimises sum w (y - b - z.c)² + lambda x (sum w) x |c|², z being the inputs standardised to mean 0, deviation 1.
    /// Inputs that never vary get weight 0. Several lambdas may be tried on the same equations.
    ///
    /// # Errors
    /// [`RidgeError::Empty`], [`RidgeError::Singular`], [`RidgeError::NotFinite`] for a lambda below 0.
    pub fn solve(&mut self, lambda: f64) -> Result<Ridge, RidgeError> {
        if !(0.0..1e100).contains(&lambda) {
            return Err(RidgeError::NotFinite { what: "lambda" });
        }
        self.flush();
        let (p, m) = (self.inputs, self.outputs);
        let total = self.gram[[p, p]];
        let Some((shift_x, shift_y)) = self.shift.as_ref().filter(|_| total > 0.0) else {
            return Err(RidgeError::Empty);
        };
        let mean: Vec<f64> = (0..p).map(|j| self.gram[[p, j]] / total).collect();
        let deviation: Vec<f64> = (0..p)
            .map(|j| {
                let square = self.gram[[j, j]] / total;
                let variance = square - mean[j] * mean[j];
                if variance > 1e-12 * square.max(f64::MIN_POSITIVE) {
                    variance.sqrt()
                } else {
                    0.0
                }
            })
            .collect();
        let mut a = vec![0.0; p * p];
        for i in 0..p {
            for j in 0..=i {
                let scale = deviation[i] * deviation[j];
                a[i * p + j] = if scale > 0.0 {
                    (self.gram[[i, j]] / total - mean[i] * mean[j]) / scale
                } else {
                    0.0
                };
            }
            a[i * p + i] = if deviation[i] > 0.0 {
                1.0 + lambda
            } else {
                1.0
            };
        }
        cholesky(&mut a, p).map_err(|column| RidgeError::Singular { column, lambda })?;
        let mut weight = vec![0.0; m * p];
        let mut bias = vec![0.0; m];
        for k in 0..m {
            let mean_y = self.cross[[p, k]] / total;
            let mut c: Vec<f64> = (0..p)
                .map(|j| {
                    let d = deviation[j];
                    if d > 0.0 {
                        (self.cross[[j, k]] / total - mean[j] * mean_y) / d
                    } else {
                        0.0
                    }
                })
                .collect();
            substitute(&a, p, &mut c);
            bias[k] = shift_y[k] + mean_y;
            for j in 0..p {
                let w = if deviation[j] > 0.0 {
                    c[j] / deviation[j]
                } else {
                    0.0
                };
                weight[k * p + j] = w;
                bias[k] -= w * (shift_x[j] + mean[j]);
            }
        }
        Ok(Ridge {
            inputs: p,
            outputs: m,
            weight,
            bias,
        })
    }
}

/// In-place Cholesky factor (lower, row-major); the failing column where the matrix is not positive definite.
fn cholesky(a: &mut [f64], n: usize) -> Result<(), usize> {
    for i in 0..n {
        let (above, row) = a.split_at_mut(i * n);
        for j in 0..i {
            let other = &above[j * n..j * n + j + 1];
            row[j] = (row[j] - dot(&row[..j], &other[..j])) / other[j];
        }
        let pivot = row[i] - dot(&row[..i], &row[..i]);
        if pivot.is_nan() || pivot <= 1e-13 {
            return Err(i);
        }
        row[i] = pivot.sqrt();
    }
    Ok(())
}

fn substitute(l: &[f64], n: usize, b: &mut [f64]) {
    for i in 0..n {
        b[i] = (b[i] - dot(&l[i * n..i * n + i], &b[..i])) / l[i * n + i];
    }
    for i in (0..n).rev() {
        b[i] /= l[i * n + i];
        let x = b[i];
        for (below, l) in b[..i].iter_mut().zip(&l[i * n..i * n + i]) {
            *below -= l * x;
        }
    }
}

/// Four independent sums, so that the compiler can use vector registers; the order of terms is fixed.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 4];
    let (ca, cb) = (a.chunks_exact(4), b.chunks_exact(4));
    let rest: f64 = ca
        .remainder()
        .iter()
        .zip(cb.remainder())
        .map(|(x, y)| x * y)
        .sum();
    for (x, y) in ca.zip(cb) {
        for i in 0..4 {
            sums[i] += x[i] * y[i];
        }
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3]) + rest
}

/// A fitted regression in raw units.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ridge {
    /// Length of an input row.
    pub inputs: usize,
    /// Length of a result.
    pub outputs: usize,
    /// outputs x inputs, row-major.
    pub weight: Vec<f64>,
    /// One an output.
    pub bias: Vec<f64>,
}

impl Ridge {
    /// The result for one row; NaN in, NaN out.
    ///
    /// # Errors
    /// [`RidgeError::Shape`].
    pub fn predict(&self, x: &[f64]) -> Result<Vec<f64>, RidgeError> {
        let consistent =
            self.weight.len() == self.inputs * self.outputs && self.bias.len() == self.outputs;
        if x.len() != self.inputs || !consistent {
            return Err(RidgeError::Shape {
                inputs: x.len(),
                outputs: self.bias.len(),
                expected_inputs: self.inputs,
                expected_outputs: self.outputs,
            });
        }
        let row = |k: usize| &self.weight[k * self.inputs..(k + 1) * self.inputs];
        Ok(self
            .bias
            .iter()
            .enumerate()
            .map(|(k, b)| b + dot(row(k), x))
            .collect())
    }
}

/// Fits rows that are in memory, each counting once. For large data fill [`NormalEquations`] row by row.
///
/// # Errors
/// [`RidgeError`].
pub fn fit(rows: &[(Vec<f64>, Vec<f64>)], lambda: f64) -> Result<Ridge, RidgeError> {
    let (x, y) = rows.first().ok_or(RidgeError::Empty)?;
    let mut equations = NormalEquations::new(x.len(), y.len());
    for (x, y) in rows {
        equations.add(x, y, 1.0)?;
    }
    equations.solve(lambda)
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn noise(i: usize) -> f64 {
        (i as f64 * 0.754_877_666_246_692_7).fract() - 0.5
    }

    fn rows(n: usize) -> Vec<(Vec<f64>, Vec<f64>)> {
        (0..n)
            .map(|i| {
                let x = vec![1e6 + noise(i), 10.0 * noise(7 * i + 3), 4.0];
                let y = vec![3.0 * (x[0] - 1e6) - 0.5 * x[1] + 2.0, x[1]];
                (x, y)
            })
            .collect()
    }

    #[test]
    fn a_linear_truth_is_found_in_spite_of_offset_scale_and_a_constant_column() {
        let r = fit(&rows(200), 0.0).unwrap();
        for (w, truth) in r.weight.iter().zip([3.0, -0.5, 0.0, 0.0, 1.0, 0.0]) {
            assert!((w - truth).abs() < 1e-8, "{:?}", r.weight);
        }
        assert!((r.predict(&[1e6, 2.0, 4.0]).unwrap()[0] - 1.0).abs() < 1e-6);
    }

    #[test]
    fn one_input_matches_the_closed_formula() {
        let data: Vec<_> = (0..50)
            .map(|i| (vec![noise(i)], vec![2.0 * noise(i) + noise(3 * i + 1)]))
            .collect();
        let n = data.len() as f64;
        let (mx, my) = (
            data.iter().map(|d| d.0[0]).sum::<f64>() / n,
            data.iter().map(|d| d.1[0]).sum::<f64>() / n,
        );
        let sxy = data
            .iter()
            .map(|d| (d.0[0] - mx) * (d.1[0] - my))
            .sum::<f64>();
        let sxx = data.iter().map(|d| (d.0[0] - mx).powi(2)).sum::<f64>();
        let r = fit(&data, 0.3).unwrap();
        assert!((r.weight[0] - sxy / (sxx * 1.3)).abs() < 1e-12);
        assert!((r.predict(&[mx]).unwrap()[0] - my).abs() < 1e-12);
    }

    #[test]
    fn weight_two_is_the_row_twice() {
        let data = rows(150);
        let (mut a, mut b) = (NormalEquations::new(3, 2), NormalEquations::new(3, 2));
        for (i, (x, y)) in data.iter().enumerate() {
            let y = [y[0] + noise(11 * i), y[1]];
            a.add(x, &y, if i < 40 { 2.0 } else { 1.0 }).unwrap();
            b.add(x, &y, 1.0).unwrap();
            if i < 40 {
                b.add(x, &y, 1.0).unwrap();
            }
        }
        let (a, b) = (a.solve(0.01).unwrap(), b.solve(0.01).unwrap());
        assert!(
            a.weight
                .iter()
                .zip(&b.weight)
                .all(|(x, y)| (x - y).abs() < 1e-9)
        );
    }

    #[test]
    fn hostile_rows_are_refused_and_leave_no_trace() {
        let mut e = NormalEquations::new(1, 1);
        assert_eq!(e.solve(1.0), Err(RidgeError::Empty));
        assert!(matches!(
            e.add(&[f64::NAN], &[1.0], 1.0),
            Err(RidgeError::NotFinite { .. })
        ));
        assert!(matches!(
            e.add(&[1.0], &[f64::INFINITY], 1.0),
            Err(RidgeError::NotFinite { .. })
        ));
        assert!(matches!(
            e.add(&[1.0], &[1.0], -1.0),
            Err(RidgeError::NotFinite { .. })
        ));
        assert!(matches!(
            e.add(&[1.0, 2.0], &[1.0], 1.0),
            Err(RidgeError::Shape { .. })
        ));
        assert_eq!(e.rows(), 0);
        e.add(&[2.0], &[5.0], 1.0).unwrap();
        assert_eq!(e.solve(0.0).unwrap().predict(&[99.0]).unwrap(), [5.0]);
        assert!(matches!(e.solve(-1.0), Err(RidgeError::NotFinite { .. })));
        let doubled: Vec<_> = (0..9)
            .map(|i| (vec![noise(i), noise(i)], vec![noise(i)]))
            .collect();
        assert!(matches!(
            fit(&doubled, 0.0),
            Err(RidgeError::Singular { column: 1, .. })
        ));
        assert!(fit(&doubled, 1e-6).is_ok());
    }

    proptest! {
        #[test]
        fn the_gradient_is_zero_at_the_solution(seed in 0usize..10_000, n in 5usize..130, lambda in 0.001f64..2.0) {
            let x = |i: usize, j: usize| noise(seed + 31 * i + 7 * j + i * j);
            let data: Vec<_> =
                (0..n).map(|i| ((0..3).map(|j| x(i, j)).collect::<Vec<_>>(), vec![noise(seed * 3 + i * i)])).collect();
            let r = fit(&data, lambda).unwrap();
            let residual: Vec<f64> = data.iter().map(|(x, y)| y[0] - r.predict(x).unwrap()[0]).collect();
            prop_assert!(residual.iter().sum::<f64>().abs() < 1e-9 * n as f64);
            for j in 0..3 {
                let m = data.iter().map(|d| d.0[j]).sum::<f64>() / n as f64;
                let v = data.iter().map(|d| (d.0[j] - m).powi(2)).sum::<f64>() / n as f64;
                let g: f64 = data.iter().zip(&residual).map(|(d, e)| (d.0[j] - m) * e).sum();
                prop_assert!((g / n as f64 - lambda * v * r.weight[j]).abs() < 1e-9);
            }
        }
    }
}
