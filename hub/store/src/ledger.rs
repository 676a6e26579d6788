//! Tables `batches` and `epochs`: owns the one transaction that writes a batch's rows with its ledger row.

use fieldcast_ledger::rows::MAX_LATER;
use fieldcast_wire::{Epoch, RecordBody, Sha256};
use sqlx::types::Uuid;
use sqlx::{Postgres, Transaction};

use crate::error::{Context as _, Result};
use crate::readings::ReadingColumns;
use crate::{Store, readings_copy, records};

pub use fieldcast_ledger::rows::{
    Committed, Key, LedgerRow, Newest, RejectedRecord, SealedAt, instance_for,
};

/// A batch to be committed.
#[derive(Debug, Clone)]
pub struct NewBatch<'a> {
    /// Whose.
    pub device: &'a str,
    /// Of which buffer.
    pub epoch: Epoch,
    /// Number in it.
    pub number: u64,
    /// SHA-256 of its bytes.
    pub digest: Sha256,
    /// First record number.
    pub first_seq: u64,
    /// Last record number.
    pub last_seq: u64,
    /// Boot in which it was sealed.
    pub boot_id: &'a str,
    /// When in that boot.
    pub monotonic_ms: i64,
    /// What is refused of it.
    pub rejected: &'a [RejectedRecord],
}

