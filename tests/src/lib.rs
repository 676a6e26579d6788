//! The testbed: real PostgreSQL, brokers, hub and agent processes for the end-to-end tests, the soak and the figures of delivery.

pub mod delivery;
pub mod faults;
pub mod rollouts;
pub mod scenario;
