//! How wrong forecasts are where nobody has measured yet: owns the days of a champion's intervals and what is said of them, never
//! a formula ([`fieldcast_drift::estimate`]).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use fieldcast_drift::estimate::{Estimate, Kept, WidthErrors};
use fieldcast_features::{ForecasterSpec, Millis};
use fieldcast_store::Store;
use fieldcast_store::forecasts::StoredQuantiles;
use fieldcast_store::model_versions::ModelVersionRow;
use serde::Serialize;

use super::daily_errors;
use crate::features;

const DAY_MS: Millis = 86_400_000;
/// Days that are looked at.
const DAYS: Millis = 35;
/// Days before them whose measured ones still say what is usual.
const BEFORE: Millis = 70;
/// Newest measured days that say it.
const USUAL_DAYS: usize = 35;
/// Newest days without an actual value from which on what is said is said of them.
const UNMEASURED: usize = 2;

/// A device's day.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Day {
    /// Device.
    pub device: String,
    /// Begin of the origins' day (ms UTC).
    pub day: Millis,
    /// By the width of the intervals.
    pub estimated: Estimate,
    /// Mean absolute error, once every step has its actual value.
    pub measured: Option<f64>,
    /// It could have been measured, and neither it nor any later day of the device was.
    pub overdue: bool,
}

/// What is known of a champion's errors.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Errors {
    /// Model version.
    pub model_version: i64,
    /// In words.
    pub words: String,
    /// Newest days that some device has not measured; 0: all is measured that can be.
    pub unmeasured_days: usize,
    /// Estimated over usual error on those days, geometric mean over the devices; none where there are none.
    pub estimated_ratio: Option<f64>,
    /// How the estimates of measured days kept.
    pub kept: Option<Kept>,
    /// Every day, by device.
    pub days: Vec<Day>,
}

impl Errors {
    /// Estimated over usual error on the newest days that these devices have not measured, geometric mean; none where they have
    /// fewer than two.
    #[must_use]
    pub fn ratio_on(&self, devices: &BTreeSet<String>) -> Option<f64> {
        let open = self.days.iter().filter(|d| d.overdue);
        ratio(open.filter(|d| devices.contains(&d.device)))
    }
}

/// Geometric mean of estimated over usual error; none of days with fewer than two dates.
fn ratio<'a>(days: impl Iterator<Item = &'a Day> + Clone) -> Option<f64> {
    let dates: BTreeSet<Millis> = days.clone().map(|d| d.day).collect();
    let n = days.clone().count() as f64;
    let log = days.map(|d| d.estimated.ratio.ln()).sum::<f64>() / n;
    (dates.len() >= UNMEASURED).then(|| log.exp())
}

/// Looks at the newest days of a champion; none where its training left no measure of how errors follow widths.
///
/// # Errors
/// The database, or a calibration that cannot be read.
pub async fn errors(
    store: &Store,
    spec: &ForecasterSpec,
    champion: &ModelVersionRow,
) -> Result<Option<Errors>> {
    let widths = &champion.manifest["calibration"]["widths"];
    if widths.is_null() {
        return Ok(None);
    }
    let widths: WidthErrors = serde_json::from_value(widths.clone()).with_context(|| {
        format!(
            "read how errors of {} version {} follow its intervals; train it again",
            spec.name, champion.version
        )
    })?;
    let Some(newest) = store.newest_origin(&spec.name, champion.version).await? else {
        return Ok(None);
    };
    // The newest day is still under way.
    let to = newest.div_euclid(DAY_MS) * DAY_MS;
    let from = to - (DAYS + BEFORE) * DAY_MS;
    // What was forecast is told as it was, full window or not.
    let measured = daily_errors(store, spec, (champion.version, 0.0), from).await?;
    let measured: BTreeMap<(&str, Millis), f64> = measured
        .iter()
        .flat_map(|d| {
            d.days
                .iter()
                .map(|(day, error)| ((d.device.as_str(), *day), *error))
        })
        .collect();
    let horizon = spec.period_ms() * Millis::try_from(spec.horizon).unwrap_or(1);
    let mut days: Vec<Day> = Vec::new();
    for device in features::devices(store, spec).await? {
        let quantiles = store
            .quantiles_of(&spec.name, champion.version, &device, (from, to))
            .await?;
        let own = daily_widths(&quantiles).into_iter().map(|(day, width)| {
            let error = measured.get(&(device.as_str(), day)).copied();
            (day, width, error)
        });
        days.extend(estimates(
            &widths,
            &device,
            &own.collect::<Vec<_>>(),
            horizon,
        ));
    }
    days.retain(|d| d.day >= to - DAYS * DAY_MS);
    Ok(Some(summary(champion.version, days, to - horizon)))
}

