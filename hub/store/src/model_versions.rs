//! Table `model_versions`: owns immutable versions with their lineage and titles, never decides who gets one.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::aliases;
use crate::bundles;
use crate::decisions::{self, NewDecision};
use crate::desired;
use crate::error::Context as _;
use crate::experiments;
use crate::jobs::Claim;
use crate::rollouts::BY_TRAINING;
use crate::rollouts::{self, NewRollout};
use crate::{Result, Store, StoreError};

/// One model version.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct ModelVersionRow {
    /// Forecaster.
    pub forecaster: String,
    /// Counts up, never reused.
    pub version: i64,
    /// SHA-256 of the bundle, hexadecimal.
    pub bundle: String,
    /// Bytes of the bundle.
    pub bundle_size: i64,
    /// The bundle's manifest without its golden vectors, which are for machines that run the bundle.
    pub manifest: Value,
    /// Scores beside the baselines.
    pub metrics: Value,
    /// Snapshot, spec, seed, code version, training run.
    pub lineage: Value,
    /// Whether it is the champion of group `all`.
    pub champion: bool,
    /// Whether it holds that title on trial: nobody has run it yet but by its own rollout.
    pub on_trial: bool,
    /// Whether it is the challenger of group `all`.
    pub challenger: bool,
    /// When its bundle was removed: devices cannot be ordered to run it any more.
    pub removed_at: Option<DateTime<Utc>>,
    /// Made.
    pub created_at: DateTime<Utc>,
}

/// A version about to be stored.
#[derive(Debug, Clone)]
pub struct NewModelVersion<'a> {
    /// Forecaster.
    pub forecaster: &'a str,
    /// Version, as in the manifest.
    pub version: i64,
    /// SHA-256 of the bundle.
    pub sha: &'a [u8],
    /// The bundle's bytes.
    pub bytes: &'a [u8],
    /// The bundle's manifest.
    pub manifest: &'a Value,
    /// Scores beside the baselines.
    pub metrics: &'a Value,
    /// Snapshot, spec, seed, code version, training run.
    pub lineage: &'a Value,
    /// Challenger against champion.
    pub verdict: &'a Value,
    /// Scores of the run, beside the baselines.
    pub scores: &'a Value,
}

/// What a training run concludes.
#[derive(Debug, Clone)]
pub struct Conclusion<'a> {
    /// The version it made.
    pub model: NewModelVersion<'a>,
    /// Why it is rolled out or kept back.
    pub decision: NewDecision<'a>,
    /// Its rollout, where it is better than the champion or the first.
    pub rollout: Option<NewRollout<'a>>,
    /// The champion that it was judged against: what was judged is stored only while that is the champion. None also where nothing was
    /// judged, as in a run that is made again.
    pub champion: Option<i64>,
    /// The job's result; the rollout's number is added.
    pub result: Value,
}

/// What became of a conclusion.
#[derive(Debug, Clone, PartialEq)]
pub enum Concluded {
    /// Stored, with the job's result.
    Stored(Value),
    /// Nothing is stored: the job is another worker's, or was cancelled.
    ClaimLost,
    /// Nothing is stored: the version is another model's by now, or the champion is another one.
    Overtaken,
}

const SELECT: &str = "SELECT m.forecaster, m.version, encode(m.bundle, 'hex') AS bundle, \
    coalesce(b.size, length(b.bytes))::bigint AS bundle_size, m.manifest - 'golden' AS manifest, m.metrics, m.lineage, \
    (c.version IS NOT NULL) AS champion, coalesce(c.on_trial, false) AS on_trial, (h.version IS NOT NULL) AS challenger, b.removed_at, m.created_at \
    FROM model_versions m JOIN bundles b ON b.sha = m.bundle \
    LEFT JOIN champions c ON c.forecaster = m.forecaster AND c.version = m.version AND c.grp = 'all' \
    LEFT JOIN challengers h ON h.forecaster = m.forecaster AND h.version = m.version AND h.grp = 'all'";

