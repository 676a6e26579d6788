//! The buffer on a real file: kill, cap, damage, and a model.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::reversed_empty_ranges,
    reason = "tests"
)]

use std::collections::BTreeSet;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use fieldcast_wire::{Reading, RecordBody, batch, pb};
use proptest::prelude::*;

use super::*;
use crate::clock::Clock;

fn reading(time: i64) -> RecordBody {
    RecordBody::Reading(Reading {
        sensor: "t".into(),
        time,
        value: time as f64,
        quality: 0,
        time_source: pb::TimeSource::Device,
    })
}

pub(super) fn commit(times: std::ops::Range<i64>) -> Commit {
    Commit {
        records: times.map(reading).collect(),
        recent: true,
        state: vec![("cursor".into(), b"x".to_vec())],
    }
}

pub(super) fn limits(dir: &Path) -> Limits {
    Limits {
        seal_records: 50,
        reserve_bytes: 0,
        ..Limits::new(dir)
    }
}

pub(super) fn open(dir: &Path) -> Store {
    let store = Store::open(limits(dir), Clock::new()).unwrap();
    store.relax();
    store
}

/// Times of readings and numbers under gap records, of everything that would go up.
pub(super) fn contents(store: &mut Store) -> (BTreeSet<i64>, Vec<pb::Gap>) {
    while store.seal().unwrap().is_some() {}
    let (mut times, mut gaps) = (BTreeSet::new(), Vec::new());
    for info in store.unacked(0, 1_000_000).unwrap() {
        let b = batch::decode(&store.batch(info.key).unwrap().unwrap()).unwrap();
        assert_eq!(
            (b.epoch, b.number, b.first_seq),
            (info.key.epoch, info.key.number, info.first_seq)
        );
        for record in b.records {
            match record.body {
                RecordBody::Reading(r) => assert!(times.insert(r.time), "reading {} twice", r.time),
                RecordBody::Gap(g) => gaps.push(g),
                _ => {}
            }
        }
    }
    (times, gaps)
}

/// Of all batches of the current epoch up to one of them.
pub(super) fn proofs(store: &Store, through: u64) -> Vec<pb::Proof> {
    let mut statement = store
        .db
        .prepare("SELECT number, substr(digest, 1, 16) FROM batches WHERE epoch = ?1 AND number <= ?2 AND status = 0")
        .unwrap();
    statement
        .query_map(rusqlite::params![store.current.id, number(through)], |r| {
            Ok(pb::Proof {
                batch: unsigned(r.get(0)?),
                digest: r.get(1)?,
            })
        })
        .unwrap()
        .map(Result::unwrap)
        .collect()
}

pub(super) fn ack(store: &Store, through: u64, instance: u8) -> pb::Ack {
    let proofs = proofs(store, through);
    pb::Ack {
        proofs,
        epoch: store.current.epoch.to_vec(),
        through,
        hub_instance: vec![instance],
        echo_boot_id: store.clock.boot_id().into(),
        // Later than anything that was said before.
        echo_monotonic_ms: i64::MAX,
        ..pb::Ack::default()
    }
}

#[test]
fn sealed_bytes_never_change_and_acks_trim() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    assert_eq!(
        store.commit(&[commit(0..120), Commit::default()]).unwrap(),
        [1..=120, std::ops::RangeInclusive::new(121, 120)]
    );
    let info = store.seal().unwrap().unwrap();
    let bytes = store.batch(info.key).unwrap().unwrap();
    drop(store);
    let mut store = open(dir.path());
    assert_eq!(store.batch(info.key).unwrap().unwrap(), bytes, "P3");
    store.seal().unwrap();
    let done = store.apply_ack(&ack(&store, 1, 1)).unwrap().done;
    assert_eq!(done, [info.key], "P5");
    assert_eq!(store.depth().unwrap().records, 70);
    assert_eq!(store.state("cursor").unwrap().unwrap(), b"x");
    assert_eq!(store.recent("t", 100).unwrap().len(), 20);
    // The hub comes back from a backup: the tail waits again.
    let outcome = store.apply_ack(&ack(&store, 0, 2)).unwrap();
    assert!(outcome.rewound, "P5");
    assert_eq!(store.depth().unwrap().records, 120);
    let mut bad = ack(&store, 0, 2);
    bad.rejected = vec![pb::Rejected {
        batch: 1,
        seq: 7,
        reason: "no".into(),
    }];
    assert_eq!(store.apply_ack(&bad).unwrap().rejected.len(), 1, "P8");
    assert_eq!(store.apply_ack(&bad).unwrap().rejected.len(), 0, "P8");
}

