//! What must not get lost, and what must be told where it is: owns tests of a full disk, a lost file and a restored hub.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::Path;

use fieldcast_wire::{RecordBody, pb};

use super::tests::{ack, commit, contents, limits, open, proofs};
use super::*;
use crate::clock::Clock;

fn small(dir: &Path, policy: DropPolicy) -> Store {
    let limits = Limits {
        max_bytes: 300_000,
        policy,
        ..limits(dir)
    };
    let store = Store::open(limits, Clock::new()).unwrap();
    store.relax();
    store
}

#[test]
fn the_cap_holds_although_each_gap_record_is_sealed_alone() {
    for policy in [DropPolicy::Oldest, DropPolicy::Newest] {
        let dir = tempfile::tempdir().unwrap();
        let mut store = small(dir.path(), policy);
        for n in 0..4_000 {
            store.commit(&[commit(n..n + 1)]).unwrap();
            store.seal().unwrap();
            store.make_room(false).unwrap();
            while store.seal().unwrap().is_some() {}
            let used = store.depth().unwrap().file_bytes;
            assert!(used <= 320_000, "P6: the cap: {used}, {policy:?}, step {n}");
        }
        assert!(store.depth().unwrap().dropped > 1_000);
        let epoch = store.current.epoch.to_vec();
        let last = store.current.next_seq;
        let (times, gaps) = contents(&mut store);
        let covered: u64 = gaps.iter().map(|g| g.last_seq - g.first_seq + 1).sum();
        assert!(gaps.iter().all(|g| g.epoch == epoch));
        assert!(
            times.len() as u64 + covered >= 4_000 && covered <= last,
            "P6: {} kept, {covered} under gaps",
            times.len()
        );
    }
}

#[test]
fn a_commit_that_failed_leaves_no_sensor_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let named = |name: &str, n: i64| {
        let mut c = commit(0..n);
        for r in &mut c.records {
            if let RecordBody::Reading(r) = r {
                r.sensor = name.into();
            }
        }
        c
    };
    let pages: i64 = store
        .db
        .pragma_query_value(None, "page_count", |r| r.get(0))
        .unwrap();
    store
        .db
        .pragma_update(None, "max_page_count", pages + 4)
        .unwrap();
    store.commit(&[named("lost", 20_000)]).unwrap_err();
    store
        .db
        .pragma_update(None, "max_page_count", 1_000_000)
        .unwrap();
    store.commit(&[named("other", 3)]).unwrap();
    store.commit(&[named("lost", 2)]).unwrap();
    let names: Vec<String> = store::pending(&store.db, 100, 1 << 20)
        .unwrap()
        .into_iter()
        .filter_map(|r| match r.body {
            RecordBody::Reading(r) => Some(r.sensor),
            _ => None,
        })
        .collect();
    assert_eq!(names, ["other", "other", "other", "lost", "lost"]);
}

#[test]
fn what_was_trimmed_beyond_the_watermark_is_told_to_a_restored_hub() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        tail_bytes: 0,
        ..limits(dir.path())
    };
    let mut store = Store::open(limits, Clock::new()).unwrap();
    store.commit(&[commit(0..150)]).unwrap();
    while store.seal().unwrap().is_some() {}
    // Batch 1 never arrives; 2 and 3 do, and are trimmed at once.
    let mut beyond = ack(&store, 0, 1);
    beyond.ranges = vec![pb::BatchRange { first: 2, last: 3 }];
    beyond.proofs = proofs(&store, 3).split_off(1);
    assert_eq!(store.apply_ack(&beyond).unwrap().done.len(), 2);
    let outcome = store.apply_ack(&ack(&store, 0, 2)).unwrap();
    assert!(outcome.new_hub && outcome.rewound, "P5");
    let (times, gaps) = contents(&mut store);
    assert_eq!(times.len(), 50);
    assert_eq!(
        gaps.iter()
            .map(|g| (g.kind, g.first_seq, g.last_seq))
            .collect::<Vec<_>>(),
        [(pb::GapKind::BeforeTail as i32, 51, 150)],
        "P5"
    );
}

