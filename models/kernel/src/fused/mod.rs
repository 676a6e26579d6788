//! The LSTM's passes with the batch in the SIMD lanes: owns the layout of weights and states, never an optimiser.
//!
//! A *shard* is up to four vectors of sequences side by side. Everything of a shard lies as `[.., column]`, so that each
//! load takes as many sequences as the processor has lanes and no product needs a transposed operand:
//!
//! ```text
//! weights   [hidden][1 + input + hidden][4 gates]      row 0 is the bias (both of them added)
//! state     [steps + 1][1 + input + hidden][column]    row 0 is one; the last rows are h of the step before
//! gates     [steps][hidden][4][column]                 activated, then their pre-activation gradients
//! ```
//!
//! Rows of state and gates are padded to odd counts: strides of large powers of two would fall into few cache sets.

mod backward;
mod forward;
mod gates;
mod gradient;
mod tile;

use pulp::{Arch, Simd, WithSimd};

use crate::aligned::Aligned;
use crate::lstm::Lstm;

/// Sizes of one pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) steps: usize,
    pub(crate) input: usize,
    pub(crate) hidden: usize,
}

impl Shape {
    /// Rows of the state that a gate sums over: bias, input, hidden.
    pub(crate) fn rows(self) -> usize {
        1 + self.input + self.hidden
    }

    fn state_stride(self) -> usize {
        self.rows() | 1
    }

    fn gate_stride(self) -> usize {
        4 * (self.hidden | 1)
    }

    /// Weights of the layer in this module's layout.
    pub(crate) fn weights(self) -> usize {
        4 * self.hidden * self.rows()
    }
}

/// One shard's memory.
#[derive(Debug, Default)]
struct Shard {
    /// Sequences in it; further columns are zero.
    used: usize,
    /// Vectors side by side: 1, 2 or 4.
    vectors: usize,
    state: Aligned,
    gates: Aligned,
    /// [steps + 1][hidden][column], starting with the zero cell.
    cell: Aligned,
    /// [steps][hidden][column]: tanh of the cell after the step.
    tanh_cell: Aligned,
    /// [hidden, to a multiple of 4][column]: of the last step; further back, products that are not yet whole.
    d_hidden: Aligned,
    /// [hidden][column]
    d_cell: Aligned,
}

/// Memory of a pass, used again from batch to batch.
#[derive(Debug, Default)]
pub(crate) struct Work {
    shape: Shape,
    /// Those of the pass first; more wait for a larger one.
    shards: Vec<Shard>,
    /// Shards of the pass.
    count: usize,
    packed: Aligned,
    /// [hidden / 4][hidden][4 gates][4]: recurrent weights as the backward product reads them.
    recurrent: Aligned,
}

/// Sequences that fill one shard on this processor.
pub(crate) fn shard_rows() -> usize {
    struct Lanes;
    impl WithSimd for Lanes {
        type Output = usize;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            4 * S::F32_LANES
        }
    }
    Arch::new().dispatch(Lanes)
}

impl Work {
    /// Runs x `[batch, steps * input]`; `last` becomes the last state, `[batch, hidden]`.
    pub(crate) fn forward(
        &mut self,
        lstm: &Lstm,
        steps: usize,
        batch: usize,
        x: &[f32],
        last: &mut [f32],
    ) {
        self.forward_on(Arch::new(), lstm, steps, batch, x, last);
    }

    fn forward_on(
        &mut self,
        arch: Arch,
        lstm: &Lstm,
        steps: usize,
        batch: usize,
        x: &[f32],
        last: &mut [f32],
    ) {
        self.shape = Shape {
            steps,
            input: lstm.input,
            hidden: lstm.hidden,
        };
        pack(lstm, self.shape, &mut self.packed);
        arch.dispatch(ForwardPass {
            work: self,
            batch,
            x,
            last,
        });
    }

    /// Adds to `grads`, in the layout of the weights, what d_last `[batch, hidden]` sends back.
    pub(crate) fn backward(&mut self, d_last: &[f32], grads: &mut [f32]) {
        self.backward_on(Arch::new(), d_last, grads);
    }

    fn backward_on(&mut self, arch: Arch, d_last: &[f32], grads: &mut [f32]) {
        pack_recurrent(self.shape, &self.packed, &mut self.recurrent);
        arch.dispatch(BackwardPass {
            work: self,
            d_last,
            grads,
        });
    }
}

