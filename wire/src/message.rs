//! Decoding of the small messages: owns the size and schema checks, never their meaning.

use prost::Message;

use crate::caps::MAX_PAYLOAD;

/// A message that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// Over the cap.
    #[error(
        "{kind} of {len} bytes is over the cap of {MAX_PAYLOAD}; the sender must send less at once"
    )]
    TooLarge {
        /// Message name.
        kind: &'static str,
        /// Bytes received.
        len: usize,
    },
    /// Not this message.
    #[error("{kind} cannot be decoded ({source}); check that the sender speaks Fieldcast v1")]
    Malformed {
        /// Message name.
        kind: &'static str,
        /// What protobuf says.
        source: prost::DecodeError,
    },
}

/// Decodes a message after its size is checked.
///
/// # Errors
/// Too large, or not a message of this kind.
pub fn decode<M: Message + Default>(kind: &'static str, bytes: &[u8]) -> Result<M, MessageError> {
    if bytes.len() > MAX_PAYLOAD {
        return Err(MessageError::TooLarge {
            kind,
            len: bytes.len(),
        });
    }
    M::decode(bytes).map_err(|source| MessageError::Malformed { kind, source })
}

/// Encodes a message.
#[must_use]
pub fn encode<M: Message>(message: &M) -> Vec<u8> {
    message.encode_to_vec()
}
