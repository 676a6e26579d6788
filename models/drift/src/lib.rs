//! Statistics and detectors of drift, batch and streaming: pure, without I/O or clock; never decides about retraining.

pub mod anderson;
pub mod arms;
pub mod bins;
pub mod cramer;
pub mod days;
pub mod estimate;
pub mod fleet;
pub mod inputs;
pub mod kolmogorov;
pub mod ks;
pub mod monitor;
pub mod onset;
pub mod paired;
pub mod preset;
pub mod reference;
pub mod run;
pub mod sensor;
pub mod sketch;
pub mod special;
pub mod stream;
pub mod two_sample;
pub mod window;

pub use monitor::{DriftSignal, ErrorCalibration, ErrorMonitor};
pub use reference::{ChannelReference, ReferenceStats};
pub use sensor::{SensorLimits, SensorMonitor};

/// A test's statistic and its p-value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TestResult {
    /// The statistic.
    pub statistic: f64,
    /// The p-value.
    pub p: f64,
}

/// Why a statistic has no value.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StatError {
    /// A sample holds no finite value.
    #[error("compute {statistic}: the {sample} sample holds no finite value; widen its time range")]
    Empty {
        /// Which statistic.
        statistic: &'static str,
        /// Which of the two samples.
        sample: &'static str,
    },
    /// A sample is too small, or too uniform, for the statistic to mean anything.
    #[error("compute {statistic}: it needs {needed}; widen the time range of the smaller sample")]
    TooFew {
        /// Which statistic.
        statistic: &'static str,
        /// What it takes.
        needed: &'static str,
    },
    /// No column of two tables can be compared.
    #[error(
        "compare two tables: no column is left to compare: {why}; give both files the same columns with values"
    )]
    NoColumn {
        /// Each column's reason.
        why: String,
    },
    /// Counts of categories do not fit the test.
    #[error(
        "compute {statistic}: {problem}; give one count a category, the same categories on both sides"
    )]
    Counts {
        /// Which statistic.
        statistic: &'static str,
        /// What does not fit.
        problem: String,
    },
    /// A parameter is out of its range.
    #[error("set up {subject}: {parameter} {problem}")]
    Parameter {
        /// What is being set up.
        subject: &'static str,
        /// Which parameter.
        parameter: &'static str,
        /// What is allowed.
        problem: String,
    },
}
