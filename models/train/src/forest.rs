//! A random forest on lags as one more baseline: owns its features and subsample, never chosen for a bundle.

use fieldcast_features::Window;
use smartcore::ensemble::random_forest_regressor::{
    RandomForestRegressor, RandomForestRegressorParameters,
};
use smartcore::linalg::basic::matrix::DenseMatrix;

use crate::baselines::Outcome;
use crate::batch::{Batch, Batcher};
use crate::heads::Beat;
use crate::normalise::{Scale, floor_of, normalise};
use crate::samples::Sample;
use crate::{TrainConfig, TrainError};

/// Windows it is grown on; each gives one row a horizon step tried.
const MOST_ROWS: usize = 6_000;
/// Windows it is judged on.
const MOST_JUDGED: usize = 1_000;
/// Trees that are grown at a time, and how often: in between a cancelled training ends.
const TREES: (u16, u64) = (4, 15);

/// One forest for all steps: lags of the target (the last three and those one season before the step and its neighbours),
/// the calendar of the step, and the step itself; the target is the change from the last value in units of the window's
/// deviation.
pub(crate) struct Forest {
    /// Each of [`TREES`]' size, so that their mean is that of all trees.
    groups: Vec<RandomForestRegressor<f64, f64, DenseMatrix<f64>, Vec<f64>>>,
    shape: Shape,
    /// Smallest deviation of each feature in a window.
    floors: Vec<f64>,
}

/// Where things stand in a window.
#[derive(Clone, Copy)]
struct Shape {
    lookback: usize,
    inputs: usize,
    target: usize,
    season: usize,
    horizon: usize,
    future_width: usize,
}

impl Forest {
    /// Grows it on (a subsample of) `train`.
    pub(crate) fn grow(
        batcher: &Batcher<'_>,
        train: &[Sample],
        config: &TrainConfig,
        beat: &mut Beat<'_>,
    ) -> Result<Self, TrainError> {
        let panel = batcher.panel;
        let shape = Shape {
            lookback: panel.lookback,
            inputs: panel.inputs,
            target: panel.target,
            season: panel.season.clamp(1, panel.lookback),
            horizon: panel.horizon,
            future_width: panel.future_width,
        };
        let mut batch = Batch::default();
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for (i, sample) in spread(train, MOST_ROWS).enumerate() {
            batcher.fill(&[sample], &mut batch);
            // Consecutive samples take consecutive steps, so that every step gets its share of rows.
            let step = i % panel.horizon;
            if !batch.target[step].is_nan() {
                x.push(shape.features(&batch.z, &batch.future, step));
                y.push(f64::from(batch.target[step].clamp(-20.0, 20.0)));
            }
        }
        let matrix = DenseMatrix::from_2d_vec(&x).map_err(failed)?;
        let mut groups = Vec::new();
        for group in 0..TREES.1 {
            beat()?;
            let parameters = RandomForestRegressorParameters::default()
                .with_n_trees(usize::from(TREES.0))
                .with_max_depth(14)
                .with_min_samples_leaf(3)
                .with_seed(config.seed.wrapping_mul(1_000_003).wrapping_add(group));
            groups.push(RandomForestRegressor::fit(&matrix, &y, parameters).map_err(failed)?);
        }
        let floors = batcher.scales.train_dev.iter().map(|d| floor_of(*d));
        Ok(Self {
            groups,
            shape,
            floors: floors.collect(),
        })
    }

    /// Its forecasts of (a subsample of) `samples`.
    pub(crate) fn outcomes(
        &self,
        batcher: &Batcher<'_>,
        samples: &[Sample],
        beat: &mut Beat<'_>,
    ) -> Result<Vec<Outcome>, TrainError> {
        let panel = batcher.panel;
        let mut batch = Batch::default();
        let mut outcomes = Vec::new();
        for sample in spread(samples, MOST_JUDGED) {
            beat()?;
            batcher.fill(&[sample], &mut batch);
            let scale = (batch.last[0], batch.dev[0]);
            let mean = self.mean(&batch.z, &batch.future, scale)?;
            let track = &panel.tracks[sample.track];
            outcomes.push(Outcome {
                series: track.series,
                time: track.start + sample.origin as i64 * panel.period,
                observed: panel.observed(track, sample.origin),
                unit: vec![1.0; panel.horizon],
                median: mean.clone(),
                mean,
                actual: batch.actual.clone(),
            });
        }
        Ok(outcomes)
    }

    /// Its forecast from a window in raw units.
    pub(crate) fn forecast(&self, window: &Window) -> Result<Vec<f64>, TrainError> {
        let mut z = vec![0.0_f32; window.window.len()];
        let mut scale = Scale::default();
        normalise(
            &window.window,
            window.inputs,
            &self.floors,
            &mut z,
            &mut scale,
        );
        let future: Vec<f32> = window.future.iter().map(|v| *v as f32).collect();
        let target = self.shape.target;
        self.mean(&z, &future, (scale.last[target], scale.dev[target]))
    }

    fn mean(
        &self,
        z: &[f32],
        future: &[f32],
        (last, dev): (f64, f64),
    ) -> Result<Vec<f64>, TrainError> {
        let steps = 0..self.shape.horizon;
        let rows: Vec<Vec<f64>> = steps
            .map(|step| self.shape.features(z, future, step))
            .collect();
        let matrix = DenseMatrix::from_2d_vec(&rows).map_err(failed)?;
        let mut change = vec![0.0; rows.len()];
        for group in &self.groups {
            let own = group.predict(&matrix).map_err(failed)?;
            change
                .iter_mut()
                .zip(own)
                .for_each(|(sum, own)| *sum += own);
        }
        let each = dev / self.groups.len() as f64;
        Ok(change.iter().map(|c| last + each * c).collect())
    }
}

impl Shape {
    fn features(&self, z: &[f32], future: &[f32], step: usize) -> Vec<f64> {
        let lag = |back: usize| {
            let t = self.lookback - back.clamp(1, self.lookback);
            f64::from(z[t * self.inputs + self.target])
        };
        let season = self.season;
        // Steps back from the origin to the same phase as the forecast step, one season earlier (or more, for long horizons).
        let phase = season - step % season;
        let week = (7 * season + phase).saturating_sub(season);
        let mut row = vec![
            step as f64,
            lag(1),
            lag(2),
            lag(3),
            lag(phase),
            lag(phase + 1),
            lag(phase.saturating_sub(1)),
            lag(week),
        ];
        let k = self.future_width;
        row.extend(future[step * k..][..k].iter().map(|v| f64::from(*v)));
        row
    }
}

fn failed<E>(_: E) -> TrainError {
    TrainError::Config {
        setting: "forest",
        problem: "could not be grown on this data; train without it",
    }
}

fn spread(samples: &[Sample], most: usize) -> impl Iterator<Item = Sample> + '_ {
    let n = samples.len().min(most);
    (0..n).map(move |i| samples[i * samples.len() / n])
}
