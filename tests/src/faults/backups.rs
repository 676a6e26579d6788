//! A hub whose database is restored from an old backup: owns the backup and the restore, told or not told to the hub.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::bed::Bed;

const PATIENCE: Duration = Duration::from_secs(180);

/// What was committed after the backup is gone from the database; devices hold it in their tails and send it again.
pub(crate) fn trial(bed: &mut Bed, told: bool) -> Result<()> {
    bed.postgres.back_up()?;
    for device in 0..bed.devices.len() {
        bed.let_flow(device, 2)?;
    }
    // Acknowledged after the backup was taken.
    bed.wait_proven(PATIENCE)?;
    let (rows, proven) = (bed.rows()?, bed.accepted());
    bed.hub.kill()?;
    bed.postgres.restore()?;
    bed.oracle.forget();
    bed.postgres.start()?;
    bed.postgres.wait_ready()?;
    let left = bed.rows()?;
    ensure!(left < rows, "the backup was not old: {left} of {rows} rows");
    let how = if told { "told" } else { "not told" };
    bed.tell(&format!(
        "the database lost {} of {proven} readings, and the hub is {how}",
        rows - left
    ));
    let before = bed.alarms("%", "hub_restored")?;
    if told {
        bed.hub.cli(&["migrate", "--restored"])?;
    }
    bed.hub.start()?;
    bed.hub.wait_ready()?;
    bed.wait_proven(PATIENCE)?;
    let alarms = bed.alarms("%", "hub_restored")?;
    ensure!(
        told || alarms > before,
        "nobody told the hub of its restore, and it raised no alarm `hub_restored`"
    );
    Ok(())
}
