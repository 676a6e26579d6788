//! What a broker says at connecting that it offers: owns whether the hub can work with it and how; never connects.

use fieldcast_wire::Topics;
use fieldcast_wire::caps::MAX_PAYLOAD;
use rumqttc::v5::mqttbytes::v5::{ConnAck, SubscribeReasonCode};

/// Room for a message's topic and header beside its payload, in bytes.
pub(super) const HEADER: usize = 4_096;

/// How the hub subscribes to telemetry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// Hubs share it: each message goes to one of them.
    Shared,
    /// Every hub reads all of it, and the ledger takes each batch once: for brokers without shared subscriptions.
    Everyone,
}

impl Sharing {
    /// The filters of telemetry.
    pub(super) fn filters(self, topics: &Topics) -> [String; 3] {
        let filters = topics.telemetry_filters();
        match self {
            Self::Shared => filters.map(|filter| format!("$share/hubs/{filter}")),
            Self::Everyone => filters,
        }
    }

    /// After a broker's answer to the subscription: none where it granted all, otherwise what to try next.
    ///
    /// # Errors
    /// There is nothing left to try.
    pub(super) fn after(self, codes: &[SubscribeReasonCode]) -> Result<Option<Self>, String> {
        let granted = |code: &SubscribeReasonCode| matches!(code, SubscribeReasonCode::Success(_));
        if codes.iter().all(granted) {
            return Ok(None);
        }
        let unshared = SubscribeReasonCode::SharedSubscriptionsNotSupported;
        if self == Self::Shared && codes.contains(&unshared) {
            return Ok(Some(Self::Everyone));
        }
        Err(format!(
            "the broker refuses the subscription to `d/+/up/#` of this site ({codes:?}); let the hub's user read it, \
             shared subscriptions included"
        ))
    }
}

/// How to work with a broker that answered so (MQTT 5, 3.2.2.3).
///
/// # Errors
/// What it lacks, and what to change.
pub(super) fn sharing(answer: &ConnAck) -> Result<Sharing, String> {
    let Some(offer) = &answer.properties else {
        return Ok(Sharing::Shared);
    };
    if offer.max_qos == Some(0) {
        return Err(
            "the broker offers no QoS 1, without which nothing is delivered surely; allow QoS 1 in it or use another broker".into(),
        );
    }
    if offer.retain_available == Some(0) {
        return Err(
            "the broker keeps no retained messages, by which a hub learns what runs on devices that spoke while it was away; allow them in it or use another broker".into(),
        );
    }
    if offer.wildcard_subscription_available == Some(0) {
        return Err(
            "the broker offers no subscriptions with wildcards, by which the hub reads all devices; allow them in it or use another broker"
                .into(),
        );
    }
    let needed = MAX_PAYLOAD + HEADER;
    if let Some(largest) = offer.max_packet_size
        && (largest as usize) < needed
    {
        return Err(format!(
            "the broker takes messages of at most {largest} bytes, batches have up to {needed}; raise its limit to that"
        ));
    }
    Ok(match offer.shared_subscription_available {
        Some(0) => Sharing::Everyone,
        _ => Sharing::Shared,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use fieldcast_wire::SiteId;
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::{ConnAckProperties, ConnectReturnCode};

    use super::*;

    fn answer(change: impl FnOnce(&mut ConnAckProperties)) -> ConnAck {
        let mut properties = ConnAckProperties {
            session_expiry_interval: None,
            receive_max: None,
            max_qos: None,
            retain_available: None,
            max_packet_size: None,
            assigned_client_identifier: None,
            topic_alias_max: None,
            reason_string: None,
            user_properties: Vec::new(),
            wildcard_subscription_available: None,
            subscription_identifiers_available: None,
            shared_subscription_available: None,
            server_keep_alive: None,
            response_information: None,
            server_reference: None,
            authentication_method: None,
            authentication_data: None,
        };
        change(&mut properties);
        ConnAck {
            session_present: false,
            code: ConnectReturnCode::Success,
            properties: Some(properties),
        }
    }

    #[test]
    fn a_broker_without_shared_subscriptions_is_read_whole() {
        let topics = Topics::new(&SiteId::new("s").unwrap());
        let unshared = answer(|p| p.shared_subscription_available = Some(0));
        assert_eq!(sharing(&unshared), Ok(Sharing::Everyone));
        assert_eq!(sharing(&answer(|_| {})), Ok(Sharing::Shared));
        // One that does not say so beforehand says it when asked.
        let refusal = [SubscribeReasonCode::SharedSubscriptionsNotSupported; 3];
        assert_eq!(Sharing::Shared.after(&refusal), Ok(Some(Sharing::Everyone)));
        assert!(Sharing::Everyone.after(&refusal).is_err());
        assert!(Sharing::Shared.filters(&topics)[0].starts_with("$share/hubs/"));
        assert!(!Sharing::Everyone.filters(&topics)[0].starts_with('$'));
        let granted = [SubscribeReasonCode::Success(QoS::AtLeastOnce); 3];
        assert_eq!(Sharing::Shared.after(&granted), Ok(None));
        let forbidden = [SubscribeReasonCode::NotAuthorized; 3];
        assert!(
            Sharing::Shared
                .after(&forbidden)
                .unwrap_err()
                .contains("let the hub's user read")
        );
    }

    #[test]
    fn what_a_broker_lacks_is_said_with_what_to_do() {
        for (lack, word) in [
            (answer(|p| p.max_qos = Some(0)), "QoS 1"),
            (answer(|p| p.retain_available = Some(0)), "retained"),
            (
                answer(|p| p.wildcard_subscription_available = Some(0)),
                "wildcards",
            ),
            (
                answer(|p| p.max_packet_size = Some(65_536)),
                "raise its limit",
            ),
        ] {
            assert!(sharing(&lack).unwrap_err().contains(word), "{word}");
        }
    }
}
