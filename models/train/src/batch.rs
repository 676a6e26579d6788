//! Samples turned into the arrays a model is trained on: owns the batch's buffers, never a weight.

use crate::data::Panel;
use crate::normalise::{Scale, floor_of, normalise};
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
}

/// Makes batches of one panel.
#[derive(Debug)]
pub(crate) struct Batcher<'a> {
    pub(crate) panel: &'a Panel,
    pub(crate) scales: &'a Scales,
    floors: Vec<f64>,
}

impl<'a> Batcher<'a> {
    pub(crate) fn new(panel: &'a Panel, scales: &'a Scales) -> Self {
        let floors = scales.train_dev.iter().map(|d| floor_of(*d)).collect();
        Self {
            panel,
            scales,
            floors,
        }
    }

    /// Width of a row of z.
    pub(crate) fn features(&self) -> usize {
        self.panel.lookback * self.panel.inputs
    }

    /// Fills `batch` with `samples`. The target must be one of the inputs.
    pub(crate) fn fill(&self, samples: &[Sample], batch: &mut Batch) {
        let panel = self.panel;
        let (width, horizon) = (self.features(), panel.horizon);
        let mut scale = Scale::default();
        batch.rows = samples.len();
        batch.z.resize(samples.len() * width, 0.0);
        for list in [
            &mut batch.future,
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
                &mut scale,
            );
            let (last, dev) = (scale.last[panel.target], scale.dev[panel.target]);
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
