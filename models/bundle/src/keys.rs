//! Which hub keys a device trusts: owns the pinned root, the list's version and the refusal of older lists, never a private key.

use std::collections::BTreeMap;

use fieldcast_wire::message;
use fieldcast_wire::pb::{KeyList, Signed};

use crate::error::SignatureError;
use crate::signed::{Kind, verify_with};

/// Most keys of one list.
pub const MAX_KEYS: usize = 64;

/// What a key list changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyListChange {
    /// The list in force, again.
    Same,
    /// A newer list is in force; keep its signed bytes for the next start.
    Newer,
}

/// The keys in force; starts at the pinned root with no hub key at all.
#[derive(Debug, Clone)]
pub struct KeyRing {
    root: [u8; 32],
    version: u64,
    payload: Vec<u8>,
    keys: BTreeMap<String, [u8; 32]>,
}

impl KeyRing {
    /// A ring that trusts only what `root` (Ed25519) will sign.
    #[must_use]
    pub fn new(root: [u8; 32]) -> Self {
        Self {
            root,
            version: 0,
            payload: Vec::new(),
            keys: BTreeMap::new(),
        }
    }

    /// Version of the list in force; 0 before the first.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// A hub key by its name.
    #[must_use]
    pub fn hub_key(&self, key_id: &str) -> Option<&[u8; 32]> {
        self.keys.get(key_id)
    }

    /// Takes a list over if the root signed it and it is not older than the one in force.
    ///
    /// # Errors
    /// Wrong signature, malformed, a lower version, or another list under the same version; the ring is then unchanged.
    pub fn accept(&mut self, signed: &Signed) -> Result<KeyListChange, SignatureError> {
        let payload = verify_with(Kind::KeyList, signed, &self.root)?;
        let list: KeyList =
            message::decode("key list", payload).map_err(|e| SignatureError::Malformed {
                kind: "keys",
                problem: e.to_string(),
            })?;
        if list.version < self.version {
            return Err(SignatureError::OldKeyList {
                found: list.version,
                in_force: self.version,
            });
        }
        if list.version == self.version && self.version > 0 {
            return if payload == self.payload {
                Ok(KeyListChange::Same)
            } else {
                Err(SignatureError::OldKeyList {
                    found: list.version,
                    in_force: self.version,
                })
            };
        }
        let malformed = |problem: &str| {
            Err(SignatureError::Malformed {
                kind: "keys",
                problem: problem.into(),
            })
        };
        if list.version == 0 || list.keys.len() > MAX_KEYS {
            return malformed("its version is 0 or it has more than 64 keys");
        }
        let mut keys = BTreeMap::new();
        for key in &list.keys {
            let Ok(public) = <[u8; 32]>::try_from(key.public_key.as_slice()) else {
                return malformed("a public key is not 32 bytes long");
            };
            if keys.insert(key.key_id.clone(), public).is_some() {
                return malformed("a key id occurs twice");
            }
        }
        self.version = list.version;
        self.payload = payload.to_vec();
        self.keys = keys;
        Ok(KeyListChange::Newer)
    }
}
