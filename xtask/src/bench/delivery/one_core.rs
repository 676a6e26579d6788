//! The figure of throughput: readings a second from devices to acknowledgements, the hub with its broker on one core.

use anyhow::Result;

use super::hub::{Hub, number, sound};
use super::{Bench, line};

/// Readings a second that are asked for.
const GOAL: f64 = 60_000.0;

/// Fifty devices that always have more than is taken: each waits with new readings while four of its batches do.
pub(super) fn measure(bench: &Bench) -> Result<()> {
    let hub = Hub::start(bench, "one-core")?;
    hub.bind(0)?;
    let before = hub.cpu_s()?;
    let duration = format!("{}s", bench.seconds);
    let told = hub.fleet(&[
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
        "--progress=10s",
        "--verify",
    ])?;
    sound(&told)?;
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
    let cpu = hub.cpu_s()? - before;
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
