//! The hub over TLS to a real Mosquitto: what is wrong is said with what to do, and mending it is enough.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod support;
#[path = "support/tls_broker.rs"]
mod tls_broker;

use std::os::unix::fs::PermissionsExt as _;

use fieldcast_hub::app;
use fieldcast_hub::config::{Config, ServeConfig};
use fieldcast_hub::tls::Tls;
use fieldcast_wire::{DeviceTopic, Topics, message, pb};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use support::{add_device, deadline, device, epoch, payload, reading, readings};
use tls_broker::{Authority, EXPIRED, GOOD, Log, TlsBroker, available};
use tokio_util::sync::CancellationToken;

const JAN_2026: i64 = 1_767_225_600_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_authority_an_expired_certificate_and_a_wrong_password_are_named_and_mended() {
    if !available() {
        return;
    }
    let log = Log::capture();
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let (right, wrong) = (
        Authority::new(dir.path(), "right"),
        Authority::new(dir.path(), "wrong"),
    );
    let good = right.issue("good", GOOD);
    let users = [("hub", "pass"), ("a", "token")];
    let mut broker = TlsBroker::new(dir.path());
    broker.start(&good, &users);
    let ca = dir.path().join("broker-ca.pem");
    std::fs::copy(wrong.certificate(), &ca).unwrap();

    let config = Config {
        data_dir: dir.path().join("hub"),
        database_url: None,
        site: fieldcast_wire::SiteId::new("s").unwrap(),
    };
    let serve = ServeConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        broker_connections: 100,
        broker_listen: "127.0.0.1:0".parse().unwrap(),
        broker: Some(format!("mqtts://hub:pass@localhost:{}", broker.tls_port)),
        broker_ca: Some(ca.clone()),
    };
    let mark = log.mark();
    let mut running = app::start(&config, &serve, CancellationToken::new())
        .await
        .unwrap();
    assert!(running.begin().await.unwrap());
    log.says(
        mark,
        "not vouched for: name the authority that signed it with --broker-ca",
    )
    .await;
    assert!(running.hub.not_ready().await.is_some());

    let mark = log.mark();
    broker.start(&right.issue("old", EXPIRED), &users);
    std::fs::copy(right.certificate(), &ca).unwrap();
    log.says(mark, "certificate has expired: renew it there")
        .await;

    let mark = log.mark();
    broker.start(&good, &[("hub", "another"), ("a", "token")]);
    log.says(mark, "check user and password in --broker").await;

    broker.start(&good, &users);
    let until = deadline();
    while let Some(why) = running.hub.not_ready().await {
        assert!(std::time::Instant::now() < until, "not mended: {why}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }

    // A batch over TLS is stored and acknowledged.
    let store = &running.hub.store;
    add_device(store, "a", None).await;
    let topics = Topics::new(&config.site);
    let mut options = MqttOptions::new("a", "localhost", broker.tls_port);
    options.set_credentials("a", "token");
    options.set_transport(Tls::Authority(ca).transport().unwrap());
    let (client, mut events) = AsyncClient::new(options, 16);
    client
        .subscribe(topics.device_down(&device("a")), QoS::AtLeastOnce)
        .await
        .unwrap();
    let bytes = payload(epoch(1), 1, 1, vec![reading("t", JAN_2026, 1.5)]);
    let live = topics.device(&device("a"), DeviceTopic::Live);
    let ack_topic = topics.device(&device("a"), DeviceTopic::Ack);
    let acked = async {
        loop {
            match events.poll().await.unwrap() {
                Event::Incoming(Packet::SubAck(_)) => client
                    .try_publish(live.clone(), QoS::AtLeastOnce, false, bytes.clone())
                    .unwrap(),
                Event::Incoming(Packet::Publish(p)) if p.topic == ack_topic.as_bytes() => {
                    return message::decode::<pb::Ack>("ack", &p.payload).unwrap();
                }
                _ => {}
            }
        }
    };
    let ack = tokio::time::timeout(std::time::Duration::from_secs(30), acked)
        .await
        .expect("an ack");
    assert_eq!(ack.through, 1);
    assert_eq!(
        readings(store, "a").await,
        vec![("t".into(), JAN_2026, 1.5)]
    );
    running.stop().await.unwrap();
}
