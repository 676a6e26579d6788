//! Ridge, LSTM heads and naive forecasts averaged: owns the members' weights and the width of intervals by calendar, never a head's training.

use std::collections::BTreeMap;

use fieldcast_onnx::SPREAD_CLIP;
use ndarray::Array2;
use ndarray::linalg::general_mat_mul;

use crate::baselines::Outcome;
use crate::batch::{Batch, Batcher};
use crate::decoder::{Decoder, Workspace};
use crate::linalg::{cholesky, solve};
use crate::network::Ridge;
use crate::samples::Sample;

/// Pull of the weights of all steps towards equal heads, in units of the members' mean square.
const PRIOR: f64 = 1e-3;
/// How far the share of the heads is expected from none, before `select` is seen.
const SHARE_PRIOR: f64 = 0.5;
/// Pull of a step's weights towards those of all steps, in the same units.
const STEP_PRIOR: f64 = 5e-3;
/// Rounds of reweighting that turn squares into absolute errors.
const ROUNDS: usize = 12;
/// Errors smaller than this, in MASE units, count as this in the reweighting.
const SMALL: f64 = 0.02;
/// Errors smaller than this share of the mean count as that, so that a lucky hour does not promise a narrow interval.
const LUCK: f64 = 0.1;
/// Ridge penalty of the width's regression, relative to the mean diagonal.
const WIDTH_PENALTY: f64 = 1e-2;
/// Windows that the width is learnt from, at most.
const MOST_WIDTH: usize = 4_000;
/// Sweeps of the coordinate descent: members that copy each other move slowly.
const SWEEPS: usize = 2_000;
const CHUNK: usize = 256;

/// The members and what has been learnt about them.
#[derive(Debug, Clone)]
pub(crate) struct Ensemble<'a> {
    pub(crate) ridge: &'a Ridge,
    pub(crate) decoders: &'a [Decoder],
    pub(crate) seasons: Vec<usize>,
    /// `[M, H]`, a row a member: ridge, decoders, seasons.
    pub(crate) mean_weight: Vec<f32>,
    /// `[M, H]`
    pub(crate) median_weight: Vec<f32>,
    /// `[K]`: logarithm of the width by calendar.
    pub(crate) width_weight: Vec<f32>,
    /// `[H]`: the same by step.
    pub(crate) width_bias: Vec<f32>,
    /// What the window's deviation, over a usual one, adds to it.
    pub(crate) width_power: f32,
    /// A usual deviation of the target, raw units.
    pub(crate) usual: f32,
}

/// Every member's forecast of every sample in units of dev, with what happened.
struct Members {
    count: usize,
    /// `[samples * H, members]`
    values: Vec<f32>,
    /// `[samples * H]`, NaN where missing.
    target: Vec<f32>,
    /// MASE units in one unit of dev, by sample and step.
    scale: Vec<f32>,
}

impl<'a> Ensemble<'a> {
    /// All heads alike and nothing else; without heads, ridge.
    pub(crate) fn equal(ridge: &'a Ridge, decoders: &'a [Decoder]) -> Self {
        let (n, h) = (decoders.len(), ridge.horizon);
        let mut weights = vec![1.0 / n.max(1) as f32; (n + 1) * h];
        weights[..h].fill(f32::from(u8::from(n == 0)));
        Self {
            ridge,
            decoders,
            seasons: Vec::new(),
            median_weight: weights.clone(),
            mean_weight: weights,
            width_weight: vec![0.0; ridge.future_width],
            width_bias: vec![0.0; ridge.horizon],
            width_power: 0.0,
            usual: 1.0,
        }
    }

