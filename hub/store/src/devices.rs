//! Table `devices`: owns who may connect and when they were seen, never what they sent.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::types::{Json, Uuid};

use crate::Store;
use crate::connect::UNHURRIED;
use crate::error::{Context as _, Result};
use crate::ledger::{Newest, number, signed};

/// A device.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct DeviceRow {
    /// Name.
    pub id: String,
    /// Labels that selectors ask for.
    #[sqlx(json)]
    pub labels: BTreeMap<String, String>,
    /// When it was added.
    pub created_at: DateTime<Utc>,
    /// Last sign of life.
    pub last_seen: Option<DateTime<Utc>>,
    /// Whether its newest session is connected.
    pub online: bool,
    /// Version of its agent, empty while unknown.
    pub agent_version: String,
}

const COLUMNS: &str =
    "SELECT id, labels, created_at, last_seen, online, agent_version FROM devices";

impl Store {
    /// Adds a device; where it exists, its labels and token are replaced. Returns whether it is new.
    ///
    /// # Errors
    /// The database.
    pub async fn put_device(
        &self,
        id: &str,
        labels: &BTreeMap<String, String>,
        token_hash: Option<&[u8]>,
    ) -> Result<bool> {
        sqlx::query_scalar(
            "INSERT INTO devices (id, labels, token_hash) VALUES ($1, $2, $3)
             ON CONFLICT (id) DO UPDATE SET labels = excluded.labels,
                 token_hash = coalesce(excluded.token_hash, devices.token_hash)
             RETURNING xmax = 0",
        )
        .bind(id)
        .bind(Json(labels))
        .bind(token_hash)
        .fetch_one(self.pool())
        .await
        .during(format!("add device {id}"))
    }

    /// Sets labels of a device and takes others away; returns all it has then, none where there is no such device.
    ///
    /// # Errors
    /// The database.
    pub async fn label_device(
        &self,
        id: &str,
        set: &BTreeMap<String, String>,
        remove: &[String],
    ) -> Result<Option<BTreeMap<String, String>>> {
        sqlx::query_scalar(
            "UPDATE devices SET labels = (labels - $3::text[]) || $2 WHERE id = $1 RETURNING labels",
        )
        .bind(id)
        .bind(Json(set))
        .bind(remove)
        .fetch_optional(self.pool())
        .await
        .map(|labels: Option<Json<_>>| labels.map(|Json(labels)| labels))
        .during(format!("label device {id}"))
    }

    /// Adds many devices with one set of labels, or gives them new tokens; a device that is there without the label `mark` is
    /// left as it is. Returns how many were written.
    ///
    /// # Errors
    /// The database.
    pub async fn put_devices(
        &self,
        ids: &[String],
        labels: &BTreeMap<String, String>,
        token_hashes: &[Vec<u8>],
        mark: &str,
    ) -> Result<u64> {
        sqlx::query(
            "INSERT INTO devices (id, labels, token_hash)
             SELECT n.id, $2, n.hash FROM unnest($1::text[], $3::bytea[]) AS n(id, hash)
             ON CONFLICT (id) DO UPDATE SET labels = excluded.labels, token_hash = excluded.token_hash
             WHERE devices.labels ? $4",
        )
        .bind(ids)
        .bind(Json(labels))
        .bind(token_hashes)
        .bind(mark)
        .execute(self.pool())
        .await
        .map(|done| done.rows_affected())
        .during(format!("add {} devices", ids.len()))
    }

