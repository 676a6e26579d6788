//! Salvage of a damaged file: owns what is read from it and its place aside; never changes its contents.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use fieldcast_wire::batch::{self, Header};
use fieldcast_wire::{Epoch, Record, Sha256, pb};
use rusqlite::{Connection, OpenFlags, Row, params};

use super::counters::Counters;
use super::error::{BufferError, sql};
use super::store::{self, Store};
use super::types::Limits;
use super::{number, policy, seal, stamp, unsigned};
use crate::clock::Clock;

/// Damaged files kept for who wants to look into them; the older ones go, since each may be as large as the cap.
const ASIDES: usize = 2;
const COMPANIONS: [&str; 3] = ["-wal", "-shm", ""];

fn with(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> BufferError {
    let path = path.to_owned();
    move |source| BufferError::Io {
        operation,
        path,
        source,
    }
}

fn remove(path: &Path) -> Result<(), BufferError> {
    for file in COMPANIONS.map(|suffix| with(path, suffix)) {
        match std::fs::remove_file(&file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed("removal", &file)(e));
            }
            _ => {}
        }
    }
    Ok(())
}

fn rename(from: &Path, to: &Path) -> Result<(), BufferError> {
    for suffix in COMPANIONS {
        let (from, to) = (with(from, suffix), with(to, suffix));
        if from.exists() {
            std::fs::rename(&from, &to).map_err(failed("renaming", &from))?;
        }
    }
    Ok(())
}

fn part(limits: &Limits) -> PathBuf {
    limits.dir.join("buffer-salvaged.db")
}

/// Makes way for a salvage; answers the name of the file to be filled.
pub(super) fn begin(limits: &Limits) -> Result<PathBuf, BufferError> {
    let mut old: Vec<PathBuf> = std::fs::read_dir(&limits.dir)
        .map_err(failed("listing", &limits.dir))?
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| {
            let name = p.file_name().map(|n| n.to_string_lossy().into_owned());
            name.is_some_and(|n| n.starts_with("buffer-damaged-") && n.ends_with(".db"))
        })
        .collect();
    old.sort();
    for path in old.iter().rev().skip(ASIDES - 1) {
        remove(path)?;
    }
    let part = part(limits);
    remove(&part)?;
    Ok(part)
}

/// Puts a complete salvaged file in the place of the damaged one, which is kept under another name; removes a part
/// that an interrupted salvage left.
pub(super) fn finish(limits: &Limits, clock: &Clock) -> Result<(), BufferError> {
    let part = part(limits);
    if !part.exists() {
        return Ok(());
    }
    let complete = Connection::open(&part).is_ok_and(|db| {
        db.query_row("SELECT 1 FROM counters WHERE key = 'salvaged'", [], |_| {
            Ok(())
        })
        .is_ok()
    });
    if !complete {
        return remove(&part);
    }
    let mut known = Counters::read(&limits.dir);
    if std::mem::replace(&mut known.log_lost, false) {
        known.write(&limits.dir)?;
    }
    let stem = format!("buffer-damaged-{}", clock.wall_ms());
    let aside = (0..)
        .map(|n| limits.dir.join(format!("{stem}-{n}.db")))
        .find(|name| !name.exists())
        .unwrap_or_default();
    rename(&Store::file(limits), &aside)?;
    rename(&part, &Store::file(limits))?;
    super::open::sync_folder(&limits.dir);
    tracing::error!(aside = %aside.display(), "the damaged buffer is kept aside");
    Ok(())
}

