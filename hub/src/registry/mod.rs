//! Model versions as running models: owns opening a stored bundle, never making or judging one.

pub mod diff;
pub mod import;
pub mod promote;
pub mod retention;
pub mod worlds;

use std::sync::Arc;

use fieldcast_bundle::{Caps, Expected, KeyRing, UnverifiedBundle, VerifiedBundle};
use fieldcast_runtime::LoadedModel;
use fieldcast_store::model_versions::ModelVersionRow;
use fieldcast_store::{Store, StoreError};
use fieldcast_wire::{Sha256, message, pb};

use crate::rollout::request::Refusal;
use crate::signing::Signer;

/// A stored model that does not open.
#[derive(Debug, thiserror::Error)]
#[error(
    "open model {forecaster} version {version}: {cause}; retrain, or restore the hub's keys and database together"
)]
pub struct OpenError {
    forecaster: String,
    version: i64,
    cause: String,
}

/// A version's bundle as it is stored.
///
/// # Errors
/// It was removed or is lost, or the database.
pub async fn bundle(store: &Store, row: &ModelVersionRow) -> Result<Vec<u8>, Refusal> {
    if row.removed_at.is_some() {
        return Err(Refusal::Removed(row.forecaster.clone(), row.version));
    }
    let bytes = match Sha256::from_hex(&row.bundle) {
        Some(sha) => store.bundle(&sha).await?,
        None => None,
    };
    bytes.ok_or_else(|| Refusal::Missing(row.bundle.clone()))
}

/// Verifies a version's bundle as a device would.
///
/// # Errors
/// A bundle that this hub's keys refuse.
pub fn verified(
    signer: &Signer,
    row: &ModelVersionRow,
    bytes: &[u8],
) -> Result<VerifiedBundle, OpenError> {
    let fail = |cause: String| OpenError {
        forecaster: row.forecaster.clone(),
        version: row.version,
        cause,
    };
    let sha256 =
        Sha256::from_hex(&row.bundle).ok_or_else(|| fail("its digest is malformed".into()))?;
    let mut ring = KeyRing::new(signer.root_public());
    ring.accept(&signer.key_list())
        .map_err(|e| fail(e.to_string()))?;
    let expected = Expected {
        sha256,
        forecaster: &row.forecaster,
        agent_version: env!("CARGO_PKG_VERSION"),
    };
    let now = crate::clock::now().timestamp_millis();
    UnverifiedBundle::parse(bytes, &Caps::default())
        .and_then(|b| b.verify(&ring, &expected, now))
        .map_err(|e| fail(e.to_string()))
}

/// Opens a model version: reads its bundle, verifies it as a device would, loads it.
///
/// # Errors
/// The database, or a bundle that this hub's keys or this machine refuse.
pub async fn open(
    store: &Store,
    signer: &Signer,
    row: &ModelVersionRow,
) -> Result<Arc<LoadedModel>, OpenError> {
    let fail = |cause: String| OpenError {
        forecaster: row.forecaster.clone(),
        version: row.version,
        cause,
    };
    let sha =
        Sha256::from_hex(&row.bundle).ok_or_else(|| fail("its digest is malformed".into()))?;
    let bytes = store.bundle(&sha).await.map_err(|e| fail(e.to_string()))?;
    let bytes = bytes.ok_or_else(|| fail("its bundle is missing".into()))?;
    let bundle = verified(signer, row, &bytes)?;
    let model = tokio::task::spawn_blocking(move || fieldcast_runtime::load(&bundle))
        .await
        .map_err(|e| fail(e.to_string()))?
        .map_err(|e| fail(e.to_string()))?;
    Ok(Arc::new(model))
}

/// One above every version that the database or any device knows.
///
/// # Errors
/// The database.
pub async fn next_version(store: &Store, forecaster: &str) -> Result<i64, StoreError> {
    let mut highest = store.highest_model_version(forecaster).await?;
    for device in store.fleet(&serde_json::json!({}), forecaster).await? {
        let Some(Ok(state)) = device
            .raw
            .as_deref()
            .map(|raw| message::decode::<pb::State>("state", raw))
        else {
            continue;
        };
        for f in state
            .forecasters
            .iter()
            .filter(|f| f.forecaster == forecaster)
        {
            highest = highest.max(i64::try_from(f.model_version).unwrap_or(i64::MAX - 1));
        }
    }
    Ok(highest + 1)
}
