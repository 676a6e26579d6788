//! Forecasts of samples in raw units by repeating a season: owns outcomes and their scores, never training.

use fieldcast_features::Millis;

use crate::ModelScore;
use crate::batch::Batcher;
use crate::predict::repeat_season;
use crate::samples::Sample;
use crate::scales::Scales;

/// A forecast beside what happened, raw units.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) series: usize,
    pub(crate) time: Millis,
    /// Share of the lookback in which the target was observed.
    pub(crate) observed: f64,
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
            observed: panel.observed(track, s.origin),
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
