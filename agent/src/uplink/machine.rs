//! Which batch goes up when: a pure function of (state, event, now); never touches the network or the buffer.
//!
//! ```text
//!             Connect                 Connected
//!  Waiting ────────────► Connecting ────────────► Online ──┐ Tick, Sealed, Loaded, Applied
//!     ▲   (retry time)        │                     │  ▲   │ (publish, load)
//!     └───────────────────────┴── Disconnected ─────┘  └───┘
//! ```
//! A batch is `queued`, then `in flight` with a deadline; the deadline or a lost connection queues it again, and only
//! an applied acknowledgement removes it: a lost message costs time and never data.

use std::collections::BTreeMap;

use crate::buffer::{BatchKey, SealedInfo};

/// Most batches sent and not acknowledged.
pub const IN_FLIGHT: usize = 16;
/// How many of them may be backlog, so that live batches always find room.
pub const IN_FLIGHT_BACKLOG: usize = 12;
/// Most bytes of backlog in flight: the backlog's budget.
pub const BACKLOG_BYTES: u64 = 2 * 1024 * 1024;
/// A batch without an acknowledgement after this long is sent again, milliseconds of process time.
pub const ACK_DEADLINE_MS: i64 = 15_000;
/// A connection that held this long resets the backoff.
pub const STABLE_MS: i64 = 20_000;
/// Ceiling of the first wait between connection attempts, and of the longest.
const BACKOFF_MS: (i64, i64) = (500, 60_000);
/// Batches remembered at most; the buffer holds the rest.
pub const REMEMBERED: usize = 256;

/// Which topic a batch goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Sealed while connected.
    Live,
    /// Found in the buffer.
    Backlog,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Item {
    key: BatchKey,
    lane: Lane,
    bytes: u64,
    contested: bool,
    /// Process time at which it is sent again; none: not in flight.
    deadline: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Waiting { until: i64 },
    Connecting,
    Online { since: i64 },
}

/// What the uplink knows; rebuilt from the buffer at every start.
#[derive(Debug, Clone)]
pub struct State {
    link: Link,
    attempts: u32,
    /// By place in the order of sending.
    batches: BTreeMap<i64, Item>,
    /// The buffer may hold batches behind the last one here.
    more: bool,
    /// A first load is behind: what is sealed from now on is live.
    caught_up: bool,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// Time passed.
    Tick,
    /// The broker accepted the connection.
    Connected,
    /// No connection, or no longer; `jitter` is uniform in [0, 1).
    Disconnected {
        /// Share of the backoff's ceiling that is waited (full jitter).
        jitter: f64,
    },
    /// The buffer sealed something.
    Sealed,
    /// The batches asked for; `complete`: there are no more behind them.
    Loaded {
        /// In the order of sending.
        found: Vec<SealedInfo>,
        /// Nothing waits behind them.
        complete: bool,
    },
    /// The buffer applied an acknowledgement.
    Applied {
        /// Need not be sent again.
        done: Vec<BatchKey>,
        /// What waits is not what it was: forget it and load again.
        reload: bool,
    },
}

/// What the driver must do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Open a connection.
    Connect,
    /// Publish presence, sync and state.
    Introduce,
    /// Publish the stored bytes of a batch.
    Publish(BatchKey, Lane),
    /// Hand over waiting batches after this place in the order of sending.
    Load {
        /// The place.
        after: i64,
        /// How many at most.
        limit: usize,
    },
}

impl Default for State {
    fn default() -> Self {
        Self { link: Link::Waiting { until: i64::MIN }, attempts: 0, batches: BTreeMap::new(), more: true, caught_up: false }
    }
}

impl State {
    /// Whether batches can go up now.
    #[must_use]
    pub fn is_online(&self) -> bool {
        matches!(self.link, Link::Online { .. })
    }

