//! Buffers that older agents left: kept files of every layout are opened, lose nothing and reach a hub; owns no product code.
#![allow(clippy::unwrap_used, reason = "tests")]

use fieldcast_ledger::machine::{Arrived, Event};
use fieldcast_ledger::memory::{Ledger, Round};
use fieldcast_wire::{DeviceId, RecordBody, Sha256, batch};
use rusqlite::Connection;

use super::Store;
use super::tests::{commit, open};

/// As `sqlite3 buffer.db < layout-1.sql` would make it, with bytes of the first schema of batches in it.
const LAYOUT_1: &str = include_str!("fixtures/layout-1.sql");
const WAITED: u64 = 97 - 11 + 1;

/// What a hub answers that has never heard of the device; all that waits is sent to it in one round.
fn deliver(store: &mut Store) -> (u64, Vec<(u64, RecordBody)>) {
    let device = DeviceId::new("d").unwrap();
    let (mut arrived, mut records) = (Vec::new(), Vec::new());
    for info in store.unacked(0, 100).unwrap() {
        let bytes = store.batch(info.key).unwrap().unwrap();
        let b = batch::decode(&bytes).unwrap();
        arrived.push(Arrived {
            device: device.clone(),
            epoch: b.epoch,
            number: b.number,
            digest: Sha256::of(&bytes),
            clock: b.clock,
            restored: None,
        });
        records.extend(b.records.into_iter().map(|r| (r.seq, r.body)));
    }
    let round = Round {
        batches: &arrived,
        refused: &vec![Vec::new(); arrived.len()],
        fresh: uuid::Uuid::nil(),
        now: 0,
    };
    let batches = Event::Batches(arrived.clone());
    // The instance that this buffer knows.
    let acks = Ledger::default().take(&[0x0a, 0x0b], batches, &round);
    let outcomes = acks.iter().map(|(_, ack)| store.apply_ack(ack).unwrap());
    let done = outcomes.map(|o| o.done.len() as u64).sum();
    (done, records)
}

#[test]
fn a_buffer_of_the_first_layout_is_opened_and_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let old = Connection::open(dir.path().join("buffer.db")).unwrap();
    old.execute_batch(LAYOUT_1).unwrap();
    drop(old);
    let mut store = open(dir.path());
    let before = store.depth().unwrap();
    assert_eq!((before.records, before.batches), (WAITED + 3, 1), "P2");
    assert_eq!(store.state("cursor").unwrap(), Some(vec![0x2a]));
    assert!(
        store.begin_boot().unwrap() > 12 && store.next_session().unwrap() > 30,
        "P10"
    );
    // It goes on under the same epoch and numbers.
    store.commit(&[commit(0..2)]).unwrap();
    while store.seal().unwrap().is_some() {}
    let (done, records) = deliver(&mut store);
    assert_eq!(store.depth().unwrap().epoch, before.epoch);
    assert!(done >= 2, "{done}");
    assert_eq!(
        store.depth().unwrap().records,
        0,
        "P5: all of it is acknowledged"
    );
    let numbers: Vec<u64> = records.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(numbers, (11..=102).collect::<Vec<_>>(), "P2");
    let last: Vec<_> = records[WAITED as usize..]
        .iter()
        .filter_map(|(_, body)| match body {
            RecordBody::Reading(r) => Some((r.sensor.as_str(), r.time, r.value)),
            _ => None,
        })
        .collect();
    let began = 1_767_229_300_000;
    let unsealed = [
        ("temperature", began, 0.5),
        ("load", began + 1_000, 1.5),
        ("temperature", began + 2_000, 2.5),
    ];
    assert_eq!(last[..3], unsealed);
}
