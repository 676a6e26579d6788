//! Committed chunks of an import: owns their transactions, never the file's format.
//!
//! A reading is written where the device has none of that sensor and time yet: an import run again, one of a file that
//! grew, and one that overlaps what the device delivered write nothing twice. Readings that a sensor's fault spoilt are
//! stored as bad ones: they are there, and nothing is learnt from them.

use std::collections::BTreeSet;

use anyhow::Result;
use fieldcast_features::quality::Quality;
use fieldcast_store::Store;
use fieldcast_store::partitions::Month;
use fieldcast_store::readings::ReadingColumns;
use fieldcast_wire::caps::MAX_SENSORS;

use super::grade::{Found, Grades};
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
    /// Readings that a sensor's fault spoilt: bad ones, which nothing is learnt from.
    pub spoilt: u64,
    /// Those faults.
    pub faults: Found,
    /// Sensors and what looks like a fault in more than a fifth of their readings: taken for how they are.
    pub usual: Vec<(String, &'static str)>,
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
    let grades = Grades::of(path, options)?;
    let mut out = Imported {
        faults: grades.found.clone(),
        usual: grades.usual.clone(),
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
            return malformed.map_or(Ok(out), Err);
        };
        out.from_ms = out.from_ms.or(rows.first().map(|r| r.time));
        out.to_ms = Some(last.time);
        let (columns, months) = columns(&rows, &known, &table.sensors, &grades);
        out.written += commit(store, device, &columns, &months).await?;
        out.readings += columns.len() as u64;
        let bad = i16::from(Quality::Bad.as_u8());
        out.spoilt += columns.qualities.iter().filter(|q| **q == bad).count() as u64;
        progress(out.readings);
        if let Some(error) = malformed {
            return Err(error);
        }
    }
}

/// Rows as columns of readings, and the months they are of.
fn columns(
    rows: &[Row],
    known: &[i32],
    sensors: &[String],
    grades: &Grades,
) -> (ReadingColumns, BTreeSet<Month>) {
    let mut columns = ReadingColumns::default();
    let mut months = BTreeSet::new();
    for row in rows {
        months.extend(Month::of(row.time));
        for ((id, sensor), value) in known.iter().zip(sensors).zip(&row.values) {
            if let Some(value) = value {
                let quality = match grades.spoilt.holds(sensor, row.time) {
                    true => Quality::Bad,
                    false => Quality::Good,
                };
                columns.push(*id, row.time, *value, i16::from(quality.as_u8()), 2);
            }
        }
    }
    (columns, months)
}

/// Writes what is not there yet; how many that were.
async fn commit(
    store: &Store,
    device: &str,
    columns: &ReadingColumns,
    months: &BTreeSet<Month>,
) -> Result<u64> {
    store.ensure_months(months).await?;
    let mut ingest = store.begin_ingest().await?;
    let written = ingest.insert_missing_readings(device, columns).await?;
    ingest.commit().await?;
    Ok(written)
}
