//! Figures of rollouts: real hub, worker and PostgreSQL processes and a made fleet; owns which figures there are.

mod agents;
mod back;
mod bad;
mod bed;
mod cycles;
mod forge;
mod half;
mod kills;
mod whole;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

pub use cycles::Years;
pub use kills::{Kills, Report, kills};

use crate::scenario::Mosquitto;
use bed::Bed;

/// What a figure is measured with.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Devices of the fleet.
    pub devices: u32,
    /// Over a Mosquitto in place of the hub's own broker.
    pub mosquitto: bool,
    /// How long a fleet that nobody rolls anything out to is watched.
    pub idle: Duration,
    /// Say which statements were sent most.
    pub talk: bool,
}

/// One line: name, value, unit, goal and aim.
fn line(name: &str, value: f64, unit: &str, of: &str) {
    println!("{name:34}{value:>10.2} {unit:8} {of}");
}

/// Time, processor time and queries of a whole rollout.
///
/// # Errors
/// The testbed cannot be had, or the rollout does not succeed.
pub fn whole(scale: Scale) -> Result<()> {
    let broker = |dir: &Path| {
        let program = Mosquitto::program()
            .context("mosquitto is not installed; install it (apt-get install mosquitto)")?;
        Mosquitto::make(program, &dir.join("mosquitto"))
    };
    kept_with(
        |dir| scale.mosquitto.then(|| broker(dir)).transpose(),
        |bed| whole::measure(bed, scale),
    )
}

/// How long canaries of a bad model take to be back.
///
/// # Errors
/// The testbed cannot be had, or a canary does not come back.
pub fn back(times: u32) -> Result<()> {
    kept(|bed| back::measure(bed, times))
}

/// How many bad models of each kind come past the canaries, which are real agents; how many rollouts that took.
///
/// # Errors
/// The testbed cannot be had, or a bad model comes past them, or goes back for another reason than its own.
pub fn bad(times: u32) -> Result<u32> {
    kept(|bed| bad::measure(bed, times))
}

/// Cuts a device's power while it fetches a bundle, until it runs the model all the same.
///
/// # Errors
/// The testbed cannot be had, or the device asks again for what it had.
pub fn half_a_bundle() -> Result<()> {
    kept(half::prove)
}

/// How many times the loop closes by itself over made years, and what the forecasts were worth.
///
/// # Errors
/// The testbed cannot be had, or a process ended by itself.
pub fn cycles(years: Years) -> Result<()> {
    kept(|bed| cycles::measure(bed, years))
}

fn kept<T>(run: impl FnOnce(&mut Bed) -> Result<T>) -> Result<T> {
    kept_with(|_| Ok(None), run)
}

/// Runs on a testbed of its own, with a broker of its own or the hub's; what its processes wrote stays where it fails.
fn kept_with<T>(
    broker: impl FnOnce(&Path) -> Result<Option<Mosquitto>>,
    run: impl FnOnce(&mut Bed) -> Result<T>,
) -> Result<T> {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::Builder::new()
        .prefix("fieldcast-rollouts-")
        .tempdir()?;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
    let done = broker(dir.path())
        .and_then(|broker| Bed::start(dir.path(), broker))
        .and_then(|mut bed| run(&mut bed));
    done.or_else(|error| {
        let kept = dir.keep();
        Err(error).with_context(|| format!("logs and database are kept in {}", kept.display()))
    })
}
