//! The queue in memory against acks as a hub gives them; owns no product code.
#![allow(clippy::unwrap_used, reason = "tests")]

use fieldcast_device::batches::BatchKey;
use fieldcast_wire::caps::PROOF;
use fieldcast_wire::{Epoch, Reading, RecordBody, Sha256, batch, pb};

use super::buffer::Buffer;

const WALL: i64 = 1_700_000_000_000;

fn reading(time: i64) -> RecordBody {
    RecordBody::Reading(Reading {
        sensor: "s".into(),
        time,
        value: 1.0,
        quality: 0,
        time_source: pb::TimeSource::External,
    })
}

/// A buffer with sealed batches of two readings each.
fn filled(batches: i64) -> Buffer {
    let mut buffer = Buffer::new(1, 7, 1 << 20);
    for n in 0..batches {
        buffer.push(reading(2 * n), n);
        buffer.push(reading(2 * n + 1), n);
        assert_eq!(buffer.seal(n, WALL).unwrap(), 2);
    }
    buffer
}

fn keys(buffer: &Buffer) -> Vec<BatchKey> {
    let all = buffer.unacked(0, 100);
    all.into_iter().map(|b| b.key).collect()
}

fn stamp(buffer: &Buffer, key: BatchKey) -> i64 {
    let payload = buffer.batch(key).unwrap();
    batch::decode(&payload).unwrap().clock.monotonic_ms
}

fn ack(epoch: Epoch, through: u64) -> pb::Ack {
    pb::Ack {
        schema: 1,
        epoch: epoch.to_vec(),
        through,
        hub_instance: b"hub".to_vec(),
        ..pb::Ack::default()
    }
}

fn answering(buffer: &Buffer, key: BatchKey, ack: pb::Ack) -> pb::Ack {
    pb::Ack {
        echo_boot_id: buffer.boot_id(),
        echo_monotonic_ms: stamp(buffer, key),
        ..ack
    }
}

#[test]
fn batches_are_gapless_stay_the_same_and_only_an_ack_trims_them() {
    let mut buffer = filled(5);
    let keys_before = keys(&buffer);
    let mut seq = 0;
    for (number, key) in (1..).zip(&keys_before) {
        let payload = buffer.batch(*key).unwrap();
        let decoded = batch::decode(&payload).unwrap();
        assert_eq!((decoded.number, decoded.first_seq), (number, seq + 1));
        seq = decoded.last_seq;
        assert_eq!(buffer.batch(*key).unwrap(), payload);
    }
    let epoch = keys_before[0].epoch;
    let mut said = ack(epoch, 2);
    said.ranges = vec![pb::BatchRange { first: 4, last: 4 }];
    let done = buffer.apply(&said, 10);
    assert_eq!(done.acked, [], "P5: a number alone proves nothing");
    let proof = |key: &BatchKey, bytes: &[u8]| pb::Proof {
        batch: key.number,
        digest: Sha256::of(bytes).0[..PROOF].to_vec(),
    };
    let other_bytes = proof(&keys_before[2], b"another buffer's");
    said.proofs = [0, 1, 3]
        .map(|i| proof(&keys_before[i], &buffer.batch(keys_before[i]).unwrap()))
        .into_iter()
        .chain([other_bytes])
        .collect();
    let done = buffer.apply(&said, 10);
    assert_eq!(done.acked, [(2, 0), (2, 1), (2, 3)]);
    assert_eq!(keys(&buffer), [keys_before[2], keys_before[4]]);
    assert_eq!(buffer.unacknowledged(), [4..6, 8..10]);
    // Another device's epoch, and the same again: nothing.
    let other = ack(Epoch(uuid::Uuid::new_v4()), 9);
    assert!(buffer.apply(&other, 11).outcome.done.is_empty());
    assert!(buffer.apply(&said, 12).outcome.done.is_empty());
    assert_eq!(buffer.heads(13, WALL)[0].oldest_batch, 3);
    assert_eq!(buffer.heads(13, WALL)[0].acked_through, 2);
}

