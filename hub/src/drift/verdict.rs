//! Whether the model has become worse: owns the verdict over daily errors of all devices, never reads them.

use std::collections::BTreeMap;

use fieldcast_bundle::DailyErrors;
use fieldcast_features::Millis;
use serde::{Deserialize, Serialize};

/// When a device's signal is believed, and when it leads to a retraining.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rules {
    /// Fewest closed days since the onset, on some device.
    pub min_days: usize,
    /// Smallest error now over the calibrated one (geometric mean).
    pub min_ratio: f64,
    /// Smallest t of the daily log errors against the calibration.
    pub min_t: f64,
    /// The same where no device complains: the best of many days is looked for each week, so chance finds larger ones.
    pub min_t_unasked: f64,
    /// Fewest days of data since the onset before a retraining.
    pub min_new_days: usize,
    /// Days of data between a retraining that gave a champion and the next.
    pub cool_down_days: i64,
    /// How much the data since the onset must grow after a retraining that gave none: 1.4 = by two fifths.
    pub growth: f64,
}

/// The newest decision to retrain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastRetrain {
    /// Its data time.
    pub at: Millis,
    /// Whether the champion of today came from it.
    pub crowned: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            min_days: 7,
            min_ratio: 1.15,
            min_t: 3.0,
            min_t_unasked: 5.0,
            min_new_days: 14,
            cool_down_days: 14,
            growth: 1.4,
        }
    }
}

impl Rules {
    /// What is enough to wait and see, and not enough to act on.
    #[must_use]
    pub fn suspicion() -> Self {
        Self {
            min_days: 3,
            ..Self::default()
        }
    }
}

/// One device's closed days since the model runs on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceDays {
    /// Device.
    pub device: String,
    /// Mean absolute error of each closed day with its begin, by time.
    pub days: Vec<(Millis, f64)>,
}

/// One device's part of the verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceVerdict {
    /// Device.
    pub device: String,
    /// Closed days since the onset.
    pub days: usize,
    /// Error now over the calibrated one.
    pub ratio: f64,
    /// t of the daily log errors.
    pub t: f64,
    /// Share of days above the calibrated mean.
    pub above: f64,
    /// This device alone shows the drift.
    pub drifted: bool,
}

/// The verdict over all devices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The model has become worse.
    pub confirmed: bool,
    /// There are enough closed days to say so or not.
    pub enough: bool,
    /// In words: which devices, since when, by how much.
    pub words: String,
    /// When it most likely began, data time: the day that parts the days best.
    pub onset: Millis,
    /// Over all devices.
    pub ratio: f64,
    /// Over all devices.
    pub t: f64,
    /// Each device.
    pub devices: Vec<DeviceVerdict>,
}

/// What is judged over what was promised, by day: ln of the error, or its mean.
pub(super) type Days = BTreeMap<Millis, f64>;

/// What is known of the days before a change.
pub(super) struct Before {
    /// Days of the calibration.
    pub(super) days: usize,
    /// Their lag-1 autocorrelation.
    pub(super) lag1: f64,
    /// Their deviation.
    pub(super) std: f64,
}

/// A change of the mean at one day.
#[derive(Clone, Copy)]
pub(super) struct Shift {
    /// First day of it.
    pub(super) at: Millis,
    /// Days from there on.
    pub(super) after: usize,
    /// By how much.
    pub(super) mean: f64,
    /// In standard errors.
    pub(super) t: f64,
    /// Share of those days above the mean of before.
    pub(super) above: f64,
}

impl Before {
    /// t of the mean shift at `at`: the days from there on against the earlier ones, with which the calibration's days
    /// count (their mean is 0 here). Neighbouring days are alike, so each counts for less than one.
    pub(super) fn shift(&self, days: &Days, at: Millis) -> Shift {
        let (mut before, mut after) = (Moments::default(), Moments::default());
        days.range(..at).for_each(|(_, y)| before.add(*y));
        days.range(at..).for_each(|(_, y)| after.add(*y));
        let calibrated = self.days.max(1) as f64;
        let known = calibrated + before.n;
        let reference = before.sum / known;
        let scatter =
            self.std.powi(2) * (calibrated - 1.0).max(1.0) + before.squares() + after.squares();
        let degrees =
            (calibrated - 1.0).max(1.0) + (before.n - 1.0).max(0.0) + (after.n - 1.0).max(0.0);
        let std = (scatter / degrees).sqrt().max(0.05);
        let alike = self.lag1.clamp(0.0, 0.9);
        let inflation = (1.0 + alike) / (1.0 - alike);
        let mean = after.mean() - reference;
        let above = days.range(at..).filter(|(_, y)| **y > reference).count() as f64;
        Shift {
            at,
            after: after.n as usize,
            mean,
            t: mean / (std * (inflation * (1.0 / after.n.max(1.0) + 1.0 / known)).sqrt()),
            above: above / after.n.max(1.0),
        }
    }
}

