//! A forecaster judged beside the baselines on data it has not seen: owns the chronological cut and the report, never a measure.

mod intervals;

use std::ops::ControlFlow;

use fieldcast_features::spec::MAX_QUANTILES;
use fieldcast_features::{ForecasterSpec, Millis};
use fieldcast_onnx::{ModelParams, SeasonalNaiveParams};
use serde::{Deserialize, Serialize};

use self::intervals::{Following, Grown, Plain};
use crate::evaluate::{Case, Cases, Scores, Tally};
use crate::fit::prepare;
use crate::importance::InputImportance;
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

impl Report {
    /// What was judged, once more.
    ///
    /// # Errors
    /// None that the report's own making did not have.
    pub fn cases<'a>(
        &self,
        spec: &ForecasterSpec,
        data: &'a TrainingData,
        stride: usize,
    ) -> Result<Cases<'a>, TrainError> {
        judged(spec, data, (self.test_from, self.test_until), stride)
    }
}

fn judged<'a>(
    spec: &ForecasterSpec,
    data: &'a TrainingData,
    (from, last): (Millis, Millis),
    stride: usize,
) -> Result<Cases<'a>, TrainError> {
    // The first judged time is the first step of a forecast made a period before it.
    let origins = (from - spec.period_ms().max(1), last.saturating_add(1));
    Cases::new(spec, data, origins, stride)
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
    // What the training itself would refuse says more than an empty part behind it.
    prepare(spec, &known, &train)?;
    let cases = judged(spec, data, (test_from, last), config.stride)?;
    let found = cases.iter().take(FEWEST).count();
    if found < FEWEST {
        return Err(TrainError::NothingToJudge {
            share: 100.0 * (1.0 - config.train_share - config.select_share),
            stride: config.stride,
            horizon: spec.horizon,
            found,
            needed: FEWEST,
        });
    }
    let trained = fit(spec, &known, &train, progress)?;
    let levels = &spec.quantiles;
    let span = (trained.split.calibrate_from, test_from);
    let calibration = Cases::new(spec, &known, span, 1)?;
    let mut plain = Plain::new(spec, &trained.params, &calibration)?;
    let mut adaptive = Following::new(levels, period);
    let mut forest = match train.forest && trained.table.iter().any(|line| line.model == "forest") {
        true => {
            let (panel, parts) = prepare(spec, &known, &train)?;
            Some(Grown::new(spec, &panel, &parts, &train)?)
        }
        false => None,
    };
    let mut tallies: Vec<Tally<'_>> = trained.models.iter().map(|_| Tally::new(levels)).collect();
    for case in cases.iter() {
        for ((_, params), tally) in trained.models.iter().zip(&mut tallies) {
            let forecast = match params {
                ModelParams::SeasonalNaive(naive) if naive.target_input >= naive.inputs => {
                    repeated(spec, data, &case, naive)?
                }
                _ => predict(params, &case.window)?,
            };
            tally.add(&case, &forecast);
        }
        if let Some(forest) = &mut forest {
            forest.add(&case)?;
        }
        let forecast = predict(&trained.params, &case.window)?;
        each(&case, &forecast);
        adaptive.add(&case, &forecast);
        plain.add(&case, forecast);
    }
    let names = trained.models.iter().map(|(model, _)| model.clone());
    let models = names.zip(tallies);
    let models = models.chain(forest.map(|f| ("forest".to_owned(), f.tally)));
    let models = models.map(|(model, tally)| ModelReport {
        model,
        scores: tally.scores(),
    });
    let models = models.collect();
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
        adaptive: adaptive.tally.scores(),
        plain: plain.tally.scores(),
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

/// The target's last season repeated where the window does not hold the target.
fn repeated(
    spec: &ForecasterSpec,
    data: &TrainingData,
    case: &Case,
    naive: &SeasonalNaiveParams,
) -> Result<Prediction, TrainError> {
    let alone = ModelParams::SeasonalNaive(SeasonalNaiveParams {
        inputs: 1,
        target_input: 0,
        ..naive.clone()
    });
    let mut window = case.window.clone();
    (window.inputs, window.window) = (1, target_past(spec, data, case));
    predict(&alone, &window)
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

#[cfg(test)]
#[path = "backtest_tests.rs"]
mod tests;
