//! When to connect, what to send and what to send again: a pure machine; it reads no clock and does no I/O.
//!
//! ```text
//!            Start            Connected (subscribed)        an ack, or the sync deadline
//!   Down ───────────► Connecting ───────────► Syncing ───────────────────────────────► Up
//!    ▲  retry_at           │ deadline            │                                      │
//!    └─────────────────────┴─────────────────────┴──── Lost, or no ack for too long ◄───┘
//! ```
//! In `Up` two lanes send: live (sealed since the connection) and backlog (sealed before, under a byte
//! budget), as many as the window allows. A batch in flight leaves it by an ack, or is sent again at its deadline (into a silence, one at a
//! time); one that the hub has no room for is put aside, and tried again in the backlog every hour. The buffer stays the
//! truth: a machine that is thrown away loses nothing. Numbers `P…` are those of `docs/protocol.md`.

mod sending;

use std::collections::VecDeque;

use crate::aside::Aside;
use crate::batches::{AckOutcome, BatchKey, SealedInfo};
use crate::flights::Flights;
pub use crate::limits::Settings;
use crate::window::Window;

/// Which way a batch goes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Sealed since the connection.
    Live,
    /// Sealed before it.
    Backlog,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// Nothing but time.
    Tick,
    /// Connected and subscribed; `newest` is the place of the newest sealed batch.
    Connected {
        /// Place in the order of sending.
        newest: i64,
    },
    /// The connection is gone or never came.
    Lost,
    /// A batch was sealed.
    Sealed {
        /// Place in the order of sending.
        newest: i64,
    },
    /// Answer to [`Output::Page`].
    Page {
        /// As asked.
        lane: Lane,
        /// Unacknowledged batches in order.
        batches: Vec<SealedInfo>,
    },
    /// The buffer could not answer [`Output::Page`].
    Unread {
        /// As asked.
        lane: Lane,
    },
    /// The buffer applied an acknowledgement.
    Acked(AckOutcome),
    /// The hub said what this device shall do.
    Told,
    /// The hub said that it did not take a message, and which batch that is, where it has no room for one.
    NotTaken(Option<BatchKey>),
    /// The client took no message now.
    Refused(BatchKey),
    /// The buffer no longer holds the batch.
    Gone(BatchKey),
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Connect.
    Connect,
    /// Throw the connection away.
    Disconnect,
    /// Say what the buffer holds.
    Sync,
    /// Look for unacknowledged batches.
    Page {
        /// For which lane.
        lane: Lane,
        /// After this place.
        after: i64,
        /// At most so many.
        limit: usize,
    },
    /// Publish a batch.
    Publish {
        /// Which.
        key: BatchKey,
        /// On which topic.
        lane: Lane,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Down { retry_at: i64 },
    Connecting { deadline: i64 },
    Syncing { since: i64, deadline: i64 },
    Up { since: i64 },
}

#[derive(Debug, Clone, Default)]
struct Queue {
    after: i64,
    waiting: VecDeque<SealedInfo>,
    asked: bool,
    more: bool,
    /// Not asked before this time.
    again_at: i64,
}

impl Queue {
    /// Whether the buffer is to be asked for more.
    fn wants(&self) -> bool {
        self.more && !self.asked && self.waiting.len() < PAGE / 2
    }
}

/// State of the uplink.
#[derive(Debug, Clone)]
pub struct State {
    settings: Settings,
    link: Link,
    attempt: u32,
    random: u64,
    flights: Flights,
    /// Outlives connections: a new one finds the hub as slow as it was.
    window: Window,
    live: Queue,
    backlog: Queue,
    aside: Aside,
    live_from: i64,
    budget: i64,
    budget_at: i64,
    last_answer: i64,
    /// When the last answer came over whatever connection; at first, when it first connected.
    heard: Option<i64>,
    sync: Option<Sync>,
    /// The hub has not said yet what this device shall do: when it is asked again, and how long after that.
    untold: Option<(i64, i64)>,
    /// Since when something that was sent has no answer, over whatever connection.
    owed: Option<i64>,
    /// During a silence.
    asks: Option<Asks>,
    /// When the hub was last asked because it told of less than before.
    doubted_at: Option<i64>,
}

/// What asks into a silence.
#[derive(Debug, Clone, Copy)]
struct Asks {
    /// Whether something did; nothing else does before `next`.
    asked: bool,
    next: i64,
}

