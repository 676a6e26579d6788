//! The testbed: real PostgreSQL, brokers, hub and agent processes for the end-to-end tests.

pub mod faults;
pub mod rollouts;
pub mod scenario;
