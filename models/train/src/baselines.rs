//! Forecasts of samples in raw units, by the network or by repeating a season: owns outcomes and their scores, never training.

use fieldcast_features::Millis;

use crate::ModelScore;
use crate::batch::{Batch, Batcher};
use crate::network::{Network, Workspace};
use crate::predict::repeat_season;
use crate::samples::Sample;
use crate::scales::Scales;

/// A forecast beside what happened, raw units.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) series: usize,
    pub(crate) time: Millis,
    /// What residuals are measured in for the intervals.
    pub(crate) unit: f64,
    /// `[H]`
    pub(crate) mean: Vec<f64>,
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
        Outcome {
            series: track.series,
            time: track.start + s.origin as Millis * panel.period,
            unit: 1.0,
            mean: repeat_season(&past, season, panel.horizon),
            actual: (1..=panel.horizon)
                .map(|step| panel.target_at(track, s.origin + step))
                .collect(),
        }
    };
    samples.iter().map(outcome).collect()
}

/// Forecasts by the network.
pub(crate) fn network_outcomes(
    batcher: &Batcher<'_>,
    samples: &[Sample],
    network: &Network,
) -> Vec<Outcome> {
    let panel = batcher.panel;
    let (mut batch, mut work) = (Batch::default(), Workspace::default());
    let mut outcomes = Vec::with_capacity(samples.len());
    for chunk in samples.chunks(256) {
        batcher.fill(chunk, &mut batch);
        network.forward(&batch, &mut work);
        for (b, s) in chunk.iter().enumerate() {
            let track = &panel.tracks[s.track];
            let (last, dev) = (batch.last[b], batch.dev[b]);
            let row = b * panel.horizon..(b + 1) * panel.horizon;
            outcomes.push(Outcome {
                series: track.series,
                time: track.start + s.origin as Millis * panel.period,
                unit: dev,
                mean: work.out[row.clone()]
                    .iter()
                    .map(|o| last + dev * f64::from(*o))
                    .collect(),
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
        let pairs = outcome
            .mean
            .iter()
            .zip(&outcome.actual)
            .filter(|(_, a)| !a.is_nan());
        for (mean, actual) in pairs {
            let error = (mean - actual).abs();
            absolute += error;
            square += error * error;
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
