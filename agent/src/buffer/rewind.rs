//! A hub restored from a backup: owns which hub instance is believed and what its forgetting means; never marks a batch done.

use fieldcast_device::acks::{self, Hub, Voice};
use fieldcast_wire::caps::MAX_ACK_RANGES;
use fieldcast_wire::{Epoch, message, pb};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::policy;
use super::types::BatchKey;
use super::{number, unsigned};
use crate::clock::Clock;

/// Epochs with acknowledged batches of which the hub in force has not spoken yet.
pub(super) const UNANSWERED: &str = "e.hub_instance != coalesce((SELECT instance FROM hub), e.hub_instance)
    AND (e.forgotten_batch > 0 OR EXISTS (SELECT 1 FROM batches b WHERE b.epoch = e.id AND b.status IN (1, 2)))";

/// Tells whose word it is, and keeps an instance that takes over.
pub(super) fn voice(tx: &Transaction<'_>, clock: &Clock, ack: &pb::Ack) -> rusqlite::Result<Voice> {
    let known = tx
        .prepare_cached("SELECT instance, boot_id, heard_ms FROM hub")?
        .query_row([], |r| {
            Ok(Hub {
                instance: r.get(0)?,
                boot_id: r.get(1)?,
                heard_ms: r.get(2)?,
            })
        })
        .optional()?;
    let voice = acks::voice(known.as_ref(), ack, clock.boot_id());
    if voice == Voice::New {
        tx.execute(
            "INSERT OR REPLACE INTO hub(id, instance, boot_id, heard_ms) VALUES (1, ?1, ?2, ?3)",
            params![ack.hub_instance, clock.boot_id(), clock.monotonic_ms()],
        )?;
    }
    Ok(voice)
}

/// How many epochs the hub in force must still be asked about.
pub(super) fn unanswered(tx: &Transaction<'_>) -> rusqlite::Result<u64> {
    tx.prepare_cached(&format!("SELECT count(*) FROM epochs e WHERE {UNANSWERED}"))?
        .query_row([], |r| r.get(0))
        .map(unsigned)
}

/// Numbers that are looked at beyond the watermark: a dropped batch may hold it back while a long tail grows behind it.
const BEYOND: i64 = 16_384;

/// The batch up to which all of an epoch were acknowledged: the hub's watermark, and what ranges beyond it have joined to
/// it. A batch that was dropped ends it, since no hub knows that one; those acknowledged beyond are told apart.
pub(super) fn acked(
    db: &Connection,
    epoch_id: i64,
) -> rusqlite::Result<(u64, Vec<pb::BatchRange>)> {
    let told = db
        .prepare_cached("SELECT acked_through FROM epochs WHERE id = ?1")?
        .query_row([epoch_id], |r| r.get(0))
        .map(unsigned)?;
    let (mut through, mut ranges) = (told, Vec::<pb::BatchRange>::new());
    for n in acked_beyond(db, epoch_id, told, BEYOND)? {
        let full = ranges.len() == MAX_ACK_RANGES;
        match ranges.last_mut() {
            None if n == through + 1 => through = n,
            Some(range) if n == range.last + 1 => range.last = n,
            _ if full => break,
            _ => ranges.push(pb::BatchRange { first: n, last: n }),
        }
    }
    Ok((through, ranges))
}

/// Acknowledged batches of an epoch behind a number, the lowest first.
pub(super) fn acked_beyond(
    db: &Connection,
    epoch_id: i64,
    behind: u64,
    limit: i64,
) -> rusqlite::Result<Vec<u64>> {
    db.prepare_cached(
        "SELECT number FROM batches WHERE epoch = ?1 AND number > ?2 AND status IN (1, 2) ORDER BY number LIMIT ?3",
    )?
    .query_map(params![epoch_id, number(behind), limit], |r| r.get(0).map(unsigned))?
    .collect()
}

/// Id, number, status, first and last record of a batch, and its gap records.
type Held = (i64, u64, i64, u64, u64, Option<Vec<u8>>);

/// What a hub that lists less than was acknowledged has forgotten of an epoch waits again; what is no longer held goes
/// under a gap. Answers whether anything changed.
pub(super) fn rewind(
    tx: &Transaction<'_>,
    epoch_id: i64,
    key: Epoch,
    listed: impl Fn(u64) -> bool,
    through: u64,
    next: &mut u64,
) -> rusqlite::Result<Vec<BatchKey>> {
    let rows: Vec<Held> = {
        let mut statement = tx.prepare(
            "SELECT id, number, status, first_seq, last_seq, gaps FROM batches
                WHERE epoch = ?1 AND status IN (1, 2) ORDER BY number",
        )?;
        let found = statement.query_map([epoch_id], |r| {
            Ok((
                r.get(0)?,
                unsigned(r.get(1)?),
                r.get(2)?,
                unsigned(r.get(3)?),
                unsigned(r.get(4)?),
                r.get(5)?,
            ))
        })?;
        found.collect::<Result<_, _>>()?
    };
    let mut lost: Vec<pb::Gap> = Vec::new();
    let before_tail = |first_seq: u64, last_seq: u64| pb::Gap {
        kind: pb::GapKind::BeforeTail as i32,
        epoch: key.to_vec(),
        first_seq,
        last_seq,
        reason: "the hub was restored from a backup older than the kept tail".into(),
        ..pb::Gap::default()
    };
    // Of batches so old that not even their numbers are kept, the gap starts too early, never too late.
    let (forgotten, forgotten_seq): (u64, u64) = tx.query_row(
        "SELECT forgotten_batch, forgotten_seq FROM epochs WHERE id = ?1",
        [epoch_id],
        |r| Ok((unsigned(r.get(0)?), unsigned(r.get(1)?))),
    )?;
    if forgotten > through {
        let known = rows
            .iter()
            .filter(|(_, n, ..)| *n <= through)
            .map(|row| row.4)
            .max()
            .unwrap_or(0);
        lost.extend((known < forgotten_seq).then(|| before_tail(known + 1, forgotten_seq)));
    }
    let mut again = Vec::new();
    for (id, n, status, first, last, gaps) in rows {
        if listed(n) {
            continue;
        }
        again.push(BatchKey {
            epoch: key,
            number: n,
        });
        if status == 1 {
            tx.execute(
                "UPDATE batches SET status = 0, contested =
                    (SELECT spent FROM epochs e WHERE e.id = batches.epoch) WHERE id = ?1",
                [id],
            )?;
            continue;
        }
        // It goes under a gap now: as one that is acknowledged it would prove to the hub again and again that it forgot.
        tx.execute("DELETE FROM batches WHERE id = ?1", [id])?;
        // Gap records of a trimmed batch speak of losses that the hub has forgotten with it.
        if let Some(inside) = gaps
            .and_then(|b| message::decode::<pb::BatchBody>("gap records", &b).ok())
            .map(|body| body.gaps)
        {
            lost.extend(inside);
        }
        match lost.last_mut() {
            Some(g)
                if g.kind == pb::GapKind::BeforeTail as i32
                    && g.epoch == key.to_vec()
                    && g.last_seq + 1 == first =>
            {
                g.last_seq = last
            }
            _ => lost.push(before_tail(first, last)),
        }
    }
    for gap in lost {
        policy::add_gap(tx, next, gap)?;
    }
    tx.execute(
        "UPDATE epochs SET acked_through = min(?2, next_batch - 1), last_acked = 0 WHERE id = ?1",
        params![epoch_id, number(through)],
    )?;
    Ok(again)
}
