//! What a training has learnt so far, as bytes: owns their layout and whom they belong to, never where they are kept.
//!
//! Layout: one line of JSON (whose training, and of each head its epochs and the lengths of its tensors), a newline, then the
//! tensors as little-endian f32. Anything else, and anything of another training, counts as no checkpoint.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use fieldcast_features::ForecasterSpec;
use fieldcast_kernel::Adam;
use serde::{Deserialize, Serialize};

use crate::{TrainConfig, TrainingData};

/// Checkpoints are written no more often than this.
const EVERY: Duration = Duration::from_secs(2);
/// More tensors or numbers than any training has are no checkpoint.
const MOST: usize = 1 << 28;

/// Where checkpoints are kept: a file, a column of a table.
///
/// `save` is called from the training's threads, one call at a time; what it does with a failure is its own business, since a
/// training does not end because it could not be made resumable.
pub trait Checkpoints: Sync {
    /// The last one saved, if there is any.
    fn load(&self) -> Option<Vec<u8>>;
    /// Replaces it.
    fn save(&self, bytes: &[u8]);
}

/// One head's training after some epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct HeadState {
    pub(crate) epoch: usize,
    /// Least error on the selection part, and its epoch.
    pub(crate) error: f64,
    pub(crate) best_epoch: usize,
    adam_steps: i32,
    /// Numbers of each tensor.
    sizes: Vec<usize>,
    /// Weights now, weights of the best epoch, first and second moments; tensor by tensor.
    #[serde(skip)]
    numbers: Vec<f32>,
}

/// What is learnt, tensor by tensor, always in the same order.
pub(crate) trait Learnt {
    fn tensors(&mut self) -> Vec<&mut Vec<f32>>;
}

impl HeadState {
    pub(crate) fn new(
        epoch: usize,
        head: &mut impl Learnt,
        (error, best, best_epoch): (f64, &mut impl Learnt, usize),
        adam: &Adam,
    ) -> Self {
        let (adam_steps, moments) = adam.state();
        let tensors = head.tensors();
        let sizes = tensors.iter().map(|t| t.len()).collect();
        let mut numbers = Vec::new();
        for tensor in tensors.into_iter().chain(best.tensors()) {
            numbers.extend_from_slice(tensor);
        }
        for (first, _) in moments {
            numbers.extend_from_slice(first);
        }
        for (_, second) in moments {
            numbers.extend_from_slice(second);
        }
        Self {
            epoch,
            error,
            best_epoch,
            adam_steps,
            sizes,
            numbers,
        }
    }

    /// Whether the tensors are those of `head`.
    pub(crate) fn fits(&self, head: &mut impl Learnt) -> bool {
        let own: Vec<usize> = head.tensors().iter().map(|t| t.len()).collect();
        own == self.sizes && self.numbers.len() == 4 * own.iter().sum::<usize>()
    }

    /// Sets everything as it was; only where it [`Self::fits`].
    pub(crate) fn restore<L: Learnt>(&self, head: &mut L, best: &mut L, adam: &mut Adam) {
        let mut parts = self.numbers.chunks_exact(self.numbers.len() / 4);
        for model in [head, best] {
            let mut numbers = parts.next().unwrap_or_default();
            for tensor in model.tensors() {
                let (own, rest) = numbers.split_at(tensor.len());
                tensor.copy_from_slice(own);
                numbers = rest;
            }
        }
        let tensors = |mut numbers: &[f32]| -> Vec<Vec<f32>> {
            let mut all = Vec::with_capacity(self.sizes.len());
            for size in &self.sizes {
                let (own, rest) = numbers.split_at(*size);
                all.push(own.to_vec());
                numbers = rest;
            }
            all
        };
        let first = tensors(parts.next().unwrap_or_default());
        let second = tensors(parts.next().unwrap_or_default());
        adam.restore(self.adam_steps, first.into_iter().zip(second).collect());
    }
}

#[derive(Serialize, Deserialize)]
struct Header {
    /// Whose training this is.
    training: u64,
    heads: Vec<Option<HeadState>>,
}

/// The checkpoint of one training while it runs; without a place it keeps nothing.
pub(crate) struct Keep<'a> {
    place: Option<&'a dyn Checkpoints>,
    training: u64,
    state: Mutex<(Vec<Option<HeadState>>, Option<Instant>)>,
}

