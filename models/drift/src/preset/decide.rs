//! Typing, test and verdict: owns what Evidently decides about each column and the table, never how it is written down.

use std::collections::BTreeMap;

use super::{Column, Kind, Test, Values, Version};
use crate::StatError;
use crate::two_sample::{
    category_shares, chi_square, finite, js_shares, ks, two_proportion_z, wasserstein,
};

/// Most rows of a reference for which Evidently takes a test with a p-value.
const SMALL: usize = 1_000;
/// Most different values of a numeric column that is tested as categories.
const FEW: usize = 5;
/// Most different whole numbers that Evidently 0.7 takes for categories.
const WHOLE_AS_CATEGORIES: usize = 10;
/// Share of drifted columns from which the table counts as drifted.
pub(super) const DRIFT_SHARE: f64 = 0.5;

/// What Evidently says of one column.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnDecision {
    /// Its name.
    pub name: String,
    /// As what it was compared.
    pub kind: Kind,
    /// With which test.
    pub test: Test,
    /// The test's p-value or distance.
    pub score: f64,
    /// Whether that counts as drift.
    pub drifted: bool,
}

/// What Evidently says of two tables.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Whose rules.
    pub version: Version,
    /// Compared columns, in the report's order.
    pub columns: Vec<ColumnDecision>,
    /// Columns that are not compared, and why.
    pub skipped: Vec<(String, String)>,
    /// Drifted columns.
    pub drifted: usize,
    /// Their share of the compared ones.
    pub share: f64,
    /// Whether the table counts as drifted.
    pub drift: bool,
}

/// Decides as Evidently does with its defaults. Columns without a value on one side are skipped (Evidently gives up on the
/// whole table), so are free texts of 0.7, which Evidently judges by a classifier.
///
/// # Errors
/// [`StatError::NoColumn`] when no column is left.
pub fn decide(columns: &[Column], version: Version) -> Result<Decision, StatError> {
    let mut judged = Vec::new();
    let mut skipped = Vec::new();
    for column in columns {
        match judge(column, version) {
            Ok(one) => judged.push(one),
            Err(why) => skipped.push((column.name.clone(), why)),
        }
    }
    if judged.is_empty() {
        return Err(StatError::NoColumn {
            why: reasons(&skipped),
        });
    }
    match version {
        Version::V04 => judged.sort_by_key(|c| {
            let place = ["target", "prediction"].iter().position(|n| *n == c.name);
            let kind = usize::from(c.kind == Kind::Categorical);
            (place.unwrap_or(2 + kind), c.name.clone())
        }),
        Version::V07 => judged.sort_by_key(|c| c.kind == Kind::Categorical),
    }
    let drifted = judged.iter().filter(|c| c.drifted).count();
    let share = drifted as f64 / judged.len() as f64;
    Ok(Decision {
        version,
        columns: judged,
        skipped,
        drifted,
        share,
        drift: share >= DRIFT_SHARE,
    })
}

pub(crate) fn reasons(skipped: &[(String, String)]) -> String {
    let each = skipped.iter().map(|(name, why)| format!("`{name}` {why}"));
    each.collect::<Vec<_>>().join("; ")
}

fn judge(column: &Column, version: Version) -> Result<ColumnDecision, String> {
    let kind = kind(column, version)?;
    let rows = present(&column.reference);
    for (rows, side) in [
        (rows, "reference"),
        (present(&column.current), "current table"),
    ] {
        if rows == 0 {
            return Err(format!("has no value in the {side}"));
        }
    }
    let few = kind == Kind::Categorical || few_values([&column.reference, &column.current]);
    let (r, c) = if few {
        counts(&Cells::of(&column.reference), &Cells::of(&column.current))
    } else {
        Default::default()
    };
    let test = match (rows <= SMALL, few) {
        (true, true) if r.len() > 2 => Test::ChiSquare,
        (true, true) => Test::Z,
        (true, false) => Test::Ks,
        (false, true) => Test::JensenShannon,
        (false, false) => Test::Wasserstein,
    };
    let numbers = || (numbers(&column.reference), numbers(&column.current));
    let score = match test {
        Test::Ks => {
            let (a, b) = numbers();
            ks(a, b).map(|k| k.p)
        }
        Test::Wasserstein => {
            let (a, b) = numbers();
            wasserstein(a, b)
        }
        Test::ChiSquare => chi_square(&r, &c),
        Test::Z => two_proportion_z(pair(&r), pair(&c)),
        Test::JensenShannon => category_shares(&r, &c).map(|(r, c)| js_shares(&r, &c)),
    }
    .map_err(|error| error.to_string())?;
    Ok(ColumnDecision {
        name: column.name.clone(),
        kind,
        test,
        score,
        drifted: test.drifted(score),
    })
}

fn pair(counts: &[u64]) -> [u64; 2] {
    [
        counts.first().copied().unwrap_or(0),
        counts.get(1).copied().unwrap_or(0),
    ]
}

fn numbers(values: &Values) -> &[f64] {
    match values {
        Values::Numbers { values, .. } => values,
        Values::Words(_) => &[],
    }
}

