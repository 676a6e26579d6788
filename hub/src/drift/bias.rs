//! Whether forecasts have become too high or too low for good: owns that verdict over the daily mean errors of all devices, never reads
//! them.
//!
//! A mean error that lasts is a change of the world long before it shows in the absolute error, which other errors hide: one of half the
//! usual error adds a tenth to it. It is measured against the bundle's calibration and the days before, as absolute errors are
//! ([`super::verdict`]), both ways, over two weeks or more.

use std::collections::BTreeMap;

use fieldcast_bundle::DailyErrors;
use serde::Serialize;

use super::verdict::{
    Before, Days, DeviceDays, DeviceVerdict, Shift, Verdict, day_of, drifted, fleet, most_likely,
};

/// Smallest lasting mean error, in usual absolute errors.
const LEAST: f64 = 0.5;
/// Fewest closed days since it began: two weeks, each of which shows it.
const DAYS: usize = 14;
/// Smallest t: by chance as likely in either direction as a third of what is asked of absolute errors that nobody complains of.
const MIN_T: f64 = 5.2;
/// Share of days on the same side.
const ABOVE: f64 = 0.6;

/// A lasting mean error.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bias {
    /// The verdict: t and onset are those of the mean error, ratios those of absolute errors since then.
    #[serde(skip)]
    pub verdict: Verdict,
    /// Mean of actual less forecast over all devices, in usual absolute errors, beyond that of before.
    pub mean: f64,
    /// The same of each device.
    pub devices: BTreeMap<String, f64>,
    /// Its mean errors of days, in the target's unit: what was judged.
    pub daily: Vec<DeviceDays>,
}

/// Judges the mean errors of all closed days (`mean`: actual less forecast) beside the absolute ones (`errors`); none where they go on as
/// they were, or where the bundle does not say how they were.
#[must_use]
pub fn find(errors: &[DeviceDays], mean: &[DeviceDays], promise: &DailyErrors) -> Option<Bias> {
    [1.0, -1.0]
        .into_iter()
        .filter_map(|side| towards(side, errors, mean, promise))
        .max_by(|a, b| a.verdict.t.total_cmp(&b.verdict.t))
}

fn towards(
    side: f64,
    errors: &[DeviceDays],
    mean: &[DeviceDays],
    promise: &DailyErrors,
) -> Option<Bias> {
    let usual = promise.bias.as_ref()?;
    let relative: Vec<(&str, Days)> = mean
        .iter()
        .filter_map(|d| {
            let scale = promise.levels.get(&d.device)?.exp();
            let level = usual.levels.get(&d.device)?;
            let one = |(day, mean): &(i64, f64)| (*day, side * (mean / scale - level));
            Some((d.device.as_str(), d.days.iter().map(one).collect()))
        })
        .collect();
    let before = |std: f64| Before {
        days: promise.days,
        lag1: usual.lag1,
        std,
    };
    let shift = most_likely(&before(usual.fleet_std), &fleet(&relative), DAYS)?;
    if !shows(&shift) || rests_on_one(&relative, &shift, &before(usual.fleet_std)) {
        return None;
    }
    let ratio = |device: &str| {
        let own = errors.iter().find(|d| d.device == device)?;
        let since = own.days.iter().filter(|(day, _)| *day >= shift.at);
        let logs: Vec<f64> = since.map(|(_, e)| e.max(1e-12).ln()).collect();
        let level = promise.levels.get(device).filter(|_| !logs.is_empty())?;
        Some((logs.iter().sum::<f64>() / logs.len().max(1) as f64 - level).exp())
    };
    let mut means = BTreeMap::new();
    let each: Vec<DeviceVerdict> = relative
        .iter()
        .map(|(device, days)| {
            let own = before(usual.std).shift(days, shift.at);
            means.insert((*device).to_owned(), side * own.mean);
            DeviceVerdict {
                device: (*device).to_owned(),
                days: own.after,
                ratio: ratio(device).unwrap_or(1.0),
                t: own.t,
                above: own.above,
                drifted: own.after >= DAYS && shows(&own),
            }
        })
        .collect();
    // One that was away since then says nothing.
    let heard = each.iter().filter(|d| d.days > 0);
    let (logs, count) = heard.fold((0.0, 0.0_f64), |(s, n), d| (s + d.ratio.ln(), n + 1.0));
    let ratio = (logs / count.max(1.0)).exp();
    Some(Bias {
        mean: side * shift.mean,
        devices: means,
        daily: mean.to_vec(),
        verdict: Verdict {
            confirmed: true,
            enough: true,
            words: words(side, &shift, ratio, &each),
            onset: shift.at,
            ratio,
            t: shift.t,
            devices: each,
        },
    })
}

fn shows(shift: &Shift) -> bool {
    shift.mean >= LEAST && shift.t >= MIN_T && shift.above >= ABOVE
}

/// Whether it is one device's alone, among three and more.
fn rests_on_one(devices: &[(&str, Days)], shift: &Shift, before: &Before) -> bool {
    let own = |days: &Days| before.shift(days, shift.at).mean;
    let first = devices
        .iter()
        .enumerate()
        .max_by(|a, b| own(&a.1.1).total_cmp(&own(&b.1.1)));
    let Some((first, _)) = first.filter(|_| devices.len() >= 3) else {
        return false;
    };
    let mut others = devices.to_vec();
    others.remove(first);
    own(&fleet(&others)) < LEAST
}

