//! Welch's t for two means whose variances may differ: owns the interval, never what is compared.

use crate::special::student_critical;

/// Number, mean and variance of values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Moments {
    pub(super) count: usize,
    pub(super) mean: f64,
    pub(super) variance: f64,
}

impl Moments {
    pub(super) fn of(values: impl Iterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.collect();
        let count = values.len();
        let mean = values.iter().sum::<f64>() / count.max(1) as f64;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        Self {
            count,
            mean,
            variance: squares / count.saturating_sub(1).max(1) as f64,
        }
    }

    /// The squares of the distances from the mean, summed.
    pub(super) fn squares(self) -> f64 {
        self.variance * self.count.saturating_sub(1) as f64
    }
}

/// The difference B - A with half the width of its interval.
pub(super) struct Welch {
    pub(super) difference: f64,
    pub(super) half: f64,
    pub(super) freedom: f64,
    pub(super) t: f64,
}

/// None where neither arm's values differ among themselves.
pub(super) fn welch(a: Moments, b: Moments, level: f64) -> Option<Welch> {
    let part = |m: Moments| m.variance / m.count as f64;
    let of_freedom = |m: Moments| part(m).powi(2) / (m.count as f64 - 1.0);
    let square = part(a) + part(b);
    let freedom = square * square / (of_freedom(a) + of_freedom(b));
    let difference = b.mean - a.mean;
    let error = square.sqrt();
    (square > 0.0 && freedom.is_finite()).then(|| Welch {
        difference,
        half: student_critical(1.0 - level, freedom) * error,
        freedom,
        t: difference / error,
    })
}
