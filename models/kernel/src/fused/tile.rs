//! The one product of both passes: owns the sums that stay in registers, never what they mean.

use std::hint::black_box;

use pulp::Simd;

/// Floats of a cache line.
const LINE: usize = 16;

/// Four sums of `N` vectors each.
pub(super) type Sums<V, const N: usize> = [[V; N]; 4];

/// Adds to `U` times four sums, for `N` of the `V` vectors of every row, from vector `from` on:
/// `sum[u][r] += Σ weights[u][row][r] rows[row]`.
///
/// Over the gates of `U` units forwards, over four times `U` units of the state backwards. 4 x `U` x `N` sums, `N` operands and a
/// weight must fit into the registers: `U` x `N` is 2 where there are 16 and 4 where there are 32. With fewer sums each addition
/// would wait for the one before it.
///
/// `ahead` is what the caller reads next. A number of each cache line of it is read on the way, one every second row, and
/// thrown away: the products do not wait for it, and what lies in a far cache is near when it is needed.
#[inline(always)]
pub(super) fn product<S: Simd, const V: usize, const N: usize, const U: usize, const A: usize>(
    simd: S,
    weights: [&[f32]; U],
    rows: &[S::f32s],
    from: usize,
    ahead: [&[f32]; A],
    mut sums: [Sums<S::f32s, N>; U],
) -> [Sums<S::f32s, N>; U] {
    let weights = weights.map(|w| w.as_chunks::<4>().0);
    let count = weights[0].len().min(rows.len() / V);
    let mut weights = weights.map(|w| &w[..count]);
    let mut rows = &rows[..count * V];
    for ahead in ahead {
        let pairs = ahead.len().div_ceil(LINE).min(count / 2);
        let first = weights.map(|w| &w[..2 * pairs]);
        let (first_rows, rest_rows) = rows.split_at(2 * pairs * V);
        let rows_of_pairs = first_rows.chunks_exact(2 * V);
        for (i, (x, line)) in rows_of_pairs.zip(ahead.chunks(LINE)).enumerate() {
            black_box(line[0]);
            for (x, row) in [(&x[..V], 2 * i), (&x[V..], 2 * i + 1)] {
                for (w, sums) in first.iter().zip(&mut sums) {
                    add::<S, N>(simd, &w[row], &x[from..from + N], sums);
                }
            }
        }
        (weights, rows) = (weights.map(|w| &w[2 * pairs..]), rest_rows);
    }
    for (row, x) in rows.chunks_exact(V).enumerate() {
        for (w, sums) in weights.iter().zip(&mut sums) {
            add::<S, N>(simd, &w[row], &x[from..from + N], sums);
        }
    }
    sums
}

/// What one row adds.
#[inline(always)]
fn add<S: Simd, const N: usize>(
    simd: S,
    weights: &[f32; 4],
    row: &[S::f32s],
    sums: &mut Sums<S::f32s, N>,
) {
    for (sums, w) in sums.iter_mut().zip(weights) {
        let w = simd.splat_f32s(*w);
        for (sum, x) in sums.iter_mut().zip(row) {
            *sum = simd.mul_add_e_f32s(w, *x, *sum);
        }
    }
}
