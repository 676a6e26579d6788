//! The buffer's file, used by one thread: owns commits, history and key-value state; never the network.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use fieldcast_wire::{Epoch, Reading, Record, RecordBody, pb};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::ballast::Ballast;
use super::error::{BufferError, sql};
use super::rows::{self, READING};
use super::stamp;
use super::types::{Commit, Depth, Limits};
use super::{number, unsigned};
use crate::clock::Clock;

/// The window history may take this part of the cap before it must make room for what was not sent.
const HISTORY_SHARE: u64 = 4;
/// Bytes that a reading of the window history takes, roughly.
const HISTORY_ROW: u64 = 32;

/// The epoch that new records get.
#[derive(Debug, Clone, Copy)]
pub(super) struct Current {
    pub(super) id: i64,
    pub(super) epoch: Epoch,
    pub(super) next_seq: u64,
}

/// An open buffer.
pub struct Store {
    pub(super) db: Connection,
    pub(super) limits: Limits,
    pub(super) clock: Clock,
    pub(super) current: Current,
    pub(super) sensors: HashMap<String, i64>,
    pub(super) pending: u64,
    pub(super) pending_bytes: u64,
    pub(super) last_stamp: i64,
    /// The clock of the records that wait.
    pub(super) noted: Option<pb::ClockStamp>,
    /// Whether the hub can be told of a batch now.
    pub(super) linked: bool,
    pub(super) since_trim: u64,
    pub(super) commits: u64,
    /// When free pages were given back to the disk last; none where there are few.
    pub(super) gave_back_ms: Option<i64>,
    pub(super) ballast: Ballast,
}

impl Store {
    /// File of the buffer.
    #[must_use]
    pub fn file(limits: &Limits) -> PathBuf {
        limits.dir.join("buffer.db")
    }

    /// Keeps all commits in one transaction, durable when it returns; answers the numbers of each.
    ///
    /// # Errors
    /// A record that must not be kept, or a failing disk; then nothing of any commit was kept.
    pub fn commit(&mut self, commits: &[Commit]) -> Result<Vec<RangeInclusive<u64>>, BufferError> {
        match self.commit_once(commits) {
            Err(e) if self.is_full(&e) => {
                self.make_room(true)?;
                self.commit_once(commits)
            }
            done => done,
        }
    }

    fn commit_once(&mut self, commits: &[Commit]) -> Result<Vec<RangeInclusive<u64>>, BufferError> {
        let step = sql("commit");
        let clock = self.new_clock();
        if clock.is_some() {
            while self.has_pending() && self.seal()?.is_some() {}
        }
        for body in commits.iter().flat_map(|c| &c.records) {
            rows::check(body)?;
        }
        let mut next = self.current.next_seq;
        let mut bytes = 0;
        let mut out = Vec::with_capacity(commits.len());
        let mut new_sensors: HashMap<&str, i64> = HashMap::new();
        let tx = self.db.transaction().map_err(&step)?;
        for commit in commits {
            let first = next;
            for body in &commit.records {
                let RecordBody::Reading(r) = body else {
                    bytes += insert(&tx, next, body, None).map_err(&step)?;
                    next += 1;
                    continue;
                };
                let known = self.sensors.get(&r.sensor);
                let sensor = match known.or_else(|| new_sensors.get(r.sensor.as_str())) {
                    Some(id) => *id,
                    None => {
                        let id = sensor_id(&tx, &r.sensor).map_err(&step)?;
                        new_sensors.insert(&r.sensor, id);
                        id
                    }
                };
                bytes += insert(&tx, next, body, Some(sensor)).map_err(&step)?;
                if commit.recent {
                    tx.prepare_cached("INSERT OR REPLACE INTO recent(sensor, time, value, flags) VALUES (?1, ?2, ?3, ?4)")
                        .and_then(|mut s| s.execute(params![sensor, r.time, r.value, rows::flags(r)]))
                        .map_err(&step)?;
                    self.since_trim += 1;
                }
                next += 1;
            }
            for (key, value) in &commit.state {
                tx.prepare_cached("INSERT OR REPLACE INTO state(key, value) VALUES (?1, ?2)")
                    .and_then(|mut s| s.execute(params![key, value]))
                    .map_err(&step)?;
            }
            // No records: the empty range that ends before it begins.
            out.push(first..=next - 1);
        }
        tx.prepare_cached("UPDATE epochs SET next_seq = ?2 WHERE id = ?1")
            .and_then(|mut s| s.execute(params![self.current.id, number(next)]))
            .map_err(&step)?;
        if let Some(clock) = &clock {
            stamp::keep(&tx, clock).map_err(&step)?;
        }
        tx.commit().map_err(&step)?;
        if clock.is_some() {
            self.noted = clock;
        }
        // Only now: an id of a transaction that failed names no row, or later another sensor's.
        self.sensors.extend(
            new_sensors
                .into_iter()
                .map(|(name, id)| (name.to_owned(), id)),
        );
        self.pending += next - self.current.next_seq;
        self.pending_bytes += bytes;
        self.current.next_seq = next;
        self.commits += 1;
        // The commit is durable whatever becomes of this: an error here would have the same records offered twice.
        if self.since_trim >= 4_096
            && let Err(e) = self.trim_recent(self.limits.recent_rows)
        {
            tracing::warn!("{e}; the window history is trimmed later");
        }
        Ok(out)
    }

