//! The LSTM head that meets each step's calendar and lags: owns its forward and backward pass over a batch, never when to stop.
//!
//! Its formula is that of `fieldcast_onnx::DecoderParams`. What it adds starts at zero, so that training begins at ridge.

use fieldcast_kernel::{
    Adam, Linear, LinearGrads, Lstm, LstmGrads, LstmTape, Parameter, Rng, clip_global_norm,
};

use crate::batch::Batch;
use crate::checkpoint::Learnt;

/// Gradients longer than this are shortened to it.
const CLIP: f32 = 1.0;
/// Where the loss turns from square to absolute, in MASE units.
const SMOOTH: f32 = 0.1;

/// The head while it learns.
#[derive(Debug, Clone)]
pub(crate) struct Decoder {
    pub(crate) horizon: usize,
    /// Reads segments of z.
    pub(crate) lstm: Lstm,
    /// `[D, hidden]`
    pub(crate) state: Linear,
    /// `[D, K + J]` over a step's calendar and lags.
    pub(crate) local: Linear,
    /// `[H, D]`
    pub(crate) step: Vec<f32>,
    /// `[H, D]`
    pub(crate) out: Vec<f32>,
    /// `[H]`
    pub(crate) out_bias: Vec<f32>,
}

impl Learnt for Decoder {
    /// In the order of [`Self::parameters`].
    fn tensors(&mut self) -> Vec<&mut Vec<f32>> {
        let Self {
            lstm,
            state,
            local,
            step,
            out,
            out_bias,
            ..
        } = self;
        vec![
            &mut lstm.w_ih,
            &mut lstm.w_hh,
            &mut lstm.b_ih,
            &mut lstm.b_hh,
            &mut state.weight,
            &mut state.bias,
            &mut local.weight,
            &mut local.bias,
            step,
            out,
            out_bias,
        ]
    }
}

/// Gradients of a [`Decoder`].
#[derive(Debug)]
pub(crate) struct DecoderGrads {
    lstm: LstmGrads,
    state: LinearGrads,
    local: LinearGrads,
    step: Vec<f32>,
    out: Vec<f32>,
    out_bias: Vec<f32>,
}

/// Buffers of forward and backward, used again from batch to batch.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    tape: LstmTape,
    last: Vec<f32>,
    state: Vec<f32>,
    /// `[B*H, K + J]`
    local: Vec<f32>,
    /// `[B*H, D]`, after the rectifier.
    units: Vec<f32>,
    /// `[B, H]`
    pub(crate) head: Vec<f32>,
    d_head: Vec<f32>,
    d_units: Vec<f32>,
    d_state: Vec<f32>,
    d_last: Vec<f32>,
    /// `[B*H, D]`: what each unit counts in this step of the training, 0 for one left out; empty where all count.
    mask: Vec<f32>,
}

impl Workspace {
    /// Leaves out a share of the `units` of the next batch (inverted dropout: Srivastava et al., 2014).
    pub(crate) fn drop(&mut self, share: f32, units: usize, rng: &mut Rng) {
        self.mask.clear();
        if share > 0.0 {
            let kept = 1.0 / (1.0 - share);
            let draw = |_| if rng.uniform() < share { 0.0 } else { kept };
            self.mask.extend((0..units).map(draw));
        }
    }

    /// All units count.
    pub(crate) fn keep_all(&mut self) {
        self.mask.clear();
    }
}

impl Decoder {
    /// Random, but for the last layer, which is zero. `step` values of z make one step of the LSTM; `local` is K + J.
    pub(crate) fn new(
        step: usize,
        (hidden, units): (usize, usize),
        local: usize,
        horizon: usize,
        rng: &mut Rng,
    ) -> Self {
        Self {
            horizon,
            lstm: Lstm::random(step, hidden, rng),
            state: Linear::random(hidden, units, rng),
            local: Linear::random(local, units, rng),
            step: fading(horizon, units, rng),
            out: vec![0.0; horizon * units],
            out_bias: vec![0.0; horizon],
        }
    }

