//! Table `hub_meta`: owns the identity of this database and which keys it goes with, never a device's.

use sqlx::types::Uuid;

use crate::Store;
use crate::error::{Context as _, Result};

impl Store {
    /// Names this very database: PostgreSQL's system identifier and a nonce that a restore changes.
    /// Only when it changes may a device's watermark go back.
    ///
    /// # Errors
    /// The database.
    pub async fn instance(&self) -> Result<Vec<u8>> {
        sqlx::query(
            "INSERT INTO hub_meta (key, value) VALUES ('nonce', $1) ON CONFLICT DO NOTHING",
        )
        .bind(Uuid::new_v4().to_string())
        .execute(self.pool())
        .await
        .during("name this database")?;
        let text: String = sqlx::query_scalar(
            "SELECT system_identifier::text || '/' || current_database() || '/' || value
             FROM pg_control_system(), hub_meta WHERE key = 'nonce'",
        )
        .fetch_one(self.pool())
        .await
        .during("read the identity of this database")?;
        Ok(fieldcast_wire::Sha256::of(text.as_bytes()).0[..16].to_vec())
    }

    /// Keeps a fact about this database where it has none of that name yet; answers the one it has.
    ///
    /// # Errors
    /// The database.
    pub async fn pin(&self, key: &str, value: &str) -> Result<String> {
        sqlx::query("INSERT INTO hub_meta (key, value) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(key)
            .bind(value)
            .execute(self.pool())
            .await
            .during(format!("pin {key}"))?;
        sqlx::query_scalar("SELECT value FROM hub_meta WHERE key = $1")
            .bind(key)
            .fetch_one(self.pool())
            .await
            .during(format!("read {key}"))
    }

    /// Forgets a pinned fact, so that the next one is kept.
    ///
    /// # Errors
    /// The database.
    pub async fn unpin(&self, key: &str) -> Result<()> {
        sqlx::query("DELETE FROM hub_meta WHERE key = $1")
            .bind(key)
            .execute(self.pool())
            .await
            .map(drop)
            .during(format!("forget {key}"))
    }

    /// To be called once after a backup was restored: devices send their tails again.
    ///
    /// # Errors
    /// The database.
    pub async fn renew_instance(&self) -> Result<()> {
        sqlx::query(
            "INSERT INTO hub_meta (key, value) VALUES ('nonce', $1)
             ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        )
        .bind(Uuid::new_v4().to_string())
        .execute(self.pool())
        .await
        .map(drop)
        .during("give this database a new identity")
    }
}