#[test]
fn a_bad_reading_is_refused_with_nothing_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let bad = Commit {
        records: vec![
            reading(1),
            RecordBody::Reading(Reading {
                sensor: "a/b".into(),
                time: 1,
                value: 1.0,
                quality: 0,
                time_source: pb::TimeSource::Device,
            }),
        ],
        ..Commit::default()
    };
    assert!(matches!(
        store.commit(&[bad]),
        Err(BufferError::Record { .. })
    ));
    assert_eq!(store.depth().unwrap().records, 0);
}

#[test]
fn counters_never_repeat_although_the_file_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    assert_eq!(
        (store.begin_boot().unwrap(), store.next_session().unwrap()),
        (1, 1)
    );
    let old = store.current.epoch;
    store.commit(&[commit(0..10)]).unwrap();
    drop(store);
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(dir.path().join(format!("buffer.db{suffix}")));
    }
    std::fs::write(dir.path().join("buffer.db"), vec![7; 9_000]).unwrap();
    let mut store = open(dir.path());
    assert_eq!(
        (store.begin_boot().unwrap(), store.next_session().unwrap()),
        (2, 2),
        "P10"
    );
    assert_ne!(store.current.epoch, old);
    let (times, gaps) = contents(&mut store);
    assert!(times.is_empty());
    assert_eq!(
        (gaps[0].epoch.clone(), gaps[0].first_seq),
        (old.to_vec(), 1),
        "P6"
    );
}

#[test]
fn the_cap_holds_and_every_drop_is_under_a_gap() {
    for policy in [DropPolicy::Oldest, DropPolicy::Newest] {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(
            Limits {
                max_bytes: 300_000,
                policy,
                ..limits(dir.path())
            },
            Clock::new(),
        )
        .unwrap();
        store.relax();
        for n in 0..600 {
            let mut c = commit(n * 50..(n + 1) * 50);
            c.recent = false;
            for (i, r) in c.records.iter_mut().enumerate() {
                if let RecordBody::Reading(r) = r {
                    r.value = (n as f64 * 50.0 + i as f64).sin();
                }
            }
            store.commit(&[c]).unwrap();
            while store.seal_due() {
                store.seal().unwrap();
            }
            store.make_room(false).unwrap();
            let used = store.depth().unwrap().file_bytes;
            assert!(used <= 320_000, "P6: the cap: {used}, {policy:?}, step {n}");
        }
        let dropped = store.depth().unwrap().dropped;
        assert!(dropped > 0);
        let (times, gaps) = contents(&mut store);
        let covered: u64 = gaps.iter().map(|g| g.last_seq - g.first_seq + 1).sum();
        assert!(
            times.len() as u64 + covered >= 30_000,
            "P6: {} kept, {covered} under gaps",
            times.len()
        );
        let oldest_kept = times.contains(&0);
        assert_eq!(oldest_kept, policy == DropPolicy::Newest, "P6: the policy");
        let newest = *times.last().unwrap();
        assert!(policy == DropPolicy::Newest || newest == 29_999);
    }
}