    /// One device.
    ///
    /// # Errors
    /// The database.
    pub async fn device(&self, id: &str) -> Result<Option<DeviceRow>> {
        sqlx::query_as(sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE id = $1")))
            .bind(id)
            .fetch_optional(self.pool())
            .await
            .during(format!("read device {id}"))
    }

    /// All devices by name, behind `after`, at most `limit`.
    ///
    /// # Errors
    /// The database.
    pub async fn devices(&self, after: &str, limit: i64) -> Result<Vec<DeviceRow>> {
        sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "{COLUMNS} WHERE id > $1 ORDER BY id LIMIT $2"
        )))
        .bind(after)
        .bind(limit)
        .fetch_all(self.pool())
        .await
        .during("list devices")
    }

    /// Those of the names that are devices, each with what [`crate::ledger::instance_for`] adds to the instance.
    ///
    /// # Errors
    /// The database.
    pub async fn known_devices(&self, ids: &[String]) -> Result<HashMap<String, Option<Uuid>>> {
        sqlx::query_as("SELECT id, restored FROM devices WHERE id = ANY($1)")
            .bind(ids)
            .fetch_all(self.pool())
            .await
            .map(|rows: Vec<(String, Option<Uuid>)>| rows.into_iter().collect())
            .during("look up devices")
    }

    /// SHA-256 of the tokens of those of the names that are devices and may connect.
    ///
    /// # Errors
    /// The database.
    pub async fn token_hashes(&self, ids: &[String]) -> Result<HashMap<String, Vec<u8>>> {
        let found: Vec<(String, Vec<u8>)> = sqlx::query_as(
            "SELECT id, token_hash FROM devices WHERE id = ANY($1) AND token_hash IS NOT NULL",
        )
        .bind(ids)
        .fetch_all(self.pool())
        .await
        .during(format!("read the tokens of {} devices", ids.len()))?;
        Ok(found.into_iter().collect())
    }

    /// A device connected or went away. A will older than the latest birth changes nothing; returns whether it counted.
    ///
    /// # Errors
    /// The database.
    pub async fn presence(
        &self,
        id: &str,
        session: i64,
        online: bool,
        agent_version: &str,
    ) -> Result<bool> {
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "UPDATE devices SET session = $2, online = $3, last_seen = now(),
                 agent_version = CASE WHEN $4 = '' THEN agent_version ELSE $4 END
             FROM {UNHURRIED} WHERE id = $1 AND session <= $2"
        )))
        .bind(id)
        .bind(session)
        .bind(online)
        .bind(agent_version)
        .execute(self.pool())
        .await
        .map(|done| done.rows_affected() > 0)
        .during(format!("store the presence of device {id}"))
    }

    /// Takes note of a session that synchronised, at this time of this boot; returns the newest one before.
    ///
    /// # Errors
    /// The database.
    pub async fn session(
        &self,
        id: &str,
        session: u64,
        boot_id: &str,
        monotonic_ms: i64,
    ) -> Result<Newest> {
        let before: Option<(i64, String, i64, i64)> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "UPDATE devices d SET session = greatest(d.session, $2), online = true, last_seen = now(),
                 synced_session = greatest(d.synced_session, $2),
                 synced_boot = CASE WHEN $2 > d.synced_session THEN $3 ELSE d.synced_boot END,
                 synced_ms = CASE WHEN $2 > d.synced_session THEN $4 ELSE d.synced_ms END,
                 boot_heard_at = CASE WHEN $2 > d.synced_session AND $3 <> d.synced_boot THEN now() ELSE d.boot_heard_at END
             FROM (SELECT id, synced_session, synced_boot, synced_ms, boot_heard_at FROM devices
                   WHERE id = $1 FOR NO KEY UPDATE) before, {UNHURRIED}
             WHERE d.id = before.id
             RETURNING before.synced_session, before.synced_boot, before.synced_ms,
                 (extract(epoch FROM now() - before.boot_heard_at) * 1000)::int8"
        )))
        .bind(id)
        .bind(signed(session))
        .bind(boot_id)
        .bind(monotonic_ms)
        .fetch_optional(self.pool())
        .await
        .during(format!("store the session of device {id}"))?;
        let newest = |(session, boot_id, monotonic_ms, boot_age_ms)| Newest {
            session: number(session),
            boot_id,
            monotonic_ms,
            boot_age_ms,
        };
        Ok(before.map(newest).unwrap_or_default())
    }

    /// Signs of life.
    ///
    /// # Errors
    /// The database.
    pub async fn seen(&self, ids: &[String]) -> Result<()> {
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "UPDATE devices SET last_seen = now() FROM {UNHURRIED} WHERE id = ANY($1)"
        )))
        .bind(ids)
        .execute(self.pool())
        .await
        .map(drop)
        .during("store when devices were seen")
    }
}
