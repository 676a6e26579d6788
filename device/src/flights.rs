//! Batches in flight: owns which are unanswered and when each goes again; never which is sent first.

use std::collections::BTreeMap;

use crate::batches::{BatchKey, SealedInfo};
use crate::uplink::Lane;

/// While nobody answers, one batch at a time asks, at first so many times within the wait for an ack.
const PROBES: i64 = 3;
/// Longest wait before a batch goes again, in waits for an ack.
const GROWTH: u32 = 4;
/// Wait after the client took no message.
const REFUSED_WAIT: i64 = 500;

#[derive(Debug, Clone)]
struct Flight {
    lane: Lane,
    batch: SealedInfo,
    since: i64,
    sent: i64,
    due: i64,
    tries: u32,
    /// It is due, and has to wait until fewer are under way.
    waits: bool,
    /// When it last went again because a silence ended.
    hurried: Option<i64>,
}

/// What is unanswered. Times are of the process's clock in ms.
#[derive(Debug, Clone)]
pub(crate) struct Flights {
    flights: BTreeMap<BatchKey, Flight>,
    /// How long an ack may take.
    wait: i64,
}

impl Flights {
    /// None yet; `wait` is how long an ack may take.
    pub(crate) fn new(wait: i64) -> Self {
        Self {
            flights: BTreeMap::new(),
            wait,
        }
    }

    /// A batch was sent the first time.
    pub(crate) fn add(&mut self, lane: Lane, batch: SealedInfo, now: i64) {
        let flight = Flight {
            lane,
            since: now,
            sent: now,
            hurried: None,
            due: now + self.wait,
            tries: 1,
            waits: false,
            batch,
        };
        self.flights.insert(flight.batch.key, flight);
    }

    /// It is no longer in flight.
    pub(crate) fn remove(&mut self, key: &BatchKey) -> Option<SealedInfo> {
        self.flights.remove(key).map(|f| f.batch)
    }

    /// None is any more.
    pub(crate) fn clear(&mut self) {
        self.flights.clear();
    }

    /// Whether it is in flight.
    pub(crate) fn holds(&self, key: &BatchKey) -> bool {
        self.flights.contains_key(key)
    }

    /// How many are.
    pub(crate) fn len(&self) -> usize {
        self.flights.len()
    }

    /// How many of a lane are.
    pub(crate) fn on(&self, lane: Lane) -> usize {
        self.flights.values().filter(|f| f.lane == lane).count()
    }

    /// Whether a contested one is.
    pub(crate) fn any_contested(&self) -> bool {
        self.flights.values().any(|f| f.batch.contested)
    }

    /// Since when the oldest is unanswered.
    pub(crate) fn since(&self) -> Option<i64> {
        self.flights.values().map(|f| f.since).min()
    }

    /// How many that were sent but once may still be answered in time; against the backlog count those of both lanes.
    pub(crate) fn fresh(&self, lane: Lane, now: i64) -> usize {
        let counts = |f: &&Flight| lane == Lane::Backlog || f.lane == lane;
        let fresh = |f: &&Flight| f.tries == 1 && now - f.sent < self.wait;
        self.flights.values().filter(counts).filter(fresh).count()
    }

    /// When the next one is due.
    pub(crate) fn due_at(&self) -> Option<i64> {
        let waiting = self.flights.values().filter(|f| !f.waits);
        waiting.map(|f| f.due).min()
    }

    /// The client took it not: soon again.
    pub(crate) fn refused(&mut self, key: &BatchKey, now: i64) {
        if let Some(f) = self.flights.get_mut(key) {
            (f.due, f.waits) = (now + REFUSED_WAIT, false);
        }
    }

    /// Somebody answers after a silence: all that may have gone into it goes again, soon but not at once, each when `share`
    /// of a time says; and of each only once in a while, as a hub that is slow may still have it before it.
    pub(crate) fn silence_ends(&mut self, now: i64, mut share: impl FnMut(i64) -> i64) {
        let (wait, pause) = (self.wait, self.wait * i64::from(GROWTH));
        for f in self.flights.values_mut() {
            if now - f.sent >= wait && f.hurried.is_none_or(|at| now - at >= pause) {
                f.hurried = Some(now);
                (f.due, f.waits) = (now + share(wait / PROBES), false);
            }
        }
    }

    /// What goes again now, longest unsent first, so that no more than `window` of those that went again are under way; and whether
    /// the first answer to any of them is late.
    pub(crate) fn again(&mut self, now: i64, window: usize) -> (Vec<(BatchKey, Lane)>, bool) {
        let hurries = |f: &Flight| f.hurried.is_some_and(|at| at > f.sent);
        let under_way = |f: &&Flight| f.tries > 1 && f.due > now && !hurries(f);
        let room = window.saturating_sub(self.flights.values().filter(under_way).count());
        let (mut again, mut late) = (Vec::new(), false);
        for (n, key) in self.due(now).into_iter().enumerate() {
            if let Some(f) = self.flights.get_mut(&key) {
                f.waits = n >= room;
                if f.waits {
                    continue;
                }
                late |= f.tries == 1 && f.hurried.is_none();
                f.tries = (f.tries + 1).min(GROWTH);
                (f.sent, f.due) = (now, now + self.wait * i64::from(f.tries));
                again.push((key, f.lane));
            }
        }
        (again, late)
    }

    /// While nobody answers: the one sent longest ago of those that are due, and none for a while after it, about `gap`.
    pub(crate) fn ask(&mut self, now: i64, gap: i64) -> Option<(BatchKey, Lane)> {
        let first = self.due(now).into_iter().next()?;
        let gap = gap.clamp(self.wait / PROBES, self.wait * i64::from(GROWTH));
        // Also those that are not due yet: else each would ask by itself.
        for f in self.flights.values_mut() {
            (f.due, f.waits) = (f.due.max(now + gap), false);
        }
        let f = self.flights.get_mut(&first)?;
        // No longer one that was sent but once: others that were not may go beside it.
        (f.sent, f.tries) = (now, f.tries.max(2));
        Some((first, f.lane))
    }

    /// Those that are due, longest unsent first.
    fn due(&self, now: i64) -> Vec<BatchKey> {
        let due = self.flights.iter().filter(|(_, f)| f.due <= now);
        let mut due: Vec<_> = due.map(|(key, f)| (f.sent, *key)).collect();
        due.sort_unstable();
        due.into_iter().map(|(_, key)| key).collect()
    }
}
