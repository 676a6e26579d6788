//! Sealing: owns the step from unsealed rows to an immutable batch; never changes a sealed one.

use fieldcast_wire::batch::{self, Header};
use fieldcast_wire::caps::{MAX_PAYLOAD, SEAL_BYTES};
use fieldcast_wire::{BatchError, Epoch, Record, RecordBody, Sha256, message, pb};
use rusqlite::{OptionalExtension, Row, params};

use super::error::{BufferError, sql};
use super::rewind::{self, UNANSWERED};
use super::stamp::{self, Stamped};
use super::store::{self, Store};
use super::types::{BatchKey, SealedInfo, SyncHead};
use super::{number, unsigned};

/// Room left for the MQTT header around a payload.
const PAYLOAD_ROOM: usize = MAX_PAYLOAD - 1_024;

/// Epochs told of in one sync; each is a message of its own.
const MAX_HEADS: usize = 32;

impl Store {
    /// Whether enough records wait for a batch.
    #[must_use]
    pub fn seal_due(&self) -> bool {
        self.pending >= self.limits.seal_records || self.pending_bytes >= SEAL_BYTES as u64
    }

    /// Whether any record waits unsealed.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        self.pending > 0
    }

    /// Seals the oldest unsealed records into one batch, in one transaction; none where none wait.
    ///
    /// # Errors
    /// A failing disk, or rows that are damaged.
    pub fn seal(&mut self) -> Result<Option<SealedInfo>, BufferError> {
        match self.seal_once() {
            Err(e) if self.is_full(&e) => {
                self.make_room(true)?;
                self.seal_once()
            }
            done => done,
        }
    }

    fn seal_once(&mut self) -> Result<Option<SealedInfo>, BufferError> {
        let step = sql("sealing");
        let records = store::pending(&self.db, self.limits.seal_records.max(1), SEAL_BYTES as u64)?;
        let Some(first) = records.first().map(|r| r.seq) else {
            (self.pending, self.pending_bytes) = (0, 0);
            return Ok(None);
        };
        let clock = self.seal_stamp();
        let tx = self.db.transaction().map_err(&step)?;
        let next: i64 = tx
            .query_row(
                "SELECT next_batch FROM epochs WHERE id = ?1",
                [self.current.id],
                |r| r.get(0),
            )
            .map_err(&step)?;
        let header = Header {
            epoch: self.current.epoch,
            number: unsigned(next),
            clock,
        };
        let (records, payload) = encode(&header, records)?;
        let last = first + records.len() as u64 - 1;
        let order = put(&tx, self.current.id, &header, &records, &payload, false).map_err(&step)?;
        // P3: that time is given, also where the batch is gone before a later boot seals what this one left.
        stamp::keep(&tx, &header.clock).map_err(&step)?;
        tx.execute("DELETE FROM pending WHERE seq <= ?1", [number(last)])
            .map_err(&step)?;
        tx.execute(
            "UPDATE epochs SET next_batch = ?2 WHERE id = ?1",
            params![self.current.id, next + 1],
        )
        .map_err(&step)?;
        tx.commit().map_err(&step)?;
        let sealed = records.len() as u64;
        self.pending = self.pending.saturating_sub(sealed);
        self.pending_bytes = if self.pending == 0 {
            0
        } else {
            self.pending_bytes.saturating_sub(sealed * 20)
        };
        Ok(Some(SealedInfo {
            key: BatchKey {
                epoch: self.current.epoch,
                number: header.number,
            },
            order,
            bytes: payload.len() as u64,
            first_seq: first,
            last_seq: last,
            contested: false,
        }))
    }

    /// The sealed bytes of a batch; none where it is not held.
    ///
    /// # Errors
    /// A failing disk, or bytes that do not match their digest.
    pub fn batch(&self, key: BatchKey) -> Result<Option<Vec<u8>>, BufferError> {
        let found: Option<(Option<Vec<u8>>, Vec<u8>)> = self
            .db
            .prepare_cached(
                "SELECT payload, digest FROM batches WHERE number = ?2
                    AND epoch = (SELECT id FROM epochs WHERE uuid = ?1)",
            )
            .and_then(|mut s| {
                s.query_row(params![key.epoch.to_vec(), number(key.number)], |r| {
                    Ok((r.get(0)?, r.get(1)?))
                })
                .optional()
            })
            .map_err(sql("reading a batch"))?;
        match found {
            Some((Some(payload), digest)) if Sha256::of(&payload).to_vec() != digest => {
                Err(BufferError::Damaged {
                    what: format!("batch {} of epoch {}", key.number, key.epoch),
                })
            }
            Some((payload, _)) => Ok(payload),
            None => Ok(None),
        }
    }

    /// Batches not acknowledged, in the order of sending, after a place in that order.
    ///
    /// # Errors
    /// A failing disk.
    pub fn unacked(&self, after: i64, limit: usize) -> Result<Vec<SealedInfo>, BufferError> {
        let step = sql("listing batches");
        let mut statement = self
            .db
            .prepare_cached(
                "SELECT b.id, e.uuid, b.number, b.bytes, b.first_seq, b.last_seq, b.contested FROM batches b
                    JOIN epochs e ON e.id = b.epoch WHERE b.status = 0 AND b.id > ?1 ORDER BY b.id LIMIT ?2",
            )
            .map_err(&step)?;
        let found = statement
            .query_map(params![after, number(limit as u64)], info)
            .map_err(&step)?;
        found.collect::<Result<_, _>>().map_err(&step)
    }

    /// The clocks now, with a monotonic time that nothing else of this boot has: acks name what they answer by it. Syncs are
    /// not kept: that they have the even times and batches the odd ones holds over restarts too.
    pub(super) fn stamp(&mut self, of: Stamped) -> pb::ClockStamp {
        let mut stamp = self.clock.stamp();
        let next = self.last_stamp.saturating_add(1).max(stamp.monotonic_ms);
        let next = of.first_from(next);
        let moved = next.saturating_sub(stamp.monotonic_ms);
        stamp.monotonic_ms = next;
        stamp.wall_ms = stamp.wall_ms.saturating_add(moved);
        self.last_stamp = next;
        stamp
    }

    /// What the hub is told at sync: the current epoch, then those of which the hub in force must still speak, then
    /// others with unacknowledged batches, then those that it could have forgotten. Those beyond the limit follow when the first ones are answered.
    ///
    /// # Errors
    /// A failing disk.
    pub fn sync_heads(&mut self) -> Result<Vec<SyncHead>, BufferError> {
        let step = sql("reading heads");
        let bytes: i64 = self
            .db
            .query_row("SELECT bytes FROM totals", [], |r| r.get(0))
            .map_err(&step)?;
        let clock = self.stamp(Stamped::Sync);
        let mut statement = self
            .db
            .prepare_cached(&format!(
                "SELECT uuid, next_batch, next_seq, id, hub_instance,
                    coalesce((SELECT min(number) FROM batches b WHERE b.epoch = e.id AND payload IS NOT NULL), 0),
                    last_acked, {UNANSWERED} AS unanswered,
                    EXISTS (SELECT 1 FROM batches b WHERE b.epoch = e.id AND status = 0) AS waiting
                FROM epochs e WHERE id = ?1 OR unanswered OR waiting OR forgotten_batch > 0
                    OR EXISTS (SELECT 1 FROM batches b WHERE b.epoch = e.id)
                ORDER BY id = ?1 DESC, unanswered DESC, waiting DESC, id DESC LIMIT {MAX_HEADS}",
            ))
            .map_err(&step)?;
        let found = statement
            .query_map([self.current.id], |r| {
                let (acked_through, acked) = rewind::acked(&self.db, r.get(3)?)?;
                Ok(SyncHead {
                    epoch: epoch(r, 0)?,
                    next_batch: unsigned(r.get(1)?),
                    next_seq: unsigned(r.get(2)?),
                    acked_through,
                    acked,
                    hub_instance: r.get(4)?,
                    oldest_batch: unsigned(r.get(5)?),
                    last_acked: unsigned(r.get(6)?),
                    buffered_bytes: unsigned(bytes),
                    clock: clock.clone(),
                })
            })
            .map_err(&step)?;
        found.collect::<Result<_, _>>().map_err(&step)
    }
}

