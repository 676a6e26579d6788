//! What is said of a fleet's inputs: owns the sentences, never a number they are made of.

use std::collections::BTreeMap;

use chrono::DateTime;
use fieldcast_drift::fleet::{Against, Changed, Verdict};
use fieldcast_drift::window::Moved;

use crate::check::words::short;

/// Most devices that are named in a sentence.
const NAMED: usize = 3;
/// How far a mean must move, in deviations, before that is what is said.
const MOVED: f64 = 0.1;

/// What is known of the forecasts meanwhile.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Errors {
    /// Devices find their errors larger than the calibration says: that is looked into by itself.
    Worse,
    /// They do not.
    NotWorse,
    /// Nothing is known of them.
    Unknown,
    /// Nobody has measured them lately; estimated over usual error.
    Unmeasured(f64),
}

/// How a sensor's values went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Up,
    Down,
    Other,
}

/// The verdict in words; `agreeing` of the changed sensors are raised by their own device's monitors too;
/// `joined` says where inputs changed together, `kept` counts those that had changed and can no longer be judged.
#[must_use]
pub(super) fn words(
    verdict: &Verdict,
    version: i64,
    (agreeing, joined, kept): (usize, &[String], usize),
    errors: Errors,
) -> String {
    if verdict.changed.is_empty() && joined.is_empty() && kept == 0 {
        return format!(
            "inputs are again as version {version} was trained on: none of {} sensors has changed over the last {} windows",
            verdict.compared, verdict.rules.windows
        );
    }
    let mut groups: BTreeMap<(&str, Way), Vec<&Changed>> = BTreeMap::new();
    for one in &verdict.changed {
        groups.entry((&one.sensor, way(one))).or_default().push(one);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    let weight = |group: &[&Changed]| group.iter().map(|c| c.contribution).sum::<f64>();
    groups.sort_by(|a, b| weight(&b.1).total_cmp(&weight(&a.1)));
    let said: Vec<String> = groups
        .iter()
        .map(|((sensor, way), group)| sentence(sensor, *way, group))
        .collect();
    let errors = match errors {
        Errors::Worse => {
            "forecasts are worse as well, which is looked into by itself and may retrain".to_owned()
        }
        Errors::NotWorse => "forecasts are not worse; no retraining".to_owned(),
        Errors::Unknown => "whether forecasts are worse is not known yet; no retraining".to_owned(),
        Errors::Unmeasured(ratio) => format!(
            "no actual values have come lately: by the width of their intervals forecasts err {ratio:.2} times as much as \
             usual (an estimate); no retraining"
        ),
    };
    let agreeing = if agreeing > 0 {
        format!(
            " (the device's own monitors say so too: {agreeing} of {})",
            verdict.changed.len()
        )
    } else {
        String::new()
    };
    let parts: Vec<String> = (!said.is_empty())
        .then(|| format!("{}{agreeing}", said.join("; ")))
        .into_iter()
        .chain(joined.iter().cloned())
        .chain((kept > 0).then(|| {
            format!("{kept} that had changed can no longer be judged: too few readings, or none")
        }))
        .collect();
    format!("{}; {errors}", parts.join("; "))
}

fn shift(one: &Changed) -> Option<(f64, Option<f64>)> {
    let Moved::Numbers {
        reference_mean,
        current_mean,
        reference_deviation,
        ..
    } = &one.compared.moved
    else {
        return None;
    };
    let by = (current_mean - reference_mean) / reference_deviation;
    // A share of a mean near zero says nothing.
    let share = (reference_mean.abs() > *reference_deviation)
        .then(|| (current_mean / reference_mean - 1.0).abs() * 100.0);
    Some((by, share))
}

fn way(one: &Changed) -> Way {
    match shift(one) {
        Some((by, _)) if by >= MOVED => Way::Up,
        Some((by, _)) if by <= -MOVED => Way::Down,
        _ => Way::Other,
    }
}

fn sentence(sensor: &str, way: Way, group: &[&Changed]) -> String {
    let where_ = match group {
        [one] => format!("of {}", one.device),
        many => {
            let names: Vec<&str> = many.iter().take(NAMED).map(|c| c.device.as_str()).collect();
            let more = if many.len() > NAMED { ", ..." } else { "" };
            format!("at {} devices ({}{more})", many.len(), names.join(", "))
        }
    };
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    let shifts: Vec<_> = group.iter().filter_map(|c| shift(c)).collect();
    let shares: Vec<f64> = shifts.iter().filter_map(|(_, share)| *share).collect();
    let much = if shares.len() == group.len() {
        median(shares).map(|s| format!("{} %", short(s)))
    } else {
        median(shifts.iter().map(|(by, _)| by.abs()).collect())
            .map(|by| format!("{} deviations", short(by)))
    };
    let what = match (way, much) {
        (Way::Up, Some(much)) => format!("has moved up by {much}"),
        (Way::Down, Some(much)) => format!("has moved down by {much}"),
        _ => "takes other values, or changes in another way, about the same mean".to_owned(),
    };
    let since = group.iter().map(|c| c.onset).min();
    let since = since
        .and_then(DateTime::from_timestamp_millis)
        .map_or_else(String::new, |d| {
            format!(", since {}", d.format("%-d %B %Y"))
        });
    let new = group.iter().any(|c| c.against == Against::WeeksBefore);
    let new = if new {
        " (against the weeks before: this season of the year was not learnt)"
    } else {
        ""
    };
    format!("{sensor} {where_} {what}{since}{new}")
}

#[cfg(test)]
mod tests {
    use fieldcast_drift::fleet::Rules;
    use fieldcast_drift::window::Compared;

    use super::*;

    fn changed(device: &str, sensor: &str, to: f64, contribution: f64) -> Changed {
        Changed {
            device: device.into(),
            sensor: sensor.into(),
            onset: 1_772_496_000_000,
            contribution,
            against: Against::Reference,
            p: vec![1e-4, 1e-3],
            compared: Compared {
                method: "ks",
                p: 1e-4,
                statistic: 0.4,
                reference_rows: 1_000,
                current_rows: 168,
                season: true,
                lags: 1,
                excess: 1.0,
                moved: Moved::Numbers {
                    reference_mean: 50.0,
                    current_mean: to,
                    reference_deviation: 5.0,
                    current_deviation: 5.0,
                    distance: 1.0,
                },
            },
        }
    }

    #[test]
    fn sensors_that_went_the_same_way_are_one_sentence() {
        let mut verdict = Verdict {
            from: 0,
            to: 1,
            compared: 9,
            changed: vec![
                changed("a", "humidity", 55.0, 0.3),
                changed("b", "humidity", 56.0, 0.3),
                changed("c", "humidity", 58.0, 0.2),
                changed("a", "load", 49.9, 0.2),
            ],
            skipped: Vec::new(),
            rules: Rules::default(),
        };
        assert_eq!(
            words(&verdict, 3, (0, &[], 0), Errors::NotWorse),
            "humidity at 3 devices (a, b, c) has moved up by 12 %, since 3 March 2026; load of a takes other values, or \
             changes in another way, about the same mean, since 3 March 2026; forecasts are not worse; no retraining"
        );
        verdict.changed.truncate(1);
        assert!(
            words(&verdict, 3, (0, &[], 0), Errors::Worse)
                .starts_with("humidity of a has moved up by 10 %")
        );
        verdict.changed.clear();
        assert!(words(&verdict, 3, (0, &[], 0), Errors::NotWorse).contains("again as version 3"));
    }
}
