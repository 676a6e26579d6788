//! One sensor's endless series: owns level, daily season, noise that lasts and a shift to order; never a file or a clock.

use std::f64::consts::TAU;

use fieldcast_features::Millis;

use crate::random::{Persistent, Stream};
use crate::spec::DAY_MS;

/// How long a deviation lasts, and for how many values at most: quick sensors are no smoother than slow ones.
const MEMORY_MS: f64 = 1_800_000.0;
const MEMORY_STEPS: f64 = 30.0;
/// Values are multiples of one over this: exact in binary, so that sums and copies can be compared to the last bit.
const GRAIN: f64 = 256.0;

/// A sensor of a made-up device. The same seed, device, sensor and step give the same values on every machine.
#[derive(Debug, Clone)]
pub struct Channel {
    level: f64,
    swing: f64,
    peak: f64,
    noise: Persistent,
}

impl Channel {
    /// A series with a value each `step`.
    #[must_use]
    pub fn new(seed: u64, device: u32, sensor: u32, step: Millis) -> Self {
        let purpose = (1 << 62) | (u64::from(device) << 24) | u64::from(sensor);
        let mut stream = Stream::new(seed, purpose);
        let level = 20.0 + 60.0 * stream.uniform();
        let swing = level * (0.05 + 0.1 * stream.uniform());
        let peak = stream.uniform();
        #[allow(clippy::cast_precision_loss, reason = "steps are far below 2^52")]
        let memory = (MEMORY_MS / step.max(1) as f64).clamp(0.5, MEMORY_STEPS);
        Self {
            level,
            swing,
            peak,
            noise: Persistent::new(stream, memory, 0.3 * swing),
        }
    }

    /// What is usual at a time: the level and its season.
    #[must_use]
    pub fn usual(&self, time: Millis) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "a day's milliseconds")]
        let day = time.rem_euclid(DAY_MS) as f64 / DAY_MS as f64;
        self.level + self.swing * (TAU * (day - self.peak)).cos()
    }

    /// Half the height of the daily season.
    #[must_use]
    pub fn swing(&self) -> f64 {
        self.swing
    }

    /// The next value; `shift` moves it by so many swings.
    pub fn next(&mut self, time: Millis, shift: f64) -> f64 {
        let value = self.usual(time) + self.noise.step() + shift * self.swing;
        (value * GRAIN).round() / GRAIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(seed: u64, device: u32, shift: f64) -> Vec<f64> {
        let mut channel = Channel::new(seed, device, 0, 600_000);
        (0..144).map(|n| channel.next(n * 600_000, shift)).collect()
    }

    #[test]
    fn a_series_is_its_own_and_made_again_the_same() {
        assert_eq!(day(1, 7, 0.0), day(1, 7, 0.0));
        assert_ne!(day(1, 7, 0.0), day(1, 8, 0.0));
        assert_ne!(day(1, 7, 0.0), day(2, 7, 0.0));
        assert!(day(1, 7, 0.0).iter().all(|v| (v * GRAIN).fract() == 0.0));
    }

    #[test]
    fn a_shift_moves_it_and_the_season_is_stronger_than_the_noise() {
        let (plain, moved) = (day(1, 7, 0.0), day(1, 7, 2.0));
        let swing = Channel::new(1, 7, 0, 600_000).swing();
        for (a, b) in plain.iter().zip(&moved) {
            assert!((b - a - 2.0 * swing).abs() <= 1.0 / GRAIN);
        }
        let (low, high) = plain
            .iter()
            .fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
        assert!(high - low > 1.2 * swing && high - low < 5.0 * swing);
    }
}