    /// A value kept under a key.
    ///
    /// # Errors
    /// A failing disk.
    pub fn state(&self, key: &str) -> Result<Option<Vec<u8>>, BufferError> {
        self.db
            .prepare_cached("SELECT value FROM state WHERE key = ?1")
            .and_then(|mut s| s.query_row([key], |r| r.get(0)).optional())
            .map_err(sql("reading state"))
    }

    /// Readings of the window history from `since` on, in order of time.
    ///
    /// # Errors
    /// A failing disk.
    pub fn recent(&self, sensor: &str, since: i64) -> Result<Vec<Reading>, BufferError> {
        let Some(id) = self.sensors.get(sensor) else {
            return Ok(Vec::new());
        };
        let step = sql("reading history");
        let mut statement = self
            .db
            .prepare_cached("SELECT time, value, flags FROM recent WHERE sensor = ?1 AND time >= ?2 ORDER BY time")
            .map_err(&step)?;
        let found = statement
            .query_map(params![id, since], |r| {
                Ok(rows::reading(
                    sensor.to_owned(),
                    r.get(0)?,
                    r.get(1)?,
                    r.get(2)?,
                ))
            })
            .map_err(&step)?;
        found.collect::<Result<_, _>>().map_err(&step)
    }

    /// Keeps the window history within its share of the cap; windows can do with less, the hub cannot. Answers whether
    /// anything went.
    pub(super) fn trim_history(&mut self) -> Result<bool, BufferError> {
        let step = sql("trimming history");
        let most = number(self.limits.max_bytes / HISTORY_SHARE / HISTORY_ROW);
        let rows: i64 = self
            .db
            .query_row("SELECT count(*) FROM recent", [], |r| r.get(0))
            .map_err(&step)?;
        if rows <= most {
            return Ok(false);
        }
        let busy: i64 = self
            .db
            .query_row("SELECT count(DISTINCT sensor) FROM recent", [], |r| {
                r.get(0)
            })
            .map_err(&step)?;
        // An equal part for each sensor, and a quarter below it, so that this is not done at every commit.
        self.trim_recent(unsigned(most * 3 / 4 / busy.max(1)))?;
        Ok(true)
    }

    fn trim_recent(&mut self, keep: u64) -> Result<(), BufferError> {
        let step = sql("trimming history");
        self.since_trim = 0;
        let tx = self.db.transaction().map_err(&step)?;
        for id in self.sensors.values() {
            let newest: Option<i64> = tx
                .query_row(
                    "SELECT max(time) FROM recent WHERE sensor = ?1",
                    [id],
                    |r| r.get(0),
                )
                .map_err(&step)?;
            let Some(newest) = newest else { continue };
            let nth: Option<i64> = tx
                .query_row(
                    "SELECT time FROM recent WHERE sensor = ?1 ORDER BY time DESC LIMIT 1 OFFSET ?2",
                    params![id, number(keep)],
                    |r| r.get(0),
                )
                .optional()
                .map_err(&step)?;
            let age = newest.saturating_sub(self.limits.recent_age_ms);
            // Rows up to the first one too many go; so do those older than the age.
            let keep_after = nth.unwrap_or(i64::MIN).max(age.saturating_sub(1));
            tx.execute(
                "DELETE FROM recent WHERE sensor = ?1 AND time <= ?2",
                params![id, keep_after],
            )
            .map_err(&step)?;
        }
        tx.commit().map_err(&step)
    }

    /// What waits.
    ///
    /// # Errors
    /// A failing disk.
    pub fn depth(&self) -> Result<Depth, BufferError> {
        let (batches, records, bytes, oldest_ms, newest_ms) = self
            .db
            .query_row(
                "SELECT batches, records, bytes,
                    (SELECT sealed_ms FROM batches WHERE status = 0 ORDER BY id LIMIT 1),
                    (SELECT sealed_ms FROM batches WHERE status = 0 ORDER BY id DESC LIMIT 1) FROM totals",
                [],
                |r| Ok((r.get::<_, i64>(0)?, r.get::<_, i64>(1)?, r.get::<_, i64>(2)?, r.get(3)?, r.get(4)?)),
            )
            .map_err(sql("measuring depth"))?;
        Ok(Depth {
            epoch: self.current.epoch,
            records: unsigned(records) + self.pending,
            batches: unsigned(batches),
            bytes: unsigned(bytes),
            file_bytes: self.used_bytes()?,
            oldest_ms,
            newest_ms,
            dropped: self.counter("dropped")?,
            rejected: self.counter("rejected")?,
        })
    }

