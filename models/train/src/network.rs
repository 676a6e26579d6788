//! Highway and LSTM as one network: owns its forward and backward pass over a batch, never when to stop.

use fieldcast_kernel::{Linear, LinearGrads, Lstm, LstmGrads, LstmTape, Parameter, Rng};

use crate::batch::Batch;
use crate::highway::Highway;

/// Where the loss turns from square to absolute, in MASE units.
const SMOOTH: f32 = 0.1;

/// Preset `default`'s model while it learns.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    pub(crate) horizon: usize,
    pub(crate) future_width: usize,
    /// `[H, T*F]` over z.
    pub(crate) highway: Linear,
    /// `[H, K]`
    pub(crate) future: Vec<f32>,
    pub(crate) lstm: Option<Beside>,
}

/// The LSTM beside the highway.
#[derive(Debug, Clone)]
pub(crate) struct Beside {
    /// Values of z that make one step of the LSTM.
    pub(crate) lstm: Lstm,
    pub(crate) head: Linear,
}

/// Buffers of forward and backward, used again from batch to batch.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    tape: LstmTape,
    state: Vec<f32>,
    d_state: Vec<f32>,
    pub(crate) out: Vec<f32>,
    d_out: Vec<f32>,
}

/// Gradients of a [`Network`]: a sum over the backward passes since it was cleared.
#[derive(Debug, Clone)]
pub(crate) struct Grads {
    highway: LinearGrads,
    future: Vec<f32>,
    lstm: Option<(LstmGrads, LinearGrads)>,
}

impl Network {
    /// Starts as `highway` alone.
    pub(crate) fn new(highway: &Highway, horizon: usize) -> Self {
        Self {
            horizon,
            future_width: highway.future.len() / horizon,
            highway: Linear {
                input: highway.weight.len() / horizon,
                output: horizon,
                weight: highway.weight.clone(),
                bias: highway.bias.clone(),
            },
            future: highway.future.clone(),
            lstm: None,
        }
    }

    /// Puts an LSTM beside the highway that reads `step` values of z at a time and at first contributes nothing.
    pub(crate) fn add_lstm(&mut self, step: usize, hidden: usize, rng: &mut Rng) {
        let lstm = Lstm::random(step, hidden, rng);
        self.lstm = Some(Beside {
            lstm,
            head: Linear::zeros(hidden, self.horizon),
        });
    }

    pub(crate) fn grads(&self) -> Grads {
        Grads {
            highway: self.highway.grads(),
            future: vec![0.0; self.future.len()],
            lstm: self.lstm.as_ref().map(|l| (l.lstm.grads(), l.head.grads())),
        }
    }

    /// Forecasts of the batch in units of dev, into `work.out` `[B, H]`.
    pub(crate) fn forward(&self, batch: &Batch, work: &mut Workspace) {
        let (rows, h, k) = (batch.rows, self.horizon, self.future_width);
        work.out.resize(rows * h, 0.0);
        self.highway.forward(rows, &batch.z, &mut work.out, false);
        if k > 0 {
            for (out, future) in work
                .out
                .chunks_exact_mut(h)
                .zip(batch.future.chunks_exact(h * k))
            {
                let steps = future.chunks_exact(k).zip(self.future.chunks_exact(k));
                for (out, (values, weights)) in out.iter_mut().zip(steps) {
                    *out += values.iter().zip(weights).map(|(v, w)| v * w).sum::<f32>();
                }
            }
        }
        if let Some(Beside { lstm, head }) = &self.lstm {
            let steps = self.highway.input / lstm.input;
            let state = lstm.forward(steps, rows, &batch.z, &mut work.tape);
            work.state.clear();
            work.state.extend_from_slice(state);
            head.forward(rows, &work.state, &mut work.out, true);
        }
    }

