//! The uplink against a real Mosquitto and a hub that commits to memory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

#[path = "../../hub/tests/support/tls_broker.rs"]
mod tls_broker;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fieldcast_agent::buffer::{Buffer, Commit, Limits};
use fieldcast_agent::clock::Clock;
use fieldcast_agent::identity::Identity;
use fieldcast_agent::uplink::{self, Settings, UplinkEvent};
use fieldcast_wire::{DeviceTopic, Epoch, Reading, RecordBody, Sha256, Topics, batch, message, pb};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use tls_broker::mosquitto::{self, Mosquitto};
use tls_broker::{Authority, EXPIRED, GOOD, Log, TlsBroker, available, free_port};
use tokio_util::sync::CancellationToken;

#[derive(Default)]
struct Seen {
    ledger: BTreeMap<(Epoch, u64), Sha256>,
    rows: HashMap<i64, u32>,
    presence: Option<pb::Presence>,
    state: Option<pb::State>,
    syncs: u64,
    blobs: u64,
    clock_facts: u64,
    /// Acks are withheld while set, as by a hub whose database is away.
    mute: bool,
    /// Why the next state is not taken.
    refuses_state: Option<&'static str>,
}

fn ack(seen: &Seen, epoch: Epoch, clock: &pb::ClockStamp) -> pb::Ack {
    let numbers = seen
        .ledger
        .range((epoch, 0)..=(epoch, u64::MAX))
        .map(|((_, n), _)| *n);
    let through = (1..).zip(numbers).take_while(|(i, n)| i == n).count() as u64;
    pb::Ack {
        schema: 1,
        epoch: epoch.to_vec(),
        through,
        hub_instance: b"hub".to_vec(),
        hub_time_ms: Clock::new().raw_wall_ms() + 3_600_000,
        echo_monotonic_ms: clock.monotonic_ms,
        echo_boot_id: clock.boot_id.clone(),
        ..pb::Ack::default()
    }
}

