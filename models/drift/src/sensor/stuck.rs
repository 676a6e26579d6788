//! Does a sensor repeat itself: owns for how long a channel stays at a value, never the value.

use serde::{Deserialize, Serialize};

use super::{SPACING_MS, SensorLimits};

/// What is stuck repeats itself this many times as often as the channel ever did before.
const FACTOR: u32 = 2;
/// For so long, and up to as long again, it is remembered how long a channel stays the same.
const REMEMBER_MS: i64 = 30 * 86_400_000;
/// What is called stuck so often within that is how the channel is.
const CALLED: u32 = 3;
/// A gap so many times as long as is usual between readings that are alike ends a stay: what lay in it nobody knows.
const GAP: i64 = 10;

/// What is kept of one channel; numbers are of readings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stays {
    /// The present stay.
    same: u32,
    /// Time of the first of them that repeats the one before.
    repeats_since: Option<i64>,
    /// Begin of the present span of [`REMEMBER_MS`].
    span: i64,
    /// The longest stay of it, and that of the span before.
    longest: (u32, u32),
    /// Stays of it that were called stuck.
    called: u32,
    /// They have been so many once that it was taken for how the channel is.
    believed: bool,
}

impl Stays {
    /// Takes a reading that is the `same` as the one `before`, or is not, and tells whether the channel is stuck; `was`: it is so far.
    pub(super) fn update(
        &mut self,
        (time, before): (i64, Option<i64>),
        same: bool,
        was: bool,
        limits: &SensorLimits,
    ) -> bool {
        let gap = before.map_or(0, |before| time.saturating_sub(before));
        if !same || gap / GAP > self.pace(before).unwrap_or(gap).max(SPACING_MS) {
            self.end(time, was);
            return false;
        }
        self.same = self.same.saturating_add(1);
        let since = *self.repeats_since.get_or_insert(time);
        let usual = match limits.stuck_for_ms {
            0 => 0,
            _ => self.longest.0.max(self.longest.1).saturating_mul(FACTOR),
        };
        limits.stuck_after > 0
            && self.same >= limits.stuck_after.max(usual)
            && time.saturating_sub(since) >= limits.stuck_for_ms
    }

    /// Time of the first reading of the present stay that repeats the one before.
    pub(super) fn since(&self) -> Option<i64> {
        self.repeats_since
    }

    /// Whether the channel was called stuck so often within a month that this was taken for how it is.
    pub(super) fn is_believed(&self) -> bool {
        self.believed
    }

    /// Usual milliseconds between readings of the present stay.
    fn pace(&self, before: Option<i64>) -> Option<i64> {
        let steps = self.same.checked_sub(2).filter(|steps| *steps > 0)?;
        Some(before?.saturating_sub(self.repeats_since?) / i64::from(steps))
    }

    fn end(&mut self, time: i64, was_stuck: bool) {
        let spans = time.saturating_sub(self.span) / REMEMBER_MS;
        if spans > 0 {
            let before = if spans == 1 { self.longest.0 } else { 0 };
            (self.span, self.longest, self.called) = (time, (0, before), 0);
        }
        self.called += u32::from(was_stuck);
        self.believed |= self.called >= CALLED;
        if !was_stuck || self.called >= CALLED {
            self.longest.0 = self.longest.0.max(self.same);
        }
        (self.same, self.repeats_since) = (1, None);
    }
}
