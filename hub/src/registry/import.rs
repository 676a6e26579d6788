//! A bundle from a file becomes a version: owns what is checked before, and the new seal where another hub made it, never a
//! title.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use fieldcast_bundle::{Caps, Expected, KeyRing, Learnt, UnverifiedBundle, VerifiedBundle};
use fieldcast_store::decisions::NewDecision;
use fieldcast_store::model_versions::NewModelVersion;
use fieldcast_store::{Store, StoreError};
use fieldcast_wire::{Sha256, message, pb};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::rollout::request::{Person, Refusal};
use crate::signing::{Signer, hex, unhex};

/// The public keys of a hub, as `model export --keys` writes them beside a bundle.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// The root's public half, hexadecimal.
    pub root: String,
    /// The list of hub keys, signed by the root, hexadecimal.
    pub list: String,
}

/// What became of a bundle.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Imported {
    /// Forecaster.
    pub forecaster: String,
    /// The version here.
    pub version: i64,
    /// SHA-256 of the bundle here.
    pub bundle: String,
    /// Signed anew by this hub: its own root is another.
    pub signed_anew: bool,
    /// It was here, without its bundle.
    pub restored: bool,
}

/// Why a bundle did not become a version.
#[derive(Debug, thiserror::Error)]
pub enum NotImported {
    /// Nobody answers for it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It does not verify or does not run, or the keys that shall vouch for it do not hold.
    #[error("{0}")]
    Bundle(String),
    /// Nothing here is forecast so.
    #[error("forecaster `{0}` is not defined here; `fieldcast-hub forecaster apply` comes first")]
    Undefined(String),
    /// A version with its number is here.
    #[error("{0}")]
    There(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This hub.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

impl NotImported {
    fn bundle(error: impl Into<anyhow::Error>) -> Self {
        Self::Bundle(format!("{:#}", error.into()))
    }
}

impl Keys {
    /// The keys of a hub.
    #[must_use]
    pub fn of(signer: &Signer) -> Self {
        Self {
            root: hex(&signer.root_public()),
            list: hex(&message::encode(&signer.key_list())),
        }
    }

    /// Reads the file.
    ///
    /// # Errors
    /// A file that is none.
    pub fn read(file: &Path) -> Result<Self> {
        let text =
            std::fs::read(file).with_context(|| format!("read the keys in {}", file.display()))?;
        serde_json::from_slice(&text).with_context(|| {
            format!(
                "read {}; `model export --keys` writes such a file",
                file.display()
            )
        })
    }

    /// The ring of keys under a root that a person names: what the file says of its root proves nothing.
    fn ring(&self, root: &str) -> Result<KeyRing> {
        ensure!(
            self.root.eq_ignore_ascii_case(root),
            "the keys are those of root {}, not of {root}; get the root's public key from whoever runs the other hub",
            self.root
        );
        let root = Sha256::from_hex(root)
            .with_context(|| format!("`{root}` is no public key of 64 hex digits"))?;
        let list = unhex(&self.list).context("the key list is not hexadecimal; export anew")?;
        let list: pb::Signed = message::decode("key list", &list)?;
        let mut ring = KeyRing::new(root.0);
        ring.accept(&list)?;
        Ok(ring)
    }
}

/// Signs a version of this hub's own anew, as the next version of the same model: before a key that signed it is revoked.
///
/// # Errors
/// A bundle that is gone or does not verify, nobody's name, or the database.
pub async fn sign_anew(
    store: &Store,
    signer: &Signer,
    forecaster: &str,
    version: i64,
    person: Person<'_>,
) -> Result<Imported> {
    let person = person.checked()?;
    let row = crate::rollout::request::eligible(store, forecaster, version).await?;
    let bytes = super::bundle(store, &row).await?;
    let bundle = super::verified(signer, &row, &bytes)?;
    // What it learnt from and was kept from stays true.
    let mut lineage = row.lineage.clone();
    lineage["signed_anew"] = json!({"version": version, "bundle": row.bundle, "by": person.name});
    seal_anew(store, signer, &bundle, &lineage, person).await
}

/// Imports a bundle for a forecaster. Without `origin` it must be this hub's own; with it, a root that a person names and the
/// keys of the hub that made it.
///
/// # Errors
/// A bundle that does not verify or does not run here, a forecaster without definition, nobody's name, or the database.
pub async fn import(
    store: &Store,
    signer: &Signer,
    forecaster: &str,
    bytes: Vec<u8>,
    origin: Option<(&str, &Keys)>,
    person: Person<'_>,
) -> Result<Imported, NotImported> {
    let person = person.checked()?;
    let own = hex(&signer.root_public());
    let origin = origin.filter(|(root, _)| !root.eq_ignore_ascii_case(&own));
    let mut ring = KeyRing::new(signer.root_public());
    ring.accept(&signer.key_list())
        .map_err(anyhow::Error::from)?;
    if let Some((root, keys)) = origin {
        ring = keys.ring(root).map_err(NotImported::bundle)?;
    }
    let sha256 = Sha256::of(&bytes);
    let expected = Expected {
        sha256,
        forecaster,
        agent_version: env!("CARGO_PKG_VERSION"),
    };
    let now = crate::clock::now().timestamp_millis();
    let verified = UnverifiedBundle::parse(&bytes, &Caps::default())
        .and_then(|b| b.verify(&ring, &expected, now))
        .with_context(|| match origin {
            Some((root, _)) => format!("verify the bundle under root {root}"),
            None => "verify the bundle under this hub's keys; one of another hub needs that one's root and keys (--root, --keys)".to_owned(),
        })
        .map_err(NotImported::bundle)?;
    let definition = store.forecaster(forecaster).await?;
    let definition = definition.ok_or_else(|| NotImported::Undefined(forecaster.to_owned()))?;
    let verified = Arc::new(verified);
    let trial = Arc::clone(&verified);
    tokio::task::spawn_blocking(move || fieldcast_runtime::load(&trial))
        .await
        .map_err(anyhow::Error::from)?
        .context("run the bundle on this machine")
        .map_err(NotImported::bundle)?;
    let lineage = lineage(
        &verified,
        definition.version,
        &ring_of(origin, &own),
        person,
    );
    match origin {
        None => keep(store, &verified, bytes, &lineage, person).await,
        Some(_) => Ok(seal_anew(store, signer, &verified, &lineage, person).await?),
    }
}

fn ring_of(origin: Option<(&str, &Keys)>, own: &str) -> String {
    origin.map_or_else(|| own.to_owned(), |(root, _)| root.to_lowercase())
}

/// What is known of how it was made: what its maker sealed in. A bundle that does not say what it learnt from learnt from
/// nothing after its snapshot.
fn lineage(bundle: &VerifiedBundle, spec_version: i64, root: &str, person: Person<'_>) -> Value {
    let m = bundle.manifest();
    let learnt = m.training.learnt.clone().unwrap_or_else(|| Learnt {
        from: m.created,
        until: m.created,
        unseen: Vec::new(),
    });
    json!({"imported": {"bundle": bundle.sha256().to_string(), "version": m.version, "root": root, "by": person.name,
            "training_run": m.training.run, "created": m.created},
        "spec_version": spec_version, "snapshot": m.training.snapshot, "seed": m.training.seed,
        "code_version": m.training.code_version, "chosen": m.training.chosen,
        "data_from": learnt.from, "data_until": learnt.until, "unseen": learnt.unseen})
}

/// This hub's own bundle: the same bytes under the same version.
async fn keep(
    store: &Store,
    bundle: &VerifiedBundle,
    bytes: Vec<u8>,
    lineage: &Value,
    person: Person<'_>,
) -> Result<Imported, NotImported> {
    let manifest = bundle.manifest();
    let forecaster = manifest.forecaster.name.as_str();
    let version = i64::try_from(manifest.version).map_err(NotImported::bundle)?;
    let sha = bundle.sha256();
    let mut done = Imported {
        forecaster: forecaster.to_owned(),
        version,
        bundle: sha.to_string(),
        signed_anew: false,
        restored: false,
    };
    match store.model_version(forecaster, version).await? {
        Some(row) if row.bundle != done.bundle => {
            return Err(NotImported::There(format!(
                "version {version} of `{forecaster}` is another model here ({}); versions are never replaced",
                row.bundle
            )));
        }
        Some(row) if row.removed_at.is_none() => {
            return Err(NotImported::There(format!(
                "it is version {version} of `{forecaster}` already; nothing is left to do"
            )));
        }
        Some(_) => {
            let reason = person.because(&format!("the bundle of version {version} given back"));
            let decision = NewDecision {
                forecaster,
                decision: "import",
                reason: &reason,
                decided_by: person.name,
                ..NewDecision::default()
            };
            store.restore_bundle(&bytes, &decision).await?;
            done.restored = true;
        }
        None => record(store, bundle, (&sha, &bytes), version, lineage, person).await?,
    }
    Ok(done)
}

/// Another hub's bundle: the same model under the next version, signed by this hub, whose root its devices know.
async fn seal_anew(
    store: &Store,
    signer: &Signer,
    bundle: &VerifiedBundle,
    lineage: &Value,
    person: Person<'_>,
) -> Result<Imported> {
    let forecaster = bundle.manifest().forecaster.name.as_str();
    let version = super::next_version(store, forecaster).await?;
    let mut manifest = bundle.manifest().clone();
    manifest.version = u64::try_from(version)?;
    let onnx = bundle.onnx().to_vec();
    let bytes = signer.seal(manifest, onnx, bundle.reference().to_vec())?;
    let sha = Sha256::of(&bytes);
    record(store, bundle, (&sha, &bytes), version, lineage, person).await?;
    Ok(Imported {
        forecaster: forecaster.to_owned(),
        version,
        bundle: sha.to_string(),
        signed_anew: true,
        restored: false,
    })
}

async fn record(
    store: &Store,
    bundle: &VerifiedBundle,
    (sha, bytes): (&Sha256, &[u8]),
    version: i64,
    lineage: &Value,
    person: Person<'_>,
) -> Result<()> {
    let mut manifest = bundle.manifest().clone();
    manifest.version = u64::try_from(version)?;
    let forecaster = manifest.forecaster.name.as_str();
    let metrics = json!({"table": manifest.training.table, "calibration": manifest.calibration});
    let document = serde_json::to_value(&manifest)?;
    let none = Value::Null;
    let new = NewModelVersion {
        forecaster,
        version,
        sha: &sha.0,
        bytes,
        manifest: &document,
        metrics: &metrics,
        lineage,
        verdict: &none,
        scores: &none,
    };
    let reason = person.because(&format!(
        "version {version} signed here; it was {} where it was made",
        bundle.manifest().version
    ));
    let decision = NewDecision {
        forecaster,
        decision: "import",
        reason: &reason,
        decided_by: person.name,
        ..NewDecision::default()
    };
    Ok(store.import_model_version(&new, &decision).await?)
}