/// A device's days (begin, width, measured error), each estimated from what was known by then: an estimate that had seen the
/// day's own error would check nothing.
fn estimates(
    widths: &WidthErrors,
    device: &str,
    days: &[(Millis, f64, Option<f64>)],
    horizon: Millis,
) -> Vec<Day> {
    let mut all = Vec::new();
    for (day, width, measured) in days {
        let by_then = |d: &&(Millis, f64, Option<f64>)| d.0 + DAY_MS + horizon <= *day;
        let known = days.iter().filter(by_then);
        let known: Vec<(f64, f64)> = known.filter_map(|d| Some((d.1, d.2?))).collect();
        let newest = &known[known.len().saturating_sub(USUAL_DAYS)..];
        let usual = widths.usual(device, newest).or_else(|| {
            let seen = days.iter().filter(|d| d.0 < *day).map(|d| d.1);
            widths.usual_by_width(&seen.collect::<Vec<_>>())
        });
        let estimated = usual.and_then(|usual| widths.estimate(usual, *width));
        all.extend(estimated.map(|estimated| Day {
            device: device.to_owned(),
            day: *day,
            estimated,
            measured: *measured,
            overdue: false,
        }));
    }
    all
}

/// Mean width of the widest interval by day of the origins.
fn daily_widths(forecasts: &[StoredQuantiles]) -> BTreeMap<Millis, f64> {
    let mut sums: BTreeMap<Millis, (f64, f64)> = BTreeMap::new();
    for forecast in forecasts.iter().filter(|f| f.levels.len() >= 2) {
        let day = forecast.origin.div_euclid(DAY_MS) * DAY_MS;
        let sum = sums.entry(day).or_default();
        for row in forecast.quantiles.chunks_exact(forecast.levels.len()) {
            *sum = (sum.0 + row[row.len() - 1] - row[0], sum.1 + 1.0);
        }
    }
    sums.into_iter()
        .map(|(key, (sum, n))| (key, sum / n))
        .collect()
}