#[derive(Default)]
struct Moments {
    n: f64,
    sum: f64,
    square: f64,
}

impl Moments {
    fn add(&mut self, y: f64) {
        *self = Self {
            n: self.n + 1.0,
            sum: self.sum + y,
            square: self.square + y * y,
        };
    }
    fn mean(&self) -> f64 {
        self.sum / self.n.max(1.0)
    }
    fn squares(&self) -> f64 {
        (self.square - self.n * self.mean().powi(2)).max(0.0)
    }
}

/// Judges all closed days of all devices; `signalled` is the onset that the devices estimated.
///
/// The onset is where a change of the mean explains the days best (the maximum of the likelihood ratio, which for equal
/// variances is that of |t|: Hinkley, 1970).
#[must_use]
pub fn verdict(
    signalled: Millis,
    devices: &[DeviceDays],
    promise: &DailyErrors,
    rules: &Rules,
) -> Verdict {
    let relative: Vec<(&str, Days)> = devices
        .iter()
        .filter(|d| !d.days.is_empty())
        .map(|d| (d.device.as_str(), relative(d, signalled, promise, rules)))
        .collect();
    let fleet = fleet(&relative);
    let before = |std: f64| Before {
        days: promise.days,
        lag1: promise.lag1,
        std,
    };
    let Some(shift) = most_likely(&before(promise.fleet_std), &fleet, rules.min_days) else {
        return Verdict {
            confirmed: false,
            enough: false,
            words: format!("{} closed days, {} are needed", fleet.len(), rules.min_days),
            onset: signalled,
            ratio: 1.0,
            t: 0.0,
            devices: Vec::new(),
        };
    };
    let alone = before(promise.std);
    let each: Vec<DeviceVerdict> = relative
        .iter()
        .map(|(name, days)| {
            let own = alone.shift(days, shift.at);
            DeviceVerdict {
                device: (*name).to_owned(),
                days: own.after,
                ratio: own.mean.exp(),
                t: own.t,
                above: own.above,
                drifted: own.after >= rules.min_days
                    && own.mean.exp() >= rules.min_ratio
                    && own.t >= rules.min_t,
            }
        })
        .collect();
    let ratio = shift.mean.exp();
    let confirmed = ratio >= rules.min_ratio && shift.t >= rules.min_t && shift.above >= 0.6;
    Verdict {
        confirmed,
        enough: true,
        words: words(confirmed, &shift, &each, rules),
        onset: shift.at,
        ratio,
        t: shift.t,
        devices: each,
    }
}

/// Error over the promised one on all days from `since` on, and its t; none with fewer than `min_days` of them. The t is that of a
/// single device's days, since those of a few may be.
#[must_use]
pub fn measured(
    since: Millis,
    devices: &[DeviceDays],
    promise: &DailyErrors,
    rules: &Rules,
) -> Option<(f64, f64)> {
    let known = devices.iter().filter(|d| !d.days.is_empty());
    let relative: Vec<(&str, Days)> = known
        .map(|d| (d.device.as_str(), relative(d, since, promise, rules)))
        .collect();
    let before = Before {
        days: promise.days,
        lag1: promise.lag1,
        std: promise.std,
    };
    let shift = before.shift(&fleet(&relative), since);
    (shift.after >= rules.min_days).then(|| (shift.mean.exp(), shift.t))
}

/// Devices share their weather: a day over all of them is one observation, not many.
pub(super) fn fleet(devices: &[(&str, Days)]) -> Days {
    let mut sums: BTreeMap<Millis, (f64, f64)> = BTreeMap::new();
    for (day, y) in devices.iter().flat_map(|(_, days)| days) {
        let sum = sums.entry(*day).or_default();
        *sum = (sum.0 + y, sum.1 + 1.0);
    }
    let mean = |(day, (sum, n))| (day, sum / n);
    sums.into_iter().map(mean).collect()
}

/// The change that explains the days best, with `min_days` of them from there on.
pub(super) fn most_likely(before: &Before, fleet: &Days, min_days: usize) -> Option<Shift> {
    let onsets = fleet.len().saturating_sub(min_days.saturating_sub(1));
    let each = fleet.keys().take(onsets);
    each.map(|day| before.shift(fleet, *day))
        .max_by(|a, b| a.t.total_cmp(&b.t))
}

