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
    orders: BTreeMap<String, Order>,
    /// How often a whole bundle (digest) was another one.
    wrong: BTreeMap<String, u32>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) target: Target,
    /// Why it waits.
    pub(super) reason: String,
    due: Instant,
}

impl Waiting {
    /// It cannot be written.
    pub(super) fn for_room(
        &mut self,
        forecaster: &str,
        target: Target,
        reason: &str,
        now: Instant,
    ) {
        let order = Order {
            target,
            reason: reason.to_owned(),
            due: now + ROOM_AGAIN,
        };
        self.orders.insert(forecaster.to_owned(), order);
    }

    /// What came is another file; the reason for people.
    pub(super) fn behind_another(
        &mut self,
        forecaster: &str,
        sha: &str,
        target: Target,
        now: Instant,
    ) -> String {
        let times = self.wrong.entry(sha.to_owned()).or_default();
        let pause = pause(*times);
        *times = times.saturating_add(1);
        let reason = format!(
            "the blocks that came are not the bundle, it is fetched anew in {} s; check the hub's copy or order another version",
            pause.as_secs()
        );
        let order = Order {
            target,
            reason: reason.clone(),
            due: now + pause,
        };
        self.orders.insert(forecaster.to_owned(), order);
        reason
    }

    /// A bundle is whole.
    pub(super) fn fetched(&mut self, sha: &str) {
        self.wrong.remove(sha);
    }

    /// It waits no longer.
    pub(super) fn remove(&mut self, forecaster: &str) {
        self.orders.remove(forecaster);
    }

    /// Another bundle than this one (digest) is not wanted any more.
    pub(super) fn keep_only(&mut self, forecaster: &str, sha: Option<&str>) {
        let of = |order: &Order| order.target.bundle.as_ref().map(|b| b.sha.clone());
        let gone = |order: &mut Order| of(order).as_deref() != sha;
        for (_, order) in self
            .orders
            .extract_if(.., |name, order| name == forecaster && gone(order))
        {
            self.wrong.remove(&of(&order).unwrap_or_default());
        }
    }

    /// Takes out what is tried again now, and what has expired by the time of the clock.
    pub(super) fn due(&mut self, time: Millis, now: Instant) -> Vec<(String, Order)> {
        let over = |order: &Order| time >= order.target.expires || order.due <= now;
        let (due, left): (BTreeMap<_, _>, _) = std::mem::take(&mut self.orders)
            .into_iter()
            .partition(|(_, order)| over(order));
        self.orders = left;
        due.into_iter().collect()
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
    use super::super::machine::Installed;
    use super::*;

    fn target(sha: &str) -> Target {
        Target {
            bundle: Some(Installed {
                sha: sha.to_owned(),
                version: 1,
            }),
            size: 5,
            shadow: false,
            generation: 1,
            attempt: 1,
            expires: 100,
        }
    }

    #[test]
    fn what_comes_wrong_again_and_again_waits_longer_each_time_and_what_expires_does_not() {
        let mut waiting = Waiting::default();
        let mut now = Instant::now();
        for seconds in [
            0, 60, 120, 240, 480, 960, 1_920, 3_840, 7_680, 15_360, 21_600, 21_600,
        ] {
            let reason = waiting.behind_another("f", "abc", target("abc"), now);
            assert!(reason.contains(&format!("anew in {seconds} s")), "{reason}");
            if seconds > 0 {
                assert_eq!(waiting.due(1, now), []);
            }
            now += Duration::from_secs(seconds);
            assert_eq!(waiting.due(1, now)[0].1.reason, reason);
        }
        waiting.fetched("abc");
        let again = waiting.behind_another("f", "abc", target("abc"), now);
        assert!(again.contains("anew in 0 s"), "{again}");
        waiting.for_room("g", target("def"), "full", now);
        assert_eq!(waiting.due(100, now).len(), 2, "the order is over");
        assert_eq!(waiting.due(100, now), []);
    }

    #[test]
    fn what_is_not_wanted_any_more_is_not_fetched_again() {
        let mut waiting = Waiting::default();
        let now = Instant::now();
        for sha in ["abc", "def"] {
            waiting.behind_another(sha, sha, target(sha), now);
            waiting.keep_only(sha, Some("abc"));
        }
        let left = waiting.due(1, now);
        assert_eq!((left.len(), left[0].0.as_str()), (1, "abc"));
        waiting.for_room("f", target("abc"), "full", now);
        waiting.keep_only("g", None);
        waiting.keep_only("f", None);
        assert_eq!(waiting.due(100, now), []);
    }
}
