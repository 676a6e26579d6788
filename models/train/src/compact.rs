//! Ridge on a few features for each step: owns its normal equations, never which steps of the window are its features.
//!
//! A window of many steps and inputs holds more columns than a year or two of autocorrelated rows can weigh; the lags that
//! matter, with the calendar, often forecast better. The result is a highway like any other: weights over the whole window.

use ndarray::Array2;
use ndarray::linalg::general_mat_mul;

use crate::TrainError;
use crate::batch::{Batch, Batcher};
use crate::heads::Beat;
use crate::highway::Highway;
use crate::linalg::{cholesky, solve};
use crate::samples::Sample;

const CHUNK: usize = 512;

/// Sums over the training part from which the highway of any penalty follows.
#[derive(Debug)]
pub(crate) struct CompactEquations<'a> {
    batcher: &'a Batcher<'a>,
    /// `[J + K + 2, J + K + 2]` of each step: lags, calendar, constant and target times each other.
    grams: Vec<Array2<f64>>,
}

impl<'a> CompactEquations<'a> {
    /// Sums over `samples`, weighted as those of [`crate::highway::NormalEquations`]; missing targets are left out.
    pub(crate) fn new(
        batcher: &'a Batcher<'a>,
        samples: &[Sample],
        beat: &mut Beat<'_>,
    ) -> Result<Self, TrainError> {
        let (h, j, k) = (
            batcher.panel.horizon,
            batcher.lag_width(),
            batcher.panel.future_width,
        );
        let width = j + k + 2;
        let mut grams = vec![Array2::<f64>::zeros((width, width)); h];
        let mut batch = Batch::default();
        for chunk in samples.chunks(CHUNK) {
            batcher.fill(chunk, &mut batch);
            let mut x = Array2::<f64>::zeros((chunk.len(), width));
            for (step, gram) in grams.iter_mut().enumerate() {
                for (b, mut row) in x.rows_mut().into_iter().enumerate() {
                    let q = b * h + step;
                    let target = batch.target[q];
                    let weight = batch.weight[b].sqrt() * batch.scale[b];
                    // A factor of zero takes a row without a target out of every sum.
                    let factor = if target.is_nan() {
                        0.0
                    } else {
                        f64::from(weight)
                    };
                    let lags = &batch.lags[q * j..][..j];
                    let known = &batch.future[q * k..][..k];
                    let values = lags.iter().chain(known).chain([&1.0]);
                    row.iter_mut()
                        .zip(values)
                        .for_each(|(x, v)| *x = f64::from(*v) * factor);
                    row[width - 1] = if target.is_nan() {
                        0.0
                    } else {
                        f64::from(target) * factor
                    };
                }
                general_mat_mul(1.0, &x.t(), &x, 1.0, gram);
            }
            beat()?;
        }
        Ok(Self { batcher, grams })
    }

    /// The highway of one penalty, relative to the lags' mean diagonal; the constant is not penalised. Without `calendar` it
    /// is that of the lags alone.
    pub(crate) fn solve(&self, penalty: f64, calendar: bool) -> Result<Highway, TrainError> {
        let panel = self.batcher.panel;
        let (j, k) = (self.batcher.lag_width(), panel.future_width);
        let n = j + k + 1;
        let mut highway = Highway {
            weight: vec![0.0; panel.horizon * self.batcher.features()],
            bias: vec![0.0; panel.horizon],
            future: vec![0.0; panel.horizon * k],
        };
        for (step, gram) in self.grams.iter().enumerate() {
            let mean = (0..j).map(|i| gram[[i, i]]).sum::<f64>() / j.max(1) as f64;
            let mass = gram[[n - 1, n - 1]];
            let lambda = penalty * mean.max(mass * 1e-6).max(f64::MIN_POSITIVE);
            let mut factor: Vec<f64> = (0..n * n).map(|q| gram[[q / n, q % n]]).collect();
            for i in 0..n {
                factor[i * n + i] += if i + 1 < n { lambda } else { mass * 1e-9 };
            }
            let mut solved: Vec<f64> = (0..n).map(|i| gram[[i, n]]).collect();
            for i in (j..j + k).filter(|_| !calendar) {
                (0..n).filter(|q| *q != i).for_each(|q| {
                    factor[i * n + q] = 0.0;
                    factor[q * n + i] = 0.0;
                });
                solved[i] = 0.0;
            }
            if !cholesky(&mut factor, n) {
                return Err(TrainError::Singular { features: n });
            }
            solve(&factor, n, &mut solved, 1);
            let weight =
                &mut highway.weight[step * self.batcher.features()..][..self.batcher.features()];
            let mut means = vec![0.0; panel.inputs];
            for (at, value) in self.batcher.lags[step * j..][..j].iter().zip(&solved) {
                weight[*at] += *value as f32;
                means[at % panel.inputs] += value / panel.lookback as f64;
            }
            // Lags are read from the centred window: what the mean takes away falls on every step of the input.
            for (i, weight) in weight.iter_mut().enumerate() {
                *weight -= means[i % panel.inputs] as f32;
            }
            let known = highway.future[step * k..][..k].iter_mut().zip(&solved[j..]);
            known.for_each(|(slot, value)| *slot = *value as f32);
            highway.bias[step] = solved[n - 1] as f32;
        }
        Ok(highway)
    }
}
