//! The figure of an agent's processor time under everyday load: ten sensors, each read once a second, all of it sent.

use std::time::{Duration, Instant};

use anyhow::Result;
use chrono::{DateTime, Utc};

use super::bed::{Bed, Made};
use super::usage::cpu_s;
use super::{Plan, line};

const SENSORS: u64 = 10;
/// Percent of a core that are asked for.
const GOAL: f64 = 0.5;

pub(super) fn measure(plan: &Plan) -> Result<()> {
    let bed = Bed::make()?;
    let mut device = bed.agent("")?;
    let made = Made {
        sensors: SENSORS,
        begin: now(),
        step_ms: 1_000,
    };
    // Start and first connection are not everyday.
    device.source.rows(made, 0..1)?;
    device.drained(0.0, Duration::from_secs(30))?;
    let (pid, begun) = (device.process.pid(), Instant::now());
    let before = cpu_s(pid)?;
    for row in 1..=u64::from(plan.seconds) {
        let due = Duration::from_secs(row);
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
        device.source.rows(made, row..row + 1)?;
    }
    let percent = (cpu_s(pid)? - before) / begun.elapsed().as_secs_f64() * 100.0;
    device.drained(0.0, Duration::from_secs(30))?;
    line(
        "device_10_sensors_1_hz_cpu",
        percent,
        "%",
        percent / GOAL,
        "percent of a core allowed (0.5; 0.2)",
    );
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "the testbed's clock")]
fn now() -> DateTime<Utc> {
    Utc::now()
}
