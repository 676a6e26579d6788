//! Acknowledgements: owns what they trim, rewind or move to a new epoch; never decides what to send.

use fieldcast_device::acks::{self, Candidate, Fate, Voice, behind, listed};
use fieldcast_wire::caps::MAX_ACK_PROOFS;
use fieldcast_wire::{Epoch, RecordBody, batch, pb};
use rusqlite::{OptionalExtension, Transaction, params};

use super::error::{BufferError, sql};
use super::rewind;
use super::store::{self, Store};
use super::types::{AckOutcome, BatchKey};
use super::{number, unsigned};

/// Acknowledged batches beyond a hub's watermark that each ack is held against.
const COMPARED: i64 = 256;

struct EpochRow {
    id: i64,
    hub: Vec<u8>,
}

impl Store {
    /// Applies an acknowledgement in one transaction.
    ///
    /// # Errors
    /// A failing disk; then nothing of it was applied and the hub will say it again.
    pub fn apply_ack(&mut self, ack: &pb::Ack) -> Result<AckOutcome, BufferError> {
        match self.apply_ack_once(ack) {
            Err(e) if self.is_full(&e) => {
                self.make_room(true)?;
                self.apply_ack_once(ack)
            }
            done => done,
        }
    }

    fn apply_ack_once(&mut self, ack: &pb::Ack) -> Result<AckOutcome, BufferError> {
        let step = sql("applying an acknowledgement");
        let mut out = AckOutcome {
            echo: (ack.echo_boot_id == self.clock.boot_id()).then_some(ack.echo_monotonic_ms),
            ..AckOutcome::default()
        };
        let Ok(epoch) = Epoch::from_slice(&ack.epoch) else {
            return Ok(out);
        };
        let older_than = self.clock.wall_ms().saturating_sub(self.limits.tail_age_ms);
        let mut current = self.current;
        let before = current.next_seq;
        let tx = self.db.transaction().map_err(&step)?;
        let row = tx
            .query_row(
                "SELECT id, hub_instance FROM epochs WHERE uuid = ?1",
                [epoch.to_vec()],
                |r| {
                    Ok(EpochRow {
                        id: r.get(0)?,
                        hub: r.get(1)?,
                    })
                },
            )
            .optional()
            .map_err(&step)?;
        let Some(row) = row else {
            // Another device's epoch, or one from before a restored disk image: none of ours.
            return Ok(out);
        };
        match rewind::voice(&tx, &self.clock, ack).map_err(&step)? {
            Voice::InForce => {}
            Voice::New => out.new_hub = true,
            Voice::Stranger => {
                out.stranger = true;
                return Ok(out);
            }
        }
        if !ack.hub_instance.is_empty() && row.hub != ack.hub_instance {
            let seq = &mut current.next_seq;
            let again = rewind::rewind(&tx, row.id, epoch, |n| listed(ack, n), ack.through, seq)
                .map_err(&step)?;
            out.rewound = !again.is_empty();
            tx.execute(
                "UPDATE epochs SET hub_instance = ?2 WHERE id = ?1",
                params![row.id, ack.hub_instance],
            )
            .map_err(&step)?;
        }
        prove(&tx, row.id, epoch, ack, &mut out).map_err(&step)?;
        if let Some(b) = answered(&tx, row.id, ack).map_err(&step)? {
            let candidate = Candidate {
                number: b.number,
                contested: b.contested,
                answered: true,
                proved: false,
            };
            match acks::fate(ack, candidate) {
                Fate::Waits => {}
                Fate::Done => done(&tx, &b, epoch, &mut out).map_err(&step)?,
                Fate::Renumber => {
                    out.renumbered += renumber(&tx, &b, &mut current).map_err(&step)??;
                    out.done.push(BatchKey {
                        epoch,
                        number: b.number,
                    });
                }
            }
        }
        if !ack.new_epoch {
            tx.execute(
                "UPDATE epochs SET acked_through = max(acked_through, min(?2, next_batch - 1)) WHERE id = ?1",
                params![row.id, number(ack.through)],
            )
            .map_err(&step)?;
        } else if row.id == current.id {
            current = begin(&tx, &current, &ack.reason).map_err(&step)?;
            out.new_epoch = Some(current.epoch);
        }
        for r in acks::refusals(ack) {
            let new = tx
                .execute(
                    "INSERT OR IGNORE INTO refused(epoch, batch, seq, reason) VALUES (?1, ?2, ?3, ?4)",
                    params![row.id, number(r.batch), number(r.seq), r.reason],
                )
                .map_err(&step)?;
            if new > 0 {
                let records = if r.seq > 0 {
                    1
                } else {
                    records_of(&tx, row.id, r.batch).map_err(&step)?
                };
                store::count(&tx, "rejected", records).map_err(&step)?;
                if r.seq > 0 {
                    out.rejected.push((r.seq, r.reason.clone()));
                } else {
                    out.refused.push((r.batch, records, r.reason.clone()));
                }
            }
        }
        tx.execute(
            "DELETE FROM refused WHERE id <= (SELECT max(id) FROM refused) - 10000",
            [],
        )
        .map_err(&step)?;
        // P5: before what was acknowledged is trimmed, a hub that tells of less must be asked.
        let told = told_through(&tx, row.id).map_err(&step)?;
        let beyond = rewind::acked_beyond(&tx, row.id, ack.through, COMPARED);
        let mut beyond = beyond.map_err(&step)?;
        beyond.push(last_acked(&tx, row.id, ack, &out.done).map_err(&step)?);
        out.behind = behind(ack, told, &beyond);
        Store::trim_tail(&tx, self.limits.tail_bytes, older_than).map_err(&step)?;
        tx.execute(
            "UPDATE epochs SET next_seq = ?2 WHERE id = ?1",
            params![current.id, number(current.next_seq)],
        )
        .map_err(&step)?;
        out.unanswered = rewind::unanswered(&tx).map_err(&step)?;
        tx.commit().map_err(&step)?;
        if out.new_epoch.is_some() || current.next_seq != before {
            self.current = current;
            self.recount()?;
        }
        if out.new_epoch.is_some() {
            self.note_epoch();
        }
        Ok(out)
    }

