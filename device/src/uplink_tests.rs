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

#[test]
fn into_a_silence_one_batch_at_a_time_is_sent_again_and_the_first_answer_sends_all() {
    let mut s = State::new(Settings::default(), 3);
    step(&mut s, Event::Tick, 0);
    step(&mut s, Event::Connected { newest: 0 }, 0);
    step(&mut s, Event::Acked(AckOutcome::default()), 0);
    step(&mut s, Event::Sealed { newest: 16 }, 0);
    let page = Event::Page {
        lane: Lane::Live,
        batches: (1..=16).map(batch).collect(),
    };
    let published = |out: &[Output]| {
        let sent = |o: &&Output| matches!(o, Output::Publish { .. });
        out.iter().filter(sent).count()
    };
    assert_eq!(published(&step(&mut s, page, 0)), 16);
    // The broker took them; no hub is there.
    let (mut now, mut asked) = (0, 0);
    while now < 60_000 {
        now = s.wake_at();
        let again = published(&step(&mut s, Event::Tick, now));
        assert!(again <= 1, "{again} at {now}");
        asked += again;
    }
    assert_eq!(asked, 10, "each five seconds from the fifteenth on");
    let answer = AckOutcome {
        done: vec![batch(1).key],
        ..Default::default()
    };
    let again = published(&step(&mut s, Event::Acked(answer), now + 100));
    assert!(
        (12..=14).contains(&again),
        "all but what just went: {again}"
    );
    assert_eq!(s.in_flight(), 15);
}
