//! The ensemble of preset `default`: owns how ridge, LSTM heads and naive forecasts come together, never their arithmetic.

use fieldcast_kernel::{InstanceNorm, WideLinear};
use fieldcast_onnx::params::{LSTM_MOST, Z_CLIP, dev_floor};
use fieldcast_onnx::{DecoderParams, EnsembleParams, SPREAD_CLIP};

use super::{Head, Scratch, add_known, linear};
use crate::Prediction;

pub(super) struct Ensemble {
    norm: InstanceNorm,
    features: usize,
    target: usize,
    highway: WideLinear,
    /// `[H, K]`
    future: Vec<f32>,
    /// `[H, J]`: places in the window.
    lags: Vec<usize>,
    decoders: Vec<Decoder>,
    /// `[seasons, H]`: places in the window.
    seasons: Vec<usize>,
    /// `[parts, H]`: ridge, heads, seasons.
    mean_share: Vec<f64>,
    median_share: Vec<f64>,
    /// The heads' parts count in no larger unit, raw units.
    heads_most: f64,
    /// `[K]`
    spread_weight: Vec<f32>,
    /// `[H]`
    spread_bias: Vec<f64>,
    power: f64,
    usual: f64,
    /// `[H, Q]`
    offsets: Vec<f64>,
}

/// A head that meets each step's calendar and lags.
struct Decoder {
    /// From the window to the units.
    state: Head,
    /// `[D, K + J]`, from a step's calendar and lags to the units.
    local: WideLinear,
    /// `[H, D]`
    step: Vec<f32>,
    /// `[H, D]`
    out: Vec<f32>,
    /// `[H]`
    out_bias: Vec<f32>,
}

/// Buffers of the decoders.
#[derive(Debug, Default)]
pub(super) struct Joined {
    /// `[T, F]`: the normalised window minus its mean.
    centred: Vec<f64>,
    /// `[H, K + J]`: calendar and lags of each step.
    local: Vec<f64>,
    /// `[D]`: what the window adds to each unit.
    from_state: Vec<f64>,
    /// `[D]`
    units: Vec<f64>,
    /// `[H]`: of mean and median, in the heads' unit.
    mean: Vec<f64>,
    median: Vec<f64>,
    /// `[H]`: the median in raw units.
    middle: Vec<f64>,
}

impl Ensemble {
    pub(super) fn new(p: &EnsembleParams) -> Self {
        let floors = p.train_dev.iter().map(|dev| dev_floor(*dev)).collect();
        let learnt = p.train_dev.get(p.target_input).copied();
        let season = |s: &usize| {
            let step = |h: usize| p.lookback - s + h % s;
            let place = |h: usize| step(h) * p.inputs + p.target_input;
            (0..p.horizon).map(place).collect::<Vec<_>>()
        };
        Self {
            norm: InstanceNorm::new(floors, Z_CLIP),
            features: p.inputs,
            target: p.target_input,
            highway: linear(&p.highway),
            future: p.future_weight.clone(),
            lags: p.lags.clone(),
            decoders: p.decoders.iter().map(|d| Decoder::new(d, p)).collect(),
            seasons: p.seasons.iter().flat_map(season).collect(),
            mean_share: wide(&p.mean_share),
            median_share: wide(&p.median_share),
            heads_most: LSTM_MOST * learnt.unwrap_or_default(),
            spread_weight: p.spread.weight.clone(),
            spread_bias: wide(&p.spread.bias),
            power: f64::from(p.spread.power),
            usual: f64::from(p.spread.usual),
            offsets: wide(&p.quantile_offset),
        }
    }

