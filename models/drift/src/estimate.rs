//! How wrong a model is now where nobody has measured yet: owns the estimate from the width of its intervals, never an interval.
//!
//! A model whose intervals follow its uncertainty says by their width how wrong it expects to be. How far that is true is
//! measured where actual values are known: ln(daily mean absolute error) = level of the device + slope x (ln(daily mean width) -
//! usual width of the device), by least squares over the days of a part that the model has not learnt from. Where widths say
//! nothing the slope is nothing, and the estimate is the level that the calibration promised.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Fewest days that say how errors follow widths.
const FEWEST: usize = 14;
/// Days that what was learnt of a device counts for, beside those that were measured since.
const LEARNT: f64 = 5.0;
/// Fewest days that say what widths are usual where nothing else does.
const FEWEST_SEEN: usize = 5;
/// Days for which the error is as a usual model's, slope 0: few days say little.
const DRAWN: f64 = 5.0;
/// Steepest slope that is believed: errors that follow widths in proportion have 1.
const STEEPEST: f64 = 1.5;
/// Half of an 80 % interval of a normal distribution, in deviations.
const EIGHTY: f64 = 1.281_551_565_544_8;
/// Most devices whose usual width is named.
const MAX_DEVICES: usize = 1_024;

/// How a model's daily error follows the width of its intervals.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WidthErrors {
    /// ln of the error for each ln of the width, 0 to 1.5.
    pub slope: f64,
    /// Deviation of ln(error) around what the width says.
    pub scatter: f64,
    /// Mean of the devices' levels of ln(width).
    pub width: f64,
    /// The same of the devices' ln(error).
    pub error: f64,
    /// Device-days behind the numbers.
    pub days: usize,
    /// ln(width) and ln(error) by device, at most 1,024; of any other only its own days say what is usual.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub devices: BTreeMap<String, (f64, f64)>,
}

/// A day of one device: mean width of the interval and mean absolute error over the same steps, raw units.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WidthDay<'a> {
    /// Device.
    pub device: &'a str,
    /// Mean width.
    pub width: f64,
    /// Mean absolute error.
    pub error: f64,
}

/// What is usual of a device: ln of the mean width of its interval, and of its mean absolute error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usual {
    /// ln of the width.
    pub width: f64,
    /// ln of the error.
    pub error: f64,
}

/// An estimate of a day's mean absolute error, raw units.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// What is expected.
    pub error: f64,
    /// In one of ten days it is less.
    pub low: f64,
    /// In one of ten days it is more.
    pub high: f64,
    /// Over the usual error of the device.
    pub ratio: f64,
}

/// How estimates compare with what was measured later.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// Days that were compared.
    pub days: usize,
    /// Measured over estimated, geometric mean.
    pub ratio: f64,
    /// Share of the days inside the estimate's interval; 0.8 is promised.
    pub inside: f64,
}

