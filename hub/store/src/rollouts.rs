//! Tables `rollouts` and `deployments`: owns the row lock under which a rollout moves and people's commands are carried out.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, PgConnection, Postgres, Transaction};

use crate::aliases::{self, Title};
use crate::decisions::{self, NewDecision};
use crate::desired::{self, NewOrder};
use crate::error::Context as _;
use crate::experiments;
use crate::rollout_commands::RolloutCommand;
use crate::{Result, Store, StoreError};

/// Begins the name in which a training run acts; what else begins a rollout is a person.
pub const BY_TRAINING: &str = "training run ";

/// One rollout.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct RolloutRow {
    /// Number.
    pub id: i64,
    /// Forecaster.
    pub forecaster: String,
    /// Version that is rolled out.
    pub model_version: i64,
    /// Champion before it; none for a forecaster's first.
    pub previous_version: Option<i64>,
    /// State of the machine.
    pub status: String,
    /// Why, in words.
    pub reason: String,
    /// Plan, stage and timers.
    pub machine: Value,
    /// Who or what started it.
    pub created_by: String,
    /// Started.
    pub created_at: DateTime<Utc>,
    /// Last changed.
    pub updated_at: DateTime<Utc>,
    /// Reached a final state.
    pub finished_at: Option<DateTime<Utc>>,
}

/// One device of a rollout.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct DeploymentRow {
    /// Device.
    pub device: String,
    /// Its state within the rollout.
    pub state: String,
    /// Why, in words.
    pub reason: String,
    /// Generation of the last order.
    pub generation: i64,
    /// The machine's own record.
    #[serde(skip)]
    pub machine: Value,
    /// Last changed.
    pub updated_at: DateTime<Utc>,
}

/// What a device last said, and whether it is connected.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct FleetRow {
    /// Device.
    pub device: String,
    /// Connected.
    pub online: bool,
    /// Its last state message as it came.
    pub raw: Option<Vec<u8>>,
    /// When that came.
    pub received_at: Option<DateTime<Utc>>,
    /// Its labels.
    #[sqlx(json)]
    pub labels: BTreeMap<String, String>,
    /// Whether it may connect: it has a token, or connected before (a broker of one's own knows other ways).
    pub may_connect: bool,
}

/// A rollout about to be started.
#[derive(Debug, Clone)]
pub struct NewRollout<'a> {
    /// Forecaster.
    pub forecaster: &'a str,
    /// Version that is rolled out.
    pub model_version: i64,
    /// Plan, stage and timers.
    pub machine: Value,
    /// Devices, each with the machine's record of it.
    pub devices: Vec<(String, Value)>,
    /// Who or what starts it.
    pub by: String,
}

/// What became of a person's command to a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Commanded {
    /// Whoever drives the rollout finds it.
    Kept,
    /// The rollout is in another state.
    NotNow {
        /// That state.
        status: String,
        /// Why, in words.
        reason: String,
    },
    /// There is no such rollout.
    Unknown,
}

/// A rollout under its row lock: nobody else moves it until this is committed or dropped.
#[derive(Debug)]
pub struct LockedRollout {
    tx: Transaction<'static, Postgres>,
    /// The rollout as it was when the lock was taken.
    pub row: RolloutRow,
    /// Commands that nobody has carried out, oldest first.
    pub commands: Vec<RolloutCommand>,
    /// Highest generation that the database knows for the forecaster; nobody else gives one before this ends.
    pub highest: i64,
    /// The newest rollout of the forecaster that began after this one.
    pub newer: Option<i64>,
    /// That one begins with a shadow.
    pub newer_watches: bool,
    /// The newest that began before this one and is still open.
    pub older: Option<i64>,
    /// By the database's clock, the one that all hubs share.
    pub now: DateTime<Utc>,
}

const COLUMNS: &str = "id, forecaster, model_version, previous_version, status, reason, machine, created_by, created_at, \
                       updated_at, finished_at";
