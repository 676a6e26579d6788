//! An LSTM with a linear layer on its last state, learnt by squared error: owns a pass over windows, never their scaling.
//!
//! What preset `classic` trains, open to whoever has windows already: benches and comparisons with other trainers use it.

use fieldcast_kernel::{Adam, AdamConfig, Linear, LinearGrads, Lstm, LstmGrads, LstmTape};

use crate::learner::{SHARES, in_parallel};

/// The model.
#[derive(Debug, Clone, PartialEq)]
pub struct Plain {
    /// Reads the window.
    pub lstm: Lstm,
    /// Reads the LSTM's last state.
    pub head: Linear,
}

/// What is learnt from: N windows and what followed them.
#[derive(Debug, Clone, Copy)]
pub struct Windows<'a> {
    /// Steps of a window.
    pub steps: usize,
    /// [N, steps, input]
    pub x: &'a [f32],
    /// [N, output]
    pub y: &'a [f32],
    /// `[N]`: how much each counts; empty where all count alike.
    pub weight: &'a [f32],
}

/// Optimiser and buffers of a run.
#[derive(Debug)]
pub struct PlainTrainer {
    adam: Adam,
    /// One a thread.
    tapes: Vec<LstmTape>,
    shares: Vec<Share>,
}

#[derive(Debug)]
struct Share {
    x: Vec<f32>,
    y: Vec<f32>,
    state: Vec<f32>,
    d_state: Vec<f32>,
    lstm: LstmGrads,
    head: LinearGrads,
    loss: f64,
}

impl PlainTrainer {
    /// Buffers for `model`, which `threads` threads will work on. The result does not depend on their number.
    #[must_use]
    pub fn new(model: &Plain, config: AdamConfig, threads: usize) -> Self {
        let share = || Share {
            x: Vec::new(),
            y: Vec::new(),
            state: Vec::new(),
            d_state: Vec::new(),
            lstm: model.lstm.grads(),
            head: model.head.grads(),
            loss: 0.0,
        };
        Self {
            adam: Adam::new(config),
            tapes: std::iter::repeat_with(LstmTape::default)
                .take(threads.clamp(1, SHARES))
                .collect(),
            shares: std::iter::repeat_with(share).take(SHARES).collect(),
        }
    }

    /// One pass over the windows numbered by `order`, `batch` at a time; returns the mean squared error met on the way.
    ///
    /// # Panics
    /// Where `order` names a window that is not there, or the windows are not of the model's sizes.
    pub fn epoch(
        &mut self,
        model: &mut Plain,
        windows: Windows<'_>,
        order: &[usize],
        batch: usize,
    ) -> f64 {
        let mut loss = 0.0;
        for rows in order.chunks(batch.max(1)) {
            let mass: f32 = rows.iter().map(|r| windows.weight_of(*r)).sum();
            let pass = Lstm::pass_rows();
            let size = rows.len().div_ceil(SHARES).next_multiple_of(pass);
            let mut work: Vec<_> = self.shares.iter_mut().zip(rows.chunks(size)).collect();
            let count = work.len();
            in_parallel(&mut self.tapes, &mut work, |tape, (share, rows)| {
                share.run(model, windows, rows, mass, tape);
            });
            let Some((sum, rest)) = self.shares.split_first_mut() else {
                return loss;
            };
            for share in &rest[..count - 1] {
                sum.lstm.add(&share.lstm);
                sum.head.add(&share.head);
                sum.loss += share.loss;
            }
            loss += sum.loss;
            let mut all = Vec::with_capacity(6);
            all.extend(model.lstm.parameters(&mut sum.lstm));
            all.extend(model.head.parameters(&mut sum.head));
            self.adam.step(&mut all);
        }
        loss / (order.len() * model.head.output).max(1) as f64
    }
}

impl Share {
    /// Sets the gradients of the mean squared error of `rows` within a batch that weighs `mass`.
    fn run(
        &mut self,
        model: &Plain,
        windows: Windows<'_>,
        rows: &[usize],
        mass: f32,
        tape: &mut LstmTape,
    ) {
        let Plain { lstm, head } = model;
        let (width, output) = (windows.steps * lstm.input, head.output);
        self.lstm.clear();
        self.head.clear();
        self.loss = 0.0;
        for rows in rows.chunks(Lstm::pass_rows()) {
            let batch = rows.len();
            self.x.clear();
            for row in rows {
                self.x.extend_from_slice(&windows.x[row * width..][..width]);
            }
            let state = lstm.forward(windows.steps, batch, &self.x, tape);
            self.state.clear();
            self.state.extend_from_slice(state);
            self.y.resize(batch * output, 0.0);
            head.forward(batch, &self.state, &mut self.y, false);
            for (row, y) in rows.iter().zip(self.y.chunks_exact_mut(output)) {
                let factor = 2.0 * windows.weight_of(*row) / (mass * output as f32);
                for (y, actual) in y.iter_mut().zip(&windows.y[row * output..]) {
                    let error = *y - actual;
                    self.loss += f64::from(error * error);
                    *y = factor * error;
                }
            }
            self.d_state.resize(batch * lstm.hidden, 0.0);
            let back = Some(&mut self.d_state[..]);
            head.backward(batch, &self.state, &self.y, &mut self.head, back);
            lstm.backward(&self.d_state, tape, &mut self.lstm);
        }
    }
}

impl Windows<'_> {
    fn weight_of(&self, row: usize) -> f32 {
        self.weight.get(row).copied().unwrap_or(1.0)
    }
}
