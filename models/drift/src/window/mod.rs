//! The verdict on a window of rows against a reference: owns the default policy, never where rows come from or what follows.
//!
//! Readings are not independent: a plain test calls most undrifted windows of a slow sensor drifted. So a column is first
//! freed of its season (means by slot) and of what its past says (an autoregression), both learnt from the reference alone;
//! Kolmogorov-Smirnov compares what is left. What order the whitening did not remove is measured by a moving-block bootstrap
//! of the reference, in blocks of at least a season at the window's phase: by as much as such windows spread wider than
//! independent ones, the distance is taken down. Categories are compared by chi-square, corrected in the same way.
//! Benjamini and Hochberg's procedure over the columns keeps the stated rate of false discoveries.

mod blocks;
mod column;
pub(crate) mod random;
mod season;
pub(crate) mod whiten;

pub use column::{Compared, FEW, Moved, compare};
pub use season::Season;
pub use whiten::{Grid, Whitener};

use serde::Serialize;

use crate::StatError;
use crate::preset::Column;

/// Fewest rows of a reference.
pub const FEWEST_REFERENCE: usize = 50;
/// Fewest rows of a window.
pub const FEWEST_CURRENT: usize = 10;

/// What a check needs beside the columns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Share of undrifted columns (and windows) that may be called drifted.
    pub rate: f64,
    /// Seed of the bootstrap.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            rate: 0.05,
            seed: 1,
        }
    }
}

/// What is said of a column.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// The column.
    pub name: String,
    /// Whether it drifted.
    pub drift: bool,
    /// The comparison.
    #[serde(flatten)]
    pub compared: Compared,
}

/// A column that is not compared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Skipped {
    /// The column.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// What is said of two tables.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// Whether any column drifted, or a question that joined them ([`Check::join`]).
    pub drift: bool,
    /// Rate of false discoveries that was asked for.
    pub rate: f64,
    /// Compared columns, the surest drift first.
    pub columns: Vec<Verdict>,
    /// Columns that are not compared.
    pub skipped: Vec<Skipped>,
}

impl Check {
    /// Takes the p-value of one more question about the same tables into the procedure, as if it had been a column all along:
    /// every column is judged anew. Whether that question is answered by drift.
    pub fn join(&mut self, p: f64) -> bool {
        let mut all: Vec<f64> = self.columns.iter().map(|v| v.compared.p).collect();
        all.push(p);
        let mut found = discoveries(&all, self.rate);
        let joined = found.pop().unwrap_or(false);
        for (verdict, drift) in self.columns.iter_mut().zip(found) {
            verdict.drift = drift;
        }
        self.drift = joined || self.columns.iter().any(|v| v.drift);
        joined
    }
}

/// Compares the columns of a window with those of a reference.
///
/// # Errors
/// [`StatError::Parameter`] for a rate outside (0, 1); [`StatError::NoColumn`] when no column can be compared.
pub fn check(
    columns: &[Column],
    reference: &Grid,
    current: &Grid,
    options: Options,
) -> Result<Check, StatError> {
    if !(options.rate > 0.0 && options.rate < 1.0) {
        return Err(StatError::Parameter {
            subject: "the check",
            parameter: "the rate of false alarms",
            problem: "must lie between 0 and 1".into(),
        });
    }
    let mut compared = Vec::new();
    let mut skipped = Vec::new();
    for one in columns {
        match column::compare(one, reference, current, options.seed) {
            Ok(done) => compared.push((one.name.clone(), done)),
            Err(reason) => skipped.push(Skipped {
                name: one.name.clone(),
                reason,
            }),
        }
    }
    if compared.is_empty() {
        let each = skipped.iter().map(|s| format!("`{}` {}", s.name, s.reason));
        return Err(StatError::NoColumn {
            why: each.collect::<Vec<_>>().join("; "),
        });
    }
    let p: Vec<f64> = compared.iter().map(|(_, c)| c.p).collect();
    let found = discoveries(&p, options.rate);
    let mut verdicts: Vec<Verdict> = compared
        .into_iter()
        .zip(found)
        .map(|((name, compared), drift)| Verdict {
            name,
            drift,
            compared,
        })
        .collect();
    verdicts.sort_by(|a, b| a.compared.p.total_cmp(&b.compared.p));
    Ok(Check {
        drift: verdicts.iter().any(|v| v.drift),
        rate: options.rate,
        columns: verdicts,
        skipped,
    })
}

/// Which p-values are discoveries at a rate, by Benjamini and Hochberg (1995).
#[must_use]
pub fn discoveries(p: &[f64], rate: f64) -> Vec<bool> {
    let mut sorted = p.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len() as f64;
    let limit = sorted
        .iter()
        .enumerate()
        .rev()
        .find(|(i, p)| **p <= rate * (*i + 1) as f64 / n)
        .map(|(_, p)| *p);
    p.iter().map(|p| limit.is_some_and(|l| *p <= l)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn discoveries_step_up() {
        let p = [0.01, 0.04, 0.03, 0.5];
        assert_eq!(discoveries(&p, 0.05), [true, false, false, false]);
        let p = [0.01, 0.037, 0.03, 0.5];
        assert_eq!(discoveries(&p, 0.05), [true, true, true, false]);
        assert!(discoveries(&[], 0.05).is_empty());
    }

    #[test]
    fn another_question_takes_its_share_of_the_rate() {
        let mut random = random::Random::new(2);
        let mut values = |shift: f64, n: usize| crate::preset::Values::Numbers {
            values: (0..n).map(|_| random.normal() + shift).collect(),
            whole: false,
        };
        let column = Column {
            name: "a".into(),
            reference: values(0.0, 400),
            current: values(0.3, 60),
        };
        let grid = Grid::default();
        let of = |rate| {
            let options = Options { rate, seed: 1 };
            check(std::slice::from_ref(&column), &grid, &grid, options).unwrap()
        };
        let p = of(0.05).columns[0].compared.p;
        let mut check = of((1.5 * p).min(0.9));
        assert!(check.drift);
        assert!(!check.join(1.0) && !check.drift && !check.columns[0].drift);
        assert!(check.join(0.0) && check.drift);
    }
}
