//! What a channel's days look like while nothing has changed: owns the fit of season and scatter to daily values, never the
//! values themselves.
//!
//! A whole day holds every hour once, so daily values compare like with like; what is left of the season (the year, the
//! weekday) is fitted, and a day of a season that was never seen is not judged.

use std::collections::{BTreeMap, BTreeSet};
use std::f64::consts::TAU;

use serde::{Deserialize, Serialize};

/// Milliseconds of a day.
pub const DAY_MS: i64 = 86_400_000;
/// Most devices whose own level is named; a device beyond learns its own.
pub const MAX_DEVICES: usize = 256;
/// Fewest days of a device that count.
const MIN_DAYS: usize = 28;
/// Days from which on the year's course is fitted: nearly one year.
const YEAR_DAYS: usize = 350;
const DAYS_A_YEAR: f64 = 365.2425;
/// Slots of the year that tell which seasons were seen.
const SLOTS: usize = 52;
/// Slots to either side of a seen one that are like it.
const LIKE: usize = 2;
/// Rounds of backfitting weekday and year to each other.
const ROUNDS: usize = 20;
/// Values of a day from which on its spread means something.
const SPREAD_FROM: u32 = 6;

/// Day of a time (days since 1970): a day ends with the row at its midnight, which holds what was measured before it.
#[must_use]
pub fn day_of(time: i64) -> i64 {
    (time - 1).div_euclid(DAY_MS)
}

/// A finished day of one channel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Day {
    /// Days since 1970.
    pub day: i64,
    /// Mean of its values.
    pub mean: f64,
    /// ln of their deviation; none with fewer than 6 values or without any scatter.
    pub spread: Option<f64>,
}

/// Folds a channel's values into days.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct DayFold {
    day: Option<i64>,
    count: u32,
    mean: f64,
    squares: f64,
}

impl DayFold {
    /// Takes a value (NaN = missing) at its time; a day that it finishes comes out if at least half of it was there.
    /// `period` is the distance of values, ms. Values of a day that is over already are passed over.
    pub fn push(&mut self, period: i64, time: i64, value: f64) -> Option<Day> {
        let day = day_of(time);
        if self.day.is_some_and(|open| day < open) {
            return None;
        }
        let done = (self.day != Some(day))
            .then(|| self.close(period))
            .flatten();
        self.day = Some(day);
        let count = self.count + 1;
        let apart = value - self.mean;
        let mean = self.mean + apart / f64::from(count);
        let squares = self.squares + apart * (value - mean);
        // A value so large that its square leaves f64 would make the day, and what is kept of it, unreadable.
        if mean.is_finite() && squares.is_finite() {
            (self.count, self.mean, self.squares) = (count, mean, squares);
        }
        done
    }

    /// The day under way, as if it were over.
    pub fn close(&mut self, period: i64) -> Option<Day> {
        let whole = std::mem::take(self);
        let expected = (DAY_MS / period.max(1)).max(1);
        if i64::from(whole.count) * 2 < expected {
            return None;
        }
        let variance = whole.squares / f64::from(whole.count);
        let spread = (whole.count >= SPREAD_FROM && variance > 0.0).then(|| 0.5 * variance.ln());
        Some(Day {
            day: whole.day?,
            mean: whole.mean,
            spread: spread.filter(|s| s.is_finite()),
        })
    }
}

/// A device's own scale.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DayScale {
    /// Mean of its daily values.
    pub level: f64,
    /// Their deviation.
    pub std: f64,
}

/// Daily values of a channel over a fleet: season and scatter in deviations of each device.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DayReference {
    /// Different days behind it.
    pub days: u32,
    /// Cosine and sine of the year; none where less than a year was seen.
    pub year: Option<[f64; 2]>,
    /// What each weekday adds, from Monday.
    pub weekday: [f64; 7],
    /// Bit by 1/52 of a year: seasons that were seen.
    pub seen: u64,
    /// Deviation of what season and weekday leave.
    pub std: f64,
    /// Lag-1 autocorrelation of the same, 0 to 0.95.
    pub lag1: f64,
    /// Median of the devices' deviations, for a device that has none of its own.
    pub usual_std: f64,
    /// Devices by name; none of a fleet larger than [`MAX_DEVICES`].
    pub devices: BTreeMap<String, DayScale>,
}

