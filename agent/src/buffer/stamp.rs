//! The clock that a batch is sealed by: owns whose clock unsealed records are of, never dates a record.
//!
//! Records wait unsealed for minutes while there is no connection, and may outlive the machine's boot. Their times are of
//! the clock under which they were committed, so their batch carries that one (P9): it is kept beside them. When the boot, the
//! trust in the clock or its offset changes, all that waits is sealed first.

use fieldcast_wire::{message, pb};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::error::{BufferError, sql};
use super::store::Store;

/// Key of the stamp in the table `state`.
pub(super) const KEY: &str = "buffer/clock";
/// A clock that was set by less than this counts as the same, milliseconds: the hub corrects nothing smaller.
const SAME_CLOCK_MS: u64 = 1_000;

/// What is stamped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stamped {
    /// A batch.
    Batch,
    /// A sync.
    Sync,
}

impl Stamped {
    /// Its first time from this one on.
    pub(super) fn first_from(self, monotonic_ms: i64) -> i64 {
        let odd = i64::from(self == Self::Batch);
        monotonic_ms.saturating_add((monotonic_ms ^ odd) & 1)
    }
}

/// The clock under which the file's newest records were committed; none in a file that never kept one.
pub(super) fn load(db: &Connection) -> Result<Option<pb::ClockStamp>, BufferError> {
    let step = sql("reading the clock of unsealed records");
    let kept: Option<Vec<u8>> = db
        .query_row("SELECT value FROM state WHERE key = ?1", [KEY], |r| {
            r.get(0)
        })
        .optional()
        .map_err(&step)?;
    let Some(mut stamp) = kept.and_then(|bytes| decode(&bytes)) else {
        return Ok(None);
    };
    let newest: Option<i64> = db
        .query_row(
            "SELECT max(monotonic_ms) FROM batches WHERE boot_id = ?1",
            [&stamp.boot_id],
            |r| r.get(0),
        )
        .map_err(&step)?;
    let newest = newest.unwrap_or(i64::MIN).max(stamp.monotonic_ms);
    move_to(&mut stamp, newest);
    Ok(Some(stamp))
}

/// A kept stamp; one that cannot be read is none, and the present clock stands in for it.
pub(super) fn decode(bytes: &[u8]) -> Option<pb::ClockStamp> {
    message::decode("clock", bytes).ok()
}

/// Keeps a stamp, in the transaction of the records that it is for.
pub(super) fn keep(tx: &Connection, stamp: &pb::ClockStamp) -> rusqlite::Result<()> {
    tx.prepare_cached("INSERT OR REPLACE INTO state(key, value) VALUES (?1, ?2)")?
        .execute(params![KEY, message::encode(stamp)])
        .map(drop)
}

impl Store {
    /// The present clock, where it is not the one of the records before.
    pub(super) fn new_clock(&self) -> Option<pb::ClockStamp> {
        let now = self.clock.stamp();
        let known = self.noted.as_ref();
        known.is_none_or(|known| !same(known, &now)).then_some(now)
    }

    /// The clock of the records that wait, with a monotonic time that nothing else of its boot has.
    pub(super) fn seal_stamp(&mut self) -> pb::ClockStamp {
        let now = self.stamp(Stamped::Batch);
        match &mut self.noted {
            Some(known) if same(known, &now) => now,
            Some(known) => {
                let next = match known.boot_id == now.boot_id {
                    true => now.monotonic_ms,
                    false => Stamped::Batch.first_from(known.monotonic_ms.saturating_add(1)),
                };
                move_to(known, next);
                known.clone()
            }
            None => now,
        }
    }
}

fn same(a: &pb::ClockStamp, b: &pb::ClockStamp) -> bool {
    let offset = |s: &pb::ClockStamp| s.wall_ms.saturating_sub(s.monotonic_ms);
    a.boot_id == b.boot_id
        && a.synchronised == b.synchronised
        && offset(a).abs_diff(offset(b)) < SAME_CLOCK_MS
}

