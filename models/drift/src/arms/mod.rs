//! Do two arms of randomised devices differ: owns effect, interval and p-value, never who is in which arm.
//!
//! The device is what was randomised, so the device is what is counted: one value each, however many readings are behind it.
//! `adjust` takes out of a value what was known of its device before, `welch` has the interval, `shuffle` the p-value, `size` what
//! a number of devices can show and whether the arms' numbers are as they were drawn, `outlying` who alone decides a mean.
//! All of it is of a fixed horizon: it holds once, at the time that was stated beforehand.

mod adjust;
mod outlying;
mod shuffle;
mod size;
#[cfg(test)]
mod tests;
mod welch;

use serde::{Deserialize, Serialize};

pub use outlying::{median, outlying};
pub use size::{detectable, imbalance, unlike_losses};

use crate::StatError;
use welch::Moments;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arm {
    /// What is compared with.
    A,
    /// What is compared.
    B,
}

/// One device's outcome.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Its arm.
    pub arm: Arm,
    /// Its value over the time of the experiment.
    pub value: f64,
    /// The same before it joined, where it is known.
    pub before: Option<f64>,
}

/// One arm's values, as they were measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Devices with a value.
    pub devices: usize,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation; 0 for one device.
    pub deviation: f64,
}

/// How the arms differ: B less A.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// The estimate.
    pub difference: f64,
    /// Lower end of the interval.
    pub lower: f64,
    /// Upper end.
    pub upper: f64,
    /// Share of experiments whose interval holds the true difference.
    pub level: f64,
    /// Welch's degrees of freedom.
    pub freedom: f64,
    /// Share of random assignments under which arms without a difference would be as far apart.
    pub p: f64,
    /// The difference of the values as they were measured.
    pub unadjusted: f64,
    /// Share of the variance within the arms that devices' values from before took out; absent where too few were known.
    pub explained: Option<f64>,
}

/// A comparison of two arms.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Arm A.
    pub a: Summary,
    /// Arm B.
    pub b: Summary,
    /// B less A.
    pub effect: Effect,
}

/// Compares two arms; `seed` draws the assignments behind the p-value, so that asking again gives the same.
///
/// # Errors
/// Fewer than two devices in an arm, values that are all the same, or one that is not finite.
pub fn compare(outcomes: &[Outcome], level: f64, seed: u64) -> Result<Comparison, StatError> {
    let few = |needed| StatError::TooFew {
        statistic: "the difference of two arms",
        needed,
    };
    let finite = |o: &Outcome| o.value.is_finite() && o.before.is_none_or(f64::is_finite);
    if !outcomes.iter().all(finite) {
        return Err(few("finite values"));
    }
    let measured: Vec<f64> = outcomes.iter().map(|o| o.value).collect();
    let adjusted = adjust::adjust(outcomes);
    let values = adjusted.as_ref().unwrap_or(&measured);
    let arm = |values: &[f64], arm: Arm| {
        let of = outcomes.iter().zip(values).filter(|(o, _)| o.arm == arm);
        Moments::of(of.map(|(_, v)| *v))
    };
    let (a, b) = (arm(&measured, Arm::A), arm(&measured, Arm::B));
    if a.count < 2 || b.count < 2 {
        return Err(few("two devices in each arm"));
    }
    let (in_a, in_b) = (arm(values, Arm::A), arm(values, Arm::B));
    let welch = welch::welch(in_a, in_b, level);
    let welch = welch.ok_or_else(|| few("devices whose values differ"))?;
    let explained = 1.0 - (in_a.squares() + in_b.squares()) / (a.squares() + b.squares());
    Ok(Comparison {
        a: a.into(),
        b: b.into(),
        effect: Effect {
            difference: welch.difference,
            lower: welch.difference - welch.half,
            upper: welch.difference + welch.half,
            level,
            freedom: welch.freedom,
            p: shuffle::p(values, b.count, welch.t.abs(), seed),
            unadjusted: b.mean - a.mean,
            explained: adjusted
                .as_ref()
                .map(|_| explained)
                .filter(|e| e.is_finite()),
        },
    })
}

impl Summary {
    /// Of one value each device.
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        Moments::of(values).into()
    }
}

impl From<Moments> for Summary {
    fn from(m: Moments) -> Self {
        Self {
            devices: m.count,
            mean: m.mean,
            deviation: m.variance.sqrt(),
        }
    }
}
