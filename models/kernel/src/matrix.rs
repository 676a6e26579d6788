//! Matrix products on plain slices: owns the one call into the GEMM library, never a layer's meaning.

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2};

/// How an operand lies in its slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Row-major, as the product reads it.
    Plain,
    /// Row-major of the transpose.
    Transposed,
}

/// `c = a b` with `accumulate` false, `c += a b` with it true; c is `m` x `n` row-major, the inner size is `k`. While it runs the library
/// takes memory to pack the operands into; it offers no way to keep it.
///
/// # Panics
/// Where a slice is shorter than its shape.
pub fn gemm(
    (m, k, n): (usize, usize, usize),
    (a, a_layout): (&[f32], Layout),
    (b, b_layout): (&[f32], Layout),
    c: &mut [f32],
    accumulate: bool,
) {
    let a = operand(m, k, a, a_layout);
    let b = operand(k, n, b, b_layout);
    let beta = if accumulate { 1.0 } else { 0.0 };
    // The slice index has checked the only thing that could be wrong.
    if let Ok(mut c) = ArrayViewMut2::from_shape((m, n), &mut c[..m * n]) {
        general_mat_mul(1.0, &a, &b, beta, &mut c);
    }
}

fn operand(rows: usize, columns: usize, data: &[f32], layout: Layout) -> ArrayView2<'_, f32> {
    let data = &data[..rows * columns];
    let shape = match layout {
        Layout::Plain => (rows, columns),
        Layout::Transposed => (columns, rows),
    };
    let view = ArrayView2::from_shape(shape, data)
        .unwrap_or_else(|_| unreachable!("length checked above"));
    match layout {
        Layout::Plain => view,
        Layout::Transposed => view.reversed_axes(),
    }
}

/// Adds up the rows of `a` (`rows` x `columns`) into `sum`.
pub(crate) fn add_rows(a: &[f32], columns: usize, sum: &mut [f32]) {
    for row in a.chunks_exact(columns) {
        for (s, v) in sum.iter_mut().zip(row) {
            *s += v;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_layouts_give_the_product() {
        // [1 2 3; 4 5 6] x [1 0; 0 1; 2 2]
        let (a, at) = ([1., 2., 3., 4., 5., 6.], [1., 4., 2., 5., 3., 6.]);
        let (b, bt) = ([1., 0., 0., 1., 2., 2.], [1., 0., 2., 0., 1., 2.]);
        let expected = [7., 8., 16., 17.];
        for (a, la) in [(&a, Layout::Plain), (&at, Layout::Transposed)] {
            for (b, lb) in [(&b, Layout::Plain), (&bt, Layout::Transposed)] {
                let mut c = [1.0; 4];
                gemm((2, 3, 2), (a, la), (b, lb), &mut c, false);
                assert_eq!(c, expected);
                gemm((2, 3, 2), (a, la), (b, lb), &mut c, true);
                assert_eq!(c, expected.map(|x| 2.0 * x));
            }
        }
    }

    #[test]
    fn rows_are_added() {
        let mut sum = [1.0, 1.0];
        add_rows(&[1., 2., 3., 4.], 2, &mut sum);
        assert_eq!(sum, [5.0, 7.0]);
    }
}