    /// Ends the current epoch and begins another; unsealed records move over and get new numbers.
    ///
    /// # Errors
    /// A failing disk.
    pub fn new_epoch(&mut self, reason: &str) -> Result<Epoch, BufferError> {
        let step = sql("beginning an epoch");
        let tx = self.db.transaction().map_err(&step)?;
        let current = begin(&tx, &self.current, reason).map_err(&step)?;
        tx.commit().map_err(&step)?;
        self.current = current;
        self.recount()?;
        self.note_epoch();
        Ok(current.epoch)
    }

    pub(super) fn recount(&mut self) -> Result<(), BufferError> {
        let (records, bytes): (i64, i64) = self
            .db
            .query_row(
                "SELECT count(*), coalesce(sum(coalesce(length(body), 12) + 8), 0) FROM pending",
                [],
                |r| Ok((r.get(0)?, r.get(1)?)),
            )
            .map_err(sql("counting records"))?;
        (self.pending, self.pending_bytes) = (unsigned(records), unsigned(bytes));
        Ok(())
    }
}

/// The batch that was acknowledged last before this ack; keeps which one it is now. Numbers that the device dropped hold a
/// hub's watermark back, so that only this one tells whether the hub has forgotten what lies beyond them.
fn last_acked(
    tx: &Transaction<'_>,
    epoch_id: i64,
    ack: &pb::Ack,
    done: &[BatchKey],
) -> rusqlite::Result<u64> {
    let before = tx.query_row(
        "SELECT last_acked FROM epochs WHERE id = ?1",
        [epoch_id],
        |r| r.get(0).map(unsigned),
    )?;
    let newest = done.iter().map(|key| key.number).max();
    let last = acks::last_acked(ack, before, newest);
    if last != before {
        tx.execute(
            "UPDATE epochs SET last_acked = ?2 WHERE id = ?1",
            params![epoch_id, number(last)],
        )?;
    }
    Ok(before)
}

fn records_of(tx: &Transaction<'_>, epoch_id: i64, batch: u64) -> rusqlite::Result<u64> {
    tx.query_row(
        "SELECT last_seq - first_seq + 1 FROM batches WHERE epoch = ?1 AND number = ?2",
        params![epoch_id, number(batch)],
        |r| r.get(0),
    )
    .optional()
    .map(|n| unsigned(n.unwrap_or(0)))
}

struct Answered {
    id: i64,
    number: u64,
    contested: bool,
}

/// The batch whose clocks the ack echoes: the very bytes the hub had in hand.
fn answered(
    tx: &Transaction<'_>,
    epoch_id: i64,
    ack: &pb::Ack,
) -> rusqlite::Result<Option<Answered>> {
    tx.query_row(
        "SELECT id, number, contested FROM batches WHERE epoch = ?1 AND status = 0 AND boot_id = ?2 AND monotonic_ms = ?3",
        params![epoch_id, ack.echo_boot_id, ack.echo_monotonic_ms],
        |r| Ok(Answered { id: r.get(0)?, number: unsigned(r.get(1)?), contested: r.get(2)? }),
    )
    .optional()
}

