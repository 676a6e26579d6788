//! Decoding of the small messages: owns the size and schema checks, never their meaning.

use prost::Message;

use crate::caps::{MAX_ACK_PROOFS, MAX_ACK_RANGES, MAX_ACK_REJECTED, MAX_PAYLOAD};
use crate::{pb, shape};

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
    /// A list over its cap.
    #[error(
        "ack with {found} {what}, at most {most} are taken; update the hub, which must send less at once"
    )]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        found: usize,
        /// How many are allowed.
        most: usize,
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

/// Decodes an acknowledgement after its lists are counted: an empty refusal takes two bytes on the wire and forty in memory.
///
/// # Errors
/// Too large, a list over its cap, or no acknowledgement.
pub fn decode_ack(bytes: &[u8]) -> Result<pb::Ack, MessageError> {
    let caps = [
        (4, "ranges", MAX_ACK_RANGES),
        (5, "refusals", MAX_ACK_REJECTED),
        (12, "proofs", MAX_ACK_PROOFS),
    ];
    if bytes.len() <= MAX_PAYLOAD {
        // What cannot be counted cannot be decoded either, and is told of below.
        let found = shape::counts(bytes, caps.map(|(field, ..)| field)).unwrap_or_default();
        for (found, (_, what, most)) in found.into_iter().zip(caps) {
            if found > most {
                return Err(MessageError::TooMany { what, found, most });
            }
        }
    }
    decode("ack", bytes)
}

/// Encodes a message.
#[must_use]
pub fn encode<M: Message>(message: &M) -> Vec<u8> {
    message.encode_to_vec()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn an_ack_may_list_as_much_as_its_caps_and_no_more() {
        let full = pb::Ack {
            ranges: vec![pb::BatchRange { first: 1, last: 2 }; MAX_ACK_RANGES],
            rejected: vec![pb::Rejected::default(); MAX_ACK_REJECTED],
            proofs: vec![pb::Proof::default(); MAX_ACK_PROOFS],
            ..pb::Ack::default()
        };
        assert_eq!(decode_ack(&encode(&full)).unwrap(), full);
        let lists: [fn(&mut pb::Ack); 3] = [
            |a| a.ranges.push(pb::BatchRange::default()),
            |a| a.rejected.push(pb::Rejected::default()),
            |a| a.proofs.push(pb::Proof::default()),
        ];
        for longer in lists {
            let mut ack = full.clone();
            longer(&mut ack);
            let refused = decode_ack(&encode(&ack)).unwrap_err();
            assert!(matches!(refused, MessageError::TooMany { .. }), "{refused}");
        }
        assert!(matches!(
            decode_ack(&[0xff; 9]),
            Err(MessageError::Malformed { .. })
        ));
    }
}
