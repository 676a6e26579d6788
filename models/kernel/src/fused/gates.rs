//! Vectorised tanh and logistic function: owns their approximation in lanes, the one of [`crate::activation`], never a product.

use pulp::Simd;

use crate::activation::{LIMIT, P, Q};

/// Numerators and denominators of tanh(x) (see [`crate::activation::tanh`]), step by step for all `K` at once: each step
/// waits for the one before it, and a processor looks too few operations ahead to find the other chains by itself.
#[inline(always)]
fn fractions<S: Simd, const K: usize>(
    simd: S,
    mut x: [S::f32s; K],
) -> ([S::f32s; K], [S::f32s; K]) {
    let limit = simd.splat_f32s(LIMIT);
    let mut s = x;
    for (x, s) in x.iter_mut().zip(&mut s) {
        // The operand that may be NaN comes last: x86 then hands it on.
        *x = simd.max_f32s(simd.neg_f32s(limit), simd.min_f32s(limit, *x));
        *s = simd.mul_f32s(*x, *x);
    }
    let mut p = [simd.splat_f32s(P[0]); K];
    let mut q = [simd.splat_f32s(Q[0]); K];
    for (n, c) in P[1..].iter().enumerate() {
        for (p, s) in p.iter_mut().zip(&s) {
            *p = simd.mul_add_e_f32s(*p, *s, simd.splat_f32s(*c));
        }
        if let Some(c) = Q.get(n + 1) {
            for (q, s) in q.iter_mut().zip(&s) {
                *q = simd.mul_add_e_f32s(*q, *s, simd.splat_f32s(*c));
            }
        }
    }
    for (x, p) in x.iter().zip(&mut p) {
        *p = simd.mul_f32s(*x, *p);
    }
    (p, q)
}

/// tanh of `V` vectors, which share one division as the gates below do: a NaN in one of them is a NaN in all.
#[inline(always)]
pub(super) fn tanh<S: Simd, const V: usize>(simd: S, x: &[S::f32s], out: &mut [S::f32s]) {
    let mut over = [simd.splat_f32s(0.0); V];
    over.copy_from_slice(&x[..V]);
    let (over, under) = fractions(simd, over);
    // Products of the denominators before each one.
    let mut before = [simd.splat_f32s(1.0); V];
    let mut product = under[0];
    for v in 1..V {
        before[v] = product;
        product = simd.mul_f32s(product, under[v]);
    }
    let mut inverse = simd.div_f32s(simd.splat_f32s(1.0), product);
    for v in (0..V).rev() {
        let own = if v == 0 {
            inverse
        } else {
            simd.mul_f32s(inverse, before[v])
        };
        out[v] = simd.mul_f32s(over[v], own);
        inverse = simd.mul_f32s(inverse, under[v]);
    }
}

/// Logistic function of i, f and o, tanh of g.
///
/// The four quotients share one division: `1/a = b c d / (a b c d)`. The denominators lie between 0.0048 and 0.7,
/// so neither their product nor its inverse leaves the range of f32.
#[inline(always)]
pub(super) fn activate<S: Simd>(simd: S, [i, f, g, o]: [S::f32s; 4]) -> [S::f32s; 4] {
    let half = simd.splat_f32s(0.5);
    let halved = |x| simd.mul_f32s(x, half);
    let ([pi, pf, pg, po], [qi, qf, qg, qo]) =
        fractions(simd, [halved(i), halved(f), g, halved(o)]);
    let (qif, qgo) = (simd.mul_f32s(qi, qf), simd.mul_f32s(qg, qo));
    let inverse = simd.div_f32s(simd.splat_f32s(1.0), simd.mul_f32s(qif, qgo));
    let (for_if, for_go) = (simd.mul_f32s(inverse, qgo), simd.mul_f32s(inverse, qif));
    let logistic = |p, q, inverse| {
        let tanh = simd.mul_f32s(p, simd.mul_f32s(q, inverse));
        simd.mul_add_e_f32s(tanh, half, half)
    };
    [
        logistic(pi, qf, for_if),
        logistic(pf, qi, for_if),
        simd.mul_f32s(pg, simd.mul_f32s(qo, for_go)),
        logistic(po, qg, for_go),
    ]
}
