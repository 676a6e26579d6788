//! The trained model's own forward pass for one window: owns what the ONNX graph must reproduce, never a graph.

use fieldcast_features::Window;
use fieldcast_kernel::{Linear, Lstm, LstmTape};
use fieldcast_onnx::params::LSTM_MOST;
use fieldcast_onnx::{
    ClassicParams, DecoderParams, DefaultParams, EnsembleParams, LinearParams, LstmParams,
    ModelParams, SPREAD_CLIP, SeasonalNaiveParams,
};

use crate::TrainError;
use crate::decoder::Decoder;
use crate::normalise::{Scale, centre, floor_of, normalise};

/// A forecast in raw units.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// `[H]`
    pub mean: Vec<f64>,
    /// `[H, Q]` row-major, ascending along Q.
    pub quantiles: Vec<f64>,
}

/// Runs `params` on `window`, with the arithmetic and the precision of the model's ONNX graph.
///
/// # Errors
/// [`TrainError::WindowShape`] where the window was built for other sizes.
pub fn predict(params: &ModelParams, window: &Window) -> Result<Prediction, TrainError> {
    let shape = params.shape();
    let sizes = [
        ("window", window.window.len(), shape.lookback * shape.inputs),
        (
            "future",
            window.future.len(),
            shape.horizon * shape.future_width,
        ),
    ];
    for (what, found, expected) in sizes {
        if found != expected {
            return Err(TrainError::WindowShape {
                what,
                found,
                expected,
            });
        }
    }
    Ok(match params {
        ModelParams::Classic(p) => classic(p, window),
        ModelParams::Default(p) => default(p, window),
        ModelParams::SeasonalNaive(p) => seasonal_naive(p, window),
        ModelParams::Ensemble(p) => ensemble(p, window),
    })
}

fn classic(p: &ClassicParams, window: &Window) -> Prediction {
    let inputs = p.x_min.len();
    let mut x = vec![0.0; window.window.len()];
    min_max(&window.window, inputs, &p.x_min, &p.x_max, &mut x);
    let mut tape = LstmTape::default();
    let lstm = kernel_lstm(&p.lstm);
    let state = lstm.forward(p.lookback, 1, &x, &mut tape);
    let y = linear(&p.head, state.iter().map(|h| f64::from(*h)));
    let y = y.first().copied().unwrap_or_default();
    let mean = p.y_min + y * (p.y_max - p.y_min);
    Prediction {
        mean: vec![mean],
        quantiles: p.quantile_offset.iter().map(|o| mean + o).collect(),
    }
}

/// `(x - min) / (max - min)` of `window` `[T, F]`; the last observed value, or the minimum, stands for a missing one.
pub(crate) fn min_max(window: &[f64], inputs: usize, min: &[f64], max: &[f64], x: &mut [f32]) {
    for f in 0..inputs {
        let range = if max[f] > min[f] {
            max[f] - min[f]
        } else {
            1.0
        };
        let values = window.iter().skip(f).step_by(inputs);
        let last = values
            .clone()
            .rev()
            .copied()
            .find(|v| !v.is_nan())
            .unwrap_or(min[f]);
        for (v, x) in values.zip(x.iter_mut().skip(f).step_by(inputs)) {
            let v = if v.is_nan() { last } else { *v };
            *x = ((v - min[f]) / range) as f32;
        }
    }
}

fn default(p: &DefaultParams, window: &Window) -> Prediction {
    let floors: Vec<f64> = p.train_dev.iter().map(|d| floor_of(*d)).collect();
    let mut z = vec![0.0_f64; window.window.len()];
    let mut scale = Scale::default();
    normalise(&window.window, p.inputs, &floors, &mut z, &mut scale);
    let (last, dev) = (scale.last[p.target_input], scale.dev[p.target_input]);
    let mut mean = linear(&p.highway, z.iter().copied());
    let k = p.future_width;
    for (h, mean) in mean.iter_mut().enumerate() {
        let values = window.future[h * k..][..k].iter();
        let known = values
            .zip(&p.future_weight[h * k..])
            .map(|(v, w)| v * f64::from(*w));
        *mean = last + dev * (*mean + known.sum::<f64>());
    }
    if let Some(head) = &p.lstm {
        let mut tape = LstmTape::default();
        let lstm = kernel_lstm(&head.lstm);
        let z: Vec<f32> = z.iter().map(|z| *z as f32).collect();
        let state = lstm.forward(p.lookback / head.segment, 1, &z, &mut tape);
        let dev = dev.min(LSTM_MOST * p.train_dev[p.target_input]);
        let part = linear(&head.head, state.iter().map(|h| f64::from(*h)));
        for (mean, part) in mean.iter_mut().zip(part) {
            *mean += dev * part;
        }
    }
    let q = p.quantiles.len();
    let offsets = p.quantile_offset.chunks_exact(q.max(1));
    let quantiles = mean
        .iter()
        .zip(offsets)
        .flat_map(|(m, row)| row.iter().map(move |o| m + dev * f64::from(*o)));
    Prediction {
        quantiles: quantiles.collect(),
        mean,
    }
}

