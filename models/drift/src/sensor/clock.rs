//! Does a sensor's clock go wrong: owns what its readings' times say of it, never a value.

use serde::{Deserialize, Serialize};

/// For so long may readings come with one and the same time: a time may be written in seconds, or minutes.
const STANDS_MS: i64 = 120_000;
/// How far ahead of true time a reading may lie: clocks tremble.
const AHEAD_MS: i64 = 300_000;

/// Watches one sensor's times.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Clock {
    /// The last time, the value that came first with it, and the true time then.
    last: Option<(i64, f64, i64)>,
}

impl Clock {
    /// Takes a reading's time; tells whether it cannot be true. `now` is true time; where nobody vouches for one, nothing is
    /// told.
    pub(super) fn update(&mut self, time: i64, value: f64, now: Option<i64>) -> bool {
        let Some(now) = now else {
            self.last = None;
            return false;
        };
        if time > now.saturating_add(AHEAD_MS) {
            return true;
        }
        match self.last {
            // The same reading twice is a repetition, not a clock.
            Some((last, first, since)) if last == time => {
                value != first && now.saturating_sub(since) > STANDS_MS
            }
            _ => {
                self.last = Some((time, value, now));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_ahead_of_the_true_one_and_times_that_stand_still_are_told() {
        let mut clock = Clock::default();
        assert!(!clock.update(1_000, 1.0, Some(0)));
        assert!(clock.update(AHEAD_MS + 2_000, 1.0, Some(1_000)));
        assert!(
            !clock.update(AHEAD_MS + 3_000, 1.0, None),
            "nobody knows the true time"
        );
        let mut clock = Clock::default();
        let told: Vec<bool> = (0..6_i32)
            .map(|i| clock.update(50, f64::from(i), Some(i64::from(i) * 50_000)))
            .collect();
        assert_eq!(told, [false, false, false, true, true, true]);
        assert!(!clock.update(51, 1.0, Some(300_000)));
        let mut coarse = Clock::default();
        let seconds = (0..600_i64).map(|i| (i / 10 * 1_000, i as f64, i * 100));
        assert!(seconds.fold(true, |ok, (t, v, now)| ok
            && !coarse.update(t, v, Some(now))));
        let mut again = Clock::default();
        assert!((0..20).all(|i| !again.update(50, 2.0, Some(i * 100_000))));
    }
}
