//! The feature row: owns one grid time's values of one forecaster, never how they were measured.

use crate::grid::Millis;

/// The values of a forecaster's channels at one grid time.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureRow {
    /// Grid time; the values were all measured in `(time - period, time]`.
    pub time: Millis,
    /// One value a channel in the order of [`crate::ForecasterSpec::channels`]; NaN = missing.
    pub values: Vec<f64>,
}

impl FeatureRow {
    /// A row in which every one of `channels` values is missing.
    #[must_use]
    pub fn missing(time: Millis, channels: usize) -> Self {
        Self {
            time,
            values: vec![f64::NAN; channels],
        }
    }

    /// The values bit for bit, with one pattern for every NaN.
    pub fn bits(&self) -> impl Iterator<Item = u64> {
        self.values
            .iter()
            .map(|v| if v.is_nan() { f64::NAN } else { *v }.to_bits())
    }

    /// The value of a channel, `None` where it is missing or there is no such channel.
    #[must_use]
    pub fn value(&self, channel: usize) -> Option<f64> {
        self.values.get(channel).copied().filter(|v| v.is_finite())
    }

    /// Whether no channel has a value.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        !self.values.iter().any(|v| v.is_finite())
    }
}
