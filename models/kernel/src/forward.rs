//! One LSTM layer over a single sequence: owns packed weights and the fused forward pass of inference, never a gradient.
//!
//! Lanes are hidden units. For every row of the weights the four gates of a block of units lie side by side, so that one pass over
//! the rows leaves the gates in registers, where they are activated and the state is updated before anything is stored.

use std::f32::consts::{LN_2, LOG2_E};

use pulp::{Arch, Simd, WithSimd};

use crate::aligned::Aligned;
use crate::lstm::Lstm;

/// Vectors of hidden units that one pass over the weights computes, at most; each has its four gates in registers.
const BLOCK: usize = 4;
/// Steps whose inputs are multiplied in one pass over the input's weights.
const STEPS: usize = 4;
/// Inputs up to this width are multiplied together with the state: a pass of their own would cost more than it saves.
const NARROW: usize = 4;

/// An [`Lstm`]'s weights, packed for this machine's vectors.
#[derive(Debug)]
pub struct LstmForward {
    arch: Arch,
    input: usize,
    hidden: usize,
    /// Vectors of hidden units in each block.
    blocks: Vec<usize>,
    /// Bias, `[4 gates x units]` of block after block.
    bias: Aligned,
    /// `[input]` rows like the bias; empty for a narrow input.
    from_input: Aligned,
    /// Block after block: `[hidden, (input,) 4 gates x units]`.
    from_state: Aligned,
}

/// Buffers of a forward pass, used again from call to call.
#[derive(Debug, Default)]
pub struct ForwardTape {
    /// `[steps]` rows like the bias: the gates before the state's part.
    gates: Aligned,
    /// `[hidden, (input)]`: what the state's weights are multiplied with.
    now: Aligned,
    next: Aligned,
    cell: Aligned,
}

impl LstmForward {
    /// Packs the layer's weights.
    #[must_use]
    pub fn new(layer: &Lstm) -> Self {
        Self::for_arch(layer, Arch::new())
    }

    fn for_arch(layer: &Lstm, arch: Arch) -> Self {
        let (lanes, most) = arch.dispatch(Vectors);
        let vectors = layer.hidden.div_ceil(lanes);
        let count = vectors.div_ceil(most);
        let blocks: Vec<usize> = (0..count)
            .map(|b| vectors * (b + 1) / count - vectors * b / count)
            .collect();
        let narrow = if layer.input <= NARROW {
            layer.input
        } else {
            0
        };
        let rows = layer.hidden + narrow;
        let width = 4 * vectors * lanes;
        let mut bias = zeros(width);
        let mut from_input = zeros((layer.input - narrow) * width);
        let mut from_state = zeros(rows * width);
        let mut first = 0;
        for block in &blocks {
            let units = block * lanes;
            for gate in 0..4 {
                for unit in first..(first + units).min(layer.hidden) {
                    let row = gate * layer.hidden + unit;
                    let (vector, lane) = ((unit - first) / lanes, (unit - first) % lanes);
                    let column = (4 * vector + gate) * lanes + lane;
                    let at = 4 * first + column;
                    bias[at] = layer.b_ih[row] + layer.b_hh[row];
                    let w_ih = &layer.w_ih[row * layer.input..][..layer.input];
                    if narrow == 0 {
                        for (k, w) in w_ih.iter().enumerate() {
                            from_input[k * width + at] = *w;
                        }
                    }
                    let w_hh = &layer.w_hh[row * layer.hidden..][..layer.hidden];
                    for (k, w) in w_hh.iter().chain(&w_ih[..narrow]).enumerate() {
                        from_state[4 * rows * first + 4 * units * k + column] = *w;
                    }
                }
            }
            first += units;
        }
        Self {
            arch,
            input: layer.input,
            hidden: layer.hidden,
            blocks,
            bias,
            from_input,
            from_state,
        }
    }

    /// Width of one step's input.
    #[must_use]
    pub fn input(&self) -> usize {
        self.input
    }

    /// Width of the state.
    #[must_use]
    pub fn hidden(&self) -> usize {
        self.hidden
    }

    /// Runs x `[steps, input]` from a state of zero and returns the last state `[hidden]`.
    ///
    /// # Panics
    /// Where the length of x is no multiple of the input's width.
    pub fn run<'t>(&self, x: &[f32], tape: &'t mut ForwardTape) -> &'t [f32] {
        assert_eq!(x.len() % self.input, 0, "whole steps");
        let width = self.bias.len();
        let rows = self.hidden + self.narrow();
        tape.now.resize(rows.max(width / 4));
        tape.next.resize(rows.max(width / 4));
        tape.cell.resize(width / 4);
        if self.narrow() == 0 {
            tape.gates.resize(x.len() / self.input * width);
        }
        self.arch.dispatch(Run {
            layer: self,
            x,
            tape,
        });
        &tape.now[..self.hidden]
    }

    /// Inputs that are multiplied together with the state.
    fn narrow(&self) -> usize {
        if self.input <= NARROW { self.input } else { 0 }
    }
}