#[test]
fn a_damaged_file_is_set_aside_and_what_can_be_read_goes_up() {
    let mut seen = 0;
    for seed in 0..6_u64 {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path());
        store.begin_boot().unwrap();
        let old = store.current.epoch;
        for n in 0..60 {
            store.commit(&[commit(n * 50..(n + 1) * 50)]).unwrap();
            if n < 50 {
                store.seal().unwrap();
            }
        }
        store.close().unwrap();
        let path = dir.path().join("buffer.db");
        let mut file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let len = file.metadata().unwrap().len();
        if seed == 5 {
            file.set_len(len * 2 / 3).unwrap();
        } else {
            let pages = len / 4_096;
            let page = 8 + (seed * 2_654_435_761) % (pages - 9);
            file.seek(SeekFrom::Start(page * 4_096)).unwrap();
            file.write_all(&[0xa5; 4_096]).unwrap();
        }
        drop(file);
        let mut store = open(dir.path());
        if store.current.epoch == old {
            continue; // the page was free
        }
        seen += 1;
        let (times, gaps) = contents(&mut store);
        let under = |t: i64| {
            let seq = t.unsigned_abs() + 1;
            gaps.iter()
                .any(|g| g.epoch == old.to_vec() && (g.first_seq..=g.last_seq).contains(&seq))
        };
        for t in 0..3_000 {
            assert!(
                times.contains(&t) || under(t),
                "P6: reading {t} is neither kept nor under a gap, seed {seed}"
            );
        }
        let aside = std::fs::read_dir(dir.path())
            .unwrap()
            .filter(|e| {
                e.as_ref()
                    .unwrap()
                    .file_name()
                    .to_string_lossy()
                    .starts_with("buffer-damaged-")
            })
            .count();
        assert!(aside >= 1);
        // The agent goes on.
        store.commit(&[commit(5_000..5_010)]).unwrap();
    }
    assert!(seen >= 2, "{seen}");
}

#[test]
fn what_was_answered_survives_a_kill() {
    const CHILD: &str = "FIELDCAST_TEST_KILL_DIR";
    if let Ok(dir) = std::env::var(CHILD) {
        let mut store = Store::open(limits(Path::new(&dir)), Clock::new()).unwrap();
        for n in 0..i64::MAX {
            store.commit(&[commit(n * 10..(n + 1) * 10)]).unwrap();
            println!("\ncommitted {}", (n + 1) * 10);
            std::io::stdout().flush().unwrap();
            if store.seal_due() {
                store.seal().unwrap();
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "buffer::tests::what_was_answered_survives_a_kill",
            "--nocapture",
        ])
        .env(CHILD, dir.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let (mut text, mut chunk) = (String::new(), [0; 4_096]);
    while text.matches("committed").count() < 30 {
        let n = out.read(&mut chunk).unwrap();
        assert!(n > 0, "the child ended by itself: {text}");
        text.push_str(std::str::from_utf8(&chunk[..n]).unwrap());
    }
    child.kill().unwrap();
    child.wait().unwrap();
    out.read_to_string(&mut text).unwrap();
    let answered = text
        .lines()
        .filter_map(|l| l.strip_prefix("committed ")?.parse::<i64>().ok())
        .max()
        .unwrap();
    let mut store = open(dir.path());
    let (times, gaps) = contents(&mut store);
    assert!(
        (0..answered).all(|t| times.contains(&t)),
        "P1: what was answered is there"
    );
    assert!(gaps.is_empty());
}

#[tokio::test]
async fn the_file_shrinks_in_the_background_after_a_backlog_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        tail_bytes: 0,
        seal_records: 2_000,
        recent_rows: 100,
        ..limits(dir.path())
    };
    let mut store = Store::open(limits.clone(), Clock::new()).unwrap();
    store.relax();
    // Noise, so that it stays large: about 16 MiB.
    let mut x = 1_u64;
    let mut noise = |time: i64| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        RecordBody::Reading(Reading {
            sensor: "t".into(),
            time,
            value: f64::from_bits(x >> 12 | 1.0_f64.to_bits()),
            quality: 0,
            time_source: pb::TimeSource::Device,
        })
    };
    for n in 0..1_000 {
        let records = (n * 2_000..(n + 1) * 2_000).map(&mut noise).collect();
        let commit = Commit {
            records,
            ..Commit::default()
        };
        store.commit(&[commit]).unwrap();
        store.seal().unwrap();
    }
    let last = store.unacked(0, 10_000).unwrap().last().unwrap().key.number;
    let mut all = ack(&store, last, 1);
    let proven = proofs(&store, last);
    store.close().unwrap();
    let size = || {
        std::fs::metadata(dir.path().join("buffer.db"))
            .unwrap()
            .len()
    };
    let before = size();
    assert!(before > 12 << 20, "{before}");
    let buffer = Buffer::start(limits, Clock::new()).unwrap();
    for some in proven.chunks(256) {
        all.proofs = some.to_vec();
        buffer.handle.apply_ack(all.clone()).await.unwrap();
    }
    assert_eq!(buffer.handle.depth().await.unwrap().records, 0);
    // Nothing more is asked of it, and it goes on by itself until few pages are free.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while size() > 8 << 20 {
        assert!(std::time::Instant::now() < until, "{} of {before}", size());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    buffer.close().await.unwrap();
}

