//! Batches that devices of every schema have in their buffers: kept bytes that decode to the same records for ever.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::path::PathBuf;

use fieldcast_wire::batch::{self, Header};
use fieldcast_wire::{Epoch, Reading, Record, RecordBody, pb};
use prost::Message as _;

fn header() -> Header {
    Header {
        epoch: Epoch(uuid::Uuid::from_u128(
            0x2f1c_8a52_0d7e_4f0e_9a51_6b8d_7c1e_2a11,
        )),
        number: 7,
        clock: pb::ClockStamp {
            boot_id: "boot-12".into(),
            monotonic_ms: 86_400_123,
            wall_ms: 1_767_225_600_456,
            synchronised: true,
        },
    }
}

/// Readings of two sensors and every kind of record that the schema has.
fn records(schema: u32) -> Vec<Record> {
    let mut bodies = Vec::new();
    for i in 0..40_u32 {
        for (sensor, value) in [
            ("temperature", 20.5 + f64::from(i % 9) / 10.0),
            ("load", 1e3 / f64::from(i + 3)),
        ] {
            bodies.push(RecordBody::Reading(Reading {
                sensor: sensor.into(),
                time: 1_767_225_600_000 + i64::from(i) * 60_000 + i64::from(i % 4),
                value,
                quality: u8::from(i > 30),
                time_source: if i < 5 {
                    pb::TimeSource::External
                } else {
                    pb::TimeSource::Device
                },
            }));
        }
    }
    let (seq, forecaster) = (0, "oil".to_owned());
    let bundle = vec![0xab; 32];
    bodies.push(RecordBody::Forecast(pb::Forecast {
        forecaster: forecaster.clone(),
        origin_ms: 1_767_225_600_000,
        period_ms: 60_000,
        mean: vec![1.5, 2.5],
        quantile_levels: vec![0.1, 0.5, 0.9],
        quantiles: vec![1.0, 1.5, 2.0, 2.0, 2.5, 3.0],
        made_by: "bundle".into(),
        bundle: bundle.clone(),
        model_version: 4,
        ..Default::default()
    }));
    bodies.push(RecordBody::Residual(pb::ResidualSummary {
        forecaster: forecaster.clone(),
        bundle: bundle.clone(),
        made_by: "bundle".into(),
        from_ms: 1_767_225_600_000,
        to_ms: 1_767_229_200_000,
        count: 60,
        mean_error: -0.25,
        mean_abs_error: 0.5,
        mean_squared_error: 0.375,
        naive_mean_abs_error: Some(0.75),
        covered: 55,
        ..Default::default()
    }));
    bodies.push(RecordBody::Gap(pb::Gap {
        kind: pb::GapKind::BufferFull as i32,
        epoch: vec![9; 16],
        first_seq: 3,
        last_seq: 90,
        reason: "buffer full".into(),
        ..Default::default()
    }));
    bodies.push(RecordBody::Drift(pb::DriftSignal {
        kind: pb::DriftKind::Concept as i32,
        forecaster: forecaster.clone(),
        detector: "page_hinkley".into(),
        statistic: 12.5,
        threshold: 10.0,
        raised: true,
        ..Default::default()
    }));
    bodies.push(RecordBody::Alarm(pb::Alarm {
        code: "stuck".into(),
        sensor: "load".into(),
        message: "no change for an hour".into(),
        raised: true,
        ..Default::default()
    }));
    bodies.push(RecordBody::Clock(pb::ClockFact {
        boot_id: "boot-12".into(),
        offset_ms: -1_500,
        error_ms: 20,
        synchronised: true,
        ..Default::default()
    }));
    bodies.push(RecordBody::Outcome(pb::Outcome {
        subject: "order/oil/3/1".into(),
        ok: true,
        message: "active".into(),
        time_ms: 1_767_225_600_000,
        ..Default::default()
    }));
    if schema >= 2 {
        bodies.push(RecordBody::Sketch(pb::SensorSketch {
            sensor: "load".into(),
            from_ms: 1_767_222_000_000,
            to_ms: 1_767_225_600_000,
            count: 60,
            mean: 3.5,
            squares: 1.25,
            kll: vec![2, 1, 15, 0],
            ..Default::default()
        }));
        bodies.push(RecordBody::Paired(pb::PairedLosses {
            seq,
            forecaster,
            watching: bundle,
            from_ms: 1_767_222_000_000,
            to_ms: 1_767_225_600_000,
            origins: 3,
            steps: 6,
            running_abs: 0.5,
            watching_abs: 0.25,
            ..Default::default()
        }));
    }
    if schema >= 3 {
        // Floats that were written with 16 digits and read again.
        bodies.extend((0..40_u16).map(|i| {
            let float = f32::from(i * i % 23 * 67 + 1_013) / 1e3;
            let value = format!("{:.15e}", f64::from(float)).parse().unwrap();
            RecordBody::Reading(Reading {
                sensor: "pressure".into(),
                time: 1_767_225_600_000 + i64::from(i) * 1_000,
                value,
                quality: 0,
                time_source: pb::TimeSource::Device,
            })
        }));
    }
    (11..)
        .zip(bodies)
        .map(|(seq, body)| numbered(seq, body))
        .collect()
}

/// Records carry their number twice.
fn numbered(seq: u64, mut body: RecordBody) -> Record {
    match &mut body {
        RecordBody::Reading(_) => {}
        RecordBody::Forecast(m) => m.seq = seq,
        RecordBody::Residual(m) => m.seq = seq,
        RecordBody::Gap(m) => m.seq = seq,
        RecordBody::Drift(m) => m.seq = seq,
        RecordBody::Alarm(m) => m.seq = seq,
        RecordBody::Clock(m) => m.seq = seq,
        RecordBody::Outcome(m) => m.seq = seq,
        RecordBody::Sketch(m) => m.seq = seq,
        RecordBody::Paired(m) => m.seq = seq,
    }
    Record { seq, body }
}

fn file(schema: u32) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/batch-{schema}.bin"))
}

#[test]
fn every_schema_that_was_ever_sent_decodes_to_its_records() {
    for schema in 1..=fieldcast_wire::BATCH_SCHEMA {
        let file = file(schema);
        let records = records(schema);
        // A schema's bytes are written once, by the version that brought it, and never again.
        if std::env::var_os("FIELDCAST_BLESS").is_some() && !file.exists() {
            std::fs::write(&file, batch::encode(&header(), &records).unwrap()).unwrap();
        }
        let bytes = std::fs::read(&file).unwrap();
        assert_eq!(pb::Batch::decode(&bytes[..]).unwrap().schema, schema);
        let back = batch::decode(&bytes).unwrap();
        assert_eq!(back.records, records, "schema {schema}");
        assert_eq!(
            (back.epoch, back.number, back.clock),
            (header().epoch, header().number, header().clock)
        );
    }
}
