//! Table `key_lists`: owns the signed lists of hub keys, never a private key.

use crate::Store;
use crate::error::{Context as _, Result};

impl Store {
    /// The list in force: its version and signed bytes.
    ///
    /// # Errors
    /// The database.
    pub async fn key_list(&self) -> Result<Option<(i64, Vec<u8>)>> {
        sqlx::query_as("SELECT version, signed FROM key_lists ORDER BY version DESC LIMIT 1")
            .fetch_optional(self.pool())
            .await
            .during("read the list of hub keys")
    }

    /// Puts a list in force; false where one of its version is there.
    ///
    /// # Errors
    /// The database.
    pub async fn put_key_list(&self, version: i64, signed: &[u8], by: &str) -> Result<bool> {
        sqlx::query(
            "INSERT INTO key_lists (version, signed, installed_by) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        )
        .bind(version)
        .bind(signed)
        .bind(by)
        .execute(self.pool())
        .await
        .map(|done| done.rows_affected() > 0)
        .during("store a list of hub keys")
    }

    /// Forgets all lists: the database gets another root.
    ///
    /// # Errors
    /// The database.
    pub async fn forget_key_lists(&self) -> Result<()> {
        sqlx::query("DELETE FROM key_lists")
            .execute(self.pool())
            .await
            .map(drop)
            .during("forget the lists of hub keys")
    }

    /// How many devices report which version of the list.
    ///
    /// # Errors
    /// The database.
    pub async fn devices_by_key_list(&self) -> Result<Vec<(i64, i64)>> {
        sqlx::query_as(
            "SELECT coalesce((state->>'key_list_version')::bigint, 0) AS version, count(*) FROM device_states
             GROUP BY 1 ORDER BY 1",
        )
        .fetch_all(self.pool())
        .await
        .during("count devices by their list of hub keys")
    }
}
