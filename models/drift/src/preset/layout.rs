//! Evidently's report as JSON: owns the two layouts that are read in the field, never a decision.
//!
//! Left out are what Evidently leaves out by default (raw distributions, plots) and 0.4's `timestamp`, which is the caller's.

use serde::Serialize;

use super::decide::{Cells, DRIFT_SHARE, Key};
use super::{Column, ColumnDecision, Decision, Kind, Values, Version};
use crate::bins::histogram;

/// A report in one of the layouts.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Report {
    /// As Evidently 0.4 writes it.
    V04(Report04),
    /// As Evidently 0.7 writes it.
    V07(Report07),
}

/// Report of 0.4.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report04 {
    /// Version whose layout this is.
    pub version: &'static str,
    /// `DatasetDriftMetric` and `DataDriftTable`.
    pub metrics: Vec<Metric04>,
    /// When it was made, where the caller knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<String>,
}

/// A metric of 0.4.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "metric", content = "result")]
pub enum Metric04 {
    /// The table's verdict.
    DatasetDriftMetric(DataDrift04),
    /// The columns'.
    DataDriftTable(Table04),
}

/// Result of `DatasetDriftMetric`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DataDrift04 {
    /// Share from which the table counts as drifted.
    pub drift_share: f64,
    /// Compared columns.
    pub number_of_columns: usize,
    /// Drifted ones.
    pub number_of_drifted_columns: usize,
    /// Their share.
    pub share_of_drifted_columns: f64,
    /// Whether the table counts as drifted.
    pub dataset_drift: bool,
}

/// Result of `DataDriftTable`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Table04 {
    /// Compared columns.
    pub number_of_columns: usize,
    /// Drifted ones.
    pub number_of_drifted_columns: usize,
    /// Their share.
    pub share_of_drifted_columns: f64,
    /// Whether the table counts as drifted.
    pub dataset_drift: bool,
    /// By name, in the report's order.
    #[serde(serialize_with = "as_map")]
    pub drift_by_columns: Vec<Column04>,
    /// Always null without a model.
    pub current_fi: Option<()>,
    /// Always null without a model.
    pub reference_fi: Option<()>,
}

/// A column of `DataDriftTable`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Column04 {
    /// Its name.
    pub column_name: String,
    /// `num` or `cat`.
    pub column_type: &'static str,
    /// The test.
    pub stattest_name: &'static str,
    /// Its threshold.
    pub stattest_threshold: f64,
    /// Its p-value or distance.
    pub drift_score: f64,
    /// The verdict.
    pub drift_detected: bool,
    /// The current table's histogram.
    pub current: Side04,
    /// The reference's.
    pub reference: Side04,
}

/// One side of a column.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Side04 {
    /// Ten bins of a numeric column, or counts by category.
    pub small_distribution: Distribution04,
}

/// A histogram.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Distribution04 {
    /// Edges and densities.
    Bins {
        /// Eleven edges.
        x: Vec<f64>,
        /// Ten densities.
        y: Vec<f64>,
    },
    /// Categories and counts.
    Counts {
        /// Categories, sorted as text.
        x: Vec<Label04>,
        /// Counts.
        y: Vec<u64>,
    },
}

/// A category.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Label04 {
    /// A number that is whole in its table.
    Whole(i64),
    /// Another number.
    Number(f64),
    /// A word.
    Word(String),
}

/// Report of 0.7.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report07 {
    /// `DriftedColumnsCount`, then a `ValueDrift` a column.
    pub metrics: Vec<Metric07>,
    /// Empty, as it is by default.
    pub tests: Vec<()>,
}

/// A metric of 0.7.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Metric07 {
    /// Digest of what was asked.
    pub id: String,
    /// What was asked, in words.
    pub metric_name: String,
    /// What was asked.
    pub config: Config07,
    /// The answer.
    pub value: Value07,
}

/// What a metric of 0.7 was asked.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type")]
pub enum Config07 {
    /// How many columns drifted.
    #[serde(rename = "evidently:metric_v2:DriftedColumnsCount")]
    DriftedColumnsCount {
        /// Share from which the table counts as drifted.
        drift_share: f64,
    },
    /// Whether a column drifted.
    #[serde(rename = "evidently:metric_v2:ValueDrift")]
    ValueDrift {
        /// Its name.
        column: String,
        /// The test.
        method: &'static str,
        /// Its threshold.
        threshold: f64,
    },
}

/// What a metric of 0.7 answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value07 {
    /// A number and a share of columns.
    Count {
        /// Drifted columns.
        count: f64,
        /// Their share.
        share: f64,
    },
    /// A test's p-value or distance.
    Score(f64),
}

/// MD5 of a text in hexadecimal, which names metrics in 0.7; given by the caller, since devices have no use for it.
pub type Md5 = fn(&str) -> String;

/// The report of a decision about these columns, in the layout of the version that decided.
#[must_use]
pub fn report(decision: &Decision, columns: &[Column], md5: Md5) -> Report {
    match decision.version {
        Version::V04 => Report::V04(report04(decision, columns)),
        Version::V07 => Report::V07(report07(decision, md5)),
    }
}