#[test]
fn after_a_new_epoch_a_contested_batch_is_done_only_by_its_own_ack_or_gets_new_numbers() {
    let mut buffer = filled(2);
    let [first, second] = keys(&buffer)[..] else {
        unreachable!()
    };
    let spent = pb::Ack {
        new_epoch: true,
        ..ack(first.epoch, 9)
    };
    let began = buffer.apply(&spent, 10).outcome.new_epoch.unwrap();
    assert_ne!(began, first.epoch);
    assert!(buffer.unacked(0, 9).iter().all(|b| b.contested));
    assert!(buffer.apply(&spent, 11).outcome.done.is_empty());
    let own = answering(&buffer, first, spent.clone());
    assert_eq!(buffer.apply(&own, 12).outcome.done, [first]);
    let mut conflict = answering(&buffer, second, spent);
    conflict.rejected = vec![pb::Rejected {
        batch: second.number,
        seq: 0,
        reason: "other digest".into(),
    }];
    let outcome = buffer.apply(&conflict, 13).outcome;
    assert_eq!((outcome.renumbered, outcome.done), (2, vec![second]));
    assert_eq!(buffer.seal(14, WALL).unwrap(), 2);
    let anew = buffer.batch(keys(&buffer)[0]).unwrap();
    let anew = batch::decode(&anew).unwrap();
    assert_eq!((anew.epoch, anew.number, anew.first_seq), (began, 1, 1));
    assert_eq!(
        buffer.unacknowledged().first(),
        Some(&(2..4)),
        "they are the readings they were"
    );
}

#[test]
fn another_instance_is_believed_only_in_answer_and_what_it_forgot_goes_under_a_gap() {
    let mut buffer = filled(3);
    let all = keys(&buffer);
    let first = answering(&buffer, all[1], ack(all[0].epoch, 2));
    assert!(buffer.apply(&first, 50).outcome.new_hub);
    let mut restored = ack(all[0].epoch, 1);
    restored.hub_instance = b"restored".to_vec();
    let late = answering(&buffer, all[2], restored.clone());
    assert!(buffer.apply(&late, 51).outcome.stranger, "stamped before");
    let asked = buffer.heads(60, WALL)[0].clock.monotonic_ms;
    restored.echo_boot_id = buffer.boot_id();
    restored.echo_monotonic_ms = asked;
    let outcome = buffer.apply(&restored, 61).outcome;
    assert!(outcome.new_hub && !outcome.stranger);
    assert_eq!(outcome.echo, Some(asked));
    buffer.seal(62, WALL).unwrap();
    let gap = buffer.batch(*keys(&buffer).last().unwrap()).unwrap();
    let gap = batch::decode(&gap).unwrap().records.remove(0).body;
    let RecordBody::Gap(gap) = gap else {
        unreachable!()
    };
    assert_eq!((gap.first_seq, gap.last_seq), (1, 4));
    assert_eq!(gap.kind(), pb::GapKind::BeforeTail);
}

#[test]
fn a_full_buffer_gives_up_its_oldest_batches_under_gaps() {
    let mut buffer = Buffer::new(1, 7, 400);
    for n in 0..20 {
        buffer.push(reading(n), n);
        buffer.seal(n, WALL).unwrap();
    }
    let lost: u64 = buffer.dropped().iter().map(|r| r.end - r.start).sum();
    assert!(lost > 10, "{lost}");
    let kept: u64 = buffer
        .unacknowledged()
        .iter()
        .map(|r| r.end - r.start)
        .sum();
    assert_eq!(lost + kept, 20);
    buffer.seal(30, WALL).unwrap();
    let sealed = keys(&buffer).into_iter().filter_map(|k| buffer.batch(k));
    let gaps = sealed
        .flat_map(|p| batch::decode(&p).unwrap().records)
        .filter(|r| matches!(r.body, RecordBody::Gap(_)));
    assert!(gaps.count() > 0);
}
