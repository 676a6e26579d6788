//! A forecaster judged beside the baselines on data it has not seen: owns the chronological cut and the report, never a measure.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;

use fieldcast_baseline::Adaptive;
use fieldcast_features::spec::MAX_QUANTILES;
use fieldcast_features::{ForecasterSpec, Millis};
use fieldcast_onnx::{ModelParams, SeasonalNaiveParams};
use serde::{Deserialize, Serialize};

use crate::evaluate::{self, Case, Scores};
use crate::importance::InputImportance;
use crate::tally::Tally;
use crate::{
    ModelScore, Prediction, Progress, Split, TrainConfig, TrainError, TrainingData, fit, predict,
};

/// Fewest windows that a judgement may rest on.
const FEWEST: usize = 20;
/// Levels whose intervals every report speaks of: 95 % and 80 %.
const LEVELS: [f64; 5] = [0.025, 0.1, 0.5, 0.9, 0.975];

/// How a backtest cuts its data, by data time, and trains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BacktestConfig {
    /// Share of the time, oldest first, that weights are learnt from.
    pub train_share: f64,
    /// Share after it: its first half chooses the model, its second calibrates the intervals. What is left is judged.
    pub select_share: f64,
    /// Every so many origins is judged; 1 is every origin.
    pub stride: usize,
    /// Settings of the training; its shares are not read.
    pub train: TrainConfig,
}

impl Default for BacktestConfig {
    fn default() -> Self {
        Self {
            train_share: 0.8,
            select_share: 0.1,
            stride: 1,
            train: TrainConfig::default(),
        }
    }
}

/// One model on the judged part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelReport {
    /// Its name, as in the selection table.
    pub model: String,
    /// How good it was.
    pub scores: Scores,
}

/// The outcome of a backtest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Forecaster.
    pub forecaster: String,
    /// The model that a training would have bundled.
    pub chosen: String,
    /// Quantile levels of the forecasts.
    pub levels: Vec<f64>,
    /// First judged grid time; everything before it was known to the training.
    pub test_from: Millis,
    /// Last judged grid time.
    pub test_until: Millis,
    /// Parts that the training made of what it knew.
    pub split: Split,
    /// All models on the selection and the calibration part.
    pub selection: Vec<ModelScore>,
    /// What the chosen model loses there without each input, largest first.
    pub importance: Vec<InputImportance>,
    /// The chosen model and the baselines on the judged part.
    pub models: Vec<ModelReport>,
    /// The chosen model with intervals that follow what they missed, origin by origin, as `fieldcast_baseline::adaptive` has it.
    pub adaptive: Scores,
    /// The chosen model with plain split-conformal intervals: one width a step, whatever the window.
    pub plain: Scores,
}

/// Trains on the older part and judges on the newest, origin by origin; the last origin is the last whose horizon is over.
///
/// `each` sees every judged case with the chosen model's forecast, in time order. The chosen model comes with the report.
///
/// # Errors
/// [`TrainError`] of the training, or where nothing is left to judge.
pub fn run(
    spec: &ForecasterSpec,
    data: &TrainingData,
    config: &BacktestConfig,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    each: &mut dyn FnMut(&Case, &Prediction),
) -> Result<(Report, ModelParams), TrainError> {
    let spec = &with_levels(spec);
    let period = spec.period_ms().max(1);
    let (select_from, test_from, last) = cut(data, config, period)?;
    let mut known = data.clone();
    for series in &mut known.series {
        series.rows.retain(|r| r.time < test_from);
    }
    let train = TrainConfig {
        select_from: Some(select_from - period),
        calibrate_from: None,
        ..config.train.clone()
    };
    let trained = fit(spec, &known, &train, progress)?;
    let origins = (test_from - period, last.saturating_add(1));
    let cases = evaluate::cases(spec, data, origins, config.stride)?;
    if cases.len() < FEWEST {
        return Err(TrainError::PartTooSmall {
            part: "test",
            found: cases.len(),
            needed: FEWEST,
        });
    }
    let levels = &spec.quantiles;
    let mut models = Vec::new();
    for (model, params) in &trained.models {
        let scores = match params {
            ModelParams::SeasonalNaive(naive) if naive.target_input >= naive.inputs => {
                repeated(spec, data, &cases, naive)?
            }
            _ => evaluate::backtest(&cases, levels, |w| predict(params, w))?,
        };
        models.push(ModelReport {
            model: model.clone(),
            scores,
        });
    }
    let forecasts = cases
        .iter()
        .map(|case| predict(&trained.params, &case.window))
        .collect::<Result<Vec<_>, _>>()?;
    cases
        .iter()
        .zip(&forecasts)
        .for_each(|(case, forecast)| each(case, forecast));
    let adaptive = adaptive(&cases, &forecasts, levels, period);
    let span = (trained.split.calibrate_from, test_from);
    let calibration = evaluate::cases(spec, &known, span, 1)?;
    let plain = plain(&trained.params, &calibration, &cases, forecasts, levels)?;
    let report = Report {
        forecaster: spec.name.clone(),
        chosen: trained.chosen,
        levels: levels.clone(),
        test_from,
        test_until: last,
        split: trained.split,
        selection: trained.table,
        importance: trained.importance,
        models,
        adaptive,
        plain,
    };
    Ok((report, trained.params))
}

