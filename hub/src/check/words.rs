//! Verdicts in words: owns the sentences about columns, never a number they are made of.

use fieldcast_drift::preset::{Column, Decision};
use fieldcast_drift::window::{Check, Moved, Verdict};
use fieldcast_train::multivariate::Joint;

use super::Together;

/// How far a mean must move, in deviations, before that is what is said first.
const MOVED: f64 = 0.1;
/// How much wider or narrower values must spread before that is said.
const SPREAD: f64 = 1.1;

/// A column's line of a report.
#[derive(Debug, Clone)]
pub struct Line {
    /// The column; empty for one that is not compared, and for the columns together.
    pub column: Option<Column>,
    /// Whether it drifted, or they did.
    pub drift: bool,
    /// What is said.
    pub words: String,
    /// Since when, of one that drifted.
    pub since: Option<Since>,
}

/// When a column began to be another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Since {
    /// Estimated (ms UTC).
    pub began: i64,
    /// It may have been before the current file's first row.
    pub from_first: bool,
    /// No time of that day is told.
    pub to_the_day: bool,
}

/// A line for each column, drifted or not, one for the columns together, then those that are not compared.
/// `since` tells when a column that drifted began to.
pub(super) fn lines(
    check: &Check,
    together: Option<&Together>,
    columns: &[Column],
    since: impl Fn(&Column) -> Option<Since>,
) -> Vec<Line> {
    let line = |v: &Verdict| {
        let column = columns.iter().find(|c| c.name == v.name);
        let since = column.filter(|_| v.drift).and_then(&since);
        Line {
            column: column.cloned(),
            drift: v.drift,
            words: sentence(v, since),
            since,
        }
    };
    let mut lines: Vec<Line> = check.columns.iter().map(line).collect();
    lines.extend(together.map(|t| joined(t, check)));
    lines.extend(check.skipped.iter().map(|s| Line {
        column: None,
        drift: false,
        words: format!("{} is not compared: it {}", s.name, s.reason),
        since: None,
    }));
    lines
}

fn joined(together: &Together, check: &Check) -> Line {
    let (drift, words) = match together {
        Together::Compared { drift: true, joint } => (true, changed(joint, check)),
        Together::Compared { joint, .. } => (
            false,
            format!(
                "columns together are as they were (AUC {}, p {})",
                short(joint.auc),
                short(joint.p)
            ),
        ),
        Together::Skipped { skipped } => (
            false,
            format!("columns together are not compared: {skipped}"),
        ),
    };
    Line {
        column: None,
        drift,
        words,
        since: None,
    }
}

fn changed(joint: &Joint, check: &Check) -> String {
    let what = if joint.p_auc <= joint.p_reconstruction {
        "a forest tells the current rows from the reference's".to_owned()
    } else {
        let times = joint.reconstruction / joint.reconstruction_reference;
        format!(
            "the reference's principal components rebuild the current rows with {} times the error",
            short(times)
        )
    };
    let moved = |name: &str| check.columns.iter().any(|v| v.name == name && v.drift);
    let chiefly = joint.chiefly();
    let each = if chiefly.iter().any(|name| moved(name)) {
        ""
    } else {
        "; each by itself is as it was"
    };
    let (last, others) = chiefly.split_last().unwrap_or((&"none", &[]));
    let names = match others {
        [] => (*last).to_owned(),
        _ => format!("{} and {last}", others.join(", ")),
    };
    format!(
        "columns together: {what} (AUC {}, chance is {}), chiefly by {names}{each} (p {})",
        short(joint.auc),
        short(joint.auc_chance),
        short(joint.p)
    )
}

fn sentence(verdict: &Verdict, since: Option<Since>) -> String {
    let c = &verdict.compared;
    let chance = format!("p {}", short(c.p));
    if !verdict.drift {
        return format!("{} is as it was ({chance})", verdict.name);
    }
    let since = since.and_then(dated).unwrap_or_default();
    format!("{} {}{since} ({chance})", verdict.name, moved(&c.moved))
}

