//! Have the inputs of a fleet changed: owns the verdict over sensors, devices and consecutive windows, never reads values.
//!
//! Each window of each device's sensor is compared with its reference by the default policy ([`crate::window`]). Over all of
//! them Benjamini and Hochberg's procedure keeps the rate of false discoveries of a window; what one window says counts only
//! when the windows right before it say the same, in the same direction. In a season of the year that the reference never
//! saw they are compared with the weeks before instead: a new season is no drift, and a sudden change is one in any.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::StatError;
use crate::onset::onset;
use crate::preset::{Column, Values};
use crate::window::{Compared, Grid, Moved, Season, compare, discoveries};

const DAY_MS: i64 = 86_400_000;
/// Days to either side of a seen day of the year that are of its season.
const LIKE_DAYS: i64 = 21;
/// Days of the year, rounded up.
const YEAR_DAYS: i64 = 366;
/// How far before the windows they are compared with, where the reference never saw their season of the year.
const BEFORE_MS: i64 = 8 * 7 * DAY_MS;
/// How far a mean must move, in deviations of the reference, to have a direction.
const DIRECTION: f64 = 0.1;
/// How far back a beginning is looked for.
const ONSET_DAYS: i64 = 180;

/// When a change of inputs is believed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rules {
    /// Rate of false discoveries over the sensors and devices of one window.
    pub rate: f64,
    /// Consecutive windows that must agree.
    pub windows: usize,
    /// Length of a window, ms.
    pub window_ms: i64,
    /// Seed of the bootstrap.
    pub seed: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            rate: 0.05,
            windows: 2,
            window_ms: 7 * DAY_MS,
            seed: 1,
        }
    }
}

/// What a sensor's windows were compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Against {
    /// The reference.
    Reference,
    /// The eight weeks before them: the reference never saw this season of the year.
    WeeksBefore,
}

/// One sensor of one device.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Device.
    pub device: String,
    /// Sensor.
    pub sensor: String,
    /// Times (ms UTC, ascending) and values that are as they should be.
    pub reference: Vec<(i64, f64)>,
    /// The same of what came after them.
    pub recent: Vec<(i64, f64)>,
}

/// A sensor that has changed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Changed {
    /// Device.
    pub device: String,
    /// Sensor.
    pub sensor: String,
    /// When it most likely began (ms UTC), to the day.
    pub onset: i64,
    /// Share of the evidence of all that have changed.
    pub contribution: f64,
    /// What it was compared with.
    pub against: Against,
    /// p-values of the windows, the newest first.
    pub p: Vec<f64>,
    /// The newest window's comparison.
    #[serde(flatten)]
    pub compared: Compared,
}

/// A sensor that cannot be judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Device.
    pub device: String,
    /// Sensor.
    pub sensor: String,
    /// Why, as the end of a sentence.
    pub reason: String,
}

/// The verdict.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// Begin of the oldest window that was judged (ms UTC).
    pub from: i64,
    /// End of the newest.
    pub to: i64,
    /// Sensors of devices that were compared.
    pub compared: usize,
    /// Those that have changed, the largest contribution first.
    pub changed: Vec<Changed>,
    /// Those that could not be judged.
    pub skipped: Vec<Skipped>,
    /// The rules.
    pub rules: Rules,
}

/// What the windows of one sensor say by themselves.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    device: String,
    sensor: String,
    onset: i64,
    against: Against,
    windows: Vec<Compared>,
}

impl Rules {
    /// # Errors
    /// [`StatError::Parameter`] for rules without meaning.
    pub fn check(&self) -> Result<(), StatError> {
        let refuse = |parameter, problem: &str| {
            Err(StatError::Parameter {
                subject: "the check of a fleet's inputs",
                parameter,
                problem: problem.into(),
            })
        };
        if !(self.rate > 0.0 && self.rate < 1.0) {
            return refuse("rate", "must lie between 0 and 1");
        }
        if self.windows == 0 || self.window_ms <= 0 {
            return refuse("windows", "and their length must be above 0");
        }
        Ok(())
    }
}

/// Compares one sensor's windows that end at `end` with its reference. A fleet is judged one sensor after the other, so that
/// only one sensor's values need be held.
///
/// # Errors
/// Why it cannot be judged.
pub fn judge(series: &Series, end: i64, rules: &Rules) -> Result<Judged, Skipped> {
    let (windows, against) = windows(series, end, rules).map_err(|reason| Skipped {
        device: series.device.clone(),
        sensor: series.sensor.clone(),
        reason,
    })?;
    // Where it began matters only of what may be a discovery.
    let found = windows.iter().all(|c| c.p <= rules.rate);
    Ok(Judged {
        device: series.device.clone(),
        sensor: series.sensor.clone(),
        onset: if found { began(series, end) } else { end },
        against,
        windows,
    })
}

