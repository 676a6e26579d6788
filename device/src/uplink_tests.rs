//! What is put aside, step by step; the agent's `simulation` drives the machine against hubs.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeSet, VecDeque};

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
    widen(&mut s);
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

/// Opens the window.
fn widen(s: &mut State) {
    for _ in 0..40 {
        s.window.answered();
    }
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

/// Seals a batch; what went before and with it.
fn seal(s: &mut State, order: i64, now: i64) -> Vec<BatchKey> {
    let mut sent = wait(s, now);
    sent.extend(published(&step(s, Event::Sealed { newest: order }, now)));
    let page = Event::Page {
        lane: Lane::Live,
        batches: vec![batch(order)],
    };
    sent.extend(published(&step(s, page, now)));
    sent
}

fn acked(order: i64) -> Event {
    Event::Acked(AckOutcome {
        done: vec![batch(order).key],
        ..Default::default()
    })
}

/// A hub that is back answers after `delay` whatever goes; all that went until `until`.
fn served(s: &mut State, first: Vec<BatchKey>, delay: i64, now: i64, until: i64) -> Vec<BatchKey> {
    let mut answers: VecDeque<_> = first.iter().map(|key| (now + delay, *key)).collect();
    let mut sent = first;
    loop {
        let answer = answers.front().map_or(i64::MAX, |(at, _)| *at);
        let now = answer.min(s.wake_at());
        if now >= until {
            return sent;
        }
        let done = AckOutcome {
            done: (now == answer)
                .then(|| answers.pop_front().map(|(_, key)| key))
                .flatten()
                .into_iter()
                .collect(),
            ..Default::default()
        };
        let event = match done.done.is_empty() {
            true => Event::Tick,
            false => Event::Acked(done),
        };
        let went = published(&step(s, event, now));
        answers.extend(went.iter().map(|key| (now + delay, *key)));
        sent.extend(went);
    }
}

#[test]
fn into_a_silence_ever_fewer_ask_and_the_first_answer_sends_all() {
    // The broker takes batches, and no hub is there. However far apart they were sealed, one at a time asks.
    for apart in [0, 50, 1_000, 9_970] {
        let mut s = up();
        widen(&mut s);
        let count = (60_000 / apart.max(1)).min(16);
        let (mut sent, mut sealed_in_time) = (Vec::new(), 0);
        for n in 1..=count {
            sent.extend(seal(&mut s, n, (n - 1) * apart));
            sealed_in_time += usize::from((n - 1) * apart < 15_000);
        }
        sent.extend(wait(&mut s, 80_000));
        let asked = sent.len() - sealed_in_time;
        assert!((6..=13).contains(&asked), "{apart} ms apart: {asked}");
        // A hub is back that answers one and no more: hardly anything follows.
        let mut deaf = s.clone();
        let mut few = published(&step(&mut deaf, acked(1), 80_000));
        few.extend(wait(&mut deaf, 94_000));
        assert!((1..=4).contains(&few.len()), "{apart} ms apart: {few:?}");
        // One that answers gets all of it.
        let first = published(&step(&mut s, acked(1), 80_000));
        let went = served(&mut s, first, 100, 80_000, 85_500);
        let recent = |key: &BatchKey| sent[sent.len() - 3..].contains(key);
        let missed = (2..=count).map(|n| batch(n).key).filter(|key| {
            let there = went.contains(key) || recent(key);
            !there
        });
        assert_eq!(missed.count(), 0, "{apart} ms apart: {went:?}");
        assert!(went.len() < usize::try_from(count).unwrap(), "each once");
    }
}

#[test]
fn a_silence_of_hours_is_asked_into_once_a_minute() {
    let mut s = up();
    let (mut sent, mut connected, mut order) = (Vec::new(), 0, 0);
    let mut tell = |s: &mut State, event, now| {
        let out = step(s, event, now);
        let asks = |o: &&Output| matches!(o, Output::Publish { .. } | Output::Sync);
        sent.extend(out.iter().filter(asks).map(|_| now));
        out.contains(&Output::Connect)
    };
    let mut next = 0;
    while next < 7_200_000 {
        let now = next.min(s.wake_at());
        if now == next {
            // One is sealed each ten seconds.
            (next, order) = (next + 10_000, order + 1);
            tell(&mut s, Event::Sealed { newest: order }, now);
            let batches = vec![batch(order)];
            let lane = Lane::Live;
            tell(&mut s, Event::Page { lane, batches }, now);
        } else if tell(&mut s, Event::Tick, now) {
            connected += 1;
            tell(&mut s, Event::Connected { newest: 0 }, now);
            tell(&mut s, Event::Sealed { newest: order }, now);
            for lane in [Lane::Backlog, Lane::Live] {
                let batches = vec![batch(order)];
                tell(&mut s, Event::Page { lane, batches }, now);
            }
        }
    }
    let later: Vec<_> = sent.iter().filter(|at| **at >= 1_200_000).collect();
    assert!((100..220).contains(&later.len()), "{}", later.len());
    let longest = later.windows(2).map(|w| w[1] - w[0]).max().unwrap();
    // With a new connection in between, which first waits for its sync.
    assert!(longest <= 80_000, "{longest}");
    assert!((5..=25).contains(&connected), "{connected} connections");
}

#[test]
fn a_device_that_had_nothing_to_say_has_met_no_silence() {
    let mut s = up();
    seal(&mut s, 1, 0);
    step(&mut s, acked(1), 10);
    // Ten minutes later it has, and the first of it is lost.
    seal(&mut s, 2, 600_000);
    let out = step(&mut s, Event::Told, 600_001);
    assert_eq!(out, [], "nor does it connect anew");
    let again = wait(&mut s, 640_000);
    assert_eq!(again, [batch(2).key; 5], "after 15 s, then each 5 to 7");
    // A hub that takes 40 s for each gets hardly one twice.
    let mut sent = Vec::new();
    step(&mut s, acked(2), 640_000);
    for n in 3..=12 {
        let now = 640_000 + (n - 2) * 120_000;
        sent.extend(seal(&mut s, n, now));
        sent.extend(wait(&mut s, now + 40_000));
        step(&mut s, acked(n), now + 40_000);
    }
    assert!(sent.len() <= 14, "{}", sent.len());
}

#[test]
fn a_slow_hub_gets_ever_less_and_a_quick_one_all_again() {
    // A batch each ten seconds; each is answered after 40 s, then after a tenth.
    let mut s = up();
    widen(&mut s);
    let mut answers: BTreeSet<(i64, u64)> = BTreeSet::new();
    let (mut order, mut slow, mut quick) = (0, 0, 0);
    for now in (0..1_200_000).step_by(100) {
        let mut went = Vec::new();
        while let Some((at, number)) = answers.first().copied().filter(|(at, _)| *at <= now) {
            answers.remove(&(at, number));
            went.extend(published(&step(
                &mut s,
                acked(i64::try_from(number).unwrap()),
                now,
            )));
        }
        if now % 10_000 == 0 {
            order += 1;
            went.extend(seal(&mut s, order, now));
        }
        went.extend(wait(&mut s, now + 1));
        let delay = if now < 600_000 { 40_000 } else { 100 };
        answers.extend(went.iter().map(|key| (now + delay, key.number)));
        match now {
            300_000..600_000 => slow += went.len(),
            1_000_000.. => quick += went.len(),
            _ => {}
        }
    }
    assert!(slow <= 31, "hardly one twice: {slow}");
    assert!((19..=21).contains(&quick), "{quick}");
    assert_eq!(s.in_flight(), 0);
}

#[test]
fn a_batch_that_is_never_answered_goes_again_ever_more_rarely_while_others_are() {
    let mut s = up();
    let mut again = seal(&mut s, 1, 0);
    for n in 2..=60 {
        let now = (n - 1) * 20_000;
        again.extend(seal(&mut s, n, now));
        again.extend(wait(&mut s, now + 10_000));
        assert!(again.contains(&batch(n).key), "{n} within seconds");
        step(&mut s, acked(n), now + 10_000);
    }
    again.retain(|key| *key == batch(1).key);
    again.remove(0);
    // Twenty minutes: after 15, 30 and 45 s, then each minute.
    assert!((15..=24).contains(&again.len()), "{}", again.len());
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
