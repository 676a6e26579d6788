//! What is said of a fleet's inputs: owns the sentences, never a number they are made of.

use std::collections::BTreeMap;

use chrono::DateTime;
use fieldcast_drift::fleet::{Against, Changed, Verdict};
use fieldcast_drift::window::Moved;
use fieldcast_train::multivariate::fleet::Together;

use crate::check::words::short;

/// Most devices that are named in a sentence.
const NAMED: usize = 3;
/// How far a mean must move, in deviations, before that is what is said.
const MOVED: f64 = 0.1;
/// Errors over those promised that nobody would call worse.
const NOT_WORSE: f64 = 1.05;
/// Smallest t of larger ones that is hardly chance.
const CHANCE: f64 = 2.0;

/// What is known of the forecasts meanwhile.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Errors {
    /// Devices find their errors larger than the calibration says: that is looked into by itself.
    Worse,
    /// No device complains: what was measured lately over what the calibration promises, and the t of that.
    Measured {
        /// 1: as promised.
        ratio: f64,
        /// In standard errors.
        t: f64,
    },
    /// Nothing is known of them.
    Unknown,
    /// Nobody has measured them lately; estimated over usual error.
    Unmeasured(f64),
}

impl Errors {
    fn words(self) -> String {
        match self {
            Self::Worse => {
                "forecasts are worse as well, which is looked into by itself and may retrain"
                    .to_owned()
            }
            Self::Measured { ratio, .. } if ratio <= NOT_WORSE => {
                "forecasts are not worse".to_owned()
            }
            Self::Measured { ratio, t } if t < CHANCE => {
                format!("forecasts err {ratio:.2} times as much as promised, which may be chance")
            }
            Self::Measured { ratio, .. } => {
                format!(
                    "forecasts err {ratio:.2} times as much as promised, which is not confirmed to be a change"
                )
            }
            Self::Unknown => "whether forecasts are worse is not known yet".to_owned(),
            Self::Unmeasured(ratio) => format!(
                "no actual values have come lately: by the width of their intervals forecasts err {ratio:.2} times as much as \
                 usual (an estimate)"
            ),
        }
    }
}

/// How a sensor's values went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Up,
    Down,
    Other,
}

/// The verdict in words; `agreeing` of the changed sensors are raised by their own device's monitors too;
/// `joint` says where inputs changed together, `kept` counts those that had changed and can no longer be judged; `training` is
/// the job that trains the forecaster anew meanwhile.
#[must_use]
pub(super) fn words(
    verdict: &Verdict,
    version: i64,
    (agreeing, joint, kept): (usize, &[Together], usize),
    (errors, training): (Errors, Option<i64>),
) -> String {
    if verdict.changed.is_empty() && joint.is_empty() && kept == 0 {
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
    let errors = match (errors, training) {
        (_, Some(job)) => format!("{}; training {job} is under way", errors.words()),
        (Errors::Worse, None) => errors.words(),
        (_, None) => format!("{}; no retraining", errors.words()),
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
        .chain(joined(joint))
        .chain((kept > 0).then(|| {
            format!("{kept} that had changed can no longer be judged: too few readings, or none")
        }))
        .collect();
    format!("{}; {errors}", parts.join("; "))
}

/// Where devices' inputs changed together, in words: some of them, and how many others.
fn joined(joint: &[Together]) -> Vec<String> {
    let one = |one: &Together| {
        format!(
            "at {} the inputs no longer go together as they did, chiefly {} (AUC {}, chance is {})",
            one.device,
            one.joint.chiefly().join(", "),
            short(one.joint.auc),
            short(one.joint.auc_chance)
        )
    };
    let others = joint.len().saturating_sub(NAMED);
    let others = (others > 0).then(|| format!("nor at {others} other devices"));
    joint.iter().take(NAMED).map(one).chain(others).collect()
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

    const FINE: Errors = Errors::Measured {
        ratio: 0.98,
        t: -0.3,
    };

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
            words(&verdict, 3, (0, &[], 0), (FINE, None)),
            "humidity at 3 devices (a, b, c) has moved up by 12 %, since 3 March 2026; load of a takes other values, or \
             changes in another way, about the same mean, since 3 March 2026; forecasts are not worse; no retraining"
        );
        verdict.changed.truncate(1);
        assert!(
            words(&verdict, 3, (0, &[], 0), (Errors::Worse, None))
                .starts_with("humidity of a has moved up by 10 %")
        );
        let said = |ratio, t, training| {
            let errors = Errors::Measured { ratio, t };
            let said = words(&verdict, 3, (0, &[], 0), (errors, training));
            said.split("; ").skip(1).collect::<Vec<_>>().join("; ")
        };
        assert_eq!(
            said(1.12, 1.1, None),
            "forecasts err 1.12 times as much as promised, which may be chance; no retraining"
        );
        assert_eq!(
            said(1.3, 2.4, Some(7)),
            "forecasts err 1.30 times as much as promised, which is not confirmed to be a change; training 7 is under way"
        );
        verdict.changed.clear();
        assert!(words(&verdict, 3, (0, &[], 0), (FINE, None)).contains("again as version 3"));
    }
}
