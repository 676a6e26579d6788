//! Rollouts: owns how a model version reaches devices and how it comes back, never how it was made.

pub mod devices;
pub mod driver;
mod evidence;
mod hearing;
pub mod judge;
pub mod machine;
pub mod numbers;
pub(crate) mod orders;
pub mod overview;
pub mod plan;
pub mod policy;
pub mod request;
pub mod rows;
pub mod state;

#[cfg(test)]
mod machine_properties;
#[cfg(test)]
mod machine_stage_tests;
#[cfg(test)]
mod machine_tests;