impl DayReference {
    /// Fits daily values by device, each (day, value). None without a device of 28 days whose values differ.
    #[must_use]
    pub fn fit(series: &[(&str, Vec<(i64, f64)>)]) -> Option<Self> {
        let mut scales = BTreeMap::new();
        let mut values: Vec<Vec<(i64, f64)>> = Vec::new();
        for (device, days) in series.iter().filter(|(_, days)| days.len() >= MIN_DAYS) {
            let n = days.len() as f64;
            let level = days.iter().map(|(_, v)| v / n).sum::<f64>();
            let std = (days.iter().map(|(_, v)| (v - level).powi(2)).sum::<f64>() / n).sqrt();
            if std.is_finite() && std > 1e-9 * level.abs().max(1e-9) {
                scales.insert((*device).to_owned(), DayScale { level, std });
                let scaled = days.iter().map(|(d, v)| (*d, (v - level) / std));
                values.push(scaled.collect());
            }
        }
        let mut stds: Vec<f64> = scales.values().map(|s: &DayScale| s.std).collect();
        stds.sort_unstable_by(f64::total_cmp);
        let usual_std = *stds.get(stds.len() / 2)?;
        let days: BTreeSet<i64> = values.iter().flatten().map(|(d, _)| *d).collect();
        let mut fit = Self {
            days: u32::try_from(days.len()).unwrap_or(u32::MAX),
            usual_std,
            seen: days.iter().fold(0, |bits, d| bits | 1 << slot(*d)),
            ..Self::default()
        };
        fit.seasons(&values, days.len() >= YEAR_DAYS);
        fit.scatter(&values);
        if scales.len() <= MAX_DEVICES {
            fit.devices = scales;
        }
        Some(fit)
    }

    /// Least squares for weekday and year, by backfitting.
    fn seasons(&mut self, values: &[Vec<(i64, f64)>], year: bool) {
        for _ in 0..ROUNDS {
            let mut sums = [(0.0, 0.0_f64); 7];
            for (day, value) in values.iter().flatten() {
                let sum = &mut sums[weekday(*day)];
                *sum = (sum.0 + value - self.course(*day), sum.1 + 1.0);
            }
            self.weekday = sums.map(|(sum, n)| sum / n.max(1.0));
            if !year {
                return;
            }
            let (mut cc, mut cs, mut ss, mut cy, mut sy) = (0.0, 0.0, 0.0, 0.0, 0.0);
            for (day, value) in values.iter().flatten() {
                let (s, c) = angle(*day).sin_cos();
                let left = value - self.weekday[weekday(*day)];
                (cc, cs, ss) = (cc + c * c, cs + c * s, ss + s * s);
                (cy, sy) = (cy + c * left, sy + s * left);
            }
            let det = cc * ss - cs * cs;
            if det > 0.0 {
                self.year = Some([(ss * cy - cs * sy) / det, (cc * sy - cs * cy) / det]);
            }
        }
    }

    /// Deviation and autocorrelation of what is left, over neighbouring days of a device.
    fn scatter(&mut self, values: &[Vec<(i64, f64)>]) {
        let (mut squares, mut products, mut n) = (0.0, 0.0, 0.0_f64);
        for device in values {
            let left: Vec<(i64, f64)> = device
                .iter()
                .map(|(d, v)| (*d, v - self.season(*d)))
                .collect();
            squares += left.iter().map(|(_, v)| v * v).sum::<f64>();
            n += left.len() as f64;
            let next = left.windows(2).filter(|w| w[1].0 == w[0].0 + 1);
            products += next.map(|w| w[0].1 * w[1].1).sum::<f64>();
        }
        self.std = (squares / n.max(1.0)).sqrt();
        let raw = if squares > 0.0 {
            products / squares
        } else {
            0.0
        };
        // A short sample's autocorrelation comes out too small by about (1 + 4 r) / n (Kendall 1954).
        let days = f64::from(self.days.max(1));
        self.lag1 = (raw + (1.0 + 4.0 * raw) / days).clamp(0.0, 0.95);
    }

    fn course(&self, day: i64) -> f64 {
        self.year.map_or(0.0, |[c, s]| {
            let (sin, cos) = angle(day).sin_cos();
            c * cos + s * sin
        })
    }

    /// What season and weekday make of a day, in a device's deviations.
    #[must_use]
    pub fn season(&self, day: i64) -> f64 {
        self.course(day) + self.weekday[weekday(day)]
    }

    /// Whether days of this season were seen.
    #[must_use]
    pub fn knows(&self, day: i64) -> bool {
        let at = slot(day);
        (0..=2 * LIKE).any(|d| self.seen >> ((at + SLOTS + d - LIKE) % SLOTS) & 1 == 1)
    }

    /// Long-run variance over variance, (1 + r) / (1 - r).
    #[must_use]
    pub fn inflation(&self) -> f64 {
        let r = if self.lag1.is_finite() {
            self.lag1.clamp(0.0, 0.95)
        } else {
            0.0
        };
        (1.0 + r) / (1.0 - r)
    }

    /// Standard error of the expected value of a day, in deviations of what season and weekday leave: the level's, and twice
    /// as much again for the two numbers of the year.
    #[must_use]
    pub fn doubt(&self) -> f64 {
        let numbers = if self.year.is_some() { 3.0 } else { 1.0 };
        (numbers * self.inflation() / f64::from(self.days.max(1)))
            .sqrt()
            .min(1.0)
    }
}

