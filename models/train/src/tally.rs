//! Sums behind the scores of a forecaster: owns the formulas of the error measures, never which cases are judged.

use std::collections::BTreeMap;

use fieldcast_features::Millis;

use crate::Prediction;
use crate::evaluate::{Case, HorizonScore, IntervalScore, Scores};

const DAY_MS: Millis = 86_400_000;
/// Days in the window whose worst coverage is reported.
const WORST_DAYS: Millis = 30;

/// Sums over all cases so far.
#[derive(Debug)]
pub struct Tally<'a> {
    levels: &'a [f64],
    median: Option<usize>,
    windows: usize,
    /// As many as the longest horizon so far.
    steps: Vec<Step>,
    intervals: Vec<Interval>,
    origins: BTreeMap<Millis, (f64, f64)>,
}

/// Sums of one step ahead.
#[derive(Debug, Clone, Default)]
struct Step {
    count: f64,
    absolute: f64,
    square: f64,
    scaled: f64,
    smape: f64,
    pinball: f64,
    size: f64,
    /// One entry an interval.
    hits: Vec<f64>,
}

#[derive(Debug)]
struct Interval {
    low: usize,
    high: usize,
    width: f64,
    score: f64,
    /// Hits and count of each UTC day of the origin.
    days: BTreeMap<Millis, (f64, f64)>,
}

impl<'a> Tally<'a> {
    /// None yet; `levels` are the quantile levels of the predictions to come.
    #[must_use]
    pub fn new(levels: &'a [f64]) -> Self {
        let intervals = pairs(levels).map(|(low, high)| Interval {
            low,
            high,
            width: 0.0,
            score: 0.0,
            days: BTreeMap::new(),
        });
        Self {
            levels,
            median: levels.iter().position(|l| *l == 0.5),
            windows: 0,
            steps: Vec::new(),
            intervals: intervals.collect(),
            origins: BTreeMap::new(),
        }
    }

    /// Scores one case.
    pub fn add(&mut self, case: &Case, prediction: &Prediction) {
        let q = self.levels.len();
        self.windows += 1;
        if self.steps.len() < case.actual.len() {
            let hits = vec![0.0; self.intervals.len()];
            let step = Step {
                hits,
                ..Step::default()
            };
            self.steps.resize(case.actual.len(), step);
        }
        let steps = case.actual.iter().zip(&mut self.steps).enumerate();
        for (h, (&actual, step)) in steps.filter(|(_, (a, _))| !a.is_nan()) {
            let mean = prediction.mean.get(h).copied().unwrap_or(f64::NAN);
            let row = prediction.quantiles.get(h * q..(h + 1) * q).unwrap_or(&[]);
            let median = self.median.and_then(|m| row.get(m)).copied();
            let median = median.unwrap_or(mean);
            let error = (median - actual).abs();
            let size = median.abs() + actual.abs();
            step.count += 1.0;
            step.absolute += error;
            step.square += (mean - actual) * (mean - actual);
            step.scaled += error / case.mase_unit;
            step.smape += if size > 0.0 { 2.0 * error / size } else { 0.0 };
            step.pinball += pinball(self.levels, row, actual);
            step.size += actual.abs();
            let origin = self.origins.entry(case.window.origin).or_default();
            *origin = (origin.0 + error / case.mase_unit, origin.1 + 1.0);
            for (interval, hits) in self.intervals.iter_mut().zip(&mut step.hits) {
                *hits += interval.add(self.levels, row, actual, case.window.origin);
            }
        }
    }

    /// What it comes to.
    #[must_use]
    pub fn scores(self) -> Scores {
        let sum = |part: fn(&Step) -> f64| self.steps.iter().map(part).sum::<f64>();
        let points = sum(|s| s.count);
        let n = points.max(1.0);
        let pinball = sum(|s| s.pinball);
        Scores {
            windows: self.windows,
            points: points as usize,
            mae: sum(|s| s.absolute) / n,
            rmse: (sum(|s| s.square) / n).sqrt(),
            mase: sum(|s| s.scaled) / n,
            smape: sum(|s| s.smape) / n,
            pinball: pinball / n,
            wql: weighted(pinball, sum(|s| s.size)),
            per_horizon: self.steps.iter().map(Step::score).collect(),
            intervals: self
                .intervals
                .iter()
                .map(|i| i.scores(self.levels, n))
                .collect(),
            origin_losses: self
                .origins
                .into_iter()
                .map(|(time, (sum, count))| (time, sum / count))
                .collect(),
        }
    }
}

/// Positions of the levels that bound a central interval, the widest first: each lower level with its complement, where that
/// is there.
pub fn pairs(levels: &[f64]) -> impl Iterator<Item = (usize, usize)> + '_ {
    let complement = |low: &f64| {
        let at = levels
            .iter()
            .position(|high| (low + high - 1.0).abs() < 1e-9);
        at.filter(|_| *low < 0.5 - 1e-9)
    };
    let lower = levels.iter().enumerate();
    lower.filter_map(move |(low, level)| Some((low, complement(level)?)))
}

/// Mean pinball loss over the levels.
fn pinball(levels: &[f64], row: &[f64], actual: f64) -> f64 {
    let loss = |(level, value): (&f64, &f64)| {
        let above = actual - value;
        (level * above).max((level - 1.0) * above)
    };
    levels.iter().zip(row).map(loss).sum::<f64>() / levels.len().max(1) as f64
}

fn weighted(pinball: f64, size: f64) -> f64 {
    if size > 0.0 {
        2.0 * pinball / size
    } else {
        0.0
    }
}

impl Step {
    fn score(&self) -> HorizonScore {
        let n = self.count.max(1.0);
        HorizonScore {
            mae: self.absolute / n,
            rmse: (self.square / n).sqrt(),
            mase: self.scaled / n,
            smape: self.smape / n,
            wql: weighted(self.pinball, self.size),
            coverage: self.hits.iter().map(|h| h / n).collect(),
        }
    }
}

impl Interval {
    /// Scores one point; 1 where it lies inside, else 0.
    fn add(&mut self, levels: &[f64], row: &[f64], actual: f64, origin: Millis) -> f64 {
        let (Some(low), Some(high)) = (row.get(self.low), row.get(self.high)) else {
            return 0.0;
        };
        let alpha = 1.0 - (levels[self.high] - levels[self.low]);
        let outside = (low - actual).max(actual - high).max(0.0);
        self.width += high - low;
        self.score += high - low + 2.0 / alpha * outside;
        let hit = f64::from(u8::from(*low <= actual && actual <= *high));
        let day = self.days.entry(origin.div_euclid(DAY_MS)).or_default();
        *day = (day.0 + hit, day.1 + 1.0);
        hit
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
