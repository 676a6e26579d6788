//! One column: owns how it is compared with its reference and what is said of the difference, never the rate over columns.

use std::collections::BTreeMap;

use serde::Serialize;

use super::blocks::Blocks;
use super::whiten::{Grid, Whitener};
use super::{FEWEST_CURRENT, FEWEST_REFERENCE};
use crate::ks;
use crate::preset::{Column, Values};
use crate::special::chi_square_tail;
use crate::two_sample::wasserstein;

/// Most different values of a column of numbers that is compared as categories.
pub const FEW: usize = 5;
/// Share of different values from which words are free text.
const FREE_TEXT: f64 = 0.5;

/// A comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Compared {
    /// `ks` on what season and past leave, or `chi_square`.
    pub method: &'static str,
    /// The probability of a difference as large without drift.
    pub p: f64,
    /// Largest distance of the two distribution functions, or Cramér's V.
    pub statistic: f64,
    /// Rows with a value in the reference.
    pub reference_rows: usize,
    /// Rows with a value in the current table.
    pub current_rows: usize,
    /// Whether the season was taken out.
    pub season: bool,
    /// How many of its own past values the column was freed of.
    pub lags: usize,
    /// By how much the distance was taken down: windows of the reference spread wider than independent ones, and what is
    /// learnt from it has an error.
    pub excess: f64,
    /// The difference in the column's own terms.
    pub moved: Moved,
}

/// What moved.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Moved {
    /// Of numbers.
    Numbers {
        /// Mean of the reference.
        reference_mean: f64,
        /// Mean of the current table.
        current_mean: f64,
        /// Deviation of the reference.
        reference_deviation: f64,
        /// Deviation of the current table.
        current_deviation: f64,
        /// Wasserstein-1 distance over the reference's deviation.
        distance: f64,
    },
    /// Of categories: the one whose share changed most.
    Category {
        /// Its name.
        name: String,
        /// Its share in the reference.
        reference_share: f64,
        /// Its share in the current table.
        current_share: f64,
    },
}

/// Compares a column of a window with its reference; `seed` is the bootstrap's.
///
/// # Errors
/// Why not, as the end of a sentence about the column.
pub fn compare(
    column: &Column,
    reference: &Grid,
    current: &Grid,
    seed: u64,
) -> Result<Compared, String> {
    let words = |values: &Values| -> Vec<Option<String>> {
        match values {
            Values::Words(words) => words.clone(),
            Values::Numbers { values, .. } => {
                let one = |v: &f64| v.is_finite().then(|| (v + 0.0).to_string());
                values.iter().map(one).collect()
            }
        }
    };
    match (&column.reference, &column.current) {
        (Values::Numbers { values: r, .. }, Values::Numbers { values: c, .. }) => {
            enough(count(r), count(c))?;
            let different = distinct(r);
            if different == 1 {
                return Err(constant(r, c));
            }
            if different <= FEW {
                let (r, c) = (words(&column.reference), words(&column.current));
                return categories(&r, &c, reference, current, seed);
            }
            numbers(r, c, reference, current, seed)
        }
        (Values::Words(r), Values::Words(c)) => {
            let present = r.iter().flatten().count();
            enough(present, c.iter().flatten().count())?;
            let mut all: Vec<&String> = r.iter().flatten().collect();
            all.sort();
            all.dedup();
            if all.len() as f64 > FREE_TEXT * present as f64 {
                return Err("is free text: more than half of its values differ".into());
            }
            if all.len() == 1 {
                let others = c.iter().flatten().filter(|w| *w != all[0]).count();
                return Err(only_one(all[0], others));
            }
            categories(r, c, reference, current, seed)
        }
        _ => Err(
            "holds numbers in one file and words in the other; mend the file that is wrong".into(),
        ),
    }
}

fn count(values: &[f64]) -> usize {
    values.iter().filter(|v| v.is_finite()).count()
}

fn distinct(values: &[f64]) -> usize {
    let mut all: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    all.sort_by(f64::total_cmp);
    all.dedup();
    all.len()
}

fn enough(reference: usize, current: usize) -> Result<(), String> {
    for (rows, fewest, side) in [
        (reference, FEWEST_REFERENCE, "reference"),
        (current, FEWEST_CURRENT, "current file"),
    ] {
        if rows == 0 {
            return Err(format!("has no value in the {side}"));
        }
        if rows < fewest {
            return Err(format!(
                "has {rows} values in the {side}, {fewest} are needed"
            ));
        }
    }
    Ok(())
}

fn constant(reference: &[f64], current: &[f64]) -> String {
    let value = reference.iter().find(|v| v.is_finite()).copied();
    let value = value.unwrap_or_default();
    let others = current
        .iter()
        .filter(|v| v.is_finite() && **v != value)
        .count();
    only_one(&value.to_string(), others)
}

fn only_one(value: &str, others: usize) -> String {
    if others == 0 {
        format!("has only the value {value}: nothing to compare")
    } else {
        format!(
            "has only the value {value} in the reference, and {others} other values in the current file: \
             a constant tells nothing of how far values may stray; look at them"
        )
    }
}

