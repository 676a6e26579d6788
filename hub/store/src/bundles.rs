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
}
