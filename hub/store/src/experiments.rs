//! Tables `experiments` and `experiment_devices`: owns the row lock under which an experiment moves, never a decision.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgConnection, Postgres, Transaction};

use crate::aliases;
use crate::decisions::{self, NewDecision};
use crate::desired::{self, NewOrder};
use crate::error::Context as _;
use crate::{Result, Store};

/// One experiment.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct ExperimentRow {
    /// Number.
    pub id: i64,
    /// Forecaster.
    pub forecaster: String,
    /// What is compared with.
    pub version_a: i64,
    /// What is compared.
    pub version_b: i64,
    /// Share of devices that get B.
    pub share_b: f64,
    /// Labels of the devices that may join.
    #[sqlx(json)]
    pub labels: BTreeMap<String, String>,
    /// Sensor whose mean is the outcome; none: errors of forecasts.
    pub sensor: Option<String>,
    /// How long it takes.
    pub days: i32,
    /// Hours after a device joined that are not measured.
    pub settle_hours: i32,
    /// What the number of devices could show, as told at the start.
    pub foreseen: Value,
    /// State of the machine.
    pub status: String,
    /// Why, in words.
    pub reason: String,
    /// The report, made once, at the end.
    pub report: Option<Value>,
    /// Who started it.
    pub created_by: String,
    /// Asked for.
    pub created_at: DateTime<Utc>,
    /// The first device joined.
    pub started_at: Option<DateTime<Utc>>,
    /// What is measured ends here.
    pub ends_at: Option<DateTime<Utc>>,
    /// Who asks for its end.
    pub stop_by: Option<String>,
    /// Why.
    pub stop_reason: Option<String>,
    /// Reached a final state.
    pub finished_at: Option<DateTime<Utc>>,
    /// The database's clock when this was read.
    #[serde(skip)]
    pub now: DateTime<Utc>,
}

/// One device of an experiment.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct MemberRow {
    /// Device.
    pub device: String,
    /// `a` or `b`.
    pub arm: String,
    /// Generation of the order of its arm's version.
    pub generation: i64,
    /// How it does with it.
    pub state: String,
    /// Why, in words.
    pub reason: String,
    /// When it was assigned.
    pub joined_at: DateTime<Utc>,
}

/// What a device last said.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct HeardRow {
    /// Device.
    pub device: String,
    /// Its last state message as it came.
    pub raw: Vec<u8>,
    /// When that came.
    pub received_at: DateTime<Utc>,
}

/// An experiment about to be started.
#[derive(Debug, Clone)]
pub struct NewExperiment<'a> {
    /// What is compared with.
    pub version_a: i64,
    /// What is compared.
    pub version_b: i64,
    /// Share of devices that get B.
    pub share_b: f64,
    /// Labels of the devices that may join.
    pub labels: &'a Value,
    /// Sensor whose mean is the outcome; none: errors of forecasts.
    pub sensor: Option<&'a str>,
    /// How long it takes.
    pub days: i32,
    /// Hours after a device joined that are not measured.
    pub settle_hours: i32,
    /// What the number of devices can show.
    pub foreseen: &'a Value,
}

/// What became of an experiment that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// It has this number.
    Started(i64),
    /// A rollout of the forecaster is open.
    Rollout(i64),
    /// Another experiment holds the forecaster's devices.
    Experiment(i64),
    /// The bundle of this version is gone.
    Gone(i64),
}

/// A device that joins.
#[derive(Debug, Clone, Copy)]
pub struct NewMember<'a> {
    /// Device.
    pub device: &'a str,
    /// `a` or `b`.
    pub arm: &'a str,
    /// Generation of its order.
    pub generation: i64,
    /// How it does with it.
    pub state: &'a str,
    /// Why, in words.
    pub reason: &'a str,
}

/// An experiment under its row lock: nobody else moves it until this is committed or dropped.
#[derive(Debug)]
pub struct LockedExperiment {
    tx: Transaction<'static, Postgres>,
    /// The experiment as it was when the lock was taken.
    pub row: ExperimentRow,
    /// Its devices.
    pub members: Vec<MemberRow>,
    /// Highest generation that the database knows for the forecaster; nobody else gives one before this ends.
    pub highest: i64,
}