/// A sync that has no answer yet.
#[derive(Debug, Clone, Copy)]
struct Sync {
    /// Only an ack that echoes this time or a later one was given after it.
    since: i64,
    again_at: i64,
}

/// Sync deadlines between two questions whether the hub was restored.
const DOUBT_PAUSE: i64 = 6;
/// Sync deadlines after which a hub that said nothing of what is to be done is asked again, at first.
const UNTOLD: i64 = 3;
/// Parts of a silence.
const PATIENCE: i64 = 4;
const PAGE: usize = 32;
/// Pause before the buffer is asked again for what it could not read.
const READ_AGAIN: i64 = 1_000;

impl State {
    /// A machine that connects at the first tick; `seed` spreads the waits of a fleet.
    #[must_use]
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self {
            flights: Flights::new(settings.ack_deadline),
            window: Window::new(settings.live_inflight + settings.backlog_inflight),
            settings,
            link: Link::Down { retry_at: i64::MIN },
            attempt: 0,
            random: seed,
            live: Queue::default(),
            backlog: Queue::default(),
            aside: Aside::default(),
            live_from: 0,
            budget: 0,
            budget_at: 0,
            last_answer: 0,
            heard: None,
            sync: None,
            untold: None,
            owed: None,
            asks: None,
            doubted_at: None,
        }
    }

    /// Whether batches are being sent.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.link, Link::Up { .. })
    }

    /// Since when this connection owes an answer to a batch.
    fn silent_since(&self) -> Option<i64> {
        let owed = self.owed.filter(|_| self.flights.len() > 0);
        owed.map(|since| since.max(self.last_answer))
    }

    /// When an answer is overdue, whoever should give it.
    fn silent_at(&self) -> Option<i64> {
        let since = self.silent_since();
        since.map(|since| since + self.flights.wait())
    }

    fn is_silent(&self, now: i64) -> bool {
        self.silent_at().is_some_and(|at| now >= at)
    }

    /// What is tried during a silence is tried again after this part of its length.
    fn part(&self, now: i64) -> i64 {
        self.owed.map_or(0, |since| (now - since) / PATIENCE)
    }

    /// How long a connection may bring no answer: a hub that is too slow gets no quicker by a fleet that connects anew.
    fn patience(&self, now: i64) -> i64 {
        let least = self.settings.silence.max(self.flights.wait() * 2);
        self.part(now).min(self.settings.state_again).max(least)
    }

    /// Batches in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// When the next tick is due, at the latest.
    #[must_use]
    pub fn wake_at(&self) -> i64 {
        let flights = match self.asks {
            Some(asks) => Some(asks.next),
            None => [self.flights.due_at(), self.silent_at()]
                .into_iter()
                .flatten()
                .min(),
        };
        let flights = flights.filter(|_| self.is_up());
        let link = match self.link {
            Link::Down { retry_at } => Some(retry_at),
            Link::Connecting { deadline } | Link::Syncing { deadline, .. } => Some(deadline),
            Link::Up { .. } => self.sync.map(|s| s.again_at),
        };
        let untold = self.is_up().then_some(self.untold).flatten();
        let untold = untold.map(|(at, _)| at);
        // Into a silence all of this goes no sooner than the next batch that asks.
        let speaks = self.is_up() && self.asks.is_none();
        let thirsty = speaks && self.budget <= 0 && !self.backlog.waiting.is_empty();
        let byte = 1_000 / self.settings.backlog_bytes_per_s.clamp(1, 1_000);
        let budget = thirsty.then(|| self.budget_at + i64::try_from(byte).unwrap_or(0).max(100));
        let unread = [&self.live, &self.backlog]
            .into_iter()
            .filter(|q| speaks && q.wants() && q.again_at > 0)
            .map(|q| q.again_at)
            .min();
        let room = speaks && self.backlog.waiting.len() < PAGE / 2;
        let aside = room.then(|| self.aside.due_at()).flatten();
        [flights, link, untold, budget, unread, aside]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(i64::MAX)
    }
}

