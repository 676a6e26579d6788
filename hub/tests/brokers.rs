//! The whole data path over real brokers, embedded and Mosquitto: a published batch is acknowledged after it is stored.
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

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fieldcast_hub::broker::Broker;
use fieldcast_hub::downlink::Downlink;
use fieldcast_hub::ingest::{self, Ingestor, out};
use fieldcast_hub::leader::{self, Desk};
use fieldcast_hub::mqtt::{self, Lanes, Link};
use fieldcast_hub::signing::Signer;
use fieldcast_wire::{DeviceTopic, SiteId, Topics, message, pb};
use other_broker::Reading;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, PubAckReason, RetainForwardRule};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use support::mosquitto::{Mosquitto, available};
use support::{
    Bed, add_device, bed, deadline, device, epoch, free_port, payload, psql, reading, readings,
};
use tls_broker::Log;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

const JAN_2026: i64 = 1_767_225_600_000;

fn site() -> SiteId {
    SiteId::new("s").unwrap()
}

/// The hub's data path at a broker, as `serve` wires it.
async fn hub(bed: &Bed, broker: impl Into<mqtt::Broker>, end: &CancellationToken) -> Downlink {
    let signer = Arc::new(Signer::open(&bed.dir.path().join("keys")).unwrap());
    let downlink = Downlink::new(&site(), bed.store.clone(), signer);
    let (events, _) = broadcast::channel(16);
    let (leads_tx, leads) = watch::channel(false);
    let (connected, connections) = watch::channel(0);
    let (lanes, readings, news) = Lanes::new();
    let (out_tx, out_rx) = mpsc::channel(out::QUEUE);
    let ingestor = Ingestor::new(bed.store.clone()).await.unwrap();
    let desk = Desk {
        store: bed.store.clone(),
        downlink: downlink.clone(),
        events: events.clone(),
        out: out_tx.clone(),
        instance: bed.store.instance().await.unwrap(),
    };
    tokio::spawn(mqtt::run(
        broker.into(),
        format!("hub-{}", uuid::Uuid::new_v4()),
        downlink.clone(),
        lanes,
        connected,
        end.clone(),
    ));
    tokio::spawn(ingest::run(
        ingestor,
        readings,
        downlink.clone(),
        out_tx,
        events,
        end.clone(),
    ));
    tokio::spawn(out::run(out_rx, downlink.clone(), end.clone()));
    tokio::spawn(leader::elect(
        bed.store.clone(),
        downlink.clone(),
        connections.clone(),
        leads_tx,
        end.clone(),
    ));
    let attended = downlink.clone();
    tokio::spawn(leader::attend(attended, connections, leads, end.clone()));
    tokio::spawn(leader::run(desk, news, end.clone()));
    downlink
}

fn client(address: SocketAddr, name: &str, password: &str) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(name, address.ip().to_string(), address.port());
    options
        .set_credentials(name, password)
        .set_clean_start(true)
        .set_max_packet_size(Some(600_000));
    AsyncClient::new(options, 64)
}

/// Polls until a message arrives on the topic; sends `again` every second, as a device does without an ack.
async fn answer(
    events: &mut EventLoop,
    topic: &str,
    client: &AsyncClient,
    again: &[(String, Vec<u8>)],
) -> Vec<u8> {
    let until = deadline();
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        assert!(std::time::Instant::now() < until, "no message on {topic}");
        tokio::select! {
            event = events.poll() => if let Ok(Event::Incoming(Packet::Publish(p))) = event
                && p.topic == topic.as_bytes() {
                    return p.payload.to_vec();
            },
            _ = tick.tick() => for (topic, payload) in again {
                client.try_publish(topic.clone(), QoS::AtLeastOnce, false, payload.clone()).unwrap();
            },
        }
    }
}

