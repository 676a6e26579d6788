//! Lists of hub keys: owns how the next one follows from the one in force, and the files in which it goes to an offline root and
//! back, never a private key.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use fieldcast_bundle::keys::MAX_KEYS;
use fieldcast_wire::{message, pb};
use serde::{Deserialize, Serialize};

use super::{hex, key_id, unhex, unhex32};

/// A list of hub keys as people see it, and as it goes to the root and back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    /// Version.
    pub version: u64,
    /// The root whose list it is, hexadecimal.
    pub root: String,
    /// Public halves by id, oldest first; the last whose private half a hub holds is the one that it signs with.
    pub keys: Vec<ListedKey>,
    /// The root's signature, hexadecimal; none until it has signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

/// A hub key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListedKey {
    /// Its name in signatures.
    pub id: String,
    /// Its public half, hexadecimal.
    pub public: String,
}

impl Listed {
    /// The first list: one key.
    #[must_use]
    pub fn first(root: &[u8; 32], key: &[u8; 32]) -> Self {
        Self {
            version: 1,
            root: hex(root),
            keys: vec![ListedKey::of(key)],
            signature: None,
        }
    }

    /// What a signed list says.
    ///
    /// # Errors
    /// A payload that is no list.
    pub fn of(signed: &pb::Signed, root: &[u8; 32]) -> Result<Self> {
        let list: pb::KeyList = message::decode("key list", &signed.payload)?;
        let keys = list.keys.iter().map(|k| ListedKey {
            id: k.key_id.clone(),
            public: hex(&k.public_key),
        });
        Ok(Self {
            version: list.version,
            root: hex(root),
            keys: keys.collect(),
            signature: Some(hex(&signed.signature)),
        })
    }

    /// The next list with one key more.
    ///
    /// # Errors
    /// A list that is full.
    pub fn with(mut self, key: &[u8; 32]) -> Result<Self> {
        ensure!(
            self.keys.len() < MAX_KEYS,
            "the list holds {MAX_KEYS} keys, no more are allowed; revoke one first"
        );
        self.keys.push(ListedKey::of(key));
        Ok(self.next())
    }

    /// The next list without a key.
    ///
    /// # Errors
    /// A key that is not on the list, or the only one.
    pub fn without(mut self, id: &str) -> Result<Self> {
        ensure!(
            self.keys.iter().any(|k| k.id == id),
            "key `{id}` is not on list {}; see `fieldcast-hub key list`",
            self.version
        );
        self.keys.retain(|k| k.id != id);
        ensure!(
            !self.keys.is_empty(),
            "`{id}` is the only key; `fieldcast-hub key rotate` makes another first"
        );
        Ok(self.next())
    }

    fn next(mut self) -> Self {
        self.version += 1;
        self.signature = None;
        self
    }

    /// The bytes that the root signs.
    ///
    /// # Errors
    /// A public half that is none.
    pub fn payload(&self) -> Result<Vec<u8>> {
        let key = |k: &ListedKey| {
            let public = unhex32(&k.public)
                .with_context(|| format!("key `{}` is not 64 hex digits", k.id))?;
            Ok(pb::HubKey {
                key_id: k.id.clone(),
                public_key: public.to_vec(),
            })
        };
        let list = pb::KeyList {
            version: self.version,
            keys: self.keys.iter().map(key).collect::<Result<_>>()?,
        };
        Ok(message::encode(&list))
    }

    /// The signed message.
    ///
    /// # Errors
    /// A list that the root has not signed, or that is malformed.
    pub fn signed(&self) -> Result<pb::Signed> {
        let signature = self.signature.as_deref().context(
            "the list is not signed; `fieldcast-hub key sign-list FILE --root ROOT` does so where the root key is",
        )?;
        Ok(pb::Signed {
            payload: self.payload()?,
            signature: unhex(signature).context("its signature is not hexadecimal")?,
            key_id: "root".to_owned(),
        })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// A file that is none.
    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("read the key list in {}", file.display()))
    }

    /// Writes a file.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, file: &Path) -> Result<()> {
        std::fs::write(file, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("write {}", file.display()))
    }
}

impl ListedKey {
    fn of(key: &[u8; 32]) -> Self {
        Self {
            id: key_id(key),
            public: hex(key),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn lists_follow_each_other_by_one_and_never_lose_their_last_key() {
        let first = Listed::first(&[1; 32], &[2; 32]);
        let (two, three) = (key_id(&[2; 32]), key_id(&[3; 32]));
        let both = first.clone().with(&[3; 32]).unwrap();
        assert_eq!((both.version, both.keys.len()), (2, 2));
        let one = both.without(&two).unwrap();
        assert_eq!((one.version, one.keys[0].id.as_str()), (3, three.as_str()));
        assert!(one.clone().without(&two).is_err() && one.without(&three).is_err());
        let mut full = first;
        for n in 1..MAX_KEYS {
            full = full.with(&[u8::try_from(n).unwrap() + 100; 32]).unwrap();
        }
        assert!(full.with(&[9; 32]).is_err());
    }

    #[test]
    fn an_unsigned_list_is_no_message() {
        let list = Listed::first(&[1; 32], &[2; 32]);
        assert!(list.signed().unwrap_err().to_string().contains("sign-list"));
    }
}
