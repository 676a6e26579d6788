//! Sealed batches: owns their encoding and the checks of decoding, never their storage or sending.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;

use prost::Message;
use zstd::bulk::{Compressor, Decompressor};

use crate::caps::{MAX_BODY, MAX_FORECAST_VALUES, MAX_PAYLOAD, MAX_RECORDS};
use crate::record::{Reading, Record, RecordBody};
use crate::{BATCH_SCHEMA, Epoch, columns, pb, shape, values};

/// A decoded batch: header and records in the order of their numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Buffer the batch comes from.
    pub epoch: Epoch,
    /// Number within the epoch, from 1.
    pub number: u64,
    /// First record number.
    pub first_seq: u64,
    /// Last record number.
    pub last_seq: u64,
    /// The device's clocks at sealing.
    pub clock: pb::ClockStamp,
    /// Records; their numbers are exactly `first_seq..=last_seq`.
    pub records: Vec<Record>,
}

/// Why bytes are not a batch this version takes.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// Payload or body over its cap.
    #[error("batch {what} of {len} is over the cap of {cap}; seal smaller batches")]
    TooLarge {
        /// Which part.
        what: &'static str,
        /// Found.
        len: u64,
        /// Allowed.
        cap: u64,
    },
    /// Written by a newer version.
    #[error(
        "batch has schema {found}, this version reads up to {BATCH_SCHEMA}; upgrade the hub before its devices"
    )]
    NewerSchema {
        /// Schema of the payload.
        found: u32,
    },
    /// Not a batch, or damaged.
    #[error("batch is malformed: {what}; it must be sent again from the device's buffer")]
    Malformed {
        /// What was found.
        what: String,
    },
    /// Compression failed.
    #[error("batch cannot be compressed: {source}; free memory and try again")]
    Compress {
        /// What zstd says.
        source: io::Error,
    },
}

/// Of zstd, for whole bodies.
const LEVEL: i32 = 9;
/// Of zstd, where layouts of one column are compared.
const TRIAL_LEVEL: i32 = 1;

fn malformed(what: impl Into<String>) -> BatchError {
    BatchError::Malformed { what: what.into() }
}

/// Where a batch stands in its epoch and when it was sealed.
#[derive(Debug, Clone)]
pub struct Header {
    /// Buffer the batch comes from.
    pub epoch: Epoch,
    /// Number within the epoch, from 1.
    pub number: u64,
    /// The device's clocks now.
    pub clock: pb::ClockStamp,
}

/// Encodes records with contiguous numbers into the bytes that are stored, sent and digested.
///
/// # Errors
/// No records, a hole in their numbers, or over a cap.
pub fn encode(header: &Header, records: &[Record]) -> Result<Vec<u8>, BatchError> {
    let (Some(first), Some(last)) = (records.first(), records.last()) else {
        return Err(malformed("no records"));
    };
    if records.windows(2).any(|w| w[1].seq != w[0].seq + 1) {
        return Err(malformed("record numbers with a hole"));
    }
    for record in records {
        if let RecordBody::Forecast(m) = &record.body {
            let values = m.mean.len().saturating_mul(m.quantile_levels.len().max(1));
            if values.max(m.quantiles.len()) > MAX_FORECAST_VALUES {
                return Err(BatchError::TooLarge {
                    what: "forecast",
                    len: values.max(m.quantiles.len()) as u64,
                    cap: MAX_FORECAST_VALUES as u64,
                });
            }
        }
    }
    let compress = |source| BatchError::Compress { source };
    let body = body(first.seq, records).map_err(compress)?;
    let schema = schema(&body);
    let body = body.encode_to_vec();
    let cap = |what, len: usize, cap: usize| {
        if len > cap {
            Err(BatchError::TooLarge {
                what,
                len: len as u64,
                cap: cap as u64,
            })
        } else {
            Ok(())
        }
    };
    cap(
        "records",
        records.len(),
        usize::try_from(MAX_RECORDS).unwrap_or(usize::MAX),
    )?;
    cap("body", body.len(), MAX_BODY)?;
    let body_len = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let packed = zstd::bulk::compress(&body, LEVEL).map_err(compress)?;
    let (encoding, body) = if packed.len() < body.len() {
        (pb::Encoding::Zstd, packed)
    } else {
        (pb::Encoding::Plain, body)
    };
    let payload = pb::Batch {
        schema,
        epoch: header.epoch.to_vec(),
        number: header.number,
        first_seq: first.seq,
        last_seq: last.seq,
        clock: Some(header.clock.clone()),
        encoding: encoding as i32,
        body_len,
        body,
    }
    .encode_to_vec();
    cap("payload", payload.len(), MAX_PAYLOAD)?;
    Ok(payload)
}

