//! Damaged buffer files: owns which bytes of a killed agent's buffer are spoilt; what was unsent then may go under gaps.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use anyhow::Result;

use super::bed::Bed;
use super::random::Random;

/// Spoils the buffer of a device and waits until the rest of it and what came later are where they belong.
pub(crate) fn trial(bed: &mut Bed, device: usize, random: &mut Random) -> Result<()> {
    bed.open_window(device)?;
    bed.devices[device].kill()?;
    let file = bed.devices[device].data().join("buffer.db");
    let size = std::fs::metadata(&file)?.len();
    let open = OpenOptions::new().write(true).open(&file)?;
    // Not the log of SQLite beside it: its end is where its checksums end, and what was cut off there leaves no trace.
    let how = if random.below(3) == 0 {
        let size = random.between(size / 3, size);
        open.set_len(size)?;
        format!("cut to {size} bytes")
    } else {
        let blocks = random.between(1, 6);
        for _ in 0..blocks {
            let bytes: Vec<u8> = (0..random.between(1, 300))
                .map(|_| (random.next() & 0xff) as u8)
                .collect();
            let at = random.below(size.saturating_sub(bytes.len() as u64).max(1));
            open.write_all_at(&bytes, at)?;
        }
        format!("spoilt in {blocks} places")
    };
    open.sync_all()?;
    bed.tell(&format!("the buffer of d{device} is {how}"));
    bed.devices[device].start()?;
    bed.close_window(device);
    bed.wait_proven(Duration::from_secs(120))
}
