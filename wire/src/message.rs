//! Decoding of the small messages: owns what they may hold, never their meaning.

use prost::Message;

use crate::caps::{
    FRAMED_BLOCK, MAX_ACK_PROOFS, MAX_ACK_RANGES, MAX_ACK_REJECTED, MAX_COMMANDS, MAX_LISTED,
    MAX_NAME, MAX_PAYLOAD, MAX_SMALL, MAX_TEXT,
};
use crate::{pb, shape};

/// A message that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// Over the cap.
    #[error("{kind} of {len} bytes is over the cap of {most}; the sender must send less at once")]
    TooLarge {
        /// Message name.
        kind: &'static str,
        /// Bytes received.
        len: usize,
        /// Bytes allowed.
        most: usize,
    },
    /// A list over its cap.
    #[error(
        "{kind} with {found} {what}, at most {most} are taken; update the sender, which must send less at once"
    )]
    TooMany {
        /// Message name.
        kind: &'static str,
        /// Of what.
        what: &'static str,
        /// How many.
        found: usize,
        /// How many are allowed.
        most: usize,
    },
    /// A field that no sound sender writes.
    #[error(
        "{kind} with {what} above {most} bytes or with a NUL character; update the sender, which must cut it"
    )]
    Unsound {
        /// Message name.
        kind: &'static str,
        /// Which field.
        what: &'static str,
        /// Bytes allowed.
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

/// A message from the other side, and what it may hold at most.
pub trait Capped: Message + Default {
    /// Name for people.
    const KIND: &'static str;
    /// Most bytes.
    const BYTES: usize = MAX_PAYLOAD;
    /// Lists of messages: field number, what they list, how many. An empty message takes two bytes on the wire and
    /// hundreds in memory, so they are counted before anything is decoded.
    const LISTS: &'static [(u32, &'static str, usize)] = &[];

    /// Texts and their most bytes.
    fn texts(&self) -> Vec<(&'static str, &str, usize)> {
        Vec::new()
    }
}

impl Capped for pb::Ack {
    const KIND: &'static str = "ack";
    const LISTS: &'static [(u32, &'static str, usize)] = &[
        (4, "ranges", MAX_ACK_RANGES),
        (5, "refusals", MAX_ACK_REJECTED),
        (12, "proofs", MAX_ACK_PROOFS),
    ];
}

impl Capped for pb::Desired {
    const KIND: &'static str = "desired";
    const LISTS: &'static [(u32, &'static str, usize)] =
        &[(2, "orders", MAX_LISTED), (3, "commands", MAX_COMMANDS)];
}

impl Capped for pb::Sync {
    const KIND: &'static str = "sync";
    const BYTES: usize = MAX_SMALL;
    const LISTS: &'static [(u32, &'static str, usize)] = &[(12, "ranges", MAX_ACK_RANGES)];

    fn texts(&self) -> Vec<(&'static str, &str, usize)> {
        let boot = self.clock.iter().map(|c| c.boot_id.as_str());
        boot.map(|id| ("a boot id", id, MAX_NAME)).collect()
    }
}

impl Capped for pb::Presence {
    const KIND: &'static str = "presence";
    const BYTES: usize = MAX_SMALL;

    fn texts(&self) -> Vec<(&'static str, &str, usize)> {
        vec![("an agent version", &self.agent_version, MAX_NAME)]
    }
}

impl Capped for pb::BlobRequest {
    const KIND: &'static str = "block request";
    const BYTES: usize = MAX_SMALL;
}

impl Capped for pb::Block {
    const KIND: &'static str = "block";
    const BYTES: usize = FRAMED_BLOCK;
}

impl Capped for pb::State {
    const KIND: &'static str = "state";
    const LISTS: &'static [(u32, &'static str, usize)] = &[(6, "forecasters", MAX_LISTED)];

    fn texts(&self) -> Vec<(&'static str, &str, usize)> {
        let mut texts = vec![
            ("an agent version", self.agent_version.as_str(), MAX_NAME),
            ("a refusal", &self.refused, MAX_TEXT),
        ];
        for f in &self.forecasters {
            texts.push(("a forecaster's name", &f.forecaster, MAX_NAME));
            texts.push(("a reason", &f.reason, MAX_TEXT));
        }
        texts
    }
}

/// Decodes a message after its size is checked.
///
/// # Errors
/// Too large, or not a message of this kind.
pub fn decode<M: Message + Default>(kind: &'static str, bytes: &[u8]) -> Result<M, MessageError> {
    sized(kind, bytes, MAX_PAYLOAD)
}