/// The oldest version whose readers know all that is in it.
fn schema(body: &pb::BatchBody) -> u32 {
    let packed = |c: &pb::ReadingColumn| c.decimals.is_some() || c.distinct > 0;
    if body.readings.iter().any(packed) {
        3
    } else if body.sketches.is_empty() && body.paired.is_empty() {
        1
    } else {
        2
    }
}

fn body(first_seq: u64, records: &[Record]) -> io::Result<pb::BatchBody> {
    let mut sensors: BTreeMap<(&str, i32), Vec<(u64, &Reading)>> = BTreeMap::new();
    let mut body = pb::BatchBody::default();
    for record in records {
        let seq = record.seq;
        match &record.body {
            RecordBody::Reading(r) => {
                sensors
                    .entry((&r.sensor, r.time_source as i32))
                    .or_default()
                    .push((seq, r));
            }
            RecordBody::Forecast(m) => body.forecasts.push(pb::Forecast { seq, ..m.clone() }),
            RecordBody::Residual(m) => body
                .residuals
                .push(pb::ResidualSummary { seq, ..m.clone() }),
            RecordBody::Gap(m) => body.gaps.push(pb::Gap { seq, ..m.clone() }),
            RecordBody::Drift(m) => body.drifts.push(pb::DriftSignal { seq, ..m.clone() }),
            RecordBody::Alarm(m) => body.alarms.push(pb::Alarm { seq, ..m.clone() }),
            RecordBody::Clock(m) => body.clocks.push(pb::ClockFact { seq, ..m.clone() }),
            RecordBody::Outcome(m) => body.outcomes.push(pb::Outcome { seq, ..m.clone() }),
            RecordBody::Sketch(m) => body.sketches.push(pb::SensorSketch { seq, ..m.clone() }),
            RecordBody::Paired(m) => body.paired.push(pb::PairedLosses { seq, ..m.clone() }),
        }
    }
    let mut trial = Compressor::new(TRIAL_LEVEL)?;
    body.readings = sensors
        .values()
        .map(|readings| columns::column(first_seq, readings, &mut trial))
        .collect::<io::Result<_>>()?;
    Ok(body)
}

/// Decodes a payload; nothing beyond the caps is ever allocated.
///
/// # Errors
/// Over a cap, a newer schema, or not a well-formed batch.
pub fn decode(payload: &[u8]) -> Result<Batch, BatchError> {
    if payload.len() > MAX_PAYLOAD {
        return Err(BatchError::TooLarge {
            what: "payload",
            len: payload.len() as u64,
            cap: MAX_PAYLOAD as u64,
        });
    }
    let m = pb::Batch::decode(payload).map_err(|e| malformed(e.to_string()))?;
    match m.schema {
        0 => return Err(malformed("no schema version")),
        s if s > BATCH_SCHEMA => return Err(BatchError::NewerSchema { found: s }),
        _ => {}
    }
    let epoch = Epoch::from_slice(&m.epoch).map_err(|e| malformed(e.to_string()))?;
    if m.number == 0 || m.first_seq == 0 || m.last_seq < m.first_seq {
        return Err(malformed("batch and record numbers must count from 1"));
    }
    let count = m.last_seq - m.first_seq;
    if count >= MAX_RECORDS {
        return Err(BatchError::TooLarge {
            what: "records",
            len: count.saturating_add(1),
            cap: MAX_RECORDS,
        });
    }
    let body_len = m.body_len as usize;
    if body_len > MAX_BODY {
        return Err(BatchError::TooLarge {
            what: "body",
            len: body_len as u64,
            cap: MAX_BODY as u64,
        });
    }
    let body = match pb::Encoding::try_from(m.encoding) {
        Ok(pb::Encoding::Plain) => m.body,
        Ok(pb::Encoding::Zstd) => {
            unpacked(&m.body, body_len).map_err(|e| malformed(format!("body: {e}")))?
        }
        Err(_) => return Err(malformed(format!("unknown encoding {}", m.encoding))),
    };
    if body.len() != body_len {
        return Err(malformed(format!(
            "body of {} bytes, {body_len} announced",
            body.len()
        )));
    }
    shape::check(&body, count + 1).map_err(malformed)?;
    let body = pb::BatchBody::decode(body.as_slice()).map_err(|e| malformed(e.to_string()))?;
    let records = records(body, m.first_seq, m.last_seq)?;
    Ok(Batch {
        epoch,
        number: m.number,
        first_seq: m.first_seq,
        last_seq: m.last_seq,
        clock: m.clock.unwrap_or_default(),
        records,
    })
}

