//! The one product of both passes: owns the sums that stay in registers, never what they mean.

use pulp::Simd;

/// Four sums for `N` of the `V` vectors of every row, from vector `from` on: `sum[r] = Σ weights[row][r] rows[row]`.
///
/// Over the gates of a unit forwards, over four units of the state backwards. 4 x `N` sums, `N` operands and a weight
/// must fit into the registers: `N` is 2 where there are 16 and 4 where there are 32.
#[inline(always)]
pub(super) fn product<S: Simd, const V: usize, const N: usize>(
    simd: S,
    weights: &[f32],
    rows: &[S::f32s],
    from: usize,
) -> [[S::f32s; N]; 4] {
    let mut sums = [[simd.splat_f32s(0.0); N]; 4];
    for (w, x) in weights.as_chunks::<4>().0.iter().zip(rows.chunks_exact(V)) {
        let x = &x[from..from + N];
        for (sums, w) in sums.iter_mut().zip(w) {
            let w = simd.splat_f32s(*w);
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = simd.mul_add_e_f32s(w, *x, *sum);
            }
        }
    }
    sums
}