/// The same clock at another moment.
fn move_to(stamp: &mut pb::ClockStamp, monotonic_ms: i64) {
    let passed = monotonic_ms.saturating_sub(stamp.monotonic_ms);
    stamp.wall_ms = stamp.wall_ms.saturating_add(passed);
    stamp.monotonic_ms = monotonic_ms;
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};
    use std::time::Duration;

    use fieldcast_wire::{Batch, batch};

    use super::super::tests::{commit, limits};
    use super::super::{Buffer, Store};
    use crate::clock::{Clock, Millis};

    fn open(dir: &Path, clock: &Clock) -> Store {
        let store = Store::open(limits(dir), clock.clone()).unwrap();
        store.relax();
        store
    }

    fn sealed(store: &Store) -> Vec<Batch> {
        let all = store.unacked(0, 100).unwrap();
        let bytes = all.iter().map(|b| store.batch(b.key).unwrap().unwrap());
        bytes.map(|b| batch::decode(&b).unwrap()).collect()
    }

    #[test]
    fn records_of_an_earlier_boot_are_sealed_by_its_clock() {
        let dir = tempfile::tempdir().unwrap();
        let time = |t: Millis| Arc::new(AtomicI64::new(t));
        let first = Clock::simulated("boot 1", time(50_000));
        let mut store = open(dir.path(), &first);
        store.commit(&[commit(0..10)]).unwrap();
        let stamp = first.stamp();
        drop(store);
        let mut store = open(dir.path(), &Clock::simulated("boot 2", time(7)));
        store.commit(&[commit(10..20)]).unwrap();
        while store.seal().unwrap().is_some() {}
        let batches = sealed(&store);
        let of: Vec<_> = batches
            .iter()
            .map(|b| (b.clock.boot_id.as_str(), b.first_seq, b.last_seq))
            .collect();
        assert_eq!(of, [("boot 1", 1, 10), ("boot 2", 11, 20)]);
        let old = &batches[0].clock;
        assert!(old.monotonic_ms > stamp.monotonic_ms, "P3: no two share it");
        let offset = old.wall_ms - old.monotonic_ms;
        assert_eq!(offset, stamp.wall_ms - stamp.monotonic_ms, "P9");
    }

    #[test]
    fn a_clock_that_was_set_ends_a_batch() {
        let dir = tempfile::tempdir().unwrap();
        let now = Arc::new(AtomicI64::new(1_000));
        let clock = Clock::simulated("boot", now.clone());
        let mut store = open(dir.path(), &clock);
        let before = clock.stamp();
        store.commit(&[commit(0..10)]).unwrap();
        now.fetch_add(500, Ordering::Relaxed);
        store.commit(&[commit(10..20)]).unwrap();
        clock.raise_floor(clock.raw_wall_ms() + 3_600_000);
        let after = clock.stamp();
        store.commit(&[commit(20..30)]).unwrap();
        while store.seal().unwrap().is_some() {}
        let offset = |s: &fieldcast_wire::pb::ClockStamp| s.wall_ms - s.monotonic_ms;
        let of: Vec<_> = sealed(&store)
            .iter()
            .map(|b| (b.last_seq, offset(&b.clock)))
            .collect();
        assert_eq!(of, [(20, offset(&before)), (30, offset(&after))]);
        assert_eq!(offset(&after) - offset(&before), 3_600_000);
    }

    #[tokio::test]
    async fn without_a_connection_records_wait_for_a_larger_batch() {
        let dir = tempfile::tempdir().unwrap();
        let mut limits = limits(dir.path());
        limits.seal_after = Duration::from_millis(5);
        let now = Arc::new(AtomicI64::new(0));
        let buffer = Buffer::start(limits, Clock::simulated("boot", now.clone())).unwrap();
        buffer.handle.set_linked(false).await.unwrap();
        for n in 0..20 {
            buffer.handle.commit(commit(n..n + 1)).await.unwrap();
            now.fetch_add(100, Ordering::Relaxed);
        }
        assert!(buffer.handle.unacked(0, 10).await.unwrap().is_empty());
        let newest = buffer.handle.set_linked(true).await.unwrap();
        let batches = buffer.handle.unacked(0, 10).await.unwrap();
        let of: Vec<_> = batches.iter().map(|b| (b.order, b.last_seq)).collect();
        assert_eq!(
            of,
            [(newest, 20)],
            "one batch, sealed when the hub can be told"
        );
        buffer.close().await.unwrap();
    }
}