#[test]
fn a_number_without_the_bytes_of_its_batch_proves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    store.commit(&[commit(0..100)]).unwrap();
    while store.seal().unwrap().is_some() {}
    let mut other = ack(&store, 2, 1);
    other.proofs[0].digest[0] ^= 1;
    other.proofs[1].digest.truncate(15);
    assert_eq!(store.apply_ack(&other).unwrap().done, [], "P5");
    assert_eq!(
        contents(&mut store).0.len(),
        100,
        "P5: all of it still waits"
    );
    let own = ack(&store, 2, 1);
    assert_eq!(store.apply_ack(&own).unwrap().done.len(), 2);
}

/// Once lost what lay behind a dropped batch: the hub's watermark stood still, and the restore did not show.
#[test]
fn a_hub_that_forgot_what_lies_behind_a_dropped_batch_is_told_what_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    store.commit(&[commit(0..150)]).unwrap();
    while store.seal().unwrap().is_some() {}
    store
        .db
        .execute("DELETE FROM batches WHERE number = 1", [])
        .unwrap();
    let mut both = ack(&store, 0, 1);
    both.ranges = vec![pb::BatchRange { first: 2, last: 3 }];
    both.proofs = proofs(&store, 3);
    let done = store.apply_ack(&both).unwrap();
    assert_eq!((done.done.len(), done.behind), (2, false));
    let head = store.sync_heads().unwrap().remove(0);
    assert_eq!((head.acked_through, head.last_acked), (0, 3), "P5");
    let mut less = ack(&store, 0, 1);
    less.ranges = vec![pb::BatchRange { first: 2, last: 2 }];
    assert!(store.apply_ack(&less).unwrap().behind, "P5: it is asked");
    let renamed = pb::Ack {
        hub_instance: vec![2],
        ..less
    };
    assert!(store.apply_ack(&renamed).unwrap().rewound, "P5");
    assert_eq!(store.unacked(0, 9).unwrap().len(), 1, "batch 3 waits again");
    assert_eq!(store.sync_heads().unwrap().remove(0).last_acked, 0);
}

#[test]
fn a_late_ack_of_the_hub_before_its_restore_proves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    store.commit(&[commit(0..100)]).unwrap();
    let first = store.seal().unwrap().unwrap();
    store.seal().unwrap();
    let (old, mut late) = (ack(&store, 1, 1), ack(&store, 2, 1));
    store.apply_ack(&old).unwrap();
    let outcome = store.apply_ack(&ack(&store, 0, 2)).unwrap();
    assert!(outcome.rewound, "P5");
    late.echo_monotonic_ms = 0;
    let outcome = store.apply_ack(&late).unwrap();
    assert!(outcome.stranger && outcome.done.is_empty(), "P5");
    let waiting = store.unacked(0, 10).unwrap();
    assert_eq!((waiting.len(), waiting[0].key), (2, first.key), "P5");
}

#[test]
fn every_epoch_is_asked_about_until_the_restored_hub_has_answered_although_the_agent_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let mut epochs = Vec::new();
    for n in 0..12 {
        store.commit(&[commit(n..n + 1)]).unwrap();
        store.seal().unwrap();
        store.apply_ack(&ack(&store, 1, 1)).unwrap();
        epochs.push(store.current.epoch);
        store.new_epoch("test").unwrap();
    }
    let outcome = store.apply_ack(&ack(&store, 0, 2)).unwrap();
    assert_eq!((outcome.new_hub, outcome.unanswered), (true, 12), "P5");
    drop(store);
    let mut store = open(dir.path());
    let heads = store.sync_heads().unwrap();
    assert!(
        epochs.iter().all(|e| heads.iter().any(|h| h.epoch == *e)),
        "P5"
    );
    for (left, epoch) in (0..12).rev().zip(&epochs) {
        let answer = pb::Ack {
            epoch: epoch.to_vec(),
            ..ack(&store, 0, 2)
        };
        let outcome = store.apply_ack(&answer).unwrap();
        assert_eq!((outcome.rewound, outcome.unanswered), (true, left), "P5");
    }
    assert_eq!(
        contents(&mut store).0.len(),
        12,
        "P5: all of it waits again"
    );
}

