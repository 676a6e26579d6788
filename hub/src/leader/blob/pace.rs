//! How fast blocks go out: owns the rate for the whole broker, pure; never waits itself.
//!
//! Faster step by step while the connection takes blocks at once, half as fast when it lets one wait: acknowledgements and
//! orders go the same way and must not stand behind many blocks. Within the embedded broker's process nothing waits: there the
//! most is the pace, and a device's blocks, as many as it may ask for at once, wait in the broker for its connection alone.

use std::time::Duration;

/// Bytes a second: the first, the least and the most.
const RATE: (f64, f64, f64) = (16e6, 1e6, 64e6);
/// Added for each second without a wait.
const FASTER: f64 = 4e6;
/// A block that waited longer found the connection full.
const FULL: Duration = Duration::from_millis(20);

/// The pace.
#[derive(Debug)]
pub(super) struct Pace {
    rate: f64,
    /// Time owed or gained by timers that are coarser than a block.
    debt: f64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            rate: RATE.0,
            debt: 0.0,
        }
    }
}

/// Timers are no finer than this: shorter waits are saved up.
const FINEST: f64 = 0.002;

impl Pace {
    /// A block of so many bytes was sent after the connection let it wait so long; how long to wait before the next.
    pub(super) fn sent(&mut self, bytes: usize, waited: Duration) -> Duration {
        #[allow(clippy::cast_precision_loss, reason = "a block")]
        let takes = bytes as f64 / self.rate;
        if waited >= FULL {
            self.rate = (self.rate / 2.0).max(RATE.1);
            // What waited by itself need not wait again, and no faster burst may follow.
            self.debt = 0.0;
        } else {
            self.rate = (self.rate + FASTER * takes).min(RATE.2);
            self.debt += takes - waited.as_secs_f64();
        }
        if self.debt < FINEST {
            self.debt = self.debt.max(-FINEST);
            return Duration::ZERO;
        }
        Duration::from_secs_f64(std::mem::take(&mut self.debt))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds until so many blocks of 32 KiB are sent.
    fn sends(pace: &mut Pace, blocks: usize, waited: Duration) -> f64 {
        let each = |_| (pace.sent(32_768, waited) + waited).as_secs_f64();
        (0..blocks).map(each).sum()
    }

    #[test]
    fn a_willing_connection_gets_the_most_and_never_more() {
        let mut pace = Pace::default();
        let first = sends(&mut pace, 1_000, Duration::ZERO);
        assert!((1.6..2.1).contains(&first), "{first}");
        sends(&mut pace, 100_000, Duration::ZERO);
        let last = sends(&mut pace, 10_000, Duration::ZERO);
        let rate = 10_000.0 * 32_768.0 / last;
        assert!((0.95 * RATE.2..=1.01 * RATE.2).contains(&rate), "{rate}");
        // 10,000 devices with 300 KB each.
        assert!(sends(&mut Pace::default(), 100_000, Duration::ZERO) < 100.0);
    }

    #[test]
    fn a_full_connection_slows_it_down_to_the_least() {
        let mut pace = Pace::default();
        sends(&mut pace, 10, Duration::from_millis(100));
        assert_eq!(pace.rate, RATE.1);
        let slow = sends(&mut pace, 10, Duration::ZERO);
        assert!(slow > 0.2, "{slow}");
    }
}
