//! A check of two plain files for drift: owns the way from files to a verdict, never a statistic, a database or an exit code.

mod table;
pub mod words;

pub use table::Table;
pub use words::{Line, Since, said};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use chrono::{DateTime, Utc};
use fieldcast_drift::onset::onset;
use fieldcast_drift::preset::{Column, Decision, Values, Version, decide};
use fieldcast_drift::window::{Check, Options, Skipped, check};
use fieldcast_train::multivariate::{Joint, compare};
use serde::Serialize;

use crate::page::{Bars, Course, Panel};

const DAY_MS: i64 = 86_400_000;
/// From so many days on a change is dated to a day, else to one of [`PARTS`] parts of the file.
const DAYS: i64 = 7;
const PARTS: i64 = 24;

/// What to compare, and how.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The reference.
    pub reference: PathBuf,
    /// What is compared with it.
    pub current: PathBuf,
    /// Columns to compare; none: all, which then must be the same in both files.
    pub columns: Vec<String>,
    /// The column of times; none: `time`, `timestamp`, `date` or `datetime`, or the only one that holds dates.
    pub time_column: Option<String>,
    /// Rows of a season; none: hours of the day or the week where there are times.
    pub season: Option<usize>,
    /// Whether columns are compared each by itself only, not together too.
    pub alone: bool,
}

/// Two files that fit each other.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The reference.
    pub reference: Table,
    /// What is compared with it.
    pub current: Table,
    /// Columns of both that hold values.
    pub columns: Vec<Column>,
    /// Those among them that only count rows, which Evidently compares and the default policy does not.
    pub counters: Vec<String>,
    /// Columns that are no data, and why.
    pub skipped: Vec<(String, String)>,
}

/// A verdict of the default policy as JSON.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The reference's file.
    pub reference: PathBuf,
    /// The current file.
    pub current: PathBuf,
    /// What the season is of, where there is one.
    pub season: Option<String>,
    /// The verdict.
    #[serde(flatten)]
    pub check: Check,
    /// The columns together, unless they were not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub together: Option<Together>,
    /// Since when columns of numbers that drifted are others, where the current file lies behind the reference.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub since: BTreeMap<String, DateTime<Utc>>,
    /// The same in words.
    pub words: Vec<String>,
}

/// What is said of the columns together.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Together {
    /// They were compared.
    Compared {
        /// Whether the joint distribution drifted.
        drift: bool,
        /// The comparison.
        #[serde(flatten)]
        joint: Box<Joint>,
    },
    /// They were not.
    Skipped {
        /// Why.
        skipped: String,
    },
}

/// Reads both files and pairs their columns.
///
/// # Errors
/// A file that cannot be read, no rows, or columns that differ; says which.
pub fn read(request: &Request) -> Result<Pair> {
    let reference = Table::read(&request.reference, request.time_column.as_deref())?;
    let current = Table::read(&request.current, request.time_column.as_deref())?;
    let names = names(request, &reference, &current)?;
    let mut columns = Vec::new();
    let mut skipped = Vec::new();
    let mut counters = Vec::new();
    for name in names {
        let (Some(r), Some(c)) = (reference.column(&name), current.column(&name)) else {
            bail!("find column `{name}` in both files; see their headers");
        };
        if r.counts() && c.counts() {
            counters.push(name.clone());
        }
        let why = r.no_data().or_else(|| c.no_data());
        match (r.values(), c.values()) {
            (Some(r), Some(c)) => columns.push(Column {
                name,
                reference: r.clone(),
                current: c.clone(),
            }),
            _ => skipped.push((name, why.unwrap_or("holds no value").to_owned())),
        }
    }
    ensure!(
        !columns.is_empty(),
        "compare {} with {}: no column holds data ({}); name others with --column",
        request.reference.display(),
        request.current.display(),
        skipped
            .iter()
            .map(|(name, why)| format!("`{name}` {why}"))
            .collect::<Vec<_>>()
            .join("; ")
    );
    Ok(Pair {
        reference,
        current,
        columns,
        counters,
        skipped,
    })
}

fn names(request: &Request, reference: &Table, current: &Table) -> Result<Vec<String>> {
    let missing = |from: &Table, names: &[String], path: &Path| -> Result<()> {
        let lost: Vec<_> = names.iter().filter(|n| from.column(n).is_none()).collect();
        let Some(first) = lost.first() else {
            return Ok(());
        };
        bail!(
            "{} has no column `{first}` ({} missing in all); it has {}; name columns that both files have with --column",
            path.display(),
            lost.len(),
            from.names().collect::<Vec<_>>().join(", ")
        )
    };
    let wanted: Vec<String> = if request.columns.is_empty() {
        let others: Vec<String> = current.names().map(str::to_owned).collect();
        missing(reference, &others, &request.reference)?;
        reference.names().map(str::to_owned).collect()
    } else {
        request.columns.clone()
    };
    missing(reference, &wanted, &request.reference)?;
    missing(current, &wanted, &request.current)?;
    Ok(wanted)
}

