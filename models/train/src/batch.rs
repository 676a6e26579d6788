//! Samples turned into the arrays a model is trained on: owns the batch's buffers, never a weight.

use crate::data::Panel;
use crate::normalise::{Scale, centre, floor_of, normalise};
use crate::samples::Sample;
use crate::scales::Scales;

/// A batch of normalised windows; buffers are used again.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) rows: usize,
    /// `[B, T*F]`
    pub(crate) z: Vec<f32>,
    /// `[B, H*K]`
    pub(crate) future: Vec<f32>,
    /// `[B, T*F]`: z minus its mean over the window, feature by feature.
    pub(crate) centred: Vec<f32>,
    /// `[B, H*J]`: the centred window at the lags of each step.
    pub(crate) lags: Vec<f32>,
    /// `[B, H]`: (target - last) / dev, NaN where missing.
    pub(crate) target: Vec<f32>,
    /// `[B, H]`: the target in raw units, NaN where missing.
    pub(crate) actual: Vec<f64>,
    /// Last observed target, raw units.
    pub(crate) last: Vec<f64>,
    /// The target's deviation in the window, raw units.
    pub(crate) dev: Vec<f64>,
    /// MASE units in one unit of dev.
    pub(crate) scale: Vec<f32>,
    /// How often the sample counts.
    pub(crate) weight: Vec<f32>,
    /// Of the sample that is being filled in.
    own: Scale,
}

/// Makes batches of one panel.
#[derive(Debug)]
pub(crate) struct Batcher<'a> {
    pub(crate) panel: &'a Panel,
    pub(crate) scales: &'a Scales,
    floors: Vec<f64>,
    /// `[H, J]`: values of the window, `t * F + f`.
    pub(crate) lags: Vec<usize>,
}

impl<'a> Batcher<'a> {
    pub(crate) fn new(panel: &'a Panel, scales: &'a Scales) -> Self {
        let floors = scales.train_dev.iter().map(|d| floor_of(*d)).collect();
        Self {
            panel,
            scales,
            floors,
            lags: lags(panel),
        }
    }

    /// Lags of each step, J.
    pub(crate) fn lag_width(&self) -> usize {
        self.lags.len() / self.panel.horizon
    }

    /// z of the target one season before step `step` of row `b`.
    pub(crate) fn season_value(&self, batch: &Batch, b: usize, season: usize, step: usize) -> f32 {
        let t = self.panel.lookback - season + step % season;
        batch.z[b * self.features() + t * self.panel.inputs + self.panel.target]
    }

    /// Width of a row of z.
    pub(crate) fn features(&self) -> usize {
        self.panel.lookback * self.panel.inputs
    }

    /// Fills `batch` with `samples`. The target must be one of the inputs.
    pub(crate) fn fill(&self, samples: &[Sample], batch: &mut Batch) {
        let panel = self.panel;
        let (width, horizon) = (self.features(), panel.horizon);
        batch.rows = samples.len();
        batch.z.resize(samples.len() * width, 0.0);
        for list in [
            &mut batch.future,
            &mut batch.lags,
            &mut batch.centred,
            &mut batch.target,
            &mut batch.scale,
            &mut batch.weight,
        ] {
            list.clear();
        }
        for list in [&mut batch.actual, &mut batch.last, &mut batch.dev] {
            list.clear();
        }
        for (sample, z) in samples.iter().zip(batch.z.chunks_exact_mut(width)) {
            let track = &panel.tracks[sample.track];
            normalise(
                panel.window(track, sample.origin),
                panel.channels,
                &self.floors,
                z,
                &mut batch.own,
            );
            let (last, dev) = (batch.own.last[panel.target], batch.own.dev[panel.target]);
            let begin = batch.centred.len();
            batch.centred.extend_from_slice(z);
            let centred = &mut batch.centred[begin..];
            centre(centred, panel.inputs);
            batch.lags.extend(self.lags.iter().map(|at| centred[*at]));
            batch
                .future
                .extend_from_slice(panel.future(track, sample.origin));
            for step in 1..=horizon {
                let actual = panel.target_at(track, sample.origin + step);
                batch.actual.push(actual);
                batch.target.push(((actual - last) / dev) as f32);
            }
            batch.last.push(last);
            batch.dev.push(dev);
            batch
                .scale
                .push((dev / self.scales.mase[track.series]) as f32);
            batch.weight.push(sample.weight);
        }
    }
}

/// The values of the window that forecast each step best, `[H, J]`, each as `t * F + f`: of the target the newest few, and the
/// same phase of each of the last seven seasons with its neighbours; of every other input the newest and that of a season
/// before the step. What lies outside the window is the nearest step inside.
fn lags(panel: &Panel) -> Vec<usize> {
    const NEWEST: usize = 6;
    const SEASONS: usize = 7;
    let (lookback, season) = (panel.lookback, panel.season.max(1));
    let seasons = if season > 1 {
        (lookback / season).min(SEASONS)
    } else {
        0
    };
    let others = || (0..panel.inputs).filter(|f| *f != panel.target);
    let mut lags = Vec::new();
    for step in 0..panel.horizon {
        let mut add = |t: i64, f: usize| {
            lags.push(t.clamp(0, lookback as i64 - 1) as usize * panel.inputs + f);
        };
        let newest = lookback as i64 - 1;
        (0..NEWEST).for_each(|back| add(newest - back as i64, panel.target));
        // Whole seasons back until the same phase has been observed.
        let first = step / season + 1;
        let same = |s: usize| newest + 1 + step as i64 - (s * season) as i64;
        for s in first..first + seasons {
            (-1..=1).for_each(|near| add(same(s) + near, panel.target));
        }
        for f in others() {
            add(newest, f);
            if seasons > 0 {
                add(same(first), f);
            }
        }
    }
    lags
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn lags_are_the_newest_and_those_of_the_same_phase() {
        let mut spec = fixture::spec();
        (spec.lookback, spec.horizon, spec.season) = (48, 30, Some(24));
        let panel = Panel::new(&spec, &fixture::data(10, 1)).unwrap();
        let all = lags(&panel);
        let width = all.len() / 30;
        assert_eq!(width, 6 + 3 * 2 + 2);
        let steps = |step: usize| -> Vec<(usize, usize)> {
            let row = &all[step * width..][..width];
            row.iter().map(|at| (at / 2, at % 2)).collect()
        };
        // The first step ahead is 24 and 48 steps after window steps 24 and 0.
        let own = [47, 46, 45, 44, 43, 42, 23, 24, 25, 0, 0, 1].map(|t| (t, 0));
        assert_eq!(steps(0), [&own[..], &[(47, 1), (24, 1)]].concat());
        // Step 26 repeats the phase of step 2 a season later.
        assert_eq!(steps(26)[6..9], steps(2)[6..9]);
    }
}