/// The target's values in the window of `case`, oldest first, NaN where missing; they are in the data also where the target is
/// no input.
#[must_use]
pub fn target_past(spec: &ForecasterSpec, data: &TrainingData, case: &Case) -> Vec<f64> {
    let rows = data.series.get(case.series).map_or(&[][..], |s| &s.rows);
    let (lookback, period) = (case.window.lookback, spec.period_ms());
    let at = |back: usize| {
        let time = case.window.origin - back as Millis * period;
        let row = rows.binary_search_by_key(&time, |r| r.time).ok();
        row.and_then(|i| rows.get(i)?.value(spec.target_channel()))
            .unwrap_or(f64::NAN)
    };
    (0..lookback).rev().map(at).collect()
}

/// Scores of repeating the target's last season where the windows do not hold the target.
fn repeated(
    spec: &ForecasterSpec,
    data: &TrainingData,
    cases: &[Case],
    naive: &SeasonalNaiveParams,
) -> Result<Scores, TrainError> {
    let alone = ModelParams::SeasonalNaive(SeasonalNaiveParams {
        inputs: 1,
        target_input: 0,
        ..naive.clone()
    });
    let mut tally = Tally::new(&spec.quantiles, naive.horizon);
    for case in cases {
        let mut window = case.window.clone();
        (window.inputs, window.window) = (1, target_past(spec, data, case));
        tally.add(case, &predict(&alone, &window)?);
    }
    Ok(tally.scores())
}

/// What is odd about the data without making it useless: constant or empty inputs, and inputs that know the target's future.
#[must_use]
pub fn warnings(spec: &ForecasterSpec, data: &TrainingData) -> Vec<String> {
    let target = spec.target_channel();
    let mut warnings = Vec::new();
    for (channel, name) in spec.channels().iter().enumerate() {
        let values = || {
            let rows = data.series.iter().flat_map(|s| &s.rows);
            rows.filter_map(move |r| r.values.get(channel).copied())
                .filter(|v| !v.is_nan())
        };
        match values().next() {
            None => warnings.push(format!("input `{name}` is missing in every row; leave it out")),
            Some(first) if values().all(|v| v == first) => {
                warnings.push(format!("input `{name}` is {first} in every row; leave it out"));
            }
            Some(_) if channel != target && leaks(data, channel, target) => warnings.push(format!(
                "input `{name}` follows the target's next value more closely than the target itself does; if it is made from the target's future, leave it out"
            )),
            Some(_) => {}
        }
    }
    warnings
}

/// Whether a channel tells the target's next value almost exactly, and much better than the target's present value does.
fn leaks(data: &TrainingData, channel: usize, target: usize) -> bool {
    let unexplained = |from: usize| {
        let pairs = data
            .series
            .iter()
            .flat_map(|s| s.rows.windows(2))
            .filter_map(|w| {
                let (x, y) = (w[0].value(from)?, w[1].value(target)?);
                (x.is_finite() && y.is_finite()).then_some((x, y))
            });
        1.0 - correlation(pairs).powi(2)
    };
    let own = unexplained(channel);
    own < 1e-3 && own < 0.1 * unexplained(target)
}

/// Pearson's correlation; 0 where one side never moves.
fn correlation(pairs: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (mut n, mut mx, mut my, mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0);
    for (x, y) in pairs {
        n += 1.0;
        let (dx, dy) = (x - mx, y - my);
        mx += dx / n;
        my += dy / n;
        xx += dx * (x - mx);
        yy += dy * (y - my);
        xy += dx * (y - my);
    }
    if xx > 0.0 && yy > 0.0 {
        xy / (xx * yy).sqrt()
    } else {
        0.0
    }
}

/// The definition with the levels of [`LEVELS`] among its own, or instead of them where a definition holds no more.
fn with_levels(spec: &ForecasterSpec) -> ForecasterSpec {
    let mut spec = spec.clone();
    if spec.quantiles.len() + LEVELS.len() > MAX_QUANTILES {
        spec.quantiles.clear();
    }
    for level in LEVELS {
        if !spec.quantiles.iter().any(|q| (q - level).abs() < 1e-9) {
            spec.quantiles.push(level);
        }
    }
    spec.quantiles.sort_by(f64::total_cmp);
    spec
}

