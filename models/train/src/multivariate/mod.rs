//! Whether columns changed together: owns the comparison of the joint distribution of two tables, never the single columns or
//! what follows.
//!
//! Each column is first freed of its season and its past, as [`fieldcast_drift::window`] does. Then two questions: can a random
//! forest tell the current rows from the reference's, in blocks of time that it has not seen (the domain classifier), and do
//! the reference's principal components rebuild the current rows as well as its own held-out blocks? What is chance is seen
//! from windows as long, cut from the reference itself in blocks and treated alike.

mod chance;
pub mod fleet;
mod forest;
mod pca;
mod prepare;
mod rows;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;

use fieldcast_drift::preset::Column;
use fieldcast_drift::window::{Grid, Skipped};
use fieldcast_kernel::Rng;
use serde::Serialize;

use chance::{Chance, WINDOWS};
use rows::Rows;

/// A comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Joint {
    /// The probability of a difference as large without drift: twice the smaller of the two below.
    pub p: f64,
    /// How well a forest tells current rows from the reference's: area under the curve of held-out blocks, 0.5 = not at all.
    pub auc: f64,
    /// The same of windows cut from the reference: mean.
    pub auc_chance: f64,
    /// The same: deviation.
    pub auc_deviation: f64,
    /// The probability of an area as large.
    pub p_auc: f64,
    /// Mean squared error of current rows rebuilt from the reference's principal components, in variances of a column.
    pub reconstruction: f64,
    /// The same of the reference's held-out blocks.
    pub reconstruction_reference: f64,
    /// The probability of a ratio of the two as far off.
    pub p_reconstruction: f64,
    /// Principal components that are kept.
    pub components: usize,
    /// Columns, the most important first.
    pub columns: Vec<Importance>,
    /// Columns that do not take part.
    pub left_out: Vec<Skipped>,
    /// Rows of the reference that were compared.
    pub reference_rows: usize,
    /// Current rows that were compared.
    pub current_rows: usize,
    /// Share of the cells that were missing, on either side, and were filled with the reference's median on both.
    pub filled: f64,
}

/// A column's part in telling the two apart.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Importance {
    /// The column.
    pub name: String,
    /// By how much the area falls when this column is shuffled in the held-out blocks.
    pub auc_fall: f64,
    /// Mean squared error when rebuilt: of the current rows less of the reference.
    pub reconstruction_growth: f64,
}

impl Joint {
    /// The columns that matter most, for the statistic that is the surer one.
    #[must_use]
    pub fn chiefly(&self) -> Vec<&str> {
        let by_forest = self.p_auc <= self.p_reconstruction;
        let weight = |c: &Importance| {
            if by_forest {
                c.auc_fall
            } else {
                c.reconstruction_growth.abs()
            }
        };
        let most = self.columns.iter().map(weight).fold(0.0, f64::max);
        let mut named: Vec<&Importance> = self
            .columns
            .iter()
            .filter(|c| most > 0.0 && weight(c) >= most / 3.0)
            .collect();
        named.sort_by(|a, b| weight(b).total_cmp(&weight(a)));
        named.iter().map(|c| c.name.as_str()).collect()
    }
}

/// Compares the columns of numbers of two tables as a whole, or says why not.
///
/// # Errors
/// Fewer than two columns of numbers, or too few rows; says what was found and what is needed.
pub fn compare(
    columns: &[Column],
    reference: &Grid,
    current: &Grid,
    seed: u64,
) -> Result<Joint, String> {
    let prepared = prepare::prepare(columns, (reference, current), seed)?;
    let mut rng = Rng::new(seed);
    let statistics = |reference: &Rows, current: &Rows| -> Result<(f64, pca::Rebuilt), String> {
        let grown = forest::area(reference, current, seed);
        let rebuilt = pca::rebuild(reference, current);
        match (grown, rebuilt) {
            (Ok(area), Ok(rebuilt)) => Ok((area, rebuilt)),
            (Err(error), _) | (_, Err(error)) => Err(format!("values that fit no model ({error})")),
        }
    };
    let (auc, rebuilt) = statistics(&prepared.reference, &prepared.current)?;
    let (mut areas, mut ratios) = (Vec::new(), Vec::new());
    for _ in 0..WINDOWS {
        let (window, others) = chance::cut(&prepared, &mut rng);
        let (reference, current) = (
            prepared.reference.take(&others),
            prepared.reference.take(&window),
        );
        let (area, rebuilt) = statistics(&reference, &current)?;
        areas.push(area);
        ratios.push(ratio(&rebuilt));
    }
    let (areas, ratios) = (
        Chance::new(&areas, &prepared),
        Chance::new(&ratios, &prepared),
    );
    let (p_auc, p_reconstruction) = (areas.above(auc), ratios.either(ratio(&rebuilt)));
    let falls = forest::importance(&prepared.reference, &prepared.current, seed)
        .map_err(|error| format!("values that fit no model ({error})"))?;
    let one = |(i, name): (usize, &String)| Importance {
        name: name.clone(),
        auc_fall: falls[i],
        reconstruction_growth: rebuilt.by_column[i],
    };
    let mut columns: Vec<Importance> = prepared.names.iter().enumerate().map(one).collect();
    columns.sort_by(|a, b| b.auc_fall.total_cmp(&a.auc_fall));
    Ok(Joint {
        p: (2.0 * p_auc.min(p_reconstruction)).min(1.0),
        auc,
        auc_chance: areas.mean,
        auc_deviation: areas.deviation,
        p_auc,
        reconstruction: rebuilt.current,
        reconstruction_reference: rebuilt.reference,
        p_reconstruction,
        components: rebuilt.kept,
        columns,
        left_out: prepared.left_out,
        reference_rows: prepared.reference.len(),
        current_rows: prepared.current.len(),
        filled: prepared.filled,
    })
}

/// Logarithm of current over reference; a floor, so that columns that say the same keep a ratio.
fn ratio(rebuilt: &pca::Rebuilt) -> f64 {
    const FLOOR: f64 = 1e-9;
    ((rebuilt.current + FLOOR) / (rebuilt.reference + FLOOR)).ln()
}
