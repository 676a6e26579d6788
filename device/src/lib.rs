//! What a device decides: when to send what, which model it runs, which commands it takes, what an answer says of its clock. Pure; never a disk, socket or clock.
//!
//! The agent carries it out on a device, the hub's simulator for thousands of made ones in one process.

pub mod acks;
mod aside;
pub mod batches;
pub mod clock;
pub mod commands;
pub mod death;
mod flights;
mod limits;
pub mod pace;
pub mod update;
pub mod uplink;
mod window;
pub mod words;
