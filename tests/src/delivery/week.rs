//! The figure of an agent's memory over a week's traffic replayed at speed: ten sensors, each read once a second, with a forecaster.

use std::time::Duration;

use anyhow::{Context, Result};
use chrono::DateTime;

use super::bed::{Bed, Made};
use super::usage::memory_mb;
use super::{Plan, line};

const ROWS: u64 = 7 * 86_400;
/// Rows of a call.
const CALL: u64 = 60;
/// Between two looks at the memory: an hour of data.
const LOOK: u64 = 3_600;
const SPEC: &str = "name = \"week\"\ntarget = \"s0\"\ninputs = [\"s0\", \"s1\"]\nperiod = \"10m\"\nlookback = 36\nhorizon = 6\n";

pub(super) fn measure(_: &Plan) -> Result<()> {
    let bed = Bed::make()?;
    let spec = bed.at("week.toml");
    std::fs::write(&spec, SPEC)?;
    let mut device = bed.agent(&format!("forecasters = [\"{}\"]", spec.display()))?;
    let made = Made {
        sensors: 10,
        begin: DateTime::from_timestamp(1_700_000_000, 0).context("a time")?,
        step_ms: 1_000,
    };
    let mut seen = Vec::new();
    for row in (0..ROWS).step_by(usize::try_from(CALL)?) {
        device.source.rows(made, row..row + CALL)?;
        if row.is_multiple_of(LOOK) {
            device.process.check_alive()?;
            seen.push(memory_mb(device.process.pid(), "VmRSS")?);
            eprintln!(
                "hour {} of 168: {:.1} MB, {} records wait",
                row / LOOK,
                seen.last().copied().unwrap_or_default(),
                device.waiting()?
            );
        }
    }
    device.drained(0.0, Duration::from_secs(300))?;
    // The first day fills windows and caches; after it nothing may grow.
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len().max(1) as f64;
    let (second, last) = (mean(&seen[24..48]), mean(&seen[seen.len() - 24..]));
    let peak = memory_mb(device.process.pid(), "VmHWM")?;
    line(
        "device_week_memory",
        last,
        "MB",
        last / second,
        "the second day's mean, in the last day (flat; flat)",
    );
    line(
        "device_week_memory_peak",
        peak,
        "MB",
        peak / second,
        "the second day's mean, at most ever",
    );
    Ok(())
}
