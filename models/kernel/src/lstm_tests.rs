//! The LSTM against a plain f64 transcription of its equations and against finite differences.

use super::*;

const STEPS: usize = 6;
const BATCH: usize = 5;
const INPUT: usize = 3;
const HIDDEN: usize = 4;

/// The equations in f64, one sequence at a time, with nothing shared with the code under test.
fn reference(lstm: &Lstm, x: &[f32], row: usize) -> Vec<f64> {
    let (mut h, mut c) = (vec![0.0_f64; HIDDEN], vec![0.0_f64; HIDDEN]);
    for t in 0..STEPS {
        let gate = |q: usize, j: usize, h: &[f64]| {
            let r = q * HIDDEN + j;
            let from_x: f64 = (0..INPUT)
                .map(|k| {
                    f64::from(lstm.w_ih[r * INPUT + k])
                        * f64::from(x[(row * STEPS + t) * INPUT + k])
                })
                .sum();
            let from_h: f64 = (0..HIDDEN)
                .map(|k| f64::from(lstm.w_hh[r * HIDDEN + k]) * h[k])
                .sum();
            from_x + from_h + f64::from(lstm.b_ih[r]) + f64::from(lstm.b_hh[r])
        };
        let logistic = |v: f64| 1.0 / (1.0 + (-v).exp());
        let now = h.clone();
        for j in 0..HIDDEN {
            c[j] = logistic(gate(1, j, &now)) * c[j]
                + logistic(gate(0, j, &now)) * gate(2, j, &now).tanh();
            h[j] = logistic(gate(3, j, &now)) * c[j].tanh();
        }
    }
    h
}

fn weighted(lstm: &Lstm, x: &[f32], weights: &[f32]) -> f64 {
    (0..BATCH)
        .flat_map(|row| reference(lstm, x, row))
        .zip(weights)
        .map(|(h, w)| h * f64::from(*w))
        .sum()
}

#[test]
fn forward_follows_the_equations() {
    let mut rng = Rng::new(11);
    let lstm = Lstm::random(INPUT, HIDDEN, &mut rng);
    let x = rng.symmetric(STEPS * BATCH * INPUT, 2.0);
    let mut tape = LstmTape::default();
    let last = lstm.forward(STEPS, BATCH, &x, &mut tape);
    for row in 0..BATCH {
        for (got, want) in last[row * HIDDEN..].iter().zip(reference(&lstm, &x, row)) {
            assert!((f64::from(*got) - want).abs() < 1e-6, "{got} {want}");
        }
    }
}

#[test]
fn gradients_equal_finite_differences() {
    let mut rng = Rng::new(12);
    let mut lstm = Lstm::random(INPUT, HIDDEN, &mut rng);
    let x = rng.symmetric(STEPS * BATCH * INPUT, 1.0);
    let weights = rng.symmetric(BATCH * HIDDEN, 1.0);
    let mut tape = LstmTape::default();
    let mut grads = lstm.grads();
    lstm.forward(STEPS, BATCH, &x, &mut tape);
    lstm.backward(&weights, &mut tape, &mut grads);
    lstm.parameters(&mut grads);

    const EPS: f32 = 1e-3;
    let check = |numeric: f64, exact: f32, what: &str| {
        assert!(
            (numeric - f64::from(exact)).abs() < 2e-4 * (0.1 + f64::from(exact.abs())),
            "{what}: {numeric} {exact}"
        );
    };
    type Tensor = (
        &'static str,
        fn(&mut Lstm) -> &mut Vec<f32>,
        fn(&LstmGrads) -> &Vec<f32>,
    );
    let tensors: [Tensor; 4] = [
        ("w_ih", |l| &mut l.w_ih, |g| &g.w_ih),
        ("w_hh", |l| &mut l.w_hh, |g| &g.w_hh),
        ("b_ih", |l| &mut l.b_ih, |g| &g.b_ih),
        ("b_hh", |l| &mut l.b_hh, |g| &g.b_hh),
    ];
    for (name, value, grad) in tensors {
        for i in 0..value(&mut lstm).len() {
            let kept = value(&mut lstm)[i];
            value(&mut lstm)[i] = kept + EPS;
            let up = weighted(&lstm, &x, &weights);
            value(&mut lstm)[i] = kept - EPS;
            let down = weighted(&lstm, &x, &weights);
            value(&mut lstm)[i] = kept;
            check((up - down) / (2.0 * f64::from(EPS)), grad(&grads)[i], name);
        }
    }
}

#[test]
fn a_tape_can_be_used_again_with_other_sizes() {
    let mut rng = Rng::new(13);
    let lstm = Lstm::random(INPUT, HIDDEN, &mut rng);
    let x = rng.symmetric(STEPS * BATCH * INPUT, 1.0);
    let (mut used, mut fresh) = (LstmTape::default(), LstmTape::default());
    let (mut grads, mut again) = (lstm.grads(), lstm.grads());
    lstm.forward(STEPS, BATCH, &x, &mut used);
    lstm.backward(&[1.0; BATCH * HIDDEN], &mut used, &mut grads);
    grads.clear();
    assert_eq!(
        lstm.forward(3, 2, &x, &mut used),
        lstm.forward(3, 2, &x, &mut fresh)
    );
    let dh = vec![1.0; 2 * HIDDEN];
    lstm.backward(&dh, &mut used, &mut grads);
    lstm.backward(&dh, &mut fresh, &mut again);
    assert_eq!(grads, again);
}

#[test]
fn training_learns_to_remember_the_first_step() {
    let mut rng = Rng::new(14);
    let (steps, batch, hidden) = (8, 64, 8);
    let mut lstm = Lstm::random(1, hidden, &mut rng);
    let mut head = crate::Linear::random(hidden, 1, &mut rng);
    let (mut grads, mut head_grads) = (lstm.grads(), head.grads());
    let mut adam = crate::Adam::new(crate::AdamConfig {
        learning_rate: 0.02,
        ..Default::default()
    });
    let mut tape = LstmTape::default();
    let (mut first, mut last) = (0.0, 0.0);
    for round in 0..300 {
        let x = rng.symmetric(steps * batch, 1.0);
        let mut y = vec![0.0; batch];
        let state = lstm.forward(steps, batch, &x, &mut tape).to_vec();
        head.forward(batch, &state, &mut y, false);
        let error: Vec<f32> = y
            .iter()
            .zip(x.iter().step_by(steps))
            .map(|(y, x)| y - x)
            .collect();
        last = error.iter().map(|e| e * e).sum::<f32>() / batch as f32;
        if round == 0 {
            first = last;
        }
        let dy: Vec<f32> = error.iter().map(|e| 2.0 * e / batch as f32).collect();
        let mut dh = vec![0.0; batch * hidden];
        head_grads.clear();
        head.backward(batch, &state, &dy, &mut head_grads, Some(&mut dh));
        grads.clear();
        lstm.backward(&dh, &mut tape, &mut grads);
        let mut all: Vec<_> = lstm
            .parameters(&mut grads)
            .into_iter()
            .chain(head.parameters(&mut head_grads))
            .collect();
        crate::clip_global_norm(&mut all, 1.0);
        adam.step(&mut all);
    }
    assert!(last < 0.1 * first, "{first} -> {last}");
}
