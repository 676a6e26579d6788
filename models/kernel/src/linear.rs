//! A linear layer: owns its weights and their gradients, never an activation or a loss.

use crate::matrix::{Layout, add_rows, gemm};
use crate::optimizer::Parameter;
use crate::rng::Rng;

/// `y = x Wᵀ + b`, weights [output, input] row-major as PyTorch stores them.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    /// Width of a row of x.
    pub input: usize,
    /// Width of a row of y.
    pub output: usize,
    /// [output, input]
    pub weight: Vec<f32>,
    /// `[output]`
    pub bias: Vec<f32>,
}

/// Gradients of a [`Linear`], in its shapes: a sum over the backward passes since it was cleared.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearGrads {
    /// [output, input]
    pub weight: Vec<f32>,
    /// `[output]`
    pub bias: Vec<f32>,
}

impl Linear {
    /// All weights zero: the layer starts by contributing nothing.
    #[must_use]
    pub fn zeros(input: usize, output: usize) -> Self {
        Self {
            input,
            output,
            weight: vec![0.0; input * output],
            bias: vec![0.0; output],
        }
    }

    /// PyTorch's default: weights and bias uniform within ±1/sqrt(input).
    #[must_use]
    pub fn random(input: usize, output: usize, rng: &mut Rng) -> Self {
        let bound = 1.0 / (input as f32).sqrt();
        Self {
            input,
            output,
            weight: rng.symmetric(input * output, bound),
            bias: rng.symmetric(output, bound),
        }
    }

    /// Gradients of zero, in this layer's shapes.
    #[must_use]
    pub fn grads(&self) -> LinearGrads {
        LinearGrads {
            weight: vec![0.0; self.weight.len()],
            bias: vec![0.0; self.bias.len()],
        }
    }

    /// x [rows, input] -> y [rows, output]; with `accumulate` y gains the result instead of becoming it.
    pub fn forward(&self, rows: usize, x: &[f32], y: &mut [f32], accumulate: bool) {
        for row in y[..rows * self.output].chunks_exact_mut(self.output) {
            if accumulate {
                for (y, b) in row.iter_mut().zip(&self.bias) {
                    *y += b;
                }
            } else {
                row.copy_from_slice(&self.bias);
            }
        }
        let shape = (rows, self.input, self.output);
        gemm(
            shape,
            (x, Layout::Plain),
            (&self.weight, Layout::Transposed),
            y,
            true,
        );
    }

    /// Adds to `grads` what dy [rows, output] gives; `dx` [rows, input], where asked for, becomes the input's gradient.
    pub fn backward(
        &self,
        rows: usize,
        x: &[f32],
        dy: &[f32],
        grads: &mut LinearGrads,
        dx: Option<&mut [f32]>,
    ) {
        let dy = &dy[..rows * self.output];
        let shape = (self.output, rows, self.input);
        gemm(
            shape,
            (dy, Layout::Transposed),
            (x, Layout::Plain),
            &mut grads.weight,
            true,
        );
        add_rows(dy, self.output, &mut grads.bias);
        if let Some(dx) = dx {
            let shape = (rows, self.output, self.input);
            gemm(
                shape,
                (dy, Layout::Plain),
                (&self.weight, Layout::Plain),
                dx,
                false,
            );
        }
    }

    /// The layer's tensors paired with their gradients, for an optimiser. Biases do not decay.
    pub fn parameters<'a>(&'a mut self, grads: &'a mut LinearGrads) -> [Parameter<'a>; 2] {
        [
            Parameter {
                value: &mut self.weight,
                grad: &mut grads.weight,
                decays: true,
            },
            Parameter {
                value: &mut self.bias,
                grad: &mut grads.bias,
                decays: false,
            },
        ]
    }
}

impl LinearGrads {
    /// Back to zero.
    pub fn clear(&mut self) {
        self.weight.fill(0.0);
        self.bias.fill(0.0);
    }

    /// Adds another sum, of the same layer.
    pub fn add(&mut self, other: &Self) {
        let mine = self.weight.iter_mut().chain(&mut self.bias);
        for (sum, more) in mine.zip(other.weight.iter().chain(&other.bias)) {
            *sum += more;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_equal_finite_differences() {
        let mut rng = Rng::new(5);
        let (rows, input, output) = (7, 4, 3);
        let mut layer = Linear::random(input, output, &mut rng);
        let mut x = rng.symmetric(rows * input, 1.0);
        let weights = rng.symmetric(rows * output, 1.0);
        let loss = |layer: &Linear, x: &[f32]| {
            let mut y = vec![0.0; rows * output];
            layer.forward(rows, x, &mut y, false);
            y.iter().zip(&weights).map(|(y, w)| y * w).sum::<f32>()
        };
        let mut grads = layer.grads();
        let mut dx = vec![0.0; x.len()];
        layer.backward(rows, &x, &weights, &mut grads, Some(&mut dx));
        let step = 1e-2;
        let close = |numeric: f32, exact: f32| (numeric - exact).abs() < 2e-3 * (1.0 + exact.abs());
        for i in 0..layer.weight.len() {
            let kept = layer.weight[i];
            layer.weight[i] = kept + step;
            let up = loss(&layer, &x);
            layer.weight[i] = kept - step;
            let down = loss(&layer, &x);
            layer.weight[i] = kept;
            assert!(close((up - down) / (2.0 * step), grads.weight[i]));
        }
        for i in 0..x.len() {
            let kept = x[i];
            x[i] = kept + step;
            let up = loss(&layer, &x);
            x[i] = kept - step;
            let down = loss(&layer, &x);
            x[i] = kept;
            assert!(close((up - down) / (2.0 * step), dx[i]));
        }
    }
}
