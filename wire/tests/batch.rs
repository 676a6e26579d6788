//! Any batch survives encoding; no bytes make decoding panic or over-allocate.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

use fieldcast_wire::batch::{self, BatchError, Header};
use fieldcast_wire::{Epoch, Reading, Record, RecordBody, pb};
use proptest::prelude::*;
use prost::Message as _;

fn header() -> Header {
    Header {
        epoch: Epoch(uuid::Uuid::from_u128(7)),
        number: 3,
        clock: pb::ClockStamp::default(),
    }
}

/// What sensors, floats and hostile senders write.
fn value() -> impl Strategy<Value = f64> {
    let decimal = || (-99_999..99_999_i32, 0..10_i32);
    prop_oneof![
        2 => decimal().prop_map(|(n, p)| f64::from(n) / 10_f64.powi(p)),
        2 => decimal().prop_map(|(n, p)| f64::from((f64::from(n) / 10_f64.powi(p)) as f32)),
        1 => any::<f64>(),
        1 => any::<u64>().prop_map(f64::from_bits),
        1 => Just(-0.0),
    ]
}

fn reading() -> impl Strategy<Value = RecordBody> {
    ("[a-c]", any::<i64>(), value(), 0..3_u8, any::<bool>()).prop_map(
        |(sensor, time, value, quality, ext)| {
            let time_source = if ext {
                pb::TimeSource::External
            } else {
                pb::TimeSource::Device
            };
            RecordBody::Reading(Reading {
                sensor,
                time,
                value,
                quality,
                time_source,
            })
        },
    )
}

fn other(seq: u64) -> impl Strategy<Value = RecordBody> {
    prop_oneof![
        any::<i64>().prop_map(move |from_ms| RecordBody::Gap(pb::Gap {
            seq,
            from_ms,
            ..Default::default()
        })),
        "[a-z]{0,9}".prop_map(move |code| RecordBody::Alarm(pb::Alarm {
            seq,
            code,
            ..Default::default()
        })),
        any::<u64>().prop_map(move |v| RecordBody::Forecast(pb::Forecast {
            seq,
            model_version: v,
            mean: vec![1.0, 2.0],
            quantile_levels: vec![0.5],
            quantiles: vec![1.0, 2.0],
            ..Default::default()
        })),
    ]
}

fn same(a: &[Record], b: &[Record]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| match (&a.body, &b.body) {
            (RecordBody::Reading(x), RecordBody::Reading(y)) => {
                a.seq == b.seq
                    && x.value.to_bits() == y.value.to_bits()
                    && (&x.sensor, x.time, x.quality, x.time_source)
                        == (&y.sensor, y.time, y.quality, y.time_source)
            }
            _ => a == b,
        })
}

proptest! {
    #[test]
    fn batches_survive(first in 1_u64..1_000_000, bodies in prop::collection::vec(prop_oneof![4 => reading(), 1 => other(0)], 1..200)) {
        let records: Vec<Record> = bodies.into_iter().zip(first..).map(|(mut body, seq)| {
            match &mut body {
                RecordBody::Gap(m) => m.seq = seq,
                RecordBody::Alarm(m) => m.seq = seq,
                RecordBody::Forecast(m) => m.seq = seq,
                _ => {}
            }
            Record { seq, body }
        }).collect();
        let bytes = batch::encode(&header(), &records).unwrap();
        prop_assert_eq!(&bytes, &batch::encode(&header(), &records).unwrap());
        let back = batch::decode(&bytes).unwrap();
        prop_assert!(same(&back.records, &records));
        prop_assert_eq!((back.epoch, back.number), (header().epoch, 3));
    }

    #[test]
    fn hostile_bytes_are_errors(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = batch::decode(&bytes);
    }

    #[test]
    fn flipped_bytes_never_panic(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let mut bytes = sample();
        let i = at.index(bytes.len());
        bytes[i] ^= 1 << bit;
        let _ = batch::decode(&bytes);
    }
}

fn sample() -> Vec<u8> {
    let records: Vec<Record> = (1..=500)
        .map(|seq| Record {
            seq,
            body: RecordBody::Reading(Reading {
                sensor: "t".into(),
                time: i64::try_from(seq).unwrap() * 1_000,
                value: 20.0 + (seq % 7) as f64,
                quality: 0,
                time_source: pb::TimeSource::Device,
            }),
        })
        .collect();
    batch::encode(&header(), &records).unwrap()
}

#[test]
fn a_decompression_bomb_is_refused_before_it_is_unpacked() {
    let zeros = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
    let bomb = pb::Batch {
        schema: 1,
        epoch: vec![0; 16],
        number: 1,
        first_seq: 1,
        last_seq: 2,
        encoding: pb::Encoding::Zstd as i32,
        body_len: 1_000,
        body: zeros.clone(),
        ..Default::default()
    };
    assert!(matches!(
        batch::decode(&bomb.encode_to_vec()),
        Err(BatchError::Malformed { .. })
    ));
    let honest = pb::Batch {
        body_len: 64 << 20,
        ..bomb
    };
    assert!(matches!(
        batch::decode(&honest.encode_to_vec()),
        Err(BatchError::TooLarge { .. })
    ));
}