fn numbers(
    r: &[f64],
    c: &[f64],
    reference: &Grid,
    current: &Grid,
    seed: u64,
) -> Result<Compared, String> {
    let whitener = Whitener::fit(r, reference);
    let (left, fresh) = (whitener.apply(r, reference), whitener.apply(c, current));
    let (n, m) = (count(&left), count(&fresh));
    if n < FEWEST_REFERENCE || m < FEWEST_CURRENT {
        return Err(format!(
            "has too many gaps: {n} rows of the reference and {m} of the current file follow {} rows without a gap, \
             {FEWEST_REFERENCE} and {FEWEST_CURRENT} are needed",
            whitener.lags()
        ));
    }
    let plain = ks::ks(&left, &fresh).map_err(|error| error.to_string())?;
    let present = left.iter().map(|v| v.is_finite()).collect();
    let blocks = Blocks::new(present, reference, m, 4 * whitener.lags());
    let ranks = Ranks::new(&left);
    let excess = blocks.excess(m, current, seed, |rows| ranks.distance(rows));
    let chance = 1.0 / n as f64 + 1.0 / m as f64;
    let leverage = whitener.leverage((r, reference), (c, current));
    let excess = excess * (1.0 + leverage / chance).sqrt();
    let p = if excess > 1.0 {
        ks::p_value(n, m, plain.d / excess)
    } else {
        plain.p
    };
    let (mean, deviation) = moments(r);
    let (current_mean, current_deviation) = moments(c);
    Ok(Compared {
        method: "ks",
        p,
        statistic: plain.d,
        reference_rows: count(r),
        current_rows: count(c),
        season: whitener.seasonal(),
        lags: whitener.lags(),
        excess,
        moved: Moved::Numbers {
            reference_mean: mean,
            current_mean,
            reference_deviation: deviation,
            current_deviation,
            distance: wasserstein(r, c).unwrap_or(f64::NAN),
        },
    })
}

fn moments(values: &[f64]) -> (f64, f64) {
    let finite: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    let n = finite.len().max(1) as f64;
    let mean = finite.iter().map(|v| v / n).sum::<f64>();
    let square = finite.iter().map(|v| (v - mean).powi(2) / n).sum::<f64>();
    (mean, square.sqrt())
}

/// The reference's distribution function at its own rows, so that a drawn window need only be sorted by rank.
struct Ranks {
    /// Values below and up to each row's value.
    at: Vec<(u32, u32)>,
    count: f64,
}

impl Ranks {
    fn new(values: &[f64]) -> Self {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let one = |v: &f64| {
            let below = sorted.partition_point(|s| s < v);
            let up_to = sorted.partition_point(|s| s <= v);
            (below as u32, up_to as u32)
        };
        Self {
            at: values.iter().map(one).collect(),
            count: sorted.len() as f64,
        }
    }

    /// Largest distance between the distribution functions of a window and of the reference.
    fn distance(&self, rows: &[usize]) -> f64 {
        let mut ranks: Vec<(u32, u32)> = rows.iter().map(|r| self.at[*r]).collect();
        ranks.sort_unstable();
        let size = ranks.len().max(1) as f64;
        let (mut most, mut i) = (0.0_f64, 0);
        while i < ranks.len() {
            let (below, up_to) = ranks[i];
            let before = i as f64 / size;
            while i < ranks.len() && ranks[i].1 == up_to {
                i += 1;
            }
            let after = i as f64 / size;
            most = most
                .max((before - f64::from(below) / self.count).abs())
                .max((after - f64::from(up_to) / self.count).abs());
        }
        most
    }
}

fn categories(
    r: &[Option<String>],
    c: &[Option<String>],
    reference: &Grid,
    current: &Grid,
    seed: u64,
) -> Result<Compared, String> {
    let mut index: BTreeMap<&str, usize> = BTreeMap::new();
    for word in r.iter().chain(c).flatten() {
        let next = index.len();
        index.entry(word).or_insert(next);
    }
    let codes = |side: &[Option<String>]| -> Vec<Option<usize>> {
        side.iter()
            .map(|w| w.as_deref().and_then(|w| index.get(w).copied()))
            .collect()
    };
    let (rows, fresh) = (codes(r), codes(c));
    let n = rows.iter().flatten().count() as f64;
    let m = fresh.iter().flatten().count();
    let tally = |codes: &mut dyn Iterator<Item = usize>| {
        let mut counts = vec![0.0_f64; index.len()];
        codes.for_each(|code| counts[code] += 1.0);
        counts
    };
    let before = tally(&mut rows.iter().copied().flatten());
    let after = tally(&mut fresh.iter().copied().flatten());
    // Half a row where the reference never saw a category: it is rare, not impossible.
    let expected: Vec<f64> = before.iter().map(|b| b.max(0.5) / n).collect();
    let distance = |counts: &[f64]| -> f64 {
        let size: f64 = counts.iter().sum();
        let one = |(c, e): (&f64, &f64)| (c - size * e).powi(2) / (size * e);
        counts.iter().zip(&expected).map(one).sum()
    };
    // The reference is a sample too: both sides' chance adds up.
    let statistic = distance(&after) / (1.0 + m as f64 / n);
    let present: Vec<bool> = rows.iter().map(Option::is_some).collect();
    let switches = rows.windows(2).filter(|w| w[0] != w[1]).count();
    let run = rows.len() / (switches + 1);
    let blocks = Blocks::new(present, reference, m, 4 * run);
    let excess = blocks.excess(m, current, seed, |drawn| {
        distance(&tally(&mut drawn.iter().filter_map(|row| rows[*row])))
    });
    let freedom = index.len() as f64 - 1.0;
    let (name, at) = index
        .iter()
        .max_by(|(_, a), (_, b)| {
            let change = |i: usize| (after[i] / m as f64 - before[i] / n).abs();
            change(**a).total_cmp(&change(**b))
        })
        .map(|(name, at)| ((*name).to_owned(), *at))
        .unwrap_or_default();
    Ok(Compared {
        method: "chi_square",
        p: chi_square_tail(statistic / excess, freedom),
        statistic: (distance(&after) / (m as f64 * freedom)).sqrt(),
        reference_rows: n as usize,
        current_rows: m,
        season: false,
        lags: 0,
        excess,
        moved: Moved::Category {
            name,
            reference_share: before[at] / n,
            current_share: after[at] / m as f64,
        },
    })
}
