//! Bytes with a signature: owns the domain of each kind of signed payload, never what the payload says.

use fieldcast_wire::pb::Signed;
use ring::signature::{ED25519, UnparsedPublicKey};

use crate::error::SignatureError;
use crate::keys::KeyRing;

/// What is signed; each kind has its own domain, so that a signature for one never counts for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A list of hub keys, signed by the root.
    KeyList,
    /// A bundle's manifest, signed by a hub key.
    Bundle,
    /// An order to a device, signed by a hub key.
    Order,
    /// A command to a device, signed by a hub key.
    Command,
}

impl Kind {
    /// The word for people, and inside the domain.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::KeyList => "keys",
            Self::Bundle => "bundle",
            Self::Order => "order",
            Self::Command => "command",
        }
    }

    /// The exact bytes that are signed: `fieldcast-<kind>-v1`, a zero byte, the payload.
    #[must_use]
    pub fn message(self, payload: &[u8]) -> Vec<u8> {
        let mut message = format!("fieldcast-{}-v1\0", self.name()).into_bytes();
        message.extend_from_slice(payload);
        message
    }
}

/// Signs `payload` as `kind`; `sign` is Ed25519 over the bytes it is given.
pub fn sign(
    kind: Kind,
    payload: Vec<u8>,
    key_id: &str,
    sign: impl Fn(&[u8]) -> [u8; 64],
) -> Signed {
    let signature = sign(&kind.message(&payload)).to_vec();
    Signed {
        payload,
        signature,
        key_id: key_id.into(),
    }
}

/// Checks a signature against the key that it names.
///
/// # Errors
/// The key is not in the ring, or the signature is not that key's for this kind and payload.
pub fn verify<'a>(
    kind: Kind,
    signed: &'a Signed,
    ring: &KeyRing,
) -> Result<&'a [u8], SignatureError> {
    let key = ring
        .hub_key(&signed.key_id)
        .ok_or_else(|| SignatureError::UnknownKey {
            kind: kind.name(),
            key_id: signed.key_id.clone(),
            list_version: ring.version(),
        })?;
    verify_with(kind, signed, key)
}

pub(crate) fn verify_with<'a>(
    kind: Kind,
    signed: &'a Signed,
    key: &[u8; 32],
) -> Result<&'a [u8], SignatureError> {
    UnparsedPublicKey::new(&ED25519, key)
        .verify(&kind.message(&signed.payload), &signed.signature)
        .map_err(|_| SignatureError::Wrong {
            kind: kind.name(),
            key_id: signed.key_id.clone(),
        })?;
    Ok(&signed.payload)
}