    /// One step; `now` is process time in milliseconds.
    pub fn step(&mut self, event: Event, now: i64) -> Vec<Output> {
        let mut out = Vec::new();
        match event {
            Event::Tick => self.tick(now, &mut out),
            Event::Connected => {
                self.link = Link::Online { since: now };
                self.requeue();
                out.push(Output::Introduce);
            }
            Event::Disconnected { jitter } => self.disconnected(now, jitter),
            Event::Sealed => self.more = true,
            Event::Loaded { found, complete } => self.take(found, complete),
            Event::Applied { done, reload } => {
                if reload {
                    self.batches.clear();
                    self.caught_up = false;
                    self.more = true;
                } else {
                    self.batches.retain(|_, item| !done.contains(&item.key));
                }
            }
        }
        if self.is_online() {
            self.send(now, &mut out);
            self.load(&mut out);
        }
        out
    }

    fn tick(&mut self, now: i64, out: &mut Vec<Output>) {
        match self.link {
            Link::Waiting { until } if now >= until => {
                self.link = Link::Connecting;
                out.push(Output::Connect);
            }
            Link::Online { since } if now - since >= STABLE_MS => self.attempts = 0,
            _ => {}
        }
    }

    fn disconnected(&mut self, now: i64, jitter: f64) {
        let ceiling = (BACKOFF_MS.0 << self.attempts.min(10)).min(BACKOFF_MS.1);
        self.attempts = self.attempts.saturating_add(1);
        #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "at most a minute")]
        let wait = (ceiling as f64 * jitter.clamp(0.0, 1.0)) as i64;
        self.link = Link::Waiting { until: now + wait };
        self.requeue();
    }

    /// What was in flight on a lost connection was perhaps never received.
    fn requeue(&mut self) {
        for item in self.batches.values_mut() {
            item.lane = Lane::Backlog;
            item.deadline = None;
        }
    }

    fn take(&mut self, found: Vec<SealedInfo>, complete: bool) {
        self.more = !complete;
        // Once the buffer had no more, what is found is what the device has just sealed.
        let lane = if self.caught_up { Lane::Live } else { Lane::Backlog };
        self.caught_up = complete;
        for info in found {
            let item = Item { key: info.key, lane, bytes: info.bytes, contested: info.contested, deadline: None };
            self.batches.entry(info.order).or_insert(item);
        }
    }

    fn send(&mut self, now: i64, out: &mut Vec<Output>) {
        for item in self.batches.values_mut() {
            if item.deadline.is_some_and(|d| now >= d) {
                item.deadline = None;
            }
        }
        let (mut flying, mut backlog, mut bytes, mut contested) = (0, 0, 0, false);
        for item in self.batches.values().filter(|i| i.deadline.is_some()) {
            flying += 1;
            contested |= item.contested;
            if item.lane == Lane::Backlog {
                backlog += 1;
                bytes += item.bytes;
            }
        }
        for lane in [Lane::Live, Lane::Backlog] {
            for item in self.batches.values_mut().filter(|i| i.lane == lane && i.deadline.is_none()) {
                let fits = lane == Lane::Live
                    || (backlog < IN_FLIGHT_BACKLOG && (backlog == 0 || bytes + item.bytes <= BACKLOG_BYTES));
                if flying >= IN_FLIGHT || !fits {
                    break;
                }
                if item.contested && contested {
                    continue;
                }
                contested |= item.contested;
                item.deadline = Some(now + ACK_DEADLINE_MS);
                flying += 1;
                if lane == Lane::Backlog {
                    backlog += 1;
                    bytes += item.bytes;
                }
                out.push(Output::Publish(item.key, lane));
            }
        }
    }

    fn load(&mut self, out: &mut Vec<Output>) {
        let waiting = self.batches.values().filter(|i| i.deadline.is_none()).count();
        if self.more && waiting < IN_FLIGHT && self.batches.len() < REMEMBERED {
            self.more = false;
            let after = self.batches.keys().next_back().copied().unwrap_or(0);
            out.push(Output::Load { after, limit: REMEMBERED - self.batches.len() });
        }
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
