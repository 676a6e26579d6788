//! The fused forward pass against the layer's own, on every kind of vector that this machine has.

use super::*;
use crate::archs::archs;
use crate::{LstmTape, Rng};

#[test]
fn every_size_computes_what_the_layer_computes() {
    let mut rng = Rng::new(4);
    for arch in archs() {
        // Kept from size to size: what a larger layer leaves behind must not matter.
        let mut tape = ForwardTape::default();
        for hidden in [1, 3, 4, 8, 16, 17, 33, 50, 64, 130] {
            for (input, steps) in [(1, 1), (2, 30), (4, 7), (5, 9), (18, 4), (8, 2), (3, 0)] {
                let layer = Lstm::random(input, hidden, &mut rng);
                let x = rng.symmetric(steps * input, 3.0);
                let mut full = LstmTape::default();
                let expected = layer.forward(steps, 1, &x, &mut full);
                let packed = LstmForward::for_arch(&layer, arch);
                let found = packed.run(&x, &mut tape);
                assert_eq!(found.len(), hidden);
                for (a, b) in found.iter().zip(expected) {
                    let difference = (a - b).abs();
                    assert!(
                        difference < 2e-6,
                        "{arch:?} {steps} x {input}, {hidden}: {a} {b}"
                    );
                }
            }
        }
    }
}

#[test]
fn extremes_saturate() {
    let mut rng = Rng::new(5);
    for arch in archs() {
        let mut layer = Lstm::random(2, 20, &mut rng);
        layer.w_ih.iter_mut().for_each(|w| *w = 1e30 * w.signum());
        let packed = LstmForward::for_arch(&layer, arch);
        let mut tape = ForwardTape::default();
        let state = packed.run(&[1e8, -1e5, 1e-8, 1e5].repeat(20), &mut tape);
        assert!(state.iter().all(|h| h.abs() <= 1.0), "{arch:?} {state:?}");
    }
}

#[test]
fn the_activations_are_exact_to_the_last_bits() {
    struct Activations(f32);
    impl WithSimd for Activations {
        type Output = (f32, f32);
        fn with_simd<S: Simd>(self, simd: S) -> (f32, f32) {
            let [x, zero, open] = [self.0, 0.0, 30.0].map(|v| simd.splat_f32s(v));
            // An open input gate and a closed forget gate leave tanh(g) in the cell; an open output gate leaves tanh of that.
            let closed = simd.splat_f32s(-30.0);
            let (tanh, _) = update(simd, [open, closed, x, open], zero);
            // Half of nothing but the kept cell of 1: the logistic function of the forget gate.
            let (sigmoid, _) = update(simd, [closed, x, zero, open], simd.splat_f32s(1.0));
            let lanes = S::F32_LANES as f32;
            (
                simd.reduce_sum_f32s(tanh) / lanes,
                simd.reduce_sum_f32s(sigmoid) / lanes,
            )
        }
    }
    for arch in archs() {
        let mut worst = [0.0_f64; 2];
        for i in -2000..=2000 {
            let x = i as f32 * 0.011;
            let wide = f64::from(x);
            let (tanh, sigmoid) = arch.dispatch(Activations(x));
            worst[0] = worst[0].max((f64::from(tanh) - wide.tanh()).abs());
            worst[1] = worst[1].max((f64::from(sigmoid) - 1.0 / (1.0 + (-wide).exp())).abs());
        }
        assert!(worst[0] < 2e-7 && worst[1] < 2e-7, "{arch:?} {worst:?}");
    }
}
