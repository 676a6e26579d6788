//! An LSTM with a linear layer on its last state, learnt by squared error: owns a pass over windows, never their scaling.
//!
//! What preset `classic` trains, open to whoever has windows already: benches and comparisons with other trainers use it.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use fieldcast_kernel::{Adam, AdamConfig, Linear, LinearGrads, Lstm, LstmGrads, LstmTape};

use crate::checkpoint::Learnt;
use crate::learner::{SHARES, in_rounds};

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
    pub(crate) adam: Adam,
    /// One a thread: memory that it uses for one share after another is still in its cache, where each share's own would not be.
    tapes: Vec<LstmTape>,
    shares: Vec<Mutex<Share>>,
    /// The model's widths: input, hidden, output.
    widths: [usize; 3],
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
            shares: std::iter::repeat_with(|| Mutex::new(share()))
                .take(SHARES)
                .collect(),
            widths: model.widths(),
        }
    }

    /// One pass over the windows numbered by `order`, `batch` at a time; returns the mean squared error met on the way.
    ///
    /// # Panics
    /// Where `order` names a window that is not there, or model or windows are not of the sizes that this was made for.
    pub fn epoch(
        &mut self,
        model: &mut Plain,
        windows: Windows<'_>,
        order: &[usize],
        batch: usize,
    ) -> f64 {
        let [input, _, output] = self.widths;
        let count = order.iter().max().map_or(0, |last| last + 1);
        // What would stop one thread leaves the others waiting for it: so all is looked at before.
        assert!(
            model.widths() == self.widths
                && windows.x.len() >= count * windows.steps * input
                && windows.y.len() >= count * output,
            "model and windows of the sizes this was made for"
        );
        let Self {
            adam,
            tapes,
            shares,
            ..
        } = self;
        let batch = batch.clamp(1, order.len().max(1));
        let rows = |round: usize| &order[round * batch..order.len().min((round + 1) * batch)];
        let share_rows = |rows: usize| rows.div_ceil(SHARES).next_multiple_of(Lstm::pass_rows());
        let threads = tapes.len().min(batch.div_ceil(share_rows(batch)));
        let model = RwLock::new(model);
        let mut loss = 0.0;
        in_rounds(
            &mut tapes[..threads],
            order.len().div_ceil(batch),
            |round, thread, tape| {
                let model = model.read().unwrap_or_else(PoisonError::into_inner);
                let rows = rows(round);
                let mass: f32 = rows.iter().map(|r| windows.weight_of(*r)).sum();
                let parts = shares.iter().zip(rows.chunks(share_rows(rows.len())));
                for (share, rows) in parts.skip(thread).step_by(threads) {
                    lock(share).run(&model, windows, rows, mass, tape);
                }
            },
            |round| {
                let rows = rows(round).len();
                let mut parts = shares
                    .iter()
                    .take(rows.div_ceil(share_rows(rows)))
                    .map(lock);
                let Some(mut sum) = parts.next() else { return };
                for share in parts {
                    sum.lstm.add(&share.lstm);
                    sum.head.add(&share.head);
                    sum.loss += share.loss;
                }
                loss += sum.loss;
                let mut model = model.write().unwrap_or_else(PoisonError::into_inner);
                let Plain { lstm, head } = &mut **model;
                let Share {
                    lstm: d_lstm,
                    head: d_head,
                    ..
                } = &mut *sum;
                let [w_ih, w_hh, b_ih, b_hh] = lstm.parameters(d_lstm);
                let [weight, bias] = head.parameters(d_head);
                adam.step(&mut [w_ih, w_hh, b_ih, b_hh, weight, bias]);
            },
        );
        loss / (order.len() * output).max(1) as f64
    }
}

fn lock(share: &Mutex<Share>) -> MutexGuard<'_, Share> {
    share.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Learnt for Plain {
    fn tensors(&mut self) -> Vec<&mut Vec<f32>> {
        let Self { lstm, head } = self;
        vec![
            &mut lstm.w_ih,
            &mut lstm.w_hh,
            &mut lstm.b_ih,
            &mut lstm.b_hh,
            &mut head.weight,
            &mut head.bias,
        ]
    }
}

impl Plain {
    fn widths(&self) -> [usize; 3] {
        [self.lstm.input, self.lstm.hidden, self.head.output]
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
