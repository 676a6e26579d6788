//! The device's only queue: a SQLite file; never speaks to the network.
//!
//! A [`Commit`] is durable when [`BufferHandle::commit`] returns. Records get gapless numbers within the
//! file's epoch, are sealed into immutable batches and leave only when the hub has committed them, or
//! under a gap record. The rules are numbered in `docs/protocol.md`.

mod ack;
mod ballast;
mod counters;
#[cfg(test)]
mod disk_tests;
mod error;
mod handle;
#[cfg(test)]
mod layout_tests;
mod log_index;
#[cfg(test)]
mod loss_tests;
mod open;
mod policy;
mod rewind;
mod rows;
mod salvage;
mod schema;
mod seal;
mod stamp;
mod store;
#[cfg(test)]
mod tests;
mod types;

pub use error::BufferError;
pub use handle::{Buffer, BufferHandle};
pub use store::Store;
pub use types::{AckOutcome, BatchKey, Commit, Depth, DropPolicy, Limits, SealedInfo, SyncHead};

/// SQLite knows signed numbers only; ours never come near the limit.
fn number(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn unsigned(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}
