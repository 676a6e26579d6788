//! Messages from a connection: owns into which lane each goes and that each is acknowledged in the end, kept or not.

use fieldcast_wire::{DeviceTopic, Topics};
use rumqttc::v5::AsyncClient;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Publish;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::{Delivery, Lanes, Receipt};

/// A message that nobody could keep, and the lane that was full.
pub(super) type Unkept = (Option<mpsc::Sender<Delivery>>, Publish);

/// As many as a broker can have under way: it tells them apart by numbers of 16 bits.
pub(super) const UNKEPT: usize = u16::MAX as usize;

/// Hands a message over; one that nobody here can keep comes back, as far as it is to be acknowledged.
pub(super) fn deliver(
    client: &AsyncClient,
    publish: Publish,
    topics: &Topics,
    lanes: &Lanes,
) -> Option<Unkept> {
    // All that an acknowledgement needs; the rest would hold the whole frame in memory.
    let unacknowledged = Publish {
        qos: publish.qos,
        pkid: publish.pkid,
        ..Publish::default()
    };
    let asked = publish.qos != QoS::AtMostOnce;
    let parsed = std::str::from_utf8(&publish.topic)
        .ok()
        .and_then(|topic| topics.parse(topic));
    let Some((device, topic)) = parsed else {
        return asked.then_some((None, unacknowledged));
    };
    let lane = match topic {
        DeviceTopic::Live | DeviceTopic::Back | DeviceTopic::Json => &lanes.telemetry,
        _ => &lanes.leader,
    };
    let delivery = Delivery {
        device,
        topic,
        payload: publish.payload.to_vec(),
        receipt: Receipt(Some((client.clone(), unacknowledged.clone()))),
    };
    match lane.try_send(delivery) {
        // A hub that ends: the broker may give to another what is not acknowledged.
        Ok(()) | Err(TrySendError::Closed(_)) => None,
        Err(TrySendError::Full(_)) => {
            // Only from a broker that sends more than the receive maximum.
            tracing::warn!("a message was dropped, as too many wait; its device sends it again");
            asked.then(|| (Some(lane.clone()), unacknowledged))
        }
    }
}

/// Acknowledges what nobody kept until the connection ends. What never is stays under way for the broker, which sends only so much
/// at once, and of which some (Mosquitto) walk over all of that at each acknowledgement.
pub(super) async fn acknowledge(client: AsyncClient, mut unkept: mpsc::Receiver<Unkept>) {
    while let Some((lane, publish)) = unkept.recv().await {
        // Each lets the broker send another, which would be dropped as well as long as there is no room.
        if let Some(lane) = lane
            && lane.reserve().await.is_err()
        {
            return;
        }
        if client.ack(&publish).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use fieldcast_wire::{DeviceId, SiteId};
    use rumqttc::v5::MqttOptions;

    use super::*;

    #[test]
    fn what_nobody_can_keep_comes_back_to_be_acknowledged() {
        let (client, _events) = AsyncClient::new(MqttOptions::new("hub", "localhost", 1), 1);
        let topics = Topics::new(&SiteId::new("s").unwrap());
        let (telemetry, mut kept) = mpsc::channel(1);
        let (leader, asked) = mpsc::channel(1);
        let lanes = Lanes { telemetry, leader };
        let of_a = |topic| topics.device(&DeviceId::new("a").unwrap(), topic);
        let give = |topic: &str, qos, number| {
            let mut publish = Publish::new(topic, qos, vec![7_u8], None);
            publish.pkid = number;
            let unkept = deliver(&client, publish, &topics, &lanes)?;
            Some((unkept.0.is_some(), unkept.1.pkid))
        };
        let live = of_a(DeviceTopic::Live);
        assert_eq!(give(&live, QoS::AtLeastOnce, 1), None);
        assert_eq!(give(&live, QoS::AtLeastOnce, 2), Some((true, 2)), "no room");
        assert_eq!(give(&live, QoS::AtMostOnce, 0), None, "not asked for");
        let strange = give("elsewhere", QoS::AtLeastOnce, 3);
        assert_eq!(strange, Some((false, 3)), "no topic of a device");
        assert_eq!(kept.try_recv().unwrap().payload, [7]);
        assert_eq!(give(&live, QoS::AtLeastOnce, 4), None);
        drop(asked);
        let sync = of_a(DeviceTopic::Sync);
        assert_eq!(give(&sync, QoS::AtLeastOnce, 5), None, "the hub ends");
    }
}
