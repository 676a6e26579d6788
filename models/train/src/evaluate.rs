//! Judges any forecaster on windows it has not seen: owns cases and what is measured on them, never a model or a sum.

use std::collections::BTreeMap;

use fieldcast_drift::estimate::{WidthDay, WidthErrors};
use fieldcast_features::{ForecasterSpec, Millis, Window, WindowBuilder};
use serde::{Deserialize, Serialize};

use crate::baselines::Outcome;
use crate::data::{Panel, TrainingData};
use crate::scales::Scales;
use crate::tally::Tally;
pub use crate::tally::pairs;
use crate::{DailyErrors, Prediction, TrainError};

const DAY_MS: Millis = 86_400_000;

/// One forecast to be made and what then happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// Index of the device's series.
    pub series: usize,
    /// The model's input.
    pub window: Window,
    /// Share of the lookback in which the target was observed.
    pub observed: f64,
    /// `[H]`, raw units, NaN where missing.
    pub actual: Vec<f64>,
    /// The unit of MASE for this series.
    pub mase_unit: f64,
}

/// All windows of `data` with an origin in `[from, until)` and a horizon that ends before `until`, every `stride`-th origin,
/// in time order. The unit of MASE is learnt from the rows before `from`.
///
/// # Errors
/// [`TrainError`] for data that does not fit the spec; an empty list is no error.
pub fn cases(
    spec: &ForecasterSpec,
    data: &TrainingData,
    (from, until): (Millis, Millis),
    stride: usize,
) -> Result<Vec<Case>, TrainError> {
    let panel = Panel::new(spec, data)?;
    let scales = Scales::new(&panel, from);
    let Ok(builder) = WindowBuilder::new(spec) else {
        return Ok(Vec::new());
    };
    let step = panel.period * stride.max(1) as Millis;
    let mut cases = Vec::new();
    for (index, series) in data.series.iter().enumerate() {
        let mut rows = series.rows.clone();
        rows.sort_by_key(|r| r.time);
        rows.reverse();
        rows.dedup_by_key(|r| r.time);
        rows.reverse();
        let reach = panel.horizon as Millis * panel.period;
        let origins = rows
            .iter()
            .map(|r| r.time)
            .filter(|t| *t >= from && t.saturating_add(reach) < until && t.rem_euclid(step) == 0);
        for origin in origins {
            let (Ok(window), Ok(observed), Ok(actual)) = (
                builder.at(&rows, origin),
                builder.observed(&rows, origin),
                builder.actuals(&rows, origin),
            ) else {
                continue;
            };
            if actual.iter().any(|a| !a.is_nan()) {
                cases.push(Case {
                    series: index,
                    window,
                    observed,
                    actual,
                    mase_unit: scales.mase[index],
                });
            }
        }
    }
    cases.sort_by_key(|c| (c.window.origin, c.series));
    Ok(cases)
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
    cases: &[Case],
    levels: &[f64],
    mut forecast: impl FnMut(&Window) -> Result<Prediction, E>,
) -> Result<Scores, E> {
    let mut tally = Tally::new(levels, cases.first().map_or(0, |c| c.window.horizon));
    for case in cases {
        tally.add(case, &forecast(&case.window)?);
    }
    Ok(tally.scores())
}

/// The daily error level of `forecast` on `cases` of `data`, as [`crate::Calibration`] has it; `period` is the forecaster's.
///
/// # Errors
/// The forecaster's first error.
pub fn daily_errors<E>(
    cases: &[Case],
    data: &TrainingData,
    period: Millis,
    mut forecast: impl FnMut(&Window) -> Result<Prediction, E>,
) -> Result<DailyErrors, E> {
    let outcomes: Result<Vec<Outcome>, E> = cases
        .iter()
        .map(|case| {
            let mean = forecast(&case.window)?.mean;
            Ok(Outcome {
                series: case.series,
                time: case.window.origin,
                observed: case.observed,
                unit: vec![1.0; mean.len()],
                median: mean.clone(),
                mean,
                actual: case.actual.clone(),
            })
        })
        .collect();
    let devices: Vec<String> = data.series.iter().map(|s| s.device.clone()).collect();
    Ok(crate::calibrate::daily_errors(&outcomes?, period, &devices))
}

/// How the daily error of `forecast` follows the width of its widest interval; `levels` are its quantile levels. None without
/// an interval, or with too few days. A day is that of the origins.
///
/// # Errors
/// The forecaster's first error.
pub fn width_errors<E>(
    cases: &[Case],
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
