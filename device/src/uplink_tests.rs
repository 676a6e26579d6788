//! What is put aside, step by step; the agent's `simulation` drives the machine against hubs.
#![allow(clippy::unwrap_used, reason = "tests")]

use fieldcast_wire::Epoch;

use super::{Event, Lane, Output, Settings, State, step};
use crate::batches::{AckOutcome, BatchKey, SealedInfo};

#[test]
fn what_the_hub_has_no_room_for_holds_nothing_up_and_is_tried_again_every_hour() {
    const HOUR: i64 = 3_600_000;
    let batch = |order: i64| SealedInfo {
        key: BatchKey {
            epoch: Epoch::from_slice(&[1; 16]).unwrap(),
            number: order.unsigned_abs(),
        },
        order,
        bytes: 100,
        first_seq: 1,
        last_seq: 1,
        contested: false,
    };
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
