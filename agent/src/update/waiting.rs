//! Bundles that are fetched later: owns since when each order waits and how long, never a download.

use std::collections::BTreeMap;
use std::time::Duration;

use fieldcast_features::Millis;
use tokio::time::Instant;

use super::machine::Target;

/// A bundle for which there was no room is tried again after this process time.
const ROOM_AGAIN: Duration = Duration::from_secs(30);
/// Whole bundles that turned out to be others wait longer each time, so long at most: a link that is paid by the byte is not filled with
/// what some fault, or somebody, makes of it.
const ANEW_AT_MOST: Duration = Duration::from_secs(6 * 3_600);

/// Orders whose bundle cannot be fetched now, by forecaster.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    orders: BTreeMap<String, (Target, Instant)>,
    /// How often a whole bundle (digest) was another one.
    wrong: BTreeMap<String, u32>,
}

impl Waiting {
    /// There is no room for it.
    pub(super) fn for_room(&mut self, forecaster: &str, target: Target, now: Instant) {
        let due = now + ROOM_AGAIN;
        self.orders.insert(forecaster.to_owned(), (target, due));
    }

    /// What came is another file; how long it waits.
    pub(super) fn behind_another(
        &mut self,
        forecaster: &str,
        sha: &str,
        target: Target,
        now: Instant,
    ) -> Duration {
        let times = self.wrong.entry(sha.to_owned()).or_default();
        let pause = pause(*times);
        *times = times.saturating_add(1);
        let due = now + pause;
        self.orders.insert(forecaster.to_owned(), (target, due));
        pause
    }

    /// A bundle is whole.
    pub(super) fn fetched(&mut self, sha: &str) {
        self.wrong.remove(sha);
    }

    /// It waits no longer.
    pub(super) fn remove(&mut self, forecaster: &str) {
        self.orders.remove(forecaster);
    }

    /// Takes out what is tried again now, and what has expired by the time of the clock.
    pub(super) fn due(&mut self, time: Millis, now: Instant) -> Vec<(String, Target)> {
        let over = |target: &Target, due: &Instant| time >= target.expires || *due <= now;
        let (due, left): (BTreeMap<_, _>, _) = std::mem::take(&mut self.orders)
            .into_iter()
            .partition(|(_, (target, due))| over(target, due));
        self.orders = left;
        due.into_iter()
            .map(|(forecaster, (target, _))| (forecaster, target))
            .collect()
    }
}

/// None for the first one: a block may have been damaged on its way.
fn pause(times: u32) -> Duration {
    match times {
        0 => Duration::ZERO,
        n => ROOM_AGAIN
            .saturating_mul(2_u32.saturating_pow(n))
            .min(ANEW_AT_MOST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(expires: Millis) -> Target {
        Target {
            bundle: None,
            size: 5,
            shadow: false,
            generation: 1,
            attempt: 1,
            expires,
        }
    }

    #[test]
    fn what_comes_wrong_again_and_again_waits_longer_each_time_and_what_expires_does_not() {
        let mut waiting = Waiting::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let pause = waiting.behind_another("f", "abc", target(100), now);
            pauses.push(pause.as_secs());
            if !pause.is_zero() {
                assert_eq!(waiting.due(1, now), []);
            }
            now += pause;
            assert_eq!(waiting.due(1, now).len(), 1);
        }
        assert_eq!(pauses[..4], [0, 60, 120, 240]);
        assert_eq!(pauses[11], 6 * 3_600);
        waiting.fetched("abc");
        let again = waiting.behind_another("f", "abc", target(100), now);
        assert_eq!(again, Duration::ZERO);
        waiting.for_room("g", target(100), now);
        assert_eq!(waiting.due(100, now).len(), 2, "the order is over");
        assert_eq!(waiting.due(100, now), []);
    }
}
