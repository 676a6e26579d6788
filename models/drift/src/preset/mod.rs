//! Preset `evidently`: owns Evidently's default decisions about two tables, never a decision of this project's own.
//!
//! What the table shows is reproduced, its faults included: the thresholds know neither the sample's size nor
//! autocorrelation, so that undrifted sensor data often count as drifted.

mod decide;
pub mod layout;

pub use decide::{ColumnDecision, Decision, decide};

/// Whose rules: the two layouts that are read in the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Evidently 0.4 (0.4.40): every number is numeric.
    V04,
    /// Evidently 0.7 (0.7.21): whole numbers of at most ten different values are categories.
    V07,
}

/// A column's values in one table.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Numbers; NaN = missing.
    Numbers {
        /// In the table's order.
        values: Vec<f64>,
        /// Whether all are written as whole numbers and none is missing.
        whole: bool,
    },
    /// Anything else; none = missing.
    Words(Vec<Option<String>>),
}

/// A column of both tables.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its values in the reference.
    pub reference: Values,
    /// Its values in the current table.
    pub current: Values,
}

/// How a column is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// As numbers.
    Numeric,
    /// As categories.
    Categorical,
}

/// Which test, with Evidently's threshold for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    /// Kolmogorov-Smirnov.
    Ks,
    /// Pearson's chi-square.
    ChiSquare,
    /// Two proportions.
    Z,
    /// Wasserstein over the reference's deviation.
    Wasserstein,
    /// Jensen-Shannon distance.
    JensenShannon,
}

impl Test {
    /// The name in Evidently's reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ks => "K-S p_value",
            Self::ChiSquare => "chi-square p_value",
            Self::Z => "Z-test p_value",
            Self::Wasserstein => "Wasserstein distance (normed)",
            Self::JensenShannon => "Jensen-Shannon distance",
        }
    }

    /// Evidently's default threshold.
    #[must_use]
    pub fn threshold(self) -> f64 {
        match self {
            Self::Ks | Self::ChiSquare | Self::Z => 0.05,
            Self::Wasserstein | Self::JensenShannon => 0.1,
        }
    }

    /// Whether this score counts as drift.
    #[must_use]
    pub fn drifted(self, score: f64) -> bool {
        match self {
            Self::Ks => score <= self.threshold(),
            Self::ChiSquare | Self::Z => score < self.threshold(),
            Self::Wasserstein | Self::JensenShannon => score >= self.threshold(),
        }
    }
}
