//! The passes on every kind of vector that this machine has: all compute what portable code computes.

use super::*;
use crate::Rng;
use crate::archs::archs;

#[test]
fn every_kind_of_vector_gives_the_same_states_and_gradients() {
    let mut rng = Rng::new(6);
    for (hidden, input, steps, batch) in [
        (1, 1, 1, 1),
        (3, 2, 5, 9),
        (6, 4, 40, 17),
        (21, 5, 9, 70),
        (50, 2, 30, 32),
        (64, 8, 48, 64),
    ] {
        let lstm = Lstm::random(input, hidden, &mut rng);
        let x = rng.symmetric(batch * steps * input, 2.0);
        let d_last = rng.symmetric(batch * hidden, 1.0);
        let mut first: Option<(Vec<f32>, Vec<f32>)> = None;
        for arch in archs() {
            let mut work = Work::default();
            let mut last = vec![0.0; batch * hidden];
            work.forward_on(arch, &lstm, steps, batch, &x, &mut last);
            let mut grads = vec![0.0; work.shape.weights()];
            work.backward_on(arch, &d_last, &mut grads);
            let (states, sums) = first.get_or_insert_with(|| (last.clone(), grads.clone()));
            let most = sums.iter().fold(0.0_f32, |most, g| most.max(g.abs()));
            for (a, b) in last.iter().zip(states) {
                assert!((a - *b).abs() < 2e-6, "{arch:?} {hidden}: {a} {b}");
            }
            for (a, b) in grads.iter().zip(sums) {
                assert!((a - *b).abs() < 4e-6 * most, "{arch:?} {hidden}: {a} {b}");
            }
        }
    }
}
