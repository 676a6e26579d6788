//! The linear highway in closed form: owns the ridge regression from window and calendar to every forecast step.
//!
//! The window's features are shared by all steps while the calendar columns are each step's own, so every step has normal
//! equations of its own with one large common block. Block elimination makes that exact and affordable: the common block
//! is factored once a penalty, each step then costs a solve of its K calendar columns.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, Axis, Slice};

use crate::TrainError;
use crate::batch::{Batch, Batcher};
use crate::heads::Beat;
use crate::linalg::{cholesky, solve};
use crate::samples::Sample;

/// Most window features that enter the regression; of longer windows the most recent do.
const MOST_FEATURES: usize = 1_536;
const CHUNK: usize = 256;

/// A linear forecast in units of the window's deviation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Highway {
    /// `[H, T*F]`
    pub(crate) weight: Vec<f32>,
    /// `[H]`
    pub(crate) bias: Vec<f32>,
    /// `[H, K]`
    pub(crate) future: Vec<f32>,
}

impl Highway {
    /// The mean of several of one shape, weighted; the weights need not sum to 1.
    pub(crate) fn averaged(parts: &[(f64, &Highway)]) -> Highway {
        let total: f64 = parts.iter().map(|(w, _)| w).sum();
        let mean = |of: fn(&Highway) -> &[f32]| -> Vec<f32> {
            let size = parts.first().map_or(0, |(_, p)| of(p).len());
            let at = |i: usize| {
                parts
                    .iter()
                    .map(|(w, p)| w * f64::from(of(p)[i]))
                    .sum::<f64>()
            };
            (0..size).map(|i| (at(i) / total) as f32).collect()
        };
        Highway {
            weight: mean(|h| &h.weight),
            bias: mean(|h| &h.bias),
            future: mean(|h| &h.future),
        }
    }
}

/// Sums over the training part from which the highway of any penalty follows.
#[derive(Debug)]
pub(crate) struct NormalEquations {
    /// Columns of z that take part.
    columns: Vec<usize>,
    width: usize,
    horizon: usize,
    future_width: usize,
    /// `[D+1, D+1]` over the columns and a constant.
    common: Array2<f64>,
    /// `[D+1, H*K + H]`: common columns times calendar columns and targets.
    cross: Array2<f64>,
    /// `[H, K, K + 1]`: each step's calendar columns times themselves and its target.
    own: Vec<f64>,
}

impl NormalEquations {
    /// Sums over `samples`, each weighted by its weight and the square of its scale: the fit minimises squared errors in
    /// MASE units, not in units of each window's deviation. Missing steps of a target are interpolated.
    pub(crate) fn new(
        batcher: &Batcher<'_>,
        samples: &[Sample],
        beat: &mut Beat<'_>,
    ) -> Result<Self, TrainError> {
        let panel = batcher.panel;
        let columns = choose_columns(panel.lookback, panel.inputs, panel.target);
        let (horizon, k) = (panel.horizon, panel.future_width);
        let (d, side) = (columns.len() + 1, horizon * (k + 1));
        let mut sums = Self {
            width: batcher.features(),
            horizon,
            future_width: k,
            common: Array2::zeros((d, d)),
            cross: Array2::zeros((d, side)),
            own: vec![0.0; horizon * k * (k + 1)],
            columns,
        };
        let mut batch = Batch::default();
        let mut left = Array2::zeros((CHUNK, d));
        let mut right = Array2::zeros((CHUNK, side));
        for chunk in samples.chunks(CHUNK) {
            batcher.fill(chunk, &mut batch);
            sums.add(&mut batch, &mut left, &mut right);
            beat()?;
        }
        Ok(sums)
    }

    fn add(&mut self, batch: &mut Batch, left: &mut Array2<f64>, right: &mut Array2<f64>) {
        let (h, k) = (self.horizon, self.future_width);
        for b in 0..batch.rows {
            let factor = f64::from(batch.weight[b].sqrt() * batch.scale[b]);
            let z = &batch.z[b * self.width..][..self.width];
            let mut row = left.row_mut(b);
            for (value, column) in row.iter_mut().zip(&self.columns) {
                *value = f64::from(z[*column]) * factor;
            }
            row[self.columns.len()] = factor;
            let target = &mut batch.target[b * h..][..h];
            interpolate(target);
            let future = &batch.future[b * h * k..][..h * k];
            let values = future
                .iter()
                .chain(target.iter())
                .map(|v| f64::from(*v) * factor);
            right
                .row_mut(b)
                .iter_mut()
                .zip(values)
                .for_each(|(r, v)| *r = v);
        }
        let used = Slice::from(..batch.rows);
        let (left, right) = (
            left.slice_axis(Axis(0), used),
            right.slice_axis(Axis(0), used),
        );
        general_mat_mul(1.0, &left.t(), &left, 1.0, &mut self.common);
        general_mat_mul(1.0, &left.t(), &right, 1.0, &mut self.cross);
        for row in right.rows() {
            for step in 0..h {
                let target = row[h * k + step];
                for i in 0..k {
                    let value = row[step * k + i];
                    let sums = &mut self.own[(step * k + i) * (k + 1)..][..=k];
                    for (j, sum) in sums[..k].iter_mut().enumerate() {
                        *sum += value * row[step * k + j];
                    }
                    sums[k] += value * target;
                }
            }
        }
    }