#[tokio::test]
async fn concurrent_commits_share_a_transaction_and_age_seals() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        seal_after: std::time::Duration::from_millis(20),
        ..limits(dir.path())
    };
    let buffer = Buffer::start(limits, Clock::new()).unwrap();
    let mut sealed = buffer.handle.sealed();
    let tasks: Vec<_> = (0..40)
        .map(|n| {
            let handle = buffer.handle.clone();
            tokio::spawn(async move { handle.commit(commit(n * 10..(n + 1) * 10)).await.unwrap() })
        })
        .collect();
    let mut numbers = BTreeSet::new();
    for task in tasks {
        assert!(task.await.unwrap().all(|n| numbers.insert(n)));
    }
    assert_eq!(
        (numbers.first(), numbers.last(), numbers.len()),
        (Some(&1), Some(&400), 400),
        "P2"
    );
    sealed.changed().await.unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let mut last = 0;
    while last < 400 && std::time::Instant::now() < deadline {
        last = buffer
            .handle
            .unacked(0, 100)
            .await
            .unwrap()
            .last()
            .map_or(0, |b| b.last_seq);
        tokio::task::yield_now().await;
    }
    assert_eq!(last, 400, "old records are sealed without being asked");
    assert_eq!(buffer.handle.boot(), 1);
    buffer.close().await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Against a model of plain sets: what waits is what was committed and not acknowledged.
    #[test]
    fn behaves_like_its_model(steps in proptest::collection::vec(0_u8..6, 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path());
        let (mut pending, mut batches, mut acked, mut next) = (Vec::new(), Vec::new(), 0_usize, 0_i64);
        for step in steps {
            match step {
                0 | 1 => {
                    let n = i64::from(step) * 20 + 3;
                    store.commit(&[commit(next..next + n)]).unwrap();
                    pending.extend(next..next + n);
                    next += n;
                }
                2 => {
                    let take = pending.len().min(50);
                    let rest = pending.split_off(take);
                    if !pending.is_empty() {
                        batches.push(std::mem::replace(&mut pending, rest));
                    }
                    store.seal().unwrap();
                }
                3 if acked < batches.len() => {
                    acked += 1;
                    store.apply_ack(&ack(&store, acked as u64, 1)).unwrap();
                }
                4 => store = { drop(store); open(dir.path()) },
                _ => {}
            }
            let waiting = pending.len() + batches[acked..].iter().map(Vec::len).sum::<usize>();
            let depth = store.depth().unwrap();
            prop_assert_eq!(depth.records, waiting as u64);
            let counted: (i64, i64) = store
                .db
                .query_row("SELECT count(*), coalesce(sum(bytes), 0) FROM batches WHERE status = 0", [], |r| {
                    Ok((r.get(0)?, r.get(1)?))
                })
                .unwrap();
            prop_assert_eq!((depth.batches, depth.bytes), (unsigned(counted.0), unsigned(counted.1)));
        }
        let expected: BTreeSet<i64> = batches[acked..].iter().flatten().chain(&pending).copied().collect();
        prop_assert_eq!(contents(&mut store).0, expected);
    }
}
