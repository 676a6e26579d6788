//! One LSTM layer over a batch of sequences: owns its weights, forward pass and back-propagation through time, never a head.
//!
//! Equations and layout are PyTorch's: gates in the order i, f, g, o, stacked as [4 x hidden, ...];
//! two bias vectors, since Adam moves their sum twice as fast as a single one.
//! `c = f c' + i g`, `h = o tanh(c)`, both starting at zero.

use crate::activation::{sigmoid, tanh};
use crate::matrix::{Layout, add_rows, gemm};
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

/// Gradients of an [`Lstm`], in its shapes.
#[derive(Debug, Clone, PartialEq)]
pub struct LstmGrads {
    /// [4 x hidden, input]
    pub w_ih: Vec<f32>,
    /// [4 x hidden, hidden]
    pub w_hh: Vec<f32>,
    /// [4 x hidden]
    pub b_ih: Vec<f32>,
    /// [4 x hidden]
    pub b_hh: Vec<f32>,
}

/// What a forward pass leaves for the backward pass; kept by the caller so that its memory is used again.
#[derive(Debug, Clone, Default)]
pub struct LstmTape {
    steps: usize,
    batch: usize,
    /// [steps x batch, 4 x hidden]: activated gates, then their pre-activation gradients.
    gates: Vec<f32>,
    /// [(steps + 1) x batch, hidden], starting with the zero state.
    h: Vec<f32>,
    /// The same for the cell.
    c: Vec<f32>,
    /// [steps x batch, hidden]: tanh of the cell.
    tanh_c: Vec<f32>,
    dh: Vec<f32>,
    dc: Vec<f32>,
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
            w_ih: vec![0.0; self.w_ih.len()],
            w_hh: vec![0.0; self.w_hh.len()],
            b_ih: vec![0.0; self.b_ih.len()],
            b_hh: vec![0.0; self.b_hh.len()],
        }
    }

    /// Runs x [steps, batch, input] (time-major) and returns the last state [batch, hidden].
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
        let (hidden, rows, width) = (self.hidden, steps * batch, 4 * self.hidden);
        tape.reserve(steps, batch, hidden);
        let bias: Vec<f32> = self
            .b_ih
            .iter()
            .zip(&self.b_hh)
            .map(|(a, b)| a + b)
            .collect();
        for row in tape.gates.chunks_exact_mut(width) {
            row.copy_from_slice(&bias);
        }
        let shape = (rows, self.input, width);
        gemm(
            shape,
            (x, Layout::Plain),
            (&self.w_ih, Layout::Transposed),
            &mut tape.gates,
            true,
        );
        for t in 0..steps {
            let gates = &mut tape.gates[t * batch * width..][..batch * width];
            let (h_before, h_after) = tape.h.split_at_mut((t + 1) * batch * hidden);
            let (c_before, c_after) = tape.c.split_at_mut((t + 1) * batch * hidden);
            let h_before = &h_before[t * batch * hidden..];
            if t > 0 {
                let shape = (batch, hidden, width);
                gemm(
                    shape,
                    (h_before, Layout::Plain),
                    (&self.w_hh, Layout::Transposed),
                    gates,
                    true,
                );
            }
            let before = c_before[t * batch * hidden..].chunks_exact(hidden);
            let after = c_after
                .chunks_exact_mut(hidden)
                .zip(h_after.chunks_exact_mut(hidden));
            let tanh_c = tape.tanh_c[t * batch * hidden..].chunks_exact_mut(hidden);
            for (((gates, before), (c, h)), tanh_c) in gates
                .chunks_exact_mut(width)
                .zip(before)
                .zip(after)
                .zip(tanh_c)
            {
                step_forward(gates, before, c, h, tanh_c);
            }
        }
        tape.last(hidden)
    }

    /// Sets `grads` from dh [batch, hidden], the gradient of the last state; `dx` (in x's shape), where asked for,
    /// becomes the input's gradient. Uses the tape up: a second backward needs another forward.
    ///
    /// # Panics
    /// Where x or dh is shorter than the shape of the tape's forward pass.
    pub fn backward(
        &self,
        x: &[f32],
        dh: &[f32],
        tape: &mut LstmTape,
        grads: &mut LstmGrads,
        dx: Option<&mut [f32]>,
    ) {
        let (hidden, width) = (self.hidden, 4 * self.hidden);
        let (steps, batch) = (tape.steps, tape.batch);
        let (rows, state) = (steps * batch, batch * hidden);
        tape.dh.copy_from_slice(&dh[..state]);
        tape.dc.fill(0.0);
        for t in (0..steps).rev() {
            let gates = &mut tape.gates[t * batch * width..][..batch * width];
            let before = tape.c[t * state..].chunks_exact(hidden);
            let tanh_c = tape.tanh_c[t * state..].chunks_exact(hidden);
            let d = tape
                .dh
                .chunks_exact(hidden)
                .zip(tape.dc.chunks_exact_mut(hidden));
            for (((gates, before), tanh_c), (dh, dc)) in
                gates.chunks_exact_mut(width).zip(before).zip(tanh_c).zip(d)
            {
                step_backward(gates, before, tanh_c, dh, dc);
            }
            if t > 0 {
                let shape = (batch, width, hidden);
                gemm(
                    shape,
                    (gates, Layout::Plain),
                    (&self.w_hh, Layout::Plain),
                    &mut tape.dh,
                    false,
                );
            }
        }
        let d_gates = (&tape.gates[..], Layout::Transposed);
        gemm(
            (width, rows, hidden),
            d_gates,
            (&tape.h, Layout::Plain),
            &mut grads.w_hh,
            false,
        );
        gemm(
            (width, rows, self.input),
            d_gates,
            (x, Layout::Plain),
            &mut grads.w_ih,
            false,
        );
        grads.b_ih.fill(0.0);
        add_rows(&tape.gates, width, &mut grads.b_ih);
        grads.b_hh.copy_from_slice(&grads.b_ih);
        if let Some(dx) = dx {
            let shape = (rows, width, self.input);
            gemm(
                shape,
                (&tape.gates, Layout::Plain),
                (&self.w_ih, Layout::Plain),
                dx,
                false,
            );
        }
    }

    /// The layer's tensors paired with their gradients, for an optimiser. Biases do not decay.
    pub fn parameters<'a>(&'a mut self, grads: &'a mut LstmGrads) -> [Parameter<'a>; 4] {
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
}