pub(crate) fn number(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

pub(crate) fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// The open transaction of an ingest.
#[derive(Debug)]
pub struct Ingest {
    pub(crate) tx: Transaction<'static, Postgres>,
}

impl Store {
    /// Begins an ingest; dropped without [`Ingest::commit`], it leaves nothing behind.
    ///
    /// # Errors
    /// The database.
    pub async fn begin_ingest(&self) -> Result<Ingest> {
        let tx = self.pool().begin().await.during("begin an ingest")?;
        Ok(Ingest { tx })
    }

    /// Begins a transaction as [`Self::begin_ingest`] does whose commit does not wait for the disk, unless
    /// [`Ingest::on_disk`] asks for it.
    ///
    /// # Errors
    /// The database.
    pub async fn begin_unhurried(&self) -> Result<Ingest> {
        let begin = "BEGIN; SET LOCAL synchronous_commit = off";
        let tx = self.pool().begin_with(begin).await;
        let tx = tx.during("begin to answer a sync")?;
        Ok(Ingest { tx })
    }

    /// What the ledger holds at or beyond `number` of an epoch, ascending, at most [`MAX_LATER`]. Where retention took rows of it, one
    /// without a boot stands for them.
    ///
    /// # Errors
    /// The database.
    pub async fn batches_from(
        &self,
        device: &str,
        epoch: Epoch,
        from: u64,
    ) -> Result<Vec<SealedAt>> {
        let rows: Vec<(i64, String, i64, i64)> = sqlx::query_as(
            "SELECT number, boot_id, monotonic_ms, (extract(epoch FROM now() - received_at) * 1000)::int8 FROM batches
             WHERE device = $1 AND epoch = $2 AND number >= $3
             UNION ALL SELECT pruned_through, '', 0, $5 FROM epochs
             WHERE device = $1 AND epoch = $2 AND pruned_through >= $3
             ORDER BY number LIMIT $4",
        )
        .bind(device)
        .bind(epoch.0)
        .bind(signed(from))
        .bind(signed(MAX_LATER as u64))
        .bind(i64::MAX)
        .fetch_all(self.pool())
        .await
        .during(format!("read the ledger of device {device}"))?;
        Ok(rows
            .into_iter()
            .map(|(n, boot_id, monotonic_ms, age_ms)| SealedAt {
                number: number(n),
                boot_id,
                monotonic_ms,
                age_ms,
            })
            .collect())
    }
}

impl Ingest {
    /// Sets a savepoint; [`Self::release`] or [`Self::back`] ends it.
    ///
    /// # Errors
    /// The database.
    pub async fn savepoint(&mut self) -> Result<()> {
        self.control("SAVEPOINT batch").await
    }

    /// Keeps what was written since the savepoint.
    ///
    /// # Errors
    /// The database.
    pub async fn release(&mut self) -> Result<()> {
        self.control("RELEASE SAVEPOINT batch").await
    }

    /// Undoes what was written since the savepoint.
    ///
    /// # Errors
    /// The database.
    pub async fn back(&mut self) -> Result<()> {
        self.control("ROLLBACK TO SAVEPOINT batch; RELEASE SAVEPOINT batch")
            .await
    }

    async fn control(&mut self, sql: &'static str) -> Result<()> {
        sqlx::raw_sql(sql)
            .execute(&mut *self.tx)
            .await
            .map(drop)
            .during(sql)
    }

    /// Writes readings; their partitions must exist.
    ///
    /// # Errors
    /// The database.
    pub async fn insert_readings(&mut self, rows: &ReadingColumns) -> Result<()> {
        readings_copy::copy(&mut self.tx, rows).await
    }

    /// Writes records of devices that are no readings.
    ///
    /// # Errors
    /// The database.
    pub async fn insert_records(&mut self, records: &[(&str, &RecordBody)]) -> Result<()> {
        records::insert(&mut self.tx, records).await
    }

    /// What is committed of an epoch, with what this transaction has written.
    ///
    /// # Errors
    /// The database.
    pub async fn committed(&mut self, device: &str, epoch: Epoch) -> Result<Committed> {
        let mut one = self.all_committed(&[(device, epoch)]).await?;
        Ok(one.pop().unwrap_or_default())
    }

    /// Numbers and digests of committed batches behind a number, ascending, at most `limit`.
    ///
    /// # Errors
    /// The database.
    pub async fn digests(
        &mut self,
        device: &str,
        epoch: Epoch,
        behind: u64,
        limit: usize,
    ) -> Result<Vec<(u64, Sha256)>> {
        let rows: Vec<(i64, Vec<u8>)> = sqlx::query_as(
            "SELECT number, digest FROM batches WHERE device = $1 AND epoch = $2 AND number > $3
             ORDER BY number LIMIT $4",
        )
        .bind(device)
        .bind(epoch.0)
        .bind(signed(behind))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&mut *self.tx)
        .await
        .during(format!("read the ledger of device {device}"))?;
        Ok(rows
            .into_iter()
            .filter_map(|(n, digest)| Some((number(n), Sha256::from_slice(&digest)?)))
            .collect())
    }

    /// What is added to the instance that a device is told; see [`instance_for`].
    ///
    /// # Errors
    /// The database.
    pub async fn restored(&mut self, device: &str) -> Result<Option<Uuid>> {
        sqlx::query_scalar("SELECT restored FROM devices WHERE id = $1")
            .bind(device)
            .fetch_optional(&mut *self.tx)
            .await
            .map(Option::flatten)
            .during(format!("read the instance that device {device} is told"))
    }

    /// Adds this to the instance that a device is told, which makes it send its tail again.
    ///
    /// # Errors
    /// The database.
    pub async fn renew_for(&mut self, device: &str, nonce: Uuid) -> Result<()> {
        sqlx::query("UPDATE devices SET restored = $2 WHERE id = $1")
            .bind(device)
            .bind(nonce)
            .execute(&mut *self.tx)
            .await
            .map(drop)
            .during(format!("rename the instance that device {device} is told"))
    }

    /// Marks an epoch as spent; the first reason stays.
    ///
    /// # Errors
    /// The database.
    pub async fn spend(&mut self, device: &str, epoch: Epoch, why: &str) -> Result<()> {
        sqlx::query(
            "INSERT INTO epochs (device, epoch, spent) VALUES ($1, $2, $3)
             ON CONFLICT (device, epoch) DO UPDATE SET spent = excluded.spent WHERE epochs.spent IS NULL",
        )
        .bind(device)
        .bind(epoch.0)
        .bind(why)
        .execute(&mut *self.tx)
        .await
        .map(drop)
        .during(format!("mark the epoch of device {device} as spent"))
    }

    /// Raises an alarm of the hub's own about a device.
    ///
    /// # Errors
    /// The database.
    pub async fn raise(&mut self, device: &str, code: &str, message: &str) -> Result<()> {
        crate::alarms::raise(&mut *self.tx, device, code, message).await
    }

    /// Raises an alarm of the hub's own about a device, unless it was raised within the last day; answers whether it was not.
    ///
    /// # Errors
    /// The database.
    pub async fn raise_daily(&mut self, device: &str, code: &str, message: &str) -> Result<bool> {
        crate::alarms::raise_daily(&mut self.tx, device, code, message).await
    }

    /// Lets the commit wait for the disk.
    ///
    /// # Errors
    /// The database.
    pub async fn on_disk(&mut self) -> Result<()> {
        self.control("SET LOCAL synchronous_commit = on").await
    }

    /// Makes all of it permanent, on disk where it is not [unhurried](Store::begin_unhurried).
    ///
    /// # Errors
    /// The database; then nothing of it may be acknowledged.
    pub async fn commit(self) -> Result<()> {
        self.tx.commit().await.during("commit an ingest")
    }
}