/// The default policy's verdict.
///
/// # Errors
/// No column that can be compared; names each one's reason.
pub fn judge(request: &Request, pair: &Pair, options: Options) -> Result<(Report, Vec<Line>)> {
    let (season, [reference, current]) =
        table::grids(&pair.reference, &pair.current, request.season)?;
    let (counters, data): (Vec<Column>, Vec<Column>) = pair
        .columns
        .iter()
        .cloned()
        .partition(|c| pair.counters.contains(&c.name));
    let counters = counters.into_iter().map(|c| {
        let why = "counts the rows, each value one step after the last";
        (c.name, why.to_owned())
    });
    let skipped: Vec<Skipped> = pair
        .skipped
        .iter()
        .cloned()
        .chain(counters)
        .map(|(name, reason)| Skipped { name, reason })
        .collect();
    ensure!(
        !data.is_empty(),
        "{}: the columns that are left only count rows; name others with --column",
        files(request)
    );
    let mut verdict =
        check(&data, &reference, &current, options).with_context(|| files(request))?;
    verdict.skipped.extend(skipped);
    // One family of questions with the columns, so that the stated rate holds for the whole check.
    let together =
        (!request.alone).then(
            || match compare(&data, &reference, &current, options.seed) {
                Ok(joint) => Together::Compared {
                    drift: verdict.join(joint.p),
                    joint: Box::new(joint),
                },
                Err(skipped) => Together::Skipped { skipped },
            },
        );
    let lines = words::lines(&verdict, together.as_ref(), &pair.columns, |c| {
        since(pair, c)
    });
    let dated = lines.iter().filter_map(|l| {
        let began = DateTime::from_timestamp_millis(l.since?.began)?;
        Some((l.column.as_ref()?.name.clone(), began))
    });
    let report = Report {
        reference: request.reference.clone(),
        current: request.current.clone(),
        season,
        since: dated.collect(),
        words: lines.iter().map(|l| l.words.clone()).collect(),
        check: verdict,
        together,
    };
    Ok((report, lines))
}

/// The decision by Evidently's defaults.
///
/// # Errors
/// No column that can be compared; names each one's reason.
pub fn as_evidently(
    request: &Request,
    pair: &Pair,
    version: Version,
) -> Result<(Decision, Vec<Line>)> {
    let mut decision = decide(&pair.columns, version).with_context(|| files(request))?;
    decision.skipped.extend(pair.skipped.iter().cloned());
    let lines = words::evidently(&decision, &pair.columns);
    Ok((decision, lines))
}

/// What a page shows of both files; time lines where they have times.
#[must_use]
pub fn panels(pair: &Pair, lines: &[Line]) -> Vec<Panel> {
    lines
        .iter()
        .map(|line| Panel {
            name: line
                .column
                .as_ref()
                .map_or_else(String::new, |c| c.name.clone()),
            drift: line.drift,
            words: line.words.clone(),
            bars: line.column.as_ref().and_then(Bars::of),
            course: line.column.as_ref().and_then(|c| {
                let [mut all, after] = timed(pair, c)?;
                let until = all.last()?.0;
                all.extend(after);
                Course::of(&all, until, line.since.map(|s| s.began))
            }),
        })
        .collect()
}

/// Times and values of a column of numbers in both files; files whose times overlap have no one course.
fn timed(pair: &Pair, column: &Column) -> Option<[Vec<(i64, f64)>; 2]> {
    let (before, after) = (pair.reference.times()?, pair.current.times()?);
    let (Values::Numbers { values: r, .. }, Values::Numbers { values: c, .. }) =
        (&column.reference, &column.current)
    else {
        return None;
    };
    let zip = |times: &[i64], values: &[f64]| -> Vec<(i64, f64)> {
        times.iter().copied().zip(values.iter().copied()).collect()
    };
    (after.first()? > before.last()?).then(|| [zip(before, r), zip(after, c)])
}

/// Since when a column that drifted is another.
fn since(pair: &Pair, column: &Column) -> Option<Since> {
    let [before, after] = timed(pair, column)?;
    let (first, last) = (after.first()?.0, after.last()?.0);
    let part_ms = if last - first >= DAYS * DAY_MS {
        DAY_MS
    } else {
        ((last - first) / PARTS).max(1)
    };
    let began = onset(&before, &after, part_ms)?;
    Some(Since {
        began: began.max(first),
        // The part that the first row lies in began before it.
        from_first: began < first,
        to_the_day: part_ms == DAY_MS,
    })
}

fn files(request: &Request) -> String {
    format!(
        "compare {} with {}",
        request.current.display(),
        request.reference.display()
    )
}
