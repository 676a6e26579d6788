//! Damaged buffer files: owns which bytes of a killed agent's buffer are spoilt; what was unsent then may go under gaps.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::bed::Bed;
use super::random::Random;

/// Bytes of the log that are not in the file yet, as its index tells; behind them is what was there before.
fn live(data: &Path) -> Option<u64> {
    let index = std::fs::read(data.join("buffer.db-shm")).unwrap_or_default();
    let number = |at: usize| {
        let bytes = index.get(at..at + 4).and_then(|b| b.try_into().ok());
        u64::from(bytes.map_or(0, u32::from_ne_bytes))
    };
    let (frames, backfilled) = (number(16), number(96));
    (frames > backfilled).then(|| 32 + frames * (24 + 4_096))
}

/// Spoils the buffer of a device and waits until the rest of it and what came later are where they belong.
pub(crate) fn trial(bed: &mut Bed, device: usize, random: &mut Random) -> Result<()> {
    bed.open_window(device)?;
    bed.devices[device].kill()?;
    // SQLite's log beside the file is part of it.
    let (file, log) = ("buffer.db", "buffer.db-wal");
    let data = bed.devices[device].data();
    let (name, size) = match live(&data) {
        Some(live) if random.below(2) == 0 => (log, live),
        _ => (file, std::fs::metadata(data.join(file))?.len()),
    };
    let file = data.join(name);
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
    bed.tell(&format!("{name} of d{device} is {how}"));
    bed.devices[device].start()?;
    bed.close_window(device);
    bed.wait_proven(Duration::from_secs(120))
}
