//! Table `device_states`: owns the newest report of what runs on a device, never what should run.

use fieldcast_wire::pb;
use serde_json::Value;

use crate::Store;
use crate::connect::UNHURRIED;
use crate::error::{Context as _, Result};

impl Store {
    /// Stores a device's state where its pair (boot, n) is above the stored one; returns whether it was.
    ///
    /// # Errors
    /// The database.
    pub async fn put_state(
        &self,
        device: &str,
        state: &pb::State,
        decoded: &Value,
        raw: &[u8],
    ) -> Result<bool> {
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "INSERT INTO device_states (device, boot, n, state, raw) SELECT $1, $2, $3, $4, $5 FROM {UNHURRIED}
             ON CONFLICT (device) DO UPDATE
             SET boot = excluded.boot, n = excluded.n, state = excluded.state, raw = excluded.raw, received_at = now()
             WHERE (device_states.boot, device_states.n) < (excluded.boot, excluded.n)"
        )))
        .bind(device)
        .bind(i64::try_from(state.boot).unwrap_or(i64::MAX))
        .bind(i64::try_from(state.n).unwrap_or(i64::MAX))
        .bind(decoded)
        .bind(raw)
        .execute(self.pool())
        .await
        .map(|done| done.rows_affected() > 0)
        .during(format!("store the state of device {device}"))
    }

    /// The newest state of a device as JSON.
    ///
    /// # Errors
    /// The database.
    pub async fn device_state(&self, device: &str) -> Result<Option<Value>> {
        sqlx::query_scalar("SELECT state FROM device_states WHERE device = $1")
            .bind(device)
            .fetch_optional(self.pool())
            .await
            .during(format!("read the state of device {device}"))
    }
}
