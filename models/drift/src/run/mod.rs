//! A detector with a stated run time on autocorrelated rows: owns what is learnt from a reference, never where rows come from.
//!
//! A threshold from a table of independent normal values alarms many times too often on a slow sensor, and one inflated by
//! the autocorrelation is only right for the process that the formula knows. Here a reference is freed of its season and of
//! what its past says ([`crate::window`]), and a CUSUM to both sides runs over what is left. Its threshold is the one at
//! which it alarms once in the stated number of rows on the reference's own residuals, drawn in blocks of at least a season:
//! their tails, their skewness and what order they still have are in it.

mod bootstrap;
mod monitor;

use serde::{Deserialize, Serialize};

pub use monitor::{RunEvent, RunMonitor};

use crate::StatError;
use crate::window::Grid;
use crate::window::whiten::{MOST_LAGS, Whitener};

/// Largest residual that counts, in deviations: one broken row is no drift.
const CLIP: f64 = 4.0;
/// Fewest residuals of a reference.
const FEWEST: usize = 200;
/// Most rows of a season: a week of minutes.
const LONGEST_SEASON: usize = 10_080;
/// Deviation of the residuals over the size of the values from which on it is believed.
const ROUNDING: f64 = 1e-9;
/// Values beyond it are missing.
const LARGEST: f64 = 1e150;
const SUBJECT: &str = "the reference of a run time";

/// What is asked of a detector.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RunOptions {
    /// Expected undrifted rows from a start, or from an alarm, to the next false alarm: 20 to 20,000.
    pub run_length: f64,
    /// Reference value in deviations of a residual, 0.05 to 2: half the shift that is to be found soonest.
    pub k: f64,
    /// Rows of a season; 0 or 1 = none.
    pub season: usize,
    /// Seed of the bootstrap: the same reference and seed give the same threshold.
    pub seed: u64,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            run_length: 720.0,
            k: 0.5,
            season: 0,
            seed: 1,
        }
    }
}

/// What a [`RunMonitor`] needs to know of a channel; learnt where the history is, carried to where the rows arrive.
///
/// The struct that holds it carries the version. Sizes: `means` and `scales` have one value a row of the season or none,
/// `weights` one to nine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunReference {
    /// Rows of the season, 0 = none. The slot of a row is its number modulo the season.
    season: usize,
    /// Mean of each slot about the whole mean, in the channel's unit.
    means: Vec<f64>,
    /// Deviation of each slot's innovations, in the channel's unit; empty = the same everywhere.
    scales: Vec<f64>,
    /// Intercept, then the weights of the values one, two, ... rows back, less their season.
    weights: Vec<f64>,
    /// Mean of the innovations after `scales`.
    center: f64,
    /// Deviation of the innovations after `scales`.
    deviation: f64,
    /// Mean of the residuals after clipping, taken off.
    offset: f64,
    k: f64,
    threshold: f64,
    run_length: f64,
}

impl RunReference {
    /// Learns from rows one step apart, of which non-finite ones are missing; `first` is the number of the first one
    /// (data time over the step, say), which ties rows to slots of the season.
    ///
    /// # Errors
    /// [`StatError::Parameter`] for options out of their range; [`StatError::TooFew`] with fewer than 200 rows that follow
    /// enough others, with a season of which the reference does not hold four, and for a constant reference.
    pub fn fit(values: &[f64], first: i64, options: &RunOptions) -> Result<Self, StatError> {
        options.validate()?;
        let season = if options.season > 1 {
            options.season
        } else {
            0
        };
        let grid = Grid {
            slots: (0..if season > 0 { values.len() } else { 0 })
                .map(|i| slot(first.wrapping_add(i as i64), season))
                .collect(),
            breaks: Vec::new(),
        };
        let few = |needed| {
            Err(StatError::TooFew {
                statistic: SUBJECT,
                needed,
            })
        };
        let values: Vec<f64> = values
            .iter()
            .map(|v| if v.abs() < LARGEST { *v } else { f64::NAN })
            .collect();
        let whitener = Whitener::fit(&values, &grid);
        let left = whitener.apply(&values, &grid);
        let mut residuals: Vec<f64> = left.into_iter().filter(|v| v.is_finite()).collect();
        if residuals.len() < FEWEST {
            return few("200 rows that follow others without a gap");
        }
        let lags = whitener.lags();
        let (means, scales, weights) = whitener.into_parts();
        if season > 0 && means.len() != season {
            return few("four whole seasons of values, or no season");
        }
        let (center, deviation) = moments(&residuals);
        // Scaled residuals are in deviations already; others are in the unit of the values.
        let size = if scales.is_empty() {
            values
                .iter()
                .filter(|v| v.is_finite())
                .fold(0.0, |most: f64, v| most.max(v.abs()))
        } else {
            1.0
        };
        if deviation.is_nan() || deviation <= ROUNDING * size {
            return few(
                "values that vary beyond their season, a constant says nothing of how far they may stray",
            );
        }
        for value in &mut residuals {
            *value = clipped(*value, center, deviation);
        }
        let offset = moments(&residuals).0;
        residuals.iter_mut().for_each(|value| *value -= offset);
        // The cube root keeps what order is left and still mixes the reference's few excursions (Hall, Horowitz and Jing
        // 1995): in longer blocks only those would be counted over and over.
        let length = season
            .max(4 * lags)
            .max((residuals.len() as f64).cbrt().ceil() as usize)
            .min(residuals.len() / 4);
        let blocks = bootstrap::Blocks {
            residuals: &residuals,
            length,
            seed: options.seed,
        };
        Ok(Self {
            season,
            means,
            scales,
            weights,
            center,
            deviation,
            offset,
            k: options.k,
            threshold: blocks.threshold(options.k, options.run_length),
            run_length: options.run_length,
        })
    }

