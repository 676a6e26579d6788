//! Forecasts of samples in raw units, by ridge or by repeating a season: owns outcomes and their scores, never training.

use fieldcast_features::Millis;

use crate::ModelScore;
use crate::batch::{Batch, Batcher};
use crate::network::Ridge;
use crate::predict::repeat_season;
use crate::samples::Sample;
use crate::scales::Scales;

/// A forecast beside what happened, raw units.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) series: usize,
    pub(crate) time: Millis,
    /// `[H]`: what residuals are measured in for the intervals.
    pub(crate) unit: Vec<f64>,
    /// `[H]`
    pub(crate) mean: Vec<f64>,
    /// `[H]`: where the intervals start, and what absolute errors are measured from.
    pub(crate) median: Vec<f64>,
    /// `[H]`, NaN where missing.
    pub(crate) actual: Vec<f64>,
}

/// Forecasts by repeating the last `season` steps of the window.
pub(crate) fn naive_outcomes(
    batcher: &Batcher<'_>,
    samples: &[Sample],
    season: usize,
) -> Vec<Outcome> {
    let panel = batcher.panel;
    let outcome = |s: &Sample| {
        let track = &panel.tracks[s.track];
        let window = panel.window(track, s.origin);
        let past: Vec<f64> = window
            .iter()
            .skip(panel.target)
            .step_by(panel.channels)
            .copied()
            .collect();
        let mean = repeat_season(&past, season, panel.horizon);
        Outcome {
            series: track.series,
            time: track.start + s.origin as Millis * panel.period,
            unit: vec![1.0; panel.horizon],
            median: mean.clone(),
            mean,
            actual: (1..=panel.horizon)
                .map(|step| panel.target_at(track, s.origin + step))
                .collect(),
        }
    };
    samples.iter().map(outcome).collect()
}

/// Forecasts by ridge.
pub(crate) fn ridge_outcomes(
    batcher: &Batcher<'_>,
    samples: &[Sample],
    ridge: &Ridge,
) -> Vec<Outcome> {
    let panel = batcher.panel;
    let (mut batch, mut out) = (Batch::default(), Vec::new());
    let mut outcomes = Vec::with_capacity(samples.len());
    for chunk in samples.chunks(256) {
        batcher.fill(chunk, &mut batch);
        ridge.forward(&batch, &mut out);
        for (b, s) in chunk.iter().enumerate() {
            let track = &panel.tracks[s.track];
            let (last, dev) = (batch.last[b], batch.dev[b]);
            let row = b * panel.horizon..(b + 1) * panel.horizon;
            let raw = |o: &f32| last + dev * f64::from(*o);
            let mean: Vec<f64> = out[row.clone()].iter().map(raw).collect();
            outcomes.push(Outcome {
                series: track.series,
                time: track.start + s.origin as Millis * panel.period,
                unit: vec![dev; panel.horizon],
                median: mean.clone(),
                mean,
                actual: batch.actual[row].to_vec(),
            });
        }
    }
    outcomes
}

/// One line of the table.
pub(crate) fn score(model: &str, outcomes: &[Outcome], scales: &Scales) -> ModelScore {
    let (mut absolute, mut square, mut scaled, mut count) = (0.0, 0.0, 0.0, 0.0_f64);
    for outcome in outcomes {
        let observed = outcome.actual.iter().enumerate();
        for (step, actual) in observed.filter(|(_, a)| !a.is_nan()) {
            let error = (outcome.median[step] - actual).abs();
            absolute += error;
            square += (outcome.mean[step] - actual).powi(2);
            scaled += error / scales.mase[outcome.series];
            count += 1.0;
        }
    }
    let count = count.max(1.0);
    ModelScore {
        model: model.into(),
        mae: absolute / count,
        rmse: (square / count).sqrt(),
        mase: scaled / count,
        refused: false,
    }
}
