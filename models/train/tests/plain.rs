//! The plain trainer against PyTorch: gradients of every tensor, and the loss of every epoch of the replaced system.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use fieldcast_kernel::{AdamConfig, Linear, Lstm, LstmTape, Rng};
use fieldcast_train::plain::{Plain, PlainTrainer, Windows};
use serde::Deserialize;

/// Made by `golden/plain_pytorch.py`.
#[derive(Deserialize)]
struct Golden {
    gradients: Vec<Vec<f64>>,
    full_batch: Vec<f64>,
    mini_batch_32: Vec<f64>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/plain_pytorch.json")).unwrap()
}

/// Tensors in PyTorch's order, all uniform within ±1/sqrt(hidden).
fn plain(input: usize, hidden: usize, output: usize, rng: &mut Rng) -> Plain {
    Plain {
        lstm: Lstm::random(input, hidden, rng),
        head: Linear::random(hidden, output, rng),
    }
}

#[test]
fn gradients_equal_autograd() {
    let mut rng = Rng::new(21);
    let (steps, input, hidden, output, batch) = (11, 3, 10, 2, 37);
    let Plain { mut lstm, mut head } = plain(input, hidden, output, &mut rng);
    let x = rng.symmetric(batch * steps * input, 1.5);
    let y = rng.symmetric(batch * output, 1.0);
    let (mut tape, mut lstm_grads, mut head_grads) =
        (LstmTape::default(), lstm.grads(), head.grads());
    let state = lstm.forward(steps, batch, &x, &mut tape).to_vec();
    let mut out = vec![0.0; batch * output];
    head.forward(batch, &state, &mut out, false);
    for (out, y) in out.iter_mut().zip(&y) {
        *out = 2.0 * (*out - y) / (batch * output) as f32;
    }
    let mut d_state = vec![0.0; state.len()];
    head.backward(batch, &state, &out, &mut head_grads, Some(&mut d_state));
    lstm.backward(&d_state, &mut tape, &mut lstm_grads);
    let lstm = lstm.parameters(&mut lstm_grads);
    let head = head.parameters(&mut head_grads);
    let golden = golden().gradients;
    assert_eq!(golden.len(), 6);
    for (i, (ours, theirs)) in lstm.iter().chain(&head).zip(&golden).enumerate() {
        assert_eq!(ours.grad.len(), theirs.len());
        let largest = theirs.iter().fold(0.0_f64, |m, g| m.max(g.abs()));
        for (ours, theirs) in ours.grad.iter().zip(theirs) {
            let error = (f64::from(*ours) - theirs).abs();
            assert!(error <= 1e-5 * largest, "tensor {i}: {ours} {theirs}");
            assert!(
                error <= 1e-4 * theirs.abs().max(1e-3 * largest),
                "tensor {i}: {ours} {theirs}"
            );
        }
    }
}

fn losses(batch: usize, threads: usize) -> Vec<f64> {
    let mut rng = Rng::new(22);
    let (n, steps) = (700, 30);
    let series: Vec<f32> = (0..(n + steps) * 2).map(|_| rng.uniform()).collect();
    let x: Vec<f32> = (0..n)
        .flat_map(|i| series[2 * i..2 * (i + steps)].iter().copied())
        .collect();
    let y: Vec<f32> = x
        .chunks_exact(2 * steps)
        .map(|x| 0.6 * x[58] + 0.3 * x[41] + 0.1 * x[20] * x[51])
        .collect();
    let mut model = plain(2, 50, 1, &mut rng);
    let adam = AdamConfig {
        learning_rate: 0.01,
        ..AdamConfig::default()
    };
    let mut trainer = PlainTrainer::new(&model, adam, threads);
    let windows = Windows {
        steps,
        x: &x,
        y: &y,
        weight: &[],
    };
    let mut order: Vec<usize> = (0..n).collect();
    let epoch = |_| {
        if batch < n {
            rng.shuffle(&mut order);
        }
        trainer.epoch(&mut model, windows, &order, batch)
    };
    (0..20).map(epoch).collect()
}

fn equal(ours: &[f64], theirs: &[f64]) {
    assert_eq!(ours.len(), theirs.len());
    for (epoch, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        assert!(
            (ours - theirs).abs() <= 1e-3 * theirs,
            "epoch {epoch}: {ours} {theirs}"
        );
    }
}

#[test]
fn the_replaced_systems_loss_falls_as_in_pytorch_with_the_whole_data_as_one_batch() {
    equal(&losses(700, 1), &golden().full_batch);
}

#[test]
fn the_replaced_systems_loss_falls_as_in_pytorch_in_batches_of_32() {
    equal(&losses(32, 1), &golden().mini_batch_32);
}

#[test]
fn the_model_does_not_depend_on_the_number_of_threads() {
    assert_eq!(losses(700, 1), losses(700, 2));
    assert_eq!(losses(700, 1), losses(700, 3));
}