/// A device's days against its level: the bundle's, else what its days before the signal say, else that of the others.
fn relative(d: &DeviceDays, signalled: Millis, promise: &DailyErrors, rules: &Rules) -> Days {
    let log = |e: &f64| e.max(1e-12).ln();
    let earlier: Vec<f64> = d
        .days
        .iter()
        .filter(|(t, _)| *t < signalled)
        .map(|(_, e)| log(e))
        .collect();
    let own = (earlier.len() >= rules.min_days)
        .then(|| earlier.iter().sum::<f64>() / earlier.len() as f64);
    let level = promise
        .levels
        .get(&d.device)
        .copied()
        .or(own)
        .unwrap_or(promise.mean);
    d.days.iter().map(|(t, e)| (*t, log(e) - level)).collect()
}

/// Its first day, in words.
pub(super) fn day_of(shift: &Shift) -> String {
    chrono::DateTime::from_timestamp_millis(shift.at)
        .map_or_else(String::new, |d| d.format("%Y-%m-%d").to_string())
}

/// The devices that show it by themselves, in words.
pub(super) fn drifted(each: &[DeviceVerdict]) -> String {
    let names: Vec<&str> = each
        .iter()
        .filter(|d| d.drifted)
        .map(|d| d.device.as_str())
        .collect();
    if names.is_empty() {
        "all together, none by itself".to_owned()
    } else {
        names.join(", ")
    }
}

fn words(confirmed: bool, shift: &Shift, each: &[DeviceVerdict], rules: &Rules) -> String {
    let since = day_of(shift);
    let (ratio, t) = (shift.mean.exp(), shift.t);
    if !confirmed {
        return format!(
            "not confirmed: since {since} the error is {ratio:.2} times the usual one (asked: {:.2}) with t = {t:.1} (asked: {:.1})",
            rules.min_ratio, rules.min_t
        );
    }
    let who = drifted(each);
    format!(
        "since {since} the error is {ratio:.2} times the usual one over {} days (t = {t:.1}); devices: {who}",
        shift.after
    )
}

/// What follows from a verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Enqueue a training.
    Retrain,
    /// Look again later.
    Wait(String),
    /// The devices were wrong.
    NotConfirmed,
    /// Retrained too recently.
    CoolDown(String),
}

