//! Would a version of before do better now: owns that verdict over the losses of champion and earlier versions on the same windows,
//! never makes a forecast and decides nothing.
//!
//! A world that comes back may be an easier one: then no error grows, and the champion is wrong all the same. What shows it is not how
//! large its errors are, but that another model's are smaller.

use std::collections::BTreeMap;

use fieldcast_drift::paired::{Row, Settings, Since, better_since};
use fieldcast_features::Millis;
use serde::Serialize;

use super::verdict::{DeviceVerdict, Rules, Verdict};

/// Blocks that are expected to pass, at least, before a champion that no version of before beats is called beaten: a season of days. The
/// sum counts up for equal models; of versions that are worse, as those of other worlds are, hardly any ever does.
const EXPECTED: f64 = 120.0;

/// How champion and versions of before did in one block of one device.
#[derive(Debug, Clone, PartialEq)]
pub struct Loss {
    /// Begin of the block, data time.
    pub from: Millis,
    /// Device.
    pub device: String,
    /// Steps with an actual value.
    pub steps: u32,
    /// The champion's mean absolute error.
    pub champion: f64,
    /// Those of the versions, in their order; NaN where one makes no forecast.
    pub rivals: Vec<f64>,
}

/// What one version of before says.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rival {
    /// Version.
    pub version: i64,
    /// Since when it may be better, and how much speaks for it; none before there is anything.
    pub since: Option<Since>,
}

/// A champion that a version of before beats.
#[derive(Debug, Clone, PartialEq)]
pub struct Beaten {
    /// The verdict: confirmed, with its onset; ratios are of the champion's error to the version's, `t` is not used.
    pub verdict: Verdict,
    /// The version that does best.
    pub by: i64,
    /// What each version says.
    pub rivals: Vec<Rival>,
}

/// Judges the champion beside these versions; none where nothing is shown.
///
/// It may be asked after each block: false alarms are paid for by the sum of bets behind [`better_since`], and the number of versions by
/// its mean over them. The best one must do better by as much as errors must grow elsewhere, over as many days. A block has so many
/// `pairs` of a forecast's steps and actual values at most.
#[must_use]
pub fn judge(losses: &[Loss], versions: &[i64], pairs: usize, rules: &Rules) -> Option<Beaten> {
    let settings = Settings::default().with_pairs(pairs);
    let rivals: Vec<Rival> = versions
        .iter()
        .enumerate()
        .map(|(i, version)| Rival {
            version: *version,
            since: better_since(rows(losses, i), &settings),
        })
        .collect();
    let evidence = |rival: &Rival| rival.since.map_or(0.0, |s| s.evidence);
    let mean = rivals.iter().map(evidence).sum::<f64>() / rivals.len().max(1) as f64;
    let (best, rival) = rivals
        .iter()
        .enumerate()
        .max_by(|a, b| evidence(a.1).total_cmp(&evidence(b.1)))?;
    let since = rival.since?;
    let enough = usize::try_from(since.blocks).is_ok_and(|blocks| blocks >= rules.min_days);
    if mean < EXPECTED || !enough {
        return None;
    }
    let devices = devices(losses, best, since.from_ms, rules);
    let logs = devices.iter().map(|d| d.ratio.ln()).sum::<f64>();
    let ratio = (logs / devices.len().max(1) as f64).exp();
    if ratio < rules.min_ratio {
        return None;
    }
    let began = chrono::DateTime::from_timestamp_millis(since.from_ms)
        .map_or_else(String::new, |d| d.format("%Y-%m-%d").to_string());
    let words = format!(
        "since {began} version {} of before would have done better: the champion's error is {ratio:.2} times its error over {} blocks \
         (evidence {mean:.0}, asked: {EXPECTED:.0})",
        rival.version, since.blocks
    );
    Some(Beaten {
        verdict: Verdict {
            confirmed: true,
            enough: true,
            words,
            onset: since.from_ms,
            ratio,
            t: 0.0,
            devices,
        },
        by: rival.version,
        rivals,
    })
}

fn rows(losses: &[Loss], rival: usize) -> impl Iterator<Item = Row<&str>> {
    losses.iter().map(move |loss| Row {
        from_ms: loss.from,
        device: loss.device.as_str(),
        running: loss.champion,
        watching: loss.rivals.get(rival).copied().unwrap_or(f64::NAN),
        steps: loss.steps,
    })
}