    pub(crate) fn grads(&self) -> DecoderGrads {
        DecoderGrads {
            lstm: self.lstm.grads(),
            state: self.state.grads(),
            local: self.local.grads(),
            step: vec![0.0; self.step.len()],
            out: vec![0.0; self.out.len()],
            out_bias: vec![0.0; self.out_bias.len()],
        }
    }

    /// What the head adds to ridge, in units of dev, into `work.head` `[B, H]`.
    pub(crate) fn forward(&self, batch: &Batch, work: &mut Workspace) {
        let (rows, h, units) = (batch.rows, self.horizon, self.state.output);
        let steps = batch.z.len() / (rows * self.lstm.input).max(1);
        let last = self
            .lstm
            .forward(steps, rows, &batch.centred, &mut work.tape);
        work.last.clear();
        work.last.extend_from_slice(last);
        work.state.resize(rows * units, 0.0);
        self.state.forward(rows, &work.last, &mut work.state, false);
        self.join(batch, &mut work.local);
        work.units.resize(rows * h * units, 0.0);
        self.local
            .forward(rows * h, &work.local, &mut work.units, false);
        let windows = work.units.chunks_exact_mut(h * units);
        for (window, state) in windows.zip(work.state.chunks_exact(units)) {
            for (row, step) in window
                .chunks_exact_mut(units)
                .zip(self.step.chunks_exact(units))
            {
                for ((u, s), e) in row.iter_mut().zip(state).zip(step) {
                    *u = (*u + s + e).max(0.0);
                }
            }
        }
        for (u, m) in work.units.iter_mut().zip(&work.mask) {
            *u *= m;
        }
        work.head.resize(rows * h, 0.0);
        let windows = work.units.chunks_exact(h * units);
        for (head, window) in work.head.chunks_exact_mut(h).zip(windows) {
            let steps = window.chunks_exact(units).zip(self.out.chunks_exact(units));
            for ((head, (row, out)), bias) in head.iter_mut().zip(steps).zip(&self.out_bias) {
                *head = bias + row.iter().zip(out).map(|(u, o)| u * o).sum::<f32>();
            }
        }
    }

    /// Calendar and lags of every step side by side.
    fn join(&self, batch: &Batch, local: &mut Vec<f32>) {
        let steps = batch.rows * self.horizon;
        let (k, j) = (
            batch.future.len() / steps.max(1),
            batch.lags.len() / steps.max(1),
        );
        local.clear();
        for step in 0..steps {
            local.extend_from_slice(&batch.future[step * k..][..k]);
            local.extend_from_slice(&batch.lags[step * j..][..j]);
        }
    }

    /// One optimiser step on the batch, beside `ridge` `[B, H]`; returns the mean loss.
    pub(crate) fn learn(
        &mut self,
        batch: &Batch,
        ridge: &[f32],
        work: &mut Workspace,
        grads: &mut DecoderGrads,
        adam: &mut Adam,
    ) -> f64 {
        self.forward(batch, work);
        let loss = self.loss(batch, ridge, work);
        self.backward(work, grads);
        let mut all = self.parameters(grads);
        if clip_global_norm(&mut all, CLIP).is_finite() {
            adam.step(&mut all);
        }
        loss
    }

