//! Vectorised tanh and logistic function: owns their approximation in lanes, the one of [`crate::activation`], never a product.

use pulp::Simd;

use crate::activation::{LOGISTIC, Rational, TANH};

/// Numerators and denominators of `of` at x, step by step for all `K` at once: each step waits for the one before it, and
/// a processor looks too few operations ahead to find the other chains by itself.
#[inline(always)]
fn fractions<S: Simd, const K: usize>(
    simd: S,
    of: [&Rational; K],
    mut x: [S::f32s; K],
) -> ([S::f32s; K], [S::f32s; K]) {
    let mut s = x;
    for ((x, s), of) in x.iter_mut().zip(&mut s).zip(of) {
        let (most, least) = (simd.splat_f32s(of.limit), simd.splat_f32s(-of.limit));
        // The operand that may be NaN comes last: x86 then hands it on.
        *x = simd.max_f32s(least, simd.min_f32s(most, *x));
        *s = simd.mul_f32s(*x, *x);
    }
    let (mut p, mut q) = (s, s);
    for ((p, q), of) in p.iter_mut().zip(&mut q).zip(of) {
        (*p, *q) = (simd.splat_f32s(of.p[0]), simd.splat_f32s(of.q[0]));
    }
    for n in 1..TANH.q.len() {
        for ((q, s), of) in q.iter_mut().zip(&s).zip(of) {
            *q = simd.mul_add_e_f32s(*q, *s, simd.splat_f32s(of.q[n]));
        }
        if n < TANH.p.len() {
            for ((p, s), of) in p.iter_mut().zip(&s).zip(of) {
                *p = simd.mul_add_e_f32s(*p, *s, simd.splat_f32s(of.p[n]));
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
    let (over, under) = fractions(simd, [&TANH; V], over);
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
/// The four quotients share one division: `1/a = b c d / (a b c d)`. The denominators lie between 1 and 176,
/// so neither their product nor its inverse leaves the range of f32.
#[inline(always)]
pub(super) fn activate<S: Simd>(simd: S, [i, f, g, o]: [S::f32s; 4]) -> [S::f32s; 4] {
    let of = [&LOGISTIC, &LOGISTIC, &TANH, &LOGISTIC];
    let ([pi, pf, pg, po], [qi, qf, qg, qo]) = fractions(simd, of, [i, f, g, o]);
    let (qif, qgo) = (simd.mul_f32s(qi, qf), simd.mul_f32s(qg, qo));
    let inverse = simd.div_f32s(simd.splat_f32s(1.0), simd.mul_f32s(qif, qgo));
    let (for_if, for_go) = (simd.mul_f32s(inverse, qgo), simd.mul_f32s(inverse, qif));
    let logistic =
        |p, q, inverse| simd.mul_add_e_f32s(p, simd.mul_f32s(q, inverse), simd.splat_f32s(0.5));
    [
        logistic(pi, qf, for_if),
        logistic(pf, qi, for_if),
        simd.mul_f32s(pg, simd.mul_f32s(qo, for_go)),
        logistic(po, qg, for_go),
    ]
}
