//! Table `quarantined`: owns the bytes of what could not become rows, never decides what that is.

use crate::Store;
use crate::error::{Context as _, Result};
use crate::ledger::Ingest;
use fieldcast_wire::{Epoch, Sha256};
use sqlx::PgConnection;

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

impl Ingest {
    /// Keeps a payload and raises an alarm, with the transaction of its ledger row.
    ///
    /// # Errors
    /// The database.
    pub async fn quarantine(&mut self, kept: &Quarantined<'_>) -> Result<()> {
        insert(&mut self.tx, kept).await.map(drop)
    }
}

impl Store {
    /// Keeps a payload that is no batch and raises an alarm; returns whether it was new.
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

    /// Bytes of a device's quarantined payloads, oldest first, at most `limit`.
    ///
    /// # Errors
    /// The database.
    pub async fn quarantined(&self, device: &str, limit: i64) -> Result<Vec<Vec<u8>>> {
        sqlx::query_scalar(
            "SELECT bytes FROM quarantined WHERE device = $1 ORDER BY received_at, digest LIMIT $2",
        )
        .bind(device)
        .bind(limit)
        .fetch_all(self.pool())
        .await
        .during(format!("read quarantined payloads of device {device}"))
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
    if new {
        crate::alarms::raise(connection, kept.device, "quarantined", kept.reason).await?;
    }
    Ok(new)
}