/// PyTorch's tensors, interleaved.
fn pack(lstm: &Lstm, shape: Shape, packed: &mut Aligned) {
    let (input, hidden) = (shape.input, shape.hidden);
    packed.resize(shape.weights());
    for (j, unit) in packed.chunks_exact_mut(4 * shape.rows()).enumerate() {
        let rows: [usize; 4] = std::array::from_fn(|gate| gate * hidden + j);
        let (unit, _) = unit.as_chunks_mut::<4>();
        let (bias, unit) = unit.split_at_mut(1);
        bias[0] = rows.map(|row| lstm.b_ih[row] + lstm.b_hh[row]);
        let (from_input, from_state) = unit.split_at_mut(input);
        for (weights, slots, width) in [
            (&lstm.w_ih, from_input, input),
            (&lstm.w_hh, from_state, hidden),
        ] {
            let [a, b, c, d] = rows.map(|row| &weights[row * width..][..width]);
            let values = a.iter().zip(b).zip(c).zip(d);
            for (slot, (((a, b), c), d)) in slots.iter_mut().zip(values) {
                *slot = [*a, *b, *c, *d];
            }
        }
    }
}

/// Gradients in this module's layout as PyTorch's tensors: w_ih, w_hh, bias.
pub(crate) fn unpack(
    shape: Shape,
    packed: &[f32],
    w_ih: &mut [f32],
    w_hh: &mut [f32],
    bias: &mut [f32],
) {
    let (input, hidden) = (shape.input, shape.hidden);
    for (j, unit) in packed.chunks_exact(4 * shape.rows()).enumerate() {
        let (first, rest) = unit.as_chunks::<4>().0.split_at(1);
        let (from_input, from_state) = rest.split_at(input);
        for gate in 0..4 {
            let row = gate * hidden + j;
            bias[row] = first[0][gate];
            for (slot, values) in w_ih[row * input..][..input].iter_mut().zip(from_input) {
                *slot = values[gate];
            }
            for (slot, values) in w_hh[row * hidden..][..hidden].iter_mut().zip(from_state) {
                *slot = values[gate];
            }
        }
    }
}

fn pack_recurrent(shape: Shape, packed: &[f32], out: &mut Aligned) {
    let hidden = shape.hidden;
    out.resize(hidden.next_multiple_of(4) * hidden * 4);
    let tiles = out.chunks_exact_mut(hidden * 16).enumerate();
    for (tile, out) in tiles {
        for (unit, out) in packed
            .chunks_exact(4 * shape.rows())
            .zip(out.chunks_exact_mut(16))
        {
            for r in 0..4 {
                let source = unit.chunks_exact(4).nth(1 + shape.input + 4 * tile + r);
                for gate in 0..4 {
                    out[gate * 4 + r] = source.map_or(0.0, |s| s[gate]);
                }
            }
        }
    }
}

struct ForwardPass<'a> {
    work: &'a mut Work,
    batch: usize,
    x: &'a [f32],
    last: &'a mut [f32],
}

impl WithSimd for ForwardPass<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Work {
            shape,
            shards,
            count,
            packed,
            ..
        } = self.work;
        let (shape, batch) = (*shape, self.batch);
        let mut begin = 0;
        *count = 0;
        while begin < batch {
            if shards.len() == *count {
                shards.push(Shard::default());
            }
            let shard = &mut shards[*count];
            let vectors = match (batch - begin).div_ceil(S::F32_LANES) {
                1 => 1,
                2 => 2,
                _ => 4,
            };
            shard.reserve(shape, vectors, vectors * S::F32_LANES);
            shard.used = (batch - begin).min(vectors * S::F32_LANES);
            let x = &self.x[begin * shape.steps * shape.input..];
            shard.load(shape, vectors * S::F32_LANES, x);
            match (vectors, S::REGISTER_COUNT >= 32) {
                (1, _) => forward::run::<S, 1, 1, 2>(simd, shape, packed, shard),
                (2, false) => forward::run::<S, 2, 2, 1>(simd, shape, packed, shard),
                (2, true) => forward::run::<S, 2, 2, 2>(simd, shape, packed, shard),
                (_, false) => forward::run::<S, 4, 2, 1>(simd, shape, packed, shard),
                (_, true) => forward::run::<S, 4, 4, 1>(simd, shape, packed, shard),
            }
            shard.store_last(
                shape,
                vectors * S::F32_LANES,
                &mut self.last[begin * shape.hidden..],
            );
            begin += shard.used;
            *count += 1;
        }
    }
}

struct BackwardPass<'a> {
    work: &'a mut Work,
    d_last: &'a [f32],
    grads: &'a mut [f32],
}

