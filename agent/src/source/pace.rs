//! How fast a replay goes: owns when a row of the data's time is due in process time; never waits itself.

use std::time::{Duration, Instant};

use fieldcast_features::Millis;

/// Ties the data's time to process time at the first row.
#[derive(Debug, Clone)]
pub struct Pace {
    speed: f64,
    anchor: Option<(Millis, Instant)>,
}

impl Pace {
    /// `speed` in data seconds a wall second; 0 makes every row due at once.
    #[must_use]
    pub fn new(speed: f64) -> Self {
        Self {
            speed,
            anchor: None,
        }
    }

    /// How long until a row of data time `time` is due.
    pub fn wait(&mut self, time: Millis, now: Instant) -> Duration {
        if self.speed <= 0.0 {
            return Duration::ZERO;
        }
        let (data, wall) = *self.anchor.get_or_insert((time, now));
        #[allow(
            clippy::cast_precision_loss,
            reason = "a replay spans far less than 2^53 milliseconds"
        )]
        let ahead = (time - data) as f64 / 1_000.0 / self.speed;
        let due = Duration::try_from_secs_f64(ahead.max(0.0)).unwrap_or(Duration::MAX);
        due.saturating_sub(now.saturating_duration_since(wall))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_due_at_the_stated_speed() {
        let now = Instant::now();
        let mut pace = Pace::new(3_600.0);
        assert_eq!(pace.wait(0, now), Duration::ZERO);
        assert_eq!(pace.wait(3_600_000, now), Duration::from_secs(1));
        let later = now + Duration::from_millis(400);
        assert_eq!(pace.wait(3_600_000, later), Duration::from_millis(600));
        assert_eq!(pace.wait(-5, later), Duration::ZERO);
        assert_eq!(Pace::new(0.0).wait(1 << 50, now), Duration::ZERO);
    }
}