/// The verdict over a fleet whose sensors were judged at `end` by the same rules.
#[must_use]
pub fn confirm(known: &[Judged], skipped: Vec<Skipped>, end: i64, rules: &Rules) -> Verdict {
    let mut agree = vec![true; known.len()];
    for window in 0..rules.windows {
        let p: Vec<f64> = known
            .iter()
            .map(|j| j.windows.get(window).map_or(1.0, |c| c.p))
            .collect();
        let found = discoveries(&p, rules.rate);
        agree.iter_mut().zip(found).for_each(|(a, f)| *a &= f);
    }
    let agreed = known.iter().zip(agree).filter(|(_, agree)| *agree);
    let mut changed: Vec<Changed> = agreed
        .filter(|(j, _)| one_way(&j.windows))
        .filter_map(|(j, _)| {
            Some(Changed {
                device: j.device.clone(),
                sensor: j.sensor.clone(),
                onset: j.onset,
                contribution: evidence(&j.windows),
                against: j.against,
                p: j.windows.iter().map(|c| c.p).collect(),
                compared: j.windows.first()?.clone(),
            })
        })
        .collect();
    let total: f64 = changed.iter().map(|c| c.contribution).sum();
    changed
        .iter_mut()
        .for_each(|c| c.contribution /= total.max(f64::MIN_POSITIVE));
    changed.sort_by(|a, b| b.contribution.total_cmp(&a.contribution));
    Verdict {
        from: end - rules.window_ms * i64::try_from(rules.windows).unwrap_or(1),
        to: end,
        compared: known.len(),
        changed,
        skipped,
        rules: *rules,
    }
}

/// A series' windows, the newest first, and what they were compared with.
fn windows(series: &Series, end: i64, rules: &Rules) -> Result<(Vec<Compared>, Against), String> {
    let count = i64::try_from(rules.windows).unwrap_or(1);
    let first = end - count * rules.window_ms;
    let (reference, against) = reference(series, (first, end), rules)?;
    let inside = |back: i64| -> Vec<(i64, f64)> {
        let to = end - back * rules.window_ms;
        let from = to - rules.window_ms;
        let inside = series.recent.iter().filter(|(t, _)| *t > from && *t <= to);
        inside.copied().collect()
    };
    let windows: Vec<Vec<(i64, f64)>> = (0..count).map(inside).collect();
    let mut out = compared(&series.sensor, &reference, &windows, end, rules)?;
    if against == Against::WeeksBefore {
        // A season that goes on as it went is no change, and neither is one that turns: only what differs from both, in one
        // direction, is.
        let line = Line::through(&reference);
        let flat = |of: &[(i64, f64)]| of.iter().map(|(t, v)| (*t, v - line.at(*t))).collect();
        let reference: Vec<(i64, f64)> = flat(&reference);
        let windows: Vec<Vec<(i64, f64)>> = windows.iter().map(|w| flat(w)).collect();
        let onward = compared(&series.sensor, &reference, &windows, end, rules)?;
        for (one, onward) in out.iter_mut().zip(onward) {
            let agree = one_way(&[one.clone(), onward.clone()]);
            one.p = if agree { one.p.max(onward.p) } else { 1.0 };
        }
    }
    Ok((out, against))
}

/// Each window against the reference.
fn compared(
    name: &str,
    reference: &[(i64, f64)],
    windows: &[Vec<(i64, f64)>],
    end: i64,
    rules: &Rules,
) -> Result<Vec<Compared>, String> {
    let (times, values): (Vec<i64>, Vec<f64>) = reference.iter().copied().unzip();
    let season = Season::of(&times, None);
    let grid = |times: &[i64]| {
        season
            .as_ref()
            .map_or_else(Grid::default, |s| s.grid(times))
    };
    let numbers = |values| Values::Numbers {
        values,
        whole: false,
    };
    let place = grid(&times);
    let mut column = Column {
        name: name.to_owned(),
        reference: numbers(values),
        current: numbers(Vec::new()),
    };
    let mut out = Vec::new();
    for window in windows {
        let (times, values): (Vec<i64>, Vec<f64>) = window.iter().copied().unzip();
        column.current = numbers(values);
        let seed = rules
            .seed
            .wrapping_add(end.unsigned_abs())
            .wrapping_add(out.len() as u64);
        out.push(compare(&column, &place, &grid(&times), seed)?);
    }
    Ok(out)
}