/// An epoch that is known to have been in use and of which the file knows nothing: all of it goes under a gap.
pub(super) fn miss(store: &mut Store, lost: Epoch) -> Result<(), BufferError> {
    let step = sql("looking for the last epoch");
    let tx = store.db.transaction().map_err(&step)?;
    let here: bool = tx
        .query_row(
            "SELECT EXISTS (SELECT 1 FROM epochs WHERE uuid = ?1)",
            [lost.to_vec()],
            |r| r.get(0),
        )
        .map_err(&step)?;
    if here {
        return Ok(());
    }
    tracing::error!(epoch = %lost, "the buffer's file of this epoch is gone; what it held goes under a gap record");
    tx.execute(
        "INSERT INTO epochs(uuid, spent, reason) VALUES (?1, 1, 'its file was lost')",
        [lost.to_vec()],
    )
    .map_err(&step)?;
    let mut current =
        super::ack::begin(&tx, &store.current, "the buffer's file was lost").map_err(&step)?;
    let gap = pb::Gap {
        kind: pb::GapKind::Unreadable as i32,
        epoch: lost.to_vec(),
        first_seq: 1,
        last_seq: u64::try_from(i64::MAX).unwrap_or(u64::MAX),
        reason: "the buffer's file was lost".into(),
        ..pb::Gap::default()
    };
    policy::add_gap(&tx, &mut current.next_seq, gap).map_err(&step)?;
    tx.execute(
        "UPDATE epochs SET next_seq = ?2 WHERE id = ?1",
        params![current.id, number(current.next_seq)],
    )
    .map_err(&step)?;
    tx.commit().map_err(&step)?;
    store.current = current;
    store.recount()?;
    store.note_epoch();
    Ok(())
}

/// What a damaged file still tells of one epoch.
struct OldEpoch {
    epoch: Epoch,
    next_batch: u64,
    next_seq: u64,
    through: u64,
    hub: Vec<u8>,
    whole: bool,
    current: bool,
}

struct OldBatch {
    number: u64,
    first: u64,
    last: u64,
    sealed_ms: i64,
    boot: String,
    monotonic: i64,
    status: i64,
    payload: Vec<u8>,
}

