//! The default preset's parts against slower, plainer ways to the same numbers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use fieldcast_features::WindowBuilder;
use fieldcast_kernel::Parameter;
use fieldcast_onnx::{DefaultParams, LstmHead, ModelParams};

use super::*;
use crate::baselines::network_outcomes;
use crate::data::Panel;
use crate::fixture;
use crate::linalg;
use crate::predict::{linear_params, lstm_params};
use crate::samples::{Parts, split};
use crate::scales::Scales;

fn parts() -> (Panel, Parts, Scales) {
    let panel = Panel::new(&fixture::spec(), &fixture::data(30, 3)).unwrap();
    let parts = split(&panel, &TrainConfig::default()).unwrap();
    let scales = Scales::new(&panel, parts.split.select_from);
    (panel, parts, scales)
}

/// Every step's regression written out in full: one matrix over window, constant and that step's calendar.
#[test]
fn block_elimination_equals_the_full_normal_equations() {
    let (panel, parts, scales) = parts();
    let batcher = Batcher::new(&panel, &scales);
    let train = &parts.train[..400];
    let equations = NormalEquations::new(&batcher, train);
    let penalty = 0.05;
    let highway = equations.solve(penalty).unwrap();
    let mut batch = Batch::default();
    batcher.fill(train, &mut batch);
    let (h, k, d) = (panel.horizon, panel.future_width, batcher.features());
    let n = d + 1 + k;
    for step in [0, 5] {
        let (mut a, mut b) = (vec![0.0_f64; n * n], vec![0.0_f64; n]);
        for row in 0..batch.rows {
            // Interpolated targets are the other code's business: leave this row's weight as it is, use its value.
            let mut target = batch.target[row * h..(row + 1) * h].to_vec();
            crate::highway::interpolate(&mut target);
            let weight = f64::from(batch.weight[row].sqrt() * batch.scale[row]);
            let z = batch.z[row * d..(row + 1) * d].iter();
            let future = batch.future[(row * h + step) * k..][..k].iter();
            let x: Vec<f64> = z
                .chain([&1.0])
                .chain(future)
                .map(|v| f64::from(*v) * weight)
                .collect();
            for i in 0..n {
                for j in 0..n {
                    a[i * n + j] += x[i] * x[j];
                }
                b[i] += x[i] * f64::from(target[step]) * weight;
            }
        }
        let mean = (0..d).map(|i| a[i * n + i]).sum::<f64>() / d as f64;
        let mass = a[d * n + d];
        for i in 0..n {
            a[i * n + i] += if i == d { mass * 1e-9 } else { penalty * mean };
        }
        assert!(linalg::cholesky(&mut a, n));
        linalg::solve(&a, n, &mut b, 1);
        let close = |got: f32, want: f64| {
            assert!(
                (f64::from(got) - want).abs() < 1e-4 * (1.0 + want.abs()),
                "{got} {want}"
            )
        };
        (0..d).for_each(|i| close(highway.weight[step * d + i], b[i]));
        close(highway.bias[step], b[d]);
        (0..k).for_each(|i| close(highway.future[step * k + i], b[d + 1 + i]));
    }
}

#[test]
fn the_networks_gradient_equals_finite_differences() {
    let (panel, parts, scales) = parts();
    let batcher = Batcher::new(&panel, &scales);
    let highway = NormalEquations::new(&batcher, &parts.train)
        .solve(0.1)
        .unwrap();
    let mut network = Network::new(&highway, panel.horizon);
    let mut rng = Rng::new(8);
    network.add_lstm(24, 5, &mut rng);
    // A head of zeros would hide the LSTM's gradient.
    if let Some(beside) = &mut network.lstm {
        beside.head.weight = rng.symmetric(5 * panel.horizon, 0.5);
    }
    let (mut batch, mut work) = (Batch::default(), Workspace::default());
    batcher.fill(&parts.train[..40], &mut batch);
    let mut grads = network.grads();
    let loss = |network: &Network, work: &mut Workspace| {
        network.forward(&batch, work);
        network.loss(&batch, work, batch.weight.iter().sum())
    };
    loss(&network, &mut work);
    network.backward(&batch, &mut work, &mut grads, true);
    let exact: Vec<Vec<f32>> = network
        .parameters(&mut grads)
        .iter()
        .map(|p| p.grad.to_vec())
        .collect();
    for (tensor, exact) in exact.iter().enumerate() {
        let stride = (exact.len() / 11).max(1);
        for i in (0..exact.len()).step_by(stride) {
            let mut at = |delta: f32| {
                let mut moved = network.clone();
                let Parameter { value, .. } = &mut moved.parameters(&mut grads)[tensor];
                value[i] += delta;
                loss(&moved, &mut work)
            };
            let step = 1e-2;
            let numeric = (at(step) - at(-step)) / (2.0 * f64::from(step));
            assert!(
                (numeric - f64::from(exact[i])).abs() < 2e-3 + 0.02 * numeric.abs(),
                "{tensor} {i}: {numeric} {}",
                exact[i]
            );
        }
    }
}

