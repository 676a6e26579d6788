//! Table `desired`: owns the newest signed order for each device and forecaster and who may give one, never signs one.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgConnection, Postgres, Transaction};

use crate::Store;
use crate::error::{Context as _, Result};

/// An order about to be stored as what a device shall run.
#[derive(Debug, Clone)]
pub struct NewOrder<'a> {
    /// To whom.
    pub device: &'a str,
    /// For which forecaster.
    pub forecaster: &'a str,
    /// SHA-256 of the bundle; empty: no model.
    pub bundle: &'a [u8],
    /// Version in it; 0: no model.
    pub model_version: i64,
    /// `shadow` or `active`.
    pub stage: &'a str,
    /// Higher than any before.
    pub generation: i64,
    /// After which the device refuses it.
    pub expires_at: DateTime<Utc>,
    /// The signed message.
    pub signed: &'a [u8],
}

/// An order that is stored and not yet published.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct UnpublishedRow {
    /// To whom.
    pub device: String,
    /// For which forecaster.
    pub forecaster: String,
    /// Its generation.
    pub generation: i64,
}

/// A device that is not ordered what is in force, or not for much longer.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct LateRow {
    /// Device.
    pub device: String,
    /// Its last state message as it came.
    pub raw: Option<Vec<u8>>,
    /// The version that is in force; none: no model. The same for every device.
    pub champion: Option<i64>,
}

/// The sole right to give orders for a forecaster, until it is committed or dropped.
#[derive(Debug)]
pub struct Orders {
    tx: Transaction<'static, Postgres>,
    forecaster: String,
    /// Highest generation that the database knows.
    pub highest: i64,
}

/// Takes the sole right to give orders for a forecaster and to start rollouts of it, until the transaction ends.
pub(crate) async fn lock(
    connection: &mut PgConnection,
    forecaster: &str,
) -> std::result::Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtext('orders'), hashtext($1))")
        .bind(forecaster)
        .execute(connection)
        .await
        .map(drop)
}

/// The highest generation that the database knows for a forecaster; final only under [`lock`]. Whatever is ordered is stored here in the
/// same transaction, and only a higher one takes its place: no rollout of before has to be asked.
pub(crate) async fn highest(
    connection: &mut PgConnection,
    forecaster: &str,
) -> std::result::Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT coalesce(max(generation), 0) FROM desired WHERE forecaster = $1")
        .bind(forecaster)
        .fetch_one(connection)
        .await
}

