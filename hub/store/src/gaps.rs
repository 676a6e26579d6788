//! Table `gaps`: owns listing what devices say is missing, never fills it.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::error::Context as _;
use crate::{Result, Store};

/// Records that never come, or that a device could not read.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct GapRow {
    /// Number.
    pub id: i64,
    /// Whose records.
    pub device: String,
    /// `buffer_full`, `unreadable` or `before_tail`.
    pub kind: String,
    /// Epoch of the records, where it is known.
    pub epoch: Option<String>,
    /// First record.
    pub first_seq: i64,
    /// Last record; 2^63 - 1 where the end is not known.
    pub last_seq: i64,
    /// Data time of the first reading in it, where it is known.
    pub from_time: Option<DateTime<Utc>>,
    /// Data time of the last.
    pub to_time: Option<DateTime<Utc>>,
    /// Why.
    pub reason: String,
    /// When the hub heard of it.
    pub received_at: DateTime<Utc>,
}

impl Store {
    /// Gaps, newest first; of one device, below `before` where these are given.
    ///
    /// # Errors
    /// The database.
    pub async fn gaps(
        &self,
        device: Option<&str>,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<GapRow>> {
        let select = "SELECT id, device, kind, epoch::text AS epoch, first_seq, last_seq, from_time, to_time, reason,
                received_at FROM gaps";
        let rows = self.newest(select, ("device", device), (before, limit));
        rows.await.during("list gaps")
    }
}