    /// Whether a reference that came from elsewhere can be used.
    ///
    /// # Errors
    /// [`StatError::Parameter`] for sizes that do not fit together and numbers that are not finite or out of range.
    pub fn validate(&self) -> Result<(), StatError> {
        let fits = |slots: &[f64]| slots.is_empty() || slots.len() == self.season;
        let numbers = [&self.means, &self.scales, &self.weights];
        let finite = numbers.iter().all(|n| n.iter().all(|v| v.is_finite()))
            && self.center.is_finite()
            && self.offset.is_finite();
        let (parameter, problem) = if !fits(&self.means) || !fits(&self.scales) {
            (
                "means, scales",
                "must have one value a row of the season, or none",
            )
        } else if !(1..=MOST_LAGS + 1).contains(&self.weights.len()) {
            ("weights", "must be an intercept and 0 to 8 weights")
        } else if !finite || self.scales.iter().any(|s| *s <= 0.0) {
            (
                "means, scales, weights, center, offset",
                "must be finite, scales above 0",
            )
        } else if !positive(self.deviation) || !positive(self.threshold) || !positive(self.k) {
            ("deviation, threshold, k", "must be finite and above 0")
        } else {
            return Ok(());
        };
        Err(StatError::Parameter {
            subject: SUBJECT,
            parameter,
            problem: format!("{problem}; learn the reference anew"),
        })
    }

    /// What a sum has to pass, in deviations of a residual.
    #[must_use]
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    /// Rows from one false alarm to the next that were asked for.
    #[must_use]
    pub fn run_length(&self) -> f64 {
        self.run_length
    }

    /// How many of its own past values the channel is freed of.
    #[must_use]
    pub fn lags(&self) -> usize {
        self.weights.len().saturating_sub(1)
    }

    /// By what a lasting shift of the channel is larger than that of its innovations.
    fn gain(&self) -> f64 {
        let weights: f64 = self.weights.iter().skip(1).sum();
        1.0 / (1.0 - weights).max(0.01)
    }

    fn scale(&self, row: i64) -> f64 {
        let scale = self.scales.get(slot(row, self.season));
        scale.copied().unwrap_or(1.0)
    }

    fn mean(&self, row: i64) -> f64 {
        let mean = self.means.get(slot(row, self.season));
        mean.copied().unwrap_or(0.0)
    }

    /// The residual of a row in deviations, from its value less the season and those before it, the newest first.
    fn residual(&self, row: i64, flat: f64, past: &[f64]) -> Option<f64> {
        let (intercept, weights) = self.weights.split_first()?;
        let known: f64 = weights.iter().zip(past).map(|(w, v)| w * v).sum();
        let left = (flat - intercept - known) / self.scale(row);
        let z = clipped(left, self.center, self.deviation) - self.offset;
        z.is_finite().then_some(z)
    }
}

impl RunOptions {
    fn validate(&self) -> Result<(), StatError> {
        let (parameter, problem) = if !(20.0..=20_000.0).contains(&self.run_length) {
            ("run_length", "must be 20 to 20000 rows")
        } else if !(0.05..=2.0).contains(&self.k) {
            ("k", "must be 0.05 to 2 deviations")
        } else if self.season > LONGEST_SEASON {
            ("season", "must have 10080 rows at most")
        } else {
            return Ok(());
        };
        Err(StatError::Parameter {
            subject: SUBJECT,
            parameter,
            problem: problem.into(),
        })
    }
}

/// Both sums of a CUSUM (Page 1954): up <- max(0, up + z - k), down <- max(0, down - z - k).
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Sums {
    up: f64,
    down: f64,
}

impl Sums {
    fn add(&mut self, z: f64, k: f64) {
        self.up = (self.up + z - k).max(0.0);
        self.down = (self.down - z - k).max(0.0);
    }

    fn above(self, threshold: f64) -> bool {
        self.up > threshold || self.down > threshold
    }
}

fn slot(row: i64, season: usize) -> usize {
    if season > 1 {
        row.rem_euclid(season as i64) as usize
    } else {
        0
    }
}

fn clipped(value: f64, center: f64, deviation: f64) -> f64 {
    ((value - center) / deviation).clamp(-CLIP, CLIP)
}

fn positive(value: f64) -> bool {
    value.is_finite() && value > 0.0
}

/// Mean and deviation.
fn moments(values: &[f64]) -> (f64, f64) {
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, (squares / n).sqrt())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
#[path = "tests.rs"]
mod tests;
