//! The LSTM heads of preset `default`: owns their training loops, early stop and threads, never ridge or the final verdict.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Instant;

use fieldcast_kernel::{Adam, AdamConfig, Rng};

use crate::batch::Batcher;
use crate::checkpoint::{HeadState, Keep};
use crate::decoder::Decoder;
use crate::default::{Buffers, score};
use crate::network::Ridge;
use crate::samples::Sample;
use crate::{Progress, Stage, TrainConfig, TrainError};

/// Where progress goes; `Break` cancels.
pub(crate) type Callback<'a> = dyn FnMut(Progress) -> ControlFlow<()> + 'a;

/// Called often from within a computation, that a cancelled one may end: with the error that it then ends with.
pub(crate) type Beat<'a> = dyn FnMut() -> Result<(), TrainError> + 'a;

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
    /// Heads of an earlier model, trained on behind those from scratch.
    pub(crate) warm: &'a [Decoder],
}

/// An epoch of one head: its loss and its score on the selection part.
struct Epoch {
    loss: f64,
    error: f64,
}

/// Trains `config.seeds` heads from scratch, then those that begin at an earlier model, beside ridge, each as it was in its best epoch, on as many threads as the machine has, from
/// where `keep` left them.
///
/// Threads share nothing that learns: the heads are those of one thread.
pub(crate) fn fit_heads(
    task: Task<'_>,
    keep: &Keep<'_>,
    began: Instant,
    progress: &mut Callback<'_>,
) -> Result<Vec<Decoder>, TrainError> {
    let seeds = task.config.seeds + task.warm.len();
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
                    let head = fit_head(task, keep, seed, &mut |epoch| {
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

/// A head from scratch.
pub(crate) fn fresh(batcher: &Batcher<'_>, config: &TrainConfig, rng: &mut Rng) -> Decoder {
    let panel = batcher.panel;
    let step = segment_steps(panel.lookback, panel.season) * panel.inputs;
    let local = panel.future_width + batcher.lag_width();
    let widths = (config.hidden, config.units);
    Decoder::new(step, widths, local, panel.horizon, rng)
}

/// One head; `tell` hears of every epoch and stops the training by returning false.
fn fit_head(
    task: Task<'_>,
    keep: &Keep<'_>,
    seed: usize,
    tell: &mut dyn FnMut(Epoch) -> bool,
) -> Result<Decoder, TrainError> {
    let Task {
        batcher,
        ridge,
        train,
        select,
        config,
        warm,
    } = task;
    let panel = batcher.panel;
    let numbers = |epoch: usize| {
        let own = config
            .seed
            .wrapping_mul(1_000_003)
            .wrapping_add(seed as u64);
        // Every epoch draws anew, so that one which goes on from a checkpoint draws as it would have.
        Rng::new(own.wrapping_mul(10_007).wrapping_add(epoch as u64))
    };
    let earlier = seed.checked_sub(config.seeds).and_then(|n| warm.get(n));
    let scratch = || fresh(batcher, config, &mut numbers(0));
    let mut head = earlier.cloned().unwrap_or_else(scratch);
    let mut adam = Adam::new(AdamConfig {
        learning_rate: config.learning_rate,
        weight_decay: config.weight_decay,
        ..AdamConfig::default()
    });
    let (mut buffers, mut grads) = (Buffers::default(), head.grads());
    let mut order = Vec::with_capacity(train.len());
    let error = score(ridge, earlier, batcher, select, &mut buffers);
    let mut best = (error, head.clone(), 0);
    let mut done = 0;
    if let Some(saved) = keep.of(seed)
        && saved.fits(&mut head)
    {
        saved.restore(&mut head, &mut best.1, &mut adam);
        (best.0, best.2, done) = (saved.error, saved.best_epoch, saved.epoch);
    }
    let patience = config.patience.max(1);
    for epoch in done + 1..=config.max_epochs {
        if epoch > best.2 + patience {
            break;
        }
        let mut rng = numbers(epoch);
        order.clear();
        order.extend_from_slice(train);
        rng.shuffle(&mut order);
        let sample = &order[..order.len().min(config.epoch_windows)];
        adam.config.learning_rate = config.learning_rate * fade(epoch, config.max_epochs);
        let mut loss = 0.0;
        for chunk in sample.chunks(config.batch) {
            let Buffers { batch, work, base } = &mut buffers;
            batcher.fill(chunk, batch);
            ridge.forward(batch, base);
            work.drop(
                config.dropout,
                batch.rows * panel.horizon * config.units,
                &mut rng,
            );
            loss += head.learn(batch, base, work, &mut grads, &mut adam) * chunk.len() as f64;
        }
        loss /= sample.len() as f64;
        let error = score(ridge, Some(&head), batcher, select, &mut buffers);
        if !loss.is_finite() || !error.is_finite() {
            return Err(TrainError::Diverged { epoch });
        }
        if error < best.0 {
            best = (error, head.clone(), epoch);
        }
        keep.save(seed, || {
            HeadState::new(epoch, &mut head, (best.0, &mut best.1, best.2), &adam)
        });
        if !tell(Epoch { loss, error }) {
            return Err(TrainError::Cancelled { epoch });
        }
    }
    Ok(best.1)
}

/// Cosine from 1 to 0.05 over the epochs.
fn fade(epoch: usize, epochs: usize) -> f32 {
    let share = (epoch - 1) as f32 / epochs.max(1) as f32;
    0.05 + 0.95 * 0.5 * (1.0 + (std::f32::consts::PI * share).cos())
}
