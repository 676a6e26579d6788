//! What a forecast needs beside the LSTM, in f64: owns a linear layer and the normalisation of a window, never their meaning.

use pulp::Arch;

/// Sums that run side by side, so that an addition need not wait for the one before.
const LANES: usize = 16;

/// `y = weight x + bias` for one x: weights are f32, values and sums f64.
#[derive(Debug, Clone)]
pub struct WideLinear {
    arch: Arch,
    input: usize,
    /// `[output, input]`
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl WideLinear {
    /// Weights `[output, input]`, row-major, and a bias for each output.
    ///
    /// # Panics
    /// Where the weights are not one row for each bias.
    #[must_use]
    pub fn new(weight: Vec<f32>, bias: Vec<f32>) -> Self {
        let input = weight.len() / bias.len().max(1);
        assert_eq!(weight.len(), input * bias.len(), "whole rows");
        Self {
            arch: Arch::new(),
            input,
            weight,
            bias,
        }
    }

    /// Fills y `[output]` from x `[input]`.
    ///
    /// # Panics
    /// Where x is shorter than a row of the weights.
    pub fn run(&self, x: &[f64], y: &mut [f64]) {
        let x = &x[..self.input];
        self.arch.dispatch(|| {
            let rows = self.weight.chunks_exact(self.input.max(1));
            for ((y, row), bias) in y.iter_mut().zip(rows).zip(&self.bias) {
                *y = f64::from(*bias) + dot(row, x);
            }
        });
    }
}

#[inline(always)]
fn dot(w: &[f32], x: &[f64]) -> f64 {
    let (w, w_rest) = w.as_chunks::<LANES>();
    let (x, x_rest) = x.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (w, x) in w.iter().zip(x) {
        for lane in 0..LANES {
            sums[lane] += f64::from(w[lane]) * x[lane];
        }
    }
    let mut sum: f64 = sums.iter().sum();
    for (w, x) in w_rest.iter().zip(x_rest) {
        sum += f64::from(*w) * x;
    }
    sum
}

/// A window in units of its own deviation: `d = x - last`, `dev = max(deviation of d, floor)`, `z = clip(d / dev)`, 0 where NaN.
#[derive(Debug, Clone)]
pub struct InstanceNorm {
    arch: Arch,
    floors: Vec<f64>,
    clip: f64,
}

/// What [`InstanceNorm`] took away from each feature, and what is left.
#[derive(Debug, Clone, Default)]
pub struct Normalised {
    /// `[T, F]`
    pub z: Vec<f64>,
    /// Last value that is not NaN, `[F]`; 0 where there is none.
    pub last: Vec<f64>,
    /// Deviation over the values that are not NaN, at least its floor, `[F]`.
    pub dev: Vec<f64>,
    /// `[F]`: how many values are not NaN, at least 1.
    count: Vec<f64>,
    mean: Vec<f64>,
}

impl InstanceNorm {
    /// `floors` `[F]`: the smallest deviation of each feature; z stays within ±`clip`.
    #[must_use]
    pub fn new(floors: Vec<f64>, clip: f64) -> Self {
        Self {
            arch: Arch::new(),
            floors,
            clip,
        }
    }

    /// Normalises `window` `[T, F]`.
    pub fn run(&self, window: &[f64], out: &mut Normalised) {
        let features = self.floors.len().max(1);
        out.z.resize(window.len(), 0.0);
        for list in [&mut out.last, &mut out.dev, &mut out.count, &mut out.mean] {
            list.clear();
            list.resize(features, 0.0);
        }
        for (f, last) in out.last.iter_mut().enumerate() {
            let column = window.iter().skip(f).step_by(features).rev();
            *last = column.copied().find(|x| !x.is_nan()).unwrap_or(0.0);
        }
        self.arch.dispatch(|| self.passes(window, features, out));
    }

    /// Rows outside, features inside: the features' sums run side by side.
    #[inline(always)]
    fn passes(&self, window: &[f64], features: usize, out: &mut Normalised) {
        let (last, dev, mean) = (&out.last[..], &mut out.dev[..], &mut out.mean[..]);
        let count = &mut out.count[..];
        for row in window.chunks_exact(features) {
            for f in 0..features {
                let seen = !row[f].is_nan();
                mean[f] += if seen { row[f] - last[f] } else { 0.0 };
                count[f] += if seen { 1.0 } else { 0.0 };
            }
        }
        for (mean, count) in mean.iter_mut().zip(count.iter_mut()) {
            *count = count.max(1.0);
            *mean /= *count;
        }
        for row in window.chunks_exact(features) {
            for f in 0..features {
                let d = row[f] - last[f] - mean[f];
                dev[f] += if row[f].is_nan() { 0.0 } else { d * d };
            }
        }
        for ((dev, count), floor) in dev.iter_mut().zip(&*count).zip(&self.floors) {
            *dev = (*dev / count).sqrt().max(*floor);
        }
        let rows = window.chunks_exact(features);
        for (row, z) in rows.zip(out.z.chunks_exact_mut(features)) {
            for f in 0..features {
                let ratio = (row[f] - last[f]) / dev[f];
                let clipped = ratio.clamp(-self.clip, self.clip);
                z[f] = if row[f].is_nan() { 0.0 } else { clipped };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;

    #[test]
    fn a_product_keeps_the_digits_that_f32_would_lose() {
        let mut rng = Rng::new(2);
        for (input, output) in [(1, 1), (15, 3), (16, 2), (77, 5)] {
            let (w, b) = (
                rng.symmetric(input * output, 1.0),
                rng.symmetric(output, 1.0),
            );
            let x: Vec<f64> = rng
                .symmetric(input, 1e6)
                .iter()
                .map(|v| f64::from(*v))
                .collect();
            let mut y = vec![f64::NAN; output];
            WideLinear::new(w.clone(), b.clone()).run(&x, &mut y);
            for (o, y) in y.iter().enumerate() {
                let row = w[o * input..][..input].iter().zip(&x);
                let exact = f64::from(b[o]) + row.map(|(w, x)| f64::from(*w) * x).sum::<f64>();
                assert!((y - exact).abs() < 1e-7, "{y} {exact}");
            }
        }
    }

    #[test]
    fn a_window_is_centred_on_its_last_value_and_scaled_by_its_deviation() {
        let nan = f64::NAN;
        let norm = InstanceNorm::new(vec![1e-9, 0.5, 1e-9], 10.0);
        let window = [1.0, 5.0, nan, nan, 5.0, nan, 3.0, nan, nan];
        let mut out = Normalised::default();
        for _ in 0..2 {
            norm.run(&window, &mut out);
            assert_eq!(out.last, [3.0, 5.0, 0.0]);
            assert_eq!(out.dev, [1.0, 0.5, 1e-9]);
            assert_eq!(out.z, [-2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        }
        let mut far = vec![1e7; 400];
        far[0] = 1e9;
        InstanceNorm::new(vec![1e-9], 10.0).run(&far, &mut out);
        assert_eq!((out.z[0], out.z[1], out.last[0]), (10.0, 0.0, 1e7));
    }
}
