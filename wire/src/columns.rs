//! Columns of readings: owns the steps of numbers, times and qualities, never the layout of values.

use std::io;

use zstd::bulk::Compressor;

use crate::record::Reading;
use crate::{pb, values};

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

/// One column from the readings of one sensor and time source, with their record numbers.
///
/// # Errors
/// Compression that fails where layouts are compared.
pub(crate) fn column(
    first_seq: u64,
    readings: &[(u64, &Reading)],
    trial: &mut Compressor<'_>,
) -> io::Result<pb::ReadingColumn> {
    let mut last = first_seq;
    let read: Vec<f64> = readings.iter().map(|(_, r)| r.value).collect();
    let mut column = values::pack(&read, trial)?;
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
    Ok(column)
}
