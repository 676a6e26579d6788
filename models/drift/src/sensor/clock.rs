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
    /// True time since which its times lie behind.
    #[serde(default)]
    behind: Option<i64>,
}

impl Clock {
    /// Takes a reading's time; tells whether it cannot be true. `now` is true time, of a clock that dates readings as they come; where
    /// nobody vouches for one, nothing is told.
    pub(super) fn update(&mut self, time: i64, value: f64, now: Option<i64>) -> bool {
        let Some(now) = now else {
            *self = Self::default();
            return false;
        };
        if time > now.saturating_add(AHEAD_MS) {
            return true;
        }
        // The same reading twice is a repetition, not a clock.
        if self
            .last
            .is_some_and(|(last, first, _)| last == time && first == value)
        {
            return false;
        }
        if self.is_set_back(time, now) {
            return true;
        }
        match self.last {
            Some((last, _, since)) if last == time => now.saturating_sub(since) > STANDS_MS,
            _ => {
                self.last = Some((time, value, now));
                false
            }
        }
    }

    /// Behind the true time for longer than a reading may wait: the clock that dates them was set back.
    fn is_set_back(&mut self, time: i64, now: i64) -> bool {
        if time >= now.saturating_sub(AHEAD_MS) {
            self.behind = None;
            return false;
        }
        let since = *self.behind.get_or_insert(now);
        now.saturating_sub(since) > STANDS_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;

    /// What is told of readings by (time, true time), in minutes.
    fn told(clock: &mut Clock, readings: impl Iterator<Item = (i64, i64)>) -> Vec<bool> {
        let one =
            |(time, now): (i64, i64)| clock.update(time * MINUTE, time as f64, Some(now * MINUTE));
        readings.map(one).collect()
    }

    #[test]
    fn a_clock_that_was_set_back_is_told_until_it_is_right() {
        let mut clock = Clock::default();
        assert!(!told(&mut clock, (0..100).map(|t| (t, t))).contains(&true));
        let back = told(&mut clock, (100..130).map(|t| (t - 60, t)));
        assert_eq!(back[..4], [false, false, false, true]);
        assert!(back[3..].iter().all(|wrong| *wrong));
        let right = told(&mut clock, (130..140).map(|t| (t, t)));
        assert!(!right.contains(&true));
        // One reading an hour: from the second one on.
        let hourly = told(&mut clock, (3..40).map(|h| (h * 60 - 120, h * 60)));
        assert!(!hourly[0] && hourly[1..].iter().all(|wrong| *wrong));
    }

    #[test]
    fn readings_that_waited_a_little_are_of_no_wrong_clock() {
        let mut clock = Clock::default();
        told(&mut clock, (0..100).map(|t| (t, t)));
        let late = told(&mut clock, (120..400).map(|t| (t - 4, t)));
        // What lay in a queue comes at once.
        let queued = told(&mut clock, (400..460).map(|t| (t, 460)));
        let live = told(&mut clock, (461..500).map(|t| (t, t)));
        for all in [late, queued, live] {
            assert!(!all.contains(&true), "{all:?}");
        }
        // Behind a clock that ran ahead before anybody vouched for the time nothing is behind.
        let mut ahead = Clock::default();
        assert!(!ahead.update(9_000 * MINUTE, 1.0, None));
        assert!(!told(&mut ahead, (500..600).map(|t| (t, t))).contains(&true));
    }

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
