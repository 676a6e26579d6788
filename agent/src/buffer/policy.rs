//! Space: owns the byte cap, the disk reserve and what is given up; every loss becomes a gap record here.

use fieldcast_wire::{Epoch, RecordBody, batch, pb};
use rusqlite::{OptionalExtension, Transaction, params};

use super::error::{BufferError, sql};
use super::rows::{self, GAP};
use super::seal;
use super::store::{self, Store};
use super::types::DropPolicy;
use super::{number, unsigned};

/// Trimmed batches whose record numbers are remembered, to bound a gap after a hub's restore.
const REMEMBERED: i64 = 4_096;

/// Id, epoch, first and last record, number and bytes of a batch.
type Victim = (i64, Epoch, i64, i64, i64, Option<Vec<u8>>);

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

    fn disk_short(&self) -> bool {
        rustix::fs::statvfs(&self.limits.dir)
            .is_ok_and(|s| s.f_bavail.saturating_mul(s.f_frsize) < self.limits.reserve_bytes)
    }

    /// Gives up what the policy says until the limits hold. Acknowledged batches go first: they are no loss.
    /// With `disk_full` at least something goes.
    ///
    /// # Errors
    /// A failing disk, or nothing left to drop.
    pub fn make_room(&mut self, disk_full: bool) -> Result<(), BufferError> {
        let mut must = disk_full;
        // Pages freed by a drop count for the cap at once; the file itself shrinks by the vacuum below.
        for _ in 0..10_000 {
            if !must && self.used_bytes()? <= self.limits.max_bytes && !self.disk_short() {
                return Ok(());
            }
            let short_of_disk = must || self.disk_short();
            if !self.forget_acked()? && !self.drop_batch()? {
                if !must {
                    return Ok(());
                }
                return Err(BufferError::Full);
            }
            if short_of_disk {
                self.shrink()?;
            }
            must = false;
        }
        Ok(())
    }

    fn shrink(&mut self) -> Result<(), BufferError> {
        let step = sql("shrinking the file");
        let mut statement = self
            .db
            .prepare("PRAGMA incremental_vacuum(256)")
            .map_err(&step)?;
        let mut rows = statement.query([]).map_err(&step)?;
        while rows.next().map_err(&step)?.is_some() {}
        drop(rows);
        drop(statement);
        self.db
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .map_err(&step)
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
            .prepare_cached("SELECT coalesce(sum(bytes), 0) FROM batches WHERE status = 1")?
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
        tx.prepare_cached(
            "DELETE FROM batches WHERE status = 2 AND id <= (SELECT id FROM batches WHERE status = 2 ORDER BY id DESC LIMIT 1 OFFSET ?1)",
        )?
        .execute([REMEMBERED])?;
        Ok(())
    }

    /// Drops one unacknowledged batch; unsealed records are sealed first where there is no other.
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
                        JOIN epochs e ON e.id = b.epoch WHERE b.status = 0 ORDER BY b.id {order} LIMIT 1"
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
        let only_gaps =
            !inside.is_empty() && inside.iter().all(|r| matches!(r.body, RecordBody::Gap(_)));
        if only_gaps && inside.len() == 1 {
            // Nothing smaller could take its place.
            return Ok(false);
        }
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
            kind: pb::GapKind::BufferFull as i32,
            epoch: epoch.to_vec(),
            first_seq: unsigned(first),
            last_seq: unsigned(last),
            from_ms: times.clone().min().unwrap_or(0),
            to_ms: times.max().unwrap_or(0),
            reason: "buffer full".into(),
            ..pb::Gap::default()
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
            if let Ok(RecordBody::Gap(other)) = rows::decode(GAP, &bytes) {
                let same = other.kind == gap.kind
                    && other.epoch == gap.epoch
                    && other.reason == gap.reason;
                let touches = other.first_seq <= gap.last_seq.saturating_add(1)
                    && gap.first_seq <= other.last_seq.saturating_add(1);
                if same && touches && gap.first_seq > 0 && other.first_seq > 0 {
                    found = Some((r.get(0)?, other));
                    break;
                }
            }
        }
    }
    let Some((seq, other)) = found else {
        let bytes = store::insert(tx, *next, &RecordBody::Gap(gap), None)?;
        *next += 1;
        return Ok(bytes);
    };
    let time = |a: i64, b: i64, pick: fn(i64, i64) -> i64| match (a, b) {
        (0, t) | (t, 0) => t,
        (a, b) => pick(a, b),
    };
    let wider = pb::Gap {
        first_seq: other.first_seq.min(gap.first_seq),
        last_seq: other.last_seq.max(gap.last_seq),
        from_ms: time(other.from_ms, gap.from_ms, i64::min),
        to_ms: time(other.to_ms, gap.to_ms, i64::max),
        ..other
    };
    let (_, bytes) = rows::encode(&RecordBody::Gap(wider)).unwrap_or_default();
    tx.prepare_cached("UPDATE pending SET body = ?2 WHERE seq = ?1")?
        .execute(params![seq, bytes])?;
    Ok(0)
}