/// `due` is until when actual values could have come for whole forecasts.
fn summary(version: i64, mut days: Vec<Day>, due: Millis) -> Errors {
    let mut last: BTreeMap<String, Millis> = BTreeMap::new();
    for day in days.iter().filter(|d| d.measured.is_some()) {
        let newest = last.entry(day.device.clone()).or_insert(day.day);
        *newest = day.day.max(*newest);
    }
    for day in &mut days {
        let behind = last.get(&day.device).is_none_or(|last| day.day > *last);
        day.overdue = behind && day.day + DAY_MS <= due;
    }
    let open = days.iter().filter(|d| d.overdue);
    let silent: BTreeSet<&str> = open.clone().map(|d| d.device.as_str()).collect();
    let silent = silent.into_iter().collect::<Vec<_>>().join(", ");
    let ratio = ratio(open.clone());
    let dates: BTreeSet<Millis> = open.map(|d| d.day).collect();
    let unmeasured = ratio.map_or(0, |_| dates.len());
    let pairs: Vec<(Estimate, f64)> = days
        .iter()
        .filter_map(|d| Some((d.estimated, d.measured?)))
        .collect();
    let kept = Kept::of(&pairs);
    let check = match &kept {
        None => "no day was measured that could check the estimate".to_owned(),
        Some(kept) => format!(
            "of {} measured device-days {:.0} % lay inside the estimate (80 are promised), measured over estimated {:.2}",
            kept.days,
            kept.inside * 100.0,
            kept.ratio
        ),
    };
    let words = match ratio {
        None => format!("errors are measured; {check}"),
        Some(ratio) => format!(
            "no actual values on the newest {unmeasured} days at {silent}: by the width of its intervals the error is estimated at {ratio:.2} \
             times the usual one; {check}"
        ),
    };
    Errors {
        model_version: version,
        words,
        unmeasured_days: unmeasured,
        estimated_ratio: ratio,
        kept,
        days,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn day(day: Millis, ratio: f64, measured: Option<f64>) -> Day {
        Day {
            device: "a".into(),
            day: day * DAY_MS,
            estimated: Estimate {
                error: 2.0 * ratio,
                low: ratio,
                high: 4.0 * ratio,
                ratio,
            },
            measured,
            overdue: false,
        }
    }

    #[test]
    fn days_without_actual_values_are_estimated_and_others_check_the_estimate() {
        let mut days: Vec<Day> = (0..10).map(|d| day(d, 1.0, Some(3.0))).collect();
        let all = summary(4, days.clone(), 10 * DAY_MS);
        assert_eq!((all.unmeasured_days, all.estimated_ratio), (0, None));
        let kept = all.kept.unwrap();
        assert!((kept.ratio - 1.5).abs() < 1e-12 && kept.inside == 1.0 && kept.days == 10);
        days.extend((10..15).map(|d| day(d, 1.4, None)));
        let open = summary(4, days.clone(), 14 * DAY_MS);
        assert_eq!(
            open.unmeasured_days, 4,
            "the last day's steps are still to come"
        );
        assert!((open.estimated_ratio.unwrap() - 1.4).abs() < 1e-12);
        assert!(
            open.words.contains("newest 4 days") && open.words.contains("1.40"),
            "{}",
            open.words
        );
        let (known, other) = (BTreeSet::from(["a".to_owned()]), BTreeSet::new());
        assert!((open.ratio_on(&known).unwrap() - 1.4).abs() < 1e-12);
        assert_eq!((open.ratio_on(&other), all.ratio_on(&known)), (None, None));
        let none = summary(4, vec![day(0, 2.0, None), day(1, 2.0, None)], 9 * DAY_MS);
        assert!(none.words.contains("no day was measured"), "{}", none.words);
    }

    #[test]
    fn a_day_is_estimated_from_what_was_known_by_then() {
        let widths = WidthErrors {
            slope: 1.0,
            scatter: 0.1,
            days: 100,
            devices: BTreeMap::from([("a".to_owned(), (0.0, 0.0))]),
            ..WidthErrors::default()
        };
        // Errors are three times those learnt; the last two days have no actual values.
        let days: Vec<_> = (0..12)
            .map(|d| (d * DAY_MS, 1.0, (d < 10).then_some(3.0)))
            .collect();
        let all = estimates(&widths, "a", &days, DAY_MS);
        let errors: Vec<f64> = all.iter().map(|d| d.estimated.error).collect();
        assert_eq!(errors[..2], [1.0, 1.0], "none is known by then");
        assert!((errors[2] - 3f64.powf(1.0 / 6.0)).abs() < 1e-12);
        assert!((errors[11] - 3f64.powf(10.0 / 15.0)).abs() < 1e-12);
        assert!(
            all.iter().all(|d| d.estimated.ratio == 1.0),
            "no width changed"
        );
    }

    #[test]
    fn widths_are_of_the_widest_interval_by_day() {
        let one = |hour: Millis, quantiles: Vec<f64>| StoredQuantiles {
            origin: hour * 3_600_000,
            levels: vec![0.1, 0.5, 0.9],
            quantiles,
        };
        let all = [
            one(1, vec![0.0, 1.0, 2.0, 0.0, 3.0, 4.0]),
            one(2, vec![0.0, 1.0, 6.0]),
            one(30, vec![1.0, 1.0, 2.0]),
        ];
        let widths = daily_widths(&all);
        assert_eq!(widths[&0], 4.0);
        assert_eq!(widths[&DAY_MS], 1.0);
    }
}