/// First time of the selection part, first of the judged part, and the last of all, on the grid.
fn cut(
    data: &TrainingData,
    config: &BacktestConfig,
    period: Millis,
) -> Result<(Millis, Millis, Millis), TrainError> {
    let share = |s: f64| s > 0.0 && s < 1.0;
    let (train, select) = (config.train_share, config.select_share);
    if !share(train) || !share(select) || train + select >= 0.999 {
        return Err(TrainError::Config {
            setting: "train_share, select_share",
            problem: "must each be above 0 and together below 1, so that a part is left to judge on",
        });
    }
    let times = || data.series.iter().flat_map(|s| &s.rows).map(|r| r.time);
    let (Some(first), Some(last)) = (times().min(), times().max()) else {
        return Err(TrainError::PartTooSmall {
            part: "train",
            found: 0,
            needed: FEWEST,
        });
    };
    let rows = ((last - first) / period + 1) as f64;
    let at = |share: f64| first + (rows * share + 1e-6) as Millis * period;
    Ok((at(train), at(train + select), last))
}

/// Scores the forecasts with intervals that learn, device by device; a step's actual value is known from its own time on.
fn adaptive(cases: &[Case], forecasts: &[Prediction], levels: &[f64], period: Millis) -> Scores {
    let horizon = cases.first().map_or(0, |c| c.window.horizon);
    let mut tally = Tally::new(levels, horizon);
    let mut devices: BTreeMap<usize, (Adaptive, VecDeque<Open<'_>>)> = BTreeMap::new();
    for (case, forecast) in cases.iter().zip(forecasts) {
        let (state, open) = devices
            .entry(case.series)
            .or_insert_with(|| (Adaptive::new(levels, horizon), VecDeque::new()));
        for earlier in open.iter_mut() {
            earlier.learn(state, case.window.origin, period, levels.len());
        }
        open.retain(|earlier| earlier.learnt < horizon);
        let shown = Prediction {
            mean: forecast.mean.clone(),
            quantiles: state.applied(&forecast.quantiles),
        };
        tally.add(case, &shown);
        open.push_back(Open {
            case,
            quantiles: shown.quantiles,
            learnt: 0,
        });
    }
    tally.scores()
}

/// A forecast whose actual values have not all come.
struct Open<'a> {
    case: &'a Case,
    /// As they were shown.
    quantiles: Vec<f64>,
    /// Steps that have been learnt from.
    learnt: usize,
}

impl Open<'_> {
    fn learn(&mut self, state: &mut Adaptive, now: Millis, period: Millis, levels: usize) {
        let window = &self.case.window;
        while self.learnt < window.horizon && window.horizon_time(self.learnt, period) <= now {
            let shown = &self.quantiles[self.learnt * levels..][..levels];
            state.learn(self.learnt, shown, self.case.actual[self.learnt]);
            self.learnt += 1;
        }
    }
}

/// Scores the forecasts with the quantiles of the calibration part's residuals around the mean, step by step, in raw units.
fn plain(
    params: &ModelParams,
    calibration: &[Case],
    cases: &[Case],
    forecasts: Vec<Prediction>,
    levels: &[f64],
) -> Result<Scores, TrainError> {
    let horizon = cases.first().map_or(0, |c| c.window.horizon);
    let mut residuals = vec![Vec::new(); horizon];
    for case in calibration {
        let forecast = predict(params, &case.window)?;
        let pairs = case.actual.iter().zip(&forecast.mean);
        for ((actual, mean), list) in pairs.zip(&mut residuals) {
            if !actual.is_nan() {
                list.push(actual - mean);
            }
        }
    }
    let offsets: Vec<Vec<f64>> = residuals
        .into_iter()
        .map(|mut list| {
            list.sort_unstable_by(f64::total_cmp);
            levels
                .iter()
                .map(|q| crate::calibrate::order_statistic(&list, *q))
                .collect()
        })
        .collect();
    let mut tally = Tally::new(levels, horizon);
    for (case, mut forecast) in cases.iter().zip(forecasts) {
        let rows = forecast.mean.iter().zip(&offsets);
        forecast.quantiles = rows
            .flat_map(|(mean, offsets)| offsets.iter().map(move |o| mean + o))
            .collect();
        tally.add(case, &forecast);
    }
    Ok(tally.scores())
}

#[cfg(test)]
#[path = "backtest_tests.rs"]
mod tests;