/// One step of the machine.
pub fn step(s: &mut State, event: Event, now: i64) -> Vec<Output> {
    let mut out = Vec::new();
    match event {
        Event::Tick => {}
        Event::Connected { newest } => connected(s, newest, now, &mut out),
        Event::Lost => lost(s, now),
        Event::Sealed { newest } => sealed(s, newest),
        Event::Page { lane, batches } => page(s, lane, batches),
        Event::Unread { lane } => {
            let queue = match lane {
                Lane::Live => &mut s.live,
                Lane::Backlog => &mut s.backlog,
            };
            queue.asked = false;
            queue.more = true;
            queue.again_at = now + READ_AGAIN;
        }
        Event::Acked(outcome) => acked(s, &outcome, now, &mut out),
        Event::Told => s.untold = None,
        Event::NotTaken(which) => {
            answered(s, &[], now);
            if let Some(batch) = which.and_then(|key| s.flights.remove(&key)) {
                s.window.answered();
                s.aside.put(batch, now);
            }
        }
        Event::Refused(key) => s.flights.refused(&key, now),
        Event::Gone(key) => {
            s.flights.remove(&key);
        }
    }
    time(s, now, &mut out);
    if s.is_up() {
        sending::go(s, now, &mut out);
    }
    out
}

fn connected(s: &mut State, newest: i64, now: i64, out: &mut Vec<Output>) {
    s.flights.clear();
    s.live_from = newest;
    s.live = Queue {
        after: newest,
        ..Queue::default()
    };
    s.backlog = Queue {
        more: true,
        ..Queue::default()
    };
    s.last_answer = now;
    s.budget = i64::try_from(s.settings.backlog_bytes_per_s).unwrap_or(i64::MAX);
    s.budget_at = now;
    s.link = Link::Syncing {
        since: now,
        deadline: now + s.settings.sync_deadline,
    };
    let wait = s.settings.sync_deadline * UNTOLD;
    s.untold = Some((now + wait, wait));
    // P4: a hub that knows more of the epoch must be able to say so before the first batch.
    sync(s, now, out);
}

fn sync(s: &mut State, now: i64, out: &mut Vec<Output>) {
    s.owed.get_or_insert(now);
    s.sync = Some(Sync {
        since: now,
        again_at: now + s.settings.sync_deadline,
    });
    out.push(Output::Sync);
}

fn lost(s: &mut State, now: i64) {
    if let Link::Up { since, .. } | Link::Syncing { since, .. } = s.link
        && now - since >= s.settings.stable_after
    {
        s.attempt = 0;
    }
    let (least, most) = s.settings.backoff;
    let silence = now - s.heard.unwrap_or(now);
    let most = most.min((silence / 10).max(s.settings.backoff_soon));
    let ceiling = least
        .saturating_mul(1 << s.attempt.min(20))
        .clamp(1, most.max(1));
    s.attempt = s.attempt.saturating_add(1);
    // Full jitter: a fleet that lost its broker together does not come back together.
    let wait = share(&mut s.random, ceiling);
    s.link = Link::Down {
        retry_at: now + wait,
    };
    s.flights.clear();
    s.asks = None;
    s.sync = None;
    s.untold = None;
    s.live = Queue::default();
    s.backlog = Queue::default();
}

/// A random part of a time.
fn share(state: &mut u64, of: i64) -> i64 {
    i64::try_from(random(state) % of.unsigned_abs().max(1)).unwrap_or(0)
}

