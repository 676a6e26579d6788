//! Tables `champions` and `challengers`: owns who holds which title of a forecaster, never who deserves it.

use sqlx::PgConnection;

use crate::decisions::{self, NewDecision};
use crate::desired;
use crate::error::{Context as _, Result};
use crate::experiments;
use crate::rollouts::RolloutRow;
use crate::{Store, StoreError};

/// What became of a title that a person moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// It has moved.
    Done,
    /// It was there.
    Same,
    /// A rollout of the forecaster is open: its outcome moves the title.
    Open(i64),
    /// An experiment holds devices of the forecaster.
    Experiment(i64),
    /// No such version, or its bundle was removed.
    Gone,
}

/// A title.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Title {
    /// What devices run.
    Champion,
    /// What may take its place.
    Challenger,
}

impl Title {
    fn table(self) -> &'static str {
        match self {
            Self::Champion => "champions",
            Self::Challenger => "challengers",
        }
    }
}

/// Gives a title; false where the version holds it already, and not on trial.
pub(crate) async fn give(
    connection: &mut PgConnection,
    title: Title,
    forecaster: &str,
    version: i64,
    by: &str,
) -> std::result::Result<bool, sqlx::Error> {
    let table = title.table();
    // A title that is held stays held since when it was.
    let sql = format!(
        "INSERT INTO {table} (forecaster, version, set_by) VALUES ($1, $2, $3)
         ON CONFLICT (forecaster, grp) DO UPDATE SET version = excluded.version, set_by = excluded.set_by, since = now()
         WHERE {table}.version <> excluded.version"
    );
    let done = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(forecaster)
        .bind(version)
        .bind(by)
        .execute(&mut *connection)
        .await?;
    let mut moved = done.rows_affected();
    if title == Title::Champion {
        let confirmed = sqlx::query(
            "UPDATE champions SET on_trial = false, set_by = $2 WHERE forecaster = $1 AND grp = 'all' AND on_trial",
        )
        .bind(forecaster)
        .bind(by)
        .execute(connection)
        .await?;
        moved += confirmed.rows_affected();
    }
    Ok(moved > 0)
}

/// A forecaster's first model has nobody to beat: where there is no champion, its rollout begins with the title on trial.
pub(crate) async fn try_first(
    connection: &mut PgConnection,
    forecaster: &str,
    version: i64,
    by: &str,
) -> std::result::Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO champions (forecaster, version, set_by, on_trial) VALUES ($1, $2, $3, true) ON CONFLICT DO NOTHING",
    )
    .bind(forecaster)
    .bind(version)
    .bind(by)
    .execute(connection)
    .await
    .map(drop)
}

/// The rollout of a champion on trial ended without confirming it: it loses the title, unless another rollout of it is open.
pub(crate) async fn depose(
    connection: &mut PgConnection,
    rollout: &RolloutRow,
) -> std::result::Result<(), sqlx::Error> {
    sqlx::query(
        "DELETE FROM champions WHERE forecaster = $1 AND version = $2 AND on_trial AND NOT EXISTS (SELECT FROM rollouts r
            WHERE r.forecaster = $1 AND r.model_version = $2 AND r.finished_at IS NULL AND r.id <> $3)",
    )
    .bind(&rollout.forecaster)
    .bind(rollout.model_version)
    .bind(rollout.id)
    .execute(connection)
    .await
    .map(drop)
}

/// A rollout begins: what it rolls out is the challenger, unless it is the champion already.
pub(crate) async fn challenge(
    connection: &mut PgConnection,
    forecaster: &str,
    version: i64,
    by: &str,
) -> std::result::Result<(), sqlx::Error> {
    let champion: Option<i64> =
        sqlx::query_scalar("SELECT version FROM champions WHERE forecaster = $1 AND grp = 'all'")
            .bind(forecaster)
            .fetch_optional(&mut *connection)
            .await?;
    if champion == Some(version) {
        return Ok(());
    }
    give(connection, Title::Challenger, forecaster, version, by)
        .await
        .map(drop)
}

/// A version is the challenger no longer, unless it is being rolled out: it won, or it went back.
pub(crate) async fn retire(
    connection: &mut PgConnection,
    forecaster: &str,
    version: i64,
) -> std::result::Result<(), sqlx::Error> {
    sqlx::query(
        "DELETE FROM challengers WHERE forecaster = $1 AND version = $2 AND NOT EXISTS (SELECT FROM rollouts r
            WHERE r.forecaster = $1 AND r.model_version = $2 AND r.finished_at IS NULL)",
    )
        .bind(forecaster)
        .bind(version)
        .execute(connection)
        .await
        .map(drop)
}

/// Whether a version's bundle is there. Under the lock of [`desired::lock`] it stays so.
pub(crate) async fn is_there(
    connection: &mut PgConnection,
    forecaster: &str,
    version: i64,
) -> std::result::Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM model_versions m JOIN bundles b ON b.sha = m.bundle
            WHERE m.forecaster = $1 AND m.version = $2 AND b.removed_at IS NULL)",
    )
    .bind(forecaster)
    .bind(version)
    .fetch_one(connection)
    .await
}

impl Store {
    /// Moves a title in a person's name, with the decision that says so, in one transaction.
    ///
    /// # Errors
    /// The database.
    pub async fn move_title(
        &self,
        title: Title,
        version: i64,
        decision: &NewDecision<'_>,
    ) -> Result<Moved> {
        let forecaster = decision.forecaster;
        let failed = |source: sqlx::Error| StoreError {
            operation: format!("move a title of {forecaster}"),
            source,
        };
        let mut tx = self.pool().begin().await.map_err(failed)?;
        desired::lock(&mut tx, forecaster).await.map_err(failed)?;
        let open: Option<i64> = sqlx::query_scalar(
            "SELECT max(id) FROM rollouts WHERE forecaster = $1 AND finished_at IS NULL",
        )
        .bind(forecaster)
        .fetch_one(&mut *tx)
        .await
        .map_err(failed)?;
        if let Some(open) = open {
            return Ok(Moved::Open(open));
        }
        if let Some(open) = experiments::holding(&mut tx, forecaster)
            .await
            .map_err(failed)?
        {
            return Ok(Moved::Experiment(open));
        }
        if !is_there(&mut tx, forecaster, version)
            .await
            .map_err(failed)?
        {
            return Ok(Moved::Gone);
        }
        let moved = give(&mut tx, title, forecaster, version, decision.decided_by)
            .await
            .map_err(failed)?;
        if !moved {
            return Ok(Moved::Same);
        }
        if title == Title::Champion {
            retire(&mut tx, forecaster, version).await.map_err(failed)?;
        }
        decisions::insert(&mut tx, decision).await.map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        Ok(Moved::Done)
    }

    /// The version that holds a title.
    ///
    /// # Errors
    /// The database.
    pub async fn holder(&self, title: Title, forecaster: &str) -> Result<Option<i64>> {
        let table = title.table();
        let sql = format!("SELECT version FROM {table} WHERE forecaster = $1 AND grp = 'all'");
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .bind(forecaster)
            .fetch_optional(self.pool())
            .await
            .during(format!("read a title of {forecaster}"))
    }
}
