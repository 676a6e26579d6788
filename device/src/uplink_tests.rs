//! What is put aside, step by step; the agent's `simulation` drives the machine against hubs.
#![allow(clippy::unwrap_used, reason = "tests")]

use fieldcast_wire::Epoch;

use super::{Event, Lane, Output, Settings, State, step};
use crate::batches::{AckOutcome, BatchKey, SealedInfo};

fn batch(order: i64) -> SealedInfo {
    SealedInfo {
        key: BatchKey {
            epoch: Epoch::from_slice(&[1; 16]).unwrap(),
            number: order.unsigned_abs(),
        },
        order,
        bytes: 100,
        first_seq: 1,
        last_seq: 1,
        contested: false,
    }
}

#[test]
fn what_the_hub_has_no_room_for_holds_nothing_up_and_is_tried_again_every_hour() {
    const HOUR: i64 = 3_600_000;
    let lane = Lane::Backlog;
    let again = |order| Output::Publish {
        key: batch(order).key,
        lane,
    };
    let answered = AckOutcome {
        echo: Some(i64::MAX),
        ..Default::default()
    };
    let acked = || Event::Acked(answered.clone());
    let mut s = State::new(Settings::default(), 3);
    step(&mut s, Event::Tick, 0);
    step(&mut s, Event::Connected { newest: 100 }, 0);
    step(&mut s, acked(), 0);
    step(&mut s, Event::Told, 0);
    let page = Event::Page {
        lane,
        batches: (1..=30).map(batch).collect(),
    };
    let sent = step(&mut s, page.clone(), 0);
    assert_eq!(sent.len(), 24, "as many as may be in flight: {sent:?}");
    // None of those is taken: what lies behind them goes up, and the connection stays however long that takes.
    let mut behind = Vec::new();
    for n in 1..=24 {
        let refused = Event::NotTaken(Some(batch(n).key));
        behind.extend(step(&mut s, refused, n * 14_000));
    }
    assert!(!behind.contains(&Output::Disconnect), "{behind:?}");
    assert!((25..=30).all(|n| behind.contains(&again(n))), "{behind:?}");
    let done = AckOutcome {
        done: (25..=30).map(|n| batch(n).key).collect(),
        ..Default::default()
    };
    step(&mut s, Event::Acked(done), 336_000);
    assert_eq!(s.in_flight(), 0);

    // A new connection looks at the buffer anew, and leaves them alone all the same.
    step(&mut s, Event::Lost, 340_000);
    let at = s.wake_at();
    step(&mut s, Event::Tick, at);
    step(&mut s, Event::Connected { newest: 100 }, at);
    step(&mut s, acked(), at);
    step(&mut s, Event::Told, at);
    assert_eq!(step(&mut s, page, at).len(), 6, "the others");
    step(&mut s, Event::NotTaken(None), at);
    assert_eq!(s.in_flight(), 6, "it was no batch");
    let done = AckOutcome {
        done: (25..=30).map(|n| batch(n).key).collect(),
        ..Default::default()
    };
    step(&mut s, Event::Acked(done), at);
    let due = 14_000 + HOUR;
    assert_eq!(step(&mut s, Event::Tick, due - 1), []);
    assert_eq!(s.wake_at(), due);
    assert_eq!(step(&mut s, Event::Tick, due), [again(1)]);
    let taken = AckOutcome {
        done: vec![batch(1).key, batch(2).key],
        ..Default::default()
    };
    step(&mut s, Event::Acked(taken), due);
    assert_eq!(
        step(&mut s, Event::Tick, due + 14_000),
        [],
        "2 is there by now"
    );
    assert_eq!(step(&mut s, Event::Tick, due + 28_000), [again(3)]);
}

#[test]
fn waits_are_seconds_after_a_short_outage_and_a_minute_after_a_long_one() {
    const STEADY: i64 = 1_000_000;
    let mut s = State::new(Settings::default(), 3);
    step(&mut s, Event::Tick, STEADY);
    step(&mut s, Event::Connected { newest: 1 }, STEADY);
    step(&mut s, Event::Acked(AckOutcome::default()), STEADY);
    let mut longest = |silent: std::ops::Range<i64>| {
        let mut now = STEADY + silent.start;
        let mut longest = 0;
        while now < STEADY + silent.end {
            step(&mut s, Event::Lost, now);
            let due = s.wake_at();
            longest = longest.max(due - now);
            now = due;
            step(&mut s, Event::Tick, now);
        }
        longest
    };
    let short = longest(0..90_000);
    assert!((5_000..=10_000).contains(&short), "{short}");
    let long = longest(600_000..7_200_000);
    assert!((50_000..=60_000).contains(&long), "{long}");
}

fn published(out: &[Output]) -> Vec<BatchKey> {
    out.iter()
        .filter_map(|o| match o {
            Output::Publish { key, .. } => Some(*key),
            _ => None,
        })
        .collect()
}

