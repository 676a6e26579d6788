//! Messages from a connection: owns into which lane each goes, never what becomes of it there.

use fieldcast_wire::{DeviceTopic, Topics};
use rumqttc::v5::mqttbytes::v5::Publish;

use super::{Delivery, Lanes};

/// Hands a message over; what is on no topic of a device is for nobody here.
pub(super) fn deliver(publish: &Publish, topics: &Topics, lanes: &Lanes) {
    let parsed = std::str::from_utf8(&publish.topic)
        .ok()
        .and_then(|topic| topics.parse(topic));
    let Some((device, topic)) = parsed else {
        return;
    };
    let lane = match topic {
        DeviceTopic::Live | DeviceTopic::Back | DeviceTopic::Json => &lanes.telemetry,
        _ => &lanes.leader,
    };
    // Bytes of their own: these hold the whole frame in memory.
    lane.offer(Delivery {
        device,
        topic,
        payload: publish.payload.to_vec(),
    });
}
