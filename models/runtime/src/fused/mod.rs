//! Models of ours without an ONNX engine: owns their forward pass at batch 1, never which files may run by it.
//!
//! The same arithmetic as the graphs of `fieldcast_onnx`, on the kernels of `fieldcast_kernel`; nothing is allocated by a call
//! once its buffers have grown.

mod classic;
mod ensemble;
mod highway;
mod naive;

use std::sync::{Mutex, PoisonError, TryLockError};

use fieldcast_kernel::{ForwardTape, InstanceNorm, Lstm, LstmForward, Normalised, WideLinear};
use fieldcast_onnx::{LinearParams, LstmParams, ModelParams, Shape};

use crate::Prediction;
use crate::explain::flatten;
use classic::Classic;
use ensemble::{Ensemble, Joined};
use highway::Highway;
use naive::Naive;

/// A model that runs by kernels of ours.
pub(crate) struct Fused {
    shape: Shape,
    model: Model,
    scratch: Mutex<Scratch>,
}

enum Model {
    Classic(Box<Classic>),
    Ensemble(Box<Ensemble>),
    Highway(Box<Highway>),
    Naive(Naive),
}

/// Buffers of a call, used again by the next.
#[derive(Debug, Default)]
struct Scratch {
    window: Normalised,
    /// What the LSTM reads.
    x: Vec<f32>,
    tape: ForwardTape,
    /// What it leaves, in f64.
    state: Vec<f64>,
    /// `[H]`
    part: Vec<f64>,
    joined: Joined,
    /// Places of the scaled window that do not count, ascending; none but in [`Fused::run_without`].
    hidden: Vec<usize>,
}

impl Fused {
    pub(crate) fn new(params: &ModelParams) -> Self {
        Self {
            shape: params.shape(),
            model: match params {
                ModelParams::Classic(p) => Model::Classic(Box::new(Classic::new(p))),
                ModelParams::Default(p) => Model::Highway(Box::new(Highway::new(p))),
                ModelParams::SeasonalNaive(p) => Model::Naive(Naive::new(p)),
                ModelParams::Ensemble(p) => Model::Ensemble(Box::new(Ensemble::new(p))),
            },
            scratch: Mutex::default(),
        }
    }

    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    /// Whether the window's scaling comes first, so that [`Self::run_without`] means something.
    pub(crate) fn scales_by_window(&self) -> bool {
        matches!(self.model, Model::Ensemble(_) | Model::Highway(_))
    }

    /// As [`Self::run`], but with the scaled values whose places `[T, F]` are hidden at their feature's mean over the window.
    pub(crate) fn run_without(
        &self,
        window: &[f64],
        future: &[f64],
        hidden: &dyn Fn(usize) -> bool,
        out: &mut Prediction,
    ) {
        let mut scratch = Scratch::default();
        let places = 0..window.len();
        scratch.hidden.extend(places.filter(|place| hidden(*place)));
        self.run_with(window, future, &mut scratch, out);
    }

    /// Fills mean `[H]` and quantiles `[H, Q]`; lengths of the inputs are the caller's to check.
    pub(crate) fn run(&self, window: &[f64], future: &[f64], out: &mut Prediction) {
        match self.scratch.try_lock() {
            Ok(mut scratch) => self.run_with(window, future, &mut scratch, out),
            // Its buffers hold nothing that the next call reads.
            Err(TryLockError::Poisoned(held)) => {
                let mut scratch = PoisonError::into_inner(held);
                self.run_with(window, future, &mut scratch, out);
            }
            // Another thread forecasts just now: it keeps its buffers, this one makes some.
            Err(TryLockError::WouldBlock) => {
                self.run_with(window, future, &mut Scratch::default(), out);
            }
        }
    }

    fn run_with(
        &self,
        window: &[f64],
        future: &[f64],
        scratch: &mut Scratch,
        out: &mut Prediction,
    ) {
        let s = self.shape;
        out.mean.resize(s.horizon, 0.0);
        out.quantiles.resize(s.horizon * s.quantiles, 0.0);
        match &self.model {
            Model::Classic(m) => m.run(window, scratch, out),
            Model::Ensemble(m) => m.run(window, future, scratch, out),
            Model::Highway(m) => m.run(window, future, scratch, out),
            Model::Naive(m) => m.run(window, out),
        }
    }
}

/// An LSTM with the linear layer on its last state.
#[derive(Debug)]
struct Head {
    lstm: LstmForward,
    head: WideLinear,
}

impl Head {
    fn new(lstm: &LstmParams, head: &LinearParams) -> Self {
        let layer = Lstm {
            input: lstm.input,
            hidden: lstm.hidden,
            w_ih: lstm.w_ih.clone(),
            w_hh: lstm.w_hh.clone(),
            b_ih: lstm.b_ih.clone(),
            b_hh: lstm.b_hh.clone(),
        };
        Self {
            lstm: LstmForward::new(&layer),
            head: linear(head),
        }
    }

    /// Fills y from x `[steps, input]`.
    fn run(&self, x: &[f32], tape: &mut ForwardTape, state: &mut Vec<f64>, y: &mut [f64]) {
        let last = self.lstm.run(x, tape);
        state.clear();
        state.extend(last.iter().map(|h| f64::from(*h)));
        self.head.run(state, y);
    }
}

fn linear(p: &LinearParams) -> WideLinear {
    WideLinear::new(p.weight.clone(), p.bias.clone())
}

/// Scales the window by itself, and hides what does not count.
fn scaled(norm: &InstanceNorm, window: &[f64], hidden: &[usize], scaled: &mut Normalised) {
    norm.run(window, scaled);
    if !hidden.is_empty() {
        let features = scaled.last.len();
        flatten(&mut scaled.z, features, &|place| {
            hidden.binary_search(&place).is_ok()
        });
    }
}

/// Adds what the known-future values `[H, K]` say by their weights `[H, K]` to y `[H]`.
fn add_known(future: &[f64], weight: &[f32], y: &mut [f64]) {
    let known = future.len() / y.len().max(1);
    for (h, y) in y.iter_mut().enumerate() {
        let values = future[h * known..][..known].iter();
        let products = values.zip(&weight[h * known..]);
        *y += products.map(|(v, w)| v * f64::from(*w)).sum::<f64>();
    }
}

/// The quantiles: each step's mean and the offsets `[H, Q]`, in units of `unit`.
fn spread(out: &mut Prediction, offsets: &[f64], unit: f64) {
    let levels = offsets.len() / out.mean.len().max(1);
    let rows = out.quantiles.chunks_exact_mut(levels.max(1));
    let rows = rows.zip(offsets.chunks_exact(levels.max(1)));
    for (mean, (quantiles, offsets)) in out.mean.iter().zip(rows) {
        for (quantile, offset) in quantiles.iter_mut().zip(offsets) {
            *quantile = mean + offset * unit;
        }
    }
}
