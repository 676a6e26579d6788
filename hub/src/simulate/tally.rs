//! What a fleet did, counted by all its devices at once: owns the counters and their summary, never prints.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use fieldcast_device::update::Phase;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// Buckets of a doubling of the latency: each is 4 % wide.
const FINE: f64 = 16.0;
const BUCKETS: usize = 400;

/// Phases with their names for people.
const PHASES: [(Phase, &str); 9] = [
    (Phase::None, "none"),
    (Phase::Downloading, "downloading"),
    (Phase::Verified, "verified"),
    (Phase::Shadowing, "shadowing"),
    (Phase::Active, "active"),
    (Phase::Healthy, "healthy"),
    (Phase::Rejected, "rejected"),
    (Phase::RolledBack, "rolled_back"),
    (Phase::Failed, "failed"),
];

/// Counters; every device has the same ones.
#[derive(Debug)]
pub struct Tally {
    /// Readings made.
    pub produced: AtomicU64,
    /// Readings in sealed batches.
    pub sealed: AtomicU64,
    /// Readings acknowledged.
    pub acked: AtomicU64,
    /// Readings given up under a gap record.
    pub dropped: AtomicU64,
    /// Records that the hub refused.
    pub rejected: AtomicU64,
    /// Batches published.
    pub published: AtomicU64,
    /// Of these, again.
    pub resent: AtomicU64,
    /// Bytes of batches published.
    pub bytes: AtomicU64,
    /// Connections made.
    pub connections: AtomicU64,
    /// Devices connected and subscribed now.
    pub online: AtomicI64,
    /// Blocks of bundles received.
    pub blocks: AtomicU64,
    /// Orders that were not obeyed.
    pub disobeyed: AtomicU64,
    phases: [AtomicI64; PHASES.len()],
    latency: [AtomicU64; BUCKETS],
    longest: AtomicU64,
}

impl Default for Tally {
    fn default() -> Self {
        let zero = AtomicU64::default;
        Self {
            produced: zero(),
            sealed: zero(),
            acked: zero(),
            dropped: zero(),
            rejected: zero(),
            published: zero(),
            resent: zero(),
            bytes: zero(),
            connections: zero(),
            online: AtomicI64::default(),
            blocks: zero(),
            disobeyed: zero(),
            phases: Default::default(),
            latency: std::array::from_fn(|_| zero()),
            longest: zero(),
        }
    }
}

impl Tally {
    /// So many more.
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Relaxed);
    }

    /// Readings were acknowledged so long after they were taken.
    pub fn acked(&self, readings: u64, ms: i64) {
        Self::add(&self.acked, readings);
        let ms = u64::try_from(ms).unwrap_or(0);
        self.longest.fetch_max(ms, Relaxed);
        if let Some(bucket) = self.latency.get(bucket(ms)) {
            Self::add(bucket, readings);
        }
    }

    /// A device's model went from a phase to another.
    pub fn moved(&self, from: Option<Phase>, to: Option<Phase>) {
        for (phase, by) in [(from, -1), (to, 1)] {
            let place = PHASES.iter().position(|(p, _)| Some(*p) == phase);
            if let Some(counter) = place.and_then(|i| self.phases.get(i)) {
                counter.fetch_add(by, Relaxed);
            }
        }
    }

    /// The latency below which this share of the readings lies, milliseconds; none before the first.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let counts: Vec<u64> = self.latency.iter().map(|c| c.load(Relaxed)).collect();
        let all: u64 = counts.iter().sum();
        #[allow(clippy::cast_precision_loss, reason = "a count")]
        let wanted = (all as f64 * share).ceil().max(1.0);
        let mut seen = 0;
        for (i, count) in counts.iter().enumerate() {
            seen += count;
            #[allow(clippy::cast_precision_loss, reason = "a count")]
            if all > 0 && seen as f64 >= wanted {
                let longest = self.longest.load(Relaxed) as f64;
                return Some(upper(i).min(longest));
            }
        }
        None
    }

    /// All of it now.
    #[must_use]
    pub fn summary(&self, devices: u32, seconds: f64) -> Summary {
        let of = |c: &AtomicU64| c.load(Relaxed);
        let phases = PHASES
            .iter()
            .zip(&self.phases)
            .filter(|(_, n)| n.load(Relaxed) != 0)
            .map(|((_, name), n)| ((*name).to_owned(), json!(n.load(Relaxed))));
        Summary {
            devices,
            online: self.online.load(Relaxed),
            seconds,
            produced: of(&self.produced),
            sealed: of(&self.sealed),
            acked: of(&self.acked),
            dropped: of(&self.dropped),
            rejected: of(&self.rejected),
            published: of(&self.published),
            resent: of(&self.resent),
            bytes: of(&self.bytes),
            connections: of(&self.connections),
            blocks: of(&self.blocks),
            disobeyed: of(&self.disobeyed),
            p50_ms: self.quantile(0.5),
            p99_ms: self.quantile(0.99),
            longest_ms: of(&self.longest),
            phases: phases.collect(),
        }
    }
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a small positive number"
)]
fn bucket(ms: u64) -> usize {
    (((ms as f64 + 1.0).log2() * FINE) as usize).min(BUCKETS - 1)
}

