//! Column codec of readings: lossless steps, delta of delta and byte planes. Never compresses.

use crate::pb;
use crate::record::Reading;

/// Delta of delta of times; wraps, so that any pair of times survives.
pub(crate) fn time_steps(times: &[i64]) -> Vec<i64> {
    let (mut last, mut delta) = (0_i64, 0_i64);
    times
        .iter()
        .map(|t| {
            let d = t.wrapping_sub(last);
            let step = d.wrapping_sub(delta);
            (last, delta) = (*t, d);
            step
        })
        .collect()
}

/// Inverse of [`time_steps`].
pub(crate) fn times(steps: &[i64]) -> impl Iterator<Item = i64> + '_ {
    let (mut last, mut delta) = (0_i64, 0_i64);
    steps.iter().map(move |s| {
        delta = delta.wrapping_add(*s);
        last = last.wrapping_add(delta);
        last
    })
}

/// Little-endian doubles, all first bytes first: equal exponents come to lie side by side.
pub(crate) fn value_planes(values: &[f64]) -> Vec<u8> {
    let n = values.len();
    let mut out = vec![0; n * 8];
    for (i, value) in values.iter().enumerate() {
        for (plane, byte) in value.to_le_bytes().into_iter().enumerate() {
            out[plane * n + i] = byte;
        }
    }
    out
}

/// Inverse of [`value_planes`]; `planes.len()` must be a multiple of 8.
pub(crate) fn values(planes: &[u8]) -> Vec<f64> {
    let n = planes.len() / 8;
    (0..n)
        .map(|i| {
            let mut bytes = [0; 8];
            for (plane, byte) in bytes.iter_mut().enumerate() {
                *byte = planes[plane * n + i];
            }
            f64::from_le_bytes(bytes)
        })
        .collect()
}

/// One column from the readings of one sensor and time source, with their record numbers.
pub(crate) fn column(first_seq: u64, readings: &[(u64, &Reading)]) -> pb::ReadingColumn {
    let mut last = first_seq;
    let mut column = pb::ReadingColumn::default();
    if let Some((_, first)) = readings.first() {
        column.sensor.clone_from(&first.sensor);
        column.time_source = first.time_source as i32;
    }
    for (seq, reading) in readings {
        column.seq_steps.push(seq - last);
        last = *seq;
        let quality = u32::from(reading.quality);
        match column.quality_runs.last_chunk_mut::<2>() {
            Some([q, count]) if *q == quality => *count += 1,
            _ => column.quality_runs.extend([quality, 1]),
        }
    }
    column.time_steps = time_steps(&readings.iter().map(|(_, r)| r.time).collect::<Vec<_>>());
    column.values = value_planes(&readings.iter().map(|(_, r)| r.value).collect::<Vec<_>>());
    column
}
