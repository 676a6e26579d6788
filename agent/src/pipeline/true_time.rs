//! What time it truly is after somebody set the clock: owns that judgement as a pure function of clock readings, never reads a clock.

use fieldcast_features::Millis;

/// The wall clock may move so far against the monotonic one by itself.
const STEP_MS: Millis = 300_000;
/// A time source that vouches for the clock would have put it right within so long.
const MEANT_MS: Millis = 2 * 3_600_000;

/// Follows the wall clock of one process by the monotonic one, which nobody can set.
///
/// ```text
///   unknown ──synchronised──► followed ──set back──► set back ──right again, or for two hours──► followed
///      ▲                         │                      │
///      └─────────────────────nobody vouches─────────────┘
/// ```
/// A clock that is set forward is believed: so a time source puts right what stood still while a machine slept.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) enum TrueTime {
    /// Nobody vouches for the clock.
    #[default]
    Unknown,
    /// Wall time less monotonic time.
    Followed(Millis),
    /// The clock was set back.
    SetBack {
        /// Wall time less monotonic time before.
        before: Millis,
        /// By the monotonic clock.
        since: Millis,
    },
}

impl TrueTime {
    /// The true time by the machine's clocks, where somebody vouches for the wall clock.
    pub(super) fn now(
        &mut self,
        (wall, monotonic): (Millis, Millis),
        synchronised: bool,
    ) -> Option<Millis> {
        if !synchronised {
            *self = Self::Unknown;
            return None;
        }
        let offset = wall.saturating_sub(monotonic);
        let back = |from: Millis| offset < from.saturating_sub(STEP_MS);
        *self = match *self {
            Self::Followed(before) if back(before) => Self::SetBack {
                before,
                since: monotonic,
            },
            Self::SetBack { before, since }
                if back(before) && monotonic.saturating_sub(since) <= MEANT_MS =>
            {
                Self::SetBack { before, since }
            }
            // The two clocks drift apart, slowly.
            Self::Unknown | Self::Followed(_) | Self::SetBack { .. } => Self::Followed(offset),
        };
        match *self {
            Self::SetBack { before, .. } => Some(monotonic.saturating_add(before)),
            Self::Unknown | Self::Followed(_) => Some(wall),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use fieldcast_wire::{Reading, RecordBody, pb};

    use super::*;
    use crate::pipeline::sensors::Sensors;

    const HOUR: Millis = 3_600_000;

    #[test]
    fn a_clock_that_is_set_back_does_not_take_true_time_along() {
        let mut time = TrueTime::default();
        let wall = 1_000 * HOUR;
        assert_eq!(time.now((wall, 5), false), None);
        assert_eq!(time.now((wall, 5), true), Some(wall));
        // Slewed by ten seconds an hour, which no step is.
        for hour in 1..200 {
            let slewed = wall + hour * (HOUR + 10_000);
            assert_eq!(time.now((slewed, 5 + hour * HOUR), true), Some(slewed));
        }
        let (wall, monotonic) = (wall + 199 * (HOUR + 10_000), 5 + 199 * HOUR);
        let later = monotonic + HOUR;
        assert_eq!(time.now((wall - 3 * HOUR, later), true), Some(wall + HOUR));
        // Put right again.
        let right = wall + 2 * HOUR;
        assert_eq!(time.now((right, later + HOUR), true), Some(right));
        assert!(matches!(time, TrueTime::Followed(_)));
    }

    #[test]
    fn readings_that_a_clock_dated_which_was_set_back_are_bad_and_told() {
        let mut time = TrueTime::default();
        let mut sensors = Sensors::default();
        sensors.meet("t", None);
        let (mut grades, mut told) = (Vec::new(), Vec::new());
        for minute in 0..60 {
            let monotonic = minute * 60_000;
            let set_back = if minute < 40 { 0 } else { 3 * HOUR };
            let wall = 1_000 * HOUR + monotonic - set_back;
            let now = time.now((wall, monotonic), true).unwrap();
            let mut reading = Reading {
                sensor: "t".into(),
                time: wall,
                value: minute as f64,
                quality: 0,
                time_source: pb::TimeSource::Device,
            };
            let mut state = Vec::new();
            sensors.judge(&mut reading, (now, true), &mut told, &mut state);
            grades.push(reading.quality);
        }
        assert!(grades[..43].iter().all(|g| *g == 0) && grades[43..].iter().all(|g| *g == 2));
        let alarm = |r: &RecordBody| matches!(r, RecordBody::Alarm(a) if a.code == "sensor_clock" && a.raised);
        assert_eq!(told.iter().filter(|r| alarm(r)).count(), 1, "{told:?}");
    }

    #[test]
    fn a_time_that_a_source_vouches_for_long_after_the_step_is_believed() {
        let mut time = TrueTime::default();
        time.now((9 * HOUR, 0), true);
        let set = |t: Millis| (2 * HOUR + t, t);
        assert_eq!(time.now(set(1), true), Some(9 * HOUR + 1));
        assert_eq!(time.now(set(2 * HOUR), true), Some(11 * HOUR));
        assert_eq!(time.now(set(2 * HOUR + 2), true), Some(4 * HOUR + 2));
    }

    #[test]
    fn nothing_is_judged_while_nobody_vouches_and_a_step_forward_is_right() {
        let mut time = TrueTime::default();
        time.now((9 * HOUR, 0), true);
        assert_eq!(time.now((2 * HOUR, 1), false), None);
        assert_eq!(time.now((2 * HOUR, 2), true), Some(2 * HOUR));
        assert_eq!(time.now((7 * HOUR, 3), true), Some(7 * HOUR));
        assert_eq!(time, TrueTime::Followed(7 * HOUR - 3));
    }
}