impl LstmTape {
    fn reserve(&mut self, steps: usize, batch: usize, hidden: usize) {
        let state = batch * hidden;
        (self.steps, self.batch) = (steps, batch);
        self.gates.resize(steps * state * 4, 0.0);
        self.tanh_c.resize(steps * state, 0.0);
        self.h.resize((steps + 1) * state, 0.0);
        self.c.resize((steps + 1) * state, 0.0);
        self.h[..state].fill(0.0);
        self.c[..state].fill(0.0);
        self.dh.resize(state, 0.0);
        self.dc.resize(state, 0.0);
    }

    /// The state after the last step of the forward pass, [batch, hidden].
    fn last(&self, hidden: usize) -> &[f32] {
        &self.h[self.steps * self.batch * hidden..]
    }
}

/// One sequence, one step: activates the gates in place and moves cell and state on.
#[inline]
fn step_forward(
    gates: &mut [f32],
    before: &[f32],
    c: &mut [f32],
    h: &mut [f32],
    tanh_c: &mut [f32],
) {
    let hidden = c.len();
    let (i, rest) = gates.split_at_mut(hidden);
    let (f, rest) = rest.split_at_mut(hidden);
    let (g, o) = rest.split_at_mut(hidden);
    let (before, h, tanh_c, o) = (
        &before[..hidden],
        &mut h[..hidden],
        &mut tanh_c[..hidden],
        &mut o[..hidden],
    );
    for j in 0..hidden {
        i[j] = sigmoid(i[j]);
        f[j] = sigmoid(f[j]);
        g[j] = tanh(g[j]);
        o[j] = sigmoid(o[j]);
        c[j] = f[j] * before[j] + i[j] * g[j];
        tanh_c[j] = tanh(c[j]);
        h[j] = o[j] * tanh_c[j];
    }
}

/// One sequence, one step back: replaces the gates by their pre-activation gradients, dc by that of the step before.
#[inline]
fn step_backward(gates: &mut [f32], before: &[f32], tanh_c: &[f32], dh: &[f32], dc: &mut [f32]) {
    let hidden = dc.len();
    let (i, rest) = gates.split_at_mut(hidden);
    let (f, rest) = rest.split_at_mut(hidden);
    let (g, o) = rest.split_at_mut(hidden);
    let (before, dh, tanh_c, o) = (
        &before[..hidden],
        &dh[..hidden],
        &tanh_c[..hidden],
        &mut o[..hidden],
    );
    for j in 0..hidden {
        let d_cell = dc[j] + dh[j] * o[j] * (1.0 - tanh_c[j] * tanh_c[j]);
        let d_i = d_cell * g[j] * i[j] * (1.0 - i[j]);
        let d_g = d_cell * i[j] * (1.0 - g[j] * g[j]);
        dc[j] = d_cell * f[j];
        f[j] = d_cell * before[j] * f[j] * (1.0 - f[j]);
        o[j] = dh[j] * tanh_c[j] * o[j] * (1.0 - o[j]);
        i[j] = d_i;
        g[j] = d_g;
    }
}

#[cfg(test)]
#[path = "lstm_tests.rs"]
mod tests;