    pub(super) fn counter(&self, key: &str) -> Result<u64, BufferError> {
        self.db
            .prepare_cached("SELECT value FROM counters WHERE key = ?1")
            .and_then(|mut s| s.query_row([key], |r| r.get::<_, i64>(0)).optional())
            .map(|n| unsigned(n.unwrap_or(0)))
            .map_err(sql("reading a counter"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
impl Store {
    /// Gap records that are in no batch yet.
    pub(crate) fn unsealed_gaps(&self) -> Vec<pb::Gap> {
        let sql = "SELECT body FROM pending WHERE kind = ?1";
        let mut statement = self.db.prepare(sql).unwrap();
        let bodies = statement.query_map([rows::GAP], |r| r.get::<_, Vec<u8>>(0));
        let gap = |body: Vec<u8>| match rows::decode(rows::GAP, &body).unwrap() {
            RecordBody::Gap(gap) => gap,
            other => panic!("{other:?}"),
        };
        bodies.unwrap().map(|body| gap(body.unwrap())).collect()
    }

    /// Breaks P6 on purpose.
    pub(crate) fn lose_a_batch(&self) {
        let which = "SELECT min(id) FROM batches WHERE status = 0";
        let sql = format!("DELETE FROM batches WHERE id = ({which})");
        self.db.execute(&sql, []).unwrap();
    }

    /// For tests that end no machine: a commit need not reach the disk.
    pub(crate) fn relax(&self) {
        assert!(self.db.pragma_update(None, "synchronous", "OFF").is_ok());
    }
}

/// Id of a sensor's name, made where it is new.
pub(super) fn sensor_id(tx: &Transaction<'_>, name: &str) -> rusqlite::Result<i64> {
    tx.prepare_cached("INSERT OR IGNORE INTO sensors(name) VALUES (?1)")?
        .execute([name])?;
    tx.prepare_cached("SELECT id FROM sensors WHERE name = ?1")?
        .query_row([name], |r| r.get(0))
}

pub(super) fn count(tx: &Transaction<'_>, key: &str, by: u64) -> rusqlite::Result<()> {
    tx.prepare_cached("INSERT INTO counters(key, value) VALUES (?1, ?2) ON CONFLICT(key) DO UPDATE SET value = value + ?2")?
        .execute(params![key, number(by)])
        .map(|_| ())
}

/// Inserts a record under its number; answers its estimated size in a batch.
pub(super) fn insert(
    tx: &Transaction<'_>,
    seq: u64,
    body: &RecordBody,
    sensor: Option<i64>,
) -> rusqlite::Result<u64> {
    if let (RecordBody::Reading(r), Some(sensor)) = (body, sensor) {
        tx.prepare_cached("INSERT INTO pending(seq, kind, sensor, time, value, flags) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
            .execute(params![number(seq), READING, sensor, r.time, r.value, rows::flags(r)])?;
        return Ok(20);
    }
    let Some((kind, bytes)) = rows::encode(body) else {
        return Ok(0);
    };
    tx.prepare_cached("INSERT INTO pending(seq, kind, body) VALUES (?1, ?2, ?3)")?
        .execute(params![number(seq), kind, bytes])?;
    Ok(bytes.len() as u64 + 8)
}

/// Unsealed records from the oldest on, until `limit` of them or about `bytes`.
pub(super) fn pending(tx: &Connection, limit: u64, bytes: u64) -> Result<Vec<Record>, BufferError> {
    let step = sql("reading records");
    let mut statement = tx
        .prepare_cached(
            "SELECT p.seq, p.kind, s.name, p.time, p.value, p.flags, p.body FROM pending p
                LEFT JOIN sensors s ON s.id = p.sensor ORDER BY p.seq LIMIT ?1",
        )
        .map_err(&step)?;
    let mut found = statement.query([number(limit)]).map_err(&step)?;
    let (mut out, mut size) = (Vec::new(), 0);
    while let Some(row) = found.next().map_err(&step)? {
        let record = record(row)?;
        size += match rows::encode(&record.body) {
            Some((_, b)) => b.len() as u64 + 8,
            None => 20,
        };
        if size > bytes && !out.is_empty() {
            break;
        }
        out.push(record);
    }
    Ok(out)
}

/// A record from `seq, kind, name, time, value, flags, body`.
pub(super) fn record(row: &rusqlite::Row<'_>) -> Result<Record, BufferError> {
    let step = sql("reading a record");
    let seq = unsigned(row.get(0).map_err(&step)?);
    let kind: i64 = row.get(1).map_err(&step)?;
    let body = if kind == READING {
        RecordBody::Reading(rows::reading(
            row.get(2).map_err(&step)?,
            row.get(3).map_err(&step)?,
            row.get(4).map_err(&step)?,
            row.get(5).map_err(&step)?,
        ))
    } else {
        let bytes: Vec<u8> = row.get(6).map_err(&step)?;
        rows::decode(kind, &bytes)?
    };
    Ok(Record { seq, body })
}