const COLUMNS: &str = "id, forecaster, version_a, version_b, share_b, labels, sensor, days, settle_hours, foreseen, status, reason, \
                       report, created_by, created_at, started_at, ends_at, stop_by, stop_reason, finished_at, now() AS now";
const MEMBERS: &str =
    "SELECT device, arm, generation, state, reason, joined_at FROM experiment_devices
                       WHERE experiment = $1 ORDER BY device";

/// The experiment that holds a forecaster's devices; final only under the lock of [`desired::lock`].
pub(crate) async fn holding(
    connection: &mut PgConnection,
    forecaster: &str,
) -> std::result::Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT max(id) FROM experiments WHERE forecaster = $1 AND status IN ('planned', 'running')",
    )
    .bind(forecaster)
    .fetch_one(connection)
    .await
}

/// What keeps an experiment of two versions from starting; final only under the lock of [`desired::lock`].
async fn in_the_way(
    connection: &mut PgConnection,
    forecaster: &str,
    versions: [i64; 2],
) -> std::result::Result<Option<Begun>, sqlx::Error> {
    let rollout: Option<i64> = sqlx::query_scalar(
        "SELECT max(id) FROM rollouts WHERE forecaster = $1 AND finished_at IS NULL",
    )
    .bind(forecaster)
    .fetch_one(&mut *connection)
    .await?;
    if let Some(rollout) = rollout {
        return Ok(Some(Begun::Rollout(rollout)));
    }
    if let Some(other) = holding(connection, forecaster).await? {
        return Ok(Some(Begun::Experiment(other)));
    }
    for version in versions {
        if !aliases::is_there(connection, forecaster, version).await? {
            return Ok(Some(Begun::Gone(version)));
        }
    }
    Ok(None)
}

impl Store {
    /// What keeps an experiment from starting at the moment, asked before anything is measured for it.
    ///
    /// # Errors
    /// The database.
    pub async fn in_the_way(&self, forecaster: &str, versions: [i64; 2]) -> Result<Option<Begun>> {
        let failed = || format!("look for what is in the way of an experiment of {forecaster}");
        let mut connection = self.pool().acquire().await.during(failed())?;
        in_the_way(&mut connection, forecaster, versions)
            .await
            .during(failed())
    }

