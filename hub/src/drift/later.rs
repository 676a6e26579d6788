//! Whether the world has changed once more, after a time that something has learnt until: owns that verdict over the champion's
//! daily errors, never reads them and decides nothing.

use std::collections::BTreeMap;

use fieldcast_bundle::DailyErrors;
use fieldcast_features::Millis;

use super::verdict::{DeviceDays, Rules, Verdict, verdict};

const DAY_MS: Millis = 86_400_000;

/// What is known of the world after the champion's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Since when it is as it was learnt; none: it is the champion's world, in which errors are as the champion promised.
    pub since: Option<Millis>,
    /// Until when it was learnt, or is taken for settled.
    pub until: Millis,
}

/// A later change.
#[derive(Debug, Clone, PartialEq)]
pub struct Later {
    /// The verdict behind it; of errors that fell, its ratios are those of what they fell from.
    pub verdict: Verdict,
    /// In words.
    pub words: String,
}

/// A change of the champion's errors that began after the world was learnt; none where the errors go on as they were.
///
/// In a world that is not the champion's its errors have another level, and the next change may as well lower it: there the days of
/// that world are what others are measured by, and both directions count.
#[must_use]
pub fn change(
    days: &[DeviceDays],
    promise: &DailyErrors,
    known: Known,
    rules: &Rules,
) -> Option<Later> {
    let Some(since) = known.since else {
        return grown(days, promise, known.until, rules).map(|verdict| Later {
            words: verdict.words.clone(),
            verdict,
        });
    };
    let mut own = from(days, since);
    let levels: BTreeMap<String, f64> = own
        .iter()
        .filter_map(|d| Some((d.device.clone(), level(d, known.until, rules)?)))
        .collect();
    // Who has not shown its errors in that world says nothing of the next.
    own.retain(|d| levels.contains_key(&d.device));
    // The days themselves are among those that are judged, so that they count as what was measured, no more.
    let measured = DailyErrors {
        levels,
        days: 1,
        ..promise.clone()
    };
    let both = [
        (grown(&own, &measured, known.until, rules), false),
        (
            grown(&mirrored(&own), &negated(measured), known.until, rules),
            true,
        ),
    ];
    let found = both
        .into_iter()
        .find_map(|(found, fell)| Some((found?, fell)));
    found.map(|(verdict, fell)| Later {
        words: words(&verdict, fell),
        verdict,
    })
}

/// A confirmed verdict with the onset of the newest change: where the world has changed once more since, what lies before that is
/// another world's, and the days after it alone say whether the champion fails in this one.
#[must_use]
pub fn newest(
    judged: Verdict,
    days: &[DeviceDays],
    promise: &DailyErrors,
    rules: &Rules,
) -> Verdict {
    let sure = Rules {
        min_t: rules.min_t_unasked,
        ..*rules
    };
    // Whom the bundle does not name is measured by its days before the first onset, also where later days alone are judged.
    let mut promise = promise.clone();
    for d in days {
        if !promise.levels.contains_key(&d.device)
            && let Some(level) = level(d, judged.onset, rules)
        {
            promise.levels.insert(d.device.clone(), level);
        }
    }
    let promise = &promise;
    let settled = Millis::try_from(rules.min_days).unwrap_or(Millis::MAX / DAY_MS) * DAY_MS;
    let mut newest = judged;
    // Each turn moves the onset by as many days as make a level, so that it ends.
    while newest.confirmed {
        let known = Known {
            since: Some(newest.onset),
            until: newest.onset.saturating_add(settled),
        };
        let Some(later) = change(days, promise, known, &sure) else {
            break;
        };
        let onset = later.verdict.onset;
        let now = verdict(onset, &from(days, onset), promise, rules);
        newest = Verdict {
            onset,
            words: format!("{}; {}", now.words, later.words),
            ..now
        };
    }
    newest
}

fn from(days: &[DeviceDays], since: Millis) -> Vec<DeviceDays> {
    let mut own = days.to_vec();
    own.iter_mut()
        .for_each(|d| d.days.retain(|(day, _)| *day >= since));
    own
}