    /// All heads alike, and as much of them beside ridge as `select` is evidence for.
    ///
    /// The share that fits best there is drawn towards none by its own uncertainty (the mean of a normal posterior whose prior
    /// is `SHARE_PRIOR` wide), and that is taken over blocks of time, since errors of neighbouring windows are one error. How
    /// much of the share is evidence and not prior comes with it: its degrees of freedom.
    pub(crate) fn shrunk(
        ridge: &'a Ridge,
        decoders: &'a [Decoder],
        batcher: &Batcher<'_>,
        select: &[Sample],
    ) -> (Self, f64) {
        let mut ensemble = Self::equal(ridge, decoders);
        if decoders.is_empty() {
            return (ensemble, 0.0);
        }
        let (h, members) = (ridge.horizon, ensemble.members(batcher, select));
        let panel = batcher.panel;
        let block = (2 * h).max(panel.season) as i64;
        // Of each block: head times head, head times what ridge leaves.
        let mut blocks: BTreeMap<i64, (f64, f64)> = BTreeMap::new();
        for (i, sample) in select.iter().enumerate() {
            let rows = panel.tracks[sample.track].start / panel.period + sample.origin as i64;
            let sums = blocks.entry(rows.div_euclid(block)).or_default();
            for q in i * h..(i + 1) * h {
                let row = &members.values[q * members.count..][..members.count];
                let scale = f64::from(members.scale[q]);
                let mean = row[1..].iter().sum::<f32>() / decoders.len() as f32;
                let head = f64::from(mean - row[0]) * scale;
                let rest = f64::from(members.target[q] - row[0]) * scale;
                if rest.is_finite() {
                    *sums = (sums.0 + head * head, sums.1 + head * rest);
                }
            }
        }
        let (share, learnt) = posterior_share(&blocks.into_values().collect::<Vec<_>>());
        for weights in [&mut ensemble.mean_weight, &mut ensemble.median_weight] {
            let (own, heads) = weights.split_at_mut(h);
            own.fill(1.0 - share);
            heads.iter_mut().for_each(|w| *w *= share);
        }
        (ensemble, learnt)
    }

    /// Non-negative weights that are best on `select`: the mean's for squared, the median's for absolute errors in MASE units.
    pub(crate) fn weighted(
        ridge: &'a Ridge,
        decoders: &'a [Decoder],
        seasons: &[usize],
        batcher: &Batcher<'_>,
        select: &[Sample],
    ) -> Self {
        let mut ensemble = Self {
            seasons: seasons.to_vec(),
            ..Self::equal(ridge, decoders)
        };
        let members = ensemble.members(batcher, select);
        let heads = decoders.len();
        let mut prior = vec![0.0; members.count];
        prior[..=heads].fill(1.0 / heads.max(1) as f64);
        prior[0] = f64::from(u8::from(heads == 0));
        ensemble.mean_weight = best_weights(&members, ridge.horizon, &prior, 0);
        ensemble.median_weight = best_weights(&members, ridge.horizon, &prior, ROUNDS);
        ensemble
    }

    /// The parts' shares `[M, H]` as the graph has them: a member with a head is ridge and the head's own part.
    pub(crate) fn shares(&self, weights: &[f32]) -> Vec<f32> {
        let h = self.ridge.horizon;
        let mut shares = weights.to_vec();
        let heads = weights.chunks_exact(h.max(1)).skip(1);
        for head in heads.take(self.decoders.len()) {
            shares.iter_mut().zip(head).for_each(|(s, w)| *s += w);
        }
        shares
    }

    fn members(&self, batcher: &Batcher<'_>, samples: &[Sample]) -> Members {
        let count = 1 + self.decoders.len() + self.seasons.len();
        let h = self.ridge.horizon;
        let mut all = Members {
            count,
            values: Vec::new(),
            target: Vec::new(),
            scale: Vec::new(),
        };
        let (mut batch, mut work, mut ridge) = (Batch::default(), Workspace::default(), Vec::new());
        let mut heads: Vec<Vec<f32>> = Vec::new();
        for chunk in samples.chunks(CHUNK) {
            batcher.fill(chunk, &mut batch);
            self.ridge.forward(&batch, &mut ridge);
            heads.clear();
            for decoder in self.decoders {
                decoder.forward(&batch, &mut work);
                heads.push(work.head.clone());
            }
            for b in 0..batch.rows {
                for step in 0..h {
                    let q = b * h + step;
                    all.values.push(ridge[q]);
                    all.values
                        .extend(heads.iter().map(|head| ridge[q] + head[q]));
                    let naive = |s: &usize| batcher.season_value(&batch, b, *s, step);
                    all.values.extend(self.seasons.iter().map(naive));
                    all.target.push(batch.target[q]);
                    all.scale.push(batch.scale[b]);
                }
            }
        }
        all
    }