    /// The highway of one penalty, relative to the mean diagonal; the constant is not penalised. Without `calendar` it is
    /// that of the window alone.
    pub(crate) fn solve(&self, penalty: f64, calendar: bool) -> Result<Highway, TrainError> {
        let (h, k, features) = (self.horizon, self.future_width, self.columns.len());
        let d = features + 1;
        let singular = TrainError::Singular {
            features: features + k,
        };
        let mean = self.common.diag().iter().take(features).sum::<f64>() / features.max(1) as f64;
        let mass = self.common[[features, features]];
        let lambda = penalty * mean.max(mass * 1e-6).max(f64::MIN_POSITIVE);
        let mut factor = self.common.clone().into_raw_vec_and_offset().0;
        for i in 0..d {
            factor[i * d + i] += if i < features { lambda } else { mass * 1e-9 };
        }
        if !cholesky(&mut factor, d) {
            return Err(singular);
        }
        let side = h * (k + 1);
        let mut solved = self.cross.clone().into_raw_vec_and_offset().0;
        solve(&factor, d, &mut solved, side);
        let solved = ArrayView2::from_shape((d, side), &solved).map_err(|_| singular.clone())?;
        let mut highway = Highway {
            weight: vec![0.0; h * self.width],
            bias: vec![0.0; h],
            future: vec![0.0; h * k],
        };
        for step in 0..h {
            let known = Slice::from(step * k..(step + 1) * k);
            let cross = self.cross.slice_axis(Axis(1), known);
            let inner = solved.slice_axis(Axis(1), known);
            let schur = cross.t().dot(&inner);
            let rest = cross.t().dot(&solved.column(h * k + step));
            let own = &self.own[step * k * (k + 1)..][..k * (k + 1)];
            let mut small: Vec<f64> = (0..k * k)
                .map(|q| own[q / k * (k + 1) + q % k] - schur[[q / k, q % k]])
                .collect();
            let mut future: Vec<f64> = (0..k).map(|i| own[i * (k + 1) + k] - rest[i]).collect();
            for i in 0..k {
                // Calendar columns may be collinear with each other and the constant.
                small[i * k + i] += lambda.max(mass * 1e-6);
            }
            if !cholesky(&mut small, k) {
                return Err(singular);
            }
            solve(&small, k, &mut future, 1);
            if !calendar {
                future.fill(0.0);
            }
            for (i, row) in inner.rows().into_iter().enumerate() {
                let through: f64 = row.iter().zip(&future).map(|(a, b)| a * b).sum();
                let value = (solved[[i, h * k + step]] - through) as f32;
                match self.columns.get(i) {
                    Some(column) => highway.weight[step * self.width + column] = value,
                    None => highway.bias[step] = value,
                }
            }
            for (slot, value) in highway.future[step * k..].iter_mut().zip(&future) {
                *slot = *value as f32;
            }
        }
        Ok(highway)
    }
}

/// All columns where they are few enough; else up to two thirds for the target's recent past, the rest for the others'.
fn choose_columns(lookback: usize, inputs: usize, target: usize) -> Vec<usize> {
    if lookback * inputs <= MOST_FEATURES {
        return (0..lookback * inputs).collect();
    }
    let own = lookback.min(if inputs == 1 {
        MOST_FEATURES
    } else {
        MOST_FEATURES * 2 / 3
    });
    let recent =
        |input: usize, steps: usize| (lookback - steps..lookback).map(move |t| t * inputs + input);
    let each = (MOST_FEATURES - own) / (inputs - 1).max(1);
    let mut columns: Vec<usize> = recent(target, own).collect();
    for input in (0..inputs).filter(|i| *i != target) {
        columns.extend(recent(input, each.min(lookback)));
    }
    columns.sort_unstable();
    columns
}

/// Fills NaN linearly between observed neighbours, flat at the ends; zero where nothing is observed.
pub(crate) fn interpolate(values: &mut [f32]) {
    let mut before: Option<usize> = None;
    for i in 0..=values.len() {
        if i < values.len() && values[i].is_nan() {
            continue;
        }
        let first = before.map_or(0, |b| b + 1);
        for j in first..i {
            values[j] = match (before, values.get(i)) {
                (Some(b), Some(after)) => {
                    values[b] + (after - values[b]) * (j - b) as f32 / (i - b) as f32
                }
                (Some(b), None) => values[b],
                (None, Some(after)) => *after,
                (None, None) => 0.0,
            };
        }
        before = Some(i);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_of_highways_weighs_every_number_alike() {
        let flat = |v: f32| Highway {
            weight: vec![v; 4],
            bias: vec![v],
            future: vec![v; 2],
        };
        let mean = Highway::averaged(&[(1.0, &flat(1.0)), (3.0, &flat(5.0))]);
        assert_eq!(mean, flat(4.0));
    }

    #[test]
    fn gaps_are_interpolated() {
        let nan = f32::NAN;
        let mut v = [nan, 1.0, nan, nan, 4.0, nan];
        interpolate(&mut v);
        assert_eq!(v, [1.0, 1.0, 2.0, 3.0, 4.0, 4.0]);
        let mut none = [nan, nan];
        interpolate(&mut none);
        assert_eq!(none, [0.0, 0.0]);
    }

    #[test]
    fn a_wide_window_keeps_the_recent_past() {
        assert_eq!(choose_columns(3, 2, 0), [0, 1, 2, 3, 4, 5]);
        let columns = choose_columns(2_000, 3, 1);
        assert!(columns.len() <= MOST_FEATURES && columns.len() > MOST_FEATURES - 3);
        assert_eq!(columns.last(), Some(&5_999));
        assert_eq!(columns.iter().filter(|c| *c % 3 == 1).count(), 1_024);
    }
}
