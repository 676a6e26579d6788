//! The figures of a large fleet: memory of hub and broker, the embedded one or Mosquitto, and how long a reading waits for its acknowledgement.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::bed::Bed;
use super::usage::memory_mb;
use super::{Plan, line};
use crate::scenario::Broker;

/// Memory in MB and p99 in milliseconds that are asked for, of 5,000 devices.
const EMBEDDED: (f64, &str) = (300.0, "what 5,000 devices may take (300; 10,000 in 450)");
const MOSQUITTO: (f64, &str) = (
    150.0,
    "what 5,000 devices may take of both (150; 10,000 in 200)",
);
const P99: f64 = 2_000.0;

/// One batch each 10 s from every device, ten readings in it.
pub(super) fn measure(plan: &Plan) -> Result<()> {
    over(&Bed::make()?, "fleet", EMBEDDED, plan)
}

/// The same over Mosquitto; said aloud where it is not installed.
pub(super) fn over_mosquitto(plan: &Plan) -> Result<()> {
    match Broker::mosquitto()? {
        Some(broker) => over(&Bed::with(broker)?, "fleet_mosquitto", MOSQUITTO, plan),
        None => Ok(()),
    }
}

fn over(bed: &Bed, figure: &str, goal: (f64, &str), plan: &Plan) -> Result<()> {
    let (devices, duration) = (plan.devices.to_string(), format!("{}s", plan.seconds));
    let told = fleet(
        bed,
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
    let name = |what: &str| format!("{figure}_{devices}_{what}");
    let hub = memory_mb(bed.hub()?.pid(), "VmHWM")?;
    let broker = bed.broker_pid().map(|pid| memory_mb(pid, "VmHWM"));
    let memory = hub + broker.transpose()?.unwrap_or(0.0);
    line(&name("memory"), memory, "MB", memory / goal.0, goal.1);
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
