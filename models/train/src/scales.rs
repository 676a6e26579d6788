//! Scales learnt from the training part: owns deviations and the MASE denominator of each series, never a window.

use fieldcast_features::Millis;

use crate::calibrate::order_statistic;
use crate::data::Panel;

/// Of the median device's unit, what every device's has at least: a pump that all but rests has a unit so small that one start of it
/// would outweigh all other devices.
const LEAST_UNIT: f64 = 0.02;

/// What errors and features are measured in.
#[derive(Debug, Clone)]
pub(crate) struct Scales {
    /// Deviation of each feature around its series' mean, `[F]`, raw units.
    pub(crate) train_dev: Vec<f64>,
    /// The same for the target.
    pub(crate) target_dev: f64,
    /// Mean absolute seasonal difference of the target, one a series: the unit of MASE (Hyndman and Koehler, 2006), but no less
    /// than [`LEAST_UNIT`] of the median device's.
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
        let units: Vec<Option<f64>> = (0..series).map(choose).collect();
        let mut known: Vec<f64> = units.iter().flatten().copied().collect();
        known.sort_unstable_by(f64::total_cmp);
        let least = LEAST_UNIT * order_statistic(&known, 0.5);
        let unit = |u: &Option<f64>| u.unwrap_or(target_dev.max(f64::MIN_POSITIVE)).max(least);
        let mase = units.iter().map(unit).collect();
        Self {
            train_dev: (0..panel.inputs).map(deviation).collect(),
            target_dev,
            mase,
        }
    }
}

fn pooled_deviation(panel: &Panel, channel: usize, until: Millis) -> f64 {
    let (mut square, mut count) = (0.0, 0.0_f64);
    for track in &panel.tracks {
        let rows = panel.rows_until(track, until);
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
        for row in distance..panel.rows_until(track, until) {
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::fixture;

    fn units(data: &crate::TrainingData) -> Vec<f64> {
        let panel = Panel::new(&fixture::spec(), data).unwrap();
        Scales::new(&panel, Millis::MAX / 2).mase
    }

    #[test]
    fn a_device_that_all_but_rests_does_not_outweigh_the_others() {
        let mut data = fixture::data(20, 3);
        let moving = data.series.swap_remove(0);
        let mut resting = moving.clone();
        for (i, row) in resting.rows.iter_mut().enumerate() {
            row.values[0] = if i % 50 == 0 { 1e-6 } else { 0.0 };
        }
        data.series = vec![moving.clone(), moving.clone(), moving, resting];
        let all = units(&data);
        assert!((all[3] - LEAST_UNIT * all[0]).abs() < 1e-12, "{all:?}");
        // Alone it is measured by itself.
        data.series.drain(..3);
        assert!(units(&data)[0] < 1e-6);
    }

    #[test]
    fn devices_of_different_size_keep_their_own_units() {
        let data = fixture::data(20, 3);
        let both = units(&data);
        for (i, series) in data.series.into_iter().enumerate() {
            let alone = crate::TrainingData {
                series: vec![series],
            };
            assert_eq!(units(&alone), both[i..=i]);
        }
    }
}
