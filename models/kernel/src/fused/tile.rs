//! The one product of both passes: owns the sums that stay in registers, never what they mean.

use std::hint::black_box;

use pulp::Simd;

/// Floats of a cache line.
const LINE: usize = 16;

/// Four sums of `N` vectors each.
pub(super) type Sums<V, const N: usize> = [[V; N]; 4];

/// Adds to four sums, for `N` of the `V` vectors of every row, from vector `from` on: `sum[r] += Σ weights[row][r] rows[row]`.
///
/// Over the gates of a unit forwards, over four units of the state backwards. 4 x `N` sums, `N` operands and a weight
/// must fit into the registers: `N` is 2 where there are 16 and 4 where there are 32.
///
/// `ahead` is what the caller reads next. A number of each cache line of it is read on the way, one every second row, and
/// thrown away: the products do not wait for it, and what lies in a far cache is near when it is needed.
#[inline(always)]
pub(super) fn product<S: Simd, const V: usize, const N: usize, const A: usize>(
    simd: S,
    weights: &[f32],
    rows: &[S::f32s],
    from: usize,
    ahead: [&[f32]; A],
    mut sums: Sums<S::f32s, N>,
) -> Sums<S::f32s, N> {
    let mut weights = weights.as_chunks::<4>().0;
    let mut rows = rows;
    for ahead in ahead {
        let pairs = ahead.len().div_ceil(LINE).min(weights.len() / 2);
        let (first, rest) = weights.split_at(2 * pairs);
        let (first_rows, rest_rows) = rows.split_at(2 * pairs * V);
        let pairs = first.as_chunks::<2>().0.iter();
        let pairs = pairs.zip(first_rows.chunks_exact(2 * V));
        for ((w, x), line) in pairs.zip(ahead.chunks(LINE)) {
            black_box(line[0]);
            add::<S, N>(simd, &w[0], &x[from..from + N], &mut sums);
            add::<S, N>(simd, &w[1], &x[V + from..V + from + N], &mut sums);
        }
        (weights, rows) = (rest, rest_rows);
    }
    for (w, x) in weights.iter().zip(rows.chunks_exact(V)) {
        add::<S, N>(simd, w, &x[from..from + N], &mut sums);
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
