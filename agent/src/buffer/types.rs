//! What is asked of the buffer and what it answers: owns these shapes; no I/O.

use std::path::{Path, PathBuf};
use std::time::Duration;

use fieldcast_wire::{Epoch, RecordBody, pb};

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
            seal_records: 2_000,
            recent_rows: 20_000,
            recent_age_ms: 120 * 86_400_000,
        }
    }
}

/// A batch's identity within the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BatchKey {
    /// Epoch.
    pub epoch: Epoch,
    /// Number within it.
    pub number: u64,
}

/// A sealed batch that the hub has not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedInfo {
    /// Its identity.
    pub key: BatchKey,
    /// Place in the order of sending.
    pub order: i64,
    /// Encoded size.
    pub bytes: u64,
    /// First record.
    pub first_seq: u64,
    /// Last record.
    pub last_seq: u64,
    /// Its epoch was declared spent: believe only an ack that answers exactly this batch, one at a time.
    pub contested: bool,
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

/// What the device tells the hub about one epoch at sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncHead {
    /// Epoch.
    pub epoch: Epoch,
    /// Oldest batch still held; 0: none.
    pub oldest_batch: u64,
    /// Number of the next batch to be sealed.
    pub next_batch: u64,
    /// Number of the next record.
    pub next_seq: u64,
    /// Every batch up to this one was acknowledged; a hub that holds less proves by it that it was restored.
    pub acked_through: u64,
    /// The batch acknowledged last, which a restored hub has forgotten first; 0: none since its instance is in force.
    pub last_acked: u64,
    /// Hub instance that acknowledged; empty: none yet.
    pub hub_instance: Vec<u8>,
    /// Bytes waiting in the whole buffer.
    pub buffered_bytes: u64,
    /// The clocks now; its monotonic time is no batch's, so that an ack tells a sync from a batch.
    pub clock: pb::ClockStamp,
}

/// What an acknowledgement did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AckOutcome {
    /// Batches that need not be sent again.
    pub done: Vec<BatchKey>,
    /// The hub forgot (restored from a backup): acknowledged batches wait again.
    pub rewound: bool,
    /// The hub instance in force is another one than before.
    pub new_hub: bool,
    /// From an instance that may be one from before a restore: nothing was applied, the hub must be asked.
    pub stranger: bool,
    /// It tells of less than was acknowledged: a late one, or the hub was restored and does not know it.
    pub behind: bool,
    /// Epochs with acknowledged batches of which the hub in force has not spoken yet.
    pub unanswered: u64,
    /// A new epoch began; batches of the one before are contested.
    pub new_epoch: Option<Epoch>,
    /// Records that got new numbers because the hub holds another batch under theirs.
    pub renumbered: u64,
    /// Records the hub refused, with its reason.
    pub rejected: Vec<(u64, String)>,
    /// Batches the hub refused as a whole: number, how many records, and its reason.
    pub refused: Vec<(u64, u64, String)>,
    /// Monotonic time that the ack echoes, of this boot: what it answers was stamped then.
    pub echo: Option<i64>,
}