/// Takes over everything that can be read. Sealed batches and unsealed records of the old epoch keep
/// their numbers and lie before all new ones; numbers that cannot be read go under a gap record.
pub(super) fn take_over(
    store: &mut Store,
    aside: &Path,
    known: &Counters,
) -> Result<(), BufferError> {
    let step = sql("salvaging");
    let mut reason = "the buffer was damaged".to_owned();
    let old = Connection::open_with_flags(aside, OpenFlags::SQLITE_OPEN_READ_WRITE).ok();
    let mut epochs: BTreeMap<i64, OldEpoch> = BTreeMap::new();
    let mut batches: Vec<(i64, OldBatch)> = Vec::new();
    let mut pending: BTreeMap<u64, Record> = BTreeMap::new();
    let mut names: HashMap<i64, String> = HashMap::new();
    let (mut state, mut counters, mut recent) = (Vec::new(), Vec::new(), Vec::new());
    let mut hub = Vec::new();
    if let Some(old) = &old {
        for (id, row) in scan(
            old,
            "SELECT id, uuid, next_batch, next_seq, acked_through, hub_instance FROM epochs",
            "id",
            |r| {
                Ok(OldEpoch {
                    epoch: seal::epoch(r, 1)?,
                    next_batch: unsigned(r.get(2)?),
                    next_seq: unsigned(r.get(3)?),
                    through: unsigned(r.get(4)?),
                    hub: r.get(5)?,
                    whole: true,
                    current: false,
                })
            },
        ) {
            epochs.insert(id, row);
        }
        names.extend(scan(old, "SELECT id, name FROM sensors", "id", |r| {
            r.get::<_, String>(1)
        }));
        let sql_text = "SELECT id, epoch, number, first_seq, last_seq, sealed_ms, boot_id, monotonic_ms, status, digest, payload FROM batches";
        for (_, row) in scan(old, sql_text, "id", old_batch) {
            batches.extend(row);
        }
        let sql_text = "SELECT seq, kind, sensor, time, value, flags, body FROM pending";
        for (_, record) in scan(old, sql_text, "seq", |r| old_record(r, &names)) {
            pending.extend(record.map(|r| (r.seq, r)));
        }
        hub = plain(old, "SELECT instance, boot_id, heard_ms FROM hub", |r| {
            Ok((
                r.get::<_, Vec<u8>>(0)?,
                r.get::<_, String>(1)?,
                r.get::<_, i64>(2)?,
            ))
        });
        state = plain(old, "SELECT key, value FROM state", |r| {
            Ok((r.get::<_, String>(0)?, r.get::<_, Vec<u8>>(1)?))
        });
        counters = plain(old, "SELECT key, value FROM counters", |r| {
            Ok((r.get::<_, String>(0)?, r.get::<_, i64>(1)?))
        });
        recent = plain(old, "SELECT sensor, time, value, flags FROM recent", |r| {
            Ok((
                r.get::<_, i64>(0)?,
                r.get::<_, i64>(1)?,
                r.get::<_, f64>(2)?,
                r.get::<_, i64>(3)?,
            ))
        });
    }
    // Epochs whose row is lost are known from their batches' bytes, and the last one from the counters' file.
    for (id, b) in &batches {
        if !epochs.contains_key(id)
            && let Ok(found) = batch::decode(&b.payload)
        {
            epochs.insert(*id, lost_row(found.epoch));
        }
    }
    if let Some(known) = known
        .epoch
        .filter(|k| epochs.values().all(|e| e.epoch != *k))
    {
        let id = epochs.keys().next_back().map_or(1, |id| id + 1);
        epochs.insert(id, lost_row(known));
    }
    if let Some((_, last)) = epochs.iter_mut().next_back() {
        last.current = true;
        if known.log_lost {
            // The file is an older one of itself: nobody knows where the epoch ended, and what was not sealed by then may be
            // in batches that the hub has, under the same numbers and with other bytes. It would count twice.
            last.whole = false;
            pending.clear();
        }
    }
    if epochs.is_empty() {
        reason.push_str(", and nothing of it could be read");
    }
    let mut next = store.current.next_seq;
    let new = store.current;
    let clock = store.clock.clone();
    let tx = store.db.transaction().map_err(&step)?;
    // The new epoch must stay the newest row, so the old ones are told apart by being spent.
    tx.execute("DELETE FROM epochs WHERE id = ?1", [new.id])
        .map_err(&step)?;
    for (old_id, e) in &epochs {
        tx.execute(
            "INSERT OR IGNORE INTO epochs(uuid, spent, next_batch, next_seq, acked_through, hub_instance, reason) VALUES (?1, 1, 1, 1, ?2, ?3, ?4)",
            params![e.epoch.to_vec(), number(e.through), e.hub, "salvaged"],
        )
        .map_err(&step)?;
        let id = tx.last_insert_rowid();
        let mut have: Vec<(u64, u64)> = Vec::new();
        let (mut next_batch, mut next_seq) = (e.next_batch.max(1), e.next_seq.max(1));
        for (_, b) in batches.iter().filter(|(of, _)| of == old_id) {
            let header = Header {
                epoch: e.epoch,
                number: b.number,
                clock: pb::ClockStamp {
                    boot_id: b.boot.clone(),
                    monotonic_ms: b.monotonic,
                    wall_ms: b.sealed_ms,
                    synchronised: false,
                },
            };
            let records = batch::decode(&b.payload).map_or_else(|_| Vec::new(), |b| b.records);
            let row = seal::put(&tx, id, &header, &records, &b.payload, true).map_err(&step)?;
            // An acknowledged one keeps its place in the tail; the others are believed one by one.
            tx.execute(
                "UPDATE batches SET status = ?2, contested = (?2 = 0), first_seq = ?3, last_seq = ?4 WHERE id = ?1",
                params![row, b.status, number(b.first), number(b.last)],
            )
            .map_err(&step)?;
            have.push((b.first, b.last));
            next_batch = next_batch.max(b.number + 1);
            next_seq = next_seq.max(b.last + 1);
        }
        if e.current {
            let sealed: Vec<(u64, u64)> = have.clone();
            let rest = pending
                .values()
                .filter(|r| !sealed.iter().any(|(a, b)| (*a..=*b).contains(&r.seq)))
                .cloned()
                .collect::<Vec<_>>();
            for mut run in runs(rest) {
                while !run.is_empty() {
                    let kept = state.iter().find(|(key, _)| key == stamp::KEY);
                    let kept = kept.and_then(|(_, value)| stamp::decode(value));
                    let mut clock = kept.unwrap_or_else(|| clock.stamp());
                    // Acks name batches by this time, so no two may share it.
                    clock.monotonic_ms += number(next_batch);
                    clock.wall_ms += number(next_batch);
                    let header = Header {
                        epoch: e.epoch,
                        number: next_batch,
                        clock,
                    };
                    let tail = run.split_off(run.len().min(2_000));
                    let (taken, payload) = seal::encode(&header, run.clone())?;
                    let mut rest = run.split_off(taken.len());
                    rest.extend(tail);
                    let (Some(first), Some(last)) = (taken.first(), taken.last()) else {
                        break;
                    };
                    seal::put(&tx, id, &header, &taken, &payload, true).map_err(&step)?;
                    have.push((first.seq, last.seq));
                    next_seq = next_seq.max(last.seq + 1);
                    next_batch += 1;
                    run = rest;
                }
            }
        }
        tx.execute(
            "UPDATE epochs SET next_batch = ?2, next_seq = ?3 WHERE id = ?1",
            params![id, number(next_batch), number(next_seq)],
        )
        .map_err(&step)?;
        // Where the epoch's own row is lost nobody knows where it ended: the gap is open.
        let end = if e.whole {
            next_seq - 1
        } else {
            u64::try_from(i64::MAX).unwrap_or(u64::MAX)
        };
        // Trimmed batches were committed by the hub; without their rows that is no longer known.
        for (first, last) in holes(have, end) {
            let gap = pb::Gap {
                kind: pb::GapKind::Unreadable as i32,
                epoch: e.epoch.to_vec(),
                first_seq: first,
                last_seq: last,
                reason: "the buffer was damaged".into(),
                ..pb::Gap::default()
            };
            policy::add_gap(&tx, &mut next, gap).map_err(&step)?;
        }
    }
    tx.execute(
        "INSERT INTO epochs(uuid, next_seq, reason) VALUES (?1, ?2, ?3)",
        params![new.epoch.to_vec(), number(next), reason],
    )
    .map_err(&step)?;
    let id = tx.last_insert_rowid();
    for (instance, boot, heard) in hub {
        tx.execute(
            "INSERT OR REPLACE INTO hub(id, instance, boot_id, heard_ms) VALUES (1, ?1, ?2, ?3)",
            params![instance, boot, heard],
        )
        .map_err(&step)?;
    }
    for (key, value) in state {
        tx.execute(
            "INSERT OR REPLACE INTO state(key, value) VALUES (?1, ?2)",
            params![key, value],
        )
        .map_err(&step)?;
    }
    for (key, value) in counters.into_iter().filter(|(k, _)| k != "clean") {
        tx.execute(
            "INSERT OR REPLACE INTO counters(key, value) VALUES (?1, ?2)",
            params![key, value],
        )
        .map_err(&step)?;
    }
    for (sensor, time, value, flags) in recent {
        if let Some(name) = names.get(&sensor) {
            let id = store::sensor_id(&tx, name).map_err(&step)?;
            tx.execute(
                "INSERT OR REPLACE INTO recent(sensor, time, value, flags) VALUES (?1, ?2, ?3, ?4)",
                params![id, time, value, flags],
            )
            .map_err(&step)?;
        }
    }
    tx.execute(
        "INSERT OR REPLACE INTO counters(key, value) VALUES ('salvaged', 1)",
        [],
    )
    .map_err(&step)?;
    tx.commit().map_err(&step)?;
    store.current.id = id;
    store.current.next_seq = next;
    store.recount()?;
    store.reload_sensors()
}