    /// Starts an experiment, with the decision that says so, in one transaction; `decision` names the forecaster and who.
    ///
    /// # Errors
    /// The database.
    pub async fn create_experiment(
        &self,
        new: &NewExperiment<'_>,
        decision: &NewDecision<'_>,
    ) -> Result<Begun> {
        let forecaster = decision.forecaster;
        let failed = || format!("start an experiment of {forecaster}");
        let mut tx = self.pool().begin().await.during(failed())?;
        desired::lock(&mut tx, forecaster).await.during(failed())?;
        let found = in_the_way(&mut tx, forecaster, [new.version_a, new.version_b]).await;
        if let Some(found) = found.during(failed())? {
            return Ok(found);
        }
        let id = sqlx::query_scalar(
            "INSERT INTO experiments (forecaster, version_a, version_b, share_b, labels, sensor, days, settle_hours, foreseen,
                created_by) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING id",
        )
        .bind(forecaster)
        .bind(new.version_a)
        .bind(new.version_b)
        .bind(new.share_b)
        .bind(new.labels)
        .bind(new.sensor)
        .bind(new.days)
        .bind(new.settle_hours)
        .bind(new.foreseen)
        .bind(decision.decided_by)
        .fetch_one(&mut *tx)
        .await
        .during(failed())?;
        decisions::insert(&mut tx, decision)
            .await
            .during(failed())?;
        tx.commit().await.during(failed())?;
        Ok(Begun::Started(id))
    }

    /// Experiments, newest first, below `before` where it is given.
    ///
    /// # Errors
    /// The database.
    pub async fn experiments(
        &self,
        forecaster: Option<&str>,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<ExperimentRow>> {
        let select = format!("SELECT {COLUMNS} FROM experiments");
        let of = ("forecaster", forecaster);
        let rows = self.newest(&select, of, (before, limit)).await;
        rows.during("list experiments")
    }

    /// Experiments that are to be moved or reported, oldest first.
    ///
    /// # Errors
    /// The database.
    pub async fn open_experiments(&self) -> Result<Vec<ExperimentRow>> {
        sqlx::query_as(AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM experiments WHERE report IS NULL ORDER BY id"
        )))
        .fetch_all(self.pool())
        .await
        .during("list open experiments")
    }

    /// The experiment that holds a forecaster's devices.
    ///
    /// # Errors
    /// The database.
    pub async fn holding_experiment(&self, forecaster: &str) -> Result<Option<i64>> {
        let failed = || format!("look for an experiment of {forecaster}");
        let mut connection = self.pool().acquire().await.during(failed())?;
        holding(&mut connection, forecaster).await.during(failed())
    }

    /// One experiment and its devices.
    ///
    /// # Errors
    /// The database.
    pub async fn experiment(&self, id: i64) -> Result<Option<(ExperimentRow, Vec<MemberRow>)>> {
        let failed = || format!("read experiment {id}");
        let row: Option<ExperimentRow> = sqlx::query_as(AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM experiments WHERE id = $1"
        )))
        .bind(id)
        .fetch_optional(self.pool())
        .await
        .during(failed())?;
        let Some(row) = row else { return Ok(None) };
        let members = sqlx::query_as(MEMBERS).bind(id).fetch_all(self.pool());
        Ok(Some((row, members.await.during(failed())?)))
    }

    /// Devices of an experiment by name, behind `after`.
    ///
    /// # Errors
    /// The database.
    pub async fn experiment_devices(
        &self,
        id: i64,
        after: &str,
        limit: i64,
    ) -> Result<Vec<MemberRow>> {
        sqlx::query_as(
            "SELECT device, arm, generation, state, reason, joined_at FROM experiment_devices
             WHERE experiment = $1 AND device > $2 ORDER BY device LIMIT $3",
        )
        .bind(id)
        .bind(after)
        .bind(limit)
        .fetch_all(self.pool())
        .await
        .during(format!("list the devices of experiment {id}"))
    }

    /// Asks the hub that drives experiments to end one. False: no such experiment, or its time is over.
    ///
    /// # Errors
    /// The database.
    pub async fn stop_experiment(&self, id: i64, who: &str, reason: &str) -> Result<bool> {
        let done = sqlx::query(
            "UPDATE experiments SET stop_by = $2, stop_reason = $3
             WHERE id = $1 AND status IN ('planned', 'running')",
        )
        .bind(id)
        .bind(who)
        .bind(reason)
        .execute(self.pool())
        .await
        .during(format!("stop experiment {id}"))?;
        Ok(done.rows_affected() > 0)
    }

    /// Keeps the report of an experiment that has ended; the first one stays.
    ///
    /// # Errors
    /// The database.
    pub async fn keep_report(&self, id: i64, report: &Value) -> Result<()> {
        sqlx::query("UPDATE experiments SET report = $2 WHERE id = $1 AND report IS NULL")
            .bind(id)
            .bind(report)
            .execute(self.pool())
            .await
            .map(drop)
            .during(format!("keep the report of experiment {id}"))
    }

    /// At most `limit` devices with all of `labels` that may connect, have said what they run, and are not in experiment `id`
    /// (0: whatever they are in).
    ///
    /// # Errors
    /// The database.
    pub async fn candidates(&self, id: i64, labels: &Value, limit: i64) -> Result<Vec<HeardRow>> {
        sqlx::query_as(
            "SELECT d.id AS device, s.raw, s.received_at FROM devices d JOIN device_states s ON s.device = d.id
             WHERE d.labels @> $2 AND (d.token_hash IS NOT NULL OR d.session > 0)
             AND NOT EXISTS (SELECT FROM experiment_devices x WHERE x.experiment = $1 AND x.device = d.id)
             ORDER BY d.id LIMIT $3",
        )
        .bind(id)
        .bind(labels)
        .bind(limit)
        .fetch_all(self.pool())
        .await
        .during("look for devices that may join an experiment")
    }

    /// What the devices of an experiment said, from `since` on where it is given.
    ///
    /// # Errors
    /// The database.
    pub async fn heard_of(&self, id: i64, since: Option<DateTime<Utc>>) -> Result<Vec<HeardRow>> {
        sqlx::query_as(
            "SELECT s.device, s.raw, s.received_at FROM experiment_devices x JOIN device_states s ON s.device = x.device
             WHERE x.experiment = $1 AND ($2::timestamptz IS NULL OR s.received_at >= $2) ORDER BY s.device",
        )
        .bind(id)
        .bind(since)
        .fetch_all(self.pool())
        .await
        .during(format!("read what the devices of experiment {id} said"))
    }

    /// Takes the row lock of an experiment that has not ended, and the sole right to give orders for its forecaster; none
    /// where another hub holds it.
    ///
    /// # Errors
    /// The database.
    pub async fn lock_experiment(&self, id: i64) -> Result<Option<LockedExperiment>> {
        let failed = || format!("lock experiment {id}");
        let mut tx = self.pool().begin().await.during(failed())?;
        let row: Option<ExperimentRow> = sqlx::query_as(AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM experiments WHERE id = $1 AND finished_at IS NULL FOR UPDATE SKIP LOCKED"
        )))
        .bind(id)
        .fetch_optional(&mut *tx)
        .await
        .during(failed())?;
        let Some(row) = row else { return Ok(None) };
        desired::lock(&mut tx, &row.forecaster)
            .await
            .during(failed())?;
        let highest = desired::highest(&mut tx, &row.forecaster)
            .await
            .during(failed())?;
        let members = sqlx::query_as(MEMBERS)
            .bind(id)
            .fetch_all(&mut *tx)
            .await
            .during(failed())?;
        Ok(Some(LockedExperiment {
            tx,
            row,
            members,
            highest,
        }))
    }
}

