//! What must hold for any bytes that the wire brings: owns the properties that fuzzing looks for and `wire`'s tests replay.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test, here and in wire"
)]

use std::fmt::Debug;

use fieldcast_wire::batch::{self, BatchError, Header};
use fieldcast_wire::caps::{MAX_PAYLOAD, MAX_RECORDS};
use fieldcast_wire::message::{self, Capped};
use fieldcast_wire::{SiteId, Topics, json as readings, pb};

/// What decodes is a batch within the caps, and encodes to bytes that decode to the same.
pub fn batch(bytes: &[u8]) {
    let Ok(first) = batch::decode(bytes) else {
        return;
    };
    assert!(bytes.len() <= MAX_PAYLOAD && first.records.len() as u64 <= MAX_RECORDS);
    let header = Header {
        epoch: first.epoch,
        number: first.number,
        clock: first.clock.clone(),
    };
    let encoded = match batch::encode(&header, &first.records) {
        Ok(encoded) => encoded,
        // What was packed tighter than ours may not fit again.
        Err(BatchError::TooLarge { .. }) => return,
        Err(error) => panic!("{error}"),
    };
    let again = batch::decode(&encoded).unwrap();
    // By their text: NaN is not itself. The bits of values show in the bytes.
    assert_eq!(format!("{first:?}"), format!("{again:?}"));
    assert_eq!(encoded, batch::encode(&header, &again.records).unwrap());
}

/// Every message that decodes encodes to one that decodes to the same.
pub fn messages(bytes: &[u8]) {
    received::<pb::Ack>(bytes);
    received::<pb::Sync>(bytes);
    received::<pb::State>(bytes);
    received::<pb::Presence>(bytes);
    received::<pb::BlobRequest>(bytes);
    received::<pb::Block>(bytes);
    received::<pb::Desired>(bytes);
}

fn received<M: Capped + PartialEq + Debug>(bytes: &[u8]) {
    let Ok(message) = message::receive::<M>(bytes) else {
        return;
    };
    let encoded = message::encode(&message);
    // Sixty-four bits in place of thirty-two, zeros in place of nothing: ours may be the longer.
    if encoded.len() <= M::BYTES {
        assert_eq!(message::receive::<M>(&encoded).unwrap(), message);
    }
}

/// What is read can be written and read again.
pub fn json(bytes: &[u8]) {
    let Ok(found) = readings::parse(bytes) else {
        return;
    };
    assert!(found.len() as u64 <= MAX_RECORDS && found.iter().all(|r| r.value.is_finite()));
    let document: Vec<_> = found
        .iter()
        .map(|r| serde_json::json!({"sensor": r.sensor, "time": r.time, "value": r.value}))
        .collect();
    let document = serde_json::to_vec(&document).unwrap();
    if document.len() <= MAX_PAYLOAD {
        assert_eq!(readings::parse(&document).unwrap(), found);
    }
}

/// A topic that is understood is spelt in one way only.
pub fn topics(bytes: &[u8]) {
    let (Ok(topic), Ok(site)) = (std::str::from_utf8(bytes), SiteId::new("plant")) else {
        return;
    };
    let topics = Topics::new(&site);
    if let Some((device, kind)) = topics.parse(topic) {
        assert_eq!(topics.device(&device, kind), topic);
    }
}