/// A least-squares line over time.
struct Line {
    origin: i64,
    level: f64,
    slope: f64,
}

impl Line {
    fn through(values: &[(i64, f64)]) -> Self {
        let origin = values.first().map_or(0, |(t, _)| *t);
        let finite = || values.iter().filter(|(_, v)| v.is_finite());
        let n = finite().count().max(1) as f64;
        let x = |t: i64| (t - origin) as f64;
        let (mx, my) = finite().fold((0.0, 0.0), |s, (t, v)| (s.0 + x(*t) / n, s.1 + v / n));
        let (both, own) = finite().fold((0.0, 0.0), |s, (t, v)| {
            let d = x(*t) - mx;
            (s.0 + d * (v - my), s.1 + d * d)
        });
        let slope = if own > 0.0 { both / own } else { 0.0 };
        Self {
            origin,
            level: my - slope * mx,
            slope,
        }
    }

    fn at(&self, time: i64) -> f64 {
        self.level + self.slope * (time - self.origin) as f64
    }
}

/// Whether the reference saw the season of the year that the windows lie in.
#[must_use]
fn season_is_known(series: &Series, end: i64, rules: &Rules) -> bool {
    let first = end - rules.window_ms * i64::try_from(rules.windows).unwrap_or(1);
    let seen: BTreeSet<i64> = series
        .reference
        .iter()
        .map(|(t, _)| day_of_year(*t))
        .collect();
    let step = usize::try_from(rules.window_ms.max(1)).unwrap_or(usize::MAX);
    let mut middles = (first + rules.window_ms / 2..end).step_by(step);
    series.reference.is_empty() || middles.all(|middle| in_season(&seen, middle))
}

/// What the windows are compared with: the reference, or the weeks before them in a season of the year that it never saw.
fn reference(
    series: &Series,
    (first, end): (i64, i64),
    rules: &Rules,
) -> Result<(Vec<(i64, f64)>, Against), String> {
    if season_is_known(series, end, rules) {
        return Ok((series.reference.clone(), Against::Reference));
    }
    let from = first - BEFORE_MS;
    let all = series.reference.iter().chain(&series.recent);
    let before: Vec<(i64, f64)> = all
        .filter(|(t, _)| *t > from && *t <= first)
        .copied()
        .collect();
    let span = before
        .last()
        .zip(before.first())
        .map_or(0, |(b, a)| b.0 - a.0);
    if span < BEFORE_MS / 2 {
        return Err(
            "is in a season of the year that its reference never saw, with less than four weeks of it before".into(),
        );
    }
    Ok((before, Against::WeeksBefore))
}

fn day_of_year(time: i64) -> i64 {
    (time.div_euclid(DAY_MS) as f64).rem_euclid(365.2425) as i64
}

fn in_season(seen: &BTreeSet<i64>, time: i64) -> bool {
    let day = day_of_year(time);
    (-LIKE_DAYS..=LIKE_DAYS).any(|d| seen.contains(&(day + d).rem_euclid(YEAR_DAYS)))
}

/// Whether no window says the opposite of another.
fn one_way(windows: &[Compared]) -> bool {
    let ways = windows.iter().map(|c| match &c.moved {
        Moved::Numbers {
            reference_mean,
            current_mean,
            reference_deviation,
            ..
        } => {
            let by = (current_mean - reference_mean) / reference_deviation;
            if by.abs() < DIRECTION {
                0.0
            } else {
                by.signum()
            }
        }
        Moved::Category { .. } => 0.0,
    });
    let (up, down) = ways.fold((false, false), |(up, down), way| {
        (up || way > 0.0, down || way < 0.0)
    });
    !(up && down)
}

/// What the windows say together, held where p-values cease to mean anything.
fn evidence(windows: &[Compared]) -> f64 {
    windows.iter().map(|c| -c.p.max(1e-30).ln()).sum()
}

/// Since which day the last half year is other than the reference.
fn began(series: &Series, end: i64) -> i64 {
    let span = end - ONSET_DAYS * DAY_MS + 1..=end;
    let recent = series.recent.iter().filter(|(time, _)| span.contains(time));
    let recent: Vec<(i64, f64)> = recent.copied().collect();
    onset(&series.reference, &recent, DAY_MS).unwrap_or(end)
}

#[cfg(test)]
#[path = "fleet_tests.rs"]
mod tests;
