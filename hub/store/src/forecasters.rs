//! Table `forecasters`: owns every definition a forecaster ever had, never judges one.

use chrono::{DateTime, Utc};
use fieldcast_features::ForecasterSpec;
use serde::Serialize;
use sqlx::AssertSqlSafe;
use sqlx::types::Json;

use crate::error::Context as _;
use crate::{Result, Store, StoreError};

/// One version of a forecaster's definition.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct ForecasterRow {
    /// Name.
    pub name: String,
    /// Counts from 1.
    pub version: i64,
    /// The definition.
    #[sqlx(json)]
    pub spec: ForecasterSpec,
    /// When it is retrained, as the hub's triggers have it.
    pub retraining: serde_json::Value,
    /// How its new models reach devices, as the hub's rollouts have it.
    pub rollout: serde_json::Value,
    /// When it was applied.
    pub created_at: DateTime<Utc>,
}

const CURRENT: &str = "SELECT DISTINCT ON (name) name, version, spec, retraining, rollout, created_at FROM forecasters";

impl Store {
    /// Stores a definition as the next version where it differs from the one in force.
    /// Returns the version in force and whether it is new.
    ///
    /// # Errors
    /// The database.
    pub async fn apply_forecaster(
        &self,
        spec: &ForecasterSpec,
        retraining: &serde_json::Value,
        rollout: &serde_json::Value,
    ) -> Result<(i64, bool)> {
        let failed = |source: sqlx::Error| StoreError {
            operation: format!("apply forecaster {}", spec.name),
            source,
        };
        let mut tx = self.pool().begin().await.map_err(failed)?;
        sqlx::query("SELECT pg_advisory_xact_lock(hashtext('forecasters'), hashtext($1))")
            .bind(&spec.name)
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        type Newest = (
            i64,
            Json<ForecasterSpec>,
            serde_json::Value,
            serde_json::Value,
        );
        let newest: Option<Newest> = sqlx::query_as(
            "SELECT version, spec, retraining, rollout FROM forecasters WHERE name = $1 ORDER BY version DESC LIMIT 1",
        )
        .bind(&spec.name)
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed)?;
        if let Some((version, old, before, reaches)) = &newest
            && old.0 == *spec
            && before == retraining
            && reaches == rollout
        {
            return Ok((*version, false));
        }
        let version = newest.map_or(0, |n| n.0) + 1;
        sqlx::query(
            "INSERT INTO forecasters (name, version, spec, retraining, rollout) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(&spec.name)
        .bind(version)
        .bind(Json(spec))
        .bind(retraining)
        .bind(rollout)
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        Ok((version, true))
    }

    /// The definitions in force, by name.
    ///
    /// # Errors
    /// The database.
    pub async fn forecasters(&self) -> Result<Vec<ForecasterRow>> {
        sqlx::query_as(AssertSqlSafe(format!(
            "{CURRENT} ORDER BY name, version DESC"
        )))
        .fetch_all(self.pool())
        .await
        .during("list forecasters")
    }

    /// One version of a forecaster's definition.
    ///
    /// # Errors
    /// The database.
    pub async fn forecaster_version(
        &self,
        name: &str,
        version: i64,
    ) -> Result<Option<ForecasterRow>> {
        sqlx::query_as(
            "SELECT name, version, spec, retraining, rollout, created_at FROM forecasters WHERE name = $1 AND version = $2",
        )
        .bind(name)
        .bind(version)
        .fetch_optional(self.pool())
        .await
        .during(format!("read version {version} of forecaster {name}"))
    }

    /// The definition in force of one forecaster.
    ///
    /// # Errors
    /// The database.
    pub async fn forecaster(&self, name: &str) -> Result<Option<ForecasterRow>> {
        sqlx::query_as(AssertSqlSafe(format!(
            "{CURRENT} WHERE name = $1 ORDER BY name, version DESC"
        )))
        .bind(name)
        .fetch_optional(self.pool())
        .await
        .during(format!("read forecaster {}", name))
    }
}