impl Store {
    fn reload_sensors(&mut self) -> Result<(), BufferError> {
        self.sensors = plain(&self.db, "SELECT name, id FROM sensors", |r| {
            Ok((r.get(0)?, r.get(1)?))
        })
        .into_iter()
        .collect();
        Ok(())
    }
}

fn lost_row(epoch: Epoch) -> OldEpoch {
    OldEpoch {
        epoch,
        next_batch: 1,
        next_seq: 1,
        through: 0,
        hub: Vec::new(),
        whole: false,
        current: false,
    }
}

fn old_batch(r: &Row<'_>) -> rusqlite::Result<Option<(i64, OldBatch)>> {
    let digest: Vec<u8> = r.get(9)?;
    let payload: Option<Vec<u8>> = r.get(10)?;
    let Some(payload) = payload.filter(|p| Sha256::of(p).to_vec() == digest) else {
        return Ok(None);
    };
    let b = OldBatch {
        number: unsigned(r.get(2)?),
        first: unsigned(r.get(3)?),
        last: unsigned(r.get(4)?),
        sealed_ms: r.get(5)?,
        boot: r.get(6)?,
        monotonic: r.get(7)?,
        status: r.get(8)?,
        payload,
    };
    Ok(Some((r.get(1)?, b)))
}

