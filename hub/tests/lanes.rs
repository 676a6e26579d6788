//! A hub that cannot keep up with its broker: what it drops stands in nobody's way.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

#[path = "support/other_broker.rs"]
mod other_broker;
mod support;
#[path = "support/tls_broker.rs"]
mod tls_broker;

use std::sync::Arc;
use std::time::Duration;

use fieldcast_hub::downlink::Downlink;
use fieldcast_hub::mqtt::{self, Lanes, Link};
use fieldcast_hub::signing::Signer;
use fieldcast_wire::{DeviceTopic, SiteId};
use other_broker::Reading;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::{AsyncClient, MqttOptions};
use support::{bed, deadline, device};
use tls_broker::Log;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn what_a_hub_drops_does_not_stay_under_way_for_the_broker() {
    let bed = bed().await;
    let site = SiteId::new("s").unwrap();
    let (address, stop) = other_broker::start(Reading::Shared).await;
    let log = Log::capture();
    let link = Link::parse(&format!("mqtt://{address}"), None).unwrap();
    let signer = Arc::new(Signer::open(&bed.dir.path().join("keys")).unwrap());
    let downlink = Downlink::new(&site, bed.store.clone(), signer);
    let (connected, mut connections) = watch::channel(0);
    // Room for half of what the broker sends at once.
    let (telemetry, mut kept) = mqtt::lane("telemetry", 32 * 4 * 1024);
    let (leader, _news) = mqtt::lane("leader", 4 * 1024);
    let lanes = Lanes { telemetry, leader };
    let end = CancellationToken::new();
    let (broker, topics) = (link.into(), downlink.topics().clone());
    let running = mqtt::run(
        broker,
        "hub".into(),
        downlink,
        lanes,
        connected,
        end.clone(),
    );
    let running = tokio::spawn(running);
    connections.wait_for(|n| *n == 1).await.unwrap();

    let options = MqttOptions::new("a", address.ip().to_string(), address.port());
    let (a, mut events) = AsyncClient::new(options, 1_000);
    tokio::spawn(async move { while events.poll().await.is_ok() {} });
    let live = topics.device(&device("a"), DeviceTopic::Live);
    let mark = log.mark();
    for n in 0..500 {
        let payload = n.to_string();
        a.publish(&live, QoS::AtLeastOnce, false, payload)
            .await
            .unwrap();
    }
    log.says(mark, "messages are dropped").await;
    for n in 0..32 {
        let (next, _room) = kept.recv().await.unwrap();
        assert_eq!(next.payload, n.to_string().into_bytes());
    }
    // There is room again, and for what is sent again, as devices do, the broker has a place under way.
    let sender = tokio::spawn(async move {
        loop {
            a.publish(&live, QoS::AtLeastOnce, false, "again")
                .await
                .unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    loop {
        let next = tokio::time::timeout_at(deadline().into(), kept.recv());
        let (next, _room) = next.await.expect("nothing comes any more").unwrap();
        if next.payload == b"again" {
            break;
        }
    }
    sender.abort();
    end.cancel();
    running.await.unwrap();
    stop.await;
}