fn done(
    tx: &Transaction<'_>,
    b: &Answered,
    epoch: Epoch,
    out: &mut AckOutcome,
) -> rusqlite::Result<()> {
    tx.execute(
        "UPDATE batches SET status = 1, contested = 0 WHERE id = ?1",
        [b.id],
    )?;
    out.done.push(BatchKey {
        epoch,
        number: b.number,
    });
    Ok(())
}

/// P5: a number proves nothing by itself, since another buffer may have used it: a clone's, or this one's before an old
/// disk image came back.
fn prove(
    tx: &Transaction<'_>,
    epoch_id: i64,
    epoch: Epoch,
    ack: &pb::Ack,
    out: &mut AckOutcome,
) -> rusqlite::Result<()> {
    let mut statement = tx.prepare_cached(
        "SELECT id, contested, digest FROM batches WHERE epoch = ?1 AND number = ?2 AND status = 0",
    )?;
    for proof in ack.proofs.iter().take(MAX_ACK_PROOFS) {
        let found = statement
            .query_row(params![epoch_id, number(proof.batch)], |r| {
                let answered = Answered {
                    id: r.get(0)?,
                    number: proof.batch,
                    contested: r.get(1)?,
                };
                Ok((answered, r.get::<_, Vec<u8>>(2)?))
            })
            .optional()?;
        if let Some((b, _)) = found.filter(|(_, digest)| acks::proves(proof, digest)) {
            done(tx, &b, epoch, out)?;
        }
    }
    Ok(())
}

fn told_through(tx: &Transaction<'_>, epoch_id: i64) -> rusqlite::Result<u64> {
    tx.prepare_cached("SELECT acked_through FROM epochs WHERE id = ?1")?
        .query_row([epoch_id], |r| r.get(0))
        .map(unsigned)
}

/// Begins an epoch; batches of the old one that wait become contested.
pub(super) fn begin(
    tx: &Transaction<'_>,
    old: &store::Current,
    reason: &str,
) -> rusqlite::Result<store::Current> {
    let epoch = Epoch(uuid::Uuid::new_v4());
    tx.execute("UPDATE epochs SET spent = 1 WHERE id = ?1", [old.id])?;
    tx.execute(
        "UPDATE batches SET contested = 1 WHERE epoch = ?1 AND status = 0",
        [old.id],
    )?;
    let first: Option<i64> = tx.query_row("SELECT min(seq) FROM pending", [], |r| r.get(0))?;
    let count: i64 = tx.query_row("SELECT count(*) FROM pending", [], |r| r.get(0))?;
    if let Some(first) = first.filter(|f| *f > 1) {
        // By way of negative numbers, so that no two rows ever meet.
        tx.execute("UPDATE pending SET seq = -(seq - ?1)", [first - 1])?;
        tx.execute("UPDATE pending SET seq = -seq", [])?;
    }
    tx.execute(
        "INSERT INTO epochs(uuid, next_seq, hub_instance, reason)
            SELECT ?1, ?2, hub_instance, ?4 FROM epochs WHERE id = ?3",
        params![epoch.to_vec(), count + 1, old.id, reason],
    )?;
    tracing::warn!(%epoch, before = %old.epoch, reason, "a new epoch begins");
    Ok(store::Current {
        id: tx.last_insert_rowid(),
        epoch,
        next_seq: unsigned(count + 1),
    })
}

/// Moves the records of a batch, under whose number the hub holds another one, to the current epoch.
fn renumber(
    tx: &Transaction<'_>,
    b: &Answered,
    current: &mut store::Current,
) -> rusqlite::Result<Result<u64, BufferError>> {
    let payload: Option<Vec<u8>> =
        tx.query_row("SELECT payload FROM batches WHERE id = ?1", [b.id], |r| {
            r.get(0)
        })?;
    let Some(Ok(batch)) = payload.map(|p| batch::decode(&p)) else {
        return Ok(Err(BufferError::Damaged {
            what: format!("contested batch {}", b.number),
        }));
    };
    let moved = batch.records.len() as u64;
    for record in batch.records {
        let sensor = match &record.body {
            RecordBody::Reading(r) => Some(store::sensor_id(tx, &r.sensor)?),
            _ => None,
        };
        store::insert(tx, current.next_seq, &record.body, sensor)?;
        current.next_seq += 1;
    }
    tx.execute("DELETE FROM batches WHERE id = ?1", [b.id])?;
    Ok(Ok(moved))
}
