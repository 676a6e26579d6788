//! What the system says of a process: owns reading its memory and processor time, never what they are compared with.

use anyhow::{Context, Result};

/// Linux tells processor times in hundredths of a second, whatever its own clock is.
const USER_HZ: f64 = 100.0;

/// A number of `/proc/<pid>/status` in MB (10^6 bytes): `VmRSS` now, `VmHWM` at most ever.
pub(super) fn memory_mb(pid: u32, name: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let found = text
        .lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    let kib: Option<f64> = found.and_then(|p| p.split_whitespace().next()?.parse().ok());
    Ok(kib.with_context(|| format!("{path} has no {name}"))? * 1_024.0 / 1e6)
}

/// Processor time that it used so far, seconds.
pub(super) fn cpu_s(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // Behind the name, which may hold anything: fields 14 and 15, counted from 1.
    let fields: Vec<&str> = text
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace()
        .collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok());
    let (user, system) = ticks(11).zip(ticks(12)).context("read processor times")?;
    Ok((user + system) / USER_HZ)
}
