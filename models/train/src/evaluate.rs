//! Judges any forecaster on windows it has not seen: owns what is measured on them, never a model, a window or a sum.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use fieldcast_drift::estimate::{WidthDay, WidthErrors};
use fieldcast_features::{ForecasterSpec, Millis, Window};
use serde::{Deserialize, Serialize};

use crate::calibrate::Days;
pub use crate::cases::{Case, Cases};
use crate::data::TrainingData;
pub use crate::tally::{Tally, pairs};
use crate::{DailyErrors, Prediction, TrainError};

const DAY_MS: Millis = 86_400_000;

/// All of [`Cases`] at once, for spans that are known to be short.
///
/// # Errors
/// Those of [`Cases::new`].
pub fn cases(
    spec: &ForecasterSpec,
    data: &TrainingData,
    span: (Millis, Millis),
    stride: usize,
) -> Result<Vec<Case>, TrainError> {
    Ok(Cases::new(spec, data, span, stride)?.iter().collect())
}

/// How good a forecaster was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Forecasts made.
    pub windows: usize,
    /// Forecast steps with an actual value.
    pub points: usize,
    /// Mean absolute error of the median, raw units.
    pub mae: f64,
    /// Root mean square error of the mean, raw units.
    pub rmse: f64,
    /// MAE in units of the seasonal difference, series by series.
    pub mase: f64,
    /// Symmetric mean absolute percentage error of the median, 0 to 2; steps where both are 0 count as 0.
    pub smape: f64,
    /// Mean pinball loss over all levels, raw units.
    pub pinball: f64,
    /// Weighted quantile loss (Salinas et al., 2020): twice the pinball loss, averaged over levels, over the sum of |actual|.
    pub wql: f64,
    /// The same for each step ahead.
    pub per_horizon: Vec<HorizonScore>,
    /// One entry for each pair of symmetric quantile levels, widest first.
    pub intervals: Vec<IntervalScore>,
    /// Mean absolute error at each origin, over devices and steps, in MASE units and time order: input of
    /// [`crate::diebold_mariano`].
    pub origin_losses: Vec<(Millis, f64)>,
}

/// Errors of one step ahead, measured as those of [`Scores`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HorizonScore {
    /// Mean absolute error of the median, raw units.
    pub mae: f64,
    /// Root mean square error of the mean, raw units.
    pub rmse: f64,
    /// MAE in units of the seasonal difference.
    pub mase: f64,
    /// Symmetric mean absolute percentage error, 0 to 2.
    pub smape: f64,
    /// Weighted quantile loss.
    pub wql: f64,
    /// Share of actual values inside each interval, in the order of [`Scores::intervals`].
    pub coverage: Vec<f64>,
}

/// How good an interval was.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct IntervalScore {
    /// Lower quantile level.
    pub lower: f64,
    /// Upper quantile level.
    pub upper: f64,
    /// Share of actual values inside.
    pub coverage: f64,
    /// Smallest such share in any 30 days (any shorter data as a whole).
    pub worst_coverage: f64,
    /// Mean width, raw units.
    pub width: f64,
    /// Mean interval score (Gneiting and Raftery, 2007): width + 2/α times the distance of what lies outside; raw units.
    pub score: f64,
}

/// Runs `forecast` on every case and scores it. `levels` are the quantile levels of its predictions.
///
/// # Errors
/// The forecaster's first error.
pub fn backtest<E>(
    cases: impl IntoIterator<Item = impl Borrow<Case>>,
    levels: &[f64],
    mut forecast: impl FnMut(&Window) -> Result<Prediction, E>,
) -> Result<Scores, E> {
    let mut tally = Tally::new(levels);
    for case in cases {
        let case: &Case = case.borrow();
        tally.add(case, &forecast(&case.window)?);
    }
    Ok(tally.scores())
}

/// The daily error level of `forecast` on `cases` of `data`, as [`crate::Calibration`] has it; `period` is the forecaster's.
///
/// # Errors
/// The forecaster's first error.
pub fn daily_errors<E>(
    cases: impl IntoIterator<Item = impl Borrow<Case>>,
    data: &TrainingData,
    period: Millis,
    mut forecast: impl FnMut(&Window) -> Result<Prediction, E>,
) -> Result<DailyErrors, E> {
    let mut days = Days::default();
    for case in cases {
        let case: &Case = case.borrow();
        let mean = forecast(&case.window)?.mean;
        let (at, said) = (
            (case.series, case.window.origin),
            (&mean[..], &case.actual[..]),
        );
        days.add(at, period, case.observed, said);
    }
    let devices: Vec<String> = data.series.iter().map(|s| s.device.clone()).collect();
    Ok(days.errors(&devices))
}

/// How the daily error of `forecast` follows the width of its widest interval; `levels` are its quantile levels. None without
/// an interval, or with too few days. A day is that of the origins.
///
/// # Errors
/// The forecaster's first error.
pub fn width_errors<E>(
    cases: impl IntoIterator<Item = impl Borrow<Case>>,
    data: &TrainingData,
    levels: &[f64],
    mut forecast: impl FnMut(&Window) -> Result<Prediction, E>,
) -> Result<Option<WidthErrors>, E> {
    let Some((low, high)) = pairs(levels).next() else {
        return Ok(None);
    };
    // Sums and counts of widths and of errors.
    let mut days: BTreeMap<(usize, Millis), [f64; 4]> = BTreeMap::new();
    for case in cases {
        let case: &Case = case.borrow();
        let said = forecast(&case.window)?;
        let day = case.window.origin.div_euclid(DAY_MS);
        let sums = days.entry((case.series, day)).or_default();
        for row in said.quantiles.chunks(levels.len().max(1)) {
            sums[0] += row[high] - row[low];
            sums[1] += 1.0;
        }
        for (mean, actual) in said
            .mean
            .iter()
            .zip(&case.actual)
            .filter(|(_, a)| a.is_finite())
        {
            sums[2] += (mean - actual).abs();
            sums[3] += 1.0;
        }
    }
    let days: Vec<WidthDay<'_>> = days
        .iter()
        .filter_map(|((series, _), [width, steps, error, known])| {
            Some(WidthDay {
                device: &data.series.get(*series)?.device,
                width: width / steps,
                error: error / known,
            })
        })
        .collect();
    Ok(WidthErrors::fit(&days))
}

#[cfg(test)]
#[path = "evaluate_tests.rs"]
mod tests;