impl LockedExperiment {
    /// Stores how devices do; those that are new join now.
    ///
    /// # Errors
    /// The database.
    pub async fn put_members(&mut self, members: &[NewMember<'_>]) -> Result<()> {
        sqlx::query(
            "INSERT INTO experiment_devices (experiment, device, arm, generation, state, reason)
             SELECT $1, m.* FROM unnest($2::text[], $3::text[], $4::int8[], $5::text[], $6::text[]) AS m
             ON CONFLICT (experiment, device) DO UPDATE SET state = excluded.state, reason = excluded.reason",
        )
        .bind(self.row.id)
        .bind(members.iter().map(|m| m.device).collect::<Vec<_>>())
        .bind(members.iter().map(|m| m.arm).collect::<Vec<_>>())
        .bind(members.iter().map(|m| m.generation).collect::<Vec<_>>())
        .bind(members.iter().map(|m| m.state).collect::<Vec<_>>())
        .bind(members.iter().map(|m| m.reason).collect::<Vec<_>>())
        .execute(&mut *self.tx)
        .await
        .map(drop)
        .during(format!("store the devices of experiment {}", self.row.id))
    }

    /// Stores orders, at most one for each device; how many: not those where one of at least its generation stands.
    ///
    /// # Errors
    /// The database.
    pub async fn order(&mut self, orders: &[NewOrder<'_>]) -> Result<u64> {
        desired::put(&mut self.tx, orders)
            .await
            .during(format!("order the versions of experiment {}", self.row.id))
    }

    /// Stores the machine's state and, where one is given, the decision about it.
    ///
    /// # Errors
    /// The database.
    pub async fn save(
        &mut self,
        (status, reason): (&str, &str),
        (started_at, ends_at): (Option<DateTime<Utc>>, Option<DateTime<Utc>>),
        ended: bool,
        decision: Option<&NewDecision<'_>>,
    ) -> Result<()> {
        let failed = format!("move experiment {}", self.row.id);
        sqlx::query(
            "UPDATE experiments SET status = $2, reason = $3, started_at = $4, ends_at = $5,
                finished_at = CASE WHEN $6 THEN now() END WHERE id = $1",
        )
        .bind(self.row.id)
        .bind(status)
        .bind(reason)
        .bind(started_at)
        .bind(ends_at)
        .bind(ended)
        .execute(&mut *self.tx)
        .await
        .during(failed.as_str())?;
        if let Some(decision) = decision {
            let stored = decisions::insert(&mut self.tx, decision).await;
            stored.during(failed)?;
        }
        Ok(())
    }

    /// Ends the lock, keeping what was stored.
    ///
    /// # Errors
    /// The database.
    pub async fn commit(self) -> Result<()> {
        let failed = format!("move experiment {}", self.row.id);
        self.tx.commit().await.during(failed)
    }
}
