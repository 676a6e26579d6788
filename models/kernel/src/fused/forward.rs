//! The forward pass of one shard: owns the product with the weights and the step of cell and state, never a gradient.

use pulp::Simd;

use super::tile::product;
use super::{Shape, Shard, gates};

/// Units whose products come before their activations. An activation is a long chain of operations: those of many units in
/// a row overlap, where the products in between would keep them apart.
const GROUP: usize = 8;

/// `V` vectors side by side, `N` of them and `U` units at a time: 4 x `N` x `U` sums stay in registers over the whole product.
#[inline(always)]
pub(super) fn run<S: Simd, const V: usize, const N: usize, const U: usize>(
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
                let gates = &mut gates[t * gate_stride..][..4 * hidden * V];
                let tanh_cell = &mut tanh_cell[t * hidden * V..];
                // The state before the first step is zero: its products are left out.
                let rows = if t == 0 { 1 + input } else { shape.rows() };
                let groups = gates
                    .chunks_mut(GROUP * 4 * V)
                    .zip(weights.chunks(GROUP * 4 * shape.rows()))
                    .zip(tanh_cell.chunks_mut(GROUP * V))
                    .zip(before.chunks(GROUP * V).zip(after.chunks_mut(GROUP * V)))
                    .zip(next.chunks_mut(GROUP * V));
                for ((((gates, weights), tanh_cell), (before, after)), next) in groups {
                    let width = 4 * shape.rows();
                    let units = gates.chunks_mut(U * 4 * V).zip(weights.chunks(U * width));
                    for (gates, weights) in units {
                        if gates.len() == U * 4 * V {
                            let weights =
                                std::array::from_fn(|u| &weights[u * width..][..4 * rows]);
                            sums::<S, V, N, U>(simd, weights, now, gates);
                            continue;
                        }
                        let units = gates.chunks_exact_mut(4 * V).zip(weights.chunks(width));
                        for (gates, weights) in units {
                            sums::<S, V, N, 1>(simd, [&weights[..4 * rows]], now, gates);
                        }
                    }
                    // Two loops: one would wait at each unit for the cell before its tanh.
                    let units = gates
                        .chunks_exact_mut(4 * V)
                        .zip(before.chunks_exact(V).zip(after.chunks_exact_mut(V)));
                    for (gates, (before, after)) in units {
                        for v in 0..V {
                            let sums = [gates[v], gates[V + v], gates[2 * V + v], gates[3 * V + v]];
                            let [i, f, g, o] = gates::activate(simd, sums);
                            after[v] = simd.mul_add_e_f32s(f, before[v], simd.mul_f32s(i, g));
                            gates[v] = i;
                            gates[V + v] = f;
                            gates[2 * V + v] = g;
                            gates[3 * V + v] = o;
                        }
                    }
                    let units = gates
                        .chunks_exact(4 * V)
                        .zip(tanh_cell.chunks_exact_mut(V))
                        .zip(after.chunks_exact(V))
                        .zip(next.chunks_exact_mut(V));
                    for (((gates, tanh_cell), after), next) in units {
                        gates::tanh::<S, V>(simd, after, tanh_cell);
                        for v in 0..V {
                            next[v] = simd.mul_f32s(gates[3 * V + v], tanh_cell[v]);
                        }
                    }
                }
            }
        },
    );
}

/// Gates of `U` units before activation.
#[inline(always)]
fn sums<S: Simd, const V: usize, const N: usize, const U: usize>(
    simd: S,
    weights: [&[f32]; U],
    rows: &[S::f32s],
    gates: &mut [S::f32s],
) {
    for from in (0..V).step_by(N) {
        let none = [[[simd.splat_f32s(0.0); N]; 4]; U];
        let sums = product::<S, V, N, U, 0>(simd, weights, rows, from, [], none);
        for (gate, sums) in gates.chunks_exact_mut(V).zip(sums.as_flattened()) {
            gate[from..from + N].copy_from_slice(sums);
        }
    }
}
