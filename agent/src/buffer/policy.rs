//! Space: owns the byte cap, the disk reserve and what is given up; every loss becomes a gap record here.

use fieldcast_wire::{Epoch, RecordBody, batch, message, pb};
use rusqlite::{OptionalExtension, Transaction, params};

use super::error::{BufferError, sql};
use super::rows::{self, GAP};
use super::seal;
use super::store::{self, Store};
use super::types::DropPolicy;
use super::{number, unsigned};

/// Trimmed batches whose record numbers are remembered, to bound a gap after a hub's restore.
const REMEMBERED: i64 = if cfg!(test) { 8 } else { 4_096 };

/// Most rounds of making room for the ballast: where others take every byte that is freed, it is not to be had.
const FOR_BALLAST: u32 = 64;

/// Free pages that the file keeps, 4 MiB: what comes next takes them.
const SPARE_PAGES: i64 = 1_024;
/// From one step of giving pages back to the next.
pub(super) const STEP_MS: i64 = 250;

/// Less than this much free disk is none.
const NOTHING: u64 = 64 << 10;

/// Id, epoch, first and last record, number and bytes of a batch.
type Victim = (i64, Epoch, i64, i64, i64, Option<Vec<u8>>);

/// Id, epoch, first and last record of a batch of gap records, and those records.
type OnlyGaps = (i64, Epoch, u64, u64, Option<Vec<u8>>);

impl Store {
    /// Bytes that the file holds, free pages not counted.
    pub(super) fn used_bytes(&self) -> Result<u64, BufferError> {
        let step = sql("measuring the file");
        let value = |name| {
            self.db
                .pragma_query_value(None, name, |r| r.get::<_, i64>(0))
                .map_err(&step)
        };
        let pages = value("page_count")? - value("freelist_count")?;
        Ok(unsigned(pages).saturating_mul(unsigned(value("page_size")?)))
    }

    /// Free bytes of the disk; none where the system does not tell.
    fn disk_free(&self) -> Option<u64> {
        rustix::fs::statvfs(&self.limits.dir)
            .map(|s| s.f_bavail.saturating_mul(s.f_frsize))
            .ok()
    }

    fn disk_short(&self) -> bool {
        self.disk_free()
            .is_some_and(|free| free < self.limits.reserve_bytes)
    }

    /// Whether the error is that of a full disk. One that the system words otherwise counts where nothing is free:
    /// a failing disk must not cost what is not yet sent.
    pub(super) fn is_full(&self, error: &BufferError) -> bool {
        let none_free = || self.disk_free().is_some_and(|free| free < NOTHING);
        error.is_full() || error.is_io() && none_free()
    }

    /// Takes the ballast again where the disk has room for it.
    pub(super) fn restore_ballast(&mut self) {
        if let Some(free) = self.disk_free() {
            self.ballast.restore(free, self.limits.reserve_bytes);
        }
    }

    /// Gives up what the policy says until the limits hold. Acknowledged batches go first: they are no loss.
    /// With `disk_full` at least something goes.
    ///
    /// # Errors
    /// A failing disk, or nothing left to drop.
    pub fn make_room(&mut self, disk_full: bool) -> Result<(), BufferError> {
        let mut must = disk_full;
        if disk_full {
            self.ballast.release();
            // What the log holds goes into the file, in place, and the log's own bytes are free.
            self.empty_log()?;
        }
        // Pages freed by a drop count for the cap at once; the file itself shrinks by the vacuum below.
        for round in 0..10_000 {
            // The room that the ballast gave must not go into growth: the next step of making room would find none.
            let bare =
                disk_full && round < FOR_BALLAST && !self.ballast.is_affordable(self.disk_free());
            if !must && !bare && self.used_bytes()? <= self.limits.max_bytes && !self.disk_short() {
                break;
            }
            let short_of_disk = must || bare || self.disk_short();
            if !self.forget_acked()?
                && !self.trim_history()?
                && !self.merge_gaps()?
                && !self.drop_batch()?
            {
                if !must {
                    break;
                }
                return Err(BufferError::Full);
            }
            if short_of_disk {
                self.shrink()?;
            }
            must = false;
        }
        if disk_full && let Some(free) = self.disk_free() {
            self.ballast.restore(free, 0);
        }
        Ok(())
    }