/// Each device's part since the onset.
fn devices(losses: &[Loss], rival: usize, onset: Millis, rules: &Rules) -> Vec<DeviceVerdict> {
    let mut sums: BTreeMap<&str, (f64, f64, usize, usize)> = BTreeMap::new();
    for loss in losses.iter().filter(|l| l.from >= onset) {
        let own = loss.rivals.get(rival).copied().unwrap_or(f64::NAN);
        if !own.is_finite() || !loss.champion.is_finite() {
            continue;
        }
        let sum = sums.entry(&loss.device).or_default();
        *sum = (
            sum.0 + loss.champion,
            sum.1 + own,
            sum.2 + usize::from(loss.champion > own),
            sum.3 + 1,
        );
    }
    let one = |(device, (champion, own, above, days)): (&str, (f64, f64, usize, usize))| {
        let ratio = champion.max(1e-12) / own.max(1e-12);
        DeviceVerdict {
            device: device.to_owned(),
            days,
            ratio,
            t: 0.0,
            above: above as f64 / days as f64,
            drifted: days >= rules.min_days && ratio >= rules.min_ratio,
        }
    };
    sums.into_iter().map(one).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const DAY: Millis = 86_400_000;

    /// Days by stretches of (days, times the champion's error is that of version 1, and of version 2), on two devices.
    fn history(stretches: &[(usize, f64, f64)]) -> Vec<Loss> {
        let mut stream = fieldcast_sim::Stream::new(9, 0);
        let mut noise = || 0.2 * ((0..12).map(|_| stream.uniform()).sum::<f64>() - 6.0);
        let days = stretches
            .iter()
            .flat_map(|(n, first, second)| std::iter::repeat_n([*first, *second], *n));
        days.enumerate()
            .flat_map(|(day, times)| {
                [("a", 3.0), ("b", 40.0)].map(|(device, level)| {
                    let champion = level * noise().exp();
                    Loss {
                        from: day as Millis * DAY,
                        device: device.to_owned(),
                        steps: 192,
                        champion,
                        rivals: times.map(|t| champion / t * noise().exp()).into(),
                    }
                })
            })
            .collect()
    }

    fn first(losses: &[Loss]) -> Option<(i64, Beaten)> {
        (1..=losses.len() / 2).find_map(|days| {
            let beaten = judge(&losses[..2 * days], &[1, 2], 192, &Rules::default())?;
            Some((days as i64, beaten))
        })
    }

    #[test]
    fn a_world_that_came_back_is_found_with_its_day_and_the_version_that_knows_it() {
        // The champion's own level never changes.
        let (day, beaten) = first(&history(&[(50, 0.6, 0.7), (40, 0.6, 1.5)])).unwrap();
        assert!((57..85).contains(&day), "after {day} days");
        let verdict = &beaten.verdict;
        let onset = verdict.onset / DAY;
        assert!((47..=54).contains(&onset), "since {onset}");
        assert!((1.3..1.8).contains(&verdict.ratio), "{}", verdict.ratio);
        assert!(verdict.confirmed && verdict.devices.iter().all(|d| d.drifted));
        assert!(verdict.words.contains("version 2"), "{}", verdict.words);
        let [one, two] = &beaten.rivals[..] else {
            panic!("two versions")
        };
        assert!(one.since.unwrap().evidence < 10.0 && two.since.unwrap().evidence > 200.0);
    }

    #[test]
    fn in_the_champions_world_and_for_a_gain_that_is_not_worth_it_nothing_is_said() {
        assert!(first(&history(&[(200, 0.8, 0.9)])).is_none());
        let little = history(&[(200, 0.8, 1.1)]);
        assert!(first(&little).is_none());
        assert!(judge(&[], &[1, 2], 192, &Rules::default()).is_none());
        assert!(judge(&little, &[], 192, &Rules::default()).is_none());
    }

    #[test]
    fn a_version_that_makes_no_forecast_takes_nobodys_place() {
        let mut losses = history(&[(40, 0.6, 0.6), (40, 1.6, 1.6)]);
        losses.iter_mut().for_each(|l| l.rivals[0] = f64::NAN);
        let (_, beaten) = first(&losses).unwrap();
        assert!(beaten.verdict.words.contains("version 2"));
        assert_eq!(beaten.rivals[0].since, None);
    }
}
