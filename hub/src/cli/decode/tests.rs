//! Every kind of payload is shown, by its kind, by its topic and by what it fits.
#![allow(clippy::unwrap_used, reason = "tests")]

use fieldcast_wire::batch::Header;
use fieldcast_wire::{Epoch, Reading, Record, RecordBody};

use super::*;

fn shown(text: &str, bytes: &[u8]) -> Value {
    decoded(kind(text).unwrap(), bytes).unwrap()
}

/// Shown the same by its topic and by guessing.
fn both(topic: &str, name: &str, bytes: &[u8]) -> Value {
    let value = shown(&format!("fieldcast/v1/plant/d/a/{topic}"), bytes);
    assert_eq!(shown(name, bytes), value);
    assert_eq!(
        shown("auto", bytes),
        json!({"kind": name, "payload": value})
    );
    value
}

#[test]
fn a_batch_shows_every_kind_of_record() {
    let bodies = vec![
        RecordBody::Reading(Reading {
            sensor: "t".into(),
            time: 5,
            value: 1.5,
            quality: 0,
            time_source: pb::TimeSource::External,
        }),
        RecordBody::Forecast(pb::Forecast {
            mean: vec![2.5],
            ..Default::default()
        }),
        RecordBody::Residual(pb::ResidualSummary {
            mean_error: 0.25,
            ..Default::default()
        }),
        RecordBody::Gap(pb::Gap {
            kind: pb::GapKind::BufferFull as i32,
            ..Default::default()
        }),
        RecordBody::Drift(pb::DriftSignal {
            detector: "adwin".into(),
            ..Default::default()
        }),
        RecordBody::Alarm(pb::Alarm {
            code: "stuck".into(),
            ..Default::default()
        }),
        RecordBody::Clock(pb::ClockFact {
            offset_ms: -7,
            ..Default::default()
        }),
        RecordBody::Outcome(pb::Outcome {
            subject: "order/oil/1/1".into(),
            ..Default::default()
        }),
        RecordBody::Sketch(pb::SensorSketch {
            kll: vec![0xab],
            ..Default::default()
        }),
        RecordBody::Paired(pb::PairedLosses {
            origins: 3,
            ..Default::default()
        }),
    ];
    let records: Vec<Record> = (4..)
        .zip(bodies)
        .map(|(seq, body)| Record { seq, body })
        .collect();
    let header = Header {
        epoch: Epoch(uuid::Uuid::from_u128(7)),
        number: 1,
        clock: pb::ClockStamp {
            boot_id: "b".into(),
            ..Default::default()
        },
    };
    let bytes = batch::encode(&header, &records).unwrap();
    let value = both("up/t/live", "batch", &bytes);
    assert_eq!(shown("x/up/t/back", &bytes), value);
    assert_eq!(value["clock"]["boot_id"], "b");
    let told = |at: usize, field: &str| value["records"][at][field].clone();
    for (at, (kind, field, content)) in [
        ("reading", "value", json!(1.5)),
        ("forecast", "mean", json!([2.5])),
        ("residual", "mean_error", json!(0.25)),
        ("gap", "what", json!("GAP_KIND_BUFFER_FULL")),
        ("drift", "detector", json!("adwin")),
        ("alarm", "code", json!("stuck")),
        ("clock", "offset_ms", json!(-7)),
        ("outcome", "subject", json!("order/oil/1/1")),
        ("sketch", "kll", json!("ab")),
        ("paired_losses", "origins", json!(3)),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(told(at, "kind"), kind);
        assert_eq!(told(at, "seq"), at as u64 + 4);
        assert_eq!(told(at, field), content);
    }
}

