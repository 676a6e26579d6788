//! Readings into their table by binary COPY: owns the bytes of its rows (PostgreSQL manual, "COPY", binary format).

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::error::{Context as _, Result};
use crate::readings::ReadingColumns;

const SQL: &str = "COPY readings (sensor, time, value, quality, time_quality, device_time, unanchored) FROM STDIN (FORMAT binary)";
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
const FIELDS: i16 = 7;
/// Microseconds between the epochs of Unix and PostgreSQL.
const EPOCH_2000: i64 = 946_684_800_000_000;
/// Rows that are sent together: some 0.5 MB, so that a large group takes no memory of its own.
const CHUNK: usize = 8_192;

/// Appends all rows; their partitions must exist.
pub(crate) async fn copy(connection: &mut PgConnection, rows: &ReadingColumns) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let failed = || format!("copy {} readings", rows.len());
    let mut copy = connection.copy_in_raw(SQL).await.during(failed())?;
    let mut bytes = Vec::with_capacity(rows.len().min(CHUNK) * 80);
    bytes.extend_from_slice(SIGNATURE);
    bytes.extend_from_slice(&[0; 8]); // no flags, no further header
    for i in 0..rows.len() {
        row(rows, i, &mut bytes);
        if (i + 1).is_multiple_of(CHUNK) {
            copy.send(bytes.as_slice()).await.during(failed())?;
            bytes.clear();
        }
    }
    bytes.extend_from_slice(&(-1_i16).to_be_bytes());
    copy.send(bytes.as_slice()).await.during(failed())?;
    copy.finish().await.map(drop).during(failed())
}

fn row(rows: &ReadingColumns, i: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&FIELDS.to_be_bytes());
    field(out, &rows.sensors[i].to_be_bytes());
    field(out, &time(rows.times[i]));
    field(out, &rows.values[i].to_be_bytes());
    field(out, &rows.qualities[i].to_be_bytes());
    field(out, &rows.time_qualities[i].to_be_bytes());
    match rows.device_times[i] {
        Some(at) => field(out, &time(at)),
        None => null(out),
    }
    match rows.unanchored[i] {
        Some(id) => field(out, &id.to_be_bytes()),
        None => null(out),
    }
}

fn time(at: DateTime<Utc>) -> [u8; 8] {
    at.timestamp_micros()
        .saturating_sub(EPOCH_2000)
        .to_be_bytes()
}

fn field(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes);
}

fn null(out: &mut Vec<u8>) {
    out.extend_from_slice(&(-1_i32).to_be_bytes());
}
