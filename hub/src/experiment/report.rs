//! What an experiment has shown: owns the report and whether it may be decided by, never what is decided.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use chrono::{DateTime, SecondsFormat, Utc};
use fieldcast_drift::arms::{
    Arm, Comparison, Effect, Outcome, Summary, compare, imbalance, median, outlying, unlike_losses,
};
use fieldcast_store::Store;
use fieldcast_store::experiments::{ExperimentRow, MemberRow};
use fieldcast_store::measures::{MeasureRow, Span};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::machine::{Experiment, LATE_MS, Member, Status};
use super::rows;

/// Share of experiments whose interval holds the true difference.
pub const LEVEL: f64 = 0.95;
/// What chance does to arms more seldom than this, something else did (sample ratio mismatch).
const UNEVEN: f64 = 0.001;
/// A device's own scale is at least this share of the fleet's median: one whose target stood still would decide the means.
const LEAST_SCALE: f64 = 0.01;
/// What is larger is no measure, and would overflow where variances are squared.
const MOST: f64 = 1e60;
/// So many devices are named in the words.
const NAMED: usize = 10;
/// A device's own past, at most so long.
const MOST_BEFORE_HOURS: i32 = 28 * 24;

/// One arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmReport {
    /// Its version.
    pub version: u64,
    /// Devices drawn into it.
    pub assigned: usize,
    /// Devices among them that failed with it, as they said last.
    pub failed: usize,
    /// Devices among them of which nothing was measured.
    pub lost: usize,
    /// What was measured on the others.
    pub measured: Option<Summary>,
}

/// Whether as many devices are in the arms as were drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Balance {
    /// Share that was to get B.
    pub share_b: f64,
    /// How likely arms at least as uneven are among the devices that joined.
    pub assigned: f64,
    /// How likely arms that lose devices alike lose at least as unlike shares of them.
    pub lost: f64,
    /// Something other than chance chose who is in them.
    pub uneven: bool,
}

/// The report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// It may be decided by.
    pub decides: bool,
    /// Why not, or what comes next.
    pub note: String,
    /// What is measured, one value a device.
    pub measure: String,
    /// What is compared with.
    pub a: ArmReport,
    /// What is compared.
    pub b: ArmReport,
    /// B less A.
    pub effect: Option<Effect>,
    /// The difference over A's mean.
    pub relative: Option<f64>,
    /// Devices so far from the others of their arm that each alone decides its mean.
    pub outlying: Vec<String>,
    /// Whether the arms are as they were drawn.
    pub balance: Balance,
    /// All of it in words.
    pub words: String,
}

/// What is measured on each device, and when.
#[must_use]
pub fn span(row: &ExperimentRow, until: DateTime<Utc>) -> Span<'_> {
    Span {
        forecaster: &row.forecaster,
        sensor: row.sensor.as_deref(),
        before_hours: before_hours(row.days),
        settle_hours: row.settle_hours,
        until,
    }
}

/// How much of a device's own past is measured: as long as the experiment, at most four weeks.
#[must_use]
pub fn before_hours(days: i32) -> i32 {
    days.saturating_mul(24).min(MOST_BEFORE_HOURS)
}

/// What is measured, in words.
#[must_use]
pub fn measure(sensor: Option<&str>) -> String {
    match sensor {
        Some(sensor) => format!("mean of `{sensor}`"),
        None => "mean absolute error of forecasts, over that of last season's values before the device joined".to_owned(),
    }
}

/// Each device's value in its own scale: in the time of the experiment, and before. Errors are told by those of last season's
/// values from before it joined, which no arm can have changed, nor the median of all of them.
#[must_use]
pub fn scaled(rows: &[MeasureRow], sensor: bool) -> Vec<(Option<f64>, Option<f64>)> {
    let moved = rows.iter().filter_map(|r| r.naive).filter(|n| *n > 0.0);
    let least = median(moved.collect()).map(|m| LEAST_SCALE * m);
    let one = |row: &MeasureRow| {
        let scale = match sensor {
            true => Some(1.0),
            false => row.naive.zip(least).map(|(own, least)| own.max(least)),
        };
        let of = |v: Option<f64>| Some(v? / scale?).filter(|v| v.abs() <= MOST);
        (of(row.after), of(row.before))
    };
    rows.iter().map(one).collect()
}

/// The report of an experiment: the one that was kept, as it was kept, or as things stand at `made_at`.
///
/// # Errors
/// The database, or rows that a newer hub wrote.
pub async fn of(store: &Store, row: &ExperimentRow, members: &[MemberRow]) -> Result<Value> {
    if let Some(kept) = &row.report {
        return Ok(kept.clone());
    }
    let e = rows::read(row, members)?;
    let (names, joined): (Vec<&str>, Vec<DateTime<Utc>>) = members
        .iter()
        .map(|m| (m.device.as_str(), m.joined_at))
        .unzip();
    let until = row.ends_at.unwrap_or(row.now).min(row.now);
    let measures = store.measure(&span(row, until), (&names, &joined)).await?;
    let sensor = row.sensor.clone();
    // Thousands of assignments are drawn.
    let made = tokio::task::spawn_blocking(move || made(&e, sensor.as_deref(), &measures));
    let mut report = json!(made.await.context("make the report")?);
    report["made_at"] = json!(row.now);
    Ok(report)
}