fn info(r: &Row<'_>) -> rusqlite::Result<SealedInfo> {
    Ok(SealedInfo {
        order: r.get(0)?,
        key: BatchKey {
            epoch: epoch(r, 1)?,
            number: unsigned(r.get(2)?),
        },
        bytes: unsigned(r.get(3)?),
        first_seq: unsigned(r.get(4)?),
        last_seq: unsigned(r.get(5)?),
        contested: r.get(6)?,
    })
}

pub(super) fn epoch(r: &Row<'_>, column: usize) -> rusqlite::Result<Epoch> {
    let bytes: Vec<u8> = r.get(column)?;
    Epoch::from_slice(&bytes).map_err(|e| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Blob, Box::new(e))
    })
}

/// Stores sealed bytes; answers their place in the order of sending.
pub(super) fn put(
    tx: &rusqlite::Connection,
    epoch_id: i64,
    header: &Header,
    records: &[Record],
    payload: &[u8],
    contested: bool,
) -> rusqlite::Result<i64> {
    let first = records.first().map_or(0, |r| r.seq);
    let last = records.last().map_or(0, |r| r.seq);
    let gaps: Vec<pb::Gap> = records
        .iter()
        .filter_map(|r| match &r.body {
            RecordBody::Gap(gap) => Some(gap.clone()),
            _ => None,
        })
        .collect();
    let only_gaps = !gaps.is_empty() && gaps.len() == records.len();
    // What gap records speak of must be known as long as the batch's numbers are, also when its bytes are gone.
    let gaps = (!gaps.is_empty()).then(|| {
        message::encode(&pb::BatchBody {
            gaps,
            ..pb::BatchBody::default()
        })
    });
    tx.prepare_cached(
        "INSERT INTO batches(epoch, number, first_seq, last_seq, sealed_ms, boot_id, monotonic_ms, contested, bytes,
            digest, payload, gaps, only_gaps) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?
    .execute(params![
        epoch_id,
        number(header.number),
        number(first),
        number(last),
        header.clock.wall_ms,
        header.clock.boot_id,
        header.clock.monotonic_ms,
        contested,
        number(payload.len() as u64),
        Sha256::of(payload).to_vec(),
        payload,
        gaps,
        only_gaps
    ])?;
    Ok(tx.last_insert_rowid())
}

/// Encodes as many of the records as fit. One that fits in no batch gives its number to a gap record.
pub(super) fn encode(
    header: &Header,
    mut records: Vec<Record>,
) -> Result<(Vec<Record>, Vec<u8>), BufferError> {
    loop {
        match batch::encode(header, &records) {
            Ok(payload) if payload.len() <= PAYLOAD_ROOM => return Ok((records, payload)),
            Ok(_) | Err(BatchError::TooLarge { .. }) if records.len() > 1 => {
                records.truncate(records.len() / 2)
            }
            Ok(_) | Err(BatchError::TooLarge { .. }) => {
                for record in &mut records {
                    tracing::error!(
                        seq = record.seq,
                        "a record is too large for any batch; a gap record takes its place"
                    );
                    record.body = RecordBody::Gap(pb::Gap {
                        kind: pb::GapKind::Unreadable as i32,
                        epoch: header.epoch.to_vec(),
                        first_seq: record.seq,
                        last_seq: record.seq,
                        reason: "record too large for a batch".into(),
                        ..pb::Gap::default()
                    });
                }
            }
            Err(source) => {
                return Err(BufferError::Seal {
                    number: header.number,
                    source,
                });
            }
        }
    }
}
