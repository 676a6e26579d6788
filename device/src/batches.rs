//! Batches as sending sees them, whichever buffer keeps them: owns these shapes; no I/O.

use fieldcast_wire::{Epoch, SCHEMA, pb};

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
    /// Every batch up to this one was acknowledged.
    pub acked_through: u64,
    /// The batch acknowledged last, which a restored hub has forgotten first; 0: none since its instance is in force.
    pub last_acked: u64,
    /// Batches acknowledged beyond `acked_through`, where a dropped one ended that; at most as many ranges as an ack may list.
    pub acked: Vec<pb::BatchRange>,
    /// Hub instance that acknowledged; empty: none yet.
    pub hub_instance: Vec<u8>,
    /// Bytes waiting in the whole buffer.
    pub buffered_bytes: u64,
    /// The clocks now; its monotonic time is no batch's, so that an ack tells a sync from a batch.
    pub clock: pb::ClockStamp,
}

impl SyncHead {
    /// The message that tells it, on the connection of this session.
    #[must_use]
    pub fn message(self, session: u64) -> pb::Sync {
        pb::Sync {
            schema: SCHEMA,
            epoch: self.epoch.to_vec(),
            session,
            oldest_batch: self.oldest_batch,
            next_batch: self.next_batch,
            next_seq: self.next_seq,
            acked_through: self.acked_through,
            last_acked: self.last_acked,
            acked: self.acked,
            hub_instance: self.hub_instance,
            clock: Some(self.clock),
            buffered_bytes: self.buffered_bytes,
        }
    }
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