impl WidthErrors {
    /// Learns from days whose error is known; none with fewer than 14 usable ones.
    #[must_use]
    pub fn fit(days: &[WidthDay<'_>]) -> Option<Self> {
        let mut devices: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
        for day in days {
            let (width, error) = (day.width.ln(), day.error.ln());
            if width.is_finite() && error.is_finite() {
                devices.entry(day.device).or_default().push((width, error));
            }
        }
        let count: usize = devices.values().map(Vec::len).sum();
        if count < FEWEST {
            return None;
        }
        let levels: BTreeMap<&str, (f64, f64)> = devices
            .iter()
            .map(|(name, days)| {
                let n = days.len() as f64;
                let sum = days.iter().fold((0.0, 0.0), |s, d| (s.0 + d.0, s.1 + d.1));
                (*name, (sum.0 / n, sum.1 / n))
            })
            .collect();
        let (mut both, mut own, mut all) = (0.0, 0.0, 0.0);
        for (name, days) in &devices {
            let level = levels[name];
            for (width, error) in days {
                let (x, y) = (width - level.0, error - level.1);
                (both, own, all) = (both + x * y, own + x * x, all + y * y);
            }
        }
        // Drawn to 0 as if so many days of usual scatter had shown no slope.
        let usual = own / count as f64;
        // Widths that do not differ say nothing, whatever their rounding says.
        let slope = if usual > 1e-12 {
            (both / (own + DRAWN * usual)).clamp(0.0, STEEPEST)
        } else {
            0.0
        };
        let left = all - 2.0 * slope * both + slope * slope * own;
        let degrees = (count as f64 - devices.len() as f64 - 1.0).max(1.0);
        let n = levels.len() as f64;
        let mean = levels
            .values()
            .fold((0.0, 0.0), |s, l| (s.0 + l.0 / n, s.1 + l.1 / n));
        let named = levels
            .into_iter()
            .map(|(name, level)| (name.to_owned(), level));
        Some(Self {
            slope,
            scatter: (left.max(0.0) / degrees).sqrt(),
            width: mean.0,
            error: mean.1,
            days: count,
            devices: if devices.len() <= MAX_DEVICES {
                named.collect()
            } else {
                BTreeMap::new()
            },
        })
    }

    /// What is usual of a device after its measured days, width and error each: as it was learnt, with the weight of
    /// five days, and what was measured since. Intervals adapt on the device to what it missed, and errors go with the
    /// season; both together or neither, else one is held against what the other was long ago. Of a device that was not learnt
    /// nothing is usual before its first measured day.
    #[must_use]
    pub fn usual(&self, device: &str, measured: &[(f64, f64)]) -> Option<Usual> {
        let logs = measured.iter().map(|(w, e)| (w.ln(), e.ln()));
        let logs: Vec<(f64, f64)> = logs
            .filter(|(w, e)| w.is_finite() && e.is_finite())
            .collect();
        let learnt = self.devices.get(device).copied();
        let weight = learnt.map_or(0.0, |_| LEARNT);
        let learnt = learnt.unwrap_or_default();
        let all = weight + logs.len() as f64;
        if all == 0.0 {
            return None;
        }
        let sum = logs.iter().fold((0.0, 0.0), |s, l| (s.0 + l.0, s.1 + l.1));
        Some(Usual {
            width: (weight * learnt.0 + sum.0) / all,
            error: (weight * learnt.1 + sum.1) / all,
        })
    }

    /// The same of a device that was not learnt and has never been measured, after days with these widths, five at least: its errors are
    /// taken to be as much larger than those of the devices that were learnt as its intervals are wider.
    #[must_use]
    pub fn usual_by_width(&self, widths: &[f64]) -> Option<Usual> {
        let logs = widths.iter().map(|w| w.ln()).filter(|w| w.is_finite());
        let logs: Vec<f64> = logs.collect();
        let width = logs.iter().sum::<f64>() / logs.len().max(1) as f64;
        (logs.len() >= FEWEST_SEEN).then_some(Usual {
            width,
            error: self.error + width - self.width,
        })
    }

    /// The error of a day whose intervals are `width` wide on average, on a device of which that is [`Self::usual`]; none for
    /// a width that is none.
    #[must_use]
    pub fn estimate(&self, usual: Usual, width: f64) -> Option<Estimate> {
        if !(width.is_finite() && width > 0.0) {
            return None;
        }
        let beyond = self.slope * (width.ln() - usual.width);
        let log = usual.error + beyond;
        let reach = EIGHTY * self.scatter;
        let whole = Estimate {
            error: log.exp(),
            low: (log - reach).exp(),
            high: (log + reach).exp(),
            ratio: beyond.exp(),
        };
        (whole.error.is_finite() && whole.high.is_finite()).then_some(whole)
    }
}

impl Kept {
    /// Of estimates with what was measured for them later; none without any.
    #[must_use]
    pub fn of(pairs: &[(Estimate, f64)]) -> Option<Self> {
        let known = || {
            pairs
                .iter()
                .filter(|(_, actual)| *actual > 0.0 && actual.is_finite())
        };
        let days = known().count();
        if days == 0 {
            return None;
        }
        let n = days as f64;
        let log: f64 = known().map(|(e, a)| (a / e.error).ln() / n).sum();
        let inside = known()
            .filter(|(e, a)| (e.low..=e.high).contains(a))
            .count();
        Some(Self {
            days,
            ratio: log.exp(),
            inside: inside as f64 / n,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::window::random::Random;

    /// Days whose error follows the width by `slope`, on devices of other scales.
    fn days(slope: f64, n: usize, seed: u64) -> Vec<(&'static str, f64, f64)> {
        let mut random = Random::new(seed);
        (0..n)
            .map(|i| {
                let (device, scale) = [("a", 1.0), ("b", 40.0)][i % 2];
                let beyond = 0.5 * random.normal();
                let error = scale * (slope * beyond + 0.2 * random.normal()).exp();
                (device, 3.0 * scale * beyond.exp(), error)
            })
            .collect()
    }

    fn estimate(fit: &WidthErrors, device: &str, width: f64) -> Option<Estimate> {
        fit.estimate(fit.usual(device, &[])?, width)
    }

    fn fit(days: &[(&'static str, f64, f64)]) -> Option<WidthErrors> {
        let each = days.iter().map(|(device, width, error)| WidthDay {
            device,
            width: *width,
            error: *error,
        });
        WidthErrors::fit(&each.collect::<Vec<_>>())
    }

    #[test]
    fn errors_that_follow_widths_are_told_before_they_are_measured() {
        let fit = fit(&days(0.8, 200, 1)).unwrap();
        assert!(
            (fit.slope - 0.8).abs() < 0.1 && (fit.scatter - 0.2).abs() < 0.05,
            "{fit:?}"
        );
        let later = days(0.8, 400, 2);
        let pairs: Vec<(Estimate, f64)> = later
            .iter()
            .map(|(device, width, error)| (estimate(&fit, device, *width).unwrap(), *error))
            .collect();
        let kept = Kept::of(&pairs).unwrap();
        assert!(
            (kept.ratio - 1.0).abs() < 0.05 && (0.74..0.86).contains(&kept.inside),
            "{kept:?}"
        );
        let wide = estimate(&fit, "b", 3.0 * 40.0 * 2.0).unwrap();
        assert!(
            (wide.ratio - 2f64.powf(fit.slope)).abs() < 0.1 && wide.error > 50.0,
            "{wide:?}"
        );
    }

    #[test]
    fn widths_that_say_nothing_leave_what_was_promised() {
        let fit = fit(&days(0.0, 200, 3)).unwrap();
        assert!(fit.slope < 0.12, "{fit:?}");
        let wide = estimate(&fit, "a", 30.0).unwrap();
        assert!((0.8..1.35).contains(&wide.error), "{wide:?}");
        let constant: Vec<_> = days(0.0, 60, 4)
            .into_iter()
            .map(|d| (d.0, 5.0, d.2))
            .collect();
        assert_eq!(super::tests::fit(&constant).unwrap().slope, 0.0);
    }

    #[test]
    fn what_was_measured_since_is_usual_more_and_more() {
        let fit = fit(&days(0.8, 200, 1)).unwrap();
        let learnt = fit.usual("a", &[]).unwrap();
        assert!((learnt.width - 3f64.ln()).abs() < 0.2, "{learnt:?}");
        let (mut last, mut steps) = (learnt, Vec::new());
        for n in 1..60 {
            // Intervals twice as wide, errors three times as large.
            let usual = fit.usual("a", &vec![(6.0, 3.0); n]).unwrap();
            steps.push((usual.width - last.width).max(usual.error - last.error));
            last = usual;
            assert_eq!(fit.estimate(usual, usual.width.exp()).unwrap().ratio, 1.0);
        }
        assert!(steps.iter().all(|s| (0.0..0.2).contains(s)), "{steps:?}");
        let error = fit.estimate(last, 6.0).unwrap().error;
        assert!((2.6..3.0).contains(&error), "{error}");
        let new = fit.usual("unknown", &[(70.0, 20.0), (f64::NAN, 1.0)]);
        let new = new.unwrap();
        assert!((new.width - 70f64.ln()).abs() < 1e-12 && (new.error - 20f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn too_little_is_none_and_no_width_is_none() {
        assert_eq!(fit(&days(1.0, 13, 5)), None);
        let fit = fit(&days(1.0, 60, 6)).unwrap();
        for width in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(estimate(&fit, "a", width), None, "{width}");
        }
        assert_eq!(Kept::of(&[]), None);
        assert_eq!(estimate(&fit, "unknown", 20.0), None);
        assert_eq!(fit.usual_by_width(&[30.0; 4]), None);
        let usual = fit.usual_by_width(&[30.0; 5]).unwrap();
        assert!((usual.error - usual.width - fit.error + fit.width).abs() < 1e-12);
        let wider = fit.estimate(usual, 60.0).unwrap();
        assert!((wider.ratio - 2f64.powf(fit.slope)).abs() < 1e-9);
    }
}
