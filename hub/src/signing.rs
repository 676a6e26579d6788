//! The hub's private keys: the only module that holds them; signs bytes, never decides what is worth signing.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use fieldcast_store::Store;
use fieldcast_wire::{message, pb};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

const ROOT_PIN: &str = "root_key";
const HUB_PIN: &str = "hub_key";

/// Root key and hub key. The root signs the list of hub keys, the hub key everything else.
#[derive(Debug)]
pub struct Signer {
    root: Ed25519KeyPair,
    hub: Ed25519KeyPair,
    key_id: String,
    dir: PathBuf,
}

impl Signer {
    /// Reads the keys of a directory; makes those that are missing.
    ///
    /// # Errors
    /// Files that cannot be read or written, or hold no key.
    pub fn open(dir: &Path) -> Result<Self> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("create key directory {}", dir.display()))?;
        let root = key(&dir.join("root.pk8"))?;
        let hub = key(&dir.join("hub.pk8"))?;
        let key_id = hex(&hub.public_key().as_ref()[..8]);
        Ok(Self {
            root,
            hub,
            key_id,
            dir: dir.to_path_buf(),
        })
    }

    /// Why these keys are not the ones that the database's devices and bundles go by; none where they are. The first
    /// keys that meet a database are its keys.
    ///
    /// # Errors
    /// The database.
    pub async fn foreign(&self, store: &Store) -> fieldcast_store::Result<Option<String>> {
        for (name, mine) in [(ROOT_PIN, self.root_public()), (HUB_PIN, self.hub_public())] {
            let mine = hex(&mine);
            let pinned = store.pin(name, &mine).await?;
            if pinned != mine {
                return Ok(Some(format!(
                    "{} holds other keys than this database goes by ({name} {mine}, expected {pinned}): devices would \
                     refuse what they sign; copy the `keys` folder of the hub that this database belongs to, or, if \
                     it is lost, run `fieldcast-hub migrate --new-keys` and give every device a new identity",
                    self.dir.display()
                )));
            }
        }
        Ok(None)
    }

    /// Makes these keys the database's.
    ///
    /// # Errors
    /// The database.
    pub async fn adopt(&self, store: &Store) -> fieldcast_store::Result<()> {
        for name in [ROOT_PIN, HUB_PIN] {
            store.unpin(name).await?;
        }
        self.foreign(store).await.map(drop)
    }

    /// What devices pin.
    #[must_use]
    pub fn root_public(&self) -> [u8; 32] {
        public(&self.root)
    }

    /// The hub key's public half.
    #[must_use]
    pub fn hub_public(&self) -> [u8; 32] {
        public(&self.hub)
    }

    /// Names the hub key in signatures.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Signature of the hub key over the kind's domain and the payload.
    #[must_use]
    pub fn signature(&self, kind: &str, payload: &[u8]) -> [u8; 64] {
        signature(&self.hub, kind, payload)
    }

    /// Signs with the hub key; kinds are `order`, `command` and `bundle`.
    #[must_use]
    pub fn sign(&self, kind: &str, payload: Vec<u8>) -> pb::Signed {
        let signature = signature(&self.hub, kind, &payload).to_vec();
        pb::Signed {
            payload,
            signature,
            key_id: self.key_id.clone(),
        }
    }

    /// Signature of the hub key over exactly these bytes, for formats that bring their own domain.
    #[must_use]
    pub fn raw_signature(&self, message: &[u8]) -> [u8; 64] {
        bytes64(self.hub.sign(message).as_ref())
    }

    /// The list of hub keys, signed by the root.
    #[must_use]
    pub fn key_list(&self) -> pb::Signed {
        let list = pb::KeyList {
            version: 1,
            keys: vec![pb::HubKey {
                key_id: self.key_id.clone(),
                public_key: self.hub_public().to_vec(),
            }],
        };
        let payload = message::encode(&list);
        let signature = signature(&self.root, "keys", &payload).to_vec();
        pb::Signed {
            payload,
            signature,
            key_id: "root".to_owned(),
        }
    }
}

fn signature(key: &Ed25519KeyPair, kind: &str, payload: &[u8]) -> [u8; 64] {
    let domain = format!("fieldcast-{kind}-v1\0");
    bytes64(key.sign(&[domain.as_bytes(), payload].concat()).as_ref())
}

fn bytes64(bytes: &[u8]) -> [u8; 64] {
    let mut out = [0; 64];
    out.copy_from_slice(bytes);
    out
}

fn public(key: &Ed25519KeyPair) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(key.public_key().as_ref());
    out
}

/// Lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn key(path: &Path) -> Result<Ed25519KeyPair> {
    if !path.exists() {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| {
            anyhow!("make a signing key: the system gives no randomness; try again")
        })?;
        // Written beside and linked, so that a half-written key is never read and the first of two makers wins.
        let fresh = path.with_extension(format!("new-{}", std::process::id()));
        let written = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)
            .and_then(|mut out| out.write_all(made.as_ref()).and_then(|()| out.sync_all()));
        written.with_context(|| format!("write signing key {}", fresh.display()))?;
        let _ = std::fs::hard_link(&fresh, path);
        let _ = std::fs::remove_file(&fresh);
    }
    let bytes =
        std::fs::read(path).with_context(|| format!("read signing key {}", path.display()))?;
    Ed25519KeyPair::from_pkcs8(&bytes).map_err(|e| {
        anyhow!(
            "{} holds no Ed25519 key ({e}); restore it from a backup",
            path.display()
        )
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use ring::signature::{ED25519, UnparsedPublicKey};

    use super::*;

    #[test]
    fn keys_stay_and_signatures_hold_only_in_their_domain() {
        let dir = tempfile::tempdir().unwrap();
        let first = Signer::open(dir.path()).unwrap();
        let again = Signer::open(dir.path()).unwrap();
        assert_eq!(first.root_public(), again.root_public());
        let signed = first.sign("order", b"go".to_vec());
        let public = UnparsedPublicKey::new(&ED25519, again.hub_public());
        assert!(
            public
                .verify(b"fieldcast-order-v1\0go", &signed.signature)
                .is_ok()
        );
        assert!(
            public
                .verify(b"fieldcast-bundle-v1\0go", &signed.signature)
                .is_err()
        );
        let list = again.key_list();
        let root = UnparsedPublicKey::new(&ED25519, first.root_public());
        let message = [b"fieldcast-keys-v1\0".as_slice(), &list.payload].concat();
        assert!(root.verify(&message, &list.signature).is_ok());
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(dir.path().join("root.pk8"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