/// What was compressed; longer than `len` it is refused.
fn unpacked(body: &[u8], len: usize) -> io::Result<Vec<u8>> {
    thread_local! {
        // Its 96 kB, taken and given back with each batch, made the allocator tidy up all that is small each time.
        static ZSTD: RefCell<Decompressor<'static>> = RefCell::default();
    }
    ZSTD.with_borrow_mut(|zstd| zstd.decompress(body, len))
}

fn records(body: pb::BatchBody, first: u64, last: u64) -> Result<Vec<Record>, BatchError> {
    let capacity = usize::try_from(last - first + 1).unwrap_or(0);
    let mut out = Vec::with_capacity(capacity);
    for column in body.readings {
        readings(column, first, last, &mut out)?;
    }
    out.extend(body.forecasts.into_iter().map(|m| Record {
        seq: m.seq,
        body: RecordBody::Forecast(m),
    }));
    out.extend(body.residuals.into_iter().map(|m| Record {
        seq: m.seq,
        body: RecordBody::Residual(m),
    }));
    out.extend(body.gaps.into_iter().map(|m| Record {
        seq: m.seq,
        body: RecordBody::Gap(m),
    }));
    out.extend(body.drifts.into_iter().map(|m| Record {
        seq: m.seq,
        body: RecordBody::Drift(m),
    }));
    out.extend(body.alarms.into_iter().map(|m| Record {
        seq: m.seq,
        body: RecordBody::Alarm(m),
    }));
    out.extend(body.clocks.into_iter().map(|m| Record {
        seq: m.seq,
        body: RecordBody::Clock(m),
    }));
    out.extend(body.outcomes.into_iter().map(|m| Record {
        seq: m.seq,
        body: RecordBody::Outcome(m),
    }));
    out.extend(body.sketches.into_iter().map(|m| Record {
        seq: m.seq,
        body: RecordBody::Sketch(m),
    }));
    out.extend(body.paired.into_iter().map(|m| Record {
        seq: m.seq,
        body: RecordBody::Paired(m),
    }));
    if out.len() != capacity {
        return Err(malformed(format!(
            "{} records, {capacity} announced",
            out.len()
        )));
    }
    out.sort_by_key(|r| r.seq);
    let exact = out.iter().zip(first..=last).all(|(r, seq)| r.seq == seq);
    if !exact {
        return Err(malformed(format!(
            "record numbers are not {first} to {last}"
        )));
    }
    Ok(out)
}

fn readings(
    column: pb::ReadingColumn,
    first: u64,
    last: u64,
    out: &mut Vec<Record>,
) -> Result<(), BatchError> {
    let n = column.seq_steps.len();
    let runs: u64 = column
        .quality_runs
        .chunks(2)
        .map(|r| u64::from(*r.get(1).unwrap_or(&0)))
        .sum();
    let room = usize::try_from(last - first + 1)
        .unwrap_or(0)
        .saturating_sub(out.len());
    let equal = column.time_steps.len() == n && runs == n as u64;
    if !equal || n > room {
        return Err(malformed(format!(
            "columns of sensor `{}` differ in length",
            column.sensor
        )));
    }
    let time_source = pb::TimeSource::try_from(column.time_source)
        .map_err(|_| malformed(format!("unknown time source {}", column.time_source)))?;
    let mut qualities = column
        .quality_runs
        .chunks_exact(2)
        .flat_map(|run| std::iter::repeat_n(u8::try_from(run[0]).unwrap_or(2), run[1] as usize));
    let values = values::unpack(&column, n)
        .map_err(|e| malformed(format!("sensor `{}`: {e}", column.sensor)))?;
    let mut seq = first;
    for ((step, time), value) in column
        .seq_steps
        .iter()
        .zip(columns::times(&column.time_steps))
        .zip(values)
    {
        seq = seq
            .checked_add(*step)
            .filter(|s| *s <= last)
            .ok_or_else(|| malformed("record number out of range"))?;
        let reading = Reading {
            sensor: column.sensor.clone(),
            time,
            value,
            quality: qualities.next().unwrap_or(2),
            time_source,
        };
        out.push(Record {
            seq,
            body: RecordBody::Reading(reading),
        });
    }
    Ok(())
}
