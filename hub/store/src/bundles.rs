//! Table `bundles`: owns sealed bundles by their digest, never opens one.

use fieldcast_wire::Sha256;
use sqlx::{PgConnection, Postgres, Transaction};

use crate::decisions::{self, NewDecision};
use crate::desired;
use crate::error::{Context as _, Result};
use crate::{Store, StoreError};

/// A version whose bundle is there.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct HeldRow {
    /// Version.
    pub version: i64,
    /// SHA-256 of its bundle.
    pub bundle: Vec<u8>,
}

/// A device's order in a rollout, under which it was connected: it may have obeyed it without having said so yet.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct OrderedRow {
    /// Device.
    pub device: String,
    /// Generation of the order.
    pub generation: i64,
    /// Version that was rolled out.
    pub version: i64,
    /// Version to go back to.
    pub previous: Option<i64>,
}

/// A device's word.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct StateRow {
    /// Device.
    pub device: String,
    /// Its last state message as it came.
    pub raw: Vec<u8>,
}

/// The bundles of a forecaster while nobody can start a rollout of them, give them a title or order them.
#[derive(Debug)]
pub struct LockedBundles {
    tx: Transaction<'static, Postgres>,
    forecaster: String,
    /// Versions whose bundle is there, newest first.
    pub held: Vec<HeldRow>,
    /// Versions that are champion, challenger, rolled out, gone back to, ordered of a device, or lately given back by a person.
    pub named: Vec<i64>,
    /// What devices were ordered in rollouts from or to one of these versions.
    pub ordered: Vec<OrderedRow>,
    /// What devices last said.
    pub states: Vec<StateRow>,
}

/// Stores a bundle under its digest; also where it had been removed.
pub(crate) async fn put(
    connection: &mut PgConnection,
    sha: &[u8],
    bytes: &[u8],
) -> std::result::Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO bundles (sha, bytes) VALUES ($1, $2)
         ON CONFLICT (sha) DO UPDATE SET bytes = excluded.bytes, removed_at = NULL, restored_at = now()
         WHERE bundles.removed_at IS NOT NULL",
    )
    .bind(sha)
    .bind(bytes)
    .execute(connection)
    .await
    .map(drop)
}

impl Store {
    /// Gives a bundle that was removed back to its version, with the decision that says so, in one transaction.
    ///
    /// # Errors
    /// The database.
    pub async fn restore_bundle(&self, bytes: &[u8], decision: &NewDecision<'_>) -> Result<()> {
        let sha = Sha256::of(bytes);
        let failed = || format!("give back bundle {}", sha.short());
        let mut tx = self.pool().begin().await.during(failed())?;
        desired::lock(&mut tx, decision.forecaster)
            .await
            .during(failed())?;
        put(&mut tx, &sha.0, bytes).await.during(failed())?;
        decisions::insert(&mut tx, decision)
            .await
            .during(failed())?;
        tx.commit().await.during(failed())
    }

    /// A whole bundle; none where there is none, or it was removed.
    ///
    /// # Errors
    /// The database.
    pub async fn bundle(&self, sha: &Sha256) -> Result<Option<Vec<u8>>> {
        sqlx::query_scalar("SELECT bytes FROM bundles WHERE sha = $1 AND removed_at IS NULL")
            .bind(&sha.0[..])
            .fetch_optional(self.pool())
            .await
            .during(format!("read bundle {}", sha.short()))
    }

    /// Forecasters with more than so many bundles.
    ///
    /// # Errors
    /// The database.
    pub async fn many_bundles(&self, more_than: i64) -> Result<Vec<String>> {
        sqlx::query_scalar(
            "SELECT m.forecaster FROM model_versions m JOIN bundles b ON b.sha = m.bundle
             WHERE b.removed_at IS NULL GROUP BY m.forecaster HAVING count(*) > $1 ORDER BY 1",
        )
        .bind(more_than)
        .fetch_all(self.pool())
        .await
        .during("count bundles")
    }

