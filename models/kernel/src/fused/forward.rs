//! The forward pass of one shard: owns the product with the weights and the step of cell and state, never a gradient.

use pulp::Simd;

use super::tile::product;
use super::{Shape, Shard, gates};

/// `V` vectors side by side, `N` of them at a time: 4 x `N` sums stay in registers over the whole product.
#[inline(always)]
pub(super) fn run<S: Simd, const V: usize, const N: usize>(
    simd: S,
    shape: Shape,
    weights: &[f32],
    shard: &mut Shard,
) {
    simd.vectorize(
        #[inline(always)]
        || {
            let Shape {
                steps,
                input,
                hidden,
            } = shape;
            let (stride, gate_stride) = (shape.state_stride() * V, shape.gate_stride() * V);
            let state = S::as_mut_simd_f32s(&mut shard.state).0;
            let gates = S::as_mut_simd_f32s(&mut shard.gates).0;
            let cell = S::as_mut_simd_f32s(&mut shard.cell).0;
            let tanh_cell = S::as_mut_simd_f32s(&mut shard.tanh_cell).0;
            for t in 0..steps {
                let (now, next) = state[t * stride..].split_at_mut(stride);
                let next = &mut next[(1 + input) * V..][..hidden * V];
                let (before, after) = cell[t * hidden * V..].split_at_mut(hidden * V);
                let units = gates[t * gate_stride..][..4 * hidden * V]
                    .chunks_exact_mut(4 * V)
                    .zip(tanh_cell[t * hidden * V..].chunks_exact_mut(V))
                    .zip(before.chunks_exact(V).zip(after.chunks_exact_mut(V)))
                    .zip(next.chunks_exact_mut(V))
                    .zip(weights.chunks_exact(4 * shape.rows()));
                // The state before the first step is zero: its products are left out.
                let rows = if t == 0 { 1 + input } else { shape.rows() };
                for ((((gates, tanh_cell), (before, after)), next), weights) in units {
                    for from in (0..V).step_by(N) {
                        let [i, f, g, o] =
                            product::<S, V, N>(simd, &weights[..4 * rows], now, from);
                        let columns = i.into_iter().zip(f).zip(g.into_iter().zip(o));
                        for (n, ((i, f), (g, o))) in columns.enumerate() {
                            let v = from + n;
                            let [i, f, g, o] = gates::activate(simd, [i, f, g, o]);
                            let c = simd.mul_add_e_f32s(f, before[v], simd.mul_f32s(i, g));
                            let tanh = gates::tanh(simd, c);
                            after[v] = c;
                            tanh_cell[v] = tanh;
                            next[v] = simd.mul_f32s(o, tanh);
                            gates[v] = i;
                            gates[V + v] = f;
                            gates[2 * V + v] = g;
                            gates[3 * V + v] = o;
                        }
                    }
                }
            }
        },
    );
}