    pub(super) fn run(
        &self,
        window: &[f64],
        future: &[f64],
        scratch: &mut Scratch,
        out: &mut Prediction,
    ) {
        let Scratch {
            window: scaled,
            x,
            tape,
            state,
            part,
            joined,
            hidden,
        } = scratch;
        let steps = out.mean.len();
        super::scaled(&self.norm, window, hidden, scaled);
        let (last, dev) = (scaled.last[self.target], scaled.dev[self.target]);
        part.resize(steps, 0.0);
        self.highway.run(&scaled.z, part);
        add_known(future, &self.future, part);

        joined.middle.resize(steps, 0.0);
        for (shares, sums) in [
            (&self.mean_share, &mut out.mean),
            (&self.median_share, &mut joined.middle),
        ] {
            for (h, sum) in sums.iter_mut().enumerate() {
                let seasons = self.seasons.iter().skip(h).step_by(steps);
                let own = shares.iter().skip((1 + self.decoders.len()) * steps + h);
                let naive = seasons.zip(own.step_by(steps));
                let naive: f64 = naive.map(|(at, share)| share * scaled.z[*at]).sum();
                *sum = last + dev * (shares[h] * part[h] + naive);
            }
        }

        if !self.decoders.is_empty() {
            self.centre(&scaled.z, &mut joined.centred);
            x.clear();
            x.extend(joined.centred.iter().map(|c| *c as f32));
            self.join(future, joined);
            for sums in [&mut joined.mean, &mut joined.median] {
                sums.clear();
                sums.resize(steps, 0.0);
            }
            for (i, decoder) in self.decoders.iter().enumerate() {
                joined.from_state.resize(decoder.units(), 0.0);
                decoder.state.run(x, tape, state, &mut joined.from_state);
                let shares = (1 + i) * steps..;
                let (mean, median) = (
                    &self.mean_share[shares.clone()],
                    &self.median_share[shares.clone()],
                );
                let width = joined.local.len() / steps.max(1);
                for h in 0..steps {
                    let local = &joined.local[h * width..][..width];
                    let head = decoder.head(h, local, &joined.from_state, &mut joined.units);
                    joined.mean[h] += mean[h] * head;
                    joined.median[h] += median[h] * head;
                }
            }
            let unit = dev.min(self.heads_most);
            for (sums, heads) in [
                (&mut out.mean, &joined.mean),
                (&mut joined.middle, &joined.median),
            ] {
                for (sum, head) in sums.iter_mut().zip(heads) {
                    *sum += head * unit;
                }
            }
        }
        self.spread(future, dev, &joined.middle, &mut out.quantiles);
    }

    /// `z` minus its mean over the window, feature by feature.
    fn centre(&self, z: &[f64], centred: &mut Vec<f64>) {
        let features = self.features.max(1);
        let rows = (z.len() / features).max(1) as f64;
        centred.clear();
        centred.extend_from_slice(z);
        for f in 0..features {
            let column = z.iter().skip(f).step_by(features);
            let mean = column.sum::<f64>() / rows;
            let column = centred.iter_mut().skip(f).step_by(features);
            column.for_each(|c| *c -= mean);
        }
    }

    /// Calendar and lags of each step side by side.
    fn join(&self, future: &[f64], joined: &mut Joined) {
        let steps = self.spread_bias.len().max(1);
        let (known, lags) = (future.len() / steps, self.lags.len() / steps);
        joined.local.clear();
        for h in 0..steps {
            joined
                .local
                .extend_from_slice(&future[h * known..][..known]);
            let own = self.lags[h * lags..][..lags].iter();
            joined.local.extend(own.map(|at| joined.centred[*at]));
        }
    }

    /// The quantiles around the median.
    fn spread(&self, future: &[f64], dev: f64, median: &[f64], quantiles: &mut [f64]) {
        let known = self.spread_weight.len();
        let levels = (self.offsets.len() / median.len().max(1)).max(1);
        let restless = self.power * (dev / self.usual).ln();
        let rows = quantiles.chunks_exact_mut(levels);
        let rows = rows.zip(self.offsets.chunks_exact(levels));
        for (h, (row, offsets)) in rows.enumerate() {
            let values = future[h * known..][..known].iter();
            let products = values.zip(&self.spread_weight);
            let by_calendar: f64 = products.map(|(v, w)| v * f64::from(*w)).sum();
            let exponent = by_calendar + self.spread_bias[h] + restless;
            let width = dev * exponent.clamp(-SPREAD_CLIP, SPREAD_CLIP).exp();
            for (quantile, offset) in row.iter_mut().zip(offsets) {
                *quantile = median[h] + width * offset;
            }
        }
    }
}

impl Decoder {
    fn new(d: &DecoderParams, p: &EnsembleParams) -> Self {
        let (units, known, lags) = (d.state.output, p.future_width, p.lag_width());
        let mut local = Vec::with_capacity(units * (known + lags));
        for unit in 0..units {
            local.extend_from_slice(&d.known_weight[unit * known..][..known]);
            local.extend_from_slice(&d.lag_weight[unit * lags..][..lags]);
        }
        Self {
            state: Head::new(&d.lstm, &d.state),
            local: WideLinear::new(local, vec![0.0; units]),
            step: d.step.clone(),
            out: d.out.clone(),
            out_bias: d.out_bias.clone(),
        }
    }

    fn units(&self) -> usize {
        self.step.len() / self.out_bias.len().max(1)
    }

    /// What the head says of step `h`, whose calendar and lags are `local`.
    fn head(&self, h: usize, local: &[f64], from_state: &[f64], units: &mut Vec<f64>) -> f64 {
        let count = from_state.len();
        units.resize(count, 0.0);
        self.local.run(local, units);
        let step = &self.step[h * count..][..count];
        let out = &self.out[h * count..][..count];
        let mut sum = 0.0;
        for ((local, state), (step, out)) in units.iter().zip(from_state).zip(step.iter().zip(out))
        {
            sum += (local + state + f64::from(*step)).max(0.0) * f64::from(*out);
        }
        sum + f64::from(self.out_bias[h])
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}
