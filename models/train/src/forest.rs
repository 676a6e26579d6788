//! A random forest on lags as one more baseline: owns its features and subsample, never chosen for a bundle.

use smartcore::ensemble::random_forest_regressor::{
    RandomForestRegressor, RandomForestRegressorParameters,
};
use smartcore::linalg::basic::matrix::DenseMatrix;

use crate::baselines::Outcome;
use crate::batch::{Batch, Batcher};
use crate::samples::Sample;
use crate::{TrainConfig, TrainError};

/// Windows it is grown on; each gives one row a horizon step tried.
const MOST_ROWS: usize = 6_000;
/// Windows it is judged on.
const MOST_JUDGED: usize = 1_000;

/// Forecasts of (a subsample of) `select` by a forest grown on (a subsample of) `train`.
///
/// One forest for all steps: lags of the target (the last three and those one season before the step and its neighbours),
/// the calendar of the step, and the step itself; the target is the change from the last value in units of the window's
/// deviation.
pub(crate) fn outcomes(
    batcher: &Batcher<'_>,
    train: &[Sample],
    select: &[Sample],
    config: &TrainConfig,
) -> Result<Vec<Outcome>, TrainError> {
    let panel = batcher.panel;
    let mut batch = Batch::default();
    let (mut x, mut y) = (Vec::new(), Vec::new());
    for (i, sample) in spread(train, MOST_ROWS).enumerate() {
        batcher.fill(&[sample], &mut batch);
        // Consecutive samples take consecutive steps, so that every step gets its share of rows.
        let step = i % panel.horizon;
        if !batch.target[step].is_nan() {
            x.push(features(batcher, &batch, step));
            y.push(f64::from(batch.target[step].clamp(-20.0, 20.0)));
        }
    }
    let failed = |_| TrainError::Config {
        setting: "forest",
        problem: "could not be grown on this data; train without it",
    };
    let matrix = DenseMatrix::from_2d_vec(&x).map_err(failed)?;
    let parameters = RandomForestRegressorParameters::default()
        .with_n_trees(60)
        .with_max_depth(14)
        .with_min_samples_leaf(3)
        .with_seed(config.seed);
    let forest = RandomForestRegressor::fit(&matrix, &y, parameters).map_err(failed)?;
    let mut outcomes = Vec::new();
    for sample in spread(select, MOST_JUDGED) {
        batcher.fill(&[sample], &mut batch);
        let rows: Vec<Vec<f64>> = (0..panel.horizon)
            .map(|step| features(batcher, &batch, step))
            .collect();
        let matrix = DenseMatrix::from_2d_vec(&rows).map_err(failed)?;
        let change = forest.predict(&matrix).map_err(failed)?;
        let track = &panel.tracks[sample.track];
        let raw = |c: &f64| batch.last[0] + batch.dev[0] * c;
        let mean: Vec<f64> = change.iter().map(raw).collect();
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

fn features(batcher: &Batcher<'_>, batch: &Batch, step: usize) -> Vec<f64> {
    let panel = batcher.panel;
    let lag = |back: usize| {
        let t = panel.lookback - back.clamp(1, panel.lookback);
        f64::from(batch.z[t * panel.inputs + panel.target])
    };
    let season = panel.season.clamp(1, panel.lookback);
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
    let k = panel.future_width;
    row.extend(batch.future[step * k..][..k].iter().map(|v| f64::from(*v)));
    row
}

fn spread(samples: &[Sample], most: usize) -> impl Iterator<Item = Sample> + '_ {
    let n = samples.len().min(most);
    (0..n).map(move |i| samples[i * samples.len() / n])
}
