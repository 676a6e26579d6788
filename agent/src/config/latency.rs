//! How long a model may compute: owns the keys of `[latency]` and their defaults; never measures.

use fieldcast_features::Millis;
use serde::Deserialize;

use crate::update::pace::Terms;

/// Without a budget of its own, a forecast may take this share of its period, as one part in so many.
const SHARE: Millis = 10;
/// But no more than this, milliseconds.
const MOST_MS: u64 = 2_000;

/// How long a model may compute, processor time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LatencyConfig {
    /// Most of one forecast, milliseconds; without it a tenth of the forecaster's period, and two seconds at most.
    pub budget_ms: Option<u64>,
    /// Below this, milliseconds, a new model may be as many times slower than the last good one as it likes.
    pub floor_ms: u64,
}

impl Default for LatencyConfig {
    fn default() -> Self {
        Self {
            budget_ms: None,
            floor_ms: 10,
        }
    }
}

impl LatencyConfig {
    /// What a model is held to, on a grid of this period.
    #[must_use]
    pub fn terms(&self, probation: u32, period: Millis) -> Terms {
        let share = u64::try_from(period / SHARE).unwrap_or(0).max(1);
        let micros = |ms: u64| u32::try_from(ms.saturating_mul(1_000)).unwrap_or(u32::MAX);
        Terms {
            probation,
            budget_us: micros(self.budget_ms.unwrap_or(share.min(MOST_MS))),
            floor_us: micros(self.floor_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_follows_the_period_up_to_two_seconds_unless_it_is_given() {
        let default = LatencyConfig::default();
        assert_eq!(default.terms(5, 3_600_000).budget_us, 2_000_000);
        assert_eq!(default.terms(5, 1_000).budget_us, 100_000);
        assert_eq!(default.terms(5, 1).budget_us, 1_000);
        let given = LatencyConfig {
            budget_ms: Some(7),
            floor_ms: 1,
        };
        let terms = given.terms(5, 3_600_000);
        assert_eq!(
            (terms.budget_us, terms.floor_us, terms.probation),
            (7_000, 1_000, 5)
        );
    }
}
