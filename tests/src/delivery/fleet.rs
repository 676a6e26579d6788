//! The figure of a large fleet: memory of hub and embedded broker, and how long a reading waits for its acknowledgement.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::bed::Bed;
use super::usage::memory_mb;
use super::{Plan, line};

/// Memory in MB and p99 in milliseconds that are asked for, of 5,000 devices.
const MEMORY: f64 = 300.0;
const P99: f64 = 2_000.0;

/// One batch each 10 s from every device, ten readings in it.
pub(super) fn measure(plan: &Plan) -> Result<()> {
    let bed = Bed::make()?;
    let (devices, duration) = (plan.devices.to_string(), format!("{}s", plan.seconds));
    let told = fleet(
        &bed,
        &[
            "--devices",
            &devices,
            "--rate=1",
            "--sensors=5",
            "--batch-every=10s",
            "--duration",
            &duration,
            "--drain=120s",
        ],
    )?;
    let name = |what: &str| format!("fleet_{devices}_{what}");
    let memory = memory_mb(bed.hub()?.pid(), "VmHWM")?;
    line(
        &name("memory"),
        memory,
        "MB",
        memory / MEMORY,
        "what 5,000 devices may take (300; 10,000 in 450)",
    );
    for (what, goal) in [
        ("p50_ms", ""),
        ("p99_ms", " (2000; 1000)"),
        ("longest_ms", ""),
    ] {
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

/// Lets a made fleet speak to the hub; what it says at its end.
///
/// # Errors
/// A reading was lost or twice: then no figure counts.
pub(super) fn fleet(bed: &Bed, options: &[&str]) -> Result<Value> {
    let mut args = vec!["simulate", "fleet", "--progress=10s", "--verify"];
    args.extend(options);
    let told = bed.hub()?.cli_json(&args)?;
    for wrong in ["lost", "twice", "other"] {
        let count = number(&told, "verify", wrong)?;
        ensure!(count == 0.0, "{count} readings {wrong}: {told}");
    }
    Ok(told)
}

/// A number of what a fleet says.
pub(super) fn number(told: &Value, part: &str, name: &str) -> Result<f64> {
    told[part][name]
        .as_f64()
        .with_context(|| format!("the fleet tells no `{part}.{name}`: {told}"))
}
