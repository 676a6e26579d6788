//! Table `device_states`: owns the newest report of what runs on a device, never what should run.

use std::collections::HashSet;

use fieldcast_wire::pb;
use serde_json::Value;
use sqlx::types::Json;

use crate::Store;
use crate::connect::UNHURRIED;
use crate::error::{Context as _, Result};

/// What a device said of itself.
#[derive(Debug, Clone)]
pub struct NewState<'a> {
    /// Device.
    pub device: &'a str,
    /// What it said.
    pub state: &'a pb::State,
    /// The same for people.
    pub decoded: Value,
    /// The same as it came.
    pub raw: &'a [u8],
}

impl Store {
    /// Stores states, at most one of each device, where their pair (boot, n) is above the stored one; returns of which devices.
    ///
    /// # Errors
    /// The database.
    pub async fn put_states(&self, states: &[NewState<'_>]) -> Result<HashSet<String>> {
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let devices: Vec<&str> = states.iter().map(|s| s.device).collect();
        let boots: Vec<i64> = states.iter().map(|s| number(s.state.boot)).collect();
        let numbers: Vec<i64> = states.iter().map(|s| number(s.state.n)).collect();
        let decoded: Vec<Json<&Value>> = states.iter().map(|s| Json(&s.decoded)).collect();
        let raw: Vec<&[u8]> = states.iter().map(|s| s.raw).collect();
        let stored: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "INSERT INTO device_states (device, boot, n, state, raw)
             SELECT s.* FROM unnest($1::text[], $2::int8[], $3::int8[], $4::jsonb[], $5::bytea[]) AS s, {UNHURRIED}
             ON CONFLICT (device) DO UPDATE
             SET boot = excluded.boot, n = excluded.n, state = excluded.state, raw = excluded.raw, received_at = now()
             WHERE (device_states.boot, device_states.n) < (excluded.boot, excluded.n) RETURNING device"
        )))
        .bind(devices)
        .bind(boots)
        .bind(numbers)
        .bind(decoded)
        .bind(raw)
        .fetch_all(self.pool())
        .await
        .during(format!("store the states of {} devices", states.len()))?;
        Ok(stored.into_iter().collect())
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
