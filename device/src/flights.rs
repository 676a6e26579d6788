//! Batches in flight: owns which are unanswered, how long an answer may take and when each goes again; never which is sent first.

use std::collections::BTreeMap;

use crate::batches::{BatchKey, SealedInfo};
use crate::uplink::Lane;

/// What goes again after a silence does so within this part of the least wait for an ack; what asks into one, at first, no sooner.
const PROBES: i64 = 3;
/// Longest wait before a batch goes again, in waits for an ack. What was sent so often may never be answered.
const GROWTH: u32 = 4;
/// How much longer an ack may take where the hub is slow.
const SLOWER: i64 = 8;
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
    /// It asked into the present silence.
    asked: bool,
    /// When it last went again because a silence ended.
    hurried: Option<i64>,
}

/// What is unanswered. Times are of the process's clock in ms.
#[derive(Debug, Clone)]
pub(crate) struct Flights {
    flights: BTreeMap<BatchKey, Flight>,
    /// How long an ack may take: at least, and at present. Measured on what was sent once (Karn's rule, RFC 6298).
    least: i64,
    wait: i64,
}

impl Flights {
    /// None yet; `wait` is how long an ack may take.
    pub(crate) fn new(wait: i64) -> Self {
        Self {
            flights: BTreeMap::new(),
            least: wait,
            wait,
        }
    }

    /// How long an ack may take at present.
    pub(crate) fn wait(&self) -> i64 {
        self.wait
    }

    /// Acks are late: they may take longer.
    pub(crate) fn slower(&mut self) {
        self.wait = (self.wait * 2).min(self.least * SLOWER);
    }

    /// It arrived; false where it was not in flight, or was answered only after a long time.
    pub(crate) fn arrived(&mut self, key: &BatchKey, now: i64) -> bool {
        let Some(f) = self.flights.remove(key) else {
            return false;
        };
        if f.tries == 1 && f.hurried.is_none() {
            self.wait = ((now - f.sent) * 2).clamp(self.least, self.least * SLOWER);
            // Those that waited for a slower hub.
            let waits: Vec<_> = self.flights.values().map(|f| self.later(f.tries)).collect();
            for (f, wait) in self.flights.values_mut().zip(waits) {
                f.due = f.due.min(f.sent + wait);
            }
        }
        now - f.since < self.least
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
            asked: false,
            batch,
        };
        self.flights.insert(flight.batch.key, flight);
    }

    /// How long after so many times a batch goes again.
    fn later(&self, tries: u32) -> i64 {
        (self.wait * i64::from(tries.max(1))).min(self.least * SLOWER)
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

    /// How many that were sent but once may still be answered in time; against the backlog count those of both lanes.
    pub(crate) fn fresh(&self, lane: Lane, now: i64) -> usize {
        let counts = |f: &&Flight| lane == Lane::Backlog || f.lane == lane;
        let fresh = |f: &&Flight| f.tries <= 1 && now - f.sent < self.wait;
        self.flights.values().filter(counts).filter(fresh).count()
    }

    /// When the next one is due, but for those that wait.
    pub(crate) fn due_at(&self) -> Option<i64> {
        let free = self.flights.values().filter(|f| !f.waits);
        free.map(|f| f.due).min()
    }

    /// How long nothing more asks into a silence after one did, of which so much is a part of its length: seconds in the first minutes.
    pub(crate) fn pause(&self, part: i64) -> i64 {
        let (least, soon) = (self.wait / PROBES, part < self.least * 2);
        let most = match soon {
            true => least * 2,
            false => self.later(GROWTH),
        };
        part.clamp(least, most)
    }

    /// The client took it not: soon again, as if it had not been sent.
    pub(crate) fn refused(&mut self, key: &BatchKey, now: i64) {
        if let Some(f) = self.flights.get_mut(key) {
            (f.due, f.waits) = (now + REFUSED_WAIT, false);
            f.tries = f.tries.saturating_sub(1);
        }
    }

    /// Somebody answers after a silence: all that may have gone into it goes again, soon but not at once, each when `share`
    /// of a time says; and of each only once in a while, as a hub that is slow may still have it before it.
    pub(crate) fn silence_ends(&mut self, now: i64, mut share: impl FnMut(i64) -> i64) {
        let (wait, pause) = (self.wait, self.least * i64::from(GROWTH));
        for f in self.flights.values_mut() {
            f.waits = false;
            if std::mem::take(&mut f.asked) && now - f.sent < wait {
                // It may be lost as well, and is nothing that the others wait for.
                (f.due, f.hurried) = (f.sent + wait, Some(now));
            } else if now - f.sent >= wait && f.hurried.is_none_or(|at| now - at >= pause) {
                f.hurried = Some(now);
                f.due = now + share(self.least / PROBES);
            }
        }
    }

    /// What goes again now, longest unsent first, so that no more than `window` of those that went again are under way; and whether
    /// the first answer to any of them is late. What was never answered often takes no place from them: of such goes one at a time.
    pub(crate) fn again(&mut self, now: i64, window: usize) -> (Vec<(BatchKey, Lane)>, bool) {
        let hurries = |f: &Flight| f.hurried.is_some_and(|at| at > f.sent);
        let again = |f: &&Flight| (2..GROWTH).contains(&f.tries) && f.due > now && !hurries(f);
        let mut room = window.saturating_sub(self.flights.values().filter(again).count());
        let wait = self.wait;
        let vain = |f: &Flight| f.tries >= GROWTH && now - f.sent < wait;
        let mut vain = self.flights.values().any(vain);
        let (mut again, mut late) = (Vec::new(), false);
        for key in self.by_age() {
            let Some(f) = self.flights.get_mut(&key).filter(|f| f.due <= now) else {
                continue;
            };
            match f.tries {
                // It never left.
                0 => {}
                GROWTH.. if vain => {
                    f.due = now + wait;
                    continue;
                }
                GROWTH.. => vain = true,
                _ if room == 0 => {
                    f.waits = true;
                    continue;
                }
                _ => room -= usize::from(f.tries + 1 < GROWTH),
            }
            late |= f.tries == 1 && f.hurried.is_none();
            let tries = (f.tries + 1).min(GROWTH);
            again.push((key, f.lane));
            let due = now + self.later(tries);
            if let Some(f) = self.flights.get_mut(&key) {
                (f.tries, f.sent, f.due, f.waits) = (tries, now, due, false);
            }
        }
        (again, late)
    }

    /// While nobody answers, this one asks, and not again before `next`: that which was sent longest ago, but for those that are never
    /// answered, and not due.
    pub(crate) fn ask(&mut self, now: i64, next: i64) -> Option<(BatchKey, Lane)> {
        let asks = |f: &Flight| f.due <= now || f.tries < GROWTH && now - f.sent >= self.wait;
        let mut aged = self.by_age().into_iter();
        let first = aged.find(|key| self.flights.get(key).is_some_and(asks))?;
        let later = now + self.later(GROWTH);
        let f = self.flights.get_mut(&first)?;
        (f.sent, f.waits) = (now, false);
        if f.tries < GROWTH {
            // Others that were not sent yet may go beside it.
            (f.tries, f.due, f.asked) = (f.tries.max(2), next, true);
        } else {
            f.due = later;
        }
        Some((first, f.lane))
    }

    /// Longest unsent first.
    fn by_age(&self) -> Vec<BatchKey> {
        let mut aged: Vec<_> = self.flights.iter().map(|(k, f)| (f.sent, *k)).collect();
        aged.sort_unstable();
        aged.into_iter().map(|(_, key)| key).collect()
    }
}
