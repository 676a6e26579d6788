//! The device's program: sources, buffer, forecasts, drift and updates; it trains nothing and knows no PostgreSQL.

pub mod app;
pub mod buffer;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
mod data_dir;
pub mod http;
pub mod identity;
pub mod notify;
pub mod pipeline;
pub mod quality;
pub mod source;
pub mod status;
pub mod update;
pub mod uplink;

/// Version of this agent, as reported to the hub.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
