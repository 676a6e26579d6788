//! Has a sensor begun to speak another unit: owns the conversions that are looked for, never a correction of readings.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Newest readings that are compared; two days by the hour, since no two days of a week need be alike.
const NEW: usize = super::PACED;
/// Readings before them that they are compared with.
const OLD: usize = 120;
/// Misfit of a conversion, at most: logarithms of the ratios of both scatters, and what is added for level and beginning.
const FITS: f64 = 2.0;
/// And that of no conversion is so much larger.
const BETTER: f64 = 2.5;
/// Misfit of a beginning that is [`JUMPS`] more than the usual step from where the conversion has it; up to five of them.
const BEGINS: f64 = 0.5;
/// Jumps between old and new readings, in usual steps, up to which nothing need have happened.
const JUMPS: f64 = 4.0;
/// What goes beyond all that a channel has been by less than this share of its usual range is nothing new.
const BEYOND: f64 = 1.5;
/// Readings in a row in the old unit that end it.
const BACK_AFTER: u32 = 3;
/// Readings after which the new unit is believed to be meant.
const BELIEVE_AFTER: u32 = 720;

/// `new = factor * old + offset`.
struct Conversion {
    name: &'static str,
    factor: f64,
    offset: f64,
}

const fn times(name: &'static str, factor: f64) -> Conversion {
    Conversion {
        name,
        factor,
        offset: 0.0,
    }
}

const fn plus(name: &'static str, factor: f64, offset: f64) -> Conversion {
    Conversion {
        name,
        factor,
        offset,
    }
}

/// Mistakes that are made: prefixes, temperatures, speeds, lengths, pressures and volumes, each way.
const CONVERSIONS: [Conversion; 26] = [
    plus("degrees Celsius to Fahrenheit", 1.8, 32.0),
    plus("degrees Fahrenheit to Celsius", 1.0 / 1.8, -32.0 / 1.8),
    plus("degrees Celsius to kelvin", 1.0, 273.15),
    plus("kelvin to degrees Celsius", 1.0, -273.15),
    times("10 times as much", 10.0),
    times("a tenth", 0.1),
    times("100 times as much", 100.0),
    times("a hundredth", 0.01),
    times("1000 times as much", 1_000.0),
    times("a thousandth", 0.001),
    times("a million times as much", 1e6),
    times("a millionth", 1e-6),
    times("metres a second to kilometres an hour", 3.6),
    times("kilometres an hour to metres a second", 1.0 / 3.6),
    times("metres a second to miles an hour", 2.236_936_29),
    times("miles an hour to metres a second", 0.447_04),
    times("metres to feet", 1.0 / 0.304_8),
    times("feet to metres", 0.304_8),
    times("inches to millimetres", 25.4),
    times("millimetres to inches", 1.0 / 25.4),
    times("psi to kilopascals", 6.894_757_29),
    times("kilopascals to psi", 0.145_037_738),
    times("inches of mercury to hectopascals", 33.863_886_4),
    times("hectopascals to inches of mercury", 0.029_529_983),
    times("US gallons to litres", 3.785_411_784),
    times("litres to US gallons", 0.264_172_052),
];

/// The conversion at work, and what the channel was before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Changed {
    factor: f64,
    offset: f64,
    median: f64,
    range: f64,
    back: u32,
    readings: u32,
}

impl Changed {
    /// Whether a value is nearer to the new unit than to the old one.
    fn shows(&self, value: f64) -> bool {
        let old = (value - self.median).abs() / self.range;
        let centre = self.factor * self.median + self.offset;
        let new = (value - centre).abs() / (self.factor * self.range);
        old >= new
    }
}

/// What is kept of one channel; under 1 kB.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Unit {
    /// Seven digits say what a unit is.
    recent: VecDeque<f32>,
    changed: Option<Changed>,
    /// What the channel has been like.
    #[serde(default)]
    known: Option<Known>,
}

impl Unit {
    /// Takes a reading and tells whether the channel is in another unit than before.
    pub(super) fn update(&mut self, value: f64) -> bool {
        if let Some(changed) = &mut self.changed {
            changed.readings += 1;
            let back = !changed.shows(value);
            changed.back = if back { changed.back + 1 } else { 0 };
            let back = changed.back >= BACK_AFTER;
            if back || changed.readings >= BELIEVE_AFTER {
                *self = Self {
                    known: self.known.take().filter(|_| back),
                    ..Self::default()
                };
            }
            return self.changed.is_some();
        }
        if self.recent.len() == OLD + NEW {
            self.recent.pop_front();
        }
        self.recent
            .push_back(value.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32);
        if self.recent.len() == OLD + NEW {
            self.changed = self.look();
            if self.changed.is_none() {
                self.learn();
            }
        }
        self.changed.is_some()
    }

    /// Begins anew with what a channel is like, not with what unit it is in.
    pub(super) fn forget(&mut self) {
        self.recent.clear();
    }

    /// How many readings ago the change was that has just been found.
    pub(super) fn began(&self) -> usize {
        let newest_first = self.recent.iter().rev().take(NEW);
        self.changed.as_ref().map_or(0, |changed| {
            super::began(newest_first.map(|value| changed.shows(f64::from(*value))))
        })
    }

