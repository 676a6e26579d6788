//! The machine's waits, lanes and pages, step by step; `simulation` drives it against hubs.
#![allow(clippy::unwrap_used, reason = "tests")]

use fieldcast_wire::Epoch;

use super::machine::{Event, Output, Settings, State, step};
use crate::buffer::BatchKey;

#[test]
fn waits_grow_with_full_jitter_and_a_stable_connection_resets_them() {
    let mut s = State::new(Settings::default(), 3);
    let mut now = 0;
    assert_eq!(step(&mut s, Event::Tick, now), [Output::Connect]);
    let mut longest = 0;
    for _ in 0..30 {
        assert!(
            step(&mut s, Event::Lost, now)
                .iter()
                .all(|o| *o == Output::Connect)
        );
        let wait = s.wake_at() - now;
        longest = longest.max(wait);
        assert!(wait <= 60_000);
        now = s.wake_at();
        step(&mut s, Event::Tick, now);
    }
    assert!(longest > 5_000, "{longest}");
    step(&mut s, Event::Connected { newest: 0 }, now);
    step(
        &mut s,
        Event::Acked(crate::buffer::AckOutcome::default()),
        now,
    );
    now += 31_000;
    step(&mut s, Event::Lost, now);
    assert!(s.wake_at() - now <= 500);
}

#[test]
fn live_goes_before_backlog_and_the_backlog_keeps_its_budget() {
    let epoch = Epoch(uuid::Uuid::from_u128(1));
    let info = |order: i64| crate::buffer::SealedInfo {
        key: BatchKey {
            epoch,
            number: order.unsigned_abs(),
        },
        order,
        bytes: 400_000,
        first_seq: 1,
        last_seq: 1,
        contested: false,
    };
    let mut s = State::new(Settings::default(), 3);
    step(&mut s, Event::Tick, 0);
    step(&mut s, Event::Connected { newest: 100 }, 0);
    let out = step(
        &mut s,
        Event::Acked(crate::buffer::AckOutcome::default()),
        0,
    );
    assert_eq!(
        out,
        [Output::Page {
            lane: super::machine::Lane::Backlog,
            after: 0,
            limit: 32
        }]
    );
    let out = step(
        &mut s,
        Event::Page {
            lane: super::machine::Lane::Backlog,
            batches: (1..=20).map(info).collect(),
        },
        0,
    );
    assert_eq!(out.len(), 3, "P7: a budget of 1 MiB a second: {out:?}");
    step(&mut s, Event::Sealed { newest: 101 }, 1);
    let out = step(
        &mut s,
        Event::Page {
            lane: super::machine::Lane::Live,
            batches: vec![info(101)],
        },
        1,
    );
    assert_eq!(
        out,
        [Output::Publish {
            key: info(101).key,
            lane: super::machine::Lane::Live
        }],
        "P7"
    );
    let arrived = crate::buffer::AckOutcome {
        done: (1..=3).map(|order| info(order).key).collect(),
        ..Default::default()
    };
    assert_eq!(step(&mut s, Event::Acked(arrived), 100), [], "P7: nor more");
    assert!(
        !step(&mut s, Event::Tick, 1_000).is_empty(),
        "P7: the budget comes back"
    );
    assert!(s.wake_at() <= 15_000, "P7: a deadline is set");
}

#[test]
fn a_page_that_cannot_be_read_is_asked_for_again() {
    let mut s = State::new(Settings::default(), 3);
    step(&mut s, Event::Tick, 0);
    step(&mut s, Event::Connected { newest: 5 }, 0);
    let acked = Event::Acked(crate::buffer::AckOutcome::default());
    let asked = step(&mut s, acked, 0);
    assert!(matches!(asked[..], [Output::Page { after: 0, .. }]));
    let lane = super::machine::Lane::Backlog;
    assert_eq!(step(&mut s, Event::Unread { lane }, 1), []);
    assert_eq!(s.wake_at(), 1_001, "not at once: the disk may need time");
    assert_eq!(step(&mut s, Event::Tick, 1_001), asked);
}