    /// Waits for the sole right to give orders and start rollouts of a forecaster, and reads what its bundles are needed for.
    ///
    /// # Errors
    /// The database.
    pub async fn lock_bundles(&self, forecaster: &str) -> Result<LockedBundles> {
        let failed = |source: sqlx::Error| StoreError {
            operation: format!("look for bundles of {forecaster} that nobody needs"),
            source,
        };
        let mut tx = self.pool().begin().await.map_err(failed)?;
        desired::lock(&mut tx, forecaster).await.map_err(failed)?;
        let held: Vec<HeldRow> = sqlx::query_as(
            "SELECT m.version, m.bundle FROM model_versions m JOIN bundles b ON b.sha = m.bundle
             WHERE m.forecaster = $1 AND b.removed_at IS NULL ORDER BY m.version DESC",
        )
        .bind(forecaster)
        .fetch_all(&mut *tx)
        .await
        .map_err(failed)?;
        // Of ended rollouts only the newest that succeeded: what it replaced is what a person would go back to. What a person gave back
        // is meant to be used: without these days it would be gone within the hour.
        let named = sqlx::query_scalar(
            "SELECT version FROM champions WHERE forecaster = $1
             UNION SELECT version FROM challengers WHERE forecaster = $1
             UNION SELECT model_version FROM desired WHERE forecaster = $1
             UNION SELECT model_version FROM rollouts WHERE forecaster = $1 AND finished_at IS NULL
             UNION SELECT m.version FROM model_versions m JOIN bundles b ON b.sha = m.bundle
                WHERE m.forecaster = $1 AND b.restored_at > now() - interval '30 days'
             UNION SELECT unnest(ARRAY[version_a, version_b]) FROM experiments
                WHERE forecaster = $1 AND status IN ('planned', 'running')
             UNION SELECT previous_version FROM rollouts WHERE forecaster = $1 AND previous_version IS NOT NULL
                AND (finished_at IS NULL OR id = (SELECT max(id) FROM rollouts
                    WHERE forecaster = $1 AND status = 'succeeded' AND previous_version <> model_version))",
        )
        .bind(forecaster)
        .fetch_all(&mut *tx)
        .await
        .map_err(failed)?;
        let there: Vec<i64> = held.iter().map(|h| h.version).collect();
        // Rollouts of before kept no time of connection.
        let ordered = sqlx::query_as(
            "SELECT d.device, d.generation, r.model_version AS version, r.previous_version AS previous
             FROM deployments d JOIN rollouts r ON r.id = d.rollout WHERE r.forecaster = $1 AND d.generation > 0
             AND (r.model_version = ANY($2) OR r.previous_version = ANY($2))
             AND (coalesce((d.machine->>'waited_ms')::bigint, 1) > 0 OR d.machine->>'online_since' IS NOT NULL)",
        )
        .bind(forecaster)
        .bind(&there)
        .fetch_all(&mut *tx)
        .await
        .map_err(failed)?;
        let states = sqlx::query_as("SELECT device, raw FROM device_states")
            .fetch_all(&mut *tx)
            .await
            .map_err(failed)?;
        Ok(LockedBundles {
            tx,
            forecaster: forecaster.to_owned(),
            held,
            named,
            ordered,
            states,
        })
    }
}

impl LockedBundles {
    /// Removes the bytes of bundles; their versions stay, without them.
    ///
    /// # Errors
    /// The database.
    pub async fn remove(mut self, bundles: &[Vec<u8>]) -> Result<()> {
        let failed = || format!("remove bundles of {}", self.forecaster);
        sqlx::query(
            "UPDATE bundles SET size = length(bytes), bytes = '', removed_at = now()
             WHERE sha = ANY($1) AND removed_at IS NULL",
        )
        .bind(bundles)
        .execute(&mut *self.tx)
        .await
        .during(failed())?;
        let failed = failed();
        self.tx.commit().await.during(failed)
    }
}
