//! Gradients of the weights of one shard: owns the products of gate gradients with states, never the way back in time.

use std::ops::Range;

use pulp::{Simd, bytemuck};

use super::{Shape, Shard};

/// Adds to `grads` [hidden][rows][4] the sum over `steps` and columns of gate gradient times state.
///
/// A tile is four gates of a unit times `Q` rows of the state; its sums stay in registers over several steps and are
/// added across the lanes at the end.
#[inline(always)]
pub(super) fn run<S: Simd, const V: usize, const Q: usize>(
    simd: S,
    shape: Shape,
    steps: Range<usize>,
    shard: &Shard,
    grads: &mut [f32],
) {
    simd.vectorize(
        #[inline(always)]
        || {
            let state = S::as_simd_f32s(&shard.state).0;
            let gates = S::as_simd_f32s(&shard.gates).0;
            let strides = (shape.state_stride() * V, shape.gate_stride() * V);
            let rows = shape.rows();
            for first in (0..rows).step_by(Q) {
                // Rows that fill no tile go with the one before them, which has their gates in the cache.
                let left = rows - first;
                let width = if left < 2 * Q { left } else { Q };
                if width < Q && first > 0 {
                    break;
                }
                // The state before the first step is zero and adds nothing.
                let begin = if first > shape.input {
                    steps.start.max(1)
                } else {
                    steps.start
                };
                let count = steps.end.saturating_sub(begin);
                let state = &state[begin * strides.0..];
                let gates = &gates[begin.min(shape.steps - 1) * strides.1..];
                for (j, grads) in grads.chunks_exact_mut(4 * rows).enumerate() {
                    let gates = (&gates[4 * j * V..], strides.1);
                    let mut state = &state[first * V..];
                    let mut tiles = grads[4 * first..][..4 * width].chunks_exact_mut(4 * Q);
                    for grads in tiles.by_ref() {
                        product::<S, V, Q>(simd, count, gates, (state, strides.0), grads);
                        state = &state[Q * V..];
                    }
                    // A single row would wait for its own sums: each of its four takes a new one every latency.
                    for grads in tiles.into_remainder().chunks_mut(8) {
                        let operand = (state, strides.0);
                        if grads.len() == 8 {
                            product::<S, V, 2>(simd, count, gates, operand, grads);
                            state = &state[2 * V..];
                        } else {
                            product::<S, V, 1>(simd, count, gates, operand, grads);
                        }
                    }
                }
            }
        },
    );
}

#[inline(always)]
fn product<S: Simd, const V: usize, const Q: usize>(
    simd: S,
    steps: usize,
    (gates, gate_stride): (&[S::f32s], usize),
    (state, state_stride): (&[S::f32s], usize),
    grads: &mut [f32],
) {
    let mut sums = [[simd.splat_f32s(0.0); 4]; Q];
    for t in 0..steps {
        let gates = &gates[t * gate_stride..][..4 * V];
        let state = &state[t * state_stride..][..Q * V];
        for v in 0..V {
            let d: [S::f32s; 4] = [gates[v], gates[V + v], gates[2 * V + v], gates[3 * V + v]];
            for q in 0..Q {
                let x = state[q * V + v];
                for r in 0..4 {
                    sums[q][r] = simd.mul_add_e_f32s(d[r], x, sums[q][r]);
                }
            }
        }
    }
    for (grads, sums) in grads.as_chunks_mut::<4>().0.iter_mut().zip(sums) {
        add_lanes(simd, sums, grads);
    }
}

/// Adds to each of `grads` the lanes of its sum.
#[inline(always)]
fn add_lanes<S: Simd>(simd: S, sums: [S::f32s; 4], grads: &mut [f32; 4]) {
    if S::IS_SCALAR {
        for (grad, sum) in grads.iter_mut().zip(sums) {
            *grad += simd.reduce_sum_f32s(sum);
        }
    } else {
        // Four lanes of each sum beside one another: adding vectors then does for all four at once.
        let [a, b, c, d] = simd.deinterleave_shfl_f32s(sums);
        let quarters = simd.add_f32s(simd.add_f32s(a, b), simd.add_f32s(c, d));
        let quarters = bytemuck::cast_slice::<S::f32s, [f32; 4]>(std::slice::from_ref(&quarters));
        let mut total = *grads;
        for quarter in quarters {
            for (total, part) in total.iter_mut().zip(quarter) {
                *total += part;
            }
        }
        *grads = total;
    }
}