const FLEET: &str = "SELECT d.id AS device, d.online, s.raw, s.received_at, d.labels,
                        (d.token_hash IS NOT NULL OR d.session > 0) AS may_connect
                     FROM devices d LEFT JOIN device_states s ON s.device = d.id";
const DEPLOYMENT: &str = "SELECT device, state, reason, generation, machine, updated_at FROM deployments WHERE rollout = $1 ORDER BY device";

fn columns(devices: &[(String, Value)]) -> (Vec<&str>, Vec<Json<&Value>>) {
    devices.iter().map(|(d, m)| (d.as_str(), Json(m))).unzip()
}

pub(crate) async fn insert(
    connection: &mut PgConnection,
    new: &NewRollout<'_>,
) -> std::result::Result<i64, sqlx::Error> {
    // Whoever promotes or orders for this forecaster is done, or comes after.
    desired::lock(connection, new.forecaster).await?;
    // What the devices go back to is the champion: also where it is rolled out once more, but not where it holds the
    // title on trial, whether it is this version or another.
    let id: i64 = sqlx::query_scalar(
        "INSERT INTO rollouts (forecaster, model_version, previous_version, status, reason, machine, created_by)
         SELECT $1, $2,
            (SELECT c.version FROM champions c WHERE c.forecaster = $1 AND c.grp = 'all' AND NOT c.on_trial),
            $3::jsonb->>'status', $3::jsonb->>'reason', $3, $4
         WHERE EXISTS (SELECT FROM model_versions m JOIN bundles b ON b.sha = m.bundle
            WHERE m.forecaster = $1 AND m.version = $2 AND b.removed_at IS NULL) RETURNING id",
    )
    .bind(new.forecaster)
    .bind(new.model_version)
    .bind(&new.machine)
    .bind(&new.by)
    .fetch_one(&mut *connection)
    .await?;
    let (devices, machines) = columns(&new.devices);
    sqlx::query(
        "INSERT INTO deployments (rollout, device, state, reason, generation, machine)
         SELECT $1, n.device, n.machine->>'state', '', 0, n.machine FROM unnest($2::text[], $3::jsonb[]) AS n(device, machine)",
    )
    .bind(id)
    .bind(devices)
    .bind(machines)
    .execute(&mut *connection)
    .await?;
    let by = format!("rollout {id}");
    aliases::challenge(connection, new.forecaster, new.model_version, &by).await?;
    Ok(id)
}

impl Store {
    /// Starts a rollout: its row, one for each device and the decision that led to it, in one transaction. One that is still
    /// open is ended by whoever drives it, before it can order anything more. `Err` inside: this experiment holds the forecaster's devices.
    ///
    /// # Errors
    /// The database.
    pub async fn create_rollout(
        &self,
        new: &NewRollout<'_>,
        decision: &NewDecision<'_>,
    ) -> Result<std::result::Result<i64, i64>> {
        let failed = || format!("start a rollout of {}", new.forecaster);
        let mut tx = self.pool().begin().await.during(failed())?;
        let id = insert(&mut tx, new).await.during(failed())?;
        let held = experiments::holding(&mut tx, new.forecaster).await;
        if let Some(experiment) = held.during(failed())? {
            return Ok(Err(experiment));
        }
        decisions::insert(&mut tx, decision)
            .await
            .during(failed())?;
        tx.commit().await.during(failed())?;
        Ok(Ok(id))
    }