fn zeros(len: usize) -> Aligned {
    let mut fresh = Aligned::default();
    fresh.resize(len);
    fresh
}

/// Lanes of this machine's vectors of f32: 16 with AVX-512, 8 with AVX2, 4 with NEON, 1 for portable code.
#[must_use]
pub fn lanes() -> usize {
    Arch::new().dispatch(Vectors).0
}

/// What the last bits of a training depend on beside its seed: kind of processor and lanes of its vectors of f32, as
/// `x86_64 8`.
#[must_use]
pub fn simd_path() -> String {
    format!("{} {}", std::env::consts::ARCH, lanes())
}

/// Lanes of this machine's vectors, and how many vectors of units a block has at most.
struct Vectors;

impl WithSimd for Vectors {
    type Output = (usize, usize);

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Self::Output {
        // Four accumulators a vector, and room for what they are made of.
        let most = if S::REGISTER_COUNT >= 32 { BLOCK } else { 3 };
        (S::F32_LANES, most)
    }
}

struct Run<'a> {
    layer: &'a LstmForward,
    x: &'a [f32],
    tape: &'a mut ForwardTape,
}

impl WithSimd for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { layer, x, tape } = self;
        let (input, hidden, narrow) = (layer.input, layer.hidden, layer.narrow());
        let rows = hidden + narrow;
        let bias = S::as_simd_f32s(&layer.bias).0;
        let from_state = S::as_simd_f32s(&layer.from_state).0;
        let width = bias.len();
        let steps = x.len() / input;
        if narrow == 0 {
            let gates = S::as_mut_simd_f32s(&mut tape.gates).0;
            let gates = &mut gates[..steps * width];
            input_part(
                simd,
                S::as_simd_f32s(&layer.from_input).0,
                bias,
                x,
                input,
                gates,
            );
        }
        let (mut now, mut next) = (&mut tape.now[..], &mut tape.next[..]);
        let cell = S::as_mut_simd_f32s(&mut tape.cell).0;
        cell.fill(simd.splat_f32s(0.0));
        now.fill(0.0);
        let gates = S::as_simd_f32s(&tape.gates).0;
        for t in 0..steps {
            now[hidden..rows].copy_from_slice(&x[t * input..][..narrow]);
            let start = if narrow == 0 {
                &gates[t * width..][..width]
            } else {
                bias
            };
            // There and back: what the last step read last is still in the first cache.
            let back = t % 2 == 1;
            let mut first = if back { width / 4 } else { 0 };
            for i in 0..layer.blocks.len() {
                let block = layer.blocks[if back { layer.blocks.len() - 1 - i } else { i }];
                if back {
                    first -= block;
                }
                let weights = &from_state[4 * rows * first..][..4 * rows * block];
                let part = Part {
                    start: &start[4 * first..][..4 * block],
                    weights,
                    v: &now[..rows],
                    back,
                    cell: &mut cell[first..][..block],
                    h: &mut S::as_mut_simd_f32s(next).0[first..][..block],
                };
                match block {
                    1 => part.run::<4>(simd),
                    2 => part.run::<8>(simd),
                    3 => part.run::<12>(simd),
                    _ => part.run::<16>(simd),
                }
                if !back {
                    first += block;
                }
            }
            std::mem::swap(&mut now, &mut next);
        }
        if steps % 2 == 1 {
            next[..hidden].copy_from_slice(&now[..hidden]);
        }
    }
}

/// One block of units in one step.
struct Part<'a, S: Simd> {
    start: &'a [S::f32s],
    weights: &'a [S::f32s],
    v: &'a [f32],
    back: bool,
    cell: &'a mut [S::f32s],
    h: &'a mut [S::f32s],
}

impl<S: Simd> Part<'_, S> {
    /// `N` gates: those of `N / 4` vectors of units.
    #[inline(always)]
    fn run<const N: usize>(mut self, simd: S) {
        let Some(start) = self.start.first_chunk::<N>() else {
            return;
        };
        let mut gates = *start;
        let rows = self.weights.as_chunks::<N>().0.iter().zip(self.v);
        if self.back {
            for (w, v) in rows.rev() {
                gates = multiply(simd, w, *v, gates);
            }
        } else {
            for (w, v) in rows {
                gates = multiply(simd, w, *v, gates);
            }
        }
        // Written out: an array that a loop indexes would lie in memory all the while.
        self.unit(simd, 0, &gates);
        if N > 4 {
            self.unit(simd, 1, &gates);
        }
        if N > 8 {
            self.unit(simd, 2, &gates);
        }
        if N > 12 {
            self.unit(simd, 3, &gates);
        }
    }

    #[inline(always)]
    fn unit<const N: usize>(&mut self, simd: S, u: usize, gates: &[S::f32s; N]) {
        let gates = [
            gates[4 * u],
            gates[4 * u + 1],
            gates[4 * u + 2],
            gates[4 * u + 3],
        ];
        (self.cell[u], self.h[u]) = update(simd, gates, self.cell[u]);
    }
}

