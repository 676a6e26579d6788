//! Back-propagation through time of one shard: turns activated gates into their gradients, never sums a weight's gradient.

use std::ops::Range;

use pulp::{Simd, bytemuck};

use super::tile::product;
use super::{Shape, Shard};

/// Bytes of the gates that one tile after the other reads before the next part of them: they should stay in the
/// first-level cache.
const BLOCK: usize = 32 * 1024;

/// Replaces `shard.gates` by the gradients of the gates before activation, for `steps` and the one before them, from the
/// last to the first. Where `steps` do not end the sequence, the call before has left those of their last step.
///
/// A tile of the product with the weights gives `d_hidden` of a few units, which go a step further back at once: what
/// that reads lies outside the cache, and arrives while the next tile is computed. Gates that would not stay in the first
/// cache from tile to tile are taken in parts, and `d_hidden` keeps what the parts before have given.
#[inline(always)]
pub(super) fn run<S: Simd, const V: usize, const N: usize>(
    simd: S,
    shape: Shape,
    steps: Range<usize>,
    recurrent: &[f32],
    shard: &mut Shard,
) {
    simd.vectorize(
        #[inline(always)]
        || {
            let hidden = shape.hidden;
            let gate_stride = shape.gate_stride() * V;
            let gates = S::as_mut_simd_f32s(&mut shard.gates).0;
            let cell = S::as_simd_f32s(&shard.cell).0;
            let tanh_cell = S::as_simd_f32s(&shard.tanh_cell).0;
            let d_hidden = S::as_mut_simd_f32s(&mut shard.d_hidden).0;
            let d_cell = S::as_mut_simd_f32s(&mut shard.d_cell).0;
            if steps.end == shape.steps {
                let t = steps.end - 1;
                let units = gates[t * gate_stride..][..4 * hidden * V]
                    .chunks_exact_mut(4 * V)
                    .zip(cell[t * hidden * V..].chunks_exact(V))
                    .zip(tanh_cell[t * hidden * V..].chunks_exact(V))
                    .zip(d_hidden.chunks_exact(V).zip(d_cell.chunks_exact_mut(V)));
                for (((gates, before), tanh), (d_hidden, d_cell)) in units {
                    step::<S, V>(simd, gates, before, tanh, 0, d_hidden, d_cell);
                }
            }
            let blocks = (4 * hidden * V * size_of::<S::f32s>()).div_ceil(BLOCK);
            let block = (4 * hidden).div_ceil(blocks).next_multiple_of(2);
            for t in steps.rev().take_while(|t| *t > 0) {
                let (earlier, now) = gates.split_at_mut(t * gate_stride);
                let now = &now[..4 * hidden * V];
                let earlier = &mut earlier[(t - 1) * gate_stride..][..4 * hidden * V];
                for (n, rows) in now.chunks(block * V).enumerate() {
                    let weights = recurrent.chunks_exact(16 * hidden);
                    let tiles = earlier
                        .chunks_mut(16 * V)
                        .zip(cell[(t - 1) * hidden * V..][..hidden * V].chunks(4 * V))
                        .zip(tanh_cell[(t - 1) * hidden * V..].chunks(4 * V))
                        .zip(
                            d_hidden
                                .chunks_exact_mut(4 * V)
                                .zip(d_cell.chunks_mut(4 * V)),
                        )
                        .zip(weights.map(|tile| &tile[4 * n * block..][..4 * rows.len() / V]));
                    for ((((gates, before), tanh), (d_hidden, d_cell)), weights) in tiles {
                        for from in (0..V).step_by(N) {
                            let mut sums = [[simd.splat_f32s(0.0); N]; 4];
                            if n > 0 {
                                for (sum, kept) in sums.iter_mut().zip(d_hidden.chunks_exact(V)) {
                                    sum.copy_from_slice(&kept[from..from + N]);
                                }
                            }
                            if (n + 1) * block < 4 * hidden {
                                let [sums] = product::<S, V, N, 1, 0>(
                                    simd,
                                    [weights],
                                    rows,
                                    from,
                                    [],
                                    [sums],
                                );
                                for (kept, sum) in d_hidden.chunks_exact_mut(V).zip(&sums) {
                                    kept[from..from + N].copy_from_slice(sum);
                                }
                                continue;
                            }
                            let ahead = [bytemuck::cast_slice(gates)];
                            let [sums] = product::<S, V, N, 1, 1>(
                                simd,
                                [weights],
                                rows,
                                from,
                                ahead,
                                [sums],
                            );
                            let units = gates
                                .chunks_exact_mut(4 * V)
                                .zip(before.chunks_exact(V))
                                .zip(tanh.chunks_exact(V))
                                .zip(sums.iter().zip(d_cell.chunks_exact_mut(V)));
                            for (((gates, before), tanh), (d_hidden, d_cell)) in units {
                                step::<S, V>(simd, gates, before, tanh, from, d_hidden, d_cell);
                            }
                        }
                    }
                }
            }
        },
    );
}

/// One unit, one step back, for the vectors from `from` on that `d_hidden` has.
#[inline(always)]
fn step<S: Simd, const V: usize>(
    simd: S,
    gates: &mut [S::f32s],
    before: &[S::f32s],
    tanh: &[S::f32s],
    from: usize,
    d_hidden: &[S::f32s],
    d_cell: &mut [S::f32s],
) {
    let one = simd.splat_f32s(1.0);
    let mul = |a, b| simd.mul_f32s(a, b);
    // 1 - a, 1 - a^2
    let rest = |a| simd.sub_f32s(one, a);
    let bend = |a| simd.negate_mul_add_e_f32s(a, a, one);
    for (v, d_hidden) in (from..V).zip(d_hidden) {
        let (i, f, g, o) = (gates[v], gates[V + v], gates[2 * V + v], gates[3 * V + v]);
        let through = mul(*d_hidden, o);
        let d = simd.mul_add_e_f32s(through, bend(tanh[v]), d_cell[v]);
        let (d_in, d_kept) = (mul(d, i), mul(d, f));
        gates[v] = mul(mul(d_in, g), rest(i));
        gates[V + v] = mul(mul(d_kept, before[v]), rest(f));
        gates[2 * V + v] = mul(d_in, bend(g));
        gates[3 * V + v] = mul(mul(through, tanh[v]), rest(o));
        d_cell[v] = d_kept;
    }
}