fn weekday(day: i64) -> usize {
    // 1970-01-01 was a Thursday.
    (day + 3).rem_euclid(7) as usize
}

fn angle(day: i64) -> f64 {
    TAU * day as f64 / DAYS_A_YEAR
}

fn slot(day: i64) -> usize {
    let part = (day as f64 / DAYS_A_YEAR).rem_euclid(1.0);
    ((part * SLOTS as f64) as usize).min(SLOTS - 1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_value_out_of_all_bounds_leaves_the_day_readable() {
        let hour = DAY_MS / 24;
        let mut fold = DayFold::default();
        for (h, value) in [(1, 1.0), (2, 1e200), (3, 3.0), (4, -1e290)] {
            fold.push(hour, h * hour, value);
        }
        let text = serde_json::to_string(&fold).unwrap();
        assert_eq!(serde_json::from_str::<DayFold>(&text).unwrap(), fold);
        for h in 5..=16 {
            fold.push(hour, h * hour, 2.0);
        }
        assert!((fold.close(hour).map_or(f64::NAN, |d| d.mean) - 2.0).abs() < 1e-12);
    }

    #[test]
    fn days_end_at_midnight_and_half_a_day_is_enough() {
        let hour = DAY_MS / 24;
        let mut fold = DayFold::default();
        let mut done = Vec::new();
        for h in 1..=72 {
            let value = if (30..=44).contains(&h) {
                f64::NAN
            } else {
                h as f64
            };
            done.extend(fold.push(hour, h * hour, value));
        }
        assert_eq!(done.len(), 1, "the second day lacks more than half");
        assert_eq!((done[0].day, done[0].mean), (0, 12.5));
        assert!((done[0].spread.unwrap() - 47.916_666_f64.sqrt().ln()).abs() < 1e-6);
        assert_eq!(fold.push(hour, 5 * hour, 1.0), None);
        assert_eq!(fold.close(hour).unwrap().mean, 60.5);
        let mut daily = DayFold::default();
        assert_eq!(daily.push(DAY_MS, DAY_MS, 3.0), None);
        let day = daily.push(DAY_MS, 2 * DAY_MS, 4.0).unwrap();
        assert_eq!((day.day, day.mean, day.spread), (0, 3.0, None));
    }

    #[test]
    fn season_and_weekday_are_fitted_whatever_a_devices_scale_is() {
        let year = |scale: f64| -> Vec<(i64, f64)> {
            (0..500)
                .map(|d| {
                    let wave = 3.0 * (angle(d) - 1.0).cos();
                    let sunday = if weekday(d) == 6 { -2.0 } else { 0.0 };
                    (d, scale * (20.0 + wave + sunday))
                })
                .collect()
        };
        let fit = DayReference::fit(&[("a", year(1.0)), ("b", year(50.0))]).unwrap();
        assert!(fit.std < 1e-3, "{fit:?}");
        assert_eq!(fit.days, 500);
        for (device, scale) in [("a", 1.0), ("b", 50.0)] {
            let own = fit.devices[device];
            for (day, value) in year(scale) {
                let expected = own.level + own.std * fit.season(day);
                assert!((expected - value).abs() < 1e-3 * own.std, "{device} {day}");
            }
        }
        assert!((0..400).all(|d| fit.knows(d)));
    }

    #[test]
    fn less_than_a_year_has_no_course_and_knows_only_its_own_season() {
        let days: Vec<(i64, f64)> = (0..100).map(|d| (d, (d % 5) as f64)).collect();
        let fit = DayReference::fit(&[("a", days.clone())]).unwrap();
        assert_eq!(fit.year, None);
        assert!(fit.knows(50) && fit.knows(110) && !fit.knows(200) && fit.knows(365 + 50));
        assert!(DayReference::fit(&[("a", days[..27].to_vec())]).is_none());
        let constant = (0..100).map(|d| (d, 4.0)).collect();
        assert!(DayReference::fit(&[("a", constant)]).is_none());
    }

    #[test]
    fn of_too_large_a_fleet_no_device_is_named() {
        let days: Vec<(i64, f64)> = (0..40).map(|d| (d, (d % 5) as f64)).collect();
        let names: Vec<String> = (0..=MAX_DEVICES).map(|i| format!("d{i}")).collect();
        let all: Vec<_> = names.iter().map(|n| (n.as_str(), days.clone())).collect();
        assert!(DayReference::fit(&all).unwrap().devices.is_empty());
        let fit = DayReference::fit(&all[1..]).unwrap();
        assert_eq!(fit.devices.len(), MAX_DEVICES);
    }
}
