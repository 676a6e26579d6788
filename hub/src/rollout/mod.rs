//! Rollouts: owns how a model version reaches devices and how it comes back, never how it was made.

pub mod driver;
pub mod machine;
pub mod plan;
pub mod state;

#[cfg(test)]
mod machine_tests;
