//! One LSTM layer over a batch of sequences: owns its weights, forward pass and back-propagation through time, never a head.
//!
//! Equations and layout are PyTorch's: gates in the order i, f, g, o, stacked as [4 x hidden, ...];
//! two bias vectors, since Adam moves their sum twice as fast as a single one.
//! `c = f c' + i g`, `h = o tanh(c)`, both starting at zero.

use crate::fused::{self, Shape, Work};
use crate::optimizer::Parameter;
use crate::rng::Rng;

/// The layer's weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Lstm {
    /// Width of one step's input.
    pub input: usize,
    /// Width of the state.
    pub hidden: usize,
    /// [4 x hidden, input]
    pub w_ih: Vec<f32>,
    /// [4 x hidden, hidden]
    pub w_hh: Vec<f32>,
    /// [4 x hidden]
    pub b_ih: Vec<f32>,
    /// [4 x hidden]
    pub b_hh: Vec<f32>,
}

/// Gradients of an [`Lstm`]: a sum over the backward passes since it was cleared.
#[derive(Debug, Clone, PartialEq)]
pub struct LstmGrads {
    /// In the kernel's layout, where passes add up.
    sum: Vec<f32>,
    w_ih: Vec<f32>,
    w_hh: Vec<f32>,
    b_ih: Vec<f32>,
    b_hh: Vec<f32>,
}

/// What a forward pass leaves for the backward pass; kept by the caller so that its memory is used again.
#[derive(Debug, Default)]
pub struct LstmTape {
    work: Work,
    last: Vec<f32>,
}

impl Lstm {
    /// PyTorch's default: everything uniform within ±1/sqrt(hidden).
    #[must_use]
    pub fn random(input: usize, hidden: usize, rng: &mut Rng) -> Self {
        let bound = 1.0 / (hidden as f32).sqrt();
        Self {
            input,
            hidden,
            w_ih: rng.symmetric(4 * hidden * input, bound),
            w_hh: rng.symmetric(4 * hidden * hidden, bound),
            b_ih: rng.symmetric(4 * hidden, bound),
            b_hh: rng.symmetric(4 * hidden, bound),
        }
    }

    /// Gradients of zero, in this layer's shapes.
    #[must_use]
    pub fn grads(&self) -> LstmGrads {
        LstmGrads {
            sum: vec![0.0; self.shape().weights()],
            w_ih: vec![0.0; self.w_ih.len()],
            w_hh: vec![0.0; self.w_hh.len()],
            b_ih: vec![0.0; self.b_ih.len()],
            b_hh: vec![0.0; self.b_hh.len()],
        }
    }

    /// Sequences that keep the processor's vectors full and its caches warm: give a pass at most so many, where more
    /// are to be learnt from than one pass need hold.
    #[must_use]
    pub fn pass_rows() -> usize {
        fused::shard_rows()
    }

    /// Runs x [batch, steps, input] and returns the last state [batch, hidden].
    ///
    /// # Panics
    /// Where x is shorter than its shape.
    pub fn forward<'t>(
        &self,
        steps: usize,
        batch: usize,
        x: &[f32],
        tape: &'t mut LstmTape,
    ) -> &'t [f32] {
        let x = &x[..batch * steps * self.input];
        tape.last.resize(batch * self.hidden, 0.0);
        tape.work.forward(self, steps, batch, x, &mut tape.last);
        &tape.last
    }

    /// Adds to `grads` what dh [batch, hidden], the gradient of the last state, gives.
    /// Uses the tape up: a second backward needs another forward.
    ///
    /// # Panics
    /// Where dh is shorter than the shape of the tape's forward pass, or `grads` are another layer's.
    pub fn backward(&self, dh: &[f32], tape: &mut LstmTape, grads: &mut LstmGrads) {
        tape.work.backward(&dh[..tape.last.len()], &mut grads.sum);
    }

    /// The layer's tensors paired with their gradients, for an optimiser. Biases do not decay.
    pub fn parameters<'a>(&'a mut self, grads: &'a mut LstmGrads) -> [Parameter<'a>; 4] {
        fused::unpack(
            self.shape(),
            &grads.sum,
            &mut grads.w_ih,
            &mut grads.w_hh,
            &mut grads.b_ih,
        );
        grads.b_hh.copy_from_slice(&grads.b_ih);
        [
            Parameter {
                value: &mut self.w_ih,
                grad: &mut grads.w_ih,
                decays: true,
            },
            Parameter {
                value: &mut self.w_hh,
                grad: &mut grads.w_hh,
                decays: true,
            },
            Parameter {
                value: &mut self.b_ih,
                grad: &mut grads.b_ih,
                decays: false,
            },
            Parameter {
                value: &mut self.b_hh,
                grad: &mut grads.b_hh,
                decays: false,
            },
        ]
    }

    fn shape(&self) -> Shape {
        Shape {
            steps: 0,
            input: self.input,
            hidden: self.hidden,
        }
    }
}

impl LstmGrads {
    /// Back to zero.
    pub fn clear(&mut self) {
        self.sum.fill(0.0);
    }

    /// Adds another sum, of the same layer.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in self.sum.iter_mut().zip(&other.sum) {
            *sum += more;
        }
    }
}

#[cfg(test)]
#[path = "lstm_tests.rs"]
mod tests;
