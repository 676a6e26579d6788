//! Knuth's MMIX generator, the upper 53 bits, as `peers/cases.py` repeats it bit for bit: owns its numbers, never a series.
#![allow(dead_code, reason = "each of those who share it needs a part")]

/// Its state.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The first number of a seed says little, and is passed over.
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Self(seed);
        random.unit();
        random
    }

    /// From 0 to below 1.
    pub(crate) fn unit(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 * 2f64.powi(-53)
    }

    /// Nearly of the normal distribution: a sum of twelve.
    pub(crate) fn normal(&mut self) -> f64 {
        (0..12).fold(0.0, |sum, _| sum + self.unit()) - 6.0
    }
}