async fn insert(
    connection: &mut PgConnection,
    new: &NewModelVersion<'_>,
) -> std::result::Result<(), sqlx::Error> {
    bundles::put(connection, new.sha, new.bytes).await?;
    sqlx::query(
        "INSERT INTO model_versions (forecaster, version, bundle, manifest, metrics, lineage)
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(new.forecaster)
    .bind(new.version)
    .bind(new.sha)
    .bind(new.manifest)
    .bind(new.metrics)
    .bind(new.lineage)
    .execute(connection)
    .await
    .map(drop)
}

async fn insert_trained(
    connection: &mut PgConnection,
    claim: &Claim<'_>,
    new: &NewModelVersion<'_>,
) -> std::result::Result<(), sqlx::Error> {
    insert(connection, new).await?;
    sqlx::query(
        "UPDATE training_runs SET scores = $2, verdict = $3, model_version = $4, checkpoint = NULL WHERE id = $1",
    )
    .bind(claim.job)
    .bind(new.scores)
    .bind(new.verdict)
    .bind(new.version)
    .execute(connection)
    .await
    .map(drop)
}

impl Store {
    /// The highest version ever stored for a forecaster; 0 where there is none.
    ///
    /// # Errors
    /// The database.
    pub async fn highest_model_version(&self, forecaster: &str) -> Result<i64> {
        let (version,): (i64,) = sqlx::query_as(
            "SELECT coalesce(max(version), 0) FROM model_versions WHERE forecaster = $1",
        )
        .bind(forecaster)
        .fetch_one(self.pool())
        .await
        .during(format!("read the versions of {}", forecaster))?;
        Ok(version)
    }

    /// Stores all that a training run concludes in one transaction: bundle, version, scores, decision, rollout and the
    /// job's result, which it returns.
    ///
    /// # Errors
    /// The database.
    pub async fn conclude_training(
        &self,
        claim: &Claim<'_>,
        conclusion: &Conclusion<'_>,
    ) -> Result<Concluded> {
        let new = &conclusion.model;
        let failed = |source: sqlx::Error| StoreError {
            operation: format!("store a model version of {}", new.forecaster),
            source,
        };
        let mut tx = self.pool().begin().await.map_err(failed)?;
        if !claim.stands(&mut tx).await.map_err(failed)? {
            return Ok(Concluded::ClaimLost);
        }
        desired::lock(&mut tx, new.forecaster)
            .await
            .map_err(failed)?;
        let (taken, champion): (bool, Option<i64>) = sqlx::query_as(
            "SELECT EXISTS (SELECT FROM model_versions WHERE forecaster = $1 AND version = $2),
                (SELECT version FROM champions WHERE forecaster = $1 AND grp = 'all')",
        )
        .bind(new.forecaster)
        .bind(new.version)
        .fetch_one(&mut *tx)
        .await
        .map_err(failed)?;
        // One that is kept back says nothing either where its champion is gone: it was worse than a model that nobody runs any more.
        let judged = conclusion.rollout.is_some() || conclusion.champion.is_some();
        if taken || (judged && champion != conclusion.champion) {
            return Ok(Concluded::Overtaken);
        }
        insert_trained(&mut tx, claim, new).await.map_err(failed)?;
        // A version that comes while an experiment holds the devices is kept for whoever starts its rollout afterwards.
        let held = experiments::holding(&mut tx, new.forecaster)
            .await
            .map_err(failed)?
            .filter(|_| conclusion.rollout.is_some());
        let mut decision = conclusion.decision.clone();
        let waits = held.map(|experiment| {
            format!(
                "{}; experiment {experiment} holds the devices: start its rollout once that is over",
                decision.reason
            )
        });
        if let Some(reason) = &waits {
            (decision.decision, decision.reason) = ("wait", reason);
        }
        decisions::insert(&mut tx, &decision)
            .await
            .map_err(failed)?;
        let rollout = conclusion.rollout.as_ref().filter(|_| held.is_none());
        let rollout = match rollout {
            Some(rollout) => {
                // Before the rollout, which makes whoever is no champion the challenger.
                let by = format!("{BY_TRAINING}{}", claim.job);
                aliases::try_first(&mut tx, new.forecaster, new.version, &by)
                    .await
                    .map_err(failed)?;
                Some(rollouts::insert(&mut tx, rollout).await.map_err(failed)?)
            }
            None => None,
        };
        // A worker that dies between COMMIT and its last word leaves the result to the next one.
        let result = sqlx::query_scalar(
            "UPDATE jobs SET result = $2::jsonb || jsonb_build_object('rollout', $3::bigint) WHERE id = $1 RETURNING result",
        )
        .bind(claim.job)
        .bind(&conclusion.result)
        .bind(rollout)
        .fetch_one(&mut *tx)
        .await
        .map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        Ok(Concluded::Stored(result))
    }

    /// Stores a version that was made elsewhere, with the decision that says so, in one transaction. It gets no title.
    ///
    /// # Errors
    /// The database; also where the version exists.
    pub async fn import_model_version(
        &self,
        new: &NewModelVersion<'_>,
        decision: &NewDecision<'_>,
    ) -> Result<()> {
        let failed = |source: sqlx::Error| StoreError {
            operation: format!("import a model version of {}", new.forecaster),
            source,
        };
        let mut tx = self.pool().begin().await.map_err(failed)?;
        desired::lock(&mut tx, new.forecaster)
            .await
            .map_err(failed)?;
        insert(&mut tx, new).await.map_err(failed)?;
        decisions::insert(&mut tx, decision).await.map_err(failed)?;
        tx.commit().await.map_err(failed)
    }

    /// Versions, newest first; of one forecaster where it is named, below row `before` where it is given.
    ///
    /// # Errors
    /// The database.
    pub async fn model_versions(
        &self,
        forecaster: Option<&str>,
        offset: i64,
        limit: i64,
    ) -> Result<Vec<ModelVersionRow>> {
        let sql = format!(
            "{SELECT} WHERE ($1::text IS NULL OR m.forecaster = $1)
             ORDER BY m.created_at DESC, m.forecaster, m.version DESC OFFSET $2 LIMIT $3"
        );
        sqlx::query_as(AssertSqlSafe(sql))
            .bind(forecaster)
            .bind(offset)
            .bind(limit)
            .fetch_all(self.pool())
            .await
            .during("list model versions")
    }

    /// One version.
    ///
    /// # Errors
    /// The database.
    pub async fn model_version(
        &self,
        forecaster: &str,
        version: i64,
    ) -> Result<Option<ModelVersionRow>> {
        sqlx::query_as(AssertSqlSafe(format!(
            "{SELECT} WHERE m.forecaster = $1 AND m.version = $2"
        )))
        .bind(forecaster)
        .bind(version)
        .fetch_optional(self.pool())
        .await
        .during(format!("read a model version of {}", forecaster))
    }

    /// Versions that have been champions and can still be ordered, newest first.
    ///
    /// # Errors
    /// The database.
    pub async fn past_champions(&self, forecaster: &str) -> Result<Vec<ModelVersionRow>> {
        sqlx::query_as(AssertSqlSafe(format!(
            "{SELECT} WHERE m.forecaster = $1 AND c.version IS NULL AND b.removed_at IS NULL
             AND EXISTS (SELECT FROM rollouts o WHERE o.forecaster = m.forecaster AND o.model_version = m.version
                AND o.status = 'succeeded')
             ORDER BY m.version DESC"
        )))
        .bind(forecaster)
        .fetch_all(self.pool())
        .await
        .during(format!("read the past champions of {}", forecaster))
    }

    /// The champion of group `all`.
    ///
    /// # Errors
    /// The database.
    pub async fn champion(&self, forecaster: &str) -> Result<Option<ModelVersionRow>> {
        sqlx::query_as(AssertSqlSafe(format!("{SELECT} WHERE c.forecaster = $1")))
            .bind(forecaster)
            .fetch_optional(self.pool())
            .await
            .during(format!("read the champion of {}", forecaster))
    }
}
