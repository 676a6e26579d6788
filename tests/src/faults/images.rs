//! A device restored from an old image of its disk: owns taking the image, going on, and putting it back.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::bed::Bed;
use super::plan::Link;
use super::proxy::Mode;

const PATIENCE: Duration = Duration::from_secs(150);

/// Copies a folder and all below it.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy(&source, &target)?;
        } else if entry.file_name() != "filler" {
            std::fs::copy(&source, &target)
                .with_context(|| format!("copy {}", source.display()))?;
        }
    }
    Ok(())
}

/// Empties a folder, which may be a mounted disk, and fills it from another.
fn replace(folder: &Path, by: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            std::fs::remove_dir_all(&path)?;
        } else {
            std::fs::remove_file(&path)?;
        }
    }
    copy(by, folder)
}

/// The image holds sealed batches that were not sent when it was taken. What was accepted after it is sent before it
/// comes back: what only the replaced disk held, no protocol can save.
pub(crate) fn trial(bed: &mut Bed, device: usize) -> Result<()> {
    bed.link(Link::Device(device), Mode::Cut);
    bed.let_flow(device, 4)?;
    bed.devices[device].source.pause()?;
    bed.devices[device].stop()?;
    let (data, image) = (
        bed.devices[device].data(),
        bed.dir.join(format!("image-{device}")),
    );
    copy(&data, &image)?;
    bed.link(Link::Device(device), Mode::Good);
    bed.devices[device].start()?;
    bed.devices[device].source.resume();
    bed.let_flow(device, 4)?;
    bed.devices[device].source.pause()?;
    bed.wait_proven(PATIENCE)?;
    bed.devices[device].kill()?;
    replace(&data, &image)?;
    std::fs::remove_dir_all(&image)?;
    bed.tell(&format!("d{device} goes on from an old image of its disk"));
    bed.devices[device].start()?;
    bed.devices[device].source.resume();
    bed.let_flow(device, 2)?;
    bed.wait_proven(PATIENCE)
}
