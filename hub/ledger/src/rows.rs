//! What a ledger holds, as rules see it, whichever database keeps it: owns these shapes; no I/O.

use fieldcast_wire::caps::PROOF;
use fieldcast_wire::{Epoch, Sha256};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Device, epoch and number of a batch.
pub type Key = (String, Epoch, u64);

/// Most numbers beyond the watermark that are read of an epoch.
pub const MAX_BEYOND: usize = 4_096;
/// Most batches that are looked at beyond the one that a syncing device would seal next.
pub const MAX_LATER: usize = 1_000;

/// A record that was refused by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedRecord {
    /// Its number; 0 stands for the whole batch.
    pub seq: u64,
    /// Why.
    pub reason: String,
}

/// Longest stored reason, bytes: an ack with all the refusals it may list still fits into a message.
const MAX_REASON: usize = 256;

impl RejectedRecord {
    /// A refusal whose reason may quote what a device sent: PostgreSQL's text holds no NUL, and an ack has an end.
    #[must_use]
    pub fn new(seq: u64, reason: impl Into<String>) -> Self {
        let mut reason = reason.into().replace('\0', "\u{fffd}");
        if reason.len() > MAX_REASON {
            reason.truncate(reason.floor_char_boundary(MAX_REASON - 3));
            reason.push_str("...");
        }
        Self { seq, reason }
    }
}

/// What an ack proves a batch by: the first bytes of the SHA-256 of its own.
#[must_use]
pub fn proof(digest: &Sha256) -> [u8; PROOF] {
    std::array::from_fn(|i| digest.0[i])
}

/// A batch that is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerRow {
    /// What proves its bytes; none where only its number is known.
    pub proof: Option<[u8; PROOF]>,
    /// What was refused of it.
    pub rejected: Vec<RejectedRecord>,
}

/// Numbers of an epoch that the ledger holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    /// Every batch up to this one.
    pub through: u64,
    /// Those beyond it, ascending; at most [`MAX_BEYOND`] of them.
    pub beyond: Vec<u64>,
    /// Why the epoch is spent, where it is.
    pub spent: Option<String>,
}

/// A committed batch and when it was sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedAt {
    /// Number.
    pub number: u64,
    /// Boot in which it was sealed.
    pub boot_id: String,
    /// When in that boot.
    pub monotonic_ms: i64,
    /// For how long it is committed.
    pub age_ms: i64,
}

/// The newest session of a device that synchronised.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Newest {
    /// Its number.
    pub session: u64,
    /// Boot in which it synchronised first; empty: none did.
    pub boot_id: String,
    /// When in that boot.
    pub monotonic_ms: i64,
    /// For how long that boot is known.
    pub boot_age_ms: i64,
}

/// The name of this database that a device is told: that of the database itself, until the device has proved that the
/// database forgot something.
#[must_use]
pub fn instance_for(database: &[u8], restored: Option<Uuid>) -> Vec<u8> {
    match restored {
        None => database.to_vec(),
        Some(nonce) => Sha256::of(&[database, nonce.as_bytes()].concat()).0[..16].to_vec(),
    }
}