#[test]
fn one_window_through_predict_equals_the_training_batch() {
    let (panel, parts, scales) = parts();
    let batcher = Batcher::new(&panel, &scales);
    let highway = NormalEquations::new(&batcher, &parts.train)
        .solve(0.1)
        .unwrap();
    let mut network = Network::new(&highway, panel.horizon);
    let mut rng = Rng::new(9);
    network.add_lstm(24, 7, &mut rng);
    let Some(beside) = &mut network.lstm else {
        panic!()
    };
    beside.head.weight = rng.symmetric(7 * panel.horizon, 0.5);
    let params = ModelParams::Default(DefaultParams {
        lookback: panel.lookback,
        inputs: panel.inputs,
        horizon: panel.horizon,
        future_width: panel.future_width,
        target_input: panel.target,
        train_dev: scales.train_dev.clone(),
        highway: linear_params(&network.highway),
        future_weight: network.future.clone(),
        lstm: Some(LstmHead {
            segment: 12,
            lstm: lstm_params(&beside.lstm),
            head: linear_params(&beside.head),
        }),
        quantiles: vec![0.1, 0.5, 0.9],
        quantile_offset: [-1.0, 0.0, 2.0].repeat(panel.horizon),
    });
    params.check().unwrap();
    let network = Network {
        lstm: network.lstm.clone(),
        ..network
    };
    let (data, builder) = (
        fixture::data(30, 3),
        WindowBuilder::new(&fixture::spec()).unwrap(),
    );
    for outcome in network_outcomes(&batcher, &parts.select, &network)
        .iter()
        .step_by(7)
    {
        let rows = &data.series[outcome.series].rows;
        // The builder wants a row at the origin; the training data may do without.
        let Ok(window) = builder.at(rows, outcome.time) else {
            continue;
        };
        let mut window = window;
        // A month of data cannot tell the seasons of the year: training has blanked these columns.
        let k = panel.future_width;
        for row in window.future.chunks_exact_mut(k) {
            row[k - 4..].fill(0.0);
        }
        let got = crate::predict(&params, &window).unwrap();
        for (h, want) in outcome.mean.iter().enumerate() {
            assert!(
                (got.mean[h] - want).abs() < 1e-5 * (want.abs() + scales.target_dev),
                "{} {want}",
                got.mean[h]
            );
            assert!(
                (got.quantiles[h * 3 + 2] - want - 2.0 * outcome.unit).abs()
                    < 1e-4 * scales.target_dev
            );
        }
    }
}

#[test]
fn the_three_parts_share_no_target_and_few_windows_are_an_error() {
    let (panel, parts, _) = parts();
    let time = |s: &Sample| panel.tracks[s.track].start + s.origin as i64 * panel.period;
    let reach = panel.horizon as i64 * panel.period;
    let last = |list: &[Sample]| list.iter().map(time).max().unwrap() + reach;
    let first = |list: &[Sample]| list.iter().map(time).min().unwrap();
    assert!(
        last(&parts.train) <= first(&parts.select)
            && last(&parts.select) <= first(&parts.calibrate)
    );
    let small = Panel::new(&fixture::spec(), &fixture::data(4, 1)).unwrap();
    let error = split(&small, &TrainConfig::default()).unwrap_err();
    assert!(matches!(error, TrainError::TooFewRows { .. }), "{error}");
    assert!(error.to_string().contains("are needed"));
}
