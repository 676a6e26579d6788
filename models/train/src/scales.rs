//! Scales learnt from the training part: owns deviations and the MASE denominator of each series, never a window.

use fieldcast_features::Millis;

use crate::data::{Panel, Track};

/// What errors and features are measured in.
#[derive(Debug, Clone)]
pub(crate) struct Scales {
    /// Deviation of each feature around its series' mean, `[F]`, raw units.
    pub(crate) train_dev: Vec<f64>,
    /// The same for the target.
    pub(crate) target_dev: f64,
    /// Mean absolute seasonal difference of the target, one a series: the unit of MASE (Hyndman and Koehler, 2006).
    pub(crate) mase: Vec<f64>,
}

impl Scales {
    /// Learns from all rows at or before `until`.
    pub(crate) fn new(panel: &Panel, until: Millis) -> Self {
        let deviation = |channel| pooled_deviation(panel, channel, until);
        let target_dev = deviation(panel.target);
        let series = panel.weight_from.len();
        let own = |distance: usize| {
            (0..series)
                .map(|s| mean_difference(panel, s, distance, until))
                .collect::<Vec<_>>()
        };
        let (seasonal, steps) = (own(panel.season), own(1));
        let choose = |s: usize| {
            [seasonal[s], steps[s]]
                .into_iter()
                .flatten()
                .find(|d| *d > 0.0)
        };
        let mase = (0..series)
            .map(|s| choose(s).unwrap_or(target_dev.max(f64::MIN_POSITIVE)))
            .collect();
        Self {
            train_dev: (0..panel.inputs).map(deviation).collect(),
            target_dev,
            mase,
        }
    }
}

fn training_rows(panel: &Panel, track: &Track, until: Millis) -> usize {
    let rows = (until - track.start).div_euclid(panel.period) + 1;
    usize::try_from(rows).unwrap_or(0).min(track.rows())
}

fn pooled_deviation(panel: &Panel, channel: usize, until: Millis) -> f64 {
    let (mut square, mut count) = (0.0, 0.0_f64);
    for track in &panel.tracks {
        let rows = training_rows(panel, track, until);
        let values = || {
            track
                .values
                .iter()
                .skip(channel)
                .step_by(panel.channels)
                .take(rows)
                .copied()
                .filter(|v| !v.is_nan())
        };
        let n = values().count() as f64;
        let mean = values().sum::<f64>() / n.max(1.0);
        square += values().map(|v| (v - mean) * (v - mean)).sum::<f64>();
        count += n;
    }
    (square / count.max(1.0)).sqrt()
}

fn mean_difference(panel: &Panel, series: usize, distance: usize, until: Millis) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0_usize);
    for track in panel.tracks.iter().filter(|t| t.series == series) {
        for row in distance..training_rows(panel, track, until) {
            let difference =
                (panel.target_at(track, row) - panel.target_at(track, row - distance)).abs();
            if !difference.is_nan() {
                sum += difference;
                count += 1;
            }
        }
    }
    (count > 0).then(|| sum / count as f64)
}