impl<'a> Keep<'a> {
    /// Goes on from what `place` holds, if that is of this very training.
    pub(crate) fn new(
        place: Option<&'a dyn Checkpoints>,
        spec: &ForecasterSpec,
        data: &TrainingData,
        config: &TrainConfig,
    ) -> Self {
        let training = place.map_or(0, |_| fingerprint(spec, data, config));
        let saved = place
            .and_then(Checkpoints::load)
            .and_then(|bytes| decode(&bytes))
            .filter(|header| header.training == training);
        let mut heads = saved.map_or(Vec::new(), |header| header.heads);
        // Heads that begin at an earlier model stand behind the others.
        heads.resize(2 * config.seeds, None);
        Self {
            place,
            training,
            state: Mutex::new((heads, None)),
        }
    }

    /// What was kept of a head.
    pub(crate) fn of(&self, seed: usize) -> Option<HeadState> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0.get(seed)?.clone()
    }

    pub(crate) fn save(&self, seed: usize, head: impl FnOnce() -> HeadState) {
        let Some(place) = self.place else { return };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (heads, last) = &mut *state;
        if let Some(slot) = heads.get_mut(seed) {
            *slot = Some(head());
        }
        if last.is_none_or(|at| at.elapsed() >= EVERY) {
            place.save(&encode(self.training, heads));
            *last = Some(Instant::now());
        }
    }
}

/// Tells trainings apart: definition, settings but for the number of threads, program and every value.
pub(crate) fn fingerprint(spec: &ForecasterSpec, data: &TrainingData, config: &TrainConfig) -> u64 {
    let mut hasher = DefaultHasher::new();
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    let config = TrainConfig {
        threads: None,
        ..config.clone()
    };
    serde_json::to_string(&(spec, config))
        .unwrap_or_default()
        .hash(&mut hasher);
    for series in &data.series {
        (&series.device, series.weight_from, series.rows.len()).hash(&mut hasher);
        for row in &series.rows {
            row.time.hash(&mut hasher);
            row.values
                .iter()
                .for_each(|v| v.to_bits().hash(&mut hasher));
        }
    }
    hasher.finish()
}

fn encode(training: u64, heads: &[Option<HeadState>]) -> Vec<u8> {
    let header = Header {
        training,
        heads: heads.to_vec(),
    };
    let mut bytes = serde_json::to_vec(&header).unwrap_or_default();
    bytes.push(b'\n');
    let numbers = heads.iter().flatten().flat_map(|h| &h.numbers);
    numbers.for_each(|v| bytes.extend_from_slice(&v.to_le_bytes()));
    bytes
}