async fn the_data_path(bed: &Bed, address: SocketAddr, token: &str) {
    let topics = Topics::new(&site());
    let (a, mut events) = client(address, "a", token);
    a.subscribe(topics.device_down(&device("a")), QoS::AtLeastOnce)
        .await
        .unwrap();
    let ack_topic = topics.device(&device("a"), DeviceTopic::Ack);
    let bytes = payload(
        epoch(1),
        1,
        1,
        vec![reading("t", JAN_2026, 1.5), reading("t", JAN_2026 + 1, 2.5)],
    );
    // Sent again until acknowledged, as often as it takes: still written once.
    let batch = (topics.device(&device("a"), DeviceTopic::Live), bytes);
    let ack = answer(&mut events, &ack_topic, &a, &[batch]).await;
    let ack: pb::Ack = message::decode("ack", &ack).unwrap();
    assert_eq!((ack.through, ack.new_epoch), (1, false));
    assert_eq!(readings(&bed.store, "a").await.len(), 2);
    // A device that has forgotten what it sent long ago must begin a new epoch.
    psql(
        bed,
        "UPDATE batches SET received_at = now() - interval '11 minutes'",
    );
    let clock = pb::ClockStamp {
        boot_id: "boot".into(),
        monotonic_ms: 999,
        ..Default::default()
    };
    let forgot = pb::Sync {
        schema: 1,
        epoch: epoch(1).to_vec(),
        session: 1,
        next_batch: 1,
        clock: Some(clock),
        ..Default::default()
    };
    let sync = (
        topics.device(&device("a"), DeviceTopic::Sync),
        message::encode(&forgot),
    );
    let until = deadline();
    loop {
        let ack = answer(&mut events, &ack_topic, &a, std::slice::from_ref(&sync)).await;
        let ack: pb::Ack = message::decode("ack", &ack).unwrap();
        if ack.new_epoch {
            break;
        }
        assert!(std::time::Instant::now() < until, "no new epoch");
    }
}

/// The embedded broker.
async fn listening(bed: &Bed) -> Broker {
    let listen = "127.0.0.1:0".parse().unwrap();
    Broker::start(listen, &site(), bed.store.clone(), 100)
        .await
        .unwrap()
}

