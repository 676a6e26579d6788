//! The figure of throughput: readings a second from devices to acknowledgements, the hub with its broker on one core.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::bed::Bed;
use super::fleet::{fleet, number};
use super::usage::cpu_s;
use super::{Plan, line};

/// Readings a second that are asked for.
const GOAL: f64 = 60_000.0;

/// Fifty devices that always have more than is taken: each waits with new readings while four of its batches do.
pub(super) fn measure(plan: &Plan) -> Result<()> {
    let bed = Bed::make()?;
    let pid = bed.hub()?.pid();
    bind(pid)?;
    let before = cpu_s(pid)?;
    let duration = format!("{}s", plan.seconds);
    let told = fleet(
        &bed,
        &[
            "--devices=50",
            "--sensors=10",
            "--rate=20000",
            "--batch-every=100ms",
            "--speed=10",
            "--waiting=4",
            "--ramp=1s",
            "--duration",
            &duration,
            "--drain=120s",
        ],
    )?;
    let (acked, seconds) = (
        number(&told, "fleet", "acked")?,
        number(&told, "fleet", "seconds")?,
    );
    let rate = acked / seconds;
    line(
        "end_to_end_one_core",
        rate,
        "1/s",
        rate / GOAL,
        "readings a second asked for (60000; 200000)",
    );
    let cpu = cpu_s(pid)? - before;
    line(
        "end_to_end_hub_cpu",
        cpu / acked * 1e6,
        "us",
        cpu / seconds,
        "processor time of a reading; ratio: of the one core",
    );
    let bytes = number(&told, "fleet", "bytes")?;
    line(
        "end_to_end_payload",
        bytes / acked,
        "bytes",
        bytes / acked / 16.0,
        "a reading's time and value as they are, 16 bytes",
    );
    Ok(())
}

/// Binds every thread of the process, and nothing else, to one core.
fn bind(pid: u32) -> Result<()> {
    let bound = Command::new("taskset")
        .args(["-acp", "0", &pid.to_string()])
        .stdout(Stdio::null())
        .status()
        .context("run taskset; install util-linux")?;
    ensure!(bound.success(), "taskset ended with {bound}");
    Ok(())
}
