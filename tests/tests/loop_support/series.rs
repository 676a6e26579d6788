//! Simulated CSV files as numbers: owns reading them, never the comparison.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use fieldcast_tests::scenario::Feed;

/// The simulated files of a folder, in the order of their names.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(folder)?
        .map(|e| Ok(e?.path()))
        .collect::<Result<_>>()?;
    all.retain(|p| p.extension().is_some_and(|e| e == "csv"));
    all.sort();
    Ok(all)
}

/// Rows of a feed: time as written, then the values of the three sensors.
pub fn rows(feed: &Feed) -> Result<Vec<(String, [f64; 3])>> {
    feed.rows()
        .iter()
        .map(|line| {
            let mut fields = line.split(',');
            let time = fields.next().context("a time")?.to_owned();
            let mut values = [0.0; 3];
            for value in &mut values {
                *value = fields.next().context("a value")?.trim().parse()?;
            }
            Ok((time, values))
        })
        .collect()
}
