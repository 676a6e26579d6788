//! Table `quarantined`: owns the bytes of what could not become rows, never decides what that is.

use crate::Store;
use crate::error::{Context as _, Result};
use crate::ledger::Ingest;
use chrono::{DateTime, Utc};
use fieldcast_wire::{Epoch, Sha256};
use sqlx::PgConnection;

/// Payloads that name no batch, kept of each device: the newest ones, so many and so many bytes.
const STRAYS: (i64, i64) = (200, 16 << 20);
/// Batches kept of each device, and their bytes; their device was told that they are kept, so that none may go for another.
const BATCHES: (i64, i64) = (10_000, 64 << 20);

/// A payload that is kept because it cannot become rows.
#[derive(Debug, Clone, Copy)]
pub struct Quarantined<'a> {
    /// Whose.
    pub device: &'a str,
    /// SHA-256 of its bytes.
    pub digest: Sha256,
    /// Which batch it is; none where that cannot be read.
    pub batch: Option<(Epoch, u64)>,
    /// Why.
    pub reason: &'a str,
    /// All of it.
    pub bytes: &'a [u8],
}

/// A quarantined payload without its bytes.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct QuarantinedRow {
    /// Whose.
    pub device: String,
    /// SHA-256 of its bytes.
    pub digest: Vec<u8>,
    /// Epoch of the batch it is; none where that cannot be read.
    pub epoch: Option<String>,
    /// Its number.
    pub number: Option<i64>,
    /// Why.
    pub reason: String,
    /// How many bytes.
    pub bytes: i32,
    /// When.
    pub received_at: DateTime<Utc>,
}

impl Ingest {
    /// Keeps a batch and raises an alarm, with the transaction of its ledger row. False where so much of its device is kept
    /// that there is no room for it.
    ///
    /// # Errors
    /// The database.
    pub async fn quarantine(&mut self, kept: &Quarantined<'_>) -> Result<bool> {
        let room: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM quarantined WHERE device = $1 AND digest = $2) OR (
                 SELECT count(*) < $3 AND coalesce(sum(octet_length(bytes)), 0) + $5 <= $4
                 FROM (SELECT bytes FROM quarantined WHERE device = $1 AND number IS NOT NULL LIMIT $3) batches)",
        )
        .bind(kept.device)
        .bind(&kept.digest.0[..])
        .bind(BATCHES.0)
        .bind(BATCHES.1)
        .bind(i64::try_from(kept.bytes.len()).unwrap_or(i64::MAX))
        .fetch_one(&mut *self.tx)
        .await
        .during(format!("sum up what is quarantined of device {}", kept.device))?;
        if room {
            insert(&mut self.tx, kept).await?;
        }
        Ok(room)
    }
}

impl Store {
    /// Keeps a payload that names no batch; returns whether an alarm was raised: it is new, and the first one within a day.
    ///
    /// # Errors
    /// The database.
    pub async fn quarantine(&self, kept: &Quarantined<'_>) -> Result<bool> {
        let failed = || format!("quarantine a payload of device {}", kept.device);
        let mut tx = self.pool().begin().await.during(failed())?;
        let new = insert(&mut tx, kept).await?;
        tx.commit().await.during(failed())?;
        Ok(new)
    }

    /// Quarantined payloads of one device or of all, newest first, after the first `skip`.
    ///
    /// # Errors
    /// The database.
    pub async fn quarantined(
        &self,
        device: Option<&str>,
        skip: i64,
        limit: i64,
    ) -> Result<Vec<QuarantinedRow>> {
        sqlx::query_as(
            "SELECT device, digest, epoch::text, number, reason, octet_length(bytes) AS bytes, received_at FROM quarantined
             WHERE ($1::text IS NULL OR device = $1) ORDER BY received_at DESC, device, digest OFFSET $2 LIMIT $3",
        )
        .bind(device)
        .bind(skip)
        .bind(limit)
        .fetch_all(self.pool())
        .await
        .during("list quarantined payloads")
    }

    /// The bytes of a quarantined payload; none where there is no such.
    ///
    /// # Errors
    /// The database.
    pub async fn quarantined_bytes(&self, device: &str, digest: Sha256) -> Result<Option<Vec<u8>>> {
        sqlx::query_scalar("SELECT bytes FROM quarantined WHERE device = $1 AND digest = $2")
            .bind(device)
            .bind(&digest.0[..])
            .fetch_optional(self.pool())
            .await
            .during(format!("read a quarantined payload of device {device}"))
    }
}

async fn insert(connection: &mut PgConnection, kept: &Quarantined<'_>) -> Result<bool> {
    let number = kept
        .batch
        .map(|(_, n)| i64::try_from(n).unwrap_or(i64::MAX));
    let new = sqlx::query(
        "INSERT INTO quarantined (device, digest, epoch, number, reason, bytes) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT DO NOTHING",
    )
    .bind(kept.device)
    .bind(&kept.digest.0[..])
    .bind(kept.batch.map(|(epoch, _)| epoch.0))
    .bind(number)
    .bind(kept.reason)
    .bind(kept.bytes)
    .execute(&mut *connection)
    .await
    .during(format!("quarantine a payload of device {}", kept.device))?
    .rows_affected()
        == 1;
    if !new {
        return Ok(false);
    }
    if kept.batch.is_some() {
        crate::alarms::raise(connection, kept.device, "quarantined", kept.reason).await?;
        return Ok(true);
    }
    // Nobody was told that these bytes are kept: a device that only sends rubbish must not fill the disk.
    sqlx::query(
        "DELETE FROM quarantined WHERE device = $1 AND digest IN (
            SELECT digest FROM (
                SELECT digest, row_number() OVER newest AS n, sum(octet_length(bytes)) OVER newest AS size
                FROM quarantined WHERE device = $1 AND number IS NULL
                WINDOW newest AS (ORDER BY received_at DESC, digest)) strays
            WHERE n > $2 OR size > $3)",
    )
    .bind(kept.device)
    .bind(STRAYS.0)
    .bind(STRAYS.1)
    .execute(&mut *connection)
    .await
    .during(format!("quarantine a payload of device {}", kept.device))?;
    crate::alarms::raise_daily(connection, kept.device, "quarantined", kept.reason).await
}
