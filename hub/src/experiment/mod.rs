//! Experiments: owns two versions on randomised devices for a stated time and the report on them, never a title.
//!
//! Where forecasts change what devices do, both versions cannot be asked about the same windows: the outcome has to be compared
//! between devices. `docs/experiments.md` has the whole of it.

pub mod assign;
pub mod driver;
pub mod interim;
pub mod machine;
pub mod report;
pub mod request;
mod rows;

#[cfg(test)]
mod machine_tests;
#[cfg(test)]
mod report_tests;
