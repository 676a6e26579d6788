//! Fits preset `classic`, the replaced system's model: owns its MinMax scaling and training loop, never a baseline.
//!
//! One LSTM over MinMax-scaled inputs, a linear layer on its last state, MSE on the MinMax-scaled target, Adam at 0.01,
//! 20 epochs with the whole data as one batch. Two things differ from the replaced system, on purpose: it scaled by the
//! extremes of all its data, this by those of the training part, since the rest judges the model; and batches may be smaller.

use std::time::Instant;

use fieldcast_features::Millis;
use fieldcast_kernel::{AdamConfig, Linear, Lstm, LstmTape, Rng};
use fieldcast_onnx::ClassicParams;

use crate::baselines::Outcome;
use crate::checkpoint::{HeadState, Keep};
use crate::data::Panel;
use crate::heads::Callback;
use crate::plain::{Plain, PlainTrainer, Windows};
use crate::predict::{linear_params, lstm_params, min_max};
use crate::samples::Sample;
use crate::{Progress, Stage, TrainConfig, TrainError};

const HIDDEN: usize = 50;
const LEARNING_RATE: f32 = 0.01;

/// Trains on `train`, from where `keep` left it; the intervals are left empty.
pub(crate) fn fit(
    panel: &Panel,
    train: &[Sample],
    (config, keep): (&TrainConfig, &Keep<'_>),
    quantiles: &[f64],
    began: Instant,
    progress: &mut Callback<'_>,
) -> Result<ClassicParams, TrainError> {
    let (x_min, x_max) = (0..panel.inputs)
        .map(|f| extremes(panel, train, f))
        .unzip::<_, _, Vec<_>, Vec<_>>();
    let (y_min, y_max) = target_extremes(panel, train);
    let range = if y_max > y_min { y_max - y_min } else { 1.0 };
    let mut rng = Rng::new(config.seed);
    let mut model = Plain {
        lstm: Lstm::random(panel.inputs, HIDDEN, &mut rng),
        head: Linear::random(HIDDEN, 1, &mut rng),
    };
    let adam = AdamConfig {
        learning_rate: LEARNING_RATE,
        ..AdamConfig::default()
    };
    let mut trainer = PlainTrainer::new(&model, adam, config.threads());
    let width = panel.lookback * panel.inputs;
    let mut x = vec![0.0; train.len() * width];
    for (sample, x) in train.iter().zip(x.chunks_exact_mut(width)) {
        scaled_window(panel, sample, &x_min, &x_max, x);
    }
    let target = |s: &Sample| panel.target_at(&panel.tracks[s.track], s.origin + 1);
    let scaled = |s: &Sample| ((target(s) - y_min) / range) as f32;
    let (y, weight): (Vec<f32>, Vec<f32>) = train.iter().map(|s| (scaled(s), s.weight)).unzip();
    let windows = Windows {
        steps: panel.lookback,
        x: &x,
        y: &y,
        weight: &weight,
    };
    let mut order: Vec<usize> = (0..train.len()).collect();
    let batch = config.classic_batch.unwrap_or(order.len());
    let mut done = 0;
    if let Some(saved) = keep.of(0)
        && saved.fits(&mut model)
    {
        let mut best = model.clone();
        saved.restore(&mut model, &mut best, &mut trainer.adam);
        done = saved.epoch;
    }
    for epoch in 1..=config.classic_epochs {
        if batch < order.len() {
            rng.shuffle(&mut order);
        }
        // Its shuffle was one of those that the next one goes on from.
        if epoch <= done {
            continue;
        }
        let loss = trainer.epoch(&mut model, windows, &order, batch);
        if !loss.is_finite() {
            return Err(TrainError::Diverged { epoch });
        }
        keep.save(0, || {
            // The last epoch is the one that counts.
            let last = (loss, &mut model.clone(), epoch);
            HeadState::new(epoch, &mut model, last, &trainer.adam)
        });
        let report = Progress {
            stage: Stage::Lstm,
            epoch,
            epochs: config.classic_epochs,
            loss: Some(loss),
            selection_mase: None,
            elapsed: began.elapsed(),
            remaining: Some(
                began.elapsed() / epoch as u32 * (config.classic_epochs - epoch) as u32,
            ),
        };
        if progress(report).is_break() {
            return Err(TrainError::Cancelled { epoch });
        }
    }
    Ok(ClassicParams {
        lookback: panel.lookback,
        future_width: panel.future_width,
        x_min,
        x_max,
        y_min,
        y_max,
        lstm: lstm_params(&model.lstm),
        head: linear_params(&model.head),
        quantiles: quantiles.to_vec(),
        quantile_offset: vec![0.0; quantiles.len()],
    })
}

/// Forecasts of `samples`.
pub(crate) fn outcomes(panel: &Panel, samples: &[Sample], p: &ClassicParams) -> Vec<Outcome> {
    let lstm = crate::predict::kernel_lstm(&p.lstm);
    let head = crate::predict::kernel_linear(&p.head);
    let mut tape = LstmTape::default();
    let width = panel.lookback * panel.inputs;
    let mut x = vec![0.0; width];
    let outcome = |s: &Sample| {
        scaled_window(panel, s, &p.x_min, &p.x_max, &mut x);
        let mut y = [0.0];
        head.forward(
            1,
            lstm.forward(panel.lookback, 1, &x, &mut tape),
            &mut y,
            false,
        );
        let track = &panel.tracks[s.track];
        let mean = p.y_min + f64::from(y[0]) * (p.y_max - p.y_min);
        Outcome {
            series: track.series,
            time: track.start + s.origin as Millis * panel.period,
            observed: panel.observed(track, s.origin),
            unit: vec![1.0],
            median: vec![mean],
            mean: vec![mean],
            actual: vec![panel.target_at(track, s.origin + 1)],
        }
    };
    samples.iter().map(outcome).collect()
}

fn scaled_window(panel: &Panel, sample: &Sample, min: &[f64], max: &[f64], x: &mut [f32]) {
    let window = panel.window(&panel.tracks[sample.track], sample.origin);
    let inputs: Vec<f64> = window
        .chunks_exact(panel.channels)
        .flat_map(|row| row[..panel.inputs].iter().copied())
        .collect();
    min_max(&inputs, panel.inputs, min, max, x);
}

/// Smallest and largest value of an input over the windows of `samples`.
fn extremes(panel: &Panel, samples: &[Sample], channel: usize) -> (f64, f64) {
    let mut range = (f64::INFINITY, f64::NEG_INFINITY);
    let mut seen = (usize::MAX, 0);
    for s in samples {
        let track = &panel.tracks[s.track];
        // Windows overlap: only the rows behind the last one seen are new.
        let first = s.origin + 1 - panel.lookback;
        let from = if seen.0 == s.track {
            first.max(seen.1)
        } else {
            first
        };
        for row in from..=s.origin {
            let v = track.values[row * panel.channels + channel];
            range = (range.0.min(v), range.1.max(v));
        }
        seen = (s.track, s.origin + 1);
    }
    range
}

fn target_extremes(panel: &Panel, samples: &[Sample]) -> (f64, f64) {
    let values = samples
        .iter()
        .map(|s| panel.target_at(&panel.tracks[s.track], s.origin + 1));
    values
        .filter(|v| !v.is_nan())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
            (low.min(v), high.max(v))
        })
}
