//! Ingest on a real PostgreSQL: each batch once, clones noticed, bad records alone, partitions by month.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod support;

use fieldcast_hub::ingest::{Ingestor, Job};
use fieldcast_store::Store;
use fieldcast_store::quarantine::Quarantined;
use fieldcast_wire::{Batch, Reading, Record, RecordBody, Sha256, pb};
use support::{add_device, bed, device, epoch, job, payload, psql, reading, readings};

const HOUR: i64 = 3_600_000;
const JAN_2026: i64 = 1_767_225_600_000;

/// Bytes of what a device sent and nobody could read.
async fn kept(store: &Store, device: &str) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for row in store.quarantined(Some(device), 0, 10).await.unwrap() {
        let digest = Sha256::from_slice(&row.digest).unwrap();
        let bytes = store.quarantined_bytes(device, digest).await.unwrap();
        all.push(bytes.unwrap());
    }
    all
}

#[tokio::test]
async fn the_same_batch_twice_is_written_once_and_acknowledged_twice() {
    let bed = bed().await;
    add_device(&bed.store, "a", None).await;
    let mut ingestor = Ingestor::new(bed.store.clone()).await.unwrap();
    let one = payload(
        epoch(1),
        1,
        1,
        vec![
            reading("t", JAN_2026, 1.5),
            reading("t", JAN_2026 + HOUR, 2.5),
        ],
    );
    let two = payload(epoch(1), 2, 3, vec![reading("t", JAN_2026 + 2 * HOUR, 3.5)]);
    let first = ingestor.write(&[job("a", &one)]).await.unwrap();
    assert_eq!(first.acks[0].1.through, 1);
    // Again, together with a new one and twice in one group; and by another hub that knows nothing.
    let again = ingestor
        .write(&[job("a", &one), job("a", &one), job("a", &two)])
        .await
        .unwrap();
    assert_eq!(
        (
            again.acks.len(),
            again.acks[0].1.through,
            again.acks[0].1.new_epoch
        ),
        (1, 2, false)
    );
    let mut other = Ingestor::new(bed.store.clone()).await.unwrap();
    assert_eq!(
        other.write(&[job("a", &two)]).await.unwrap().acks[0]
            .1
            .through,
        2
    );
    let expected: Vec<_> = [1.5, 2.5, 3.5]
        .iter()
        .zip(0..)
        .map(|(v, n)| ("t".to_owned(), JAN_2026 + n * HOUR, *v))
        .collect();
    assert_eq!(readings(&bed.store, "a").await, expected);
    assert_eq!(again.acks[0].1.hub_instance, first.acks[0].1.hub_instance);
}

#[tokio::test]
async fn other_bytes_under_a_committed_key_are_never_acknowledged_and_raise_one_alarm() {
    let bed = bed().await;
    add_device(&bed.store, "a", None).await;
    let mut ingestor = Ingestor::new(bed.store.clone()).await.unwrap();
    let real = payload(epoch(1), 1, 1, vec![reading("t", JAN_2026, 1.0)]);
    let clone = payload(epoch(1), 1, 1, vec![reading("t", JAN_2026, 9.0)]);
    ingestor.write(&[job("a", &real)]).await.unwrap();
    for _ in 0..2 {
        let answer = ingestor.write(&[job("a", &clone)]).await.unwrap();
        let ack = &answer.acks[0].1;
        assert!(ack.new_epoch && ack.reason.contains("clone"), "{ack:?}");
    }
    assert_eq!(
        readings(&bed.store, "a").await,
        vec![("t".into(), JAN_2026, 1.0)]
    );
    let alarms = bed.store.alarms(Some("a"), None, 10).await.unwrap();
    assert_eq!(alarms.len(), 1);
    assert_eq!(
        (alarms[0].code.as_str(), alarms[0].source.as_str()),
        ("clone", "hub")
    );
}