    /// Open rollouts, oldest first.
    ///
    /// # Errors
    /// The database.
    pub async fn open_rollouts(&self) -> Result<Vec<RolloutRow>> {
        sqlx::query_as(AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM rollouts WHERE finished_at IS NULL ORDER BY id"
        )))
        .fetch_all(self.pool())
        .await
        .during("list open rollouts")
    }

    /// Rollouts, newest first, below `before` where it is given.
    ///
    /// # Errors
    /// The database.
    pub async fn rollouts(
        &self,
        forecaster: Option<&str>,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<RolloutRow>> {
        let select = format!("SELECT {COLUMNS} FROM rollouts");
        let of = ("forecaster", forecaster);
        let rows = self.newest(&select, of, (before, limit)).await;
        rows.during("list rollouts")
    }

    /// One rollout and its devices.
    ///
    /// # Errors
    /// The database.
    pub async fn rollout(&self, id: i64) -> Result<Option<(RolloutRow, Vec<DeploymentRow>)>> {
        let failed = |source: sqlx::Error| StoreError {
            operation: format!("read rollout {}", id),
            source,
        };
        let row: Option<RolloutRow> = sqlx::query_as(AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM rollouts WHERE id = $1"
        )))
        .bind(id)
        .fetch_optional(self.pool())
        .await
        .map_err(failed)?;
        let Some(row) = row else { return Ok(None) };
        let devices = sqlx::query_as(DEPLOYMENT)
            .bind(id)
            .fetch_all(self.pool())
            .await
            .map_err(failed)?;
        Ok(Some((row, devices)))
    }

    /// Devices of a rollout by name, behind `after`.
    ///
    /// # Errors
    /// The database.
    pub async fn rollout_devices(
        &self,
        id: i64,
        after: &str,
        limit: i64,
    ) -> Result<Vec<DeploymentRow>> {
        sqlx::query_as(
            "SELECT device, state, reason, generation, machine, updated_at FROM deployments
             WHERE rollout = $1 AND device > $2 ORDER BY device LIMIT $3",
        )
        .bind(id)
        .bind(after)
        .bind(limit)
        .fetch_all(self.pool())
        .await
        .during(format!("list the devices of rollout {id}"))
    }

    /// Asks the hub that drives rollouts to pause, resume, approve or abort one, where it is in one of the states `from`.
    ///
    /// # Errors
    /// The database.
    pub async fn command_rollout(
        &self,
        id: i64,
        command: &str,
        (who, reason): (&str, &str),
        from: &[&str],
    ) -> Result<Commanded> {
        let found: Option<(String, String, bool)> = sqlx::query_as(
            "WITH found AS (SELECT id, status, reason FROM rollouts WHERE id = $1 FOR UPDATE), kept AS (
                INSERT INTO rollout_commands (rollout, command, who, reason) SELECT id, $2, $3, $4 FROM found
                WHERE status = ANY($5) RETURNING id)
             SELECT status, reason, EXISTS (SELECT FROM kept) FROM found",
        )
        .bind(id)
        .bind(command)
        .bind(who)
        .bind(reason)
        .bind(from)
        .fetch_optional(self.pool())
        .await
        .during(format!("steer rollout {}", id))?;
        Ok(match found {
            Some((_, _, true)) => Commanded::Kept,
            Some((status, reason, false)) => Commanded::NotNow { status, reason },
            None => Commanded::Unknown,
        })
    }

    /// Takes the row lock of an open rollout; none where another hub holds it or it has ended.
    ///
    /// # Errors
    /// The database.
    pub async fn lock_rollout(&self, id: i64) -> Result<Option<LockedRollout>> {
        let failed = |source: sqlx::Error| StoreError {
            operation: format!("lock rollout {}", id),
            source,
        };
        let mut tx = self.pool().begin().await.map_err(failed)?;
        let row: Option<RolloutRow> = sqlx::query_as(AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM rollouts WHERE id = $1 AND finished_at IS NULL FOR UPDATE SKIP LOCKED"
        )))
        .bind(id)
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed)?;
        let Some(row) = row else { return Ok(None) };
        desired::lock(&mut tx, &row.forecaster)
            .await
            .map_err(failed)?;
        let highest = desired::highest(&mut tx, &row.forecaster)
            .await
            .map_err(failed)?;
        let (newer, newer_watches, older, now) = sqlx::query_as(
            "SELECT n.id, coalesce(n.machine #>> '{plan,stages,0,mode}' = 'shadow', false),
                (SELECT max(id) FROM rollouts WHERE forecaster = $1 AND id < $2 AND finished_at IS NULL), clock_timestamp()
             FROM (SELECT) always LEFT JOIN LATERAL (SELECT id, machine FROM rollouts WHERE forecaster = $1 AND id > $2
                ORDER BY id DESC LIMIT 1) n ON true",
        )
        .bind(&row.forecaster)
        .bind(id)
        .fetch_one(&mut *tx)
        .await
        .map_err(failed)?;
        let commands = sqlx::query_as(
            "SELECT id, command, who, reason FROM rollout_commands WHERE rollout = $1 AND done_at IS NULL ORDER BY id",
        )
        .bind(id)
        .fetch_all(&mut *tx)
        .await
        .map_err(failed)?;
        Ok(Some(LockedRollout {
            tx,
            row,
            commands,
            highest,
            newer,
            newer_watches,
            older,
            now,
        }))
    }

    /// How many challengers the champion `previous` has met in its reign up to this rollout, itself counted.
    ///
    /// # Errors
    /// The database.
    pub async fn challenger_number(&self, rollout: &RolloutRow) -> Result<i64> {
        sqlx::query_scalar(
            "SELECT count(*) FROM rollouts WHERE forecaster = $1 AND previous_version = $2 AND model_version <> $2 AND id <= $3
                AND created_at >= coalesce((SELECT since FROM champions
                    WHERE forecaster = $1 AND grp = 'all' AND version = $2), '-infinity')",
        )
        .bind(&rollout.forecaster)
        .bind(rollout.previous_version)
        .bind(rollout.id)
        .fetch_one(self.pool())
        .await
        .during(format!("count the challengers of {}", rollout.forecaster))
    }

    /// The devices that carry all of `labels` (a JSON object), with their last state. `forecaster` is named in errors.
    ///
    /// # Errors
    /// The database.
    pub async fn fleet(&self, labels: &Value, forecaster: &str) -> Result<Vec<FleetRow>> {
        sqlx::query_as(AssertSqlSafe(format!(
            "{FLEET} WHERE d.labels @> $1 ORDER BY d.id"
        )))
        .bind(labels)
        .fetch_all(self.pool())
        .await
        .during(format!("read the fleet of {}", forecaster))
    }

    /// The devices of a rollout; with `since` only those whose state came then or later, or that came or went since the
    /// rollout was stored.
    ///
    /// # Errors
    /// The database.
    pub async fn fleet_of(&self, id: i64, since: Option<DateTime<Utc>>) -> Result<Vec<FleetRow>> {
        sqlx::query_as(AssertSqlSafe(format!(
            "{FLEET} JOIN deployments p ON p.device = d.id WHERE p.rollout = $1
             AND ($2::timestamptz IS NULL OR s.received_at >= $2 OR d.online <> (p.machine->>'online')::boolean) ORDER BY d.id"
        )))
        .bind(id)
        .bind(since)
        .fetch_all(self.pool())
        .await
        .during(format!("read the devices of rollout {id}"))
    }
}

