//! Rows of finite numbers: owns how they are cut into blocks, never what they mean.

/// Rows in the order of time, one after the other.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rows {
    pub(super) values: Vec<f64>,
    /// Columns; at least 1.
    pub(super) width: usize,
}

impl Rows {
    pub(super) fn len(&self) -> usize {
        self.values.len() / self.width
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[f64]> {
        self.values.chunks_exact(self.width)
    }

    pub(super) fn column(&self, column: usize) -> impl Iterator<Item = f64> + '_ {
        self.values.iter().skip(column).step_by(self.width).copied()
    }

    pub(super) fn take(&self, rows: &[usize]) -> Self {
        let row = |i: &usize| &self.values[i * self.width..(i + 1) * self.width];
        Self {
            values: rows.iter().flat_map(row).copied().collect(),
            width: self.width,
        }
    }

    /// All but the block `fold` of `folds` equal ones, and that block.
    pub(super) fn split(&self, fold: usize, folds: usize) -> (Self, Self) {
        let at = |k: usize| self.len() * k / folds * self.width;
        let (begin, end) = (at(fold), at(fold + 1));
        let part = |values: Vec<f64>| Self {
            values,
            width: self.width,
        };
        let others = [&self.values[..begin], &self.values[end..]].concat();
        (part(others), part(self.values[begin..end].to_vec()))
    }
}
