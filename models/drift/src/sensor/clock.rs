//! Does a sensor's clock go wrong: owns what its readings' times say of it, never a value.

use serde::{Deserialize, Serialize};

/// For so long may readings come with one and the same time: a time may be written in seconds, or minutes.
const STANDS_MS: i64 = 120_000;
/// How far ahead of true time a reading may lie: clocks tremble.
const AHEAD_MS: i64 = 300_000;

/// Times that went back keep pace with the true one by this share of it, or they are old readings that come late.
const PACE: i64 = 4;

/// After so long a time that is behind is believed.
const MEANT_MS: i64 = 86_400_000;

/// Where times that went back began.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Behind {
    time: i64,
    /// True time then.
    now: i64,
}

/// Watches one sensor's times.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Clock {
    /// The last time, the value that came first with it, and the true time then.
    last: Option<(i64, f64, i64)>,
    /// The furthest time of all, since one was right.
    #[serde(default)]
    furthest: Option<i64>,
    #[serde(default)]
    behind: Option<Behind>,
}

impl Clock {
    /// Takes a reading's time; tells whether it cannot be true. `now` is true time; where nobody vouches for one, nothing is
    /// told.
    pub(super) fn update(&mut self, time: i64, value: f64, now: Option<i64>) -> bool {
        let Some(now) = now else {
            *self = Self::default();
            return false;
        };
        if time > now.saturating_add(AHEAD_MS) {
            return true;
        }
        if self.is_set_back(time, now) {
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

    /// Behind where the sensor's time has been, and going on from there as fast as true time does: a clock that was set back, until it is
    /// right or for a day, after which it is meant. What is only late comes together, or goes on behind what came before.
    fn is_set_back(&mut self, time: i64, now: i64) -> bool {
        let right = time >= now.saturating_sub(AHEAD_MS);
        let again = self.behind.filter(|_| !right).and_then(|began| {
            let went = time.saturating_sub(began.time);
            let passed = now.saturating_sub(began.now);
            let pace = passed / PACE;
            let most = passed.saturating_add(pace).saturating_add(STANDS_MS);
            let keeps = (0..=most).contains(&went) && passed < MEANT_MS;
            keeps.then_some(passed > STANDS_MS && went >= passed - pace)
        });
        if let Some(wrong) = again {
            return wrong;
        }
        let on = right || self.furthest.is_none_or(|furthest| time >= furthest) || self.meant(now);
        self.behind = (!on).then_some(Behind { time, now });
        if on {
            self.furthest = Some(time);
        }
        false
    }

    fn meant(&self, now: i64) -> bool {
        self.behind
            .is_some_and(|began| now.saturating_sub(began.now) >= MEANT_MS)
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
        // One reading an hour: for a day, after which that is how it is.
        let hourly = told(&mut clock, (3..40).map(|h| (h * 60 - 120, h * 60)));
        let wrong: Vec<usize> = (0..hourly.len()).filter(|i| hourly[*i]).collect();
        assert_eq!(wrong, (1..24).collect::<Vec<usize>>());
    }

    #[test]
    fn readings_that_come_late_are_of_no_wrong_clock() {
        let mut clock = Clock::default();
        told(&mut clock, (0..100).map(|t| (t, t)));
        // A day that was stored elsewhere, at once and over some minutes; then a sensor that is always late.
        let stored = told(&mut clock, (0..100).map(|t| (t - 1_000, 100)));
        let slowly = told(&mut clock, (0..600).map(|t| (t - 1_000, 100 + t / 60)));
        let live = told(&mut clock, (110..120).map(|t| (t, t)));
        let late = told(&mut clock, (120..400).map(|t| (t - 4, t)));
        let backwards = told(&mut clock, (400..500).map(|t| (800 - 2 * t - 400, t)));
        for all in [stored, slowly, live, late, backwards] {
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