#[test]
fn a_file_that_is_gone_or_empty_is_told_of() {
    for empty in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path());
        store.begin_boot().unwrap();
        // Also an epoch that began after the start.
        let old = store.new_epoch("test").unwrap();
        store.commit(&[commit(0..10)]).unwrap();
        drop(store);
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(dir.path().join(format!("buffer.db{suffix}")));
        }
        if empty {
            std::fs::write(dir.path().join("buffer.db"), []).unwrap();
        }
        let mut store = open(dir.path());
        let (_, gaps) = contents(&mut store);
        assert_eq!(gaps.len(), 1, "P6");
        assert_eq!(
            (&gaps[0].epoch, gaps[0].first_seq),
            (&old.to_vec(), 1),
            "P6"
        );
        drop(store);
        assert_eq!(contents(&mut open(dir.path())).1.len(), 1, "told of once");
    }
}

#[test]
fn an_interrupted_salvage_is_begun_again_or_finished() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    store.begin_boot().unwrap();
    store.commit(&[commit(0..100)]).unwrap();
    store.seal().unwrap();
    let newest = store.unacked(0, 10).unwrap()[0].order;
    drop(store);
    // Interrupted while the new file was being filled: the old one is still in its place.
    std::fs::copy(
        dir.path().join("buffer.db"),
        dir.path().join("buffer-salvaged.db"),
    )
    .unwrap();
    let mut store = open(dir.path());
    assert!(!dir.path().join("buffer-salvaged.db").exists());
    assert_eq!(contents(&mut store).0.len(), 100, "P6");
    drop(store);
    // Interrupted after the new file was filled and the old one set aside.
    let store = Store::salvaged(limits(dir.path()), Clock::new(), "test", newest + 5).unwrap();
    let orders = store.unacked(0, 10).unwrap();
    assert!(
        orders.iter().all(|b| b.order > newest + 5),
        "who follows the places sees them as new"
    );
    store.close().unwrap();
    std::fs::rename(
        dir.path().join("buffer.db"),
        dir.path().join("buffer-salvaged.db"),
    )
    .unwrap();
    let mut store = open(dir.path());
    let (times, gaps) = contents(&mut store);
    assert_eq!((times.len(), gaps.len()), (100, 0), "P6");
    drop(store);
    for _ in 0..4 {
        Store::salvaged(limits(dir.path()), Clock::new(), "test", 0).unwrap();
    }
    let asides = std::fs::read_dir(dir.path()).unwrap().filter(|e| {
        let name = e.as_ref().unwrap().file_name();
        let name = name.to_string_lossy();
        name.starts_with("buffer-damaged-") && name.ends_with(".db")
    });
    assert_eq!(asides.count(), 2, "damaged files do not pile up");
}

#[test]
fn window_history_goes_before_what_was_not_sent() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = small(dir.path(), DropPolicy::Oldest);
    for n in 0..200 {
        let mut c = commit(0..50);
        for r in &mut c.records {
            if let RecordBody::Reading(r) = r {
                r.sensor = format!("s{n}");
            }
        }
        store.commit(&[c]).unwrap();
        store.seal().unwrap();
        store.make_room(false).unwrap();
    }
    let depth = store.depth().unwrap();
    assert!(depth.file_bytes <= 320_000, "{}", depth.file_bytes);
    assert_eq!(depth.dropped, 0, "P6: nothing unsent was given up");
}

#[test]
fn a_batch_refused_as_a_whole_is_kept_in_mind() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    store.commit(&[commit(0..100)]).unwrap();
    while store.seal().unwrap().is_some() {}
    let mut answer = ack(&store, 2, 1);
    answer.rejected = [1, 2]
        .map(|batch| pb::Rejected {
            batch,
            seq: 0,
            reason: "malformed".into(),
        })
        .to_vec();
    let outcome = store.apply_ack(&answer).unwrap();
    assert_eq!(
        outcome.refused,
        [(1, 50, "malformed".into()), (2, 50, "malformed".into())],
        "P8"
    );
    assert_eq!(store.apply_ack(&answer).unwrap().refused, [], "P8: once");
    assert_eq!(store.depth().unwrap().rejected, 100, "P8");
}
