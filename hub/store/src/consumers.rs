//! Table `consumers`: owns who may read what the hub republishes, never what they read.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::Store;
use crate::error::{Context as _, Result};

/// A program that reads decoded messages.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct ConsumerRow {
    /// Name.
    pub name: String,
    /// When it was added.
    pub created_at: DateTime<Utc>,
}

impl Store {
    /// Adds a consumer; returns whether it is new. One that is there keeps its token.
    ///
    /// # Errors
    /// The database.
    pub async fn add_consumer(&self, name: &str, token_hash: &[u8]) -> Result<bool> {
        sqlx::query(
            "INSERT INTO consumers (name, token_hash) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        )
        .bind(name)
        .bind(token_hash)
        .execute(self.pool())
        .await
        .map(|done| done.rows_affected() > 0)
        .during(format!("add consumer {name}"))
    }

    /// Removes a consumer; returns whether it was there.
    ///
    /// # Errors
    /// The database.
    pub async fn remove_consumer(&self, name: &str) -> Result<bool> {
        sqlx::query("DELETE FROM consumers WHERE name = $1")
            .bind(name)
            .execute(self.pool())
            .await
            .map(|done| done.rows_affected() > 0)
            .during(format!("remove consumer {name}"))
    }

    /// All consumers by name.
    ///
    /// # Errors
    /// The database.
    pub async fn consumers(&self) -> Result<Vec<ConsumerRow>> {
        sqlx::query_as("SELECT name, created_at FROM consumers ORDER BY name")
            .fetch_all(self.pool())
            .await
            .during("list consumers")
    }

    /// SHA-256 of a consumer's token.
    ///
    /// # Errors
    /// The database.
    pub async fn consumer_token_hash(&self, name: &str) -> Result<Option<Vec<u8>>> {
        sqlx::query_scalar("SELECT token_hash FROM consumers WHERE name = $1")
            .bind(name)
            .fetch_optional(self.pool())
            .await
            .during(format!("read the token of consumer {name}"))
    }
}
