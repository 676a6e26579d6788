//! Fits preset `default`: owns the choice of penalty and the training loops with their early stop, never the final verdict.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Instant;

use fieldcast_kernel::{Adam, AdamConfig, Rng};

use crate::batch::{Batch, Batcher};
use crate::compact::CompactEquations;
use crate::decoder::{Decoder, Workspace};
use crate::highway::{Highway, NormalEquations};
use crate::network::Ridge;
use crate::samples::Sample;
use crate::{Progress, Stage, TrainConfig, TrainError};

/// Few features may need no more than this share of the penalty that many need.
const COMPACT: f64 = 1e-2;

/// Where progress goes; `Break` cancels.
pub(crate) type Callback<'a> = dyn FnMut(Progress) -> ControlFlow<()> + 'a;

/// Sum and count of absolute errors of the batch in MASE units over all observed steps.
fn absolute(batch: &Batch, out: impl Fn(usize) -> f32) -> (f64, f64) {
    let h = batch.target.len() / batch.rows.max(1);
    let (mut sum, mut count) = (0.0, 0.0);
    for (q, target) in batch.target.iter().enumerate().filter(|(_, t)| !t.is_nan()) {
        sum += f64::from((out(q) - target).abs() * batch.scale[q / h]);
        count += 1.0;
    }
    (sum, count)
}

/// Mean absolute error of ridge, and of a head beside it where there is one, in MASE units.
pub(crate) fn score(
    ridge: &Ridge,
    head: Option<&Decoder>,
    batcher: &Batcher<'_>,
    samples: &[Sample],
) -> f64 {
    let (mut batch, mut work, mut base) = (Batch::default(), Workspace::default(), Vec::new());
    let (mut sum, mut count) = (0.0, 0.0);
    for chunk in samples.chunks(256) {
        batcher.fill(chunk, &mut batch);
        ridge.forward(&batch, &mut base);
        let (s, n) = match head {
            Some(head) => {
                head.forward(&batch, &mut work);
                absolute(&batch, |q| base[q] + work.head[q])
            }
            None => absolute(&batch, |q| base[q]),
        };
        sum += s;
        count += n;
    }
    sum / f64::max(count, 1.0)
}

/// The ridge highway, over the whole window or over few features of it, with the calendar or without, whose penalty scores best
/// on the selection part, with that penalty.
pub(crate) fn fit_highway(
    batcher: &Batcher<'_>,
    train: &[Sample],
    select: &[Sample],
    config: &TrainConfig,
) -> Result<(Highway, f64), TrainError> {
    let whole = NormalEquations::new(batcher, train);
    let compact = CompactEquations::new(batcher, train);
    let mut forms: [Option<(f64, Highway, f64)>; 4] = Default::default();
    let mut failed = None;
    for penalty in &config.ridge_penalties {
        let few = *penalty * COMPACT;
        for (form, solved) in [
            (0, whole.solve(*penalty, false)),
            (1, whole.solve(*penalty, true)),
            (2, compact.solve(*penalty, false)),
            (2, compact.solve(few, false)),
            (3, compact.solve(*penalty, true)),
            (3, compact.solve(few, true)),
        ] {
            let highway = match solved {
                Ok(highway) => highway,
                Err(e) => {
                    failed = Some(e);
                    continue;
                }
            };
            let ridge = Ridge::new(&highway, batcher.panel.horizon);
            let error = score(&ridge, None, batcher, select);
            if forms[form]
                .as_ref()
                .is_none_or(|(least, ..)| error < *least)
            {
                forms[form] = Some((error, highway, *penalty));
            }
        }
    }
    let forms: Vec<(f64, Highway, f64)> = forms.into_iter().flatten().collect();
    let Some((least, _, penalty)) = forms.iter().min_by(|a, b| a.0.total_cmp(&b.0)) else {
        return Err(failed.unwrap_or(TrainError::Config {
            setting: "ridge_penalties",
            problem: "must not be empty",
        }));
    };
    let apart = independent(batcher, select);
    let weights: Vec<f64> = forms
        .iter()
        .map(|(error, ..)| {
            (least.max(f64::MIN_POSITIVE) / error.max(f64::MIN_POSITIVE)).powf(apart)
        })
        .collect();
    let parts: Vec<(f64, &Highway)> = weights
        .iter()
        .copied()
        .zip(forms.iter().map(|f| &f.1))
        .collect();
    Ok((Highway::averaged(&parts), *penalty))
}

/// Windows' worth of errors in `samples` that are not copies of each other: neighbours share steps ahead, errors of one
/// window are alike for about half a horizon, and all devices meet the same weather.
pub(crate) fn independent(batcher: &Batcher<'_>, samples: &[Sample]) -> f64 {
    let panel = batcher.panel;
    let row = |s: &Sample| panel.tracks[s.track].start / panel.period + s.origin as i64;
    let (first, last) = (samples.iter().map(row).min(), samples.iter().map(row).max());
    let span = last.unwrap_or(0) - first.unwrap_or(0);
    (2.0 * span as f64 / panel.horizon as f64).max(1.0)
}

/// Values of z that the LSTM reads at a time: a season's rows where the window holds at least four whole seasons, else one row.
pub(crate) fn segment_steps(lookback: usize, season: usize) -> usize {
    if season > 1 && lookback >= 4 * season && lookback.is_multiple_of(season) {
        season
    } else {
        1
    }
}

