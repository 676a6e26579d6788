//! CUSUM: owns the upper cumulative sum of standardised values and the threshold for a stated run time, never a calibration.

use serde::{Deserialize, Serialize};

use crate::StatError;

/// Siegmund's correction for the overshoot of a normal random walk, in standard deviations on both ends together.
const OVERSHOOT: f64 = 1.166;

/// Expected number of undrifted values until an upper CUSUM passes `h` (Siegmund, Sequential Analysis, 1985, ch. 2):
/// (e^x - 1 - x) v / (2 k²) with x = 2 k (h + 1.166 sqrt(v)) / v, `k` the reference value in deviations and
/// `v` the long-run variance over the variance, (1 + r) / (1 - r) for lag-1 autocorrelation r (1 for independent ones).
#[must_use]
pub fn average_run_length(k: f64, h: f64, inflation: f64) -> f64 {
    let x = 2.0 * k * (h + OVERSHOOT * inflation.sqrt()) / inflation;
    (x.exp_m1() - x) * inflation / (2.0 * k * k)
}

/// The threshold at which [`average_run_length`] is `run_length` (at least 0).
#[must_use]
pub fn threshold_for(run_length: f64, k: f64, inflation: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    while average_run_length(k, high, inflation) < run_length && high < 1e9 {
        high *= 2.0;
    }
    for _ in 0..200 {
        let middle = f64::midpoint(low, high);
        if average_run_length(k, middle, inflation) < run_length {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

/// S <- max(0, S + z - k); an alarm where S > h.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cusum {
    k: f64,
    h: f64,
    sum: f64,
    since: u64,
}

impl Cusum {
    /// Reference value `k` and threshold `h`, both in deviations.
    ///
    /// # Errors
    /// [`StatError::Parameter`] unless both are finite, k >= 0 and h > 0.
    pub fn new(k: f64, h: f64) -> Result<Self, StatError> {
        let fail = |parameter, problem: &str| {
            Err(StatError::Parameter {
                subject: "CUSUM",
                parameter,
                problem: problem.into(),
            })
        };
        if !k.is_finite() || k < 0.0 {
            return fail("k", "must be 0 or more");
        }
        if !h.is_finite() || h <= 0.0 {
            return fail("h", "must be above 0");
        }
        Ok(Self {
            k,
            h,
            sum: 0.0,
            since: 0,
        })
    }

    /// Takes a standardised value; true = the sum is above the threshold. The sum is held at twice the threshold, so that
    /// it can come back.
    pub fn update(&mut self, z: f64) -> bool {
        if z.is_finite() {
            self.sum = (self.sum + z - self.k).clamp(0.0, 2.0 * self.h);
            self.since = if self.sum > 0.0 { self.since + 1 } else { 0 };
        }
        self.sum > self.h
    }

    /// The sum.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// The threshold.
    #[must_use]
    pub fn threshold(&self) -> f64 {
        self.h
    }

    /// Values since the sum last left zero: the estimate of when the change began.
    #[must_use]
    pub fn since(&self) -> u64 {
        self.since
    }

    /// Back to zero.
    pub fn reset(&mut self) {
        self.sum = 0.0;
        self.since = 0;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn thresholds_agree_with_tables() {
        // Montgomery, Statistical Quality Control, table 9.3: k 0.5, two-sided ARL 168 (h 4) and 465 (h 5).
        assert!((average_run_length(0.5, 4.0, 1.0) / (2.0 * 168.0) - 1.0).abs() < 0.02);
        assert!((average_run_length(0.5, 5.0, 1.0) / (2.0 * 465.0) - 1.0).abs() < 0.02);
        assert!(
            (average_run_length(0.5, threshold_for(1_500.0, 0.5, 3.0), 3.0) - 1_500.0).abs() < 1e-6
        );
        assert!(threshold_for(1_500.0, 0.5, 3.0) > threshold_for(1_500.0, 0.5, 1.0));
    }

    #[test]
    fn hostile_values_leave_the_sum() {
        let mut c = Cusum::new(0.5, 5.0).unwrap();
        assert!(!c.update(f64::NAN) && !c.update(f64::INFINITY) && c.sum() == 0.0);
        assert!(c.update(1e300) && c.sum() == 10.0);
        assert!(Cusum::new(f64::NAN, 1.0).is_err() && Cusum::new(0.5, 0.0).is_err());
    }
}
