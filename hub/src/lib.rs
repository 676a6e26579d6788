//! The hub as a library: takes the fleet's records into PostgreSQL, trains, judges and rolls out models.

pub mod app;
pub mod broker;
pub mod check;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod downlink;
pub mod drift;
pub mod events;
pub mod experiment;
pub mod features;
pub mod import;
pub mod ingest;
pub mod jobs;
pub mod judge;
pub mod keys;
pub mod leader;
pub mod mqtt;
pub mod page;
pub mod pg;
pub mod registry;
pub mod rest;
pub mod retention;
pub mod rollout;
pub mod signing;
pub mod simulate;
pub mod sockets;
pub mod tls;
pub mod training;
pub mod triggers;

/// Version of the program, with the commit it was built from where that is known.
pub const CODE_VERSION: &str = env!("FIELDCAST_CODE_VERSION");
