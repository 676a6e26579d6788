//! The hub's private keys: the only module that holds them; signs bytes, never decides what is worth signing.

mod files;
mod list;

use std::path::Path;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use anyhow::{Context as _, Result, bail, ensure};
use fieldcast_bundle::{KeyRing, Kind};
use fieldcast_store::Store;
use fieldcast_wire::{message, pb};
pub use hex::decode as unhex;
use ring::signature::Ed25519KeyPair;

use files::{KeyFiles, Root, public};
pub use list::{Listed, ListedKey};

const ROOT_PIN: &str = "root_key";
const HUB_PIN: &str = "hub_key";

/// The root as far as it is here, the hub keys that are here, and the list in force. The root signs lists of hub keys; of the hub
/// keys here the newest on the list signs everything else.
#[derive(Debug)]
pub struct Signer {
    files: KeyFiles,
    root: Root,
    held: RwLock<Held>,
}

/// What another list changes.
#[derive(Debug)]
struct Held {
    version: u64,
    list: pb::Signed,
    hub: Ed25519KeyPair,
}

impl Signer {
    /// Reads the keys of a directory; makes root and first hub key in a new one. Until [`Self::foreign`] has read the database's
    /// list, that of the first hub key counts.
    ///
    /// # Errors
    /// Files that cannot be read or written, or hold no key.
    pub fn open(dir: &Path) -> Result<Self> {
        let files = KeyFiles::open(dir)?;
        let root = files.root()?;
        let hub = files.hub_keys()?;
        let hub = hub.into_iter().next().context("no hub key is here")?;
        let list = match &root.private {
            Some(key) => sign_list(key, &Listed::first(&root.public, &public(&hub)))?,
            None => pb::Signed::default(),
        };
        Ok(Self {
            files,
            root,
            held: RwLock::new(Held {
                version: 0,
                list,
                hub,
            }),
        })
    }

    fn held(&self) -> RwLockReadGuard<'_, Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up the database's key list. Why these keys are not the ones that its devices and bundles go by; none where they
    /// are. The first keys that meet a database are its keys.
    ///
    /// # Errors
    /// The database.
    pub async fn foreign(&self, store: &Store) -> fieldcast_store::Result<Option<String>> {
        let root = hex(&self.root.public);
        let pinned = store.pin(ROOT_PIN, &root).await?;
        if pinned != root {
            return Ok(Some(
                self.others(&format!("root {root}, expected {pinned}")),
            ));
        }
        if store.key_list().await?.is_none() {
            let (mine, list) = {
                let held = self.held();
                (hex(&public(&held.hub)), message::encode(&held.list))
            };
            let pinned = store.pin(HUB_PIN, &mine).await?;
            if pinned != mine || self.root.private.is_none() {
                return Ok(Some(
                    self.others(&format!("hub key {mine}, expected {pinned}")),
                ));
            }
            store.put_key_list(1, &list, "the first hub").await?;
        }
        let newest = store.key_list().await?;
        Ok(newest.and_then(|(_, bytes)| match self.take_up(&bytes) {
            Ok(()) => None,
            Err(e) => Some(self.others(&format!("{e:#}"))),
        }))
    }

    fn others(&self, what: &str) -> String {
        format!(
            "{} holds other keys than this database goes by ({what}): devices would refuse what they sign; copy the `keys` \
             folder of a hub that this database belongs to, or, if it is lost, run `fieldcast-hub migrate --new-keys` and give \
             every device a new identity",
            self.files.dir.display()
        )
    }

    /// Takes up the database's list where another is in force than here; answers whether one was.
    ///
    /// # Errors
    /// The database, or a list whose keys are not here.
    pub async fn refresh(&self, store: &Store) -> Result<bool> {
        let Some((version, bytes)) = store.key_list().await? else {
            return Ok(false);
        };
        if u64::try_from(version)? == self.held().version {
            return Ok(false);
        }
        self.take_up(&bytes)?;
        Ok(true)
    }

    fn take_up(&self, bytes: &[u8]) -> Result<()> {
        let list: pb::Signed = message::decode("key list", bytes)?;
        let listed = self.check(&list)?;
        let mut here = self.files.hub_keys()?;
        let newest = listed.keys.iter().rev().find_map(|k| {
            let at = here.iter().position(|h| hex(&public(h)) == k.public)?;
            Some(here.swap_remove(at))
        });
        let hub = newest.with_context(|| {
            format!(
                "none of the keys of list {} is in {}",
                listed.version,
                self.files.dir.display()
            )
        })?;
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = Held {
            version: listed.version,
            list,
            hub,
        };
        Ok(())
    }

