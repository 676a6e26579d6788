//! Tables `anchors` and `unanchored`: owns what ties a boot's clock to true time, never computes an offset.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use fieldcast_features::Millis;

use crate::Store;
use crate::error::{Context as _, Result};
use crate::ledger::Ingest;
use crate::partitions::Month;
use crate::time::millis;

/// When a boot began, as one clock fact measured it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// Monotonic time of the measurement.
    pub monotonic_ms: i64,
    /// True time at monotonic zero.
    pub boot_at_ms: Millis,
    /// Bound of the error.
    pub error_ms: i64,
}

/// A batch with readings whose time nobody vouched for when it came.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Unanchored {
    /// Number.
    pub id: i64,
    /// Whose.
    pub device: String,
    /// Boot in which it was sealed.
    pub boot_id: String,
    /// When in that boot.
    pub monotonic_ms: i64,
    /// What the device's wall clock said then.
    pub wall_ms: Millis,
}

impl Store {
    /// Anchors of a boot, at most 1,000.
    ///
    /// # Errors
    /// The database.
    pub async fn anchors(&self, device: &str, boot_id: &str) -> Result<Vec<Anchor>> {
        let rows: Vec<(i64, i64, i64)> = sqlx::query_as(
            "SELECT monotonic_ms, boot_at_ms, error_ms FROM anchors
             WHERE device = $1 AND boot_id = $2 ORDER BY id LIMIT 1000",
        )
        .bind(device)
        .bind(boot_id)
        .fetch_all(self.pool())
        .await
        .during(format!("read the clock anchors of device {device}"))?;
        Ok(rows
            .into_iter()
            .map(|(monotonic_ms, boot_at_ms, error_ms)| Anchor {
                monotonic_ms,
                boot_at_ms,
                error_ms,
            })
            .collect())
    }

    /// Batches without an anchor when they came whose boot has one now, of some devices or (none named) of all; at most 1,000,
    /// of numbers above `after`.
    ///
    /// # Errors
    /// The database.
    pub async fn liftable(
        &self,
        devices: Option<&[String]>,
        after: i64,
    ) -> Result<Vec<Unanchored>> {
        sqlx::query_as(
            "SELECT id, device, boot_id, monotonic_ms, wall_ms FROM unanchored u
             WHERE ($1::text[] IS NULL OR device = ANY($1)) AND id > $2
               AND EXISTS (SELECT 1 FROM anchors a WHERE a.device = u.device AND a.boot_id = u.boot_id)
             ORDER BY id LIMIT 1000",
        )
        .bind(devices)
        .bind(after)
        .fetch_all(self.pool())
        .await
        .during("read which readings can be anchored")
    }

    /// Vouches for the readings of a batch, their times moved by `offset`. As they are now they came now: a snapshot of before
    /// stays as it was.
    ///
    /// # Errors
    /// The database; then nothing has changed.
    pub async fn lift(&self, batch: &Unanchored, offset: i64) -> Result<()> {
        let failed = || format!("anchor readings of device {}", batch.device);
        let months: Vec<DateTime<Utc>> = sqlx::query_scalar(
            "SELECT DISTINCT date_trunc('month', time + $2 * interval '1 millisecond', 'UTC') FROM readings
             WHERE unanchored = $1",
        )
        .bind(batch.id)
        .bind(offset)
        .fetch_all(self.pool())
        .await
        .during(failed())?;
        let months: BTreeSet<Month> = months
            .into_iter()
            .filter_map(|t| Month::of(millis(t)))
            .collect();
        self.ensure_months(&months).await?;
        let mut tx = self.pool().begin().await.during(failed())?;
        sqlx::query(
            "UPDATE readings SET time = time + $2 * interval '1 millisecond', time_quality = 1, unanchored = NULL, received_at = now(),
                    device_time = CASE WHEN $2 <> 0 THEN time END
             WHERE unanchored = $1",
        )
        .bind(batch.id)
        .bind(offset)
        .execute(&mut *tx)
        .await
        .during(failed())?;
        sqlx::query("DELETE FROM unanchored WHERE id = $1")
            .bind(batch.id)
            .execute(&mut *tx)
            .await
            .during(failed())?;
        tx.commit().await.during(failed())
    }
}

impl Ingest {
    /// Stores an anchor of a boot.
    ///
    /// # Errors
    /// The database.
    pub async fn insert_anchor(
        &mut self,
        device: &str,
        boot_id: &str,
        anchor: &Anchor,
    ) -> Result<()> {
        sqlx::query(
            "INSERT INTO anchors (device, boot_id, monotonic_ms, boot_at_ms, error_ms) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(device)
        .bind(boot_id)
        .bind(anchor.monotonic_ms)
        .bind(anchor.boot_at_ms)
        .bind(anchor.error_ms)
        .execute(&mut *self.tx)
        .await
        .map(drop)
        .during(format!("store a clock anchor of device {device}"))
    }

    /// Notes a batch whose readings wait for an anchor; answers its number.
    ///
    /// # Errors
    /// The database.
    pub async fn insert_unanchored(
        &mut self,
        device: &str,
        boot_id: &str,
        monotonic_ms: i64,
        wall_ms: Millis,
    ) -> Result<i64> {
        sqlx::query_scalar(
            "INSERT INTO unanchored (device, boot_id, monotonic_ms, wall_ms) VALUES ($1, $2, $3, $4) RETURNING id",
        )
        .bind(device)
        .bind(boot_id)
        .bind(monotonic_ms)
        .bind(wall_ms)
        .fetch_one(&mut *self.tx)
        .await
        .during(format!("note that readings of device {device} have no anchor"))
    }
}
