//! The generated file: owns its header and number format, never where it lies.

use std::io::{self, Write};

use chrono::{DateTime, SecondsFormat};

use crate::spec::{Row, SimSpec};

/// First line of a generated file.
pub const HEADER: &str = "time,temperature,humidity,demand";

/// Name of a device's file: `sim-001.csv`.
#[must_use]
pub fn file_name(device: u32) -> String {
    format!("{}.csv", SimSpec::device_name(device))
}

/// Writes a device's rows under [`HEADER`], times as RFC 3339 UTC.
///
/// # Errors
/// What the writer says; what was written before it stays written.
pub fn write(mut out: impl Write, rows: impl Iterator<Item = Row>) -> io::Result<()> {
    writeln!(out, "{HEADER}")?;
    for row in rows {
        let time = DateTime::from_timestamp_millis(row.time)
            .ok_or_else(|| io::Error::other(format!("{} ms lies outside the calendar", row.time)))?
            .to_rfc3339_opts(SecondsFormat::Secs, true);
        writeln!(
            out,
            "{time},{:.2},{:.2},{:.2}",
            row.temperature, row.humidity, row.demand
        )?;
    }
    out.flush()
}
