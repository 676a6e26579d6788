//! The ledger for many batches at once, one statement a table: owns that SQL, never what is done with a batch.

use std::collections::BTreeMap;

use fieldcast_ledger::rows::MAX_BEYOND;
use fieldcast_wire::Epoch;
use fieldcast_wire::caps::PROOF;
use sqlx::types::Json;
use uuid::Uuid;

use crate::error::{Context as _, Result};
use crate::ledger::{Committed, Ingest, Key, LedgerRow, NewBatch, RejectedRecord, number, signed};

type Row = (
    String,
    Uuid,
    i64,
    Option<Vec<u8>>,
    Option<Json<Vec<RejectedRecord>>>,
);

impl Ingest {
    /// The ledger's rows of batches; one that was never committed has none. Of those that retention took the proof is left.
    ///
    /// # Errors
    /// The database.
    pub async fn ledger_rows(&mut self, keys: &[Key]) -> Result<BTreeMap<Key, LedgerRow>> {
        let devices: Vec<&str> = keys.iter().map(|(device, ..)| device.as_str()).collect();
        let epochs: Vec<Uuid> = keys.iter().map(|(_, epoch, _)| epoch.0).collect();
        let numbers: Vec<i64> = keys.iter().map(|(.., n)| signed(*n)).collect();
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT k.device, k.epoch, k.number, coalesce(substr(b.digest, 1, 16),
                 (SELECT substr(p.proofs, (k.number % 64)::int * 16 + 1, 16) FROM batch_proofs p
                  WHERE p.device = k.device AND p.epoch = k.epoch AND p.block = k.number / 64)), b.rejected
             FROM unnest($1::text[], $2::uuid[], $3::int8[]) AS k(device, epoch, number)
             LEFT JOIN batches b USING (device, epoch, number) LEFT JOIN epochs e USING (device, epoch)
             WHERE b.number IS NOT NULL OR e.pruned_through >= k.number",
        )
        .bind(devices)
        .bind(epochs)
        .bind(numbers)
        .fetch_all(&mut *self.tx)
        .await
        .during(format!("look {} batches up in the ledger", keys.len()))?;
        Ok(rows
            .into_iter()
            .map(|(device, epoch, n, proof, rejected)| {
                let proof = proof.and_then(|bytes| bytes.try_into().ok());
                let row = LedgerRow {
                    // Zeros: there was none under this number.
                    proof: proof.filter(|bytes| *bytes != [0; PROOF]),
                    rejected: rejected.map(|Json(r)| r).unwrap_or_default(),
                };
                ((device, Epoch(epoch), number(n)), row)
            })
            .collect())
    }

    /// Enters the epochs of batches: all of a transaction before its first batch, so that two hubs that write the same ones wait
    /// for each other in one order.
    ///
    /// # Errors
    /// The database.
    pub async fn insert_epochs(&mut self, keys: &[Key]) -> Result<()> {
        let devices: Vec<&str> = keys.iter().map(|(device, ..)| device.as_str()).collect();
        let epochs: Vec<Uuid> = keys.iter().map(|(_, epoch, _)| epoch.0).collect();
        sqlx::query(
            "INSERT INTO epochs (device, epoch) SELECT DISTINCT device, epoch
             FROM unnest($1::text[], $2::uuid[]) AS k(device, epoch) ORDER BY device, epoch ON CONFLICT DO NOTHING",
        )
        .bind(devices)
        .bind(epochs)
        .execute(&mut *self.tx)
        .await
        .map(drop)
        .during("enter epochs into the ledger")
    }

    /// Enters batches, sorted by device, epoch and number, whose epochs are entered; false where another hub committed one of them in the meantime.
    ///
    /// # Errors
    /// The database.
    pub async fn insert_batches(&mut self, batches: &[NewBatch<'_>]) -> Result<bool> {
        let failed = || match batches {
            [b] => format!(
                "enter batch {} of device {} into the ledger",
                b.number, b.device
            ),
            _ => format!("enter {} batches into the ledger", batches.len()),
        };
        let devices: Vec<&str> = batches.iter().map(|b| b.device).collect();
        let epochs: Vec<Uuid> = batches.iter().map(|b| b.epoch.0).collect();
        let digests: Vec<&[u8]> = batches.iter().map(|b| &b.digest.0[..]).collect();
        let boots: Vec<&str> = batches.iter().map(|b| b.boot_id).collect();
        let rejected: Vec<Json<&[RejectedRecord]>> =
            batches.iter().map(|b| Json(b.rejected)).collect();
        let numbers = |of: fn(&NewBatch<'_>) -> u64| -> Vec<i64> {
            batches.iter().map(|b| signed(of(b))).collect()
        };
        let clocks: Vec<i64> = batches.iter().map(|b| b.monotonic_ms).collect();
        let done = sqlx::query(
            "INSERT INTO batches (device, epoch, number, digest, first_seq, last_seq, boot_id, monotonic_ms, rejected)
             SELECT * FROM unnest($1::text[], $2::uuid[], $3::int8[], $4::bytea[], $5::int8[], $6::int8[], $7::text[],
                                  $8::int8[], $9::jsonb[]) ON CONFLICT DO NOTHING",
        )
        .bind(&devices)
        .bind(&epochs)
        .bind(numbers(|b| b.number))
        .bind(digests)
        .bind(numbers(|b| b.first_seq))
        .bind(numbers(|b| b.last_seq))
        .bind(boots)
        .bind(clocks)
        .bind(rejected)
        .execute(&mut *self.tx)
        .await
        .during(failed())?;
        Ok(done.rows_affected() == batches.len() as u64)
    }

    /// What is committed of epochs, sorted by device and epoch, with what this transaction has written; their rows stay
    /// locked until it ends.
    ///
    /// # Errors
    /// The database.
    pub async fn all_committed(&mut self, epochs: &[(&str, Epoch)]) -> Result<Vec<Committed>> {
        let failed = || format!("read the watermarks of {} epochs", epochs.len());
        let devices: Vec<&str> = epochs.iter().map(|(device, _)| *device).collect();
        let ids: Vec<Uuid> = epochs.iter().map(|(_, epoch)| epoch.0).collect();
        let known: Vec<(String, Uuid, i64, Option<String>)> = sqlx::query_as(
            "SELECT device, epoch, through, spent FROM epochs
             WHERE (device, epoch) IN (SELECT * FROM unnest($1::text[], $2::uuid[]))
             ORDER BY device, epoch FOR NO KEY UPDATE",
        )
        .bind(&devices)
        .bind(&ids)
        .fetch_all(&mut *self.tx)
        .await
        .during(failed())?;
        let beyond: Vec<(String, Uuid, i64)> = sqlx::query_as(
            "SELECT e.device, e.epoch, b.number
             FROM unnest($1::text[], $2::uuid[]) AS k(device, epoch) JOIN epochs e USING (device, epoch)
             CROSS JOIN LATERAL (SELECT number FROM batches WHERE device = e.device AND epoch = e.epoch
                 AND number > e.through ORDER BY number LIMIT $3) b ORDER BY e.device, e.epoch, b.number",
        )
        .bind(&devices)
        .bind(&ids)
        .bind(signed(MAX_BEYOND as u64))
        .fetch_all(&mut *self.tx)
        .await
        .during(failed())?;
        let mut all: BTreeMap<(String, Uuid), Committed> = known
            .into_iter()
            .map(|(device, epoch, through, spent)| {
                let committed = Committed {
                    through: number(through),
                    beyond: Vec::new(),
                    spent,
                };
                ((device, epoch), committed)
            })
            .collect();
        for (device, epoch, n) in beyond {
            all.entry((device, epoch))
                .or_default()
                .beyond
                .push(number(n));
        }
        let of = |(device, epoch): &(&str, Epoch)| all.remove(&((*device).to_owned(), epoch.0));
        Ok(epochs
            .iter()
            .map(of)
            .map(Option::unwrap_or_default)
            .collect())
    }

    /// Stores watermarks of epochs; none ever goes back.
    ///
    /// # Errors
    /// The database.
    pub async fn set_watermarks(&mut self, marks: &[(&str, Epoch, u64)]) -> Result<()> {
        if marks.is_empty() {
            return Ok(());
        }
        let devices: Vec<&str> = marks.iter().map(|(device, ..)| *device).collect();
        let epochs: Vec<Uuid> = marks.iter().map(|(_, epoch, _)| epoch.0).collect();
        let through: Vec<i64> = marks.iter().map(|(.., n)| signed(*n)).collect();
        sqlx::query(
            "INSERT INTO epochs (device, epoch, through) SELECT * FROM unnest($1::text[], $2::uuid[], $3::int8[])
             ON CONFLICT (device, epoch) DO UPDATE SET through = greatest(epochs.through, excluded.through)",
        )
        .bind(devices)
        .bind(epochs)
        .bind(through)
        .execute(&mut *self.tx)
        .await
        .map(drop)
        .during(format!("store the watermarks of {} epochs", marks.len()))
    }
}
