//! A file of nothing that is given up when the disk is full: owns its size and when it is there; never what is dropped.
//!
//! SQLite needs room to make room: to drop a batch it first writes to its log. Where another program has taken the last
//! byte, the ballast is that room.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

use super::types::Limits;

/// Least and most bytes of it: enough for the log of one step of making room.
const BYTES: (u64, u64) = (512 << 10, 4 << 20);
/// Its part of the cap, between these bounds.
const SHARE: u64 = 64;

/// The ballast of one buffer.
#[derive(Debug)]
pub(super) struct Ballast {
    file: PathBuf,
    bytes: u64,
    held: bool,
}

impl Ballast {
    pub(super) fn new(limits: &Limits) -> Self {
        let file = limits.dir.join("ballast");
        let bytes = (limits.max_bytes / SHARE).clamp(BYTES.0, BYTES.1);
        let held = std::fs::metadata(&file).is_ok_and(|m| m.len() == bytes);
        Self { file, bytes, held }
    }

    /// Gives its bytes back to the disk; answers whether it had any.
    pub(super) fn release(&mut self) -> bool {
        let gone = std::fs::remove_file(&self.file).is_ok();
        if gone {
            tracing::warn!("the disk is full: the buffer's ballast is given up to make room");
        }
        self.held = false;
        gone
    }

    /// Whether the disk has its bytes to spare.
    pub(super) fn is_affordable(&self, free: Option<u64>) -> bool {
        self.held || free.is_none_or(|free| free >= 2 * self.bytes)
    }

    /// Takes its bytes again where the disk has them to spare.
    pub(super) fn restore(&mut self, free: u64, reserve: u64) {
        if self.held || free < reserve.saturating_add(2 * self.bytes) {
            return;
        }
        match self.write() {
            Ok(()) => self.held = true,
            Err(e) => {
                tracing::debug!("no ballast for the buffer: {e}");
                let _ = std::fs::remove_file(&self.file);
            }
        }
    }

    /// Written out, since a file system may give room without having it.
    fn write(&self) -> std::io::Result<()> {
        let mut file = File::create(&self.file)?;
        let piece = vec![0; 64 << 10];
        let mut left = self.bytes;
        while left > 0 {
            let n = left.min(piece.len() as u64);
            file.write_all(&piece[..usize::try_from(n).unwrap_or(0)])?;
            left -= n;
        }
        file.sync_all()
    }
}
