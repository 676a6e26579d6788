//! Fault injection with an oracle: real processes, faults by a seeded plan, and what was handed over against what is stored.
//!
//! A source hands readings to an agent's port, which answers success only after the commit; then the oracle notes them.
//! Each reading tells by its value, time and sensor which one it is. At the end each noted reading must have exactly
//! one row or lie under a gap record, and each row must be a reading that was offered.

mod backups;
mod bed;
mod clocks;
mod clones;
mod device;
mod disks;
mod files;
pub(crate) mod hub;
mod images;
mod kills;
mod log;
mod network;
mod oracle;
mod plan;
pub(crate) mod postgres;
mod proxy;
pub(crate) mod random;
mod reading;
mod run;

pub use oracle::Verdict;
pub use plan::Plan;
pub use run::{Report, run};
