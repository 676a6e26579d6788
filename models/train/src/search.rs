//! A small search for settings of the training: owns which are tried, for how long and which go on, never where trials are kept.
//!
//! Successive halving (Jamieson and Talwalkar, 2016) over settings drawn at random (Bergstra and Bengio, 2012): all are trained
//! for a few epochs, a third of them for three times as many, and so on. The given settings are the first trial and always go
//! on, so that what the search gained over them is measured. Every trial cuts the data at the same times, and is judged by the
//! error that the training itself would choose by.

use std::ops::ControlFlow;
use std::time::Instant;

use fieldcast_features::{ForecasterSpec, Preset};
use fieldcast_kernel::Rng;
use serde::{Deserialize, Serialize};

use crate::checkpoint::fingerprint;
use crate::{Progress, Split, TrainConfig, TrainError, TrainingData, fit};

/// Of so many trials one goes on, with so many times the epochs.
const FACTOR: usize = 3;
/// More settings than anybody waits for.
const MOST_TRIALS: usize = 1_000;
/// Longer windows than this many values are not tried.
const MOST_VALUES: usize = 8_192;

/// What a trial sets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Steps of the window.
    pub lookback: usize,
    /// Width of a head's state.
    pub hidden: usize,
    /// Heads that are averaged.
    pub seeds: usize,
    /// AdamW's step.
    pub learning_rate: f32,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f32,
    /// Share of a head's units left out at each step of the training.
    pub dropout: f32,
}

impl Settings {
    /// Those of a definition and a configuration.
    #[must_use]
    pub fn of(spec: &ForecasterSpec, config: &TrainConfig) -> Self {
        Self {
            lookback: spec.lookback,
            hidden: config.hidden,
            seeds: config.seeds,
            learning_rate: config.learning_rate,
            weight_decay: config.weight_decay,
            dropout: config.dropout,
        }
    }

    /// The definition and the configuration with these settings in place of their own.
    #[must_use]
    pub fn applied(
        &self,
        spec: &ForecasterSpec,
        config: &TrainConfig,
    ) -> (ForecasterSpec, TrainConfig) {
        let spec = ForecasterSpec {
            lookback: self.lookback,
            ..spec.clone()
        };
        let config = TrainConfig {
            hidden: self.hidden,
            seeds: self.seeds,
            learning_rate: self.learning_rate,
            weight_decay: self.weight_decay,
            dropout: self.dropout,
            ..config.clone()
        };
        (spec, config)
    }
}

/// One training of a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Of which definition, data and given settings, as a number: trials of others are not comparable.
    pub search: u64,
    /// Which settings, from 0; those that go on keep their number.
    pub number: usize,
    /// The settings.
    pub settings: Settings,
    /// Most epochs it was given.
    pub epochs: usize,
    /// The best model's MASE on the selection and the calibration part; none where it failed.
    pub mase: Option<f64>,
    /// The model that was best.
    pub chosen: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// How long it took.
    pub seconds: f64,
}

/// Limits of a search.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchConfig {
    /// Settings that are tried, the given ones among them.
    pub trials: usize,
    /// No trial begins, and none goes on, after this long.
    pub seconds: f64,
    /// Start of the random numbers that draw settings.
    pub seed: u64,
    /// The given settings, and all that the search leaves alone; its `max_epochs` are those of the last round.
    pub base: TrainConfig,
}

/// The outcome of a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// The best settings among those trained longest.
    pub settings: Settings,
    /// Their MASE.
    pub mase: f64,
    /// That of the given settings after as many epochs.
    pub given: f64,
    /// Every training, in the order they ended.
    pub trials: Vec<Trial>,
    /// Whether the time ran out before the last round was over.
    pub cut_short: bool,
}