fn report04(decision: &Decision, columns: &[Column]) -> Report04 {
    let number_of_columns = decision.columns.len();
    let by_columns = decision.columns.iter().filter_map(|d| {
        let column = columns.iter().find(|c| c.name == d.name)?;
        Some(column04(d, column))
    });
    Report04 {
        version: "0.4.40",
        metrics: vec![
            Metric04::DatasetDriftMetric(DataDrift04 {
                drift_share: DRIFT_SHARE,
                number_of_columns,
                number_of_drifted_columns: decision.drifted,
                share_of_drifted_columns: decision.share,
                dataset_drift: decision.drift,
            }),
            Metric04::DataDriftTable(Table04 {
                number_of_columns,
                number_of_drifted_columns: decision.drifted,
                share_of_drifted_columns: decision.share,
                dataset_drift: decision.drift,
                drift_by_columns: by_columns.collect(),
                current_fi: None,
                reference_fi: None,
            }),
        ],
        timestamp: None,
    }
}

fn column04(decision: &ColumnDecision, column: &Column) -> Column04 {
    let side = |of: &Values, other: &Values| Side04 {
        small_distribution: match (decision.kind, of) {
            (Kind::Numeric, Values::Numbers { values, .. }) => ten_bins(values),
            _ => categories(of, other),
        },
    };
    Column04 {
        column_name: decision.name.clone(),
        column_type: match decision.kind {
            Kind::Numeric => "num",
            Kind::Categorical => "cat",
        },
        stattest_name: decision.test.name(),
        stattest_threshold: decision.test.threshold(),
        drift_score: decision.score,
        drift_detected: decision.drifted,
        current: side(&column.current, &column.reference),
        reference: side(&column.reference, &column.current),
    }
}

/// NumPy's histogram of ten bins as densities.
fn ten_bins(values: &[f64]) -> Distribution04 {
    const BINS: usize = 10;
    let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let (mut low, mut high) = (
        sorted.first().copied().unwrap_or(0.0),
        sorted.last().copied().unwrap_or(1.0),
    );
    if low == high {
        (low, high) = (low - 0.5, high + 0.5);
    }
    let step = (high - low) / BINS as f64;
    let mut x: Vec<f64> = (0..=BINS).map(|i| i as f64 * step + low).collect();
    x[BINS] = high;
    let counts = histogram(&sorted, &x);
    let total = sorted.len() as f64;
    let widths = x.windows(2).map(|w| w[1] - w[0]);
    let y = counts
        .iter()
        .zip(widths)
        .map(|(c, w)| *c as f64 / w / total);
    let y = y.collect();
    Distribution04::Bins { x, y }
}

fn categories(of: &Values, other: &Values) -> Distribution04 {
    let whole = [of, other]
        .iter()
        .all(|v| matches!(v, Values::Numbers { whole: true, .. }));
    let cells = Cells::of(of);
    let mut all: Vec<(Label04, String, u64)> = Vec::new();
    let mut keys: Vec<Key> = cells.by_value.keys().cloned().collect();
    keys.extend(Cells::of(other).by_value.into_keys());
    keys.sort();
    keys.dedup();
    for key in keys {
        let count = cells.by_value.get(&key).copied().unwrap_or(0);
        let label = match (key.value(), key) {
            (Some(v), _) if whole => Label04::Whole(v as i64),
            (Some(v), _) => Label04::Number(v),
            (None, Key::Word(word)) => Label04::Word(word),
            (None, Key::Number(_)) => continue,
        };
        let text = match &label {
            Label04::Whole(v) => v.to_string(),
            Label04::Number(v) => format!("{v:?}"),
            Label04::Word(word) => word.clone(),
        };
        all.push((label, text, count));
    }
    all.sort_by(|a, b| a.1.cmp(&b.1));
    let (x, y) = all.into_iter().map(|(label, _, n)| (label, n)).unzip();
    Distribution04::Counts { x, y }
}

fn report07(decision: &Decision, md5: Md5) -> Report07 {
    const MODULE: &str = "evidently.metrics.column_statistics";
    let mut metrics = vec![Metric07 {
        id: md5(&format!("{MODULE}.DriftedColumnsCount()")),
        metric_name: format!("DriftedColumnsCount(drift_share={DRIFT_SHARE})"),
        config: Config07::DriftedColumnsCount {
            drift_share: DRIFT_SHARE,
        },
        value: Value07::Count {
            count: decision.drifted as f64,
            share: decision.share,
        },
    }];
    metrics.extend(decision.columns.iter().map(|c| {
        let (name, method, threshold) = (&c.name, c.test.name(), c.test.threshold());
        Metric07 {
            id: md5(&format!(
                "{MODULE}.ValueDrift(('column', {}),)",
                python_text(name)
            )),
            metric_name: format!("ValueDrift(column={name},method={method},threshold={threshold})"),
            config: Config07::ValueDrift {
                column: name.clone(),
                method,
                threshold,
            },
            value: Value07::Score(c.score),
        }
    }));
    Report07 {
        metrics,
        tests: Vec::new(),
    }
}

/// A text as Python shows it, which the digest is made of.
fn python_text(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

fn as_map<S: serde::Serializer>(columns: &[Column04], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(columns.iter().map(|c| (&c.column_name, c)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use md5::Digest as _;

    fn md5(text: &str) -> String {
        let digest = md5::Md5::digest(text);
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn metrics_are_named_as_evidently_names_them() {
        let id = |name: &str| {
            md5(&format!(
                "evidently.metrics.column_statistics.ValueDrift(('column', {}),)",
                python_text(name)
            ))
        };
        assert_eq!(id("a"), "1d6022329356e42e2e832402b66eeb4c");
        assert_eq!(id("it's"), "718c3d1c12f1e5e9a0d3b754dc73ae08");
    }
}