/// The report from what was measured.
#[must_use]
pub fn made(e: &Experiment, sensor: Option<&str>, measures: &[MeasureRow]) -> Report {
    let (mut outcomes, mut names) = (Vec::new(), Vec::new());
    for (row, (after, before)) in measures.iter().zip(scaled(measures, sensor.is_some())) {
        if let (Some(member), Some(value)) = (e.members.get(&row.device), after) {
            outcomes.push(Outcome {
                arm: member.arm,
                value,
                before,
            });
            names.push(&row.device);
        }
    }
    let far = outlying(&outcomes).into_iter();
    let outlying = far.filter_map(|i| names.get(i).map(ToString::to_string));
    let seed = u64::try_from(e.id).unwrap_or(0);
    let compared = compare(&outcomes, LEVEL, seed);
    let (a, b) = (arm(e, Arm::A, &outcomes), arm(e, Arm::B, &outcomes));
    let assigned = imbalance((a.assigned, b.assigned), e.share_b);
    let lost = unlike_losses((a.lost, a.assigned), (b.lost, b.assigned));
    let balance = Balance {
        share_b: e.share_b,
        assigned,
        lost,
        uneven: assigned < UNEVEN || lost < UNEVEN,
    };
    let effect = compared.as_ref().ok().map(|c: &Comparison| c.effect);
    let missing = compared.as_ref().err().map(ToString::to_string);
    let relative = effect.and_then(|e| {
        let mean = a.measured?.mean;
        Some(e.difference / mean.abs()).filter(|r| r.is_finite())
    });
    let note = note(e, &balance, missing.as_deref());
    let mut report = Report {
        decides: e.status == Status::Ended && !balance.uneven && effect.is_some(),
        note,
        measure: measure(sensor),
        a,
        b,
        effect,
        relative,
        outlying: outlying.collect(),
        balance,
        words: String::new(),
    };
    report.words = words(&report);
    report
}

fn arm(e: &Experiment, arm: Arm, outcomes: &[Outcome]) -> ArmReport {
    let members: Vec<&Member> = e.members.values().filter(|m| m.arm == arm).collect();
    let values = outcomes.iter().filter(|o| o.arm == arm).map(|o| o.value);
    let measured = Summary::of(values);
    ArmReport {
        version: e.versions[usize::from(arm == Arm::B)],
        assigned: members.len(),
        failed: members.iter().filter(|m| m.state.failed()).count(),
        lost: members.len() - measured.devices,
        measured: Some(measured).filter(|m| m.devices > 0),
    }
}

fn note(e: &Experiment, balance: &Balance, missing: Option<&str>) -> String {
    let at = |ms: Option<i64>| {
        let time = ms.and_then(DateTime::from_timestamp_millis);
        time.map_or_else(String::new, |t| {
            t.to_rfc3339_opts(SecondsFormat::Secs, true)
        })
    };
    match e.status {
        Status::Planned => "waits for its first device".to_owned(),
        Status::Running => format!("interim, not for deciding: its time is over at {}", at(e.ends_at)),
        Status::Collecting => format!(
            "interim, not for deciding: data of its time may come until {}",
            at(e.ends_at.map(|t| t + LATE_MS))
        ),
        Status::Stopped => format!("ended before its time, not for deciding: {}", e.reason),
        Status::Ended if balance.uneven => {
            "the arms are not as they were drawn, not for deciding: find out why devices of one arm joined or were measured more seldom"
                .to_owned()
        }
        Status::Ended => match missing {
            Some(missing) => format!("nothing to decide by: {missing}"),
            None => "no title was moved: a person may bring a version to all devices with `rollout start`".to_owned(),
        },
    }
}

fn words(report: &Report) -> String {
    let mut text = format!("{}:", report.measure);
    for (name, arm) in [("A", &report.a), ("B", &report.b)] {
        let (version, assigned, lost, failed) = (arm.version, arm.assigned, arm.lost, arm.failed);
        let _ = match arm.measured {
            Some(m) => write!(
                text,
                " {name} (version {version}) {:.4} over {} of {assigned} devices;",
                m.mean, m.devices
            ),
            None => write!(
                text,
                " {name} (version {version}) measured on none of {assigned} devices;"
            ),
        };
        if lost > 0 || failed > 0 {
            let _ = write!(text, " of them {lost} lost, {failed} failed;");
        }
    }
    if let Some(e) = report.effect {
        let relative = report
            .relative
            .map_or_else(String::new, |r| format!(", {:+.1} %", 100.0 * r));
        let _ = write!(
            text,
            " B less A is {:+.4}{relative} ({:.0} % interval {:+.4} to {:+.4}, p = {:.4} over random assignments);",
            e.difference,
            100.0 * e.level,
            e.lower,
            e.upper,
            e.p
        );
        if let Some(explained) = e.explained {
            let _ = write!(
                text,
                " devices' own past explains {:.0} % of the variance within the arms;",
                100.0 * explained
            );
        }
    }
    if !report.outlying.is_empty() {
        let named: Vec<&str> = report
            .outlying
            .iter()
            .take(NAMED)
            .map(String::as_str)
            .collect();
        let _ = write!(
            text,
            " {} devices are far from all others of their arm and decide its mean ({}), look at them before anything is decided;",
            report.outlying.len(),
            named.join(", ")
        );
    }
    let _ = write!(text, " {}", report.note);
    text
}