fn decode(bytes: &[u8]) -> Option<Header> {
    let end = bytes.iter().position(|b| *b == b'\n')?;
    let mut header: Header = serde_json::from_slice(&bytes[..end]).ok()?;
    let mut numbers = bytes[end + 1..]
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    for head in header.heads.iter_mut().flatten() {
        let count = head
            .sizes
            .iter()
            .try_fold(0_usize, |sum, n| sum.checked_add(*n))
            .filter(|n| *n <= MOST)?
            * 4;
        head.numbers = numbers.by_ref().take(count).collect();
        if head.numbers.len() != count || !head.numbers.iter().all(|v| v.is_finite()) {
            return None;
        }
    }
    numbers.next().is_none().then_some(header)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::ops::ControlFlow;

    use fieldcast_features::Preset;

    use super::*;
    use crate::{Stage, TrainError, Trained, fit, fit_kept, fixture};

    #[derive(Default)]
    struct Memory(Mutex<Option<Vec<u8>>>);

    impl Checkpoints for Memory {
        fn load(&self) -> Option<Vec<u8>> {
            self.0.lock().unwrap().clone()
        }

        fn save(&self, bytes: &[u8]) {
            *self.0.lock().unwrap() = Some(bytes.to_vec());
        }
    }

    fn config() -> TrainConfig {
        TrainConfig {
            max_epochs: 5,
            patience: 5,
            seeds: 2,
            units: 8,
            hidden: 4,
            dropout: 0.2,
            epoch_windows: 256,
            threads: Some(1),
            ..TrainConfig::default()
        }
    }

    /// Trains until `stop` epochs have been told of, and says how many were.
    fn epochs(
        memory: &Memory,
        config: &TrainConfig,
        stop: usize,
    ) -> (Result<Trained, TrainError>, usize) {
        let mut told = 0;
        let trained = fit_kept(
            &fixture::spec(),
            &fixture::data(60, 2),
            config,
            Some(memory),
            &mut |p| {
                told += usize::from(p.stage == Stage::Lstm);
                match told >= stop {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            },
        );
        (trained, told)
    }

    #[test]
    fn an_interrupted_training_ends_as_one_that_was_not() {
        let (spec, data) = (fixture::spec(), fixture::data(60, 2));
        let whole = fit(&spec, &data, &config(), &mut |_| ControlFlow::Continue(())).unwrap();
        let memory = Memory::default();
        let (cut, _) = epochs(&memory, &config(), 3);
        assert!(matches!(cut, Err(TrainError::Cancelled { .. })));
        // Whatever the interval of saving: here the first epoch's is what is left.
        let kept = decode(&memory.load().unwrap()).unwrap();
        let done: usize = kept.heads.iter().flatten().map(|h| h.epoch).sum();
        assert!(done >= 1);
        let (resumed, told) = epochs(&memory, &config(), usize::MAX);
        assert_eq!(resumed.unwrap(), whole);
        assert_eq!(told, 10 - done, "only what was missing is trained");
    }

    #[test]
    fn classic_goes_on_from_its_last_epoch() {
        let spec = ForecasterSpec {
            preset: Preset::Classic,
            lookback: 30,
            horizon: 1,
            ..fixture::spec()
        };
        let config = TrainConfig {
            classic_epochs: 6,
            classic_batch: Some(32),
            ..TrainConfig::default()
        };
        // Classic takes no window with a gap.
        let mut data = fixture::data(40, 2);
        let rows = data.series.iter_mut().flat_map(|s| &mut s.rows);
        for value in rows.flat_map(|r| &mut r.values).filter(|v| v.is_nan()) {
            *value = 1.0;
        }
        let whole = fit(&spec, &data, &config, &mut |_| ControlFlow::Continue(())).unwrap();
        let memory = Memory::default();
        let train = |stop: usize| {
            let mut told = Vec::new();
            let trained = fit_kept(&spec, &data, &config, Some(&memory), &mut |p| {
                told.extend((p.stage == Stage::Lstm).then_some(p.epoch));
                match told.len() >= stop {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            });
            (trained, told)
        };
        assert!(matches!(
            train(3).0,
            Err(TrainError::Cancelled { epoch: 3 })
        ));
        let kept = decode(&memory.load().unwrap()).unwrap();
        let done = kept.heads[0].as_ref().unwrap().epoch;
        let (resumed, told) = train(usize::MAX);
        assert_eq!(told, (done + 1..=6).collect::<Vec<_>>());
        assert_eq!(resumed.unwrap(), whole);
    }

    #[test]
    fn a_checkpoint_of_another_training_or_a_damaged_one_is_none() {
        let memory = Memory::default();
        let _ = epochs(&memory, &config(), 2);
        let bytes = memory.load().unwrap();
        let own = |config: &TrainConfig| {
            let keep = Keep::new(
                Some(&memory),
                &fixture::spec(),
                &fixture::data(60, 2),
                config,
            );
            (0..2).filter_map(|seed| keep.of(seed)).count()
        };
        assert_eq!(
            own(&TrainConfig {
                threads: Some(2),
                ..config()
            }),
            1
        );
        assert_eq!(
            own(&TrainConfig {
                seed: 9,
                ..config()
            }),
            0
        );
        let mut nan = bytes.clone();
        let at = nan.len() - 4;
        nan[at..].copy_from_slice(&f32::NAN.to_le_bytes());
        let damaged = [&bytes[..bytes.len() - 1], &bytes[..40], &[], b"{}\n", &nan];
        for bytes in damaged {
            memory.save(bytes);
            assert_eq!(own(&config()), 0);
        }
        memory.save(&[&bytes[..], &[0; 4]].concat());
        assert_eq!(own(&config()), 0);
    }
}