#[test]
fn messages_are_shown_by_topic_and_by_what_they_fit() {
    let clock = Some(pb::ClockStamp {
        boot_id: "b".into(),
        ..Default::default()
    });
    let sync = pb::Sync {
        schema: 1,
        epoch: vec![1; 16],
        session: 2,
        next_batch: 9,
        clock,
        last_acked: 8,
        ..Default::default()
    };
    let value = both("up/sync", "sync", &message::encode(&sync));
    assert_eq!(value["last_acked"], 8);
    let state = pb::State {
        boot: 3,
        n: 4,
        forecasters: vec![pb::ForecasterState {
            forecaster: "oil".into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let value = both("up/state", "state", &message::encode(&state));
    assert_eq!(value["forecasters"][0]["forecaster"], "oil");
    let asked = pb::BlobRequest {
        sha256: vec![7; 32],
        offset_blocks: 2,
        missing: vec![2, 5],
        framed: true,
    };
    let value = both("up/blob", "blob", &message::encode(&asked));
    assert_eq!(value["missing"], json!([2, 5]));
    let ack = pb::Ack {
        schema: 1,
        epoch: vec![1; 16],
        through: 3,
        proofs: vec![pb::Proof {
            batch: 3,
            digest: vec![0xcd; 16],
        }],
        ..Default::default()
    };
    let value = both("dn/ack", "ack", &message::encode(&ack));
    assert_eq!(value["proofs"][0]["digest"], "cd".repeat(16));
    // A birth could be a state with one forecaster's worth of nothing: what fits twice is said so.
    let presence = message::encode(&pb::Presence {
        session: 3,
        online: true,
        ..Default::default()
    });
    assert_eq!(shown("x/up/presence", &presence)["session"], 3);
    let doubt = guessed(&presence).unwrap_err().to_string();
    assert!(doubt.contains("state and presence"), "{doubt}");
}

#[test]
fn orders_are_shown_with_their_keys_unverified() {
    let order = pb::Order {
        device: "a".into(),
        forecaster: "demand".into(),
        bundle: vec![0xab; 32],
        model_version: 7,
        generation: 3,
        ..Default::default()
    };
    let list = pb::KeyList {
        version: 2,
        keys: vec![pb::HubKey {
            key_id: "k".into(),
            public_key: vec![0xef; 32],
        }],
    };
    let signed = |payload: Vec<u8>, key: &str| pb::Signed {
        payload,
        key_id: key.into(),
        ..Default::default()
    };
    let desired = pb::Desired {
        key_list: Some(signed(message::encode(&list), "root")),
        orders: vec![signed(message::encode(&order), "k")],
        commands: Vec::new(),
    };
    let value = both("dn/desired", "desired", &message::encode(&desired));
    let one = &value["orders"][0];
    assert_eq!(
        (&one["device"], &one["bundle"], &one["model_version"]),
        (&json!("a"), &json!("ab".repeat(32)), &json!(7))
    );
    assert_eq!((&one["generation"], &one["key"]), (&json!(3), &json!("k")));
    assert_eq!(value["verified"], false);
    let keys = &value["key_list"];
    assert_eq!(
        (&keys["version"], &keys["signed_by"]),
        (&json!(2), &json!("root"))
    );
    assert_eq!(keys["keys"][0]["public_key"], "ef".repeat(32));
    let damaged = message::encode(&pb::Desired {
        orders: vec![signed(vec![0xff], "k")],
        ..Default::default()
    });
    assert!(decoded(Kind::Desired, &damaged).is_err());
}

#[test]
fn json_blocks_and_bundles_are_shown_and_nothing_else_is() {
    let receipt = br#"{"sha256":"00","new":1}"#;
    assert_eq!(both("dn/json", "json", receipt)["new"], 1);
    assert_eq!(shown("fieldcast/v1/plant/out/a/t", receipt)["new"], 1);
    let block = shown(&format!("x/dn/blob/{}/0", "ab".repeat(32)), &[0; 9]);
    assert_eq!(block["bytes"], 9);
    let framed = message::encode(&pb::Block {
        sha256: vec![0xab; 32],
        number: 3,
        content: vec![1; 9],
    });
    let block = shown("x/dn/blob", &framed);
    assert_eq!(
        block,
        json!({"sha256": "ab".repeat(32), "number": 3, "bytes": 9})
    );
    let container = fieldcast_bundle::container::Container {
        manifest: br#"{"version":4}"#.to_vec(),
        key_id: "k".into(),
        parts: vec![fieldcast_bundle::container::Part {
            name: "model.onnx".into(),
            bytes: vec![1, 2],
        }],
        ..Default::default()
    };
    let bundle = shown("bundle", &message::encode(&container));
    assert_eq!(bundle["manifest"]["version"], 4);
    assert_eq!(bundle["parts"][0]["bytes"], 2);
    assert!(guessed(&[0xff; 9]).is_err());
    assert!(kind("x/up/other").is_err() && kind("nothing").is_err());
}