#[test]
fn empty_records_and_steps_beyond_the_announced_count_are_refused_before_they_unfold() {
    let of = |body: Vec<u8>| {
        pb::Batch {
            schema: 1,
            epoch: vec![0; 16],
            number: 1,
            first_seq: 1,
            last_seq: 3,
            encoding: pb::Encoding::Zstd as i32,
            body_len: u32::try_from(body.len()).unwrap(),
            body: zstd::bulk::compress(&body, 3).unwrap(),
            ..Default::default()
        }
        .encode_to_vec()
    };
    let refusal = |body: Vec<u8>| batch::decode(&of(body)).unwrap_err().to_string();
    // Forecasts of nothing: two bytes each, hundreds in memory.
    let forecasts = refusal([0x12, 0x00].repeat(2 << 20));
    assert!(forecasts.contains("more records than the 3"), "{forecasts}");
    // One column of steps of one byte each.
    let column = |field: u8, n: usize| {
        let steps = [vec![field], varint(n), vec![0; n]].concat();
        [vec![0x0a], varint(steps.len()), steps].concat()
    };
    let steps = refusal(column(0x1a, 1 << 20));
    assert!(steps.contains("more records than the 3"), "{steps}");
    let times = refusal(column(0x22, 1 << 20));
    assert!(times.contains("differ in length"), "{times}");
    assert!(refusal([0x0a, 0x00].repeat(1 << 20)).contains("empty"));
}

fn varint(n: usize) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_varint(n as u64, &mut out);
    out
}

#[test]
fn a_forecast_above_the_cap_cannot_be_encoded_and_a_misshapen_one_spoils_no_other_record() {
    let forecast = |steps: usize, levels: usize, quantiles: usize| Record {
        seq: 1,
        body: RecordBody::Forecast(pb::Forecast {
            seq: 1,
            mean: vec![0.0; steps],
            quantile_levels: vec![0.5; levels],
            quantiles: vec![0.0; quantiles],
            ..Default::default()
        }),
    };
    let most = forecast(1_024, 32, 1_024 * 32);
    assert!(batch::encode(&header(), std::slice::from_ref(&most)).is_ok());
    let above = forecast(1_024, 33, 1_024 * 33);
    let error = batch::encode(&header(), &[above]).unwrap_err();
    assert!(matches!(error, BatchError::TooLarge { .. }), "{error}");
    let odd = forecast(2, 2, 3);
    let bytes = batch::encode(&header(), std::slice::from_ref(&odd)).unwrap();
    assert_eq!(batch::decode(&bytes).unwrap().records, vec![odd]);
}

#[test]
fn a_newer_schema_is_named() {
    let mut m = pb::Batch::decode(sample().as_slice()).unwrap();
    m.schema = fieldcast_wire::BATCH_SCHEMA + 1;
    let e = batch::decode(&m.encode_to_vec()).unwrap_err();
    assert!(matches!(e, BatchError::NewerSchema { .. }), "{e}");
}

#[test]
fn a_count_that_overflows_is_refused() {
    let mut m = pb::Batch::decode(sample().as_slice()).unwrap();
    m.first_seq = 1;
    m.last_seq = u64::MAX;
    assert!(matches!(
        batch::decode(&m.encode_to_vec()),
        Err(BatchError::TooLarge { .. })
    ));
}

#[test]
fn columns_that_would_unfold_beyond_their_readings_are_refused() {
    let readings = pb::ReadingColumn {
        sensor: "t".into(),
        seq_steps: vec![0, 1, 1],
        time_steps: vec![1, 0, 0],
        quality_runs: vec![0, 3],
        ..Default::default()
    };
    let decimals = |count: usize| {
        Some(pb::Decimals {
            numbers: vec![2; count],
            ..Default::default()
        })
    };
    let decoded = |column: pb::ReadingColumn| {
        let body = pb::BatchBody {
            readings: vec![column],
            ..Default::default()
        }
        .encode_to_vec();
        let payload = pb::Batch {
            schema: 3,
            epoch: vec![0; 16],
            number: 1,
            first_seq: 1,
            last_seq: 3,
            body_len: u32::try_from(body.len()).unwrap(),
            encoding: pb::Encoding::Zstd as i32,
            body: zstd::bulk::compress(&body, 3).unwrap(),
            ..Default::default()
        };
        batch::decode(&payload.encode_to_vec())
    };
    let good = pb::ReadingColumn {
        decimals: decimals(3),
        ..readings.clone()
    };
    let values: Vec<f64> = decoded(good.clone())
        .unwrap()
        .records
        .iter()
        .map(|r| match &r.body {
            RecordBody::Reading(r) => r.value,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(values, [1.0, 2.0, 3.0]);
    for bad in [
        pb::ReadingColumn {
            decimals: decimals(1 << 20),
            ..good.clone()
        },
        pb::ReadingColumn {
            distinct: u32::MAX,
            ..good.clone()
        },
        pb::ReadingColumn {
            distinct: 3,
            picks: vec![0; 1 << 20],
            ..good.clone()
        },
        pb::ReadingColumn {
            values: vec![0; 24],
            ..good
        },
        readings,
    ] {
        let error = decoded(bad).unwrap_err();
        assert!(matches!(error, BatchError::Malformed { .. }), "{error}");
    }
}
