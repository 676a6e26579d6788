//! The figure of a payload's size: bytes a reading of public series, beside JSON and beside zstd over the same columns.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::line;
use crate::command::output;

/// Encodes the series in batches of three sizes, all sensors of a row together and each sensor alone.
pub(super) fn measure(programs: &Path) -> Result<()> {
    let data = std::env::var_os("FIELDCAST_DATA")
        .context("set FIELDCAST_DATA to the folder of the public series")?;
    for row in output(Command::new(programs.join("examples/bytes")).arg(data))?.lines() {
        let words: Vec<&str> = row.split(' ').collect();
        let [series, layout, readings, figures @ ..] = words.as_slice() else {
            continue;
        };
        let figures = figures
            .iter()
            .map(|w| w.parse())
            .collect::<Result<Vec<f64>, _>>()?;
        let [ours, json, zstd, took] = figures[..] else {
            continue;
        };
        ensure!(ours > 0.0, "a batch of nothing: `{row}`");
        let name = format!("bytes_{series}_{layout}_{readings}");
        let aim = if *readings == "168" { 20 } else { 30 };
        line(
            &name,
            ours,
            "bytes",
            json / ours,
            &format!("JSON {json:.1} (10; {aim}); encoded in {took:.2} us a reading"),
        );
        line(
            &format!("{name}_zstd"),
            ours,
            "bytes",
            ours / zstd,
            &format!("zstd -19 of the columns {zstd:.2} (1; 0.7)"),
        );
    }
    Ok(())
}