fn random(state: &mut u64) -> u64 {
    // splitmix64
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn sealed(s: &mut State, newest: i64) {
    if newest < s.live_from {
        // The buffer was made anew after damage: all places changed.
        s.flights.clear();
        s.aside.clear();
        s.live_from = newest;
        s.live = Queue {
            after: newest,
            ..Queue::default()
        };
        rescan(s);
    }
    s.live.more = true;
}

fn rescan(s: &mut State) {
    // A page on its way answers the scan before; its batches are still true, only its place is not.
    s.backlog = Queue {
        more: true,
        ..Queue::default()
    };
}

fn page(s: &mut State, lane: Lane, batches: Vec<SealedInfo>) {
    let live_from = s.live_from;
    let queue = match lane {
        Lane::Live => &mut s.live,
        Lane::Backlog => &mut s.backlog,
    };
    queue.asked = false;
    if batches.len() < PAGE {
        queue.more = false;
    }
    for b in batches {
        if b.order <= queue.after {
            continue;
        }
        if lane == Lane::Backlog && b.order > live_from {
            queue.more = false;
            break;
        }
        queue.after = b.order;
        if !s.flights.holds(&b.key) && !s.aside.holds(&b.key) {
            queue.waiting.push_back(b);
        }
    }
}

/// Somebody answers; what is answered is no longer in flight.
fn answered(s: &mut State, arrived: &[BatchKey], now: i64) {
    let silent = s.is_silent(now);
    if silent {
        // Whoever answers after a silence may only be slow.
        s.flights.slower();
    }
    for key in arrived {
        if s.flights.arrived(key, now) {
            s.window.answered();
        }
    }
    if silent {
        let share = |of: i64| share(&mut s.random, of);
        s.flights.silence_ends(now, share);
    }
    s.last_answer = now;
    s.heard = Some(now);
    s.owed = None;
}

fn acked(s: &mut State, outcome: &AckOutcome, now: i64, out: &mut Vec<Output>) {
    let arrived = if outcome.stranger {
        &[]
    } else {
        &outcome.done[..]
    };
    answered(s, arrived, now);
    if outcome.stranger {
        // P5: only an answer to what is sent from now on tells whether this instance is the hub's newest. Its late
        // answers come in swarms; one question at a time is enough.
        let asked = s
            .sync
            .is_some_and(|q| now - q.since < s.settings.sync_deadline / 4);
        if matches!(s.link, Link::Syncing { .. } | Link::Up { .. }) && !asked {
            sync(s, now, out);
        }
        return;
    }
    for key in &outcome.done {
        s.aside.done(key);
    }
    let done = |b: &SealedInfo| !outcome.done.contains(&b.key);
    s.live.waiting.retain(done);
    s.backlog.waiting.retain(done);
    match s.link {
        Link::Syncing { since, .. } => s.link = Link::Up { since },
        Link::Up { .. } => {}
        _ => return,
    }
    if let (Some(sync), Some(echo)) = (s.sync, outcome.echo)
        && echo >= sync.since
        && outcome.unanswered == 0
    {
        s.sync = None;
    }
    if outcome.new_epoch.is_some() || outcome.rewound {
        // Batches that were plain are contested now, or wait again: look at all of them anew.
        s.flights.clear();
        s.aside.clear();
        s.live.waiting.clear();
        s.live.after = s.live_from;
        s.live.more = true;
        rescan(s);
    }
    // P5: every epoch is asked about until the hub in force has spoken of it.
    let open = outcome.unanswered > 0 && s.sync.is_none();
    // P5: a hub restored behind its own back learns of it by a sync only. A late ack looks the same: not asked often.
    let pause = s.settings.sync_deadline * DOUBT_PAUSE;
    let doubt = outcome.behind && s.doubted_at.is_none_or(|at| now - at >= pause);
    if doubt {
        s.doubted_at = Some(now);
    }
    if outcome.new_epoch.is_some() || outcome.new_hub || open || doubt {
        sync(s, now, out);
    }
}

fn time(s: &mut State, now: i64, out: &mut Vec<Output>) {
    match s.link {
        Link::Down { retry_at } if now >= retry_at => {
            s.heard.get_or_insert(now);
            s.link = Link::Connecting {
                deadline: now + s.settings.connect_deadline,
            };
            out.push(Output::Connect);
        }
        Link::Connecting { deadline } if now >= deadline => {
            out.push(Output::Disconnect);
            lost(s, now);
        }
        Link::Syncing { since, deadline } if now >= deadline => {
            // Telemetry may reach a hub although the leading one, who answers syncs, is away.
            s.link = Link::Up { since };
        }
        Link::Up { .. }
            if (s.silent_since()).is_some_and(|since| now - since >= s.patience(now)) =>
        {
            out.push(Output::Disconnect);
            lost(s, now);
        }
        _ => {}
    }
    let part = s.part(now);
    if let Some(open) = s.sync.as_mut().filter(|open| now >= open.again_at) {
        let (least, most) = (s.settings.sync_deadline * 3, s.settings.state_again);
        open.again_at = now + part.min(most).max(least);
        out.push(Output::Sync);
    }
    if let Some((at, wait)) = s.untold.filter(|(at, _)| s.is_up() && now >= *at) {
        // An ack of a batch answers a sync as far as batches go, but only who leads and has the sync itself says what is to be done.
        let longer = (wait * 2).min(s.settings.state_again.max(wait));
        s.untold = Some((at.max(now) + longer, longer));
        if s.sync.is_none() {
            sync(s, now, out);
        }
    }
}

#[cfg(test)]
#[path = "uplink_tests.rs"]
mod tests;