    /// A list that this root signed.
    fn check(&self, list: &pb::Signed) -> Result<Listed> {
        KeyRing::new(self.root.public).accept(list)?;
        Listed::of(list, &self.root.public)
    }

    /// Makes these keys the database's.
    ///
    /// # Errors
    /// The database, or keys without the root's private half.
    pub async fn adopt(&self, store: &Store) -> Result<()> {
        ensure!(
            self.root.private.is_some(),
            "the root key is not in {}; `fieldcast-hub key root import FILE` brings it back",
            self.files.dir.display()
        );
        for name in [ROOT_PIN, HUB_PIN] {
            store.unpin(name).await?;
        }
        store.forget_key_lists().await?;
        match self.foreign(store).await? {
            None => Ok(()),
            Some(why) => bail!(why),
        }
    }

    /// What devices pin.
    #[must_use]
    pub fn root_public(&self) -> [u8; 32] {
        self.root.public
    }

    /// Whether the root's private half is here.
    #[must_use]
    pub fn root_is_here(&self) -> bool {
        self.root.private.is_some()
    }

    /// Public half of the hub key that signs.
    #[must_use]
    pub fn hub_public(&self) -> [u8; 32] {
        public(&self.held().hub)
    }

    /// Names the hub key that signs.
    #[must_use]
    pub fn key_id(&self) -> String {
        key_id(&self.hub_public())
    }

    /// Public halves of all hub keys that are here.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn here(&self) -> Result<Vec<[u8; 32]>> {
        Ok(self.files.hub_keys()?.iter().map(public).collect())
    }

    /// Seals a bundle's manifest and parts.
    ///
    /// # Errors
    /// A manifest that contradicts itself.
    pub fn seal(
        &self,
        manifest: fieldcast_bundle::Manifest,
        onnx: Vec<u8>,
        reference: Vec<u8>,
    ) -> Result<Vec<u8>, fieldcast_bundle::VerifyError> {
        let held = self.held();
        let id = key_id(&public(&held.hub));
        let sign = |message: &[u8]| bytes64(held.hub.sign(message).as_ref());
        fieldcast_bundle::seal(manifest, onnx, reference, sign, &id)
    }

    /// Signs with the hub key.
    #[must_use]
    pub fn sign(&self, kind: Kind, payload: Vec<u8>) -> pb::Signed {
        let held = self.held();
        let id = key_id(&public(&held.hub));
        fieldcast_bundle::signed::sign(kind, payload, &id, |m| bytes64(held.hub.sign(m).as_ref()))
    }

    /// What was signed by another key, signed by the one in force.
    #[must_use]
    pub fn signed_now(&self, kind: Kind, signed: pb::Signed) -> pb::Signed {
        match signed.key_id == self.key_id() {
            true => signed,
            false => self.sign(kind, signed.payload),
        }
    }

    /// The list of hub keys in force, signed by the root.
    #[must_use]
    pub fn key_list(&self) -> pb::Signed {
        self.held().list.clone()
    }

    /// Version of the list in force; 0 before the database's was read.
    #[must_use]
    pub fn list_version(&self) -> u64 {
        self.held().version
    }

    /// The list of hub keys in force in words.
    ///
    /// # Errors
    /// A list that cannot be read.
    pub fn listed(&self) -> Result<Listed> {
        Listed::of(&self.key_list(), &self.root.public)
    }

    /// Makes another hub key in a file here; it is on no list yet.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub fn make_hub_key(&self) -> Result<[u8; 32]> {
        self.files.make_hub_key()
    }

    /// Signs a list by the root.
    ///
    /// # Errors
    /// A root that is not here.
    pub fn sign_list(&self, list: &Listed) -> Result<Listed> {
        let root = self.root.private.as_ref().context(
            "the root key is not here; write the list with --out, and sign it where the root key is",
        )?;
        Listed::of(&sign_list(root, list)?, &self.root.public)
    }

    /// Puts a signed list in force for the whole database.
    ///
    /// # Errors
    /// A list that the root has not signed, that does not follow the one in force, or none of whose keys is here; the database.
    pub async fn install(&self, store: &Store, list: &Listed, by: &str) -> Result<()> {
        let signed = list.signed()?;
        let version = self.check(&signed)?.version;
        let in_force = self.list_version();
        ensure!(
            version == in_force + 1,
            "list {version} does not follow list {in_force} in force; make the next one anew with `key rotate` or `key revoke`"
        );
        let before = self.key_list();
        let bytes = message::encode(&signed);
        self.take_up(&bytes)?;
        let number = i64::try_from(version)?;
        if !store.put_key_list(number, &bytes, by).await? {
            self.take_up(&message::encode(&before))?;
            bail!("another list {version} was put in force meanwhile; begin anew with it");
        }
        Ok(())
    }

    /// Moves the root's private half into a file elsewhere.
    ///
    /// # Errors
    /// A root that is not here, or a file that is there or cannot be written.
    pub fn export_root(&self, to: &Path) -> Result<()> {
        self.files.export_root(to)
    }

    /// Takes the root's private half back from a file.
    ///
    /// # Errors
    /// Another root's key, or one that is here already.
    pub fn import_root(&self, from: &Path) -> Result<()> {
        self.files.import_root(from)
    }
}

