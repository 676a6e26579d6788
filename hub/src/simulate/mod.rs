//! A fleet of made devices in one process: owns how they speak and behave, never how the hub takes it.
//!
//! Every device runs the agent's own machines (`fieldcast_device`) over the real wire code: its buffer is in memory and
//! its readings, forecasts and misbehaviour are made to order. [`fleet::run`] starts them, [`verify`] asks the database.

mod buffer;
#[cfg(test)]
mod buffer_tests;
mod device;
pub mod fleet;
mod link;
mod model;
pub mod plan;
mod shelf;
pub mod tally;
pub mod verify;