    /// Sets `grads` from `work.d_head`.
    pub(crate) fn backward(&self, work: &mut Workspace, grads: &mut DecoderGrads) {
        let (h, units) = (self.horizon, self.state.output);
        let rows = work.d_head.len() / h;
        // The same for every unit that was not left out; those left out are 0, where nothing flows back.
        let kept = work.mask.iter().copied().fold(0.0, f32::max);
        let kept = if work.mask.is_empty() { 1.0 } else { kept };
        work.d_units.resize(rows * h * units, 0.0);
        grads.lstm.clear();
        grads.state.clear();
        grads.local.clear();
        for list in [&mut grads.step, &mut grads.out, &mut grads.out_bias] {
            list.fill(0.0);
        }
        work.d_state.clear();
        work.d_state.resize(rows * units, 0.0);
        for b in 0..rows {
            let d_state = &mut work.d_state[b * units..][..units];
            for step in 0..h {
                let (q, own) = (b * h + step, step * units..(step + 1) * units);
                let d_head = work.d_head[q];
                grads.out_bias[step] += d_head;
                let active = &work.units[q * units..][..units];
                let d_units = &mut work.d_units[q * units..][..units];
                let out = self.out[own.clone()]
                    .iter()
                    .zip(&mut grads.out[own.clone()]);
                let sums = d_state.iter_mut().zip(&mut grads.step[own]);
                for (((u, d), (o, d_out)), (s, e)) in active.iter().zip(d_units).zip(out).zip(sums)
                {
                    *d_out += d_head * u;
                    *d = if *u > 0.0 { d_head * o * kept } else { 0.0 };
                    *s += *d;
                    *e += *d;
                }
            }
        }
        self.local
            .backward(rows * h, &work.local, &work.d_units, &mut grads.local, None);
        work.d_last.resize(rows * self.lstm.hidden, 0.0);
        let d_last = Some(&mut work.d_last[..]);
        self.state
            .backward(rows, &work.last, &work.d_state, &mut grads.state, d_last);
        self.lstm
            .backward(&work.d_last, &mut work.tape, &mut grads.lstm);
    }

    /// All tensors with their gradients.
    pub(crate) fn parameters<'a>(&'a mut self, grads: &'a mut DecoderGrads) -> [Parameter<'a>; 11] {
        let [w_ih, w_hh, b_ih, b_hh] = self.lstm.parameters(&mut grads.lstm);
        let [state, state_bias] = self.state.parameters(&mut grads.state);
        let [local, local_bias] = self.local.parameters(&mut grads.local);
        let own = |value, grad, decays| Parameter {
            value,
            grad,
            decays,
        };
        let step = own(&mut self.step, &mut grads.step, true);
        let out = own(&mut self.out, &mut grads.out, true);
        let out_bias = own(&mut self.out_bias, &mut grads.out_bias, false);
        [
            w_ih, w_hh, b_ih, b_hh, state, state_bias, local, local_bias, step, out, out_bias,
        ]
    }

    /// Mean pseudo-Huber loss in MASE units: square near zero and absolute far from it, so that the minimum is close to
    /// the median that MAE speaks of and yet smooth. Leaves its gradient in `work.d_head`.
    pub(crate) fn loss(&self, batch: &Batch, ridge: &[f32], work: &mut Workspace) -> f64 {
        let h = self.horizon;
        let mass: f32 = batch.weight.iter().sum::<f32>() * h as f32;
        work.d_head.resize(batch.rows * h, 0.0);
        let mut loss = 0.0_f64;
        let forecasts = work.head.iter().zip(ridge).zip(&batch.target);
        for (q, ((head, ridge), target)) in forecasts.enumerate() {
            if target.is_nan() {
                work.d_head[q] = 0.0;
                continue;
            }
            let (scale, weight) = (batch.scale[q / h], batch.weight[q / h]);
            let r = (ridge + head - target) * scale;
            let root = (r * r + SMOOTH * SMOOTH).sqrt();
            loss += f64::from(weight * (root - SMOOTH));
            work.d_head[q] = weight * scale * r / (root * mass);
        }
        loss / f64::from(mass)
    }
}

/// `[H, D]`: each unit begins in favour of or against the near steps, over a reach of its own, so that some units speak of the next
/// steps and others of the far ones.
fn fading(horizon: usize, units: usize, rng: &mut Rng) -> Vec<f32> {
    let heights = rng.symmetric(units, 2.0);
    let reaches: Vec<f32> = (0..units).map(|u| (1 << (u % 6)) as f32).collect();
    let mut step = Vec::with_capacity(horizon * units);
    for h in 0..horizon {
        let unit = |(height, reach): (&f32, &f32)| height * (-(h as f32) / reach).exp();
        step.extend(heights.iter().zip(&reaches).map(unit));
    }
    step
}
