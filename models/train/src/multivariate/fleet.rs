//! Have a device's inputs changed together: owns how its sensors become one table, never the comparison.

use std::collections::BTreeMap;

use fieldcast_drift::fleet::{Rules, Series};
use fieldcast_drift::preset::{Column, Values};
use fieldcast_drift::window::{Season, discoveries};
use fieldcast_features::Millis;
use serde::Serialize;

use super::{Joint, compare};

/// Hours before the windows that are their reference: as many as are compared without thinning. What the training saw is of
/// other seasons, in which sensors go together otherwise.
const REFERENCE: usize = 1_500;
/// By how much stricter than single sensors they are judged: what drives all sensors at once, such as weather, comes and goes.
const STRICTER: f64 = 5.0;
/// About how many devices one look asks, at most, in turn: a forest is grown for each.
pub const MOST: usize = 50;

/// A device whose inputs were compared together.
#[derive(Debug, Clone, Serialize)]
pub struct Together {
    /// Device.
    pub device: String,
    /// The window that differs least.
    #[serde(flatten)]
    pub joint: Joint,
}

/// Whether a device of `n` is asked about at the `turn`-th look: some [`MOST`] are, each in its turn, whichever others there are.
#[must_use]
pub fn is_asked(device: &str, n: usize, turn: Millis) -> bool {
    let turns = n.div_ceil(MOST).max(1) as u64;
    // FNV-1a: the same everywhere.
    let place = device
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    // Its low bits alone go with those of the name's last letter.
    let place = (place ^ (place >> 32)) % turns;
    place == (turn.rem_euclid(Millis::try_from(turns).unwrap_or(1))) as u64
}

/// Compares each window of a device's sensors with the weeks before the windows, and keeps the one that differs least; none
/// where that says nothing: a single sensor, too few rows.
#[must_use]
pub fn judge(series: &[Series], end: Millis, rules: &Rules) -> Option<Together> {
    let device = series.first()?.device.clone();
    if series.len() < 2 {
        return None;
    }
    let count = Millis::try_from(rules.windows).ok()?;
    let first = end - rules.window_ms * count;
    let mut reference = table(series, Millis::MIN, first);
    while reference.len() > REFERENCE {
        reference.pop_first();
    }
    let season = Season::of(&times(&reference), None)?;
    let place = season.grid(&times(&reference));
    let mut least: Option<Joint> = None;
    for window in 0..count {
        let from = first + window * rules.window_ms;
        let current = table(series, from, from + rules.window_ms);
        let columns: Vec<Column> = series
            .iter()
            .enumerate()
            .map(|(i, s)| Column {
                name: s.sensor.clone(),
                reference: column(i, &reference),
                current: column(i, &current),
            })
            .collect();
        let grid = season.grid(&times(&current));
        let joint = compare(&columns, &place, &grid, rules.seed).ok()?;
        if least.as_ref().is_none_or(|l| joint.p > l.p) {
            least = Some(joint);
        }
    }
    let joint = least?;
    Some(Together { device, joint })
}

fn times(table: &BTreeMap<Millis, Vec<f64>>) -> Vec<Millis> {
    table.keys().copied().collect()
}

fn column(i: usize, of: &BTreeMap<Millis, Vec<f64>>) -> Values {
    Values::Numbers {
        values: of.values().map(|row| row[i]).collect(),
        whole: false,
    }
}

/// Those of all that are asked about whose difference is a discovery at a stricter rate than the rules'.
#[must_use]
pub fn found(all: Vec<Together>, rules: &Rules) -> Vec<Together> {
    let p: Vec<f64> = all.iter().map(|t| t.joint.p).collect();
    let drift = discoveries(&p, rules.rate / STRICTER);
    let both = all.into_iter().zip(drift);
    both.filter_map(|(one, drift)| drift.then_some(one))
        .collect()
}

/// Rows of a span by time, NaN where a sensor has no value.
fn table(series: &[Series], from: Millis, to: Millis) -> BTreeMap<Millis, Vec<f64>> {
    let mut rows: BTreeMap<Millis, Vec<f64>> = BTreeMap::new();
    for (i, one) in series.iter().enumerate() {
        let all = one.reference.iter().chain(&one.recent);
        for (time, value) in all.filter(|(t, _)| *t > from && *t <= to) {
            let row = rows
                .entry(*time)
                .or_insert_with(|| vec![f64::NAN; series.len()]);
            row[i] = *value;
        }
    }
    rows
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const HOUR: Millis = 3_600_000;

    /// Two sensors that go together, or against each other from the hour on.
    fn pair(turns: usize) -> (Vec<Series>, Millis) {
        let mut state = 7_u64;
        let mut noise = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 * 2f64.powi(-52) - 1.0
        };
        let (known, all) = (24 * 60, 24 * 74);
        let mut sides = [Vec::new(), Vec::new()];
        for h in 0..all {
            let (common, own) = (noise(), 0.2 * noise());
            let sign = if h >= turns { -1.0 } else { 1.0 };
            let time = (h as Millis + 1) * HOUR;
            sides[0].push((time, common));
            sides[1].push((time, sign * common + own));
        }
        let series = sides.into_iter().enumerate().map(|(i, mut whole)| Series {
            device: "a".into(),
            sensor: format!("s{i}"),
            recent: whole.split_off(known),
            reference: whole,
        });
        (series.collect(), all as Millis * HOUR)
    }

    #[test]
    fn sensors_that_turn_against_each_other_are_found_and_quiet_ones_are_not() {
        let rules = Rules::default();
        let (turned, end) = pair(24 * 60);
        let changed = found(vec![judge(&turned, end, &rules).unwrap()], &rules);
        let chiefly = changed[0].joint.chiefly();
        assert!(chiefly.contains(&"s0") && chiefly.contains(&"s1"));
        let (quiet, end) = pair(usize::MAX);
        assert!(found(vec![judge(&quiet, end, &rules).unwrap()], &rules).is_empty());
        assert!(judge(&quiet[..1], end, &rules).is_none());
    }

    #[test]
    fn of_a_large_fleet_some_are_asked_and_the_others_at_the_next_looks() {
        for (n, turns) in [(1, 1), (50, 1), (51, 2), (1_000, 20)] {
            let mut all = Vec::new();
            for turn in 0..turns {
                let name = |i: &usize| format!("device-{i:04}");
                let asked: Vec<usize> =
                    (0..n).filter(|i| is_asked(&name(i), n, turn - 7)).collect();
                let most = if turns == 1 { MOST } else { 2 * MOST };
                assert!(asked.len() <= most, "{n}: {}", asked.len());
                all.extend(asked);
            }
            all.sort_unstable();
            assert_eq!(all, (0..n).collect::<Vec<_>>(), "each once");
        }
    }
}
