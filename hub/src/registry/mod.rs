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
use fieldcast_wire::Sha256;

use crate::rollout::numbers::next_above;
use crate::rollout::request::Refusal;
use crate::rollout::rows::reported;
use crate::signing::Signer;

/// A stored model that does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The bundle is missing, or refused.
    #[error(
        "open model {forecaster} version {version}: {cause}; retrain, or restore the hub's keys and database together"
    )]
    Model {
        /// Forecaster.
        forecaster: String,
        /// Version.
        version: i64,
        /// Why.
        cause: String,
    },
    /// The database, which says nothing of the model.
    #[error(transparent)]
    Store(#[from] StoreError),
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
    let fail = |cause: String| OpenError::Model {
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
    let fail = |cause: String| OpenError::Model {
        forecaster: row.forecaster.clone(),
        version: row.version,
        cause,
    };
    let sha =
        Sha256::from_hex(&row.bundle).ok_or_else(|| fail("its digest is malformed".into()))?;
    let bytes = store.bundle(&sha).await?;
    let bytes = bytes.ok_or_else(|| fail("its bundle is missing".into()))?;
    let bundle = verified(signer, row, &bytes)?;
    let model = tokio::task::spawn_blocking(move || fieldcast_runtime::load(&bundle))
        .await
        .map_err(|e| fail(e.to_string()))?
        .map_err(|e| fail(e.to_string()))?;
    Ok(Arc::new(model))
}

/// Why there is no next version.
#[derive(Debug, thiserror::Error)]
pub enum NoVersion {
    /// None is left.
    #[error("no version above {1} is left for `{0}`; define the forecaster under another name")]
    UsedUp(String, i64),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One above every version that the database or any device knows. Devices that claim to know one far above the database's are
/// named in the log and not believed: one of them would use up all versions.
///
/// # Errors
/// The database, or no version is left.
pub async fn next_version(store: &Store, forecaster: &str) -> Result<i64, NoVersion> {
    let highest = store.highest_model_version(forecaster).await?;
    let fleet = store.fleet(&serde_json::json!({}), forecaster).await?;
    let said = fleet.iter().filter_map(|device| {
        let state = reported(device.raw.as_deref(), forecaster)?;
        let newest = state.newest_version.max(state.model_version);
        Some((device.device.as_str(), newest))
    });
    let (next, far) = above(u64::try_from(highest).unwrap_or(0), said);
    if !far.is_empty() {
        tracing::warn!(
            forecaster,
            "{} devices ({}) say they know a version far above any that was made, and are not believed; set their agents up anew",
            far.len(),
            far.into_iter().take(10).collect::<Vec<_>>().join(", ")
        );
    }
    let next = next.and_then(|n| i64::try_from(n).ok());
    next.ok_or_else(|| NoVersion::UsedUp(forecaster.to_owned(), highest))
}

/// The version after the database's highest and those that devices say they know, and the devices that are not believed.
fn above<'d>(
    highest: u64,
    said: impl Iterator<Item = (&'d str, u64)>,
) -> (Option<u64>, Vec<&'d str>) {
    let (mut next, mut far) = (next_above(highest, 0), Vec::new());
    for (device, version) in said {
        match next_above(highest, version) {
            Some(above) => next = next.max(Some(above)),
            None => far.push(device),
        }
    }
    (next, far)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_devices_claim_uses_up_no_versions() {
        let said = [
            ("a", 3),
            ("b", 9),
            ("liar", u64::MAX),
            ("c", i64::MAX.unsigned_abs()),
        ];
        assert_eq!(above(4, said.into_iter()), (Some(10), vec!["liar", "c"]));
        assert_eq!(above(4, [("a", 3)].into_iter()), (Some(5), vec![]));
        let (next, _) = above(i64::MAX.unsigned_abs(), [("a", 3)].into_iter());
        assert_eq!(next, None, "none is left");
    }
}
