//! Messages from a connection: owns into which lane each goes, never what becomes of it there.

use fieldcast_wire::{DeviceTopic, Topics};
use rumqttc::v5::AsyncClient;
use rumqttc::v5::mqttbytes::v5::Publish;

use super::{Delivery, Lanes, Receipt};

/// Hands a message over, to be acknowledged about in its turn, kept or not.
pub(super) fn deliver(client: &AsyncClient, publish: Publish, topics: &Topics, lanes: &Lanes) {
    let receipt = Receipt::of(client, &publish);
    let parsed = std::str::from_utf8(&publish.topic)
        .ok()
        .and_then(|topic| topics.parse(topic));
    let Some((device, topic)) = parsed else {
        return lanes.telemetry.decline(receipt);
    };
    let lane = match topic {
        DeviceTopic::Live | DeviceTopic::Back | DeviceTopic::Json => &lanes.telemetry,
        _ => &lanes.leader,
    };
    lane.offer(Delivery {
        device,
        topic,
        payload: publish.payload.to_vec(),
        receipt,
    });
}