/// Mean log error of a device until then, over enough days to go by.
fn level(d: &DeviceDays, until: Millis, rules: &Rules) -> Option<f64> {
    let before = d.days.iter().filter(|(day, _)| *day < until);
    let logs: Vec<f64> = before.map(|(_, e)| e.max(1e-12).ln()).collect();
    (logs.len() >= rules.min_days).then(|| logs.iter().sum::<f64>() / logs.len() as f64)
}

fn grown(
    days: &[DeviceDays],
    promise: &DailyErrors,
    until: Millis,
    rules: &Rules,
) -> Option<Verdict> {
    Some(verdict(until, days, promise, rules)).filter(|v| v.confirmed && v.onset >= until)
}

/// Errors of which those that fell have grown.
fn mirrored(days: &[DeviceDays]) -> Vec<DeviceDays> {
    let inverse = |(day, e): &(Millis, f64)| (*day, 1.0 / e.max(1e-12));
    let one = |d: &DeviceDays| DeviceDays {
        device: d.device.clone(),
        days: d.days.iter().map(inverse).collect(),
    };
    days.iter().map(one).collect()
}

fn negated(promise: DailyErrors) -> DailyErrors {
    DailyErrors {
        mean: -promise.mean,
        levels: promise.levels.into_iter().map(|(d, l)| (d, -l)).collect(),
        ..promise
    }
}

