//! Batches in flight: owns which are unanswered and when each goes again; never which is sent first.

use std::collections::BTreeMap;

use crate::batches::{BatchKey, SealedInfo};
use crate::uplink::Lane;

/// While nobody answers, one batch at a time asks, so many times within the wait for an ack.
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

    /// When the next one goes again.
    pub(crate) fn due_at(&self) -> Option<i64> {
        self.flights.values().map(|f| f.due).min()
    }

    /// The client took it not: soon again.
    pub(crate) fn refused(&mut self, key: &BatchKey, now: i64) {
        if let Some(f) = self.flights.get_mut(key) {
            f.due = now + REFUSED_WAIT;
        }
    }

    /// Somebody answers after a silence: all that may have gone into it goes again, soon but not at once, each when `share`
    /// of a time says; and of each only once in a while, as a hub that is slow may still have it before it.
    pub(crate) fn silence_ends(&mut self, now: i64, mut share: impl FnMut(i64) -> i64) {
        let (wait, pause) = (self.wait, self.wait * i64::from(GROWTH));
        for f in self.flights.values_mut() {
            if now - f.sent >= wait && f.hurried.is_none_or(|at| now - at >= pause) {
                f.hurried = Some(now);
                f.due = now + share(wait / PROBES);
            }
        }
    }

    /// What goes again now: all that are due, or, while nobody answers, the one sent longest ago.
    pub(crate) fn again(&mut self, now: i64, silent: bool) -> Vec<(BatchKey, Lane)> {
        let mut due: Vec<BatchKey> = self
            .flights
            .iter()
            .filter(|(_, f)| f.due <= now)
            .map(|(key, _)| *key)
            .collect();
        if silent && !due.is_empty() {
            due.sort_by_key(|key| self.flights[key].sent);
            due.truncate(1);
            // Also those that are not due yet: else each would ask by itself.
            for f in self.flights.values_mut() {
                f.due = f.due.max(now + self.wait / PROBES);
            }
        }
        let mut again = Vec::with_capacity(due.len());
        for key in due {
            if let Some(f) = self.flights.get_mut(&key) {
                if !silent {
                    f.tries = (f.tries + 1).min(GROWTH);
                    f.due = now + self.wait * i64::from(f.tries);
                }
                f.sent = now;
                again.push((key, f.lane));
            }
        }
        again
    }
}