/// Decides, in data time.
#[must_use]
pub fn decide(
    verdict: &Verdict,
    now: Millis,
    last: Option<LastRetrain>,
    rules: &Rules,
) -> Decision {
    const DAY_MS: Millis = 86_400_000;
    if !verdict.enough {
        return Decision::Wait(verdict.words.clone());
    }
    if !verdict.confirmed {
        return Decision::NotConfirmed;
    }
    let days = (now - verdict.onset) / DAY_MS;
    if days < Millis::try_from(rules.min_new_days).unwrap_or(Millis::MAX) {
        return Decision::Wait(format!(
            "{days} days of data since the onset, {} are asked",
            rules.min_new_days
        ));
    }
    let next = last.map(|last| {
        if last.crowned {
            return last.at + rules.cool_down_days * DAY_MS;
        }
        // What was too little to learn from is still so a day later.
        let known = (last.at - verdict.onset).max(0) as f64;
        verdict.onset + (known * rules.growth) as Millis
    });
    if let Some(next) = next.filter(|next| now < *next) {
        return Decision::CoolDown(format!(
            "the next retraining may begin {} days of data later",
            (next - now) / DAY_MS + 1
        ));
    }
    Decision::Retrain
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const DAY: Millis = 86_400_000;
    fn promise() -> DailyErrors {
        DailyErrors {
            std: 0.2,
            fleet_std: 0.2,
            days: 60,
            ..DailyErrors::default()
        }
    }

    fn days(n: i64, level: f64) -> Vec<(Millis, f64)> {
        (0..n)
            .map(|i| (i * DAY, level * (0.15 * ((i * 7 % 5) as f64 - 2.0)).exp()))
            .collect()
    }

    fn fleet(n: i64, levels: &[f64]) -> Vec<DeviceDays> {
        levels
            .iter()
            .enumerate()
            .map(|(i, l)| DeviceDays {
                device: format!("d{i}"),
                days: days(n, *l),
            })
            .collect()
    }

    #[test]
    fn doubled_errors_are_confirmed_and_named() {
        let v = verdict(
            0,
            &fleet(14, &[2.0, 2.0, 1.9]),
            &promise(),
            &Rules::default(),
        );
        assert!(v.confirmed && v.onset < 7 * DAY, "{}", v.words);
        assert!(
            v.words.contains("1970-01-0") && v.words.contains("d0"),
            "{}",
            v.words
        );
        assert_eq!(
            decide(&v, v.onset + 14 * DAY, None, &Rules::default()),
            Decision::Retrain
        );
    }

    #[test]
    fn what_was_measured_is_that_of_the_days_since_and_no_fewer_than_are_needed() {
        let rules = Rules::suspicion();
        let promise = DailyErrors {
            levels: BTreeMap::from([("d0".to_owned(), 2f64.ln())]),
            ..promise()
        };
        let mut list = fleet(30, &[2.0, 5.0]);
        for d in &mut list {
            d.days.iter_mut().skip(20).for_each(|(_, e)| *e *= 1.5);
        }
        // The first is named in the promise, of the other its days of before say what is usual; noise of ten days sums to nothing.
        let (ratio, t) = measured(20 * DAY, &list, &promise, &rules).unwrap();
        assert!((ratio - 1.5).abs() < 1e-9 && t > 4.0, "{ratio} {t}");
        let (ratio, t) = measured(0, &list[..1], &promise, &rules).unwrap();
        assert!((ratio - 1.5f64.powf(1.0 / 3.0)).abs() < 1e-9 && t > 0.0);
        let (ratio, t) = measured(0, &fleet(20, &[2.0]), &promise, &rules).unwrap();
        assert!((ratio - 1.0).abs() < 1e-9 && t.abs() < 1e-9);
        assert_eq!(measured(28 * DAY, &list, &promise, &rules), None);
        assert_eq!(measured(0, &[], &promise, &rules), None);
    }

    #[test]
    fn the_onset_is_the_day_of_the_change_although_the_device_signalled_another() {
        let mut list = fleet(60, &[1.0, 1.0]);
        for d in &mut list {
            d.days.iter_mut().skip(40).for_each(|(_, e)| *e *= 1.8);
        }
        for signalled in [5, 40, 50] {
            let v = verdict(signalled * DAY, &list, &promise(), &Rules::default());
            assert!(
                v.confirmed && (v.onset - 40 * DAY).abs() <= 2 * DAY,
                "{signalled}: {}",
                v.words
            );
            assert!((v.ratio - 1.8).abs() < 0.1, "{}", v.ratio);
        }
    }

    #[test]
    fn devices_of_other_scales_are_measured_by_their_own_level() {
        let mut own = promise();
        own.levels.insert("d1".into(), 30.0_f64.ln());
        let mut list = fleet(40, &[1.0, 30.0, 500.0]);
        let v = verdict(30 * DAY, &list, &own, &Rules::default());
        assert!(!v.confirmed, "{}", v.words);
        // d2 is named by no bundle: its own first days are its level.
        list[2]
            .days
            .iter_mut()
            .skip(30)
            .for_each(|(_, e)| *e *= 3.0);
        let v = verdict(30 * DAY, &list, &own, &Rules::default());
        let drifted: Vec<bool> = v.devices.iter().map(|d| d.drifted).collect();
        assert_eq!(drifted, [false, false, true], "{}", v.words);
    }

    #[test]
    fn calibrated_errors_are_not_and_few_days_wait() {
        let v = verdict(0, &fleet(20, &[1.0, 1.05]), &promise(), &Rules::default());
        assert_eq!(
            decide(&v, 20 * DAY, None, &Rules::default()),
            Decision::NotConfirmed
        );
        let v = verdict(0, &fleet(3, &[5.0]), &promise(), &Rules::default());
        assert!(matches!(
            decide(&v, 3 * DAY, None, &Rules::default()),
            Decision::Wait(_)
        ));
    }

    #[test]
    fn a_confirmed_drift_waits_for_data_and_for_the_cool_down() {
        let v = verdict(0, &fleet(8, &[3.0]), &promise(), &Rules::default());
        assert!(matches!(
            decide(&v, 8 * DAY, None, &Rules::default()),
            Decision::Wait(_)
        ));
        let last = |at: i64, crowned| {
            Some(LastRetrain {
                at: at * DAY,
                crowned,
            })
        };
        let at_20 = |last| decide(&v, 20 * DAY, last, &Rules::default());
        assert!(matches!(at_20(last(10, true)), Decision::CoolDown(_)));
        assert_eq!(at_20(last(-90, true)), Decision::Retrain);
        // After a challenger that was no better, more data decide and not the calendar.
        assert!(matches!(at_20(last(15, false)), Decision::CoolDown(_)));
        assert_eq!(at_20(last(14, false)), Decision::Retrain);
    }
}
