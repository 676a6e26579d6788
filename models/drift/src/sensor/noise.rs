//! Does a sensor scatter more than it ever did: owns the usual size of its second differences, never a reading.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Second differences that the present scatter is the median of: fewer than half of them spoilt by spikes do not move it.
const RECENT: usize = 18;
/// Readings before which nothing is usual yet; nine days by the hour.
const LEARN: u32 = 216;
/// The usual scatter is this quantile of past ones, so that restless hours of a day are usual.
const LEVEL: f64 = 0.98;
/// How far one reading moves the logarithm of the usual scatter.
const RATE: f64 = 0.03;
/// The same while it is passed: what lasts for weeks is usual in the end.
const SLOW: f64 = 0.003;
/// So many times the usual scatter is a burst.
const BEGINS: f64 = 1.8;
/// A burst is over below so many times.
const ENDS: f64 = 1.3;
/// A burst begins more than so many of the channel's own steps above what is usual, and is over below so many: where few values are
/// known, the median of second differences goes from one step to the next by itself, which is twice as much.
const STEPS: (f64, f64) = (1.5, 1.0);

/// What is kept of one channel; about 200 bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Noise {
    before: VecDeque<f64>,
    /// Seven digits are plenty.
    recent: VecDeque<f32>,
    /// Usual scatter, in the channel's unit.
    usual: f64,
    seen: u32,
    raised: bool,
}

impl Noise {
    /// Takes a reading and tells whether the channel is in a burst of noise.
    pub(super) fn update(&mut self, value: f64) -> bool {
        if let (Some(a), Some(b)) = (self.before.front(), self.before.get(1)) {
            if self.recent.len() == RECENT {
                self.recent.pop_front();
            }
            let second = (value - 2.0 * b + a).abs();
            let bent = second > rounding(value) + 2.0 * rounding(*b) + rounding(*a);
            let second = second.clamp(f64::from(f32::MIN_POSITIVE), f64::from(f32::MAX)) as f32;
            self.recent.push_back(if bent { second } else { 0.0 });
        }
        if self.before.len() == 2 {
            self.before.pop_front();
        }
        self.before.push_back(value);
        if self.recent.len() < RECENT {
            return false;
        }
        let mut sorted: Vec<f64> = self.recent.iter().map(|s| f64::from(*s)).collect();
        sorted.sort_by(f64::total_cmp);
        let scatter = sorted[(RECENT - 1) / 2];
        // A channel that rests says nothing about how it moves.
        if scatter <= 0.0 || !scatter.is_finite() {
            return self.raised;
        }
        self.seen = self.seen.saturating_add(1);
        if self.usual <= 0.0 {
            self.usual = scatter;
        }
        let ready = self.seen > LEARN;
        let limit = match self.raised {
            true => self.above(ENDS, STEPS.1),
            false => self.above(BEGINS, STEPS.0),
        };
        self.raised = ready && scatter > limit;
        let rate = if self.raised { SLOW } else { RATE };
        let step = if scatter > self.usual {
            LEVEL
        } else {
            LEVEL - 1.0
        };
        // Learning begins with strides that fall, or a lucky first value would be believed for long.
        let haste = 1.0 + f64::from(LEARN / 4) / f64::from(self.seen);
        self.usual *= (rate * haste.min(10.0) * step).exp();
        self.raised
    }

    /// How many readings ago the burst began that has just been found.
    pub(super) fn began(&self) -> usize {
        let newest_first = self.recent.iter().rev();
        let begins = self.above(BEGINS, STEPS.0);
        super::began(newest_first.map(|second| f64::from(*second) > begins))
    }

    /// So many times the usual scatter, or so many steps above it.
    fn above(&self, times: f64, steps: f64) -> f64 {
        // The channel's own step where it knows few values, little where it knows many.
        let bent = self.recent.iter().copied().filter(|second| *second > 0.0);
        let step = f64::from(bent.reduce(f32::min).unwrap_or(0.0));
        (times * self.usual).max(self.usual + steps * step)
    }
}

/// By how much a value may be off the decimal that was meant: no whole number is, and what a float of 32 bits holds exactly
/// is likely to come from one.
fn rounding(value: f64) -> f64 {
    let narrow = f64::from(value as f32) == value;
    match value.fract() == 0.0 {
        true => 0.0,
        false if narrow => value.abs() * f64::from(f32::EPSILON),
        false => value.abs() * f64::EPSILON,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Evenly spread in (-1, 1), in no order.
    fn noise(i: usize) -> f64 {
        2.0 * (i as f64 * 0.618_033_988_749_895).fract() - 1.0
    }

    #[test]
    fn a_burst_begins_and_ends_and_spikes_are_none() {
        let mut channel = Noise::default();
        let course = |i: usize| 10.0 * (i as f64 / 24.0 * std::f64::consts::TAU).sin() + noise(i);
        for i in 0..1_000 {
            let spike = if i % 9 == 0 { 40.0 } else { 0.0 };
            assert!(!channel.update(course(i) + spike), "{i}");
        }
        let found = (1_000..1_048).filter(|i| channel.update(course(*i) + 8.0 * noise(7 * i)));
        assert!(found.count() > 36);
        let late = (1_048..1_200).filter(|i| channel.update(course(*i)));
        assert!(late.count() < 12);
    }

    #[test]
    fn few_values_that_go_a_step_or_two_are_no_burst_and_many_steps_are() {
        let steps = |i: usize| (2.0 * (i as f64 / 50.0).sin() + 1.2 * noise(i)).round();
        for unit in [1.0, 0.02] {
            let mut channel = Noise::default();
            let false_bursts = (0..3_000).filter(|i| channel.update(unit * steps(*i)));
            assert_eq!(false_bursts.count(), 0, "{unit}");
            let wild = |i: usize| steps(i) + (8.0 * noise(7 * i)).round();
            let found = (3_000..3_048).filter(|i| channel.update(unit * wild(*i)));
            let found = found.count();
            assert!(found > 30, "{unit}: {found}");
        }
    }

    #[test]
    fn a_straight_line_of_decimals_rests() {
        for narrow in [false, true] {
            let mut channel = Noise::default();
            for i in 0..400 {
                let value = 20.0 + 0.1 * f64::from(i);
                let value = if narrow {
                    f64::from(value as f32)
                } else {
                    value
                };
                assert!(!channel.update(value));
            }
            assert!(channel.usual <= 0.0, "{narrow}: {}", channel.usual);
        }
    }

    #[test]
    fn what_lasts_becomes_usual() {
        let mut channel = Noise::default();
        (0..500).for_each(|i| {
            channel.update(noise(i));
        });
        let found: Vec<bool> = (0..2_000).map(|i| channel.update(9.0 * noise(i))).collect();
        assert!(found[20] && !found[1_999]);
    }
}