impl WithSimd for BackwardPass<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Work {
            shape,
            shards,
            count,
            recurrent,
            ..
        } = self.work;
        let mut begin = 0;
        for shard in shards.iter_mut().take(*count) {
            let columns = shard.vectors * S::F32_LANES;
            shard.load_d_last(*shape, columns, &self.d_last[begin * shape.hidden..]);
            begin += shard.used;
            let grads = &mut *self.grads;
            match (shard.vectors, S::REGISTER_COUNT >= 32) {
                (1, false) => back::<S, 1, 1, 3>(simd, *shape, recurrent, shard, grads),
                (1, true) => back::<S, 1, 1, 6>(simd, *shape, recurrent, shard, grads),
                (2, false) => back::<S, 2, 2, 3>(simd, *shape, recurrent, shard, grads),
                (2, true) => back::<S, 2, 2, 6>(simd, *shape, recurrent, shard, grads),
                (_, false) => back::<S, 4, 2, 3>(simd, *shape, recurrent, shard, grads),
                (_, true) => back::<S, 4, 4, 6>(simd, *shape, recurrent, shard, grads),
            }
        }
    }
}

/// Bytes of the states that a tile of the weights' gradient reads in one sweep over the units: they should stay in the
/// first-level cache, and the gates of as many steps in the second.
const SWEEP: usize = 24 * 1024;

/// Some steps back in time, then what they add to the weights' gradients while their gates are still in the cache.
#[inline(always)]
fn back<S: Simd, const V: usize, const N: usize, const Q: usize>(
    simd: S,
    shape: Shape,
    recurrent: &[f32],
    shard: &mut Shard,
    grads: &mut [f32],
) {
    let sweep = (SWEEP / (Q * V * size_of::<S::f32s>())).max(1);
    let mut end = shape.steps;
    while end > 0 {
        let begin = end.saturating_sub(sweep);
        backward::run::<S, V, N>(simd, shape, begin..end, recurrent, shard);
        gradient::run::<S, V, Q>(simd, shape, begin..end, shard, grads);
        end = begin;
    }
}

impl Shard {
    fn reserve(&mut self, shape: Shape, vectors: usize, columns: usize) {
        let Shape { steps, hidden, .. } = shape;
        self.vectors = vectors;
        self.state
            .resize((steps + 1) * shape.state_stride() * columns);
        self.gates.resize(steps * shape.gate_stride() * columns);
        self.cell.resize((steps + 1) * hidden * columns);
        self.tanh_cell.resize(steps * hidden * columns);
        self.d_hidden.resize(hidden.next_multiple_of(4) * columns);
        self.d_cell.resize(hidden * columns);
        self.cell[..hidden * columns].fill(0.0);
    }

    /// Puts ones, inputs and the zero state in place.
    fn load(&mut self, shape: Shape, columns: usize, x: &[f32]) {
        let Shape {
            steps,
            input,
            hidden,
        } = shape;
        let width = steps * input;
        let used = self.used;
        for (t, state) in self
            .state
            .chunks_exact_mut(shape.state_stride() * columns)
            .take(steps)
            .enumerate()
        {
            state[..columns].fill(1.0);
            let rows = state[columns..].chunks_exact_mut(columns).take(input);
            for (i, row) in rows.enumerate() {
                for (slot, window) in row.iter_mut().zip(x.chunks_exact(width).take(used)) {
                    *slot = window[t * input + i];
                }
                row[used..].fill(0.0);
            }
        }
        self.state[(1 + input) * columns..][..hidden * columns].fill(0.0);
    }

    fn store_last(&self, shape: Shape, columns: usize, last: &mut [f32]) {
        let rows = &self.state[(shape.steps * shape.state_stride() + 1 + shape.input) * columns..];
        for (j, row) in rows.chunks_exact(columns).take(shape.hidden).enumerate() {
            for (slot, value) in last[j..]
                .iter_mut()
                .step_by(shape.hidden)
                .zip(row)
                .take(self.used)
            {
                *slot = *value;
            }
        }
    }

    fn load_d_last(&mut self, shape: Shape, columns: usize, d_last: &[f32]) {
        self.d_cell.fill(0.0);
        let used = self.used;
        for (j, row) in self
            .d_hidden
            .chunks_exact_mut(columns)
            .take(shape.hidden)
            .enumerate()
        {
            for (slot, value) in row
                .iter_mut()
                .zip(d_last[j..].iter().step_by(shape.hidden))
                .take(used)
            {
                *slot = *value;
            }
            row[used..].fill(0.0);
        }
    }
}

#[cfg(test)]
mod tests;