    /// Forecasts in raw units; the unit of residuals is the window's deviation times the step's width.
    pub(crate) fn outcomes(&self, batcher: &Batcher<'_>, samples: &[Sample]) -> Vec<Outcome> {
        let panel = batcher.panel;
        let (h, k) = (self.ridge.horizon, self.ridge.future_width);
        let mut outcomes = Vec::with_capacity(samples.len());
        let mut batch = Batch::default();
        for chunk in samples.chunks(CHUNK) {
            batcher.fill(chunk, &mut batch);
            let members = self.members(batcher, chunk);
            for (b, sample) in chunk.iter().enumerate() {
                let track = &panel.tracks[sample.track];
                let (last, dev) = (batch.last[b], batch.dev[b]);
                let rows = &members.values[b * h * members.count..][..h * members.count];
                let raw = |weights: &[f32]| -> Vec<f64> {
                    let sum = |(step, row): (usize, &[f32])| {
                        let own = weights.iter().skip(step).step_by(h);
                        row.iter().zip(own).map(|(m, w)| m * w).sum::<f32>()
                    };
                    let steps = rows.chunks_exact(members.count).enumerate();
                    steps.map(|row| last + dev * f64::from(sum(row))).collect()
                };
                let width = |step: usize| {
                    let known = &batch.future[(b * h + step) * k..][..k];
                    dev * f64::from(self.width(known, dev as f32, step))
                };
                outcomes.push(Outcome {
                    series: track.series,
                    time: track.start + sample.origin as i64 * panel.period,
                    observed: panel.observed(track, sample.origin),
                    unit: (0..h).map(width).collect(),
                    mean: raw(&self.mean_weight),
                    median: raw(&self.median_weight),
                    actual: batch.actual[b * h..(b + 1) * h].to_vec(),
                });
            }
        }
        outcomes
    }

    /// `exp` of the step's width, as in `fieldcast_onnx::Spread`.
    fn width(&self, known: &[f32], dev: f32, step: usize) -> f32 {
        let by_calendar: f32 = known
            .iter()
            .zip(&self.width_weight)
            .map(|(v, w)| v * w)
            .sum();
        let restless = self.width_power * (dev / self.usual).ln();
        let clip = SPREAD_CLIP as f32;
        (by_calendar + self.width_bias[step] + restless)
            .clamp(-clip, clip)
            .exp()
    }

