//! The leading hub's lock: owns one session-wide advisory lock, never what the leader does.

use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, Postgres};

use crate::Store;
use crate::error::{Context as _, Result};

/// Held for as long as its connection lives.
#[derive(Debug)]
pub struct Leadership {
    connection: PoolConnection<Postgres>,
}

impl Store {
    /// Tries to become the leading hub of this database; none where another one leads.
    ///
    /// # Errors
    /// The database.
    pub async fn try_lead(&self) -> Result<Option<Leadership>> {
        let failed = "try to become the leading hub";
        let mut connection = self.pool().acquire().await.during(failed)?;
        let won: bool =
            sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtext('fieldcast leader'))")
                .fetch_one(&mut *connection)
                .await
                .during(failed)?;
        Ok(won.then_some(Leadership { connection }))
    }
}

impl Leadership {
    /// Whether the lock is still held.
    pub async fn alive(&mut self) -> bool {
        self.connection.ping().await.is_ok()
    }

    /// Lets another hub lead.
    pub async fn resign(mut self) {
        let _ = sqlx::query("SELECT pg_advisory_unlock(hashtext('fieldcast leader'))")
            .execute(&mut *self.connection)
            .await;
    }
}

impl Drop for Leadership {
    fn drop(&mut self) {
        // Back in the pool the connection would keep the lock.
        self.connection.close_on_drop();
    }
}