    fn shrink(&mut self) -> Result<(), BufferError> {
        self.empty_log()?;
        match self.vacuum() {
            // Too little room to give pages back to the disk: the file itself goes on with them.
            Err(e) if self.is_full(&e) => {}
            done => done?,
        }
        self.empty_log()
    }

    fn vacuum(&self) -> Result<(), BufferError> {
        let step = sql("shrinking the file");
        let mut statement = self
            .db
            .prepare("PRAGMA incremental_vacuum(64)")
            .map_err(&step)?;
        let mut rows = statement.query([]).map_err(&step)?;
        while rows.next().map_err(&step)?.is_some() {}
        Ok(())
    }

    /// Gives some of the pages that acknowledged batches left back to the disk, a few at a time: whoever commits waits for
    /// no more than one step.
    pub(super) fn give_back(&mut self) -> Result<(), BufferError> {
        let now = self.clock.monotonic_ms();
        if self.gave_back_ms.is_some_and(|then| now - then < STEP_MS) {
            return Ok(());
        }
        let free: i64 = self
            .db
            .pragma_query_value(None, "freelist_count", |r| r.get(0))
            .map_err(sql("measuring the file"))?;
        if free <= SPARE_PAGES {
            // Only when the log goes into the file does that become shorter.
            return match self.gave_back_ms.take() {
                Some(_) => self.empty_log(),
                None => Ok(()),
            };
        }
        self.gave_back_ms = Some(now);
        match self.vacuum() {
            // The file goes on with its free pages.
            Err(e) if self.is_full(&e) => Ok(()),
            done => done,
        }
    }

    fn empty_log(&self) -> Result<(), BufferError> {
        let done = self
            .db
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .map_err(sql("emptying the log"));
        match done {
            Err(e) if self.is_full(&e) => Ok(()),
            done => done,
        }
    }

    fn forget_acked(&mut self) -> Result<bool, BufferError> {
        let gone = self
            .db
            .execute(
                "UPDATE batches SET payload = NULL, bytes = 0, status = 2, boot_id = '', digest = x'' WHERE id IN
                    (SELECT id FROM batches WHERE status = 1 ORDER BY id LIMIT 64)",
                [],
            )
            .map_err(sql("trimming"))?;
        Ok(gone > 0)
    }

    /// Keeps the acknowledged tail within its bytes and age.
    pub(super) fn trim_tail(
        tx: &Transaction<'_>,
        bytes: u64,
        older_than: i64,
    ) -> rusqlite::Result<()> {
        let held: i64 = tx
            .prepare_cached("SELECT tail FROM totals")?
            .query_row([], |r| r.get(0))?;
        let mut over = held - number(bytes);
        let mut rows: Vec<(i64, i64, i64)> = Vec::new();
        {
            let mut statement = tx.prepare_cached(
                "SELECT id, bytes, sealed_ms FROM batches WHERE status = 1 ORDER BY id",
            )?;
            let mut found = statement.query([])?;
            while let Some(r) = found.next()? {
                let row = (r.get(0)?, r.get(1)?, r.get(2)?);
                if over <= 0 && row.2 >= older_than {
                    break;
                }
                over -= row.1;
                rows.push(row);
            }
        }
        for (id, ..) in rows {
            tx.prepare_cached(
                "UPDATE batches SET payload = NULL, bytes = 0, status = 2, boot_id = '', digest = x'' WHERE id = ?1",
            )?
            .execute([id])?;
        }
        // Batches that carry gap records are remembered apart: what those speak of cannot be made up again.
        for kind in ["gaps IS NULL", "gaps IS NOT NULL"] {
            let last: Option<i64> = tx
                .prepare_cached(&format!(
                    "SELECT id FROM batches WHERE status = 2 AND {kind} ORDER BY id DESC LIMIT 1 OFFSET ?1"
                ))?
                .query_row([REMEMBERED], |r| r.get(0))
                .optional()?;
            let Some(last) = last else { continue };
            let which = format!("status = 2 AND {kind} AND id <= ?1");
            tx.prepare_cached(&format!(
                "UPDATE epochs SET forgotten_batch = max(forgotten_batch, f.n), forgotten_seq = max(forgotten_seq, f.seq)
                    FROM (SELECT epoch, max(number) AS n, max(last_seq) AS seq FROM batches WHERE {which} GROUP BY epoch) f
                    WHERE f.epoch = epochs.id"
            ))?
            .execute([last])?;
            tx.prepare_cached(&format!("DELETE FROM batches WHERE {which}"))?
                .execute([last])?;
        }
        Ok(())
    }