    /// Learns how wide errors are by calendar and step: a regression of ln |error / dev| on `train`, whose level does not
    /// matter since the intervals are calibrated behind it.
    pub(crate) fn fit_width(&mut self, batcher: &Batcher<'_>, train: &[Sample]) {
        let (h, k) = (self.ridge.horizon, self.ridge.future_width);
        let n = train.len().min(MOST_WIDTH);
        let few: Vec<Sample> = (0..n).map(|i| train[i * train.len() / n]).collect();
        let outcomes = self.outcomes(batcher, &few);
        let errors =
            |o: &Outcome, step: usize| (o.actual[step] - o.median[step]).abs() / o.unit[step];
        let all = outcomes
            .iter()
            .flat_map(|o| (0..h).map(|step| errors(o, step)));
        let (sum, count) = all
            .filter(|e| e.is_finite())
            .fold((0.0, 0.0_f64), |(s, c), e| (s + e, c + 1.0));
        let floor = (LUCK * sum / count.max(1.0)).max(f64::MIN_POSITIVE);
        let logs: Vec<Vec<f64>> = outcomes
            .iter()
            .map(|o| (0..h).map(|step| errors(o, step).max(floor).ln()).collect())
            .collect();
        let mut by_step = vec![(0.0, 0.0_f64); h];
        for (row, o) in logs.iter().zip(&outcomes) {
            for step in (0..h).filter(|step| !o.actual[*step].is_nan()) {
                by_step[step] = (by_step[step].0 + row[step], by_step[step].1 + 1.0);
            }
        }
        let bias: Vec<f64> = by_step.iter().map(|(s, c)| s / c.max(1.0)).collect();
        let level = bias.iter().sum::<f64>() / h as f64;
        self.width_bias = bias.iter().map(|b| (b - level) as f32).collect();
        self.usual = (batcher.scales.target_dev as f32).max(f32::MIN_POSITIVE);
        // Years differ in level more than in shape: a year or two of data cannot tell a narrow season from a calm one.
        let calendar = batcher.panel.year_columns.start.min(k);
        let used = calendar + 1;
        let ratio = |o: &Outcome| f64::from((o.unit[0] as f32 / self.usual).ln());
        let restless = outcomes.iter().map(ratio).sum::<f64>() / n.max(1) as f64;
        let mut batch = Batch::default();
        let mut gram = Array2::<f64>::zeros((used + 1, used + 1));
        for (chunk, logs) in few.chunks(CHUNK).zip(logs.chunks(CHUNK)) {
            batcher.fill(chunk, &mut batch);
            let mut x = Array2::<f64>::zeros((chunk.len() * h, used + 1));
            for (b, row) in logs.iter().enumerate() {
                for step in (0..h).filter(|step| !batch.actual[b * h + step].is_nan()) {
                    let known = &batch.future[(b * h + step) * k..][..calendar];
                    let mut line = x.row_mut(b * h + step);
                    line.iter_mut()
                        .zip(known)
                        .for_each(|(x, v)| *x = f64::from(*v));
                    line[calendar] = f64::from((batch.dev[b] as f32 / self.usual).ln()) - restless;
                    line[used] = row[step] - bias[step];
                }
            }
            general_mat_mul(1.0, &x.t(), &x, 1.0, &mut gram);
        }
        let trace: f64 = (0..used).map(|i| gram[[i, i]]).sum();
        let penalty = WIDTH_PENALTY * (trace / used.max(1) as f64).max(f64::MIN_POSITIVE);
        let mut factor: Vec<f64> = (0..used * used)
            .map(|q| gram[[q / used, q % used]])
            .collect();
        (0..used).for_each(|i| factor[i * used + i] += penalty);
        let mut weight: Vec<f64> = (0..used).map(|i| gram[[i, used]]).collect();
        if cholesky(&mut factor, used) {
            solve(&factor, used, &mut weight, 1);
            let slots = self.width_weight.iter_mut().zip(&weight[..calendar]);
            slots.for_each(|(slot, w)| *slot = *w as f32);
            self.width_power = weight[calendar].clamp(-1.0, 0.0) as f32;
        }
    }
}

/// Posterior mean of the share of a part, and how much of it is not the prior, from the sums of its square and of its product with what is left, block by block.
fn posterior_share(blocks: &[(f64, f64)]) -> (f32, f64) {
    let square: f64 = blocks.iter().map(|(g, _)| g).sum();
    let n = blocks.len() as f64;
    if square <= 0.0 || n < 2.0 {
        return (0.0, 0.0);
    }
    let best = blocks.iter().map(|(_, c)| c).sum::<f64>() / square;
    let noise: f64 = blocks.iter().map(|(g, c)| (c - best * g).powi(2)).sum();
    let variance = noise * n / (n - 1.0) / (square * square);
    let known = SHARE_PRIOR * SHARE_PRIOR / (SHARE_PRIOR * SHARE_PRIOR + variance);
    ((best * known).clamp(0.0, 1.0) as f32, known)
}

/// Non-negative least squares `[M, H]`, reweighted `rounds` times into least absolute errors: one set of weights for all steps,
/// towards `prior`, then each step's own towards that one.
fn best_weights(members: &Members, horizon: usize, prior: &[f64], rounds: usize) -> Vec<f32> {
    let all = step_weights(members, (0, 1), (prior, PRIOR), rounds);
    let mut weights = vec![0.0; members.count * horizon];
    for step in 0..horizon {
        let own = step_weights(members, (step, horizon), (&all, STEP_PRIOR), rounds);
        for (member, weight) in own.iter().enumerate() {
            weights[member * horizon + step] = *weight as f32;
        }
    }
    weights
}