#[allow(clippy::cast_precision_loss, reason = "a small number")]
fn upper(bucket: usize) -> f64 {
    ((bucket + 1) as f64 / FINE).exp2() - 1.0
}

/// What a fleet did until a moment.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Devices.
    pub devices: u32,
    /// Connected then.
    pub online: i64,
    /// Process time since the start.
    pub seconds: f64,
    /// Readings made.
    pub produced: u64,
    /// Readings in sealed batches.
    pub sealed: u64,
    /// Readings acknowledged.
    pub acked: u64,
    /// Readings given up under a gap record.
    pub dropped: u64,
    /// Records refused.
    pub rejected: u64,
    /// Batches published.
    pub published: u64,
    /// Of these, again.
    pub resent: u64,
    /// Bytes of batches published.
    pub bytes: u64,
    /// Connections made.
    pub connections: u64,
    /// Blocks of bundles received.
    pub blocks: u64,
    /// Orders not obeyed.
    pub disobeyed: u64,
    /// Half of the readings were acknowledged within this time.
    pub p50_ms: Option<f64>,
    /// 99 of 100 were.
    pub p99_ms: Option<f64>,
    /// All were.
    pub longest_ms: u64,
    /// Models by phase.
    pub phases: Map<String, Value>,
}

impl Summary {
    /// One line for people.
    #[must_use]
    pub fn line(&self) -> String {
        let ms = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.0} ms"));
        let phases: Vec<String> = self
            .phases
            .iter()
            .map(|(name, n)| format!("{n} {name}"))
            .collect();
        format!(
            "{:.0} s: {}/{} online; readings {} made, {} acked, {} waiting; {} batches, {} again; p50 {}, p99 {}; {}",
            self.seconds,
            self.online,
            self.devices,
            self.produced,
            self.acked,
            self.produced.saturating_sub(self.acked + self.dropped),
            self.published,
            self.resent,
            ms(self.p50_ms),
            ms(self.p99_ms),
            if phases.is_empty() {
                "no models".to_owned()
            } else {
                phases.join(", ")
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_bucket_and_phases_move() {
        let tally = Tally::default();
        assert_eq!(tally.quantile(0.5), None);
        for ms in 1..=1_000 {
            tally.acked(1, ms);
        }
        for (share, exact) in [(0.5, 500.0), (0.99, 990.0)] {
            let found = tally.quantile(share).unwrap_or_default();
            assert!((found - exact).abs() < 0.05 * exact, "{found} for {exact}");
        }
        tally.acked(1, i64::from(i32::MAX));
        tally.moved(None, Some(Phase::Active));
        tally.moved(Some(Phase::Active), Some(Phase::Healthy));
        let summary = tally.summary(1, 1.0);
        assert_eq!(json!(summary.phases), json!({"healthy": 1}));
        assert_eq!(summary.acked, 1_001);
    }
}