/// What every head's training shares.
#[derive(Clone, Copy)]
pub(crate) struct Task<'a> {
    pub(crate) batcher: &'a Batcher<'a>,
    pub(crate) ridge: &'a Ridge,
    pub(crate) train: &'a [Sample],
    pub(crate) select: &'a [Sample],
    pub(crate) config: &'a TrainConfig,
}

/// An epoch of one head: its loss and its score on the selection part.
struct Epoch {
    loss: f64,
    error: f64,
}

/// Trains `config.seeds` heads beside ridge, each as it was in its best epoch, on as many threads as the machine has.
///
/// Threads share nothing that learns: the heads are those of one thread.
pub(crate) fn fit_heads(
    task: Task<'_>,
    began: Instant,
    progress: &mut Callback<'_>,
) -> Result<Vec<Decoder>, TrainError> {
    let seeds = task.config.seeds;
    let heads = Mutex::new(vec![None; seeds]);
    let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
    let threads = task.config.threads().min(seeds);
    let (sender, epochs) = mpsc::sync_channel(threads);
    let mut cancelled = None;
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (sender, heads, next, stopped) = (sender.clone(), &heads, &next, &stopped);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds || stopped.load(Ordering::Relaxed) {
                        break;
                    }
                    let head = fit_head(task, seed as u64, &mut |epoch| {
                        sender.send(epoch).is_ok() && !stopped.load(Ordering::Relaxed)
                    });
                    let mut heads = heads.lock().unwrap_or_else(PoisonError::into_inner);
                    heads[seed] = Some(head);
                }
            });
        }
        drop(sender);
        let (total, loop_began) = (seeds * task.config.max_epochs, Instant::now());
        for (done, epoch) in epochs.iter().enumerate() {
            let done = done + 1;
            let left = loop_began
                .elapsed()
                .div_f64(done as f64)
                .mul_f64(total.saturating_sub(done) as f64);
            let report = Progress {
                stage: Stage::Lstm,
                epoch: done,
                epochs: total,
                loss: Some(epoch.loss),
                selection_mase: Some(epoch.error),
                elapsed: began.elapsed(),
                remaining: Some(left),
            };
            if cancelled.is_none() && progress(report).is_break() {
                cancelled = Some(done);
                stopped.store(true, Ordering::Relaxed);
            }
        }
    });
    if let Some(epoch) = cancelled {
        return Err(TrainError::Cancelled { epoch });
    }
    let heads = heads.into_inner().unwrap_or_else(PoisonError::into_inner);
    heads.into_iter().flatten().collect()
}

/// One head; `tell` hears of every epoch and stops the training by returning false.
fn fit_head(
    task: Task<'_>,
    seed: u64,
    tell: &mut dyn FnMut(Epoch) -> bool,
) -> Result<Decoder, TrainError> {
    let Task {
        batcher,
        ridge,
        train,
        select,
        config,
    } = task;
    let panel = batcher.panel;
    let mut rng = Rng::new(config.seed.wrapping_mul(1_000_003).wrapping_add(seed));
    let step = segment_steps(panel.lookback, panel.season) * panel.inputs;
    let local = panel.future_width + batcher.lag_width();
    let widths = (config.hidden, config.units);
    let mut head = Decoder::new(step, widths, local, panel.horizon, &mut rng);
    let mut adam = Adam::new(AdamConfig {
        learning_rate: config.learning_rate,
        weight_decay: config.weight_decay,
        ..AdamConfig::default()
    });
    let (mut batch, mut work, mut base) = (Batch::default(), Workspace::default(), Vec::new());
    let mut grads = head.grads();
    let mut order = train.to_vec();
    let mut best = (score(ridge, None, batcher, select), head.clone(), 0);
    for epoch in 1..=config.max_epochs {
        rng.shuffle(&mut order);
        let sample = &order[..order.len().min(config.epoch_windows)];
        adam.config.learning_rate = config.learning_rate * fade(epoch, config.max_epochs);
        let mut loss = 0.0;
        for chunk in sample.chunks(config.batch) {
            batcher.fill(chunk, &mut batch);
            ridge.forward(&batch, &mut base);
            loss +=
                head.learn(&batch, &base, &mut work, &mut grads, &mut adam) * chunk.len() as f64;
        }
        loss /= sample.len() as f64;
        let error = score(ridge, Some(&head), batcher, select);
        if !loss.is_finite() || !error.is_finite() {
            return Err(TrainError::Diverged { epoch });
        }
        if !tell(Epoch { loss, error }) {
            return Err(TrainError::Cancelled { epoch });
        }
        if error < best.0 {
            best = (error, head.clone(), epoch);
        } else if epoch >= best.2 + config.patience.max(1) {
            break;
        }
    }
    Ok(best.1)
}

/// Cosine from 1 to 0.05 over the epochs.
fn fade(epoch: usize, epochs: usize) -> f32 {
    let share = (epoch - 1) as f32 / epochs.max(1) as f32;
    0.05 + 0.95 * 0.5 * (1.0 + (std::f32::consts::PI * share).cos())
}

#[cfg(test)]
#[path = "default_tests.rs"]
mod tests;