#[inline(always)]
fn multiply<S: Simd, const N: usize>(
    simd: S,
    w: &[S::f32s; N],
    v: f32,
    sum: [S::f32s; N],
) -> [S::f32s; N] {
    let v = simd.splat_f32s(v);
    let mut sum = sum;
    for n in 0..N {
        sum[n] = simd.mul_add_e_f32s(w[n], v, sum[n]);
    }
    sum
}

/// Cell and state after a step, from the gates before their activation: `c = f c + i g`, `h = o tanh(c)`.
///
/// A product of two activations is one fraction, since division is what costs most here.
#[inline(always)]
fn update<S: Simd>(simd: S, [i, f, g, o]: [S::f32s; 4], c: S::f32s) -> (S::f32s, S::f32s) {
    let one = simd.splat_f32s(1.0);
    let ei = exp_of(simd, i, -LOG2_E);
    let ef = exp_of(simd, f, -LOG2_E);
    let eo = exp_of(simd, o, -LOG2_E);
    let eg = exp_of(simd, g, -2.0 * LOG2_E);
    let under = simd.mul_f32s(simd.add_f32s(one, ei), simd.add_f32s(one, eg));
    let entering = simd.div_f32s(simd.sub_f32s(one, eg), under);
    let kept = simd.div_f32s(c, simd.add_f32s(one, ef));
    let c = simd.add_f32s(kept, entering);
    let ec = exp_of(simd, c, -2.0 * LOG2_E);
    let under = simd.mul_f32s(simd.add_f32s(one, eo), simd.add_f32s(one, ec));
    (c, simd.div_f32s(simd.sub_f32s(one, ec), under))
}

/// `2^(x scale)`, the exponent within ±26: beyond, a logistic function or tanh of it is 0 or 1 to 1.5e-8.
///
/// The exponent's whole part goes into the bits of the result; the rest, in ±1/2, through the polynomial.
#[inline(always)]
fn exp_of<S: Simd>(simd: S, x: S::f32s, scale: f32) -> S::f32s {
    // Added to a number, it leaves the number rounded and biased in the lowest bits.
    const ROUND: f32 = 12_582_912.0 + 127.0;
    let y = simd.mul_f32s(x, simd.splat_f32s(scale));
    let y = simd.max_f32s(y, simd.splat_f32s(-26.0));
    let y = simd.min_f32s(y, simd.splat_f32s(26.0));
    let round = simd.splat_f32s(ROUND);
    let biased = simd.add_f32s(y, round);
    let rest = simd.sub_f32s(y, simd.sub_f32s(biased, round));
    let mut p = simd.splat_f32s(EXP2[6]);
    for q in EXP2[..6].iter().rev() {
        p = simd.mul_add_e_f32s(p, rest, simd.splat_f32s(*q));
    }
    let power = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(biased), simd.splat_u32s(23));
    simd.mul_f32s(p, simd.transmute_f32s_u32s(power))
}

/// 2^x in ±1/2 within 2e-8 of its value: coefficients of least greatest relative error, lowest first.
const EXP2: [f32; 7] = [
    1.0,
    LN_2,
    0.240_226_46,
    0.055_503_286,
    0.009_618_489,
    0.001_339_993_1,
    0.000_153_458_11,
];

/// `gates[t] = bias + x[t] weights` for every step, four steps and a few columns at a time.
#[inline(always)]
fn input_part<S: Simd>(
    simd: S,
    weights: &[S::f32s],
    bias: &[S::f32s],
    x: &[f32],
    input: usize,
    gates: &mut [S::f32s],
) {
    let width = bias.len();
    let full = STEPS * input;
    let mut x = x;
    let mut gates = gates;
    while !x.is_empty() {
        if x.len() >= full {
            let (these, rest) = x.split_at(full);
            let (rows, others) = gates.split_at_mut(STEPS * width);
            for column in (0..width).step_by(4) {
                tile::<S, STEPS>(simd, weights, bias, these, column, rows);
            }
            (x, gates) = (rest, others);
        } else {
            let (these, rest) = x.split_at(input);
            let (rows, others) = gates.split_at_mut(width);
            for column in (0..width).step_by(4) {
                tile::<S, 1>(simd, weights, bias, these, column, rows);
            }
            (x, gates) = (rest, others);
        }
    }
}

/// Four columns of `T` steps.
#[inline(always)]
fn tile<S: Simd, const T: usize>(
    simd: S,
    weights: &[S::f32s],
    bias: &[S::f32s],
    x: &[f32],
    column: usize,
    gates: &mut [S::f32s],
) {
    let width = bias.len();
    let Some(start) = bias[column..].first_chunk::<4>() else {
        return;
    };
    let mut sums = [*start; T];
    let input = x.len() / T;
    for k in 0..input {
        let Some(w) = weights[k * width + column..].first_chunk::<4>() else {
            return;
        };
        for t in 0..T {
            sums[t] = multiply(simd, w, x[t * input + k], sums[t]);
        }
    }
    for (sum, row) in sums.iter().zip(gates.chunks_exact_mut(width)) {
        row[column..column + 4].copy_from_slice(sum);
    }
}

#[cfg(test)]
#[path = "forward_tests.rs"]
mod tests;
