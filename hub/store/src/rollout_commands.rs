//! Table `rollout_commands`: owns what the hub itself asks of a rollout, never carries it out.

use crate::decisions::{self, NewDecision};
use crate::error::Context as _;
use crate::{Result, Store};

/// What was asked of a rollout.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct RolloutCommand {
    /// Number.
    pub id: i64,
    /// `pause`, `resume`, `approve` or `abort` of a person; `outdate` of the hub.
    pub command: String,
    /// Who asked.
    pub who: String,
    /// Why, in words; may be empty where a person asked.
    pub reason: String,
}

impl Store {
    /// Asks that a rollout goes back because the world has changed since its version learnt from it, with the decision that says
    /// so, once however many hubs find it. False, and nothing is stored: it has ended, goes back already, or was asked before.
    ///
    /// # Errors
    /// The database.
    pub async fn outdate_rollout(&self, id: i64, decision: &NewDecision<'_>) -> Result<bool> {
        let failed = || format!("take back rollout {id}");
        let mut tx = self.pool().begin().await.during(failed())?;
        let open: Option<i64> = sqlx::query_scalar(
            "SELECT id FROM rollouts WHERE id = $1 AND finished_at IS NULL AND status <> 'rolling_back' FOR UPDATE",
        )
        .bind(id)
        .fetch_optional(&mut *tx)
        .await
        .during(failed())?;
        if open.is_none() {
            return Ok(false);
        }
        let asked = sqlx::query(
            "INSERT INTO rollout_commands (rollout, command, who, reason) SELECT $1, 'outdate', $2, $3
             WHERE NOT EXISTS (SELECT FROM rollout_commands WHERE rollout = $1 AND command = 'outdate' AND done_at IS NULL)",
        )
        .bind(id)
        .bind(decision.decided_by)
        .bind(decision.reason)
        .execute(&mut *tx)
        .await
        .during(failed())?;
        if asked.rows_affected() == 0 {
            return Ok(false);
        }
        decisions::insert(&mut tx, decision)
            .await
            .during(failed())?;
        tx.commit().await.during(failed())?;
        Ok(true)
    }
}
