//! From readings to rows, forecasts, residuals and drift: pure but for `engine`; never reads a clock.

pub mod drift;
pub mod engine;
mod engine_models;
pub mod forecaster;
pub mod inputs;
pub mod intervals;
mod jumps;
pub mod model;
pub mod naive_bound;
pub mod paired;
pub mod pending;
pub mod residuals;
pub mod rows;
pub mod sensors;
pub mod sketches;
mod true_time;

pub use forecaster::{Forecaster, Note, Step};
pub use model::{Model, Slot};
