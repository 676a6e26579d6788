//! What is asked of the buffer and what it answers: owns these shapes; no I/O.

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use fieldcast_device::batches::{AckOutcome, BatchKey, SealedInfo, SyncHead};
use fieldcast_wire::{Epoch, RecordBody};

/// One durable step: everything in it is kept, or nothing.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// Records for the hub, in order.
    pub records: Vec<RecordBody>,
    /// Also keep the readings among them in the window history.
    pub recent: bool,
    /// Key-value pairs written in the same transaction: cursors, pipeline state, model pointers.
    pub state: Vec<(String, Vec<u8>)>,
}

/// What a full buffer gives up, always whole sealed batches and always with a gap record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DropPolicy {
    /// The oldest batches.
    #[default]
    Oldest,
    /// The newest batches.
    Newest,
}

/// Limits of a buffer.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Folder of the buffer's files.
    pub dir: PathBuf,
    /// Largest size of what the file holds, bytes.
    pub max_bytes: u64,
    /// Free disk left to others, bytes.
    pub reserve_bytes: u64,
    /// What is given up first.
    pub policy: DropPolicy,
    /// Acknowledged batches kept for a hub restored from a backup, bytes.
    pub tail_bytes: u64,
    /// And for how long, data of the wall clock, milliseconds.
    pub tail_age_ms: i64,
    /// Unsealed records become a batch after this much process time.
    pub seal_after: Duration,
    /// The same while there is no connection: nobody waits for a batch, and large ones take less room.
    pub seal_after_unlinked: Duration,
    /// Records that make a batch at once.
    pub seal_records: u64,
    /// Readings of each sensor kept for the windows.
    pub recent_rows: u64,
    /// Age of readings kept for the windows against the newest one of the sensor, milliseconds.
    pub recent_age_ms: i64,
}

impl Limits {
    /// Defaults for a folder.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            max_bytes: 256 << 20,
            reserve_bytes: 64 << 20,
            policy: DropPolicy::Oldest,
            tail_bytes: 32 << 20,
            tail_age_ms: 7 * 86_400_000,
            seal_after: Duration::from_secs(1),
            seal_after_unlinked: Duration::from_secs(300),
            seal_records: 2_000,
            recent_rows: 20_000,
            recent_age_ms: 120 * 86_400_000,
        }
    }
}

/// What waits in the buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Depth {
    /// Epoch that new records get.
    pub epoch: Epoch,
    /// Records not yet acknowledged, unsealed ones included.
    pub records: u64,
    /// Sealed batches not yet acknowledged.
    pub batches: u64,
    /// Bytes of those batches.
    pub bytes: u64,
    /// Bytes the file holds in all.
    pub file_bytes: u64,
    /// Wall time at which the oldest of those batches was sealed.
    pub oldest_ms: Option<i64>,
    /// And the newest.
    pub newest_ms: Option<i64>,
    /// Records given up since the file was made; each is under a gap record.
    pub dropped: u64,
    /// Records the hub refused by themselves.
    pub rejected: u64,
}