fn words(verdict: &Verdict, fell: bool) -> String {
    let since = chrono::DateTime::from_timestamp_millis(verdict.onset)
        .map_or_else(String::new, |d| d.format("%Y-%m-%d").to_string());
    let ratio = if fell {
        1.0 / verdict.ratio
    } else {
        verdict.ratio
    };
    format!(
        "since {since} the champion's error is {ratio:.2} times what it was in the days before (t = {:.1})",
        verdict.t
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn promise() -> DailyErrors {
        DailyErrors {
            std: 0.15,
            fleet_std: 0.15,
            days: 60,
            levels: [("a".to_owned(), 0.0), ("b".to_owned(), 3.0)].into(),
            ..DailyErrors::default()
        }
    }

    /// Two devices of different scale; the level of each day by stretches of (days, times the usual error).
    fn history(stretches: &[(usize, f64)]) -> Vec<DeviceDays> {
        let levels: Vec<f64> = stretches
            .iter()
            .flat_map(|(n, times)| std::iter::repeat_n(*times, *n))
            .collect();
        let device = |(name, level): (&String, &f64)| DeviceDays {
            device: name.clone(),
            days: levels
                .iter()
                .enumerate()
                .map(|(i, times)| {
                    let noise = 0.15 * ((i * 7 % 5) as f64 - 2.0) / 1.5;
                    (i as Millis * DAY_MS, times * (level + noise).exp())
                })
                .collect(),
        };
        promise().levels.iter().map(device).collect()
    }

    fn rules() -> Rules {
        let rules = Rules::default();
        Rules {
            min_t: rules.min_t_unasked,
            ..rules
        }
    }

    fn found(stretches: &[(usize, f64)], since: Option<i64>, until: i64) -> Option<(i64, String)> {
        let known = Known {
            since: since.map(|d| d * DAY_MS),
            until: until * DAY_MS,
        };
        let later = change(&history(stretches), &promise(), known, &rules())?;
        Some((later.verdict.onset / DAY_MS, later.words))
    }

    #[test]
    fn in_the_champions_world_only_growth_after_what_was_learnt_counts() {
        // A version that learnt until day 40 waits in shadow.
        assert_eq!(found(&[(70, 1.0)], None, 40), None);
        let (onset, words) = found(&[(50, 1.0), (10, 2.0)], None, 40).unwrap();
        assert!((48..=52).contains(&onset), "{onset}: {words}");
        // It learnt from this change: there is nothing later.
        assert_eq!(found(&[(20, 1.0), (40, 2.0)], None, 40), None);
        assert_eq!(
            found(&[(50, 1.0), (20, 0.5)], None, 40),
            None,
            "errors that fall are none"
        );
    }

    #[test]
    fn in_a_later_world_growth_and_fall_are_told_by_that_worlds_own_days() {
        // The world changed on day 30; a version learnt from it until day 45.
        let second = [(30, 1.0), (40, 2.0)];
        assert_eq!(
            found(&second, Some(30), 45),
            None,
            "the known change is no news"
        );
        let (onset, words) = found(&[(30, 1.0), (20, 2.0), (10, 4.0)], Some(30), 45).unwrap();
        assert!((48..=52).contains(&onset), "{onset}: {words}");
        let (onset, words) = found(&[(30, 1.0), (20, 2.0), (10, 1.0)], Some(30), 45).unwrap();
        assert!((48..=52).contains(&onset), "{onset}: {words}");
        assert!(words.contains("0.5"), "{words}");
    }

    #[test]
    fn the_newest_change_is_the_onset_and_a_world_that_came_back_is_not_confirmed() {
        let judge = |stretches: &[(usize, f64)]| {
            let days = history(stretches);
            let first = verdict(0, &days, &promise(), &Rules::default());
            assert!(first.confirmed, "{}", first.words);
            newest(first, &days, &promise(), &Rules::default())
        };
        let once = judge(&[(30, 1.0), (30, 2.0)]);
        assert!(
            once.confirmed && (28..=32).contains(&(once.onset / DAY_MS)),
            "{}",
            once.words
        );
        // Three worlds: errors of the third are lower than of the second, and still no good.
        let twice = judge(&[(30, 1.0), (20, 3.0), (20, 1.7)]);
        assert!(
            twice.confirmed && (48..=52).contains(&(twice.onset / DAY_MS)),
            "{}",
            twice.words
        );
        let back = judge(&[(30, 1.0), (30, 2.5), (14, 1.0)]);
        assert!(
            !back.confirmed && (58..=62).contains(&(back.onset / DAY_MS)),
            "{}",
            back.words
        );
    }

    #[test]
    fn a_world_that_came_back_is_so_for_devices_that_no_bundle_names_too() {
        let days = history(&[(30, 1.0), (30, 2.5), (14, 1.0)]);
        let mut promise = promise();
        promise.levels.remove("b");
        let first = verdict(30 * DAY_MS, &days, &promise, &Rules::default());
        assert!(first.confirmed, "{}", first.words);
        let back = newest(first, &days, &promise, &Rules::default());
        assert!(!back.confirmed, "{}", back.words);
    }

    #[test]
    fn too_few_days_say_nothing() {
        assert_eq!(found(&[(50, 1.0), (2, 2.0)], None, 40), None);
        let few = [(30, 1.0), (5, 2.0), (20, 4.0)];
        assert_eq!(
            found(&few, Some(30), 35),
            None,
            "of five days no level is known"
        );
    }

    /// Noise of unit deviation, each day alike to the one before.
    fn noise(seed: u64, alike: f64) -> impl FnMut() -> f64 {
        let mut stream = fieldcast_sim::Stream::new(seed, 0);
        let mut before = 0.0;
        move || {
            let sum = (0..12).map(|_| stream.uniform()).sum::<f64>() - 6.0;
            before = alike * before + (1.0 - alike * alike).sqrt() * sum;
            before
        }
    }

    #[test]
    fn a_later_world_that_stays_is_rarely_called_changed() {
        let promise = DailyErrors {
            std: 0.35,
            fleet_std: 0.35,
            lag1: 0.3,
            ..promise()
        };
        let mut alarms = 0;
        let worlds = 300;
        for world in 0..worlds {
            let mut draw = noise(world + 1, 0.3);
            let all: Vec<(Millis, f64)> = (0..70)
                .map(|day| (day * DAY_MS, (0.5 + 0.35 * draw()).exp()))
                .collect();
            // A version learnt the first ten days; a look each day for two months, as where devices complain.
            let outdated = (15..=70).any(|day| {
                let days: Vec<_> = all.iter().take(day).copied().collect();
                let one = DeviceDays {
                    device: "a".into(),
                    days,
                };
                let known = Known {
                    since: Some(0),
                    until: 10 * DAY_MS,
                };
                change(&[one], &promise, known, &rules()).is_some()
            });
            alarms += usize::from(outdated);
        }
        assert!(alarms * 50 <= worlds as usize, "{alarms} of {worlds}");
    }
}
