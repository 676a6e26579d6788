//! Principal components: owns how badly a reference's components rebuild other rows, never what is chance.

use smartcore::error::Failed;
use smartcore::linalg::basic::arrays::Array;
use smartcore::linalg::basic::matrix::DenseMatrix;
use smartcore::linalg::traits::evd::EVDDecomposable as _;

use super::rows::Rows;

/// Share of the variance that the kept components hold.
const KEPT: f64 = 0.8;
/// Blocks in time, each of which is rebuilt by the components of the others.
const FOLDS: usize = 4;

/// Mean squared errors of rows rebuilt from a reference's components, in variances of a column.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rebuilt {
    /// Of the reference's held-out blocks.
    pub(super) reference: f64,
    /// Of the current rows.
    pub(super) current: f64,
    /// Of each column: current less reference.
    pub(super) by_column: Vec<f64>,
    /// Components that were kept.
    pub(super) kept: usize,
}

/// Rebuilds both sets.
pub(super) fn rebuild(reference: &Rows, current: &Rows) -> Result<Rebuilt, Failed> {
    let width = reference.width;
    let whole = Components::new(reference, None)?;
    let after = whole.errors(current);
    let mut before = vec![0.0; width];
    for fold in 0..FOLDS {
        let (learnt, held) = reference.split(fold, FOLDS);
        let share = held.len() as f64 / reference.len() as f64;
        // As many components everywhere, or errors would jump where the share is close.
        let errors = Components::new(&learnt, Some(whole.kept()))?.errors(&held);
        before
            .iter_mut()
            .zip(errors)
            .for_each(|(b, e)| *b += e * share);
    }
    let mean = |errors: &[f64]| errors.iter().sum::<f64>() / width as f64;
    Ok(Rebuilt {
        reference: mean(&before),
        current: mean(&after),
        by_column: after.iter().zip(&before).map(|(a, b)| a - b).collect(),
        kept: whole.kept(),
    })
}

struct Components {
    means: Vec<f64>,
    axes: Vec<Vec<f64>>,
}

impl Components {
    fn new(rows: &Rows, kept: Option<usize>) -> Result<Self, Failed> {
        let (width, n) = (rows.width, rows.len().max(1) as f64);
        let means: Vec<f64> = (0..width)
            .map(|c| rows.column(c).sum::<f64>() / n)
            .collect();
        let mut products = vec![0.0; width * width];
        for row in rows.iter() {
            for a in 0..width {
                for b in 0..width {
                    products[a * width + b] += (row[a] - means[a]) * (row[b] - means[b]) / n;
                }
            }
        }
        let parts = DenseMatrix::new(width, width, products, false)?.evd(true)?;
        let mut order: Vec<usize> = (0..width).collect();
        order.sort_by(|a, b| parts.d[*b].total_cmp(&parts.d[*a]));
        let all: f64 = parts.d.iter().map(|v| v.max(0.0)).sum();
        let mut held = 0.0;
        let needed = order.iter().take_while(|i| {
            let before = held;
            held += parts.d[**i].max(0.0);
            before < KEPT * all
        });
        // One is always left out, or there is no error to speak of.
        let kept = kept.unwrap_or_else(|| needed.count()).clamp(1, width - 1);
        let axis = |i: &usize| (0..width).map(|c| *parts.V.get((c, *i))).collect();
        Ok(Self {
            means,
            axes: order[..kept].iter().map(axis).collect(),
        })
    }

    fn kept(&self) -> usize {
        self.axes.len()
    }

    /// Mean squared error of each column.
    fn errors(&self, rows: &Rows) -> Vec<f64> {
        let mut errors = vec![0.0; rows.width];
        let mut left = vec![0.0; rows.width];
        for row in rows.iter() {
            for (l, (v, m)) in left.iter_mut().zip(row.iter().zip(&self.means)) {
                *l = v - m;
            }
            for axis in &self.axes {
                // The axes are orthogonal: what one takes off is nothing to the next.
                let score: f64 = left.iter().zip(axis).map(|(l, a)| l * a).sum();
                left.iter_mut().zip(axis).for_each(|(l, a)| *l -= score * a);
            }
            for (error, l) in errors.iter_mut().zip(&left) {
                *error += l * l / rows.len() as f64;
            }
        }
        errors
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_left_the_line_is_rebuilt_badly() {
        let line = |sign: f64| Rows {
            values: (0..40)
                .flat_map(|i| {
                    let x = f64::from(i % 7) - 3.0;
                    [x, sign * x, 0.01 * f64::from(i % 3)]
                })
                .collect(),
            width: 3,
        };
        let same = rebuild(&line(1.0), &line(1.0)).unwrap();
        assert_eq!(same.kept, 1);
        assert!(same.current < 0.01 && same.reference < 0.01, "{same:?}");
        let turned = rebuild(&line(1.0), &line(-1.0)).unwrap();
        // All of both columns' variance of 4 is lost, over three columns.
        assert!((turned.current - 8.0 / 3.0).abs() < 0.2, "{turned:?}");
        assert!(turned.by_column[0] > 3.0 && turned.by_column[2] < 0.01);
    }
}