    /// Batches that hold nothing but gap records are replaced by unsealed gap records, merged where they touch: each
    /// drop leaves one, and dropping them one by one would free nothing.
    fn merge_gaps(&mut self) -> Result<bool, BufferError> {
        let step = sql("merging gap records");
        let tx = self.db.transaction().map_err(&step)?;
        let rows: Vec<OnlyGaps> = {
            let mut statement = tx
                .prepare_cached(
                    "SELECT b.id, e.uuid, b.first_seq, b.last_seq, b.gaps FROM batches b
                        JOIN epochs e ON e.id = b.epoch WHERE b.status = 0 AND b.only_gaps = 1 ORDER BY b.id LIMIT 512",
                )
                .map_err(&step)?;
            let found = statement
                .query_map([], |r| {
                    Ok((
                        r.get(0)?,
                        seal::epoch(r, 1)?,
                        unsigned(r.get(2)?),
                        unsigned(r.get(3)?),
                        r.get(4)?,
                    ))
                })
                .map_err(&step)?;
            found.collect::<Result<_, _>>().map_err(&step)?
        };
        if rows.len() < 2 {
            return Ok(false);
        }
        let mut gaps = Vec::new();
        for (id, epoch, first, last, inside) in rows {
            let inside = inside
                .and_then(|b| message::decode::<pb::BatchBody>("gap records", &b).ok())
                .unwrap_or_default();
            gaps.extend(inside.gaps);
            gaps.push(full(epoch, first, last));
            tx.execute("DELETE FROM batches WHERE id = ?1", [id])
                .map_err(&step)?;
        }
        gaps.sort_by(|a, b| (a.kind, &a.epoch, a.first_seq).cmp(&(b.kind, &b.epoch, b.first_seq)));
        let mut next = self.current.next_seq;
        let mut kept = 0;
        let mut merged: Vec<pb::Gap> = Vec::new();
        for gap in gaps {
            match merged.last_mut().filter(|m| joins(m, &gap)) {
                Some(m) => *m = union(m, &gap),
                None => merged.push(gap),
            }
        }
        for gap in merged {
            kept += add_gap(&tx, &mut next, gap).map_err(&step)?;
        }
        tx.execute(
            "UPDATE epochs SET next_seq = ?2 WHERE id = ?1",
            params![self.current.id, number(next)],
        )
        .map_err(&step)?;
        tx.commit().map_err(&step)?;
        self.pending += next - self.current.next_seq;
        self.pending_bytes += kept;
        self.current.next_seq = next;
        Ok(true)
    }