#[tokio::test]
async fn a_bad_record_is_rejected_alone_and_said_again_with_every_ack() {
    let bed = bed().await;
    add_device(&bed.store, "a", None).await;
    let mut ingestor = Ingestor::new(bed.store.clone()).await.unwrap();
    let bytes = payload(
        epoch(1),
        1,
        1,
        vec![
            reading("t", JAN_2026, 1.0),
            reading("bad/name", JAN_2026, 1.0),
            reading("t", JAN_2026 + HOUR, f64::NAN),
            RecordBody::Alarm(pb::Alarm {
                code: "stuck".into(),
                sensor: "t".into(),
                time_ms: JAN_2026,
                ..Default::default()
            }),
            RecordBody::Clock(pb::ClockFact {
                boot_id: "b".into(),
                offset_ms: -3,
                ..Default::default()
            }),
            RecordBody::Forecast(pb::Forecast {
                forecaster: "demand".into(),
                origin_ms: JAN_2026,
                period_ms: HOUR,
                mean: vec![1.0, 2.0],
                quantile_levels: vec![0.5],
                quantiles: vec![1.0, 0.1 + 0.2],
                made_by: "ridge".into(),
                ..Default::default()
            }),
            RecordBody::Drift(pb::DriftSignal {
                kind: 2,
                detector: "adwin".into(),
                raised: true,
                ..Default::default()
            }),
            RecordBody::Gap(pb::Gap {
                kind: 1,
                first_seq: 4,
                last_seq: 9,
                reason: "full".into(),
                ..Default::default()
            }),
            RecordBody::Residual(pb::ResidualSummary {
                forecaster: "demand".into(),
                made_by: "ridge".into(),
                count: 3,
                ..Default::default()
            }),
            RecordBody::Outcome(pb::Outcome {
                subject: "order/x/1/1".into(),
                ok: true,
                ..Default::default()
            }),
        ],
    );
    for _ in 0..2 {
        let answer = ingestor.write(&[job("a", &bytes)]).await.unwrap();
        let ack = &answer.acks[0].1;
        assert_eq!(ack.through, 1);
        assert_eq!(
            ack.rejected.iter().map(|r| r.seq).collect::<Vec<_>>(),
            vec![2, 3],
            "{ack:?}"
        );
    }
    assert_eq!(
        readings(&bed.store, "a").await,
        vec![("t".into(), JAN_2026, 1.0)]
    );
    let alarms = bed.store.alarms(Some("a"), None, 10).await.unwrap();
    assert_eq!(alarms.len(), 1);
}

#[tokio::test]
async fn a_batch_whose_records_cannot_be_read_is_refused_for_good_and_an_unknown_device_gets_nothing()
 {
    let bed = bed().await;
    add_device(&bed.store, "a", None).await;
    let mut ingestor = Ingestor::new(bed.store.clone()).await.unwrap();
    let bytes = payload(epoch(1), 1, 1, vec![reading("t", JAN_2026, 1.0)]);
    let mut torn: pb::Batch = fieldcast_wire::message::decode("batch", &bytes).unwrap();
    torn.body = b"nonsense".to_vec();
    let torn = fieldcast_wire::message::encode(&torn);
    let refused: Job = job("a", &torn);
    assert_eq!(
        refused.batch.records,
        Batch {
            records: vec![],
            ..refused.batch.clone()
        }
        .records
    );
    let answer = ingestor.write(&[refused]).await.unwrap();
    assert_eq!(answer.acks[0].1.through, 1);
    assert_eq!(answer.acks[0].1.rejected[0].seq, 0);
    // Its bytes are kept, and an alarm says so; a second time changes nothing.
    ingestor.write(&[job("a", &torn)]).await.unwrap();
    assert_eq!(kept(&bed.store, "a").await, vec![torn]);
    let alarms = bed.store.alarms(Some("a"), None, 10).await.unwrap();
    let codes: Vec<_> = alarms.iter().map(|a| a.code.as_str()).collect();
    assert_eq!(codes, ["quarantined"]);
    assert_eq!(answer.out.len(), 1);
    let stranger = ingestor.write(&[job("nobody", &bytes)]).await.unwrap();
    assert!(stranger.acks.is_empty());
}