    /// Adds to `grads` what `work.d_out` gives, to those of the highway only where asked for.
    pub(crate) fn backward(
        &self,
        batch: &Batch,
        work: &mut Workspace,
        grads: &mut Grads,
        highway: bool,
    ) {
        let rows = batch.rows;
        if let (Some(Beside { lstm, head }), Some((lstm_grads, head_grads))) =
            (&self.lstm, &mut grads.lstm)
        {
            work.d_state.resize(rows * lstm.hidden, 0.0);
            head.backward(
                rows,
                &work.state,
                &work.d_out,
                head_grads,
                Some(&mut work.d_state),
            );
            lstm.backward(&work.d_state, &mut work.tape, lstm_grads);
        }
        if highway {
            self.highway
                .backward(rows, &batch.z, &work.d_out, &mut grads.highway, None);
            self.future_gradient(batch, &work.d_out, &mut grads.future);
        }
    }

    /// All tensors with their gradients: three of the highway, then those of the LSTM and its head.
    pub(crate) fn parameters<'a>(&'a mut self, grads: &'a mut Grads) -> Vec<Parameter<'a>> {
        // Decay would pull the highway away from ridge, which has paid its penalty already.
        let [weight, bias] = self.highway.parameters(&mut grads.highway);
        let future = Parameter {
            value: &mut self.future,
            grad: &mut grads.future,
            decays: false,
        };
        let mut all = vec![
            Parameter {
                decays: false,
                ..weight
            },
            bias,
            future,
        ];
        if let (Some(Beside { lstm, head }), Some((lstm_grads, head_grads))) =
            (&mut self.lstm, &mut grads.lstm)
        {
            all.extend(lstm.parameters(lstm_grads));
            all.extend(head.parameters(head_grads));
        }
        all
    }

    /// Mean pseudo-Huber loss in MASE units: square near zero and absolute far from it, so that the minimum is close to
    /// the median that MAE speaks of and yet smooth. Leaves its gradient in `work.d_out`. `mass` is the weight of all
    /// samples that the mean is over, which may be more than this batch: the parts' losses then add up to the mean.
    pub(crate) fn loss(&self, batch: &Batch, work: &mut Workspace, mass: f32) -> f64 {
        let h = self.horizon;
        let mass = mass * h as f32;
        work.d_out.resize(batch.rows * h, 0.0);
        let mut loss = 0.0_f64;
        for b in 0..batch.rows {
            let (scale, weight) = (batch.scale[b], batch.weight[b]);
            for q in b * h..(b + 1) * h {
                let r = (work.out[q] - batch.target[q]) * scale;
                if r.is_nan() && batch.target[q].is_nan() {
                    work.d_out[q] = 0.0;
                    continue;
                }
                let root = (r * r + SMOOTH * SMOOTH).sqrt();
                loss += f64::from(weight * (root - SMOOTH));
                work.d_out[q] = weight * scale * r / (root * mass);
            }
        }
        loss / f64::from(mass)
    }

    fn future_gradient(&self, batch: &Batch, d_out: &[f32], grad: &mut [f32]) {
        let (h, k) = (self.horizon, self.future_width);
        if k == 0 {
            return;
        }
        for (d, future) in d_out.chunks_exact(h).zip(batch.future.chunks_exact(h * k)) {
            for ((d, values), grad) in d
                .iter()
                .zip(future.chunks_exact(k))
                .zip(grad.chunks_exact_mut(k))
            {
                grad.iter_mut().zip(values).for_each(|(g, v)| *g += d * v);
            }
        }
    }
}

impl Grads {
    pub(crate) fn clear(&mut self) {
        self.highway.clear();
        self.future.fill(0.0);
        if let Some((lstm, head)) = &mut self.lstm {
            lstm.clear();
            head.clear();
        }
    }

    /// Adds another sum, of the same network.
    pub(crate) fn add(&mut self, other: &Self) {
        self.highway.add(&other.highway);
        for (sum, more) in self.future.iter_mut().zip(&other.future) {
            *sum += more;
        }
        if let (Some((lstm, head)), Some((more_lstm, more_head))) = (&mut self.lstm, &other.lstm) {
            lstm.add(more_lstm);
            head.add(more_head);
        }
    }
}