/// Evidently types a column by the current table (0.7) or by both (0.4).
fn kind(column: &Column, version: Version) -> Result<Kind, String> {
    match (&column.reference, &column.current, version) {
        (
            Values::Numbers {
                whole: in_reference,
                ..
            },
            Values::Numbers { whole, .. },
            Version::V04,
        ) => {
            let whole = *whole && *in_reference;
            let both = [&column.reference, &column.current];
            let many = || !few_values(both);
            let share =
                || !whole && extremes(both).is_some_and(|(low, high)| low >= 0.0 && high <= 1.0);
            // Evidently 0.4 takes columns of these names for a model's target and prediction.
            let numeric = match column.name.as_str() {
                "target" => many(),
                "prediction" => many() || share(),
                _ => true,
            };
            Ok(if numeric {
                Kind::Numeric
            } else {
                Kind::Categorical
            })
        }
        (Values::Numbers { .. }, Values::Numbers { whole, .. }, Version::V07) => {
            let different = || Cells::of(&column.current).by_value.len();
            Ok(if *whole && different() <= WHOLE_AS_CATEGORIES {
                Kind::Categorical
            } else {
                Kind::Numeric
            })
        }
        (Values::Words(_), Values::Words(_), Version::V04) => Ok(Kind::Categorical),
        (Values::Words(_), Values::Words(_), Version::V07) => {
            let cells = Cells::of(&column.current);
            if cells.by_value.len() as f64 > cells.count as f64 * 0.5 {
                return Err("is free text: more than half of its values differ".into());
            }
            Ok(Kind::Categorical)
        }
        _ => Err("holds numbers in one table and words in the other".into()),
    }
}

fn present(values: &Values) -> usize {
    match values {
        Values::Numbers { values, .. } => values.iter().filter(|v| v.is_finite()).count(),
        Values::Words(words) => words.iter().flatten().count(),
    }
}

/// Whether numbers take at most [`FEW`] different values.
fn few_values(of: [&Values; 2]) -> bool {
    let mut seen = Vec::with_capacity(FEW + 1);
    for v in of.into_iter().flat_map(numbers) {
        if v.is_finite() && !seen.contains(v) {
            seen.push(*v);
            if seen.len() > FEW {
                return false;
            }
        }
    }
    true
}

fn extremes(of: [&Values; 2]) -> Option<(f64, f64)> {
    let all = of.into_iter().flat_map(numbers).filter(|v| v.is_finite());
    all.fold(None, |range, v| match range {
        None => Some((*v, *v)),
        Some((low, high)) => Some((f64::min(low, *v), f64::max(high, *v))),
    })
}

/// A value as a category, in Evidently's order of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// The bits of a number, so that they sort as numbers do.
    Number(i64),
    Word(String),
}

impl Key {
    fn number(v: f64) -> Self {
        let bits = (v + 0.0).to_bits() as i64;
        Self::Number(bits ^ (((bits >> 63) as u64) >> 1) as i64)
    }

    pub(super) fn value(&self) -> Option<f64> {
        match self {
            Self::Number(bits) => Some(f64::from_bits(
                (bits ^ (((bits >> 63) as u64) >> 1) as i64) as u64,
            )),
            Self::Word(_) => None,
        }
    }
}

/// The values that are there, counted.
pub(super) struct Cells {
    pub(super) count: usize,
    pub(super) by_value: BTreeMap<Key, u64>,
}

impl Cells {
    pub(super) fn of(values: &Values) -> Self {
        let mut by_value = BTreeMap::new();
        let mut add = |key: Key| *by_value.entry(key).or_insert(0) += 1;
        match values {
            Values::Numbers { values, .. } => {
                for v in finite(values, "counts", "either").unwrap_or_default() {
                    add(Key::number(v));
                }
            }
            Values::Words(words) => words
                .iter()
                .flatten()
                .for_each(|w| add(Key::Word(w.clone()))),
        }
        Self {
            count: by_value.values().sum::<u64>() as usize,
            by_value,
        }
    }
}

/// Counts of every value that either has, in the values' order.
fn counts(a: &Cells, b: &Cells) -> (Vec<u64>, Vec<u64>) {
    let mut all: BTreeMap<&Key, (u64, u64)> = BTreeMap::new();
    for (key, n) in &a.by_value {
        all.entry(key).or_default().0 = *n;
    }
    for (key, n) in &b.by_value {
        all.entry(key).or_default().1 = *n;
    }
    all.into_values().unzip()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn words(of: &[&str]) -> Values {
        Values::Words(of.iter().map(|w| Some((*w).to_owned())).collect())
    }

    #[test]
    fn what_cannot_be_compared_is_named() {
        let column = |name: &str, reference, current| Column {
            name: name.into(),
            reference,
            current,
        };
        let numbers = |values: &[f64]| Values::Numbers {
            values: values.to_vec(),
            whole: false,
        };
        let text = column("note", words(&["a", "b"]), words(&["c", "d"]));
        let empty = column("gone", numbers(&[f64::NAN]), numbers(&[1.0]));
        let mixed = column("mixed", numbers(&[1.0]), words(&["x"]));
        let error = decide(&[text.clone(), empty.clone(), mixed], Version::V07).unwrap_err();
        let error = error.to_string();
        for says in [
            "`note` is free text",
            "`gone` has no value in the reference",
            "`mixed`",
        ] {
            assert!(error.contains(says), "{error}");
        }
        let judged = decide(&[text, empty], Version::V04).unwrap();
        assert_eq!((judged.columns.len(), judged.skipped.len()), (1, 1));
    }

    #[test]
    fn keys_sort_as_numbers() {
        let keys = [-1e9, -2.0, 0.0, 0.5, 7.0].map(Key::number);
        assert!(keys.is_sorted());
        assert_eq!(keys[1].value(), Some(-2.0));
        assert_eq!(Key::number(-0.0), Key::number(0.0));
    }
}