async fn connected(downlink: &Downlink) {
    let until = deadline();
    while !downlink.connected() {
        assert!(std::time::Instant::now() < until, "not connected");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The embedded broker, and a hub on it that leads.
async fn embedded(bed: &Bed, end: &CancellationToken) -> Broker {
    let broker = listening(bed).await;
    let downlink = hub(bed, broker.direct.clone(), end).await;
    connected(&downlink).await;
    broker
}

/// What device `a` says when it has come.
fn sync(topics: &Topics) -> (String, Vec<u8>) {
    let sync = pb::Sync {
        schema: 1,
        epoch: epoch(1).to_vec(),
        next_batch: 1,
        clock: Some(pb::ClockStamp::default()),
        ..Default::default()
    };
    let topic = topics.device(&device("a"), DeviceTopic::Sync);
    (topic, message::encode(&sync))
}

#[tokio::test]
async fn two_hubs_on_a_broker_without_shared_subscriptions_store_each_reading_once() {
    let bed = bed().await;
    add_device(&bed.store, "a", None).await;
    let (address, stop) = other_broker::start(Reading::Unshared).await;
    let (end, log) = (CancellationToken::new(), Log::capture());
    let mark = log.mark();
    let link = Link::parse(&format!("mqtt://{address}"), None).unwrap();
    let hubs = [
        hub(&bed, link.clone(), &end).await,
        hub(&bed, link, &end).await,
    ];
    for hub in &hubs {
        connected(hub).await;
    }
    log.says(mark, "each hub of this site reads everything")
        .await;
    the_data_path(&bed, address, "any").await;

    // Both hubs get every batch, each answers, and whoever is asked last proves the same bytes.
    let topics = Topics::new(&site());
    let (a, mut events) = client(address, "a", "any");
    a.subscribe(topics.device_down(&device("a")), QoS::AtLeastOnce)
        .await
        .unwrap();
    let acks = topics.device(&device("a"), DeviceTopic::Ack);
    for number in 1..=20 {
        let time = JAN_2026 + 10 * number as i64;
        let bytes = payload(epoch(2), number, number, vec![reading("u", time, 1.0)]);
        let batch = (topics.device(&device("a"), DeviceTopic::Live), bytes);
        loop {
            let ack = answer(&mut events, &acks, &a, std::slice::from_ref(&batch)).await;
            let ack: pb::Ack = message::decode("ack", &ack).unwrap();
            // Late answers of the former epoch come too.
            if ack.epoch != epoch(2).to_vec() {
                continue;
            }
            assert!(!ack.new_epoch, "batch {number} was taken for a clone's");
            if ack.through >= number {
                break;
            }
        }
    }
    let stored = readings(&bed.store, "a").await;
    assert_eq!(stored.iter().filter(|(s, ..)| s == "u").count(), 20);
    end.cancel();
    stop.await;
}

#[tokio::test]
async fn a_leader_that_loses_its_broker_lets_a_hub_lead_that_has_one() {
    let bed = bed().await;
    add_device(&bed.store, "a", Some("secret")).await;
    let (end, log) = (CancellationToken::new(), Log::capture());
    let (address, stop) = other_broker::start(Reading::Shared).await;
    let mark = log.mark();
    let link = Link::parse(&format!("mqtt://{address}"), None).unwrap();
    hub(&bed, link, &end).await;
    log.says(mark, "this hub leads").await;
    let broker = embedded(&bed, &end).await;
    let mark = log.mark();
    stop.await;
    log.says(mark, "it lets another hub lead, if there is")
        .await;

    // Only a leader answers.
    let topics = Topics::new(&site());
    let (a, mut events) = client(broker.address, "a", "secret");
    let desired = topics.device(&device("a"), DeviceTopic::Desired);
    a.subscribe(desired.clone(), QoS::AtLeastOnce)
        .await
        .unwrap();
    answer(&mut events, &desired, &a, &[sync(&topics)]).await;
    end.cancel();
    broker.stop().await;
}

#[tokio::test]
async fn who_sends_what_cannot_be_taken_learns_why() {
    let bed = bed().await;
    for name in ["a", "b"] {
        add_device(&bed.store, name, Some("secret")).await;
    }
    let end = CancellationToken::new();
    let broker = embedded(&bed, &end).await;
    let topics = Topics::new(&site());
    let topic = |name: &str, topic| topics.device(&device(name), topic);
    let (a, mut events) = client(broker.address, "a", "secret");
    a.subscribe(topics.device_down(&device("a")), QoS::AtLeastOnce)
        .await
        .unwrap();

    // A topic that names another device: the broker says so, and the hub never sees it.
    let strange = payload(epoch(2), 1, 1, vec![reading("t", JAN_2026, 1.0)]);
    a.publish(
        topic("b", DeviceTopic::Live),
        QoS::AtLeastOnce,
        false,
        strange,
    )
    .await
    .unwrap();
    let until = deadline();
    let refused = loop {
        assert!(std::time::Instant::now() < until, "no word of the broker");
        if let Ok(Event::Incoming(Packet::PubAck(ack))) = events.poll().await {
            break ack.reason;
        }
    };
    assert_eq!(refused, PubAckReason::NotAuthorized);

    // The year 9999 in a batch: the reading by itself is refused, with its reason in the ack.
    let far = 253_370_764_800_000;
    let bodies = vec![reading("t", JAN_2026, 1.0), reading("t", far, 2.0)];
    let batch = (
        topic("a", DeviceTopic::Live),
        payload(epoch(1), 1, 1, bodies),
    );
    let acks = topic("a", DeviceTopic::Ack);
    let ack = answer(&mut events, &acks, &a, &[batch]).await;
    let ack: pb::Ack = message::decode("ack", &ack).unwrap();
    let why = &ack.rejected[0];
    assert_eq!((ack.through, why.batch, why.seq), (1, 1, 2));
    assert!(why.reason.contains("between the years"), "{}", why.reason);
    // And in a document.
    let json = format!(
        r#"[{{"sensor":"j","time":{JAN_2026},"value":1}},{{"sensor":"j","time":{far},"value":1}}]"#
    );
    let receipts = topic("a", DeviceTopic::JsonReceipt);
    let document = (topic("a", DeviceTopic::Json), json.into_bytes());
    let receipt = answer(&mut events, &receipts, &a, &[document]).await;
    let receipt: serde_json::Value = serde_json::from_slice(&receipt).unwrap();
    let why = receipt["rejected"][0]["reason"].as_str().unwrap();
    assert_eq!(receipt["rejected"][0]["reading"], 1);
    assert!(why.contains("year"), "{why}");
    assert_eq!(readings(&bed.store, "a").await.len(), 2);

    // What is no sync, state or presence: kept, with its reason, which its sender is told.
    let kept = async || bed.store.quarantined(Some("a"), 0, 10).await.unwrap();
    let before = kept().await.len();
    let no_epoch = pb::Sync {
        epoch: vec![7; 3],
        ..Default::default()
    };
    let rubbish = [
        (DeviceTopic::Sync, b"\xffsync".to_vec(), "sync"),
        (DeviceTopic::Sync, message::encode(&no_epoch), "epoch"),
        (DeviceTopic::State, b"\xffstate".to_vec(), "state"),
        (DeviceTopic::Presence, b"\xffpresence".to_vec(), "presence"),
    ];
    for (lane, bytes, name) in &rubbish {
        let message = (topic("a", *lane), bytes.clone());
        let reason = loop {
            let ack = answer(&mut events, &acks, &a, std::slice::from_ref(&message)).await;
            let ack: pb::Ack = message::decode("ack", &ack).unwrap();
            if ack.epoch.is_empty() && ack.reason.contains(name) {
                break ack.reason;
            }
        };
        let rows = kept().await;
        let digest = fieldcast_wire::Sha256::of(bytes);
        let row = rows.iter().find(|row| row.digest == digest.0).unwrap();
        assert_eq!(row.reason, reason);
    }
    assert_eq!(kept().await.len(), before + rubbish.len(), "once each");
    assert!(readings(&bed.store, "b").await.is_empty());
    assert!(bed.store.sensors("b").await.unwrap().is_empty());
    let of_b = bed.store.quarantined(Some("b"), 0, 10).await.unwrap();
    assert!(of_b.is_empty());
    end.cancel();
    broker.stop().await;
}

#[tokio::test]
async fn over_the_embedded_broker_only_the_device_itself_gets_in() {
    let bed = bed().await;
    add_device(&bed.store, "a", Some("secret")).await;
    let end = CancellationToken::new();
    let broker = embedded(&bed, &end).await;
    let address = broker.address;
    for (name, token) in [("a", "wrong"), ("b", "secret")] {
        let (_client, mut events) = client(address, name, token);
        assert!(
            events.poll().await.is_err(),
            "{name} with {token} must be refused"
        );
    }
    the_data_path(&bed, address, "secret").await;
    end.cancel();
    broker.stop().await;
}

#[tokio::test]
async fn what_a_name_makes_no_topic_of_is_not_published() {
    let bed = bed().await;
    let broker = listening(&bed).await;
    for name in ["#", "+", "a/#", "\0"] {
        let topic = format!("fieldcast/v1/site/out/a/forecast/{name}");
        let refused = broker.direct.publish(&topic, Vec::new(), false).await;
        assert!(refused.is_err(), "{topic}");
    }
    let sound = "fieldcast/v1/site/out/a/forecast/f";
    broker
        .direct
        .publish(sound, Vec::new(), false)
        .await
        .unwrap();
    broker.stop().await;
}

#[tokio::test]
async fn a_hub_whose_subscription_is_refused_is_not_connected_and_says_why() {
    let bed = bed().await;
    let log = Log::capture();
    let end = CancellationToken::new();
    let (address, stop) = other_broker::start(Reading::Refused).await;
    let link = Link::parse(&format!("mqtt://{address}"), None).unwrap();
    let mark = log.mark();
    let downlink = hub(&bed, link, &end).await;
    log.says(mark, "let the hub's user read it").await;
    assert!(!downlink.connected());
    end.cancel();
    stop.await;
}

#[tokio::test]
async fn a_hub_whose_own_broker_has_ended_says_so_and_ends() {
    let bed = bed().await;
    let (end, log) = (CancellationToken::new(), Log::capture());
    let broker = listening(&bed).await;
    let downlink = hub(&bed, broker.direct.clone(), &end).await;
    connected(&downlink).await;
    let mark = log.mark();
    broker.stop().await;
    log.says(mark, "this hub hears no device").await;
    assert!(!downlink.connected());
    end.cancelled().await;
}

#[tokio::test]
async fn a_device_that_comes_while_the_database_is_away_is_told_its_orders_without_asking() {
    let mut bed = bed().await;
    add_device(&bed.store, "a", Some("secret")).await;
    let end = CancellationToken::new();
    let log = Log::capture();
    let mark = log.mark();
    let broker = embedded(&bed, &end).await;
    log.says(mark, "devices told what they shall do").await;
    let (a, mut events) = client(broker.address, "a", "secret");
    let topics = Topics::new(&site());
    let desired = topics.device(&device("a"), DeviceTopic::Desired);
    let unretained = Filter {
        retain_forward_rule: RetainForwardRule::Never,
        ..Filter::new(desired.clone(), QoS::AtLeastOnce)
    };
    a.subscribe_many([unretained]).await.unwrap();
    while !matches!(
        events.poll().await.unwrap(),
        Event::Incoming(Packet::SubAck(_))
    ) {}
    let mark = log.mark();
    support::kill_database(&bed);
    let sync = sync(&topics);
    let told = tokio::spawn(async move { answer(&mut events, &desired, &a, &[sync]).await });
    log.says(mark, "orders not sent to devices that came; trying again")
        .await;
    assert!(bed.cluster.revive().unwrap());
    let told: pb::Desired = message::decode("desired", &told.await.unwrap()).unwrap();
    assert!(told.key_list.is_some());
    end.cancel();
    broker.stop().await;
}

#[tokio::test]
async fn json_readings_wait_for_a_database_that_is_away() {
    let mut bed = bed().await;
    add_device(&bed.store, "a", Some("secret")).await;
    let end = CancellationToken::new();
    let log = Log::capture();
    let broker = embedded(&bed, &end).await;
    let (a, mut events) = client(broker.address, "a", "secret");
    while !matches!(
        events.poll().await.unwrap(),
        Event::Incoming(Packet::ConnAck(_))
    ) {}
    let mark = log.mark();
    support::kill_database(&bed);
    let topics = Topics::new(&site());
    let topic = topics.device(&device("a"), DeviceTopic::Json);
    let receipts = topics.device(&device("a"), DeviceTopic::JsonReceipt);
    a.subscribe(receipts.clone(), QoS::AtLeastOnce)
        .await
        .unwrap();
    let json = br#"{"sensor":"t","time":1767225600000,"value":1}"#;
    a.publish(topic.clone(), QoS::AtLeastOnce, false, json.to_vec())
        .await
        .unwrap();
    let (client, awaited) = (a.clone(), receipts.clone());
    let receipt =
        tokio::spawn(async move { (answer(&mut events, &awaited, &client, &[]).await, events) });
    log.says(mark, "takes no JSON readings; trying again").await;
    assert!(bed.cluster.revive().unwrap());
    let until = deadline();
    while bed.store.ping().await.is_err() || readings(&bed.store, "a").await.len() != 1 {
        assert!(std::time::Instant::now() < until, "lost");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (receipt, mut events) = receipt.await.unwrap();
    let receipt: serde_json::Value = serde_json::from_slice(&receipt).unwrap();
    let sha256 = fieldcast_wire::Sha256::of(json).to_string();
    assert_eq!(
        (&receipt["sha256"], &receipt["new"]),
        (&sha256.into(), &1.into())
    );

    // What cannot be read is kept, and its sender learns why.
    let rubbish = br#"{"sensor":"t","time":"yesterday","value":1}"#.to_vec();
    a.publish(topic, QoS::AtLeastOnce, false, rubbish.clone())
        .await
        .unwrap();
    let refused = answer(&mut events, &receipts, &a, &[]).await;
    let refused: serde_json::Value = serde_json::from_slice(&refused).unwrap();
    assert!(refused["error"].as_str().unwrap().contains("RFC 3339"));
    let kept = bed.store.quarantined(Some("a"), 0, 10).await.unwrap();
    let digest = fieldcast_wire::Sha256::of(&rubbish);
    assert_eq!((kept.len(), &kept[0].digest[..]), (1, &digest.0[..]));
    let bytes = bed.store.quarantined_bytes("a", digest).await.unwrap();
    assert_eq!(bytes, Some(rubbish));
    end.cancel();
    broker.stop().await;
}

#[tokio::test]
async fn over_mosquitto_too() {
    if !available(&["mosquitto"]) {
        return;
    }
    let bed = bed().await;
    add_device(&bed.store, "a", None).await;
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let _mosquitto = Mosquitto::start(bed.dir.path(), address.port());
    let end = CancellationToken::new();
    // The hub waits for a broker that is not there yet.
    hub(
        &bed,
        Link::parse(&format!("mqtt://{address}"), None).unwrap(),
        &end,
    )
    .await;
    let until = deadline();
    while tokio::net::TcpStream::connect(address).await.is_err() {
        assert!(
            std::time::Instant::now() < until,
            "mosquitto does not listen"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    the_data_path(&bed, address, "any").await;
    end.cancel();
}
