//! The device's clocks: the one place that reads them; it never corrects a reading.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use fieldcast_wire::pb;

/// Milliseconds since 1970-01-01T00:00:00Z.
pub type Millis = i64;

/// Earliest wall time ever believed: when this code was written.
const BUILD_FLOOR_MS: Millis = 1_793_000_000_000;

/// A later time floor than this is not believed: it can never come down again.
const FLOOR_LIMIT_MS: Millis = BUILD_FLOOR_MS + 20 * 365 * 86_400_000;

/// Times that are known to have passed, as distances to the monotonic clock: they go on while the machine runs.
#[derive(Debug)]
struct Floors {
    /// From what is signed, or from this code's own age.
    signed: AtomicI64,
    /// From the hub's unsigned acknowledgements.
    heard: AtomicI64,
}

/// Processor time of this thread, microseconds: what else the machine does is not in it.
#[must_use]
pub fn processor_us() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let whole = u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000;
    whole + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000
}

/// Reads the clocks of the machine. Clones share the time floor.
#[derive(Debug, Clone)]
pub struct Clock {
    boot_id: Arc<str>,
    floors: Arc<Floors>,
    /// The monotonic time of a simulation, in place of the machine's; its wall clock goes on with it.
    #[cfg(test)]
    simulated: Option<Arc<AtomicI64>>,
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock {
    /// Clocks of this machine; the boot id is read once.
    #[must_use]
    pub fn new() -> Self {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(
            |_| uuid::Uuid::new_v4().to_string(),
            |text| text.trim().to_owned(),
        );
        let floors = Floors {
            signed: AtomicI64::new(BUILD_FLOOR_MS - boottime()),
            heard: AtomicI64::new(-BUILD_FLOOR_MS),
        };
        Self {
            boot_id: boot_id.into(),
            floors: Arc::new(floors),
            #[cfg(test)]
            simulated: None,
        }
    }

    /// A clock that stands still unless `time` is moved.
    #[cfg(test)]
    pub(crate) fn simulated(boot_id: &str, time: Arc<AtomicI64>) -> Self {
        Self {
            boot_id: boot_id.into(),
            simulated: Some(time),
            ..Self::new()
        }
    }

    /// Identity of the machine's boot; monotonic times of different boots do not compare.
    #[must_use]
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// Process time: milliseconds since boot, suspension included; never goes back.
    #[must_use]
    pub fn monotonic_ms(&self) -> Millis {
        #[cfg(test)]
        if let Some(time) = &self.simulated {
            return time.load(Ordering::Relaxed);
        }
        boottime()
    }

    /// What the wall clock says, uncorrected.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the agent's clock")]
    pub fn raw_wall_ms(&self) -> Millis {
        #[cfg(test)]
        if let Some(time) = &self.simulated {
            return BUILD_FLOOR_MS + time.load(Ordering::Relaxed);
        }
        let since = |t: std::time::Duration| i64::try_from(t.as_millis()).unwrap_or(i64::MAX);
        match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
            Ok(after) => since(after),
            Err(before) => -since(before.duration()),
        }
    }

    /// Wall time, but never before the time floor: a device without a battery-backed clock wakes up in 1970.
    #[must_use]
    pub fn wall_ms(&self) -> Millis {
        let trusted = self.trusted_ms();
        let heard = self.monotonic_ms() + self.floors.heard.load(Ordering::Relaxed);
        if heard > trusted && !self.synchronised() {
            heard
        } else {
            trusted
        }
    }

    /// Wall time without anything that only an unsigned message says: what expiry is judged by.
    #[must_use]
    pub fn trusted_ms(&self) -> Millis {
        self.raw_wall_ms().max(self.floor_ms())
    }

    /// The time floor, which goes on with the monotonic clock.
    #[must_use]
    pub fn floor_ms(&self) -> Millis {
        self.monotonic_ms() + self.floors.signed.load(Ordering::Relaxed)
    }

    /// Raises the time floor to a time that is known to have passed: a signed one, or one kept on disk.
    pub fn raise_floor(&self, at_least: Millis) {
        raise(&self.floors.signed, at_least, self.monotonic_ms());
    }

    /// Takes the hub's unsigned time until the machine's own clock is vouched for; forgotten with the process.
    pub fn hear(&self, hub_time: Millis) {
        if !self.synchronised() {
            raise(&self.floors.heard, hub_time, self.monotonic_ms());
        }
    }

    /// Whether a time source vouches for the wall clock since this boot.
    #[must_use]
    pub fn synchronised(&self) -> bool {
        // systemd-timesyncd and chrony leave these; the kernel's own flag is not reachable without unsafe code.
        let marks = [
            "/run/systemd/timesync/synchronized",
            "/run/chrony/synchronized",
        ];
        self.raw_wall_ms() >= BUILD_FLOOR_MS
            && marks.iter().any(|path| std::path::Path::new(path).exists())
    }

    /// All clocks now, as a batch or sync carries them.
    #[must_use]
    pub fn stamp(&self) -> pb::ClockStamp {
        pb::ClockStamp {
            boot_id: self.boot_id.to_string(),
            monotonic_ms: self.monotonic_ms(),
            wall_ms: self.wall_ms(),
            synchronised: self.synchronised(),
        }
    }
}

fn boottime() -> Millis {
    millis(rustix::time::clock_gettime(rustix::time::ClockId::Boottime))
}

fn raise(floor: &AtomicI64, at_least: Millis, monotonic: Millis) {
    if (0..=FLOOR_LIMIT_MS).contains(&at_least) {
        floor.fetch_max(at_least - monotonic, Ordering::Relaxed);
    }
}

fn millis(t: rustix::time::Timespec) -> Millis {
    t.tv_sec
        .saturating_mul(1_000)
        .saturating_add(t.tv_nsec / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_holds_goes_on_with_the_monotonic_clock_and_is_shared() {
        let clock = Clock::new();
        let shared = clock.clone();
        let ahead = clock.raw_wall_ms() + 1_000_000_000;
        clock.raise_floor(ahead);
        assert!(shared.wall_ms() >= ahead && shared.stamp().wall_ms >= ahead);
        clock.raise_floor(5);
        clock.raise_floor(i64::MAX);
        let (before, began) = (shared.wall_ms(), clock.monotonic_ms());
        assert!((ahead..ahead + 60_000).contains(&before));
        while clock.monotonic_ms() < began + 3 {
            std::thread::yield_now();
        }
        assert!(shared.wall_ms() >= before + 3, "the floor stands still");
        assert!(!clock.boot_id().is_empty());
    }

    #[test]
    fn what_an_unsigned_message_says_never_counts_for_expiry_nor_for_the_floor_that_is_kept() {
        let clock = Clock::new();
        let far = clock.raw_wall_ms() + 1_000_000_000;
        clock.hear(far);
        assert!(clock.trusted_ms() < far && clock.floor_ms() < far);
        assert_eq!(clock.wall_ms() < far, clock.synchronised());
    }
}