/// Stores orders, at most one for each device and forecaster; how many: not those where one of at least its generation stands.
pub(crate) async fn put(
    connection: &mut PgConnection,
    orders: &[NewOrder<'_>],
) -> std::result::Result<u64, sqlx::Error> {
    let devices: Vec<&str> = orders.iter().map(|o| o.device).collect();
    let forecasters: Vec<&str> = orders.iter().map(|o| o.forecaster).collect();
    let versions: Vec<i64> = orders.iter().map(|o| o.model_version).collect();
    let stages: Vec<&str> = orders.iter().map(|o| o.stage).collect();
    let generations: Vec<i64> = orders.iter().map(|o| o.generation).collect();
    let bundles: Vec<&[u8]> = orders.iter().map(|o| o.bundle).collect();
    let expire: Vec<DateTime<Utc>> = orders.iter().map(|o| o.expires_at).collect();
    let signed: Vec<&[u8]> = orders.iter().map(|o| o.signed).collect();
    let done = sqlx::query(
        "INSERT INTO desired (device, forecaster, bundle, model_version, stage, generation, attempt, expires_at, signed)
         SELECT device, forecaster, bundle, version, stage, generation, 1, expires, signed
         FROM unnest($1::text[], $2::text[], $3::bytea[], $4::int8[], $5::text[], $6::int8[], $7::timestamptz[], $8::bytea[])
            AS o(device, forecaster, bundle, version, stage, generation, expires, signed)
         ON CONFLICT (device, forecaster) DO UPDATE SET bundle = excluded.bundle,
            model_version = excluded.model_version, stage = excluded.stage, generation = excluded.generation,
            attempt = excluded.attempt, expires_at = excluded.expires_at, signed = excluded.signed, published = false, updated_at = now()
         WHERE desired.generation < excluded.generation",
    )
    .bind(devices)
    .bind(forecasters)
    .bind(bundles)
    .bind(versions)
    .bind(stages)
    .bind(generations)
    .bind(expire)
    .bind(signed)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

async fn late(
    connection: &mut PgConnection,
    forecaster: &str,
    labels: &Value,
    floor: i64,
    renew_before: DateTime<Utc>,
) -> std::result::Result<Vec<LateRow>, sqlx::Error> {
    sqlx::query_as(
        "SELECT d.id AS device, s.raw, c.version AS champion FROM devices d
         LEFT JOIN champions c ON c.forecaster = $1 AND c.grp = 'all' AND c.version >= $4 AND NOT c.on_trial
         LEFT JOIN desired o ON o.device = d.id AND o.forecaster = $1
         LEFT JOIN device_states s ON s.device = d.id
         WHERE (d.labels @> $2 OR EXISTS (SELECT FROM experiment_devices x JOIN experiments e ON e.id = x.experiment
            WHERE x.device = d.id AND e.forecaster = $1 AND x.generation = o.generation))
         AND (d.token_hash IS NOT NULL OR d.session > 0)
         AND NOT EXISTS (SELECT 1 FROM rollouts r LEFT JOIN deployments p ON p.rollout = r.id AND p.device = d.id
            WHERE r.forecaster = $1 AND r.finished_at IS NULL
            AND (p.generation > 0 OR r.previous_version IS NULL OR r.previous_version <> c.version))
         AND NOT EXISTS (SELECT 1 FROM experiment_devices x JOIN experiments e ON e.id = x.experiment
            WHERE x.device = d.id AND e.forecaster = $1 AND e.status IN ('planned', 'running'))
         AND CASE WHEN c.version IS NULL THEN o.model_version <> 0 OR o.expires_at < $3
             ELSE o.device IS NULL OR o.expires_at < $3 OR ((o.model_version <> c.version OR o.stage <> 'active')
                AND NOT (o.model_version = 0 AND $4 > 1 AND EXISTS (
                    SELECT FROM jsonb_array_elements(s.state -> 'forecasters') f WHERE f ->> 'forecaster' = $1
                    AND (f ->> 'model_version')::numeric BETWEEN 1 AND $4 - 1))) END
         ORDER BY d.id LIMIT 1000",
    )
    .bind(forecaster)
    .bind(labels)
    .bind(renew_before)
    .bind(floor)
    .fetch_all(connection)
    .await
}

/// A device that runs a version below the floor, and its last state message as it came.
pub type BelowRow = (String, Vec<u8>);

/// Whoever is only on the way to its order, or has not forecast since it obeyed, still names what ran before: that is no fault, where it
/// does not take a week.
async fn below(
    connection: &mut PgConnection,
    forecaster: &str,
    floor: i64,
) -> std::result::Result<Vec<BelowRow>, sqlx::Error> {
    sqlx::query_as(
        "SELECT s.device, s.raw FROM desired o JOIN device_states s ON s.device = o.device,
            jsonb_array_elements(s.state -> 'forecasters') f
         WHERE o.forecaster = $1 AND o.model_version <> 0 AND f ->> 'forecaster' = $1
         AND (f ->> 'generation')::numeric = o.generation
         AND (f ->> 'phase' IN ('rolled_back', 'failed', 'rejected') OR s.received_at > o.updated_at + interval '7 days')
         AND (f ->> 'model_version')::numeric BETWEEN 1 AND $2 - 1
         AND NOT EXISTS (SELECT FROM rollouts r JOIN deployments p ON p.rollout = r.id
            WHERE r.forecaster = $1 AND r.finished_at IS NULL AND p.device = o.device AND p.generation > 0)
         AND NOT EXISTS (SELECT FROM experiment_devices x JOIN experiments e ON e.id = x.experiment
            WHERE x.device = o.device AND e.forecaster = $1 AND e.status IN ('planned', 'running'))
         ORDER BY s.device LIMIT 1000",
    )
    .bind(forecaster)
    .bind(floor)
    .fetch_all(connection)
    .await
}

impl Store {
    /// The signed orders of those of the devices that have some (each an encoded `pb::Signed`), by forecaster.
    ///
    /// # Errors
    /// The database.
    pub async fn desired_of(&self, devices: &[String]) -> Result<HashMap<String, Vec<Vec<u8>>>> {
        let rows: Vec<(String, Vec<Vec<u8>>)> = sqlx::query_as(
            "SELECT device, array_agg(signed ORDER BY forecaster) FROM desired WHERE device = ANY($1) GROUP BY device",
        )
        .bind(devices)
        .fetch_all(self.pool())
        .await
        .during(format!("read the orders of {} devices", devices.len()))?;
        Ok(rows.into_iter().collect())
    }

    /// Orders that have not been published for `secs` seconds, at most ten thousand.
    ///
    /// # Errors
    /// The database.
    pub async fn unpublished_orders(&self, secs: f64) -> Result<Vec<UnpublishedRow>> {
        sqlx::query_as(
            "SELECT device, forecaster, generation FROM desired
             WHERE NOT published AND updated_at <= now() - make_interval(secs => $1) ORDER BY device LIMIT 10000",
        )
            .bind(secs)
            .fetch_all(self.pool())
            .await
            .during("list orders to be published")
    }

    /// These were published; what was ordered since is not.
    ///
    /// # Errors
    /// The database.
    pub async fn published_orders(&self, orders: &[UnpublishedRow]) -> Result<()> {
        if orders.is_empty() {
            return Ok(());
        }
        let devices: Vec<&str> = orders.iter().map(|o| o.device.as_str()).collect();
        let forecasters: Vec<&str> = orders.iter().map(|o| o.forecaster.as_str()).collect();
        let generations: Vec<i64> = orders.iter().map(|o| o.generation).collect();
        sqlx::query(
            "UPDATE desired d SET published = true
             FROM unnest($1::text[], $2::text[], $3::int8[]) AS o(device, forecaster, generation)
             WHERE d.device = o.device AND d.forecaster = o.forecaster AND d.generation = o.generation",
        )
        .bind(devices)
        .bind(forecasters)
        .bind(generations)
        .execute(self.pool())
        .await
        .during("note that orders were published")
        .map(drop)
    }

    /// Devices that have orders or open commands; with `all` every one that may connect.
    ///
    /// # Errors
    /// The database.
    pub async fn ordered_devices(&self, all: bool) -> Result<Vec<String>> {
        sqlx::query_scalar(
            "SELECT device FROM desired UNION SELECT device FROM commands WHERE ok IS NULL AND ended_at IS NULL
             UNION SELECT id FROM devices WHERE $1 AND (token_hash IS NOT NULL OR session > 0) ORDER BY device",
        )
            .bind(all)
        .fetch_all(self.pool())
            .await
            .during("list devices with orders")
    }

    /// At most a thousand devices with all of `labels`, or whose newest order is that of an experiment, that may connect and whose order is not the champion of the
    /// forecaster (or, without one of at least version `floor` or with one on trial, not "no model"), or expires before
    /// `renew_before`. While a rollout is open only devices that it has ordered nothing, and only where the champion is what it
    /// would go back to; never those that an experiment holds, nor one that still has to let go of a version below the floor.
    ///
    /// # Errors
    /// The database.
    pub async fn late_devices(
        &self,
        forecaster: &str,
        labels: &Value,
        floor: i64,
        renew_before: DateTime<Utc>,
    ) -> Result<Vec<LateRow>> {
        let failed = || format!("look for devices without the champion of {forecaster}");
        let mut connection = self.pool().acquire().await.during(failed())?;
        late(&mut connection, forecaster, labels, floor, renew_before)
            .await
            .during(failed())
    }

    /// Has the orders given anew, as if they expired, of devices that say they know a generation above that of their order: after the
    /// database was restored from a copy they obey an order that it has forgotten. A number out of reach is not believed. How many; never those in an open rollout or experiment.
    ///
    /// # Errors
    /// The database.
    pub async fn renew_forgotten(&self, forecaster: &str) -> Result<u64> {
        let done = sqlx::query(
            "UPDATE desired o SET expires_at = now() FROM device_states s,
                jsonb_array_elements(s.state -> 'forecasters') f
             WHERE o.forecaster = $1 AND s.device = o.device AND f ->> 'forecaster' = $1
             AND (f ->> 'generation')::numeric > o.generation AND (f ->> 'generation')::numeric < o.generation + 4294967296
             AND o.expires_at > now()
             AND NOT EXISTS (SELECT FROM rollouts r JOIN deployments p ON p.rollout = r.id
                WHERE r.forecaster = $1 AND r.finished_at IS NULL AND p.device = o.device AND p.generation > 0)
             AND NOT EXISTS (SELECT FROM experiment_devices x JOIN experiments e ON e.id = x.experiment
                WHERE x.device = o.device AND e.forecaster = $1 AND e.status IN ('planned', 'running'))",
        );
        let done = done.bind(forecaster).execute(self.pool()).await;
        let done = done.during(format!("renew forgotten orders of {forecaster}"))?;
        Ok(done.rows_affected())
    }

    /// At most a thousand devices that have given up what they were ordered and run a version below `floor` instead, each with its last
    /// state message; never those in an open rollout or experiment.
    ///
    /// # Errors
    /// The database.
    pub async fn devices_below(&self, forecaster: &str, floor: i64) -> Result<Vec<BelowRow>> {
        let failed = || format!("look for devices below the floor of {forecaster}");
        let mut connection = self.pool().acquire().await.during(failed())?;
        below(&mut connection, forecaster, floor)
            .await
            .during(failed())
    }

    /// The highest generation that the database knows for a forecaster at the moment.
    ///
    /// # Errors
    /// The database.
    pub async fn highest_generation(&self, forecaster: &str) -> Result<i64> {
        let failed = || format!("read the highest generation of {forecaster}");
        let mut connection = self.pool().acquire().await.during(failed())?;
        highest(&mut connection, forecaster).await.during(failed())
    }

    /// Waits for the sole right to give orders for a forecaster outside a rollout.
    ///
    /// # Errors
    /// The database.
    pub async fn lock_orders(&self, forecaster: &str) -> Result<Orders> {
        let failed = || format!("lock the orders of {forecaster}");
        let mut tx = self.pool().begin().await.during(failed())?;
        lock(&mut tx, forecaster).await.during(failed())?;
        let highest = highest(&mut tx, forecaster).await.during(failed())?;
        Ok(Orders {
            tx,
            forecaster: forecaster.to_owned(),
            highest,
        })
    }
}

impl Orders {
    /// As [`Store::late_devices`], and nobody changes it before this is committed.
    ///
    /// # Errors
    /// The database.
    pub async fn late_devices(
        &mut self,
        labels: &Value,
        floor: i64,
        renew_before: DateTime<Utc>,
    ) -> Result<Vec<LateRow>> {
        late(&mut self.tx, &self.forecaster, labels, floor, renew_before)
            .await
            .during(format!(
                "look for devices without the champion of {}",
                self.forecaster
            ))
    }

    /// As [`Store::devices_below`], and nobody changes it before this is committed.
    ///
    /// # Errors
    /// The database.
    pub async fn devices_below(&mut self, floor: i64) -> Result<Vec<BelowRow>> {
        below(&mut self.tx, &self.forecaster, floor)
            .await
            .during(format!(
                "look for devices below the floor of {}",
                self.forecaster
            ))
    }

    /// Stores orders, at most one for each device; how many: not those where one of at least its generation stands.
    ///
    /// # Errors
    /// The database.
    pub async fn put(&mut self, orders: &[NewOrder<'_>]) -> Result<u64> {
        put(&mut self.tx, orders).await.during(format!(
            "order models of {} for {} devices",
            self.forecaster,
            orders.len()
        ))
    }

    /// Keeps what was stored.
    ///
    /// # Errors
    /// The database.
    pub async fn commit(self) -> Result<()> {
        self.tx
            .commit()
            .await
            .during(format!("commit orders of {}", self.forecaster))
    }
}