    /// Name of the conversion at work.
    pub(super) fn conversion(&self) -> Option<&'static str> {
        let changed = self.changed.as_ref()?;
        let same = |c: &&Conversion| c.factor == changed.factor && c.offset == changed.offset;
        CONVERSIONS.iter().find(same).map(|c| c.name)
    }

    /// What is behind the newest readings is in the unit of before.
    fn learn(&mut self) {
        let past: Vec<f64> = self
            .recent
            .iter()
            .map(|value| f64::from(*value))
            .skip(OLD - NEW)
            .take(NEW)
            .collect();
        if let Some(course) = Course::of(&past) {
            let known = self.known.get_or_insert(Known {
                medians: (course.median, course.median),
                ranges: (course.range, course.range),
            });
            let wider = |(low, high): (f64, f64), v: f64| (low.min(v), high.max(v));
            known.medians = wider(known.medians, course.median);
            known.ranges = wider(known.ranges, course.range);
        }
    }

    fn look(&self) -> Option<Changed> {
        let readings: Vec<f64> = self.recent.iter().map(|value| f64::from(*value)).collect();
        let (old, new) = readings.split_at(OLD);
        let (before, after) = (Course::of(old)?, Course::of(new)?);
        if self.known.as_ref().is_some_and(|known| known.holds(&after)) {
            return None;
        }
        let jump = (new[0] - old[OLD - 1]).abs() / before.step;
        if jump < JUMPS && (0.3..3.0).contains(&(after.step / before.step)) {
            return None;
        }
        let misfit = |factor: f64, offset: f64| {
            let scatter = (after.step / (factor * before.step)).ln().abs();
            let range = (after.range / (factor * before.range)).ln().abs();
            let level = factor * before.median + offset;
            let unit = factor * before.range + after.range;
            let begins = (new[0] - factor * old[OLD - 1] - offset).abs();
            let begins = (begins / (factor * before.step) / JUMPS - 1.0).max(0.0);
            let away = 2.0 * (after.median - level).abs() / unit;
            scatter + range + away.min(1.0) + BEGINS * begins.min(5.0)
        };
        let fits = CONVERSIONS.iter().map(|c| (misfit(c.factor, c.offset), c));
        let (best, found) = fits.min_by(|a, b| a.0.total_cmp(&b.0))?;
        (best < FITS && misfit(1.0, 0.0) > best + BETTER).then_some(Changed {
            factor: found.factor,
            offset: found.offset,
            median: before.median,
            range: before.range,
            back: 0,
            readings: 0,
        })
    }
}

/// The smallest and the largest of what as many readings in a row as are compared have been like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Known {
    medians: (f64, f64),
    ranges: (f64, f64),
}

impl Known {
    /// Whether readings are no others than the channel has had, which needs no other unit.
    fn holds(&self, course: &Course) -> bool {
        let room = (BEYOND - 1.0) * self.ranges.1;
        (self.medians.0 - room..=self.medians.1 + room).contains(&course.median)
            && (self.ranges.0 / BEYOND..=self.ranges.1 * BEYOND).contains(&course.range)
    }
}

/// What some readings in a row are like.
struct Course {
    median: f64,
    /// Interquartile.
    range: f64,
    /// The usual one between neighbours.
    step: f64,
}

impl Course {
    /// None of readings that rest.
    fn of(readings: &[f64]) -> Option<Self> {
        let mut sorted = readings.to_vec();
        sorted.sort_by(f64::total_cmp);
        let mut steps: Vec<f64> = readings.windows(2).map(|w| (w[1] - w[0]).abs()).collect();
        steps.sort_by(f64::total_cmp);
        let at = |share: usize| sorted[(sorted.len() - 1) * share / 4];
        let course = Self {
            median: at(2),
            range: at(3) - at(1),
            step: steps[steps.len() / 2],
        };
        (course.range > 0.0 && course.step > 0.0 && course.range.is_finite()).then_some(course)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn course(i: usize) -> f64 {
        let noise = 2.0 * (i as f64 * 0.618_033_988_749_895).fract() - 1.0;
        18.0 + 5.0 * (i as f64 / 24.0 * std::f64::consts::TAU).sin() + noise
    }

    #[test]
    fn every_conversion_is_found_named_and_ends() {
        for c in CONVERSIONS.iter().filter(|c| c.offset >= 0.0) {
            let mut unit = Unit::default();
            assert!((0..400).all(|i| !unit.update(course(i))));
            for i in 400..455 {
                unit.update(c.factor * course(i) + c.offset);
            }
            // Some factors are too near each other for a day of readings to tell.
            let found = unit.changed.as_ref().map_or(0.0, |found| found.factor);
            assert!((found / c.factor - 1.0).abs() < 0.06, "{}: {found}", c.name);
            assert!(unit.conversion().is_some());
            assert!((455..465).all(|i| unit.update(c.factor * course(i) + c.offset)));
            let after: Vec<bool> = (465..471).map(|i| unit.update(course(i))).collect();
            assert!(after[0] && !after[3], "{} {after:?}", c.name);
        }
    }

    #[test]
    fn a_shift_of_level_and_a_rest_are_no_conversions() {
        for shift in [4.0, 9.0, 15.0, 40.0] {
            let mut unit = Unit::default();
            let value = |i: usize| course(i) + if i < 400 { 0.0 } else { shift };
            assert!((0..800).all(|i| !unit.update(value(i))), "{shift}");
        }
        let mut unit = Unit::default();
        assert!((0..300).all(|i| !unit.update(if i < 150 { 0.0 } else { 5.0 })));
    }
}
