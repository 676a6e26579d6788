//! Session-wide advisory locks: owns taking, holding and giving them back, never what is done under one.

use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, Postgres};

use crate::Store;
use crate::error::{Context as _, Result};

/// A lock, held for as long as its connection lives.
#[derive(Debug)]
pub struct Held {
    connection: PoolConnection<Postgres>,
    name: String,
}

impl Store {
    /// Tries to become the leading hub of this database; none where another one leads.
    ///
    /// # Errors
    /// The database.
    pub async fn try_lead(&self) -> Result<Option<Held>> {
        self.try_hold("fieldcast leader").await
    }

    /// Tries to take a lock by its name; none where somebody else has it.
    pub(crate) async fn try_hold(&self, name: &str) -> Result<Option<Held>> {
        let failed = || format!("try to take the lock `{name}`");
        let mut connection = self.pool().acquire().await.during(failed())?;
        let won: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtext($1))")
            .bind(name)
            .fetch_one(&mut *connection)
            .await
            .during(failed())?;
        Ok(won.then(|| Held {
            connection,
            name: name.to_owned(),
        }))
    }
}

impl Held {
    /// Whether the lock is still held.
    pub async fn alive(&mut self) -> bool {
        self.connection.ping().await.is_ok()
    }

    /// Gives it back at once.
    pub async fn release(mut self) {
        let _ = sqlx::query("SELECT pg_advisory_unlock(hashtext($1))")
            .bind(&self.name)
            .execute(&mut *self.connection)
            .await;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Back in the pool the connection would keep the lock.
        self.connection.close_on_drop();
    }
}
