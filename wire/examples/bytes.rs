//! Bytes of payload a reading: public series as batches, as JSON and as raw columns; prints sizes, judges nothing.
//!
//! `bytes <folder of the series>` prints lines of `series sensors readings ours json zstd microseconds`: which series, whether
//! a batch holds all sensors of a row or one alone, how many readings it holds, bytes a reading of a payload, of JSON lines
//! and of zstd over the times and values as they are, and the time that encoding takes a reading.
#![allow(clippy::unwrap_used, missing_docs, reason = "a measurement")]

use std::path::Path;
use std::time::{Duration, Instant};

use fieldcast_wire::batch::{self, Header};
use fieldcast_wire::{Epoch, Reading, Record, RecordBody, pb};

/// Level of the zstd that ours is held against.
const LEVEL: i32 = 19;

fn main() {
    let folder = std::env::args().nth(1).unwrap();
    for (name, file, missing) in [
        ("etth1", "ETTh1.csv", None),
        ("air", "uci_air_quality.csv", Some(-200.0)),
    ] {
        let (sensors, readings) = series(&Path::new(&folder).join(file), missing);
        for size in [168, 1_000, 10_000] {
            let rows: Vec<&[Reading]> = readings.chunks_exact(size).collect();
            show(name, "row", &rows);
            let columns: Vec<Vec<Reading>> = sensors
                .iter()
                .map(|s| {
                    readings
                        .iter()
                        .filter(|r| r.sensor == *s)
                        .cloned()
                        .collect()
                })
                .collect();
            // A sensor with fewer readings than that gives all it has.
            let single: Vec<&[Reading]> = columns
                .iter()
                .flat_map(|c| c.chunks_exact(size.min(c.len())))
                .collect();
            show(name, "one", &single);
        }
    }
}

/// Sensors and all readings in the order in which a device takes them; what is missing is no reading.
fn series(file: &Path, missing: Option<f64>) -> (Vec<String>, Vec<Reading>) {
    let mut table = csv::Reader::from_path(file).unwrap();
    let sensors: Vec<String> = table
        .headers()
        .unwrap()
        .iter()
        .skip(1)
        .map(Into::into)
        .collect();
    let mut readings = Vec::new();
    for row in table.records() {
        let row = row.unwrap();
        let time = chrono::NaiveDateTime::parse_from_str(&row[0], "%Y-%m-%d %H:%M:%S").unwrap();
        let cells = sensors.iter().zip(row.iter().skip(1));
        let values = cells.map(|(s, cell)| (s, cell.parse().unwrap()));
        readings.extend(
            values
                .filter(|(_, v)| Some(*v) != missing)
                .map(|(s, value)| Reading {
                    sensor: s.clone(),
                    time: time.and_utc().timestamp_millis(),
                    value,
                    quality: 0,
                    time_source: pb::TimeSource::Device,
                }),
        );
    }
    (sensors, readings)
}

fn show(name: &str, layout: &str, batches: &[&[Reading]]) {
    let mut sizes = [0_usize; 3];
    let mut took = Duration::ZERO;
    for (number, batch) in (1..).zip(batches) {
        let records = records(batch, number);
        let began = Instant::now();
        let payload = batch::encode(&header(number), &records).unwrap();
        took += began.elapsed();
        assert_eq!(batch::decode(&payload).unwrap().records, records);
        for (sum, size) in sizes
            .iter_mut()
            .zip([payload.len(), json(batch), raw(batch)])
        {
            *sum += size;
        }
    }
    let count: usize = batches.iter().map(|b| b.len()).sum();
    let each = |sum: usize| sum as f64 / count as f64;
    let [ours, json, zstd] = sizes.map(each);
    let readings = count / batches.len();
    let time = took.as_secs_f64() * 1e6 / count as f64;
    println!("{name} {layout} {readings} {ours:.3} {json:.3} {zstd:.3} {time:.3}");
}

fn header(number: u64) -> Header {
    Header {
        epoch: Epoch(uuid::Uuid::new_v4()),
        number,
        clock: pb::ClockStamp {
            boot_id: uuid::Uuid::new_v4().to_string(),
            monotonic_ms: 86_400_123,
            wall_ms: 1_767_225_600_456,
            synchronised: true,
        },
    }
}

fn records(readings: &[Reading], number: u64) -> Vec<Record> {
    let first = (number - 1) * readings.len() as u64 + 1;
    let bodies = readings.iter().cloned().map(RecordBody::Reading);
    (first..)
        .zip(bodies)
        .map(|(seq, body)| Record { seq, body })
        .collect()
}

/// Lines as short as they can be: times in milliseconds, whole numbers without a point.
fn json(readings: &[Reading]) -> usize {
    let line = |r: &Reading| {
        let (sensor, time, value) = (&r.sensor, r.time, r.value);
        format!(r#"{{"device":"gateway-1","sensor":"{sensor}","time":{time},"value":{value}}}"#)
            .len()
            + 1
    };
    readings.iter().map(line).sum()
}

/// Times, then values, in the order of the readings or sensor by sensor, whichever becomes smaller.
fn raw(readings: &[Reading]) -> usize {
    let size = |readings: &[&Reading]| {
        let times = readings.iter().flat_map(|r| r.time.to_le_bytes());
        let values = readings.iter().flat_map(|r| r.value.to_le_bytes());
        let columns: Vec<u8> = times.chain(values).collect();
        zstd::bulk::compress(&columns, LEVEL).unwrap().len()
    };
    let mut ordered: Vec<&Reading> = readings.iter().collect();
    let rows = size(&ordered);
    ordered.sort_by_key(|r| &r.sensor);
    rows.min(size(&ordered))
}