/// Decodes a message from the other side, after all that would unfold is counted.
///
/// # Errors
/// Too large, a list or a text over its cap, or not a message of this kind.
pub fn receive<M: Capped>(bytes: &[u8]) -> Result<M, MessageError> {
    let kind = M::KIND;
    if bytes.len() <= M::BYTES {
        for (field, what, most) in M::LISTS {
            // What cannot be counted cannot be decoded either, and is told of below.
            let found = shape::count(bytes, *field).unwrap_or_default();
            if found > *most {
                return Err(MessageError::TooMany {
                    kind,
                    what,
                    found,
                    most: *most,
                });
            }
        }
    }
    let message: M = sized(kind, bytes, M::BYTES)?;
    let unsound = message
        .texts()
        .into_iter()
        .find(|(_, text, most)| text.len() > *most || text.contains('\0'))
        .map(|(what, _, most)| MessageError::Unsound { kind, what, most });
    unsound.map_or(Ok(message), Err)
}

fn sized<M: Message + Default>(
    kind: &'static str,
    bytes: &[u8],
    most: usize,
) -> Result<M, MessageError> {
    let len = bytes.len();
    if len > most {
        return Err(MessageError::TooLarge { kind, len, most });
    }
    M::decode(bytes).map_err(|source| MessageError::Malformed { kind, source })
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
        assert_eq!(receive::<pb::Ack>(&encode(&full)).unwrap(), full);
        let lists: [fn(&mut pb::Ack); 3] = [
            |a| a.ranges.push(pb::BatchRange::default()),
            |a| a.rejected.push(pb::Rejected::default()),
            |a| a.proofs.push(pb::Proof::default()),
        ];
        for longer in lists {
            let mut ack = full.clone();
            longer(&mut ack);
            let refused = receive::<pb::Ack>(&encode(&ack)).unwrap_err();
            assert!(matches!(refused, MessageError::TooMany { .. }), "{refused}");
        }
        assert!(matches!(
            receive::<pb::Ack>(&[0xff; 9]),
            Err(MessageError::Malformed { .. })
        ));
    }

    #[test]
    fn messages_of_a_device_are_refused_by_what_they_hold_too_much_of() {
        fn refused<M: Capped + std::fmt::Debug>(message: &M) -> String {
            receive::<M>(&encode(message)).unwrap_err().to_string()
        }
        let forecaster = pb::ForecasterState {
            forecaster: "oil".into(),
            reason: "r".repeat(MAX_TEXT),
            ..Default::default()
        };
        let most = pb::State {
            agent_version: "1.2.3".into(),
            forecasters: vec![forecaster.clone(); 64],
            ..Default::default()
        };
        assert_eq!(receive::<pb::State>(&encode(&most)).unwrap(), most);
        let of = |f: pb::ForecasterState| pb::State {
            forecasters: vec![f],
            ..Default::default()
        };
        let long = refused(&of(pb::ForecasterState {
            reason: "r".repeat(MAX_TEXT + 1),
            ..forecaster.clone()
        }));
        assert!(
            long.contains("state with a reason above 1024 bytes"),
            "{long}"
        );
        let nul = refused(&of(pb::ForecasterState {
            forecaster: "a\0b".into(),
            ..forecaster
        }));
        assert!(nul.contains("a forecaster's name"), "{nul}");
        let many = refused(&pb::State {
            forecasters: vec![pb::ForecasterState::default(); MAX_LISTED + 1],
            ..Default::default()
        });
        assert!(many.contains("state with 1025 forecasters"), "{many}");
        let refusal = refused(&pb::State {
            refused: "V2: \0".into(),
            ..Default::default()
        });
        assert!(refusal.contains("state with a refusal"), "{refusal}");
        let sync = refused(&pb::Sync {
            clock: Some(pb::ClockStamp {
                boot_id: "b".repeat(MAX_NAME + 1),
                ..Default::default()
            }),
            ..Default::default()
        });
        assert!(sync.contains("sync with a boot id"), "{sync}");
        let sync = refused(&pb::Sync {
            hub_instance: vec![1; MAX_SMALL],
            ..Default::default()
        });
        assert!(sync.contains("over the cap of 4096"), "{sync}");
        let presence = refused(&pb::Presence {
            agent_version: "v\0".into(),
            ..Default::default()
        });
        assert!(presence.contains("an agent version"), "{presence}");
        let blocks = refused(&pb::BlobRequest {
            missing: vec![7; MAX_SMALL],
            ..Default::default()
        });
        assert!(blocks.contains("over the cap"), "{blocks}");
        let orders = refused(&pb::Desired {
            orders: vec![pb::Signed::default(); MAX_LISTED + 1],
            ..Default::default()
        });
        assert!(orders.contains("1025 orders"), "{orders}");
    }
}