/// Signs a list by a root key in a file: where it is kept offline this is all that happens there.
///
/// # Errors
/// A file without a key, or the key of another root than the list's.
pub fn sign_list_offline(root: &Path, list: &Listed) -> Result<Listed> {
    let key = files::read(root)?;
    let mine = public(&key);
    ensure!(
        hex(&mine) == list.root,
        "{} holds root {}, the list is for root {}",
        root.display(),
        hex(&mine),
        list.root
    );
    Listed::of(&sign_list(&key, list)?, &mine)
}

fn sign_list(root: &Ed25519KeyPair, list: &Listed) -> Result<pb::Signed> {
    let sign = |message: &[u8]| bytes64(root.sign(message).as_ref());
    let payload = list.payload()?;
    Ok(fieldcast_bundle::signed::sign(
        Kind::KeyList,
        payload,
        "root",
        sign,
    ))
}

/// The name of a hub key in signatures.
#[must_use]
pub fn key_id(public: &[u8; 32]) -> String {
    hex(&public[..8])
}

fn bytes64(bytes: &[u8]) -> [u8; 64] {
    let mut out = [0; 64];
    out.copy_from_slice(bytes);
    out
}

/// Lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    hex::encode(bytes)
}

fn unhex32(text: &str) -> Option<[u8; 32]> {
    unhex(text).ok()?.try_into().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use fieldcast_bundle::signed::verify;

    use super::*;

    #[test]
    fn keys_stay_and_signatures_hold_only_in_their_domain() {
        let dir = tempfile::tempdir().unwrap();
        let first = Signer::open(dir.path()).unwrap();
        let again = Signer::open(dir.path()).unwrap();
        assert_eq!(first.root_public(), again.root_public());
        let mut ring = KeyRing::new(first.root_public());
        ring.accept(&again.key_list()).unwrap();
        let signed = first.sign(Kind::Order, b"go".to_vec());
        assert!(verify(Kind::Order, &signed, &ring).is_ok());
        assert!(verify(Kind::Bundle, &signed, &ring).is_err());
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(dir.path().join("root.pk8"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_root_that_went_away_signs_elsewhere_and_only_its_own_key_comes_back() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let offline = dir.path().join("elsewhere.pk8");
        let signer = Signer::open(&dir.path().join("keys")).unwrap();
        let root = signer.root_public();
        signer.export_root(&offline).unwrap();
        assert!(signer.export_root(&dir.path().join("twice")).is_err());
        let without = Signer::open(&dir.path().join("keys")).unwrap();
        assert_eq!(without.root_public(), root);
        assert!(!without.root_is_here());
        let key = without.make_hub_key().unwrap();
        let list = Listed::first(&root, &key);
        assert!(without.sign_list(&list).is_err());
        let signed = sign_list_offline(&offline, &list).unwrap();
        assert!(KeyRing::new(root).accept(&signed.signed().unwrap()).is_ok());
        // Changed after it was signed, or signed by another root.
        let mut changed = signed.clone();
        changed.version += 1;
        assert!(
            KeyRing::new(root)
                .accept(&changed.signed().unwrap())
                .is_err()
        );
        let stranger = Signer::open(other.path()).unwrap();
        let foreign = other.path().join("root.pk8");
        assert!(sign_list_offline(&foreign, &list).is_err());
        assert!(without.import_root(&foreign).is_err());
        assert_ne!(stranger.root_public(), root);
        without.import_root(&offline).unwrap();
        assert!(
            Signer::open(&dir.path().join("keys"))
                .unwrap()
                .root_is_here()
        );
    }
}