/// The weights of every `stride`-th row from `first` on, pulled towards `prior` by the given share of the members' mean square.
fn step_weights(
    members: &Members,
    (first, stride): (usize, usize),
    (prior, pull): (&[f64], f64),
    rounds: usize,
) -> Vec<f64> {
    let n = members.count;
    let mut weights = prior.to_vec();
    for _ in 0..rounds.max(1) {
        let (mut gram, mut cross) = (vec![0.0; n * n], vec![0.0; n]);
        let rows = members.values.chunks_exact(n).zip(&members.target);
        let rows = rows.zip(&members.scale).skip(first).step_by(stride);
        for ((row, target), scale) in rows.filter(|((_, t), _)| !t.is_nan()) {
            let (target, scale) = (f64::from(*target), f64::from(*scale));
            let sum: f64 = row
                .iter()
                .zip(&weights)
                .map(|(m, w)| f64::from(*m) * w)
                .sum();
            let factor = match rounds {
                0 => scale * scale,
                _ => scale * scale / (scale * (sum - target)).abs().max(SMALL),
            };
            for (i, a) in row.iter().map(|a| f64::from(*a)).enumerate() {
                for (g, b) in gram[i * n..(i + 1) * n].iter_mut().zip(row) {
                    *g += factor * a * f64::from(*b);
                }
                cross[i] += factor * a * target;
            }
        }
        let pull = pull * (0..n).map(|i| gram[i * n + i]).sum::<f64>() / n as f64;
        for (i, p) in prior.iter().enumerate() {
            gram[i * n + i] += pull;
            cross[i] += pull * p;
        }
        weights = non_negative(&gram, &cross, n);
    }
    weights
}

/// Coordinate descent on `w' G w / 2 - c' w` over w >= 0.
fn non_negative(gram: &[f64], cross: &[f64], n: usize) -> Vec<f64> {
    let mut weights = vec![0.0; n];
    for _ in 0..SWEEPS {
        for i in 0..n {
            let others: f64 = (0..n)
                .filter(|j| *j != i)
                .map(|j| gram[i * n + j] * weights[j])
                .sum();
            let own = gram[i * n + i];
            weights[i] = if own > 0.0 {
                ((cross[i] - others) / own).max(0.0)
            } else {
                0.0
            };
        }
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_not_negative_and_find_the_mixture() {
        let mut rng = fieldcast_kernel::Rng::new(3);
        let mut members = Members {
            count: 3,
            values: vec![],
            target: vec![],
            scale: vec![],
        };
        for _ in 0..4_000 {
            let row = [rng.normal(), rng.normal(), rng.normal()];
            members.values.extend(row);
            members
                .target
                .push(0.7 * row[0] + 0.3 * row[1] - 0.5 * row[2] + 0.1 * rng.normal());
            members.scale.push(1.0);
        }
        for rounds in [0, ROUNDS] {
            let w = best_weights(&members, 1, &[1.0, 0.0, 0.0], rounds);
            assert!(
                (w[0] - 0.7).abs() < 0.1 && (w[1] - 0.3).abs() < 0.1 && w[2] == 0.0,
                "{w:?}"
            );
        }
    }

    #[test]
    fn a_share_is_kept_as_far_as_blocks_agree_on_it() {
        let (share, known) = posterior_share(&[(1.0, 0.8), (2.0, 1.6), (1.0, 0.8)]);
        assert!((share - 0.8).abs() < 1e-6 && (known - 1.0).abs() < 1e-9);
        let (torn, learnt) = posterior_share(&[(1.0, 2.0), (1.0, -0.4), (1.0, 1.8), (1.0, -0.2)]);
        assert!(torn < 0.4 && learnt < 0.5, "{torn} {learnt}");
        let (against, _) = posterior_share(&[(1.0, -0.9), (1.0, -1.0)]);
        assert_eq!(against, 0.0);
        assert_eq!(
            posterior_share(&[(1.0, 0.5)]),
            (0.0, 0.0),
            "one block is no evidence"
        );
    }
}