impl LockedRollout {
    fn failed(&self) -> impl Fn(sqlx::Error) -> StoreError + use<> {
        let id = self.row.id.to_string();
        move |source| StoreError {
            operation: format!("move rollout {id}"),
            source,
        }
    }

    /// The rollout's devices.
    ///
    /// # Errors
    /// The database.
    pub async fn deployments(&mut self) -> Result<Vec<DeploymentRow>> {
        let failed = self.failed();
        sqlx::query_as(DEPLOYMENT)
            .bind(self.row.id)
            .fetch_all(&mut *self.tx)
            .await
            .map_err(failed)
    }

    /// Devices of which the rollout's order stands and holds no longer than until then.
    ///
    /// # Errors
    /// The database.
    pub async fn expiring(&mut self, until: DateTime<Utc>) -> Result<Vec<String>> {
        let failed = self.failed();
        sqlx::query_scalar(
            "SELECT p.device FROM deployments p JOIN desired o ON o.device = p.device AND o.forecaster = $2
             WHERE p.rollout = $1 AND p.generation > 0 AND o.generation = p.generation AND o.expires_at < $3 ORDER BY p.device",
        )
        .bind(self.row.id)
        .bind(&self.row.forecaster)
        .bind(until)
        .fetch_all(&mut *self.tx)
        .await
        .map_err(failed)
    }

