//! Bundles as the fleet has them, each once: owns their blocks and the one check of each, never who asked for them.
//!
//! A device checks the digest of what it received by itself. Equal digests are equal bytes, so that what follows from the
//! bytes alone (signature, hashes, golden vectors) is found out once and believed by all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use fieldcast_bundle::{Caps, Expected, KeyRing, UnverifiedBundle};
use fieldcast_features::{ForecasterSpec, Millis};
use fieldcast_wire::Sha256;
use fieldcast_wire::caps::BLOCK;
use tokio::sync::OnceCell;

/// What of a bundle devices need; or why it is refused, with the number of the check.
pub(super) type Checked = Result<Arc<ForecasterSpec>, String>;

#[derive(Debug, Default)]
struct Copy {
    blocks: Mutex<Vec<Option<Box<[u8]>>>>,
    checked: OnceCell<Checked>,
}

/// The fleet's bundles.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    copies: Mutex<HashMap<Sha256, Arc<Copy>>>,
}

impl Shelf {
    fn copy(&self, sha: Sha256) -> Arc<Copy> {
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(copies.entry(sha).or_default())
    }

    /// A device received a block.
    pub(super) fn put(&self, sha: Sha256, n: usize, bytes: &[u8]) {
        let copy = self.copy(sha);
        if copy.checked.initialized() {
            return;
        }
        let mut blocks = copy.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if blocks.len() <= n {
            blocks.resize(n + 1, None);
        }
        if let Some(block) = blocks.get_mut(n) {
            // Always the newest: a damaged one is replaced when it comes again.
            *block = Some(bytes.into());
        }
    }

    /// V1, V2, V5 and V7 to V9 of a bundle of which a device has every byte.
    pub(super) async fn check(
        &self,
        sha: Sha256,
        forecaster: &str,
        ring: &KeyRing,
        now: Millis,
    ) -> Checked {
        let copy = self.copy(sha);
        let checked = copy
            .checked
            .get_or_init(|| async {
                let blocks = std::mem::take(
                    &mut *copy.blocks.lock().unwrap_or_else(PoisonError::into_inner),
                );
                let (forecaster, ring) = (forecaster.to_owned(), ring.clone());
                let work = move || verify(sha, &forecaster, &ring, now, &blocks);
                tokio::task::spawn_blocking(work)
                    .await
                    .unwrap_or_else(|e| Err(format!("the check ended badly: {e}")))
            })
            .await
            .clone()?;
        if checked.name == forecaster {
            Ok(checked)
        } else {
            Err(format!("V3: the bundle is of forecaster {}", checked.name))
        }
    }
}

fn verify(
    sha: Sha256,
    forecaster: &str,
    ring: &KeyRing,
    now: Millis,
    blocks: &[Option<Box<[u8]>>],
) -> Checked {
    let mut bytes = Vec::with_capacity(blocks.len() * BLOCK);
    for block in blocks {
        bytes.extend_from_slice(block.as_deref().ok_or("V7: a block is missing")?);
    }
    let expected = Expected {
        sha256: sha,
        forecaster,
        agent_version: env!("CARGO_PKG_VERSION"),
    };
    let bundle = UnverifiedBundle::parse(&bytes, &Caps::default())
        .and_then(|b| b.verify(ring, &expected, now))
        .map_err(|e| format!("{}: {e}", e.step()))?;
    fieldcast_runtime::load(&bundle).map_err(|e| format!("{}: {e}", e.step()))?;
    Ok(Arc::new(bundle.manifest().forecaster.clone()))
}
