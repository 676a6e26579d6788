//! Have a device's inputs changed together: owns how its sensors become one table, never the comparison.

use std::collections::BTreeMap;

use fieldcast_drift::fleet::{Rules, Series, season_is_known};
use fieldcast_drift::preset::{Column, Values};
use fieldcast_drift::window::{Grid, Season, discoveries};
use fieldcast_features::Millis;
use fieldcast_train::multivariate::{Joint, compare};
use serde::Serialize;

use crate::check::words::short;

/// Most devices that one look asks about, evenly taken from all: a forest is grown for each.
const MOST: usize = 50;

/// A device whose inputs were compared together.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Together {
    device: String,
    #[serde(flatten)]
    joint: Joint,
}

impl Together {
    pub(super) fn words(&self) -> String {
        format!(
            "at {} the inputs no longer go together as they did, chiefly {} (AUC {}, chance is {})",
            self.device,
            self.joint.chiefly().join(", "),
            short(self.joint.auc),
            short(self.joint.auc_chance)
        )
    }
}

/// Whether the `i`-th of `n` devices is asked about.
pub(super) fn is_asked(i: usize, n: usize) -> bool {
    i.is_multiple_of(n.div_ceil(MOST).max(1))
}

/// Compares all windows of a device's sensors as one with their reference; none where that says nothing: a single sensor, a
/// season that was never seen, too few rows.
pub(super) fn judge(series: &[Series], end: Millis, rules: &Rules) -> Option<Together> {
    let device = series.first()?.device.clone();
    if series.len() < 2 || !series.iter().all(|s| season_is_known(s, end, rules)) {
        return None;
    }
    let from = end - rules.window_ms * Millis::try_from(rules.windows).ok()?;
    let reference = table(series, |s| &s.reference, Millis::MIN, end);
    let current = table(series, |s| &s.recent, from, end);
    let times = |table: &BTreeMap<Millis, Vec<f64>>| table.keys().copied().collect::<Vec<_>>();
    let season = Season::of(&times(&reference), None)?;
    let column = |i: usize, of: &BTreeMap<Millis, Vec<f64>>| Values::Numbers {
        values: of.values().map(|row| row[i]).collect(),
        whole: false,
    };
    let columns: Vec<Column> = series
        .iter()
        .enumerate()
        .map(|(i, s)| Column {
            name: s.sensor.clone(),
            reference: column(i, &reference),
            current: column(i, &current),
        })
        .collect();
    let grids: (Grid, Grid) = (
        season.grid(&times(&reference)),
        season.grid(&times(&current)),
    );
    let joint = compare(&columns, &grids.0, &grids.1, rules.seed).ok()?;
    Some(Together { device, joint })
}

/// Those of all that are asked about whose difference is a discovery at the rules' rate.
pub(super) fn found(all: Vec<Together>, rules: &Rules) -> Vec<Together> {
    let p: Vec<f64> = all.iter().map(|t| t.joint.p).collect();
    let drift = discoveries(&p, rules.rate);
    let both = all.into_iter().zip(drift);
    both.filter_map(|(one, drift)| drift.then_some(one))
        .collect()
}

/// Rows by time, NaN where a sensor has no value.
fn table<'a>(
    series: &'a [Series],
    side: impl Fn(&'a Series) -> &'a Vec<(Millis, f64)>,
    from: Millis,
    to: Millis,
) -> BTreeMap<Millis, Vec<f64>> {
    let mut rows: BTreeMap<Millis, Vec<f64>> = BTreeMap::new();
    for (i, one) in series.iter().enumerate() {
        for (time, value) in side(one).iter().filter(|(t, _)| *t > from && *t <= to) {
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
        assert!(changed[0].words().contains("s0") && changed[0].words().contains("s1"));
        let (quiet, end) = pair(usize::MAX);
        assert!(found(vec![judge(&quiet, end, &rules).unwrap()], &rules).is_empty());
        assert!(judge(&quiet[..1], end, &rules).is_none());
    }

    #[test]
    fn of_a_large_fleet_some_are_asked() {
        for (n, asked) in [(1, 1), (50, 50), (51, 26), (1_000, 50)] {
            assert_eq!((0..n).filter(|i| is_asked(*i, n)).count(), asked, "{n}");
        }
    }
}