    /// Drops one unacknowledged batch that holds more than gap records.
    fn drop_batch(&mut self) -> Result<bool, BufferError> {
        let step = sql("dropping a batch");
        let order = match self.limits.policy {
            DropPolicy::Oldest => "ASC",
            DropPolicy::Newest => "DESC",
        };
        let tx = self.db.transaction().map_err(&step)?;
        let victim: Option<Victim> = tx
            .query_row(
                &format!(
                    "SELECT b.id, e.uuid, b.first_seq, b.last_seq, b.number, b.payload FROM batches b
                        JOIN epochs e ON e.id = b.epoch WHERE b.status = 0 AND b.only_gaps = 0 ORDER BY b.id {order} LIMIT 1"
                ),
                [],
                |r| Ok((r.get(0)?, seal::epoch(r, 1)?, r.get(2)?, r.get(3)?, r.get(4)?, r.get(5)?)),
            )
            .optional()
            .map_err(&step)?;
        let Some((id, epoch, first, last, batch_number, payload)) = victim else {
            return Ok(false);
        };
        let inside = payload
            .and_then(|p| batch::decode(&p).ok())
            .map(|b| b.records)
            .unwrap_or_default();
        let mut next = self.current.next_seq;
        let mut kept = 0;
        tx.execute("DELETE FROM batches WHERE id = ?1", [id])
            .map_err(&step)?;
        // What gap records inside speak of must still reach the hub.
        for record in &inside {
            if let RecordBody::Gap(gap) = &record.body {
                kept += add_gap(&tx, &mut next, gap.clone()).map_err(&step)?;
            }
        }
        let times = inside.iter().filter_map(|r| match &r.body {
            RecordBody::Reading(r) => Some(r.time),
            _ => None,
        });
        let gap = pb::Gap {
            from_ms: times.clone().min().unwrap_or(0),
            to_ms: times.max().unwrap_or(0),
            ..full(epoch, unsigned(first), unsigned(last))
        };
        kept += add_gap(&tx, &mut next, gap).map_err(&step)?;
        store::count(&tx, "dropped", unsigned(last - first + 1)).map_err(&step)?;
        tx.execute(
            "UPDATE epochs SET next_seq = ?2 WHERE id = ?1",
            params![self.current.id, number(next)],
        )
        .map_err(&step)?;
        tx.commit().map_err(&step)?;
        tracing::warn!(%epoch, batch = batch_number, first, last, "buffer is full: a batch was given up");
        self.pending += next - self.current.next_seq;
        self.pending_bytes += kept;
        self.current.next_seq = next;
        Ok(true)
    }
}

fn full(epoch: Epoch, first_seq: u64, last_seq: u64) -> pb::Gap {
    pb::Gap {
        kind: pb::GapKind::BufferFull as i32,
        epoch: epoch.to_vec(),
        first_seq,
        last_seq,
        reason: "buffer full".into(),
        ..pb::Gap::default()
    }
}

fn joins(a: &pb::Gap, b: &pb::Gap) -> bool {
    let same = a.kind == b.kind && a.epoch == b.epoch && a.reason == b.reason;
    let touch =
        a.first_seq <= b.last_seq.saturating_add(1) && b.first_seq <= a.last_seq.saturating_add(1);
    same && touch && a.first_seq > 0 && b.first_seq > 0
}

fn union(a: &pb::Gap, b: &pb::Gap) -> pb::Gap {
    let time = |a: i64, b: i64, pick: fn(i64, i64) -> i64| match (a, b) {
        (0, t) | (t, 0) => t,
        (a, b) => pick(a, b),
    };
    pb::Gap {
        first_seq: a.first_seq.min(b.first_seq),
        last_seq: a.last_seq.max(b.last_seq),
        from_ms: time(a.from_ms, b.from_ms, i64::min),
        to_ms: time(a.to_ms, b.to_ms, i64::max),
        ..a.clone()
    }
}

/// Adds a gap record, or widens an unsealed one that it touches. Answers the bytes added.
pub(super) fn add_gap(tx: &Transaction<'_>, next: &mut u64, gap: pb::Gap) -> rusqlite::Result<u64> {
    let mut found: Option<(i64, pb::Gap)> = None;
    {
        let mut statement = tx.prepare_cached(
            "SELECT seq, body FROM pending WHERE kind = ?1 ORDER BY seq DESC LIMIT 16",
        )?;
        let mut open = statement.query([GAP])?;
        while let Some(r) = open.next()? {
            let bytes: Vec<u8> = r.get(1)?;
            if let Ok(RecordBody::Gap(other)) = rows::decode(GAP, &bytes)
                && joins(&other, &gap)
            {
                found = Some((r.get(0)?, other));
                break;
            }
        }
    }
    let Some((seq, other)) = found else {
        let bytes = store::insert(tx, *next, &RecordBody::Gap(gap), None)?;
        *next += 1;
        return Ok(bytes);
    };
    let wider = union(&other, &gap);
    let (_, bytes) = rows::encode(&RecordBody::Gap(wider)).unwrap_or_default();
    tx.prepare_cached("UPDATE pending SET body = ?2 WHERE seq = ?1")?
        .execute(params![seq, bytes])?;
    Ok(0)
}