/// `weight x + bias` in f64, as the graph has it.
fn linear(p: &LinearParams, x: impl Iterator<Item = f64> + Clone) -> Vec<f64> {
    let rows = p.weight.chunks_exact(p.input.max(1)).zip(&p.bias);
    let row = |(row, bias): (&[f32], &f32)| {
        let products = row.iter().zip(x.clone()).map(|(w, x)| f64::from(*w) * x);
        f64::from(*bias) + products.sum::<f64>()
    };
    rows.map(row).collect()
}

fn ensemble(p: &EnsembleParams, window: &Window) -> Prediction {
    let floors: Vec<f64> = p.train_dev.iter().map(|d| floor_of(*d)).collect();
    let mut z = vec![0.0_f64; window.window.len()];
    let mut scale = Scale::default();
    normalise(&window.window, p.inputs, &floors, &mut z, &mut scale);
    let (h, k, y) = (p.horizon, p.future_width, p.target_input);
    let known = |step: usize| &window.future[step * k..][..k];
    let mut ridge = linear(&p.highway, z.iter().copied());
    for (step, out) in ridge.iter_mut().enumerate() {
        *out += dot(&p.future_weight[step * k..], known(step));
    }
    let mut centred = z.clone();
    centre(&mut centred, p.inputs);
    let heads = p.decoders.iter();
    let heads: Vec<Vec<f64>> = heads
        .map(|d| head(p, d, &centred, &window.future))
        .collect();
    let (last, dev) = (scale.last[y], scale.dev[y]);
    let most = dev.min(LSTM_MOST * p.train_dev[y]);
    let raw = |shares: &[f32]| -> Vec<f64> {
        let share = |part: usize, step: usize| f64::from(shares[part * h + step]);
        let value = |step: usize| {
            let season = |(i, s): (usize, &usize)| {
                let at = (p.lookback - s + step % s) * p.inputs + y;
                share(1 + heads.len() + i, step) * z[at]
            };
            let seasons = p.seasons.iter().enumerate().map(season).sum::<f64>();
            let each = heads.iter().enumerate();
            let learnt = each.map(|(i, head)| share(1 + i, step) * head[step]);
            let linear = share(0, step) * ridge[step] + seasons;
            last + dev * linear + most * learnt.sum::<f64>()
        };
        (0..h).map(value).collect()
    };
    let median = raw(&p.median_share);
    let q = p.quantiles.len();
    let restless = f64::from(p.spread.power) * (dev / f64::from(p.spread.usual)).ln();
    let mut quantiles = Vec::with_capacity(h * q);
    for (step, middle) in median.iter().enumerate() {
        let by_calendar = dot(&p.spread.weight, known(step));
        let exponent = by_calendar + f64::from(p.spread.bias[step]) + restless;
        let width = dev * exponent.clamp(-SPREAD_CLIP, SPREAD_CLIP).exp();
        let offsets = p.quantile_offset[step * q..][..q].iter();
        quantiles.extend(offsets.map(|o| middle + width * f64::from(*o)));
    }
    Prediction {
        mean: raw(&p.mean_share),
        quantiles,
    }
}

