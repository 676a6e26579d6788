//! Fits preset `default`: owns the choice of penalty and the training loop with its early stop, never the final verdict.

use std::ops::ControlFlow;
use std::time::Instant;

use fieldcast_kernel::{Adam, AdamConfig, Rng};

use crate::batch::{Batch, Batcher};
use crate::highway::{Highway, NormalEquations};
use crate::learner::{Learner, in_parallel};
use crate::network::{Network, Workspace};
use crate::samples::Sample;
use crate::{Progress, Stage, TrainConfig, TrainError};

/// Parts of a score, and so most threads that it can use.
const SCORE_PARTS: usize = 4;

/// Where progress goes; `Break` cancels.
pub(crate) type Callback<'a> = dyn FnMut(Progress) -> ControlFlow<()> + 'a;

/// Mean absolute error of `network` on `samples`, in MASE units over all observed steps.
pub(crate) fn score(
    network: &Network,
    batcher: &Batcher<'_>,
    samples: &[Sample],
    threads: usize,
) -> f64 {
    // A fixed number of parts, added in their order: the score is the same for any number of threads.
    let size = samples.len().div_ceil(SCORE_PARTS).max(1);
    let mut parts: Vec<_> = samples.chunks(size).map(|part| (part, 0.0, 0.0)).collect();
    in_parallel(threads, &mut parts, |(samples, sum, count)| {
        (*sum, *count) = absolute_errors(network, batcher, samples);
    });
    let sum: f64 = parts.iter().map(|(_, sum, _)| sum).sum();
    let count: f64 = parts.iter().map(|(.., count)| count).sum();
    sum / f64::max(count, 1.0)
}

/// Sum and count of the absolute errors on the observed steps, in MASE units.
fn absolute_errors(network: &Network, batcher: &Batcher<'_>, samples: &[Sample]) -> (f64, f64) {
    let (mut batch, mut work) = (Batch::default(), Workspace::default());
    let (mut sum, mut count) = (0.0, 0.0);
    for chunk in samples.chunks(256) {
        batcher.fill(chunk, &mut batch);
        network.forward(&batch, &mut work);
        let rows = work
            .out
            .chunks_exact(network.horizon)
            .zip(batch.target.chunks_exact(network.horizon));
        for ((out, target), scale) in rows.zip(&batch.scale) {
            for (o, t) in out.iter().zip(target).filter(|(_, t)| !t.is_nan()) {
                sum += f64::from((o - t).abs() * scale);
                count += 1.0;
            }
        }
    }
    (sum, count)
}

/// The ridge highway whose penalty scores best on the selection part, with that penalty.
pub(crate) fn fit_highway(
    batcher: &Batcher<'_>,
    train: &[Sample],
    select: &[Sample],
    config: &TrainConfig,
) -> Result<(Highway, f64), TrainError> {
    let equations = NormalEquations::new(batcher, train);
    let mut best: Option<(f64, Highway, f64)> = None;
    let mut failed = None;
    for penalty in &config.ridge_penalties {
        let highway = match equations.solve(*penalty) {
            Ok(highway) => highway,
            Err(e) => {
                failed = Some(e);
                continue;
            }
        };
        let error = score(
            &Network::new(&highway, batcher.panel.horizon),
            batcher,
            select,
            config.threads(),
        );
        if best.as_ref().is_none_or(|(least, ..)| error < *least) {
            best = Some((error, highway, *penalty));
        }
    }
    match (best, failed) {
        (Some((_, highway, penalty)), _) => Ok((highway, penalty)),
        (None, Some(e)) => Err(e),
        (None, None) => Err(TrainError::Config {
            setting: "ridge_penalties",
            problem: "must not be empty",
        }),
    }
}

/// Values of z that the LSTM reads at a time: a season's rows where the window holds at least four whole seasons, else one row.
pub(crate) fn segment_steps(lookback: usize, season: usize) -> usize {
    if season > 1 && lookback >= 4 * season && lookback.is_multiple_of(season) {
        season
    } else {
        1
    }
}

/// Trains an LSTM beside `highway` and returns the network of the best epoch with its score on the selection part.
pub(crate) fn fit_lstm(
    batcher: &Batcher<'_>,
    highway: &Highway,
    (train, select): (&[Sample], &[Sample]),
    config: &TrainConfig,
    began: Instant,
    progress: &mut Callback<'_>,
) -> Result<(Network, f64), TrainError> {
    let panel = batcher.panel;
    let mut rng = Rng::new(config.seed);
    let mut network = Network::new(highway, panel.horizon);
    let step = segment_steps(panel.lookback, panel.season) * panel.inputs;
    network.add_lstm(step, config.hidden, &mut rng);
    let adam = |learning_rate, weight_decay| {
        Adam::new(AdamConfig {
            learning_rate,
            weight_decay,
            ..AdamConfig::default()
        })
    };
    let fast = adam(config.learning_rate, config.weight_decay);
    let slow = (config.highway_rate > 0.0).then(|| adam(config.highway_rate, 0.0));
    let threads = config.threads();
    let mut learner = Learner::new(&network, fast, slow, threads);
    let mut order = train.to_vec();
    let mut best = (
        score(&network, batcher, select, threads),
        network.clone(),
        0,
    );
    let loop_began = Instant::now();
    for epoch in 1..=config.max_epochs {
        rng.shuffle(&mut order);
        let fade = fade(epoch, config.max_epochs);
        learner.fast.config.learning_rate = config.learning_rate * fade;
        if let Some(slow) = &mut learner.slow {
            slow.config.learning_rate = config.highway_rate * fade;
        }
        let mut loss = 0.0;
        for chunk in order.chunks(config.batch) {
            loss += learner.learn(&mut network, batcher, chunk) * chunk.len() as f64;
        }
        loss /= order.len() as f64;
        let error = score(&network, batcher, select, threads);
        if !loss.is_finite() || !error.is_finite() {
            return Err(TrainError::Diverged { epoch });
        }
        let report = Progress {
            stage: Stage::Lstm,
            epoch,
            epochs: config.max_epochs,
            loss: Some(loss),
            selection_mase: Some(error),
            elapsed: began.elapsed(),
            remaining: Some(
                loop_began.elapsed() / epoch as u32 * (config.max_epochs - epoch) as u32,
            ),
        };
        if progress(report).is_break() {
            return Err(TrainError::Cancelled { epoch });
        }
        if error < best.0 {
            best = (error, network.clone(), epoch);
        } else if epoch >= best.2 + config.patience.max(1) {
            break;
        }
    }
    Ok((best.1, best.0))
}

/// Cosine from 1 to 0.05 over the epochs.
fn fade(epoch: usize, epochs: usize) -> f32 {
    let share = (epoch - 1) as f32 / epochs.max(1) as f32;
    0.05 + 0.95 * 0.5 * (1.0 + (std::f32::consts::PI * share).cos())
}

#[cfg(test)]
#[path = "default_tests.rs"]
mod tests;
