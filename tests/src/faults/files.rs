//! Damaged buffer files: owns which bytes of a killed agent's buffer are spoilt; what was unsent then may go under gaps.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use anyhow::Result;

use super::bed::Bed;
use super::random::Random;

/// A log of fewer bytes holds next to nothing.
const LOG: u64 = 16 << 10;

/// Spoils the buffer of a device and waits until the rest of it and what came later are where they belong.
pub(crate) fn trial(bed: &mut Bed, device: usize, random: &mut Random) -> Result<()> {
    bed.open_window(device)?;
    bed.devices[device].kill()?;
    // SQLite's log beside the file is part of it; it may be empty.
    let log = bed.devices[device].data().join("buffer.db-wal");
    let of_log = random.below(2) == 0 && std::fs::metadata(&log).is_ok_and(|log| log.len() > LOG);
    let (file, name) = match of_log {
        true => (log, "log of the buffer"),
        false => (bed.devices[device].data().join("buffer.db"), "buffer"),
    };
    let size = std::fs::metadata(&file)?.len();
    let open = OpenOptions::new().write(true).open(&file)?;
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
    bed.tell(&format!("the {name} of d{device} is {how}"));
    bed.devices[device].start()?;
    bed.close_window(device);
    bed.wait_proven(Duration::from_secs(120))
}