fn dated(since: Since) -> Option<String> {
    let began = chrono::DateTime::from_timestamp_millis(since.began)?;
    let form = if since.to_the_day {
        "%Y-%m-%d"
    } else {
        "%Y-%m-%d %H:%M UTC"
    };
    let or_before = if since.from_first { " or before" } else { "" };
    Some(format!(", since {}{or_before}", began.format(form)))
}

/// How a column changed, as the end of a sentence about it.
#[must_use]
pub fn moved(moved: &Moved) -> String {
    match moved {
        Moved::Numbers {
            reference_mean,
            current_mean,
            reference_deviation,
            current_deviation,
            ..
        } => {
            let by = (current_mean - reference_mean) / reference_deviation;
            let ratio = current_deviation / reference_deviation;
            let (from, to) = (short(*reference_mean), short(*current_mean));
            if by.abs() >= MOVED {
                let way = if by > 0.0 { "up" } else { "down" };
                // A share of a mean near zero says nothing.
                let much = if reference_mean.abs() > *reference_deviation {
                    let share = (current_mean / reference_mean - 1.0).abs() * 100.0;
                    format!("{} %", short(share))
                } else {
                    format!("{} deviations", short(by.abs()))
                };
                format!("has moved {way} by {much} (mean {from}, now {to})")
            } else if !(1.0 / SPREAD..=SPREAD).contains(&ratio) {
                let way = if ratio > 1.0 { "wider" } else { "narrower" };
                format!(
                    "spreads {way} (deviation {}, now {})",
                    short(*reference_deviation),
                    short(*current_deviation)
                )
            } else {
                format!(
                    "takes other values, or changes in another way, about the same mean ({from}, now {to})"
                )
            }
        }
        Moved::Category {
            name,
            reference_share,
            current_share,
        } => format!(
            "shares differ: `{name}` {} % of the rows, now {} %",
            short(reference_share * 100.0),
            short(current_share * 100.0)
        ),
    }
}

/// As [`lines`], of a decision by Evidently's defaults.
pub(super) fn evidently(decision: &Decision, columns: &[Column]) -> Vec<Line> {
    let judged = decision.columns.iter().map(|c| Line {
        column: columns.iter().find(|o| o.name == c.name).cloned(),
        drift: c.drifted,
        words: format!(
            "{} {} by Evidently's default ({} {}, threshold {})",
            c.name,
            if c.drifted {
                "counts as drifted"
            } else {
                "does not count as drifted"
            },
            c.test.name(),
            short(c.score),
            c.test.threshold()
        ),
        since: None,
    });
    let skipped = decision.skipped.iter().map(|(name, why)| Line {
        column: None,
        drift: false,
        words: format!("{name} is not compared: it {why}"),
        since: None,
    });
    judged.chain(skipped).collect()
}

/// The verdict in one sentence.
#[must_use]
pub fn said(lines: &[Line], drift: bool) -> String {
    let compared = lines.iter().filter(|l| l.column.is_some()).count();
    let drifted = lines.iter().filter(|l| l.drift && l.column.is_some());
    let drifted = drifted.count();
    let verdict = if drift { "drift" } else { "stable" };
    let together = if lines.iter().any(|l| l.drift && l.column.is_none()) {
        ", and the columns together"
    } else {
        ""
    };
    format!("{verdict}: {drifted} of {compared} columns drifted{together}")
}

/// Three digits that count.
#[must_use]
pub fn short(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let digits = value.abs().log10().floor();
    if digits < -4.0 {
        return format!("{value:.1e}");
    }
    let places = (2.0 - digits).clamp(0.0, 8.0) as usize;
    let text = format!("{value:.places$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_what_counts() {
        for (value, text) in [
            (12.345, "12.3"),
            (0.05, "0.05"),
            (123_456.0, "123456"),
            (0.000_012_3, "1.2e-5"),
            (-0.0, "-0"),
            (1.0, "1"),
        ] {
            assert_eq!(short(value), text);
        }
    }
}
