//! Committed chunks of an import: owns their transactions, never the file's format.
//!
//! A reading is written where the device has none of that sensor and time yet: an import run again, one of a file that
//! grew, and one that overlaps what the device delivered write nothing twice. Once the whole file is read, what sensors'
//! faults spoilt in it is stored as a device's own findings are: the readings stay, and nothing is learnt from them.

use std::collections::BTreeSet;

use anyhow::Result;
use fieldcast_store::Store;
use fieldcast_store::partitions::Month;
use fieldcast_store::readings::ReadingColumns;
use fieldcast_wire::caps::MAX_SENSORS;

use super::grade::{Findings, Watch};
use super::table::{Options, Row, Table};

/// Rows of a chunk.
const ROWS: usize = 2_000;

/// What an import did.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Imported {
    /// Readings in the file.
    pub readings: u64,
    /// Those that this run wrote; the others were there.
    pub written: u64,
    /// What a device would have said of these sensors.
    pub findings: Findings,
    /// First data time, milliseconds.
    pub from_ms: Option<i64>,
    /// Last data time.
    pub to_ms: Option<i64>,
    /// Columns that were left out because they begin with something else than a number.
    pub skipped: Vec<String>,
}

/// Imports a file for a device; `progress` hears the readings done so far.
///
/// # Errors
/// A malformed row, when all before it and nothing behind it is written; the database.
pub async fn import(
    store: &Store,
    device: &str,
    path: &std::path::Path,
    options: &Options,
    mut progress: impl FnMut(u64),
) -> Result<Imported> {
    let mut table = Table::open(path, options)?;
    anyhow::ensure!(
        table.sensors.len() <= MAX_SENSORS,
        "{} sensors, allowed are {MAX_SENSORS}; choose with --column",
        table.sensors.len()
    );
    let ids = store.register_sensors(device, &table.sensors).await?;
    let mut known = Vec::new();
    for sensor in &table.sensors {
        let id = ids.get(sensor).copied();
        known.push(id.ok_or_else(|| anyhow::anyhow!("sensor `{sensor}` is beyond the limit of device {device}; raise its limit or choose with --column"))?);
    }
    let mut watch = Watch::new(&table.sensors)?;
    let mut out = Imported {
        skipped: table.skipped.clone(),
        ..Imported::default()
    };
    loop {
        let mut rows = Vec::with_capacity(ROWS);
        let mut malformed = None;
        while rows.len() < ROWS && malformed.is_none() {
            match table.next_row() {
                Ok(Some(row)) => rows.push(row),
                Ok(None) => break,
                Err(error) => malformed = Some(error),
            }
        }
        let Some(last) = rows.last() else {
            if let Some(error) = malformed {
                return Err(error);
            }
            let (spoilt, findings) = watch.end();
            store.add_sensor_faults(device, &spoilt).await?;
            out.findings = findings;
            return Ok(out);
        };
        watch.take(&rows);
        out.from_ms = out.from_ms.or(rows.first().map(|r| r.time));
        out.to_ms = Some(last.time);
        let (count, written) = commit(store, device, &known, &rows).await?;
        out.readings += count;
        out.written += written;
        progress(out.readings);
        if let Some(error) = malformed {
            return Err(error);
        }
    }
}

async fn commit(store: &Store, device: &str, sensors: &[i32], rows: &[Row]) -> Result<(u64, u64)> {
    let mut columns = ReadingColumns::default();
    let mut months = BTreeSet::new();
    for row in rows {
        months.extend(Month::of(row.time));
        for (sensor, value) in sensors.iter().zip(&row.values) {
            if let Some(value) = value {
                columns.push(*sensor, row.time, *value, 0, 2);
            }
        }
    }
    store.ensure_months(&months).await?;
    let mut ingest = store.begin_ingest().await?;
    let written = ingest.insert_missing_readings(device, &columns).await?;
    ingest.commit().await?;
    Ok((columns.len() as u64, written))
}
