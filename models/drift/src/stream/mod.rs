//! Detectors fed one value at a time: owns their states (all serialisable), never where the values come from.
//!
//! Rules and defaults are River 0.23's, but for [`ErrorGlr`] and [`Cusum`], which are ours. Every `update` tells whether
//! this value raised an alarm, and ignores non-finite values. After an alarm the next update starts anew, so that state can
//! still be read in between ([`Cusum`] alone goes on, and is reset by hand).

mod adwin;
mod binary;
mod cusum;
mod glr;
mod hddm;
mod kswin;
mod page_hinkley;

pub use adwin::Adwin;
pub use binary::{Ddm, Eddm};
pub use cusum::{Cusum, average_run_length, threshold_for};
pub use glr::{ErrorGlr, glr_run_length};
pub use hddm::{HddmA, HddmW};
pub use kswin::Kswin;
pub use page_hinkley::PageHinkley;