#[tokio::test]
async fn what_cannot_become_rows_fills_no_disk() {
    let bed = bed().await;
    let store = &bed.store;
    add_device(store, "a", None).await;
    add_device(store, "b", None).await;
    let mut ingestor = Ingestor::new(store.clone()).await.unwrap();
    let torn = |number: u64| {
        let whole = payload(epoch(1), number, number, vec![reading("t", JAN_2026, 1.0)]);
        let mut batch: pb::Batch = fieldcast_wire::message::decode("batch", &whole).unwrap();
        batch.body = b"nonsense".to_vec();
        fieldcast_wire::message::encode(&batch)
    };
    let fill = |bytes: &str, rows: u32| {
        psql(
            &bed,
            &format!(
                "DELETE FROM quarantined;
                 INSERT INTO quarantined (device, digest, epoch, number, reason, bytes)
                 SELECT 'a', decode(lpad(to_hex(n), 64, '0'), 'hex'), gen_random_uuid(), n, 'full', {bytes}
                 FROM generate_series(1, {rows}) n"
            ),
        );
    };
    let mut told = 0;
    // By bytes, with the last one still fitting in; then by number.
    let (all, one) = (64 << 20, torn(1).len());
    for (bytes, rows, number) in [
        (format!("decode(repeat('00', {}), 'hex')", all - one), 1, 1),
        ("''".to_owned(), 10_000, 3),
    ] {
        fill(&bytes, rows);
        if rows == 1 {
            let fits = ingestor.write(&[job("a", &torn(number))]).await.unwrap();
            assert_eq!(fits.acks[0].1.through, 1);
        }
        let next = torn(number + 1);
        let fine = payload(epoch(2), number, number, vec![reading("t", JAN_2026, 1.0)]);
        for _ in 0..2 {
            let written = ingestor
                .write(&[job("a", &next), job("a", &fine), job("b", &torn(number))])
                .await
                .unwrap();
            let (mut epochs, mut reasons) = (Vec::new(), Vec::new());
            for (device, ack) in written.acks {
                match ack.epoch.is_empty() {
                    true => reasons.push((ack.no_room, ack.reason)),
                    false => epochs.push((device.to_string(), ack.epoch)),
                }
            }
            // It stays with its device, which learns why; what it sends beside it and what others send is taken.
            let of = |name: &str, n| (name.to_owned(), epoch(n).to_vec());
            assert_eq!(epochs, [of("a", 2), of("b", 1)]);
            assert_eq!(reasons.len(), 1);
            assert!(reasons[0].1.contains("no more of this device's bytes"));
            let named = pb::BatchName {
                epoch: epoch(1).to_vec(),
                batch: number + 1,
            };
            assert_eq!(reasons[0].0, Some(named), "by name, to be put aside");
        }
        let mut tx = store.begin_ingest().await.unwrap();
        let key = ("a".to_owned(), epoch(1), number + 1);
        assert!(tx.ledger_rows(&[key]).await.unwrap().is_empty());
        let alarms = store.alarms(Some("a"), None, 100).await.unwrap();
        told = alarms
            .iter()
            .filter(|a| a.code == "quarantine_full")
            .count();
    }
    assert_eq!(told, 1, "once a day");
    // When there is room again, the batch is taken as it was sent.
    psql(&bed, "DELETE FROM quarantined");
    let written = ingestor.write(&[job("a", &torn(4))]).await.unwrap();
    assert_eq!(written.acks[0].1.rejected[0].batch, 4);
    assert_eq!(kept(store, "a").await, [torn(4)]);
}

#[tokio::test]
async fn strays_make_room_for_newer_ones_and_raise_an_alarm_a_day() {
    let bed = bed().await;
    let store = &bed.store;
    add_device(store, "a", None).await;
    psql(
        &bed,
        "INSERT INTO quarantined (device, digest, reason, bytes, received_at)
         SELECT 'a', decode(lpad(to_hex(n), 64, '0'), 'hex'), 'old', '', now() - interval '1 day' + n * interval '1 second'
         FROM generate_series(1, 199) n",
    );
    let stray = async |bytes: &[u8]| {
        let kept = Quarantined {
            device: "a",
            digest: Sha256::of(bytes),
            batch: None,
            reason: "rubbish",
            bytes,
        };
        store.quarantine(&kept).await.unwrap()
    };
    assert!(stray(b"the 200th").await);
    assert!(!stray(b"the 201st").await, "told today");
    let rows = store.quarantined(Some("a"), 0, 1_000).await.unwrap();
    assert_eq!(rows.len(), 200);
    let alarms = store.alarms(Some("a"), None, 100).await.unwrap();
    assert_eq!(alarms.len(), 1);
    psql(
        &bed,
        "UPDATE alarms SET received_at = received_at - interval '25 hours'",
    );
    assert!(stray(b"the next day").await, "though an older one went");
    // 16 MiB at most: 40 payloads of 400 KiB are the newest that fit.
    for n in 0..50_u8 {
        stray(&vec![n; 400 << 10]).await;
    }
    let rows = store.quarantined(Some("a"), 0, 1_000).await.unwrap();
    assert_eq!(rows.len(), 40);
}

