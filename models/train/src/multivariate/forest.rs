//! The domain classifier: owns how well a forest tells two sets of rows apart and by which columns, never what is chance.

use fieldcast_kernel::Rng;
use smartcore::ensemble::random_forest_regressor::{
    RandomForestRegressor, RandomForestRegressorParameters,
};
use smartcore::error::Failed;
use smartcore::linalg::basic::matrix::DenseMatrix;

use super::rows::Rows;

/// Blocks in time, each of which is judged by a forest grown on the others.
const FOLDS: usize = 4;
const TREES: usize = 16;
const DEPTH: u16 = 5;
/// Fewest rows of a leaf.
const LEAF: usize = 5;
/// Most columns that a split chooses from: what bounds the time of a wide table.
const CHOICE: usize = 8;
/// Times a column is shuffled.
const SHUFFLES: usize = 4;

/// How well the two sets are told apart: the area under the curve of held-out blocks, 0.5 being chance.
pub(super) fn area(reference: &Rows, current: &Rows, seed: u64) -> Result<f64, Failed> {
    let mut sum = 0.0;
    for fold in 0..FOLDS {
        let part = Part::new(reference, current, fold, seed)?;
        sum += part.area(&part.held)?;
    }
    Ok(sum / FOLDS as f64)
}

/// By how much the area falls when a column is shuffled over the rows of the held-out blocks.
pub(super) fn importance(reference: &Rows, current: &Rows, seed: u64) -> Result<Vec<f64>, Failed> {
    let mut falls = vec![0.0; reference.width];
    let mut rng = Rng::new(seed);
    for fold in 0..FOLDS {
        let part = Part::new(reference, current, fold, seed)?;
        let whole = part.area(&part.held)?;
        for (column, fall) in falls.iter_mut().enumerate() {
            for _ in 0..SHUFFLES {
                let mut values: Vec<f64> = part.held.column(column).collect();
                rng.shuffle(&mut values);
                let mut shuffled = part.held.clone();
                let width = shuffled.width;
                let cells = shuffled.values.iter_mut().skip(column).step_by(width);
                cells.zip(values).for_each(|(cell, value)| *cell = value);
                *fall += (whole - part.area(&shuffled)?) / (FOLDS * SHUFFLES) as f64;
            }
        }
    }
    Ok(falls)
}

type Forest = RandomForestRegressor<f64, f64, DenseMatrix<f64>, Vec<f64>>;

/// A forest, and the blocks that it did not see.
struct Part {
    forest: Forest,
    held: Rows,
    /// How many of the held-out rows, which come first, are of the reference.
    known: usize,
}

impl Part {
    fn new(reference: &Rows, current: &Rows, fold: usize, seed: u64) -> Result<Self, Failed> {
        let (learnt, mut held) = reference.split(fold, FOLDS);
        let (fresh, new) = current.split(fold, FOLDS);
        let known = held.len();
        held.values.extend(new.values);
        let mut label = vec![0.0; learnt.len()];
        label.resize(learnt.len() + fresh.len(), 1.0);
        let all = Rows {
            values: [learnt.values, fresh.values].concat(),
            width: reference.width,
        };
        let parameters = RandomForestRegressorParameters::default()
            .with_n_trees(TREES)
            .with_max_depth(DEPTH)
            .with_min_samples_leaf(LEAF)
            .with_m(reference.width.div_ceil(2).min(CHOICE))
            .with_seed(seed.wrapping_add(fold as u64));
        let forest = RandomForestRegressor::fit(&matrix(&all)?, &label, parameters)?;
        Ok(Self {
            forest,
            held,
            known,
        })
    }

    fn area(&self, held: &Rows) -> Result<f64, Failed> {
        let scores: Vec<f64> = self.forest.predict(&matrix(held)?)?;
        let (known, new) = scores.split_at(self.known);
        Ok(under_curve(known, new))
    }
}

fn matrix(rows: &Rows) -> Result<DenseMatrix<f64>, Failed> {
    DenseMatrix::new(rows.len(), rows.width, rows.values.clone(), false)
}

/// The share of pairs in which the new one scores higher; ties count half.
fn under_curve(known: &[f64], new: &[f64]) -> f64 {
    let mut sorted = known.to_vec();
    sorted.sort_by(f64::total_cmp);
    let below = |v: &f64| {
        let less = sorted.partition_point(|s| s < v);
        let up_to = sorted.partition_point(|s| s <= v);
        (less + up_to) as f64 / 2.0
    };
    let pairs = (known.len() * new.len()).max(1) as f64;
    new.iter().map(below).sum::<f64>() / pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_counts_pairs() {
        assert_eq!(under_curve(&[1.0, 2.0], &[3.0]), 1.0);
        assert_eq!(under_curve(&[1.0, 2.0], &[0.0, 3.0]), 0.5);
        assert_eq!(under_curve(&[1.0, 1.0], &[1.0]), 0.5);
    }
}
