//! Table `alarms`: owns what devices and hub raised, never decides that something is wrong.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgConnection, PgExecutor};

use crate::Store;
use crate::error::{Context as _, Result};

/// An alarm raised or ended.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct AlarmRow {
    /// Number.
    pub id: i64,
    /// About whom.
    pub device: String,
    /// `device` or `hub`.
    pub source: String,
    /// What kind.
    pub code: String,
    /// Sensor, empty where it is about the device.
    pub sensor: String,
    /// When.
    pub time: DateTime<Utc>,
    /// For people.
    pub message: String,
    /// False: the condition has ended.
    pub raised: bool,
}

pub(crate) async fn raise<'c, E>(on: E, device: &str, code: &str, message: &str) -> Result<()>
where
    E: PgExecutor<'c>,
{
    sqlx::query(
        "INSERT INTO alarms (device, source, code, sensor, time, message, raised)
         VALUES ($1, 'hub', $2, '', now(), $3, true)",
    )
    .bind(device)
    .bind(code)
    .bind(message)
    .execute(on)
    .await
    .map(drop)
    .during(format!("raise alarm {code} about device {device}"))
}

/// Raises an alarm of the hub's own about a device, unless it was raised within the last day; answers whether it was not.
pub(crate) async fn raise_daily(
    on: &mut PgConnection,
    device: &str,
    code: &str,
    message: &str,
) -> Result<bool> {
    let told: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM alarms WHERE device = $1 AND source = 'hub' AND code = $2
             AND received_at > now() - interval '1 day')",
    )
    .bind(device)
    .bind(code)
    .fetch_one(&mut *on)
    .await
    .during(format!("look for alarm {code} about device {device}"))?;
    if !told {
        raise(on, device, code, message).await?;
    }
    Ok(!told)
}

impl Store {
    /// Raises an alarm of the hub's own about a device.
    ///
    /// # Errors
    /// The database.
    pub async fn raise_alarm(&self, device: &str, code: &str, message: &str) -> Result<()> {
        raise(self.pool(), device, code, message).await
    }

    /// Alarms, newest first, of one device, below `before` where these are given.
    ///
    /// # Errors
    /// The database.
    pub async fn alarms(
        &self,
        device: Option<&str>,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<AlarmRow>> {
        let select = "SELECT id, device, source, code, sensor, time, message, raised FROM alarms";
        let rows = self.newest(select, ("device", device), (before, limit));
        rows.await.during("list alarms")
    }
}