#[tokio::test]
async fn partitions_follow_the_data_and_sensors_stop_at_their_limit() {
    let bed = bed().await;
    add_device(&bed.store, "a", None).await;
    let mut ingestor = Ingestor::new(bed.store.clone()).await.unwrap();
    let times = [
        -HOUR,
        JAN_2026 - 1,
        JAN_2026,
        JAN_2026 + 40 * 24 * HOUR,
        4_200_000_000_000,
    ];
    let bodies = times.iter().map(|t| reading("t", *t, 1.0)).collect();
    ingestor
        .write(&[job("a", &payload(epoch(1), 1, 1, bodies))])
        .await
        .unwrap();
    assert_eq!(readings(&bed.store, "a").await.len(), times.len());
    let bodies = (0..300)
        .map(|n| reading(&format!("s{n:03}"), JAN_2026, 1.0))
        .collect();
    let answer = ingestor
        .write(&[job("a", &payload(epoch(1), 2, 6, bodies))])
        .await
        .unwrap();
    assert_eq!(bed.store.sensors("a").await.unwrap().len(), 256);
    let ack = &answer.acks[0].1;
    assert_eq!((ack.through, ack.rejected.len()), (2, 45));
    assert!(ack.rejected[0].reason.contains("limit"));
}

#[tokio::test]
async fn an_ingest_that_never_committed_leaves_nothing_and_json_readings_count_once() {
    let bed = bed().await;
    add_device(&bed.store, "a", None).await;
    let json = br#"[{"sensor":"t","time":1767225600000,"value":1},{"sensor":"t","time":1767225600000,"value":2}]"#;
    let parsed = fieldcast_wire::json::parse(json).unwrap();
    let stored = fieldcast_hub::ingest::json::store(&bed.store, &device("a"), &parsed)
        .await
        .unwrap();
    assert_eq!((stored.new, stored.known), (1, 0));
    let (at, why) = &stored.rejected[0];
    assert!(*at == 1 && why.contains("value 1"), "{why}");
    // Consumers hear of the one that the database holds.
    assert_eq!(
        readings(&bed.store, "a").await,
        vec![("t".into(), JAN_2026, 1.0)]
    );
    assert_eq!(stored.taken, [0]);
    let stored = fieldcast_hub::ingest::json::store(&bed.store, &device("a"), &parsed)
        .await
        .unwrap();
    assert_eq!((stored.new, stored.known, stored.rejected.len()), (0, 1, 1));
    assert!(stored.taken.is_empty());
    let mut tx = bed.store.begin_ingest().await.unwrap();
    tx.spend("a", epoch(1), "half done").await.unwrap();
    drop(tx);
    let mut tx = bed.store.begin_ingest().await.unwrap();
    assert_eq!(tx.committed("a", epoch(1)).await.unwrap().spent, None);
}

#[tokio::test]
async fn a_nul_character_in_a_header_or_a_name_stops_neither_the_group_nor_the_device() {
    let bed = bed().await;
    add_device(&bed.store, "a", None).await;
    add_device(&bed.store, "b", None).await;
    let mut ingestor = Ingestor::new(bed.store.clone()).await.unwrap();
    let fine = payload(epoch(2), 1, 1, vec![reading("t", JAN_2026, 1.0)]);
    let named = payload(
        epoch(1),
        1,
        1,
        vec![reading("x\0y", JAN_2026, 1.0), reading("t", JAN_2026, 2.0)],
    );
    let mut boot: pb::Batch = fieldcast_wire::message::decode("batch", &fine).unwrap();
    boot.number = 2;
    boot.clock.get_or_insert_default().boot_id = "b\0".into();
    let boot = fieldcast_wire::message::encode(&boot);
    let answer = ingestor
        .write(&[job("a", &named), job("b", &fine), job("b", &boot)])
        .await
        .unwrap();
    let through: Vec<_> = answer.acks.iter().map(|(_, ack)| ack.through).collect();
    assert_eq!(through, [1, 2]);
    let refused: Vec<_> = answer
        .acks
        .iter()
        .flat_map(|(_, ack)| ack.rejected.iter().map(|r| (r.batch, r.seq)))
        .collect();
    assert_eq!(refused, [(1, 1), (2, 0)]);
    assert_eq!(readings(&bed.store, "a").await.len(), 1);
    assert_eq!(kept(&bed.store, "b").await, vec![boot]);
}

