//! The figure of ingest beside PostgreSQL's own COPY: owns its line; the example `ingest_copy` of the hub measures.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::line;
use crate::command::output;

/// Runs the example that is built in `programs`, in a folder of its own beside it.
pub(super) fn measure(programs: &Path) -> Result<()> {
    let folder = programs.join(format!("copy-{}", std::process::id()));
    let mut run = Command::new(programs.join("examples/ingest_copy"));
    let told = output(run.arg(&folder));
    // What the run left behind is of no use to anyone.
    let _ = std::fs::remove_dir_all(&folder);
    let told: Value = serde_json::from_str(&told?).context("read what ingest_copy says")?;
    let number = |name: &str| {
        let found = told[name].as_f64();
        found.with_context(|| format!("ingest_copy tells no {name}: {told}"))
    };
    let (ours, theirs) = (number("readings_per_s")?, number("copy_per_s")?);
    line(
        "ingest_to_commit",
        ours,
        "1/s",
        ours / theirs,
        &format!("binary COPY of the same rows, {theirs:.0}/s (0.5; 0.8)"),
    );
    Ok(())
}
