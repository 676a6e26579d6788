//! Table `listening`: owns since when devices are heard without a break, never what follows from a break.

use chrono::{DateTime, Utc};

use crate::Store;
use crate::error::{Context as _, Result};

/// Whether devices are heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listening {
    /// No hub has said so yet.
    Unknown,
    /// By nobody.
    Nobody,
    /// Since then without a break, by the database's clock.
    Since(DateTime<Utc>),
}

impl Store {
    /// Devices are heard now. Where nobody had said so for `gap_secs`, it is since now.
    ///
    /// # Errors
    /// The database.
    pub async fn listens(&self, gap_secs: f64) -> Result<()> {
        sqlx::query(
            "INSERT INTO listening (since, seen) VALUES (now(), now()) ON CONFLICT (one) DO UPDATE SET seen = excluded.seen,
                since = CASE WHEN listening.seen < now() - make_interval(secs => $1) THEN now() ELSE listening.since END",
        )
        .bind(gap_secs)
        .execute(self.pool())
        .await
        .during("note that devices are heard")
        .map(drop)
    }

    /// Whether devices are heard: somebody said so within `gap_secs`.
    ///
    /// # Errors
    /// The database.
    pub async fn listening(&self, gap_secs: f64) -> Result<Listening> {
        let since: Option<Option<DateTime<Utc>>> = sqlx::query_scalar(
            "SELECT CASE WHEN seen >= now() - make_interval(secs => $1) THEN since END FROM listening",
        )
        .bind(gap_secs)
        .fetch_optional(self.pool())
        .await
        .during("see since when devices are heard")?;
        Ok(match since {
            None => Listening::Unknown,
            Some(None) => Listening::Nobody,
            Some(Some(since)) => Listening::Since(since),
        })
    }
}