    /// Stores the machine's state; answers when that was.
    ///
    /// # Errors
    /// The database.
    pub async fn save(&mut self, machine: &Value, ended: bool) -> Result<DateTime<Utc>> {
        let failed = self.failed();
        let at = sqlx::query_scalar(
            "UPDATE rollouts SET machine = $2, status = $2::jsonb->>'status', reason = $2::jsonb->>'reason',
                updated_at = now(), finished_at = CASE WHEN $3 THEN now() END WHERE id = $1 RETURNING updated_at",
        )
        .bind(self.row.id)
        .bind(machine)
        .bind(ended)
        .fetch_one(&mut *self.tx)
        .await
        .map_err(&failed)?;
        if ended {
            aliases::retire(&mut self.tx, &self.row.forecaster, self.row.model_version)
                .await
                .map_err(&failed)?;
        }
        sqlx::query(
            "UPDATE rollout_commands SET done_at = now() WHERE rollout = $1 AND id = ANY($2)",
        )
        .bind(self.row.id)
        .bind(self.commands.iter().map(|c| c.id).collect::<Vec<_>>())
        .execute(&mut *self.tx)
        .await
        .map_err(&failed)?;
        Ok(at)
    }

    /// Stores the states of devices.
    ///
    /// # Errors
    /// The database.
    pub async fn save_devices(&mut self, devices: &[(String, Value)]) -> Result<()> {
        let failed = self.failed();
        let (names, machines) = columns(devices);
        sqlx::query(
            "UPDATE deployments p SET machine = n.machine, state = n.machine->>'state', reason = n.machine->>'reason',
                generation = (n.machine->>'generation')::bigint, updated_at = now()
             FROM unnest($2::text[], $3::jsonb[]) AS n(device, machine) WHERE p.rollout = $1 AND p.device = n.device",
        )
        .bind(self.row.id)
        .bind(names)
        .bind(machines)
        .execute(&mut *self.tx)
        .await
        .map_err(failed)?;
        Ok(())
    }

    /// Stores orders as what the devices shall run, at most one for each; how many: not those where one of at least its
    /// generation stands.
    ///
    /// # Errors
    /// The database.
    pub async fn order(&mut self, orders: &[NewOrder<'_>]) -> Result<u64> {
        let failed = self.failed();
        desired::put(&mut self.tx, orders).await.map_err(failed)
    }

    /// Takes the title from the rolled-out version where it holds it on trial: no other rollout of it is open that may confirm it.
    ///
    /// # Errors
    /// The database.
    pub async fn depose(&mut self) -> Result<()> {
        let failed = self.failed();
        aliases::depose(&mut self.tx, &self.row)
            .await
            .map_err(failed)?;
        Ok(())
    }

    /// Makes the rolled-out version the champion, with the decision that says so.
    ///
    /// # Errors
    /// The database.
    pub async fn promote(&mut self) -> Result<()> {
        let failed = self.failed();
        let by = format!("rollout {}", self.row.id);
        let row = &self.row;
        let (forecaster, version) = (row.forecaster.as_str(), row.model_version);
        aliases::give(&mut self.tx, Title::Champion, forecaster, version, &by)
            .await
            .map_err(&failed)?;
        let decision = NewDecision {
            forecaster,
            decision: "promote",
            reason: &format!("version {version} is the champion"),
            decided_by: &by,
            ..NewDecision::default()
        };
        decisions::insert(&mut self.tx, &decision)
            .await
            .map(drop)
            .map_err(&failed)
    }

    /// Ends the lock, keeping what was stored.
    ///
    /// # Errors
    /// The database.
    pub async fn commit(self) -> Result<()> {
        let failed = self.failed();
        self.tx.commit().await.map_err(failed)
    }
}
