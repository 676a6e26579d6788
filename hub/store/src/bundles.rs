//! Table `bundles`: owns sealed bundles by their digest, never opens one.

use fieldcast_wire::Sha256;

use crate::Store;
use crate::error::{Context as _, Result};

impl Store {
    /// Stores a bundle under its digest; again is no harm.
    ///
    /// # Errors
    /// The database.
    pub async fn put_bundle(&self, bytes: &[u8]) -> Result<Sha256> {
        let sha = Sha256::of(bytes);
        sqlx::query("INSERT INTO bundles (sha, bytes) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(&sha.0[..])
            .bind(bytes)
            .execute(self.pool())
            .await
            .during(format!("store bundle {}", sha.short()))?;
        Ok(sha)
    }

    /// A whole bundle.
    ///
    /// # Errors
    /// The database.
    pub async fn bundle(&self, sha: &Sha256) -> Result<Option<Vec<u8>>> {
        sqlx::query_scalar("SELECT bytes FROM bundles WHERE sha = $1")
            .bind(&sha.0[..])
            .fetch_optional(self.pool())
            .await
            .during(format!("read bundle {}", sha.short()))
    }

    /// One block of a bundle, counted from 0; empty behind its end, none for an unknown bundle.
    ///
    /// # Errors
    /// The database.
    pub async fn bundle_block(
        &self,
        sha: &Sha256,
        block: u32,
        size: u32,
    ) -> Result<Option<Vec<u8>>> {
        let offset = u64::from(block) * u64::from(size) + 1;
        sqlx::query_scalar("SELECT substring(bytes FROM $2 FOR $3) FROM bundles WHERE sha = $1")
            .bind(&sha.0[..])
            .bind(i32::try_from(offset).unwrap_or(i32::MAX))
            .bind(i32::try_from(size).unwrap_or(i32::MAX))
            .fetch_optional(self.pool())
            .await
            .during(format!("read block {block} of bundle {}", sha.short()))
    }
}