/// Searches. Those of `earlier` that are of the same search need not be done again; `each` hears of every new one, `progress` of
/// every epoch within one.
///
/// # Errors
/// Where the given settings cannot be trained, or not even they could be within the time; [`TrainError::Cancelled`] where
/// `progress` breaks.
pub fn search(
    spec: &ForecasterSpec,
    data: &TrainingData,
    config: &SearchConfig,
    earlier: &[Trial],
    each: &mut dyn FnMut(&Trial),
    progress: &mut dyn FnMut(&Settings, Progress) -> ControlFlow<()>,
) -> Result<Found, TrainError> {
    if !(1..=MOST_TRIALS).contains(&config.trials) || config.base.max_epochs == 0 {
        return Err(TrainError::Config {
            setting: "trials, max_epochs",
            problem: "must be at least 1, and trials at most 1000",
        });
    }
    if spec.preset == Preset::Classic {
        return Err(TrainError::Config {
            setting: "preset",
            problem: "`classic` is one fixed model, which none of what is searched for changes; search with `default`",
        });
    }
    if config.seconds.is_nan() || config.seconds <= 0.0 {
        return Err(TrainError::Config {
            setting: "minutes",
            problem: "must be above 0",
        });
    }
    let mut search = Search {
        spec,
        data,
        config,
        fingerprint: fingerprint(spec, data, &config.base),
        earlier,
        began: Instant::now(),
        split: None,
        trials: Vec::new(),
        each,
        progress,
    };
    let mut going: Vec<(usize, Settings)> = draw(spec, config).into_iter().enumerate().collect();
    let mut cut_short = false;
    let mut last: Vec<Trial> = Vec::new();
    for epochs in rounds(going.len(), config.base.max_epochs) {
        let mut round = Vec::new();
        for (number, settings) in &going {
            match search.trial(*number, settings, epochs)? {
                Some(trial) => round.push(trial),
                None => cut_short = true,
            }
        }
        let given = round.iter().find(|t| t.number == 0);
        if let Some(error) = given.and_then(|t| t.error.clone()) {
            return Err(TrainError::Search { error });
        }
        // A round that lost the given settings to the clock compares nothing.
        if given.is_some() {
            last.clone_from(&round);
        }
        if cut_short {
            break;
        }
        round.sort_by(|a, b| error(a).total_cmp(&error(b)));
        let on = round.len().div_ceil(FACTOR).max(1);
        let best = round.into_iter().filter(|t| t.number != 0).take(on);
        let kept = best.map(|t| (t.number, t.settings));
        going = std::iter::once(going.swap_remove(0)).chain(kept).collect();
    }
    let best = last.iter().min_by(|a, b| error(a).total_cmp(&error(b)));
    let given = last.iter().find(|t| t.number == 0);
    match (best, given) {
        (Some(best), Some(given)) => Ok(Found {
            settings: best.settings.clone(),
            mase: error(best),
            given: error(given),
            trials: search.trials,
            cut_short,
        }),
        _ => Err(TrainError::Search {
            error: "the time ran out before the given settings were trained".into(),
        }),
    }
}

fn error(trial: &Trial) -> f64 {
    trial.mase.unwrap_or(f64::INFINITY)
}

struct Search<'a> {
    spec: &'a ForecasterSpec,
    data: &'a TrainingData,
    config: &'a SearchConfig,
    fingerprint: u64,
    earlier: &'a [Trial],
    began: Instant,
    /// Where the first trial was cut.
    split: Option<Split>,
    trials: Vec<Trial>,
    each: &'a mut dyn FnMut(&Trial),
    progress: &'a mut dyn FnMut(&Settings, Progress) -> ControlFlow<()>,
}

