//! What the hub answers to batches and syncs, decided from what its ledger holds. Pure; never a database, socket or clock.
//!
//! [`machine`] is the hub's half of `docs/protocol.md` as `fieldcast-device` is the device's. The hub carries it out on
//! PostgreSQL; the simulations of the protocol carry the same code out on [`memory`], the ledger without a database.

pub mod machine;
pub mod memory;
pub mod rows;
pub mod rules;