async fn hub(port: u16, topics: Topics, seen: Arc<Mutex<Seen>>) {
    loop {
        let mut options = MqttOptions::new("hub", "127.0.0.1", port);
        options.set_max_packet_size(Some(1 << 20));
        options.set_keep_alive(Duration::from_secs(5));
        let (client, mut events) = AsyncClient::new(options, 256);
        while let Ok(event) = events.poll().await {
            let Event::Incoming(packet) = event else {
                continue;
            };
            match packet {
                Packet::ConnAck(_) => client
                    .try_subscribe(format!("{}/d/+/up/#", topics.root()), QoS::AtLeastOnce)
                    .unwrap(),
                Packet::Publish(p) => {
                    let (device, topic) = topics
                        .parse(std::str::from_utf8(&p.topic).unwrap())
                        .unwrap();
                    let mut seen = seen.lock().unwrap();
                    let answer = match topic {
                        DeviceTopic::Live | DeviceTopic::Back => {
                            let b = batch::decode(&p.payload).unwrap();
                            let digest = Sha256::of(&p.payload);
                            if let Some(known) = seen.ledger.insert((b.epoch, b.number), digest) {
                                assert_eq!(known, digest, "P3: sent again, the same bytes");
                            } else {
                                for r in &b.records {
                                    match &r.body {
                                        RecordBody::Reading(r) => {
                                            *seen.rows.entry(r.time).or_default() += 1
                                        }
                                        RecordBody::Clock(_) => seen.clock_facts += 1,
                                        _ => {}
                                    }
                                }
                            }
                            Some(ack(&seen, b.epoch, &b.clock))
                        }
                        DeviceTopic::Sync => {
                            seen.syncs += 1;
                            let s: pb::Sync = message::decode("sync", &p.payload).unwrap();
                            Some(ack(
                                &seen,
                                Epoch::from_slice(&s.epoch).unwrap(),
                                &s.clock.unwrap(),
                            ))
                        }
                        DeviceTopic::Presence => {
                            seen.presence = Some(message::decode("presence", &p.payload).unwrap());
                            None
                        }
                        DeviceTopic::State => {
                            seen.state = Some(message::decode("state", &p.payload).unwrap());
                            seen.refuses_state.take().map(|why| pb::Ack {
                                schema: 1,
                                reason: why.into(),
                                ..pb::Ack::default()
                            })
                        }
                        DeviceTopic::Blob => {
                            seen.blobs += 1;
                            let b: pb::BlobRequest = message::decode("blob", &p.payload).unwrap();
                            assert!(b.framed);
                            for number in b.missing {
                                let topic = topics.device(&device, DeviceTopic::Blocks);
                                let block = pb::Block {
                                    sha256: b.sha256.clone(),
                                    number,
                                    content: vec![7; 32 * 1024],
                                };
                                let block = message::encode(&block);
                                client
                                    .try_publish(topic, QoS::AtLeastOnce, false, block)
                                    .unwrap();
                            }
                            None
                        }
                        _ => None,
                    };
                    if let Some(answer) = answer.filter(|_| !seen.mute) {
                        let topic = topics.device(&device, DeviceTopic::Ack);
                        client
                            .try_publish(topic, QoS::AtLeastOnce, false, message::encode(&answer))
                            .unwrap();
                    }
                }
                _ => {}
            }
        }
        // The broker was killed: knock again at once, but let others run.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn readings(times: std::ops::Range<i64>) -> Commit {
    let reading = |time| {
        RecordBody::Reading(Reading {
            sensor: "s".into(),
            time,
            value: 1.0,
            quality: 0,
            time_source: pb::TimeSource::External,
        })
    };
    Commit {
        records: times.map(reading).collect(),
        ..Commit::default()
    }
}

#[tokio::test]
async fn nothing_is_lost_or_twice_although_the_broker_is_killed() {
    if !mosquitto::available(&["mosquitto"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let mut broker = Mosquitto::start(dir.path(), port);
    let text = format!(
        "site = \"plant\"\ndevice = \"pi-7\"\nbroker = \"mqtt://127.0.0.1:{}\"\ntoken = \"t\"\nroot_public_key = \"{}\"\n",
        port,
        "0".repeat(64)
    );
    let identity = Identity::parse(Path::new("identity.toml"), &text).unwrap();
    let topics = Topics::new(&identity.site);
    let seen = Arc::new(Mutex::new(Seen::default()));
    let hub = tokio::spawn(hub(port, topics.clone(), seen.clone()));

    let clock = Clock::new();
    let limits = Limits {
        seal_after: Duration::from_millis(30),
        seal_records: 100,
        reserve_bytes: 0,
        ..Limits::new(dir.path())
    };
    let buffer = Buffer::start(limits, clock.clone()).unwrap();
    let settings = Settings {
        ack_deadline: 700,
        sync_deadline: 700,
        backoff: (20, 400),
        silence: 10_000,
        state_again: 500,
        ..Settings::default()
    };
    // What is committed before the first connection is the backlog.
    buffer.handle.commit(readings(0..1_000)).await.unwrap();
    let cancel = CancellationToken::new();
    let (handle, task) = uplink::start(
        identity,
        buffer.handle.clone(),
        clock.clone(),
        settings,
        cancel.clone(),
    );
    let mut events = handle.events();
    handle
        .publish_state(pb::State {
            key_list_version: 9,
            ..pb::State::default()
        })
        .await;

    let drained = async || buffer.handle.depth().await.unwrap().records == 0;
    until("backlog drained", drained).await;
    until("state", async || {
        seen.lock()
            .unwrap()
            .state
            .as_ref()
            .is_some_and(|s| s.key_list_version == 9 && s.boot == 1)
    })
    .await;
    // One that a broker lost is not lost for good.
    let n = seen.lock().unwrap().state.as_ref().map(|s| s.n);
    until("the same state anew", async || {
        let seen = seen.lock().unwrap();
        seen.state
            .as_ref()
            .is_some_and(|s| Some(s.n) > n && s.key_list_version == 9)
    })
    .await;
    {
        let seen = seen.lock().unwrap();
        assert!((0..1_000).all(|t| seen.rows.get(&t) == Some(&1)), "P4");
        assert!(seen.presence.as_ref().is_some_and(|p| p.online), "presence");
        assert!(seen.clock_facts >= 1 && seen.syncs >= 1, "P9");
    }
    // The hub's clock is an hour ahead: an unsynchronised device takes its time over, a synchronised one only reports it.
    let (offset, error) = handle.status().borrow().clock_offset.unwrap();
    let taken_over = clock.wall_ms() - clock.raw_wall_ms();
    let (found, within) = if clock.synchronised() {
        (offset, error + 5)
    } else {
        (taken_over, 1_000)
    };
    assert!(
        (found - 3_600_000).abs() <= within,
        "P9: {offset} {error} {taken_over}"
    );
    assert!(
        clock.trusted_ms() - clock.raw_wall_ms() <= 1_000,
        "an unsigned time must not make anything expire"
    );

    // What the hub could not read is told to whoever looks after the device, and costs no connection.
    let session = handle.status().borrow().session;
    seen.lock().unwrap().refuses_state = Some("state cannot be decoded");
    handle.publish_state(pb::State::default()).await;
    until("why it was refused", async || {
        let refused = handle.status().borrow().not_taken.clone();
        refused.is_some_and(|(_, why)| why.contains("state cannot be decoded"))
    })
    .await;
    let status = handle.status().borrow().clone();
    assert_eq!((status.connected, status.session), (true, session));
    assert_eq!(status.last_error, None, "the link is fine");

    // Blocks of a bundle come down.
    let sha = Sha256::of(b"bundle");
    handle.request_blob(sha, &[3]).await;
    until("a block", async || {
        matches!(events.try_recv(), Ok(UplinkEvent::Block { sha: s, n: 3, bytes }) if s == sha && bytes.len() == 32 * 1024)
    })
    .await;

    // The broker dies with batches on their way, twice.
    let mut next = 1_000;
    for _ in 0..2 {
        seen.lock().unwrap().mute = true;
        buffer
            .handle
            .commit(readings(next..next + 300))
            .await
            .unwrap();
        until("batches in flight", async || {
            handle.status().borrow().in_flight > 0
        })
        .await;
        broker.kill();
        seen.lock().unwrap().mute = false;
        buffer
            .handle
            .commit(readings(next + 300..next + 600))
            .await
            .unwrap();
        until("lost", async || !handle.status().borrow().connected).await;
        broker.restart();
        next += 600;
        until("drained after the kill", drained).await;
    }
    let rows = seen.lock().unwrap().rows.clone();
    assert!(
        (0..next).all(|t| rows.get(&t) == Some(&1)),
        "P4: exactly once"
    );

    // A hub that commits and whose acks are lost: sent again, written once.
    seen.lock().unwrap().mute = true;
    buffer
        .handle
        .commit(readings(next..next + 50))
        .await
        .unwrap();
    until("committed", async || {
        seen.lock().unwrap().rows.contains_key(&(next + 49))
    })
    .await;
    assert!(!drained().await, "P5: only an ack trims");
    seen.lock().unwrap().mute = false;
    until("sent again and acknowledged", drained).await;
    assert_eq!(seen.lock().unwrap().rows.get(&next), Some(&1), "P4");

    cancel.cancel();
    task.await.unwrap();
    until("goodbye", async || {
        seen.lock()
            .unwrap()
            .presence
            .as_ref()
            .is_some_and(|p| !p.online && p.session >= 3)
    })
    .await;
    hub.abort();
    buffer.close().await.unwrap();
}

#[tokio::test]
async fn over_tls_what_is_wrong_is_named_and_mending_it_is_enough() {
    if !available() {
        return;
    }
    let log = Log::capture();
    let dir = tempfile::tempdir().unwrap();
    let (right, wrong) = (
        Authority::new(dir.path(), "right"),
        Authority::new(dir.path(), "wrong"),
    );
    let good = right.issue("good", GOOD);
    let users = [("pi-7", "token")];
    let mut broker = TlsBroker::new(dir.path());
    broker.start(&good, &users);
    let ca = dir.path().join("ca.pem");
    std::fs::copy(wrong.certificate(), &ca).unwrap();
    let text = format!(
        "site = \"plant\"\ndevice = \"pi-7\"\nbroker = \"mqtts://localhost:{}\"\ntoken = \"token\"\nca_file = \"ca.pem\"\nroot_public_key = \"{}\"\n",
        broker.tls_port,
        "0".repeat(64)
    );
    let identity = Identity::parse(&dir.path().join("identity.toml"), &text).unwrap();
    let seen = Arc::new(Mutex::new(Seen::default()));
    let hub = tokio::spawn(hub(
        broker.plain_port,
        Topics::new(&identity.site),
        seen.clone(),
    ));
    let clock = Clock::new();
    let limits = Limits {
        seal_after: Duration::from_millis(30),
        reserve_bytes: 0,
        ..Limits::new(dir.path())
    };
    let buffer = Buffer::start(limits, clock.clone()).unwrap();
    buffer.handle.commit(readings(0..100)).await.unwrap();
    let settings = Settings {
        ack_deadline: 700,
        sync_deadline: 700,
        backoff: (20, 400),
        ..Settings::default()
    };
    let cancel = CancellationToken::new();
    let mark = log.mark();
    let (handle, task) = uplink::start(
        identity,
        buffer.handle.clone(),
        clock,
        settings,
        cancel.clone(),
    );
    log.says(
        mark,
        "not vouched for by `ca_file`: copy the authority's certificate",
    )
    .await;
    assert!(!handle.status().borrow().connected);

    let mark = log.mark();
    broker.start(&right.issue("old", EXPIRED), &users);
    std::fs::copy(right.certificate(), &ca).unwrap();
    log.says(mark, "certificate has expired: renew it there")
        .await;

    let mark = log.mark();
    broker.start(&good, &[("pi-7", "another")]);
    log.says(mark, "does not take this device's name and token")
        .await;
    assert!(seen.lock().unwrap().rows.is_empty());

    broker.start(&good, &users);
    until("mended and drained", async || {
        buffer.handle.depth().await.unwrap().records == 0
    })
    .await;
    let rows = seen.lock().unwrap().rows.clone();
    assert!((0..100).all(|t| rows.get(&t) == Some(&1)), "P4");
    cancel.cancel();
    task.await.unwrap();
    hub.abort();
    buffer.close().await.unwrap();
}
