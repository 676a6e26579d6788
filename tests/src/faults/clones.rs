//! Two devices with one identity: owns the second one, a copy of the first's disk; both get readings of their own.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::bed::Bed;
use super::images::copy;

const PATIENCE: Duration = Duration::from_secs(180);

/// Both run and read at the same time; the hub must say so, and lose nothing of either.
pub(crate) fn trial(bed: &mut Bed, device: usize) -> Result<()> {
    bed.devices[device].source.pause()?;
    bed.wait_proven(PATIENCE)?;
    bed.devices[device].stop()?;
    let name = bed.devices[device].name.clone();
    let home = bed.dir.join(format!("{name}-clone"));
    copy(&bed.devices[device].dir, &home)?;
    let before = bed.alarms(&name, "clone")?;
    let mut twin = bed.devices[device].twin(&home)?;
    bed.devices[device].start()?;
    twin.start()?;
    bed.devices[device].source.resume();
    twin.source.resume();
    bed.tell(&format!("{name} runs twice"));
    bed.let_flow(device, 6)?;
    bed.devices[device].source.pause()?;
    twin.source.pause()?;
    bed.wait_proven(PATIENCE)?;
    let alarms = bed.alarms(&name, "clone")?;
    ensure!(
        alarms > before,
        "two instances of {name} ran and no alarm `clone` was raised"
    );
    twin.kill()?;
    std::fs::remove_dir_all(&home)?;
    bed.devices[device].source.resume();
    Ok(())
}
