//! Orders, bundles and the way back: decides which model runs; never forecasts itself.

pub mod bundles;
pub mod commands;
pub mod download;
pub mod driver;
pub mod engine_check;
pub mod floor;
mod waiting;
pub mod witness;

pub use fieldcast_device::{pace, update as machine, words};

pub use machine::{Event, Installed, Machine, Output, Phase, Target};
