//! Time grid, resampling, windows and calendar: the same code on device and hub, pure, without I/O or clock.

pub mod grid;
pub mod spec;

pub use grid::Millis;
pub use spec::{ForecasterSpec, Preset, Selector, SpecError};

/// Version of everything in this crate that changes the numbers of a feature row or window.
/// A bundle names the one it was trained with; a runtime with another refuses it.
pub const PIPELINE_VERSION: u32 = 1;
