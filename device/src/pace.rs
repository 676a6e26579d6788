//! How long a model computes on this device: owns the newest times and their judgement; never measures one.

use serde::{Deserialize, Serialize};

/// Newest times that are judged together.
const WINDOW: usize = 20;
/// So many are enough on trial.
const ENOUGH: usize = 5;
/// A model on trial may take so many times as long as the last good one.
const TIMES_LAST_GOOD: u32 = 5;
/// And so many times as long as its own golden vectors took when it was loaded.
const TIMES_GOLDEN: u32 = 10;

/// What a model is held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Forecasts that prove a model.
    pub probation: u32,
    /// Most processor time of one forecast, microseconds.
    pub budget_us: u32,
    /// Below this, microseconds, no model is slow only because another is faster.
    pub floor_us: u32,
}

/// What one forecast took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Took {
    /// Processor time, microseconds; 0 where it was not measured.
    pub us: u32,
    /// The same of a golden vector when the model was loaded.
    pub golden_us: u32,
}

/// The newest times of one model, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    newest: Vec<u32>,
}

impl Pace {
    /// One more forecast.
    pub fn add(&mut self, us: u32) {
        if self.newest.len() >= WINDOW {
            self.newest.remove(0);
        }
        self.newest.push(us);
    }

    /// What 95 of 100 forecasts stay within; one time among few is an exception and not counted.
    #[must_use]
    pub fn p95(&self) -> Option<u32> {
        let mut sorted = self.newest.clone();
        sorted.sort_unstable();
        sorted
            .get(sorted.len().saturating_sub(1) * 95 / 100)
            .copied()
    }

    /// Whether enough were measured to compare others with it.
    #[must_use]
    pub fn known(&self) -> Option<u32> {
        self.p95().filter(|_| self.newest.len() >= ENOUGH)
    }

    /// Why a proven model is too slow.
    #[must_use]
    pub fn over_budget(&self, terms: &Terms) -> Option<String> {
        let full = self.newest.len() >= WINDOW;
        self.over(terms).filter(|_| full)
    }

    /// Why a model on trial is too slow. `last_good` is what the last good one takes, 0 where that is not known.
    #[must_use]
    pub fn slow(&self, terms: &Terms, last_good: u32, golden: u32) -> Option<String> {
        let probation = usize::try_from(terms.probation).unwrap_or(ENOUGH);
        if self.newest.len() < probation.min(ENOUGH) {
            return None;
        }
        let found = self.p95()?;
        let beyond = |than: u32, times: u32| {
            than > 0 && found > terms.floor_us && found > than.saturating_mul(times)
        };
        if let Some(over) = self.over(terms) {
            return Some(over);
        }
        let (than, whose) = if beyond(last_good, TIMES_LAST_GOOD) {
            (last_good, "the last good model's")
        } else if beyond(golden, TIMES_GOLDEN) {
            (golden, "its own golden vectors'")
        } else {
            return None;
        };
        Some(format!(
            "slow: a forecast takes {} ms of processor time, {whose} take {}; train a smaller model, or raise `floor_ms` under [latency]",
            millis(found),
            millis(than)
        ))
    }

    fn over(&self, terms: &Terms) -> Option<String> {
        let found = self.p95().filter(|us| *us > terms.budget_us)?;
        Some(format!(
            "slow: a forecast takes {} ms of processor time, the budget is {}; train a smaller model, or raise `budget_ms` under [latency]",
            millis(found),
            millis(terms.budget_us)
        ))
    }
}

fn millis(us: u32) -> String {
    let places = if us < 1_000 { 3 } else { 1 };
    format!("{:.places$}", f64::from(us) / 1e3)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const TERMS: Terms = Terms {
        probation: 5,
        budget_us: 100_000,
        floor_us: 10_000,
    };

    fn pace(times: &[u32]) -> Pace {
        let mut pace = Pace::default();
        times.iter().for_each(|t| pace.add(*t));
        pace
    }

    #[test]
    fn ten_times_slower_is_slow_and_one_hiccup_is_not() {
        let slow = pace(&[50_000; 5]);
        let why = slow.slow(&TERMS, 5_000, 45_000).unwrap();
        assert!(why.starts_with("slow: ") && why.contains("50.0") && why.contains("5.0"));
        assert_eq!(slow.slow(&TERMS, 11_000, 45_000), None);
        assert_eq!(slow.slow(&TERMS, 0, 0), None, "nothing to compare with");
        assert_eq!(pace(&[50_000; 4]).slow(&TERMS, 5_000, 0), None, "too few");
        let hiccup = pace(&[5_000, 5_000, 90_000, 5_000, 5_000]);
        assert_eq!(hiccup.slow(&TERMS, 5_000, 5_000), None);
        // Fast enough for anybody, however fast the other one is.
        assert_eq!(pace(&[9_000; 5]).slow(&TERMS, 10, 10), None);
    }

    #[test]
    fn live_data_that_take_far_longer_than_golden_ones_are_slow() {
        let why = pace(&[60_000; 5]).slow(&TERMS, 0, 50).unwrap();
        assert!(
            why.contains("golden") && why.contains("0.050"),
            "what takes less than a millisecond is not said to take none: {why}"
        );
    }

    #[test]
    fn the_budget_holds_on_trial_and_later() {
        let over = pace(&[120_000; 5]);
        assert!(over.slow(&TERMS, 0, 0).unwrap().contains("budget"));
        assert_eq!(over.over_budget(&TERMS), None, "a proven one has twenty");
        let mut over = pace(&[120_000; 20]);
        assert!(over.over_budget(&TERMS).is_some());
        over = serde_json::from_slice(&serde_json::to_vec(&over).unwrap()).unwrap();
        for _ in 0..20 {
            over.add(1_000);
        }
        assert_eq!((over.over_budget(&TERMS), over.p95()), (None, Some(1_000)));
    }
}