fn words(side: f64, shift: &Shift, ratio: f64, each: &[DeviceVerdict]) -> String {
    let way = if side > 0.0 { "low" } else { "high" };
    format!(
        "since {} forecasts are too {way} by {:.2} of the usual error over {} days (t = {:.1}), the error is {ratio:.2} times the \
         usual one; devices: {}",
        day_of(shift),
        shift.mean,
        shift.after,
        shift.t,
        drifted(each)
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use fieldcast_bundle::DailyBias;
    use fieldcast_sim::Stream;

    use super::*;

    const DAY: i64 = 86_400_000;

    /// Days of errors whose mean follows its past, of usual absolute error 2; from `at` on `by` of it is added.
    fn fleet_of(seed: u64, count: usize, days: i64, at: i64, by: &[f64]) -> [Vec<DeviceDays>; 2] {
        let mut stream = Stream::new(seed, 0);
        let mut of = |device: usize, absolute: &mut Vec<DeviceDays>, mean: &mut Vec<DeviceDays>| {
            let mut past = 0.0;
            let (mut a, mut m) = (Vec::new(), Vec::new());
            for day in 0..days {
                // Nearly normal, of deviation 0.4.
                let kick: f64 = (0..12).map(|_| stream.uniform()).sum::<f64>() - 6.0;
                past = 0.4 * past + 0.4 * kick;
                let shift = if day >= at {
                    by[device % by.len()]
                } else {
                    0.0
                };
                let error: f64 = 2.0 * (past + shift);
                m.push((day * DAY, error));
                a.push((day * DAY, (4.0 + 0.5 * error * error).sqrt()));
            }
            let device = format!("d{device}");
            absolute.push(DeviceDays {
                device: device.clone(),
                days: a,
            });
            mean.push(DeviceDays { device, days: m });
        };
        let (mut absolute, mut mean) = (Vec::new(), Vec::new());
        (0..count).for_each(|device| of(device, &mut absolute, &mut mean));
        [absolute, mean]
    }

    fn promise(count: usize, own: f64) -> DailyErrors {
        let named = |level: f64| (0..count).map(move |i| (format!("d{i}"), level));
        let std = 0.4 / (1.0 - 0.4_f64.powi(2)).sqrt();
        DailyErrors {
            days: 60,
            levels: named(2.0_f64.ln()).collect(),
            bias: Some(DailyBias {
                std,
                lag1: 0.4,
                fleet_std: std / (count as f64).sqrt(),
                levels: named(own).collect(),
            }),
            ..DailyErrors::default()
        }
    }

    #[test]
    fn a_lasting_mean_error_is_found_either_way_with_its_day_and_its_devices() {
        for (by, way) in [(0.9, "too low"), (-0.9, "too high")] {
            let [absolute, mean] = fleet_of(5, 4, 90, 60, &[by]);
            let found = find(&absolute, &mean, &promise(4, 0.0)).unwrap();
            let onset = found.verdict.onset / DAY;
            assert!((onset - 60).abs() <= 3, "{onset}");
            assert!((found.mean - by).abs() < 0.25, "{}", found.mean);
            let words = &found.verdict.words;
            assert!(
                words.contains(way) && words.contains("devices: d0, d1"),
                "{words}"
            );
        }
    }

    #[test]
    fn a_device_that_was_away_since_then_says_nothing_of_the_errors() {
        let [mut absolute, mut mean] = fleet_of(5, 4, 90, 60, &[0.9]);
        let all = find(&absolute, &mean, &promise(4, 0.0)).unwrap().verdict;
        let mut promise = promise(4, 0.0);
        for devices in [&mut absolute, &mut mean] {
            for (_, error) in &mut devices[3].days {
                *error *= 5e-3;
            }
            devices[3].days.truncate(30);
        }
        promise.levels.insert("d3".into(), 1e-2_f64.ln());
        let found = find(&absolute, &mean, &promise).unwrap().verdict;
        assert!(
            (found.ratio / all.ratio - 1.0).abs() < 0.1,
            "{} {}",
            found.ratio,
            all.ratio
        );
        assert_eq!((found.devices[3].days, found.devices[3].ratio), (0, 1.0));
    }

    #[test]
    fn what_the_calibration_had_too_and_what_is_one_devices_alone_are_none() {
        let [absolute, mean] = fleet_of(5, 4, 90, 0, &[0.9]);
        assert_eq!(find(&absolute, &mean, &promise(4, 0.9)), None);
        assert!(find(&absolute, &mean, &promise(4, 0.0)).is_some());
        let [absolute, mean] = fleet_of(5, 4, 90, 60, &[3.6, 0.0, 0.0, 0.0]);
        assert_eq!(find(&absolute, &mean, &promise(4, 0.0)), None);
        let silent = DailyErrors {
            bias: None,
            ..promise(4, 0.0)
        };
        let [absolute, mean] = fleet_of(5, 4, 90, 60, &[0.9]);
        assert_eq!(find(&absolute, &mean, &silent), None);
    }

    /// Looked at each week of a year, as the hub does.
    #[test]
    fn years_without_a_change_are_seldom_called_biased() {
        let years = 60;
        let mut called = 0;
        for seed in 0..years {
            let [absolute, mean] = fleet_of(seed, 1, 365, 365, &[0.0]);
            let promise = promise(1, 0.0);
            called += usize::from((2..52).any(|week| {
                let span = (7 * week - 90).max(0) as usize..7 * week as usize;
                let cut = |all: &[DeviceDays]| -> Vec<DeviceDays> {
                    let one = |d: &DeviceDays| DeviceDays {
                        device: d.device.clone(),
                        days: d.days[span.clone()].to_vec(),
                    };
                    all.iter().map(one).collect()
                };
                find(&cut(&absolute), &cut(&mean), &promise).is_some()
            }));
        }
        println!("{called} of {years} years");
        assert!(called <= 2, "{called} of {years} years");
    }
}
