//! Does a sensor's clock go wrong: owns what its readings' times say of it, never a value.

use serde::{Deserialize, Serialize};

/// Readings of one time with different values from which on a clock stands still.
const STANDS: u32 = 5;
/// How far ahead of true time a reading may lie: clocks tremble.
const AHEAD_MS: i64 = 300_000;

/// Watches one sensor's times.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Clock {
    last: Option<(i64, f64)>,
    same: u32,
}

impl Clock {
    /// Takes a reading's time; tells whether it cannot be true. `now` is true time, where somebody vouches for it.
    pub(super) fn update(&mut self, time: i64, value: f64, now: Option<i64>) -> bool {
        self.same = match self.last {
            // The same reading twice is a repetition, not a clock.
            Some((last, before)) if last == time && before == value => self.same,
            Some((last, _)) if last == time => self.same.saturating_add(1),
            _ => 1,
        };
        self.last = Some((time, value));
        let ahead = now.is_some_and(|now| time > now.saturating_add(AHEAD_MS));
        ahead || self.same >= STANDS
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
        let told: Vec<bool> = (0..7)
            .map(|i| clock.update(50, f64::from(i), None))
            .collect();
        assert_eq!(told, [false, false, false, false, true, true, true]);
        assert!(!clock.update(51, 1.0, None));
        let mut again = Clock::default();
        assert!((0..20).all(|_| !again.update(50, 2.0, None)));
    }
}
