//! The figure of a large fleet: memory of hub and embedded broker, and how long a reading waits for its acknowledgement.

use anyhow::Result;

use super::hub::{Hub, number, sound};
use super::{Bench, line};

/// Memory in MB and p99 in milliseconds that are asked for, of 5,000 devices.
const MEMORY: f64 = 300.0;
const P99: f64 = 2_000.0;

/// One batch each 10 s from every device, ten readings in it.
pub(super) fn measure(bench: &Bench) -> Result<()> {
    let hub = Hub::start(bench, "fleet")?;
    let (devices, duration) = (bench.devices.to_string(), format!("{}s", bench.seconds));
    let told = hub.fleet(&[
        "--devices",
        &devices,
        "--rate=1",
        "--sensors=5",
        "--batch-every=10s",
        "--duration",
        &duration,
        "--drain=120s",
        "--progress=10s",
        "--verify",
    ])?;
    sound(&told)?;
    let name = |what: &str| format!("fleet_{devices}_{what}");
    let memory = hub.peak_mb()?;
    line(
        &name("memory"),
        memory,
        "MB",
        memory / MEMORY,
        "what 5,000 devices may take (300; 10,000 in 450)",
    );
    for (what, goal) in [("p50_ms", ""), ("p99_ms", " (2000; 1000)")] {
        let ms = number(&told, "fleet", what)?;
        let of = format!("the longest wait asked for{goal}");
        line(&name(&what.replace("_ms", "_ack")), ms, "ms", ms / P99, &of);
    }
    let again = number(&told, "fleet", "resent")?;
    let sent = number(&told, "fleet", "published")?;
    line(
        &name("resent"),
        again,
        "batches",
        again / sent,
        "all that were sent",
    );
    Ok(())
}