impl Search<'_> {
    /// One training; none where the time is up.
    fn trial(
        &mut self,
        number: usize,
        settings: &Settings,
        epochs: usize,
    ) -> Result<Option<Trial>, TrainError> {
        let own = self.fingerprint;
        let same = |t: &&Trial| t.search == own && t.settings == *settings && t.epochs == epochs;
        // The first trial tells where the others are cut, so it is done again.
        if let (Some(known), true) = (self.earlier.iter().find(same), self.split.is_some()) {
            let known = Trial {
                number,
                ..known.clone()
            };
            self.trials.push(known.clone());
            return Ok(Some(known));
        }
        let began = Instant::now();
        let late = |from: Instant| from.elapsed().as_secs_f64() >= self.config.seconds;
        if late(self.began) {
            return Ok(None);
        }
        let (spec, mut config) = settings.applied(self.spec, &self.config.base);
        config.max_epochs = epochs;
        if let Some(split) = &self.split {
            config.select_from = Some(split.select_from);
            config.calibrate_from = Some(split.calibrate_from);
        }
        let (mut stopped, mut cancelled) = (false, false);
        let outcome = fit(&spec, self.data, &config, &mut |p| {
            stopped = late(self.began);
            cancelled = (self.progress)(settings, p).is_break();
            match stopped || cancelled {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        let (mase, chosen, error) = match outcome {
            Ok(trained) => {
                self.split.get_or_insert(trained.split);
                let line = trained.table.iter().find(|l| l.model == trained.chosen);
                (line.map(|l| l.mase), Some(trained.chosen), None)
            }
            Err(TrainError::Cancelled { .. }) if stopped && !cancelled => return Ok(None),
            Err(e @ TrainError::Cancelled { .. }) => return Err(e),
            Err(e) => (None, None, Some(e.to_string())),
        };
        let trial = Trial {
            search: self.fingerprint,
            number,
            settings: settings.clone(),
            epochs,
            mase,
            chosen,
            error,
            seconds: began.elapsed().as_secs_f64(),
        };
        (self.each)(&trial);
        self.trials.push(trial.clone());
        Ok(Some(trial))
    }
}

/// Epochs of each round: the last has all, each before it a third of the next.
fn rounds(trials: usize, epochs: usize) -> Vec<usize> {
    let mut rounds = vec![epochs];
    let (mut left, mut each) = (trials, epochs);
    while left > FACTOR && each >= 2 * FACTOR {
        (left, each) = (left.div_ceil(FACTOR), each.div_ceil(FACTOR));
        rounds.insert(0, each);
    }
    rounds
}

/// The given settings, then random ones, none twice.
fn draw(spec: &ForecasterSpec, config: &SearchConfig) -> Vec<Settings> {
    let mut rng = Rng::new(config.seed);
    let given = Settings::of(spec, &config.base);
    let lookbacks = lookbacks(spec);
    let mut all = vec![given];
    // Where few settings exist, so many draws find nearly all of them.
    for _ in 0..20 * config.trials {
        if all.len() >= config.trials {
            break;
        }
        let mut of = |list: &[f32]| list.get(rng.below(list.len())).copied().unwrap_or_default();
        let settings = Settings {
            learning_rate: of(&[3e-4, 5e-4, 1e-3, 2e-3, 3e-3]),
            weight_decay: of(&[0.05, 0.2, 0.5]),
            dropout: of(&[0.0, 0.1, 0.2, 0.3]),
            hidden: [8, 16, 32, 48][rng.below(4)],
            seeds: [1, 3, 5][rng.below(3)],
            lookback: lookbacks[rng.below(lookbacks.len())],
        };
        if !all.contains(&settings) {
            all.push(settings);
        }
    }
    all
}

/// The given one, and whole numbers of seasons around it.
fn lookbacks(spec: &ForecasterSpec) -> Vec<usize> {
    let season = spec.season_steps().max(1);
    let most = MOST_VALUES / spec.inputs.len().max(1);
    let near = [spec.lookback / 4, spec.lookback / 2, 2 * spec.lookback];
    let whole = near.map(|l| (l.max(1)).div_ceil(season) * season);
    let mut all = vec![spec.lookback];
    all.extend(whole.into_iter().filter(|l| *l <= most));
    all.dedup();
    all
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::fixture;

    fn config(trials: usize, seconds: f64) -> SearchConfig {
        SearchConfig {
            trials,
            seconds,
            seed: 5,
            base: TrainConfig {
                max_epochs: 6,
                epoch_windows: 256,
                units: 8,
                threads: Some(1),
                ..TrainConfig::default()
            },
        }
    }

    fn run(config: &SearchConfig, earlier: &[Trial]) -> (Result<Found, TrainError>, usize) {
        let mut new = 0;
        let found = search(
            &fixture::spec(),
            &fixture::data(60, 2),
            config,
            earlier,
            &mut |_| new += 1,
            &mut |_, _| ControlFlow::Continue(()),
        );
        (found, new)
    }

    #[test]
    fn losers_stop_early_and_the_given_settings_go_the_whole_way() {
        let (found, new) = run(&config(5, 1e9), &[]);
        let found = found.unwrap();
        assert_eq!(new, found.trials.len(), "every trial is told of and kept");
        let with = |epochs: usize| -> Vec<usize> {
            let of = found.trials.iter().filter(|t| t.epochs == epochs);
            of.map(|t| t.number).collect()
        };
        assert_eq!(with(2), [0, 1, 2, 3, 4]);
        assert!(
            with(6).contains(&0) && (2..=3).contains(&with(6).len()),
            "{:?}",
            with(6)
        );
        assert!(found.mase <= found.given && !found.cut_short);
        let best = found.trials.iter().filter(|t| t.epochs == 6);
        assert!(
            best.min_by(|a, b| error(a).total_cmp(&error(b)))
                .unwrap()
                .settings
                == found.settings
        );
    }

    #[test]
    fn kept_trials_are_not_done_again_and_change_nothing() {
        let (whole, _) = run(&config(4, 1e9), &[]);
        let whole = whole.unwrap();
        let (again, new) = run(&config(4, 1e9), &whole.trials);
        let again = again.unwrap();
        assert_eq!((again.settings, again.mase), (whole.settings, whole.mase));
        assert_eq!(new, 1, "but for the first, which tells where all are cut");
        let mut foreign = whole.trials.clone();
        foreign.iter_mut().for_each(|t| t.search ^= 1);
        let (_, new) = run(&config(4, 1e9), &foreign);
        assert_eq!(
            new,
            whole.trials.len(),
            "trials of other data are done again"
        );
    }

    #[test]
    fn time_that_runs_out_before_anything_was_trained_is_an_error() {
        assert!(matches!(
            run(&config(4, 1e-9), &[]).0,
            Err(TrainError::Search { .. })
        ));
        for limits in [config(4, 0.0), config(4, f64::NAN), config(0, 1.0)] {
            let (refused, new) = run(&limits, &[]);
            assert!(matches!(refused, Err(TrainError::Config { .. })) && new == 0);
        }
    }

    #[test]
    fn a_model_without_settings_is_not_searched() {
        let spec = ForecasterSpec {
            preset: Preset::Classic,
            horizon: 1,
            ..fixture::spec()
        };
        let refused = search(
            &spec,
            &fixture::data(60, 2),
            &config(4, 1e9),
            &[],
            &mut |_| unreachable!("a trial"),
            &mut |_, _| ControlFlow::Continue(()),
        );
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .contains("`classic` is one fixed model")
        );
    }

    #[test]
    fn rounds_grow_by_the_factor_that_trials_shrink_by() {
        assert_eq!(rounds(12, 20), [3, 7, 20]);
        assert_eq!(rounds(3, 20), [20]);
        assert_eq!(rounds(100, 3), [3]);
    }

    #[test]
    fn settings_are_drawn_once_and_windows_are_whole_seasons() {
        let drawn = draw(&fixture::spec(), &config(30, 1.0));
        assert_eq!(drawn.len(), 30);
        for (i, settings) in drawn.iter().enumerate() {
            assert!(!drawn[..i].contains(settings));
            assert!(settings.lookback % 12 == 0, "{settings:?}");
        }
    }
}
