//! Judges any forecaster on windows it has not seen: owns cases, error measures and interval scores, never a model.

use std::collections::BTreeMap;

use fieldcast_features::{ForecasterSpec, Millis, Window, WindowBuilder};
use serde::{Deserialize, Serialize};

use crate::baselines::Outcome;
use crate::data::{Panel, TrainingData};
use crate::scales::Scales;
use crate::{DailyErrors, Prediction, TrainError};

const DAY_MS: Millis = 86_400_000;
/// Days in the window whose worst coverage is reported.
const WORST_DAYS: Millis = 30;

/// One forecast to be made and what then happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// Index of the device's series.
    pub series: usize,
    /// The model's input.
    pub window: Window,
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
            let (Ok(window), Ok(actual)) =
                (builder.at(&rows, origin), builder.actuals(&rows, origin))
            else {
                continue;
            };
            if actual.iter().any(|a| !a.is_nan()) {
                cases.push(Case {
                    series: index,
                    window,
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
    /// The same for each step ahead.
    pub per_horizon: Vec<HorizonScore>,
    /// One entry for each pair of symmetric quantile levels, widest first.
    pub intervals: Vec<IntervalScore>,
    /// Mean absolute error at each origin, over devices and steps, in MASE units and time order: input of
    /// [`crate::diebold_mariano`].
    pub origin_losses: Vec<(Millis, f64)>,
}

/// Errors of one step ahead.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct HorizonScore {
    /// Mean absolute error of the median, raw units.
    pub mae: f64,
    /// Root mean square error of the mean, raw units.
    pub rmse: f64,
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
            Ok(Outcome {
                series: case.series,
                time: case.window.origin,
                unit: 1.0,
                mean: forecast(&case.window)?.mean,
                actual: case.actual.clone(),
            })
        })
        .collect();
    let devices: Vec<String> = data.series.iter().map(|s| s.device.clone()).collect();
    Ok(crate::calibrate::daily_errors(&outcomes?, period, &devices))
}

struct Tally<'a> {
    levels: &'a [f64],
    median: Option<usize>,
    windows: usize,
    points: f64,
    scaled: f64,
    smape: f64,
    pinball: f64,
    /// Sum of |error|, of error², and count for each step.
    steps: Vec<(f64, f64, f64)>,
    intervals: Vec<Interval>,
    origins: BTreeMap<Millis, (f64, f64)>,
}

struct Interval {
    low: usize,
    high: usize,
    width: f64,
    score: f64,
    /// Hits and count of each UTC day of the origin.
    days: BTreeMap<Millis, (f64, f64)>,
}

impl<'a> Tally<'a> {
    fn new(levels: &'a [f64], horizon: usize) -> Self {
        let q = levels.len();
        let pairs = (0..q / 2).filter(|i| (levels[*i] + levels[q - 1 - i] - 1.0).abs() < 1e-9);
        let interval = |i: usize| Interval {
            low: i,
            high: q - 1 - i,
            width: 0.0,
            score: 0.0,
            days: BTreeMap::new(),
        };
        Self {
            levels,
            median: levels.iter().position(|l| *l == 0.5),
            windows: 0,
            points: 0.0,
            scaled: 0.0,
            smape: 0.0,
            pinball: 0.0,
            steps: vec![(0.0, 0.0, 0.0); horizon],
            intervals: pairs.map(interval).collect(),
            origins: BTreeMap::new(),
        }
    }

    fn add(&mut self, case: &Case, prediction: &Prediction) {
        let q = self.levels.len();
        self.windows += 1;
        for (h, actual) in case.actual.iter().enumerate().filter(|(_, a)| !a.is_nan()) {
            let mean = prediction.mean.get(h).copied().unwrap_or(f64::NAN);
            let row = prediction.quantiles.get(h * q..(h + 1) * q).unwrap_or(&[]);
            let median = self
                .median
                .and_then(|m| row.get(m))
                .copied()
                .unwrap_or(mean);
            let error = (median - actual).abs();
            self.points += 1.0;
            self.scaled += error / case.mase_unit;
            let size = median.abs() + actual.abs();
            self.smape += if size > 0.0 { 2.0 * error / size } else { 0.0 };
            if let Some(step) = self.steps.get_mut(h) {
                *step = (
                    step.0 + error,
                    step.1 + (mean - actual) * (mean - actual),
                    step.2 + 1.0,
                );
            }
            let origin = self.origins.entry(case.window.origin).or_default();
            *origin = (origin.0 + error / case.mase_unit, origin.1 + 1.0);
            let loss = |(level, value): (&f64, &f64)| {
                let above = actual - value;
                (level * above).max((level - 1.0) * above)
            };
            self.pinball += self.levels.iter().zip(row).map(loss).sum::<f64>() / q.max(1) as f64;
            for interval in &mut self.intervals {
                interval.add(self.levels, row, *actual, case.window.origin);
            }
        }
    }

    fn scores(self) -> Scores {
        let points = self.points.max(1.0);
        let sum = |part: fn(&(f64, f64, f64)) -> f64| self.steps.iter().map(part).sum::<f64>();
        Scores {
            windows: self.windows,
            points: self.points as usize,
            mae: sum(|s| s.0) / points,
            rmse: (sum(|s| s.1) / points).sqrt(),
            mase: self.scaled / points,
            smape: self.smape / points,
            pinball: self.pinball / points,
            per_horizon: self
                .steps
                .iter()
                .map(|(a, s, n)| HorizonScore {
                    mae: a / n.max(1.0),
                    rmse: (s / n.max(1.0)).sqrt(),
                })
                .collect(),
            intervals: self
                .intervals
                .iter()
                .map(|i| i.scores(self.levels, points))
                .collect(),
            origin_losses: self
                .origins
                .into_iter()
                .map(|(time, (sum, count))| (time, sum / count))
                .collect(),
        }
    }
}

impl Interval {
    fn add(&mut self, levels: &[f64], row: &[f64], actual: f64, origin: Millis) {
        let (Some(low), Some(high)) = (row.get(self.low), row.get(self.high)) else {
            return;
        };
        let alpha = 1.0 - (levels[self.high] - levels[self.low]);
        let outside = (low - actual).max(actual - high).max(0.0);
        self.width += high - low;
        self.score += high - low + 2.0 / alpha * outside;
        let hit = f64::from(u8::from(*low <= actual && actual <= *high));
        let day = self.days.entry(origin.div_euclid(DAY_MS)).or_default();
        *day = (day.0 + hit, day.1 + 1.0);
    }

    fn scores(&self, levels: &[f64], points: f64) -> IntervalScore {
        IntervalScore {
            lower: levels[self.low],
            upper: levels[self.high],
            coverage: self.days.values().map(|d| d.0).sum::<f64>() / points,
            worst_coverage: self.worst(),
            width: self.width / points,
            score: self.score / points,
        }
    }

    fn worst(&self) -> f64 {
        let share = |from: Millis, until: Millis| {
            let (hits, count) = self
                .days
                .range(from..until)
                .fold((0.0, 0.0), |s, (_, d)| (s.0 + d.0, s.1 + d.1));
            if count > 0.0 { hits / count } else { 1.0 }
        };
        let (Some((first, _)), Some((last, _))) =
            (self.days.first_key_value(), self.days.last_key_value())
        else {
            return 0.0;
        };
        let latest = (last + 1 - WORST_DAYS).max(*first);
        (*first..=latest)
            .map(|from| share(from, from + WORST_DAYS))
            .fold(1.0, f64::min)
    }
}

#[cfg(test)]
#[path = "evaluate_tests.rs"]
mod tests;