fn old_record(r: &Row<'_>, names: &HashMap<i64, String>) -> rusqlite::Result<Option<Record>> {
    let kind: i64 = r.get(1)?;
    let seq = unsigned(r.get(0)?);
    if kind != super::rows::READING {
        let body: Vec<u8> = r.get(6)?;
        return Ok(super::rows::decode(kind, &body)
            .ok()
            .map(|body| Record { seq, body }));
    }
    let sensor: i64 = r.get(2)?;
    let Some(name) = names.get(&sensor) else {
        return Ok(None);
    };
    let reading = super::rows::reading(name.clone(), r.get(3)?, r.get(4)?, r.get(5)?);
    let body = fieldcast_wire::RecordBody::Reading(reading);
    Ok(super::rows::check(&body)
        .is_ok()
        .then_some(Record { seq, body }))
}

/// Runs of contiguous numbers.
fn runs(records: Vec<Record>) -> Vec<Vec<Record>> {
    let mut out: Vec<Vec<Record>> = Vec::new();
    for record in records {
        match out.last_mut() {
            Some(run) if run.last().is_some_and(|l| l.seq + 1 == record.seq) => run.push(record),
            _ => out.push(vec![record]),
        }
    }
    out
}

/// Numbers of `1..=end` that no range holds.
fn holes(mut have: Vec<(u64, u64)>, end: u64) -> Vec<(u64, u64)> {
    have.sort_unstable();
    let (mut out, mut next) = (Vec::new(), 1);
    for (first, last) in have {
        if first > next {
            out.push((next, first - 1));
        }
        next = next.max(last + 1);
    }
    if next <= end {
        out.push((next, end));
    }
    out
}

/// Reads as many rows as come without an error.
fn plain<T>(db: &Connection, text: &str, read: impl Fn(&Row<'_>) -> rusqlite::Result<T>) -> Vec<T> {
    let mut out = Vec::new();
    if let Ok(mut statement) = db.prepare(text)
        && let Ok(mut rows) = statement.query([])
    {
        while let Ok(Some(row)) = rows.next() {
            out.extend(read(row));
        }
    }
    out
}

/// Reads a table by its integer key, around damaged pages: forward as far as it goes, then from the far end back.
fn scan<T>(
    db: &Connection,
    text: &str,
    key: &str,
    read: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
) -> BTreeMap<i64, T> {
    let mut out = BTreeMap::new();
    let pass = |out: &mut BTreeMap<i64, T>, from: i64, order: &str, op: &str| -> bool {
        let Ok(mut statement) = db.prepare(&format!(
            "{text} WHERE {key} {op} {from} ORDER BY {key} {order}"
        )) else {
            return false;
        };
        let Ok(mut rows) = statement.query([]) else {
            return false;
        };
        loop {
            match rows.next() {
                Ok(Some(row)) => {
                    if let (Ok(id), Ok(value)) = (row.get(0), read(row)) {
                        out.insert(id, value);
                    }
                }
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    };
    if pass(&mut out, i64::MIN + 1, "ASC", ">=") {
        return out;
    }
    pass(&mut out, i64::MAX, "DESC", "<=");
    // Islands between damaged pages: start again beyond the break at growing distances.
    let (mut at, mut jump) = (out.keys().next().copied().unwrap_or(0), 1_i64);
    let last = out.keys().next_back().copied().unwrap_or(100_000);
    while at < last && jump < 1 << 40 {
        let before = out.len();
        pass(&mut out, at, "ASC", ">=");
        pass(&mut out, at, "DESC", "<=");
        jump = if out.len() > before {
            1
        } else {
            jump.saturating_mul(2)
        };
        at = at.saturating_add(jump);
    }
    out
}
