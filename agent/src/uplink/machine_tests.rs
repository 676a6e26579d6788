#![allow(clippy::unwrap_used, reason = "tests")]
//! The machine against a model buffer and hub, through a network that loses, repeats and cuts.

use std::collections::{BTreeMap, BTreeSet};

use fieldcast_wire::Epoch;
use proptest::prelude::*;

use super::*;

fn key(n: i64) -> BatchKey {
    BatchKey { epoch: Epoch(uuid::Uuid::from_u128(1)), number: n.unsigned_abs() }
}

fn info(n: i64) -> SealedInfo {
    SealedInfo { key: key(n), order: n, bytes: 1_000, first_seq: 1, last_seq: 1, contested: false }
}

/// Buffer, hub and network around the machine.
#[derive(Default)]
struct World {
    state: State,
    now: i64,
    sealed: i64,
    acked: BTreeSet<u64>,
    committed: BTreeMap<u64, u32>,
    wire: Vec<BatchKey>,
    most_in_flight: usize,
}

impl World {
    fn step(&mut self, event: Event) {
        let mut outputs = self.state.step(event, self.now);
        while !outputs.is_empty() {
            let mut next = Vec::new();
            for output in outputs {
                match output {
                    Output::Publish(key, _) => self.wire.push(key),
                    Output::Load { after, limit } => {
                        let waiting: Vec<SealedInfo> = (after + 1..=self.sealed)
                            .filter(|n| !self.acked.contains(&n.unsigned_abs()))
                            .take(limit)
                            .map(info)
                            .collect();
                        let complete = waiting.len() < limit;
                        next.extend(self.state.step(Event::Loaded { found: waiting, complete }, self.now));
                    }
                    Output::Connect => next.extend(self.state.step(Event::Connected, self.now)),
                    Output::Introduce => {}
                }
            }
            outputs = next;
        }
        let flying = self.state.batches.values().filter(|i| i.deadline.is_some()).count();
        self.most_in_flight = self.most_in_flight.max(flying);
    }

    fn deliver(&mut self, at: usize, ack_arrives: bool, keep: bool) {
        if self.wire.is_empty() {
            return;
        }
        let at = at % self.wire.len();
        let key = if keep { self.wire[at] } else { self.wire.remove(at) };
        // The hub's ledger writes a batch once, however often it comes.
        *self.committed.entry(key.number).or_insert(0) = 1;
        if ack_arrives {
            self.acked.insert(key.number);
            self.step(Event::Applied { done: vec![key], reload: false });
        }
    }
}

#[derive(Debug, Clone)]
enum Act {
    Wait(i64),
    Seal,
    Deliver(usize, bool, bool),
    Lose(usize),
    Cut(f64),
    Restart,
    Restore,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (1..20_000_i64).prop_map(Act::Wait),
        4 => Just(Act::Seal),
        6 => (any::<usize>(), any::<bool>(), any::<bool>()).prop_map(|(a, b, c)| Act::Deliver(a, b, c)),
        2 => any::<usize>().prop_map(Act::Lose),
        1 => (0.0..1.0).prop_map(Act::Cut),
        1 => Just(Act::Restart),
        1 => Just(Act::Restore),
    ]
}

proptest! {
    #[test]
    fn every_batch_is_committed_once_the_faults_end(acts in prop::collection::vec(act(), 1..300)) {
        let mut world = World::default();
        for act in acts {
            match act {
                Act::Wait(ms) => { world.now += ms; world.step(Event::Tick); }
                Act::Seal => { world.sealed += 1; world.step(Event::Sealed); }
                Act::Deliver(at, ack, keep) => world.deliver(at, ack, keep),
                Act::Lose(at) => { if !world.wire.is_empty() { let at = at % world.wire.len(); world.wire.remove(at); } }
                Act::Cut(jitter) => { world.wire.clear(); world.step(Event::Disconnected { jitter }); }
                Act::Restart => { world.state = State::default(); world.wire.clear(); }
                Act::Restore => { world.acked.clear(); world.committed.clear(); world.step(Event::Applied { done: vec![], reload: true }); }
            }
            prop_assert!(world.most_in_flight <= IN_FLIGHT);
        }
        for _ in 0..20 + 4 * world.sealed {
            world.now += ACK_DEADLINE_MS + 60_001;
            world.step(Event::Tick);
            while !world.wire.is_empty() { world.deliver(0, true, false); }
        }
        let all: Vec<u64> = (1..=world.sealed.unsigned_abs()).collect();
        prop_assert_eq!(world.committed.keys().copied().collect::<Vec<_>>(), all);
    }
}

#[test]
fn live_batches_find_room_beside_a_backlog() {
    let mut state = State::default();
    assert_eq!(state.step(Event::Tick, 0), vec![Output::Connect]);
    let out = state.step(Event::Connected, 0);
    assert!(out.contains(&Output::Load { after: 0, limit: REMEMBERED }), "{out:?}");
    let backlog = (1..=100).map(info).collect();
    let sent = state.step(Event::Loaded { found: backlog, complete: true }, 0);
    assert_eq!(sent.iter().filter(|o| matches!(o, Output::Publish(..))).count(), IN_FLIGHT_BACKLOG);
    let live = state.step(Event::Loaded { found: vec![info(101)], complete: true }, 1);
    assert_eq!(live, vec![Output::Publish(key(101), Lane::Live)]);
}

#[test]
fn the_backoff_grows_and_only_a_stable_connection_resets_it() {
    let mut state = State::default();
    let mut waits = Vec::new();
    for _ in 0..9 {
        state.step(Event::Disconnected { jitter: 0.999_999 }, 0);
        let Link::Waiting { until } = state.link else { unreachable!() };
        waits.push(until);
    }
    assert!(waits.windows(2).all(|w| w[0] <= w[1]) && waits[8] > 59_000, "{waits:?}");
    state.step(Event::Connected, 0);
    state.step(Event::Tick, STABLE_MS - 1);
    assert_eq!(state.attempts, 9);
    state.step(Event::Tick, STABLE_MS);
    assert_eq!(state.attempts, 0);
}