/// A machine that is up, nothing in flight.
fn up() -> State {
    let mut s = State::new(Settings::default(), 3);
    step(&mut s, Event::Tick, 0);
    step(&mut s, Event::Connected { newest: 0 }, 0);
    step(&mut s, Event::Acked(AckOutcome::default()), 0);
    s
}

/// What falls due before `until`.
fn wait(s: &mut State, until: i64) -> Vec<BatchKey> {
    let mut again = Vec::new();
    while s.wake_at() < until {
        let due = s.wake_at();
        again.extend(published(&step(s, Event::Tick, due)));
    }
    again
}

/// Seals a batch, which goes up; what went again before.
fn seal(s: &mut State, order: i64, now: i64) -> Vec<BatchKey> {
    let mut sent = wait(s, now);
    sent.extend(published(&step(s, Event::Sealed { newest: order }, now)));
    let page = Event::Page {
        lane: Lane::Live,
        batches: vec![batch(order)],
    };
    sent.extend(published(&step(s, page, now)));
    assert_eq!(sent.pop(), Some(batch(order).key));
    sent
}

fn acked(order: i64) -> Event {
    Event::Acked(AckOutcome {
        done: vec![batch(order).key],
        ..Default::default()
    })
}

#[test]
fn into_a_silence_one_batch_at_a_time_is_sent_again_and_the_first_answer_sends_all() {
    // The broker takes batches, and no hub is there. However far apart they were sealed, one at a time asks.
    for apart in [0, 50, 1_000, 9_970] {
        let mut s = up();
        let count = (60_000 / apart.max(1)).min(16);
        let mut asked = Vec::new();
        for n in 1..=count {
            asked.extend(seal(&mut s, n, (n - 1) * apart));
        }
        asked.extend(wait(&mut s, 80_000));
        assert!(
            (12..=15).contains(&asked.len()),
            "{apart} ms apart: {}",
            asked.len()
        );
        step(&mut s, acked(1), 80_000);
        let again = wait(&mut s, 85_100);
        let lately: Vec<BatchKey> = asked.split_off(asked.len() - 3);
        let missed = (2..=count).filter(|n| {
            let key = batch(*n).key;
            !again.contains(&key) && !lately.contains(&key)
        });
        assert_eq!(missed.count(), 0, "{apart} ms apart: {again:?}");
        assert!(again.len() < usize::try_from(count).unwrap(), "each once");
    }
}

#[test]
fn a_batch_that_is_never_answered_goes_again_ever_more_rarely_while_others_are() {
    let mut s = up();
    let mut again = seal(&mut s, 1, 0);
    for n in 2..=60 {
        let now = (n - 1) * 20_000;
        again.extend(seal(&mut s, n, now));
        step(&mut s, acked(n), now + 100);
    }
    // Twenty minutes: after 15, 30 and 45 s, then each minute.
    assert!((18..=24).contains(&again.len()), "{}", again.len());
}

#[test]
fn a_broker_that_lets_in_and_throws_out_is_left_alone_ever_longer() {
    let mut s = State::new(Settings::default(), 3);
    let (mut now, mut longest) = (0, 0);
    step(&mut s, Event::Tick, now);
    while now < 3_600_000 {
        step(&mut s, Event::Connected { newest: 0 }, now);
        step(&mut s, Event::Lost, now + 100);
        longest = longest.max(s.wake_at() - now);
        now = s.wake_at();
        step(&mut s, Event::Tick, now);
    }
    assert!(longest > 50_000, "{longest}");
}

#[test]
fn who_was_not_told_what_to_do_asks_until_it_is() {
    let mut s = State::new(Settings::default(), 3);
    step(&mut s, Event::Tick, 0);
    assert_eq!(
        step(&mut s, Event::Connected { newest: 0 }, 0),
        [Output::Sync]
    );
    // The sync itself was lost; a batch that was made later is acknowledged.
    let acked = Event::Acked(AckOutcome {
        echo: Some(i64::MAX),
        ..Default::default()
    });
    step(&mut s, acked.clone(), 5_000);
    let mut asked = Vec::new();
    while s.wake_at() < 3_600_000 {
        let now = s.wake_at();
        if step(&mut s, Event::Tick, now).contains(&Output::Sync) {
            asked.push(now / 1_000);
            step(&mut s, acked.clone(), now + 1);
        }
    }
    assert_eq!(asked, [30, 90, 210, 450, 930, 1_530, 2_130, 2_730, 3_330]);
    step(&mut s, Event::Told, 3_600_000);
    assert_eq!(s.wake_at(), i64::MAX);
    // A new connection begins anew.
    step(&mut s, Event::Lost, 3_600_000);
    let at = s.wake_at();
    step(&mut s, Event::Tick, at);
    step(&mut s, Event::Connected { newest: 0 }, at);
    step(&mut s, acked, at + 1);
    assert_eq!(s.wake_at(), at + 30_000);
}