/// What a decoder adds to ridge, `[H]`.
fn head(p: &EnsembleParams, d: &DecoderParams, centred: &[f64], known: &[f64]) -> Vec<f64> {
    let mut tape = LstmTape::default();
    let lstm = kernel_lstm(&d.lstm);
    let narrow: Vec<f32> = centred.iter().map(|c| *c as f32).collect();
    let last = lstm.forward(p.lookback / d.segment, 1, &narrow, &mut tape);
    let units = d.state.output;
    let state = linear(&d.state, last.iter().map(|v| f64::from(*v)));
    let (k, j) = (p.future_width, p.lag_width());
    let mut out = Vec::with_capacity(p.horizon);
    for step in 0..p.horizon {
        let lags = p.lags[step * j..][..j].iter();
        let lags: Vec<f64> = lags.map(|at| centred[*at]).collect();
        let known = &known[step * k..][..k];
        let unit = |u: usize| {
            let sum = state[u]
                + f64::from(d.step[step * units + u])
                + dot(&d.known_weight[u * k..], known)
                + dot(&d.lag_weight[u * j..], &lags);
            sum.max(0.0) * f64::from(d.out[step * units + u])
        };
        out.push((0..units).map(unit).sum::<f64>() + f64::from(d.out_bias[step]));
    }
    out
}

/// Over the shorter of the two.
fn dot(weights: &[f32], values: &[f64]) -> f64 {
    let products = weights.iter().zip(values).map(|(w, v)| f64::from(*w) * v);
    products.sum()
}

fn seasonal_naive(p: &SeasonalNaiveParams, window: &Window) -> Prediction {
    let past: Vec<f64> = window
        .window
        .iter()
        .skip(p.target_input)
        .step_by(p.inputs)
        .copied()
        .collect();
    let mean = repeat_season(&past, p.season, p.horizon);
    let offsets = p.quantile_offset.chunks_exact(p.quantiles.len().max(1));
    let quantiles = mean
        .iter()
        .zip(offsets)
        .flat_map(|(m, row)| row.iter().map(move |o| m + o));
    Prediction {
        quantiles: quantiles.collect(),
        mean,
    }
}

/// The last season of `past`, repeated; the last observed value stands for a missing one, 0 where there is none.
pub(crate) fn repeat_season(past: &[f64], season: usize, horizon: usize) -> Vec<f64> {
    let last = past
        .iter()
        .rev()
        .copied()
        .find(|v| !v.is_nan())
        .unwrap_or(0.0);
    let season = season.clamp(1, past.len().max(1));
    let from = past.len().saturating_sub(season);
    let value = |h: usize| {
        past.get(from + h % season)
            .copied()
            .filter(|v| !v.is_nan())
            .unwrap_or(last)
    };
    (0..horizon).map(value).collect()
}

pub(crate) fn kernel_lstm(p: &LstmParams) -> Lstm {
    Lstm {
        input: p.input,
        hidden: p.hidden,
        w_ih: p.w_ih.clone(),
        w_hh: p.w_hh.clone(),
        b_ih: p.b_ih.clone(),
        b_hh: p.b_hh.clone(),
    }
}

pub(crate) fn kernel_linear(p: &LinearParams) -> Linear {
    Linear {
        input: p.input,
        output: p.output,
        weight: p.weight.clone(),
        bias: p.bias.clone(),
    }
}

/// The trained layer as the graph's parameters.
pub(crate) fn lstm_params(l: &Lstm) -> LstmParams {
    LstmParams {
        input: l.input,
        hidden: l.hidden,
        w_ih: l.w_ih.clone(),
        w_hh: l.w_hh.clone(),
        b_ih: l.b_ih.clone(),
        b_hh: l.b_hh.clone(),
    }
}

/// The trained layer as the graph's parameters.
pub(crate) fn linear_params(l: &Linear) -> LinearParams {
    LinearParams {
        input: l.input,
        output: l.output,
        weight: l.weight.clone(),
        bias: l.bias.clone(),
    }
}

/// A trained head as the graph's parameters, for windows of `inputs` features and `k` calendar columns.
pub(crate) fn decoder_params(d: &Decoder, inputs: usize, k: usize) -> DecoderParams {
    let rows = || d.local.weight.chunks_exact(d.local.input.max(1));
    let mut state = linear_params(&d.state);
    // Both layers feed the same units: one bias says it all.
    let biases = state.bias.iter_mut().zip(&d.local.bias);
    biases.for_each(|(bias, other)| *bias += other);
    DecoderParams {
        segment: d.lstm.input / inputs,
        lstm: lstm_params(&d.lstm),
        state,
        known_weight: rows().flat_map(|row| row[..k].iter().copied()).collect(),
        lag_weight: rows().flat_map(|row| row[k..].iter().copied()).collect(),
        step: d.step.clone(),
        out: d.out.clone(),
        out_bias: d.out_bias.clone(),
    }
}