#[tokio::test]
async fn a_batch_that_the_database_refuses_goes_into_quarantine_and_the_others_are_written() {
    let bed = bed().await;
    add_device(&bed.store, "a", None).await;
    add_device(&bed.store, "b", None).await;
    psql(&bed, "ALTER TABLE readings ADD CHECK (value <> 666)");
    let mut ingestor = Ingestor::new(bed.store.clone()).await.unwrap();
    let bad = payload(epoch(1), 1, 1, vec![reading("t", JAN_2026, 666.0)]);
    let good = payload(epoch(2), 1, 1, vec![reading("t", JAN_2026, 1.0)]);
    let answer = ingestor
        .write(&[job("a", &bad), job("b", &good)])
        .await
        .unwrap();
    assert!(answer.acks.iter().all(|(_, ack)| ack.through == 1));
    assert_eq!(kept(&bed.store, "a").await, vec![bad]);
    assert_eq!(readings(&bed.store, "b").await.len(), 1);
    assert!(readings(&bed.store, "a").await.is_empty());
}

/// A batch of one device-dated reading, or of a clock fact, sealed at these clocks.
fn sealed(number: u64, monotonic_ms: i64, wall_ms: i64, body: RecordBody) -> Vec<u8> {
    let clock = pb::ClockStamp {
        boot_id: "boot".into(),
        monotonic_ms,
        wall_ms,
        synchronised: false,
    };
    let header = fieldcast_wire::batch::Header {
        epoch: epoch(1),
        number,
        clock,
    };
    let record = Record { seq: number, body };
    fieldcast_wire::batch::encode(&header, &[record]).unwrap()
}

#[tokio::test]
async fn readings_of_a_boot_count_once_a_clock_fact_anchors_it_and_wrong_times_are_put_right() {
    let bed = bed().await;
    add_device(&bed.store, "a", None).await;
    let mut ingestor = Ingestor::new(bed.store.clone()).await.unwrap();
    let dated = |time| {
        RecordBody::Reading(Reading {
            sensor: "t".into(),
            time,
            value: 1.0,
            quality: 0,
            time_source: pb::TimeSource::Device,
        })
    };
    let stored = async || {
        let all = bed
            .store
            .readings_between("a", &["t".to_owned()], 0, i64::MAX / 4)
            .await
            .unwrap();
        all.iter()
            .map(|r| (r.time, r.time_quality))
            .collect::<Vec<_>>()
    };
    // The device's clock is 40 days slow, so that its reading moves to another month.
    let slow = 40 * 24 * HOUR;
    let first = sealed(1, 1_000, JAN_2026, dated(JAN_2026 - 500));
    ingestor.write(&[job("a", &first)]).await.unwrap();
    assert_eq!(stored().await, [(JAN_2026 - 500, 0)], "never anchored yet");
    let fact = RecordBody::Clock(pb::ClockFact {
        seq: 2,
        boot_id: "boot".into(),
        offset_ms: slow,
        error_ms: 10,
        synchronised: false,
    });
    let fact = sealed(2, 2_000, JAN_2026 + 1_000, fact);
    ingestor.write(&[job("a", &fact)]).await.unwrap();
    let lifted = JAN_2026 - 500 + slow;
    assert_eq!(stored().await, [(lifted, 1)]);
    // Later ones at once: with the slow clock, and with the clock set right; again by a hub that has just started.
    let third = sealed(3, 3_000, JAN_2026 + 2_000, dated(JAN_2026 + 1_500));
    let right = JAN_2026 + slow + 3_000;
    let fourth = sealed(4, 4_000, right, dated(right - 500));
    let mut other = Ingestor::new(bed.store.clone()).await.unwrap();
    other
        .write(&[job("a", &third), job("a", &fourth)])
        .await
        .unwrap();
    let expected = [lifted, JAN_2026 + 1_500 + slow, right - 500].map(|time| (time, 1));
    assert_eq!(stored().await, expected);
}
