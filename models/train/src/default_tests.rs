//! The default preset's parts against slower, plainer ways to the same numbers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::ops::ControlFlow;

use fieldcast_features::WindowBuilder;
use fieldcast_kernel::{Parameter, Rng};
use fieldcast_onnx::{EnsembleParams, ModelParams, Spread};

use super::*;
use crate::data::Panel;
use crate::ensemble::Ensemble;
use crate::forest::Forest;
use crate::importance::permutation;
use crate::predict::{decoder_params, linear_params};
use crate::samples::{Parts, split};
use crate::scales::Scales;
use crate::{fit, fixture, linalg};

fn parts() -> (Panel, Parts, Scales) {
    let panel = Panel::new(&fixture::spec(), &fixture::data(30, 3)).unwrap();
    let parts = split(&panel, &TrainConfig::default()).unwrap();
    let scales = Scales::new(&panel, parts.split.select_from);
    (panel, parts, scales)
}

/// Every step's regression written out in full: one matrix over window, constant and that step's calendar.
#[test]
fn block_elimination_equals_the_full_normal_equations() {
    for calendar in [true, false] {
        block_elimination(calendar);
    }
}

fn block_elimination(calendar: bool) {
    let (panel, parts, scales) = parts();
    let batcher = Batcher::new(&panel, &scales);
    let train = &parts.train[..400];
    let equations = NormalEquations::new(&batcher, train, &mut || Ok(())).unwrap();
    let penalty = 0.05;
    let highway = equations.solve(penalty, calendar).unwrap();
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
            let used = f64::from(u8::from(calendar));
            let future = batch.future[(row * h + step) * k..][..k].iter();
            let future = future.map(|v| f64::from(*v) * used);
            let z = z.chain([&1.0]).map(|v| f64::from(*v));
            let x: Vec<f64> = z.chain(future).map(|v| v * weight).collect();
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

/// The same columns written out in full, so that few features of the window are compared with many whose weights are fixed.
#[test]
fn few_features_give_the_regression_on_those_features() {
    for calendar in [true, false] {
        few_features(calendar);
    }
}

fn few_features(calendar: bool) {
    let (panel, parts, scales) = parts();
    let batcher = Batcher::new(&panel, &scales);
    let train = &parts.train[..600];
    let highway = CompactEquations::new(&batcher, train, &mut || Ok(()))
        .unwrap()
        .solve(1e-3, calendar)
        .unwrap();
    let ridge = Ridge::new(&highway, panel.horizon);
    let mut batch = Batch::default();
    batcher.fill(train, &mut batch);
    let mut out = Vec::new();
    ridge.forward(&batch, &mut out);
    let (h, j, k) = (panel.horizon, batcher.lag_width(), panel.future_width);
    let n = j + k + 1;
    for step in [0, 5] {
        let row = |b: usize| -> Vec<f64> {
            let q = b * h + step;
            let lags = batch.lags[q * j..][..j].iter();
            let used = f64::from(u8::from(calendar));
            let known = batch.future[q * k..][..k].iter();
            let known = known.map(|v| f64::from(*v) * used);
            let lags = lags.map(|v| f64::from(*v));
            lags.chain(known).chain([1.0]).collect()
        };
        let seen = |b: &usize| !batch.target[b * h + step].is_nan();
        let (mut a, mut c) = (vec![0.0; n * n], vec![0.0; n]);
        for b in (0..batch.rows).filter(seen) {
            let (x, weight) = (row(b), f64::from(batch.weight[b] * batch.scale[b].powi(2)));
            for i in 0..n {
                (0..n).for_each(|l| a[i * n + l] += weight * x[i] * x[l]);
                c[i] += weight * x[i] * f64::from(batch.target[b * h + step]);
            }
        }
        let mean = (0..j).map(|i| a[i * n + i]).sum::<f64>() / j as f64;
        let mass = a[n * n - 1];
        (0..n).for_each(|i| a[i * n + i] += if i + 1 < n { 1e-3 * mean } else { mass * 1e-9 });
        assert!(linalg::cholesky(&mut a, n));
        linalg::solve(&a, n, &mut c, 1);
        for b in 0..batch.rows {
            let want: f64 = row(b).iter().zip(&c).map(|(x, w)| x * w).sum();
            let got = f64::from(out[b * h + step]);
            assert!(
                (got - want).abs() < 1e-4 * (1.0 + want.abs()),
                "{got} {want}"
            );
        }
    }
}

fn trained_looking(batcher: &Batcher<'_>, (hidden, units): (usize, usize), seed: u64) -> Decoder {
    let panel = batcher.panel;
    let mut rng = Rng::new(seed);
    let local = panel.future_width + batcher.lag_width();
    let mut head = Decoder::new(24, (hidden, units), local, panel.horizon, &mut rng);
    // A last layer of zeros would hide everything before it.
    head.out = rng.symmetric(units * panel.horizon, 0.5);
    head.out_bias = rng.symmetric(panel.horizon, 0.5);
    head
}

#[test]
fn the_heads_gradient_equals_finite_differences() {
    for dropout in [0.0, 0.3] {
        gradient_with(dropout);
    }
}

fn gradient_with(dropout: f32) {
    let (panel, parts, scales) = parts();
    let batcher = Batcher::new(&panel, &scales);
    let head = trained_looking(&batcher, (5, 7), 8);
    let (mut batch, mut work) = (Batch::default(), Workspace::default());
    batcher.fill(&parts.train[..40], &mut batch);
    work.drop(dropout, 40 * panel.horizon * 7, &mut Rng::new(3));
    let ridge = vec![0.1; batch.target.len()];
    let mut grads = head.grads();
    let loss = |head: &Decoder, work: &mut Workspace| {
        head.forward(&batch, work);
        head.loss(&batch, &ridge, work)
    };
    loss(&head, &mut work);
    head.backward(&mut work, &mut grads);
    let exact: Vec<Vec<f32>> = head
        .clone()
        .parameters(&mut grads)
        .iter()
        .map(|p| p.grad.to_vec())
        .collect();
    for (tensor, exact) in exact.iter().enumerate() {
        let stride = (exact.len() / 11).max(1);
        for i in (0..exact.len()).step_by(stride) {
            let mut at = |delta: f32| {
                let mut moved = head.clone();
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
    let highway = NormalEquations::new(&batcher, &parts.train, &mut || Ok(()))
        .unwrap()
        .solve(0.1, true)
        .unwrap();
    let ridge = Ridge::new(&highway, panel.horizon);
    let heads = [(5, 7), (4, 9)].map(|widths| trained_looking(&batcher, widths, 9));
    let mut ensemble = Ensemble::weighted(&ridge, &heads, &[1, 12], &batcher, &parts.select);
    let weights = [0.2_f32, 0.3, 0.1, 0.25, 0.05];
    ensemble.median_weight = weights
        .iter()
        .flat_map(|w| vec![*w; panel.horizon])
        .collect();
    ensemble.fit_width(&batcher, &parts.train);
    assert!(ensemble.width_weight.iter().any(|w| *w != 0.0));
    let params = ModelParams::Ensemble(EnsembleParams {
        lookback: panel.lookback,
        inputs: panel.inputs,
        horizon: panel.horizon,
        future_width: panel.future_width,
        target_input: panel.target,
        train_dev: scales.train_dev.clone(),
        highway: linear_params(&ridge.highway),
        future_weight: ridge.future.clone(),
        lags: batcher.lags.clone(),
        decoders: heads
            .iter()
            .map(|d| decoder_params(d, panel.inputs, panel.future_width))
            .collect(),
        seasons: ensemble.seasons.clone(),
        mean_share: ensemble.shares(&ensemble.mean_weight),
        median_share: ensemble.shares(&ensemble.median_weight),
        spread: Spread {
            weight: ensemble.width_weight.clone(),
            bias: ensemble.width_bias.clone(),
            power: ensemble.width_power,
            usual: ensemble.usual,
        },
        quantiles: vec![0.1, 0.5, 0.9],
        quantile_offset: [-1.0, 0.0, 2.0].repeat(panel.horizon),
    });
    params.check().unwrap();
    let (data, builder) = (
        fixture::data(30, 3),
        WindowBuilder::new(&fixture::spec()).unwrap(),
    );
    let outcomes = ensemble.outcomes(&batcher, &parts.select);
    let mut compared = 0;
    for outcome in outcomes.iter().step_by(7) {
        let rows = &data.series[outcome.series].rows;
        // The builder wants a row at the origin; the training data may do without.
        let Ok(mut window) = builder.at(rows, outcome.time) else {
            continue;
        };
        // A month of data cannot tell the seasons of the year: training has blanked these columns.
        let k = panel.future_width;
        for row in window.future.chunks_exact_mut(k) {
            row[k - 4..].fill(0.0);
        }
        let got = crate::predict(&params, &window).unwrap();
        let tolerance = 1e-4 * scales.target_dev;
        for h in 0..panel.horizon {
            let (mean, median) = (outcome.mean[h], outcome.median[h]);
            assert!((got.mean[h] - mean).abs() < tolerance);
            assert!((got.quantiles[h * 3 + 1] - median).abs() < tolerance);
            let upper = median + 2.0 * outcome.unit[h];
            assert!((got.quantiles[h * 3 + 2] - upper).abs() < tolerance);
        }
        compared += 1;
    }
    assert!(compared > 10);
}

#[test]
fn what_is_kept_for_judging_is_no_target_of_any_part() {
    let (panel, whole, _) = parts();
    let time = |s: &Sample| panel.tracks[s.track].start + s.origin as i64 * panel.period;
    let reach = panel.horizon as i64 * panel.period;
    let middle = |list: &[Sample]| time(&list[list.len() / 2]);
    // Spans of a day in the midst of each part.
    let unseen: Vec<_> = [&whole.train, &whole.select, &whole.calibrate]
        .map(|part| (middle(part), middle(part) + 24 * panel.period))
        .to_vec();
    let config = TrainConfig {
        unseen: unseen.clone(),
        ..TrainConfig::default()
    };
    let kept = split(&panel, &config).unwrap();
    let all = |p: &Parts| [&p.train[..], &p.select, &p.calibrate].concat();
    let reaches = |s: &Sample| {
        let targets = (1..=panel.horizon as i64).map(|h| time(s) + h * panel.period);
        let mut targets = targets.filter(|t| unseen.iter().any(|(a, b)| a <= t && t < b));
        targets.next().is_some()
    };
    assert!(all(&whole).iter().any(reaches));
    assert!(!all(&kept).iter().any(reaches));
    let lost = all(&whole).len() - all(&kept).len();
    let most = 3 * panel.tracks.len() * (24 + 3 * reach as usize / panel.period as usize);
    assert!(lost > 3 * 24 && lost <= most, "{lost} of at most {most}");
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

#[test]
fn every_long_computation_hears_of_a_cancel_on_its_way() {
    let (spec, data) = (fixture::spec(), fixture::data(60, 2));
    let (panel, parts, scales) = parts();
    let batcher = Batcher::new(&panel, &scales);
    let config = TrainConfig {
        max_epochs: 0,
        ..TrainConfig::default()
    };
    let judged = (&parts.select[..], &parts.calibrate[..]);
    let chosen = fit_highway(&batcher, &parts.train, judged, &config, &mut || Ok(())).unwrap();
    let forest = Forest::grow(&batcher, &parts.train, &config, &mut || Ok(())).unwrap();
    let trained = fit(&spec, &data, &config, &mut |_| ControlFlow::Continue(())).unwrap();
    let span = (trained.split.select_from, trained.split.until);
    type Computation<'a> = Box<dyn Fn(&mut Beat<'_>) -> Option<TrainError> + 'a>;
    let all: [(&str, usize, Computation<'_>); 5] = [
        // Two sums in parts, then thirty solutions and their judgement.
        (
            "ridge",
            36,
            Box::new(|beat| fit_highway(&batcher, &parts.train, judged, &config, beat).err()),
        ),
        (
            "refit",
            4,
            Box::new(|beat| chosen.refit(&batcher, &parts.train, beat).err()),
        ),
        (
            "forest",
            15,
            Box::new(|beat| Forest::grow(&batcher, &parts.train, &config, beat).err()),
        ),
        (
            "forecasts",
            100,
            Box::new(|beat| forest.outcomes(&batcher, &parts.select, beat).err()),
        ),
        (
            "importance",
            100,
            Box::new(|beat| permutation(&spec, &data, &trained.params, span, 1, beat).err()),
        ),
    ];
    for (name, least, compute) in all {
        let mut beats = 0;
        let whole = compute(&mut || {
            beats += 1;
            Ok(())
        });
        assert!(
            whole.is_none() && beats >= least,
            "{name}: {beats} {whole:?}"
        );
        // At its last one still: it is not only asked at the beginning.
        let mut left = beats;
        let stopped = compute(&mut || {
            left -= 1;
            match left {
                0 => Err(TrainError::Cancelled { epoch: 0 }),
                _ => Ok(()),
            }
        });
        assert_eq!(stopped, Some(TrainError::Cancelled { epoch: 0 }), "{name}");
    }
}
