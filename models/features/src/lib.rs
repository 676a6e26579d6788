//! Time grid, resampling, windows and calendar: the same code on device and hub, pure, without I/O or clock.

pub mod calendar;
pub mod grid;
pub mod quality;
pub mod resample;
pub mod row;
pub mod spec;
pub mod time_text;
pub mod window;

pub use calendar::Calendar;
pub use grid::Millis;
pub use quality::Quality;
pub use resample::{Resampler, Sample};
pub use row::FeatureRow;
pub use spec::{ForecasterSpec, Preset, Selector, SpecError};
pub use window::{Window, WindowBuilder, WindowError};

/// Version of everything in this crate that changes the numbers of a feature row or window.
/// A bundle names the one it was trained with; a runtime with another refuses it.
pub const PIPELINE_VERSION: u32 = 1;
