//! From data to the chosen, calibrated model: owns the order of steps and the verdict, never the arithmetic of a model.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use fieldcast_drift::reference::ReferenceStats;
use fieldcast_features::{ForecasterSpec, Millis, Preset};
use fieldcast_kernel::Rng;
use fieldcast_onnx::{EnsembleParams, ModelParams, SeasonalNaiveParams, Spread};

use crate::baselines::{Outcome, naive_outcomes, score};
use crate::batch::Batcher;
use crate::calibrate::{calibration, conformal_offsets, outward};
use crate::checkpoint::{Checkpoints, Keep};
use crate::data::Panel;
use crate::decoder::Decoder;
use crate::default::{Chosen, fit_highway, independent};
use crate::ensemble::Ensemble;
use crate::forest::Forest;
use crate::heads::{Beat, Task, fit_heads, fresh};
use crate::importance::permutation;
use crate::network::Ridge;
use crate::predict::{decoder_params, linear_params};
use crate::samples::{Parts, Sample, split};
use crate::scales::Scales;
use crate::trained::{ModelScore, Trained};
use crate::warm::{self, Parent, WarmStart};
use crate::{Progress, Stage, TrainConfig, TrainError, TrainingData, classic};

/// Within a stage progress is told no more often than this, and no less often as far as one step allows.
const EVERY: Duration = Duration::from_millis(100);
/// An LSTM this much worse than the best baseline that a bundle can hold is refused.
const REFUSED_ABOVE: f64 = 1.01;

/// Trains `spec`'s preset on `data` and chooses the best model.
///
/// `progress` hears of every stage and epoch and cancels the run by returning `Break`. Two calls with equal arguments give
/// equal results, bit for bit, on one machine.
///
/// # Errors
/// [`TrainError`]; all but `Cancelled`, `Singular` and `Diverged` before any training.
pub fn fit(
    spec: &ForecasterSpec,
    data: &TrainingData,
    config: &TrainConfig,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Trained, TrainError> {
    fit_kept(spec, data, config, None, progress)
}

/// [`fit_kept`] that also trains heads which begin at `parent`'s, and takes the better on the selection part; `config.parent` names
/// it, so that a checkpoint of another beginning does not count.
///
/// # Errors
/// Those of [`fit`].
pub fn fit_warm(
    spec: &ForecasterSpec,
    data: &TrainingData,
    config: &TrainConfig,
    parent: Option<&Parent>,
    place: Option<&dyn Checkpoints>,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Trained, TrainError> {
    run(spec, data, config, (parent, place), progress)
}

/// [`fit`] that goes on from the checkpoint in `place` where that is of the same definition, data and settings, and keeps what
/// it has learnt there every few seconds: an interrupted training ends as it would have without the interruption, bit for bit.
///
/// # Errors
/// Those of [`fit`].
pub fn fit_kept(
    spec: &ForecasterSpec,
    data: &TrainingData,
    config: &TrainConfig,
    place: Option<&dyn Checkpoints>,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Trained, TrainError> {
    run(spec, data, config, (None, place), progress)
}

fn run(
    spec: &ForecasterSpec,
    data: &TrainingData,
    config: &TrainConfig,
    (parent, place): (Option<&Parent>, Option<&dyn Checkpoints>),
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Trained, TrainError> {
    let (panel, parts) = prepare(spec, data, config)?;
    let scales = Scales::new(&panel, parts.split.select_from);
    let run = Run {
        keep: &Keep::new(place, spec, data, config),
        spec,
        config,
        panel: &panel,
        parts: &parts,
        scales: &scales,
        parent,
        began: Instant::now(),
    };
    run.report(Stage::Baselines, progress)?;
    let mut trained = match spec.preset {
        Preset::Classic => run.classic(progress),
        Preset::Default => run.default(progress),
    }?;
    let reach = panel.horizon as Millis * panel.period;
    let span = (trained.split.select_from, trained.split.until + reach + 1);
    let beat = &mut run.beat(Stage::Calibration, progress);
    trained.importance = permutation(spec, data, &trained.params, span, config.seed, beat)?;
    Ok(trained)
}

/// Everything that can be refused before anything is trained.
pub(crate) fn prepare(
    spec: &ForecasterSpec,
    data: &TrainingData,
    config: &TrainConfig,
) -> Result<(Panel, Parts), TrainError> {
    config.validate()?;
    let panel = Panel::new(spec, data)?;
    let parts = split(&panel, config)?;
    panel.check_moves(&spec.target, parts.split.select_from)?;
    Ok((panel, parts))
}

struct Run<'a> {
    keep: &'a Keep<'a>,
    spec: &'a ForecasterSpec,
    config: &'a TrainConfig,
    panel: &'a Panel,
    parts: &'a Parts,
    scales: &'a Scales,
    parent: Option<&'a Parent>,
    began: Instant,
}

/// A model that could be chosen.
enum Candidate<'a> {
    Naive(usize),
    Ensemble(Box<Ensemble<'a>>),
}

/// A candidate and what speaks for it.
struct Judged<'a> {
    line: ModelScore,
    /// Degrees of freedom that the parts it is judged on have taught it.
    learnt: f64,
    candidate: Candidate<'a>,
}

impl Judged<'_> {
    /// MASE times what Akaike's criterion has each learnt number cost: the likelihood of absolute errors (Laplace) falls with
    /// the power of their mean, once for each of the independent `windows`.
    fn error(&self, windows: f64) -> f64 {
        self.line.mase * (self.learnt / windows).exp()
    }
}

impl Run<'_> {
    fn report(
        &self,
        stage: Stage,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<(), TrainError> {
        let elapsed = self.began.elapsed();
        let report = Progress {
            stage,
            epoch: 0,
            epochs: 0,
            loss: None,
            selection_mase: None,
            elapsed,
            remaining: None,
        };
        if progress(report).is_break() {
            Err(TrainError::Cancelled { epoch: 0 })
        } else {
            Ok(())
        }
    }

    /// To be called often within a stage: reports now and then.
    fn beat(
        &self,
        stage: Stage,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> impl FnMut() -> Result<(), TrainError> {
        let mut told = Instant::now();
        move || {
            if told.elapsed() < EVERY {
                return Ok(());
            }
            told = Instant::now();
            self.report(stage, progress)
        }
    }

    fn default(
        &self,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Trained, TrainError> {
        let batcher = Batcher::new(self.panel, self.scales);
        let (select, calibrate) = (&self.parts.select, &self.parts.calibrate);
        // What stopped a head's training flatters the head: the judgement takes the part behind it as well.
        let judged = [&select[..], &calibrate[..]].concat();
        let mut candidates: Vec<Judged<'_>> = Vec::new();
        for (name, season) in self.seasons() {
            let outcomes = naive_outcomes(&batcher, &judged, season);
            candidates.push(Judged {
                line: score(name, &outcomes, self.scales),
                learnt: 0.0,
                candidate: Candidate::Naive(season),
            });
        }
        let mut beat = self.beat(Stage::Baselines, progress);
        let train = &self.parts.train;
        let linear = fit_highway(&batcher, train, (select, &judged), self.config, &mut beat)?;
        let ridge = Ridge::new(&linear.highway, self.panel.horizon);
        let mut alone = Ensemble::equal(&ridge, &[]);
        alone.fit_width(&batcher, &self.parts.train);
        let outcomes = alone.outcomes(&batcher, &judged);
        candidates.push(Judged {
            line: score("ridge", &outcomes, self.scales),
            learnt: 0.0,
            candidate: Candidate::Ensemble(Box::new(alone)),
        });
        let mut table: Vec<ModelScore> = candidates.iter().map(|c| c.line.clone()).collect();
        let best = table.iter().map(|s| s.mase).fold(f64::INFINITY, f64::min);
        if self.config.forest {
            let forest = Forest::grow(&batcher, train, self.config, &mut beat)?;
            let outcomes = forest.outcomes(&batcher, &judged, &mut beat)?;
            table.push(score("forest", &outcomes, self.scales));
        }
        drop(beat);
        let (heads, warm) = self.heads(&batcher, &ridge, progress)?;
        if !heads.is_empty() {
            let seasons: Vec<usize> = self.seasons().map(|(_, season)| season).collect();
            let weighted =
                |part: &[Sample]| Ensemble::weighted(&ridge, &heads, &seasons, &batcher, part);
            // Weights are judged on the half that they were not learnt from; the bundle's are learnt from both.
            let (early, late) = select.split_at(select.len() / 2);
            let mut crossed = weighted(late).outcomes(&batcher, early);
            crossed.extend(weighted(early).outcomes(&batcher, late));
            let combined = weighted(select);
            crossed.extend(combined.outcomes(&batcher, calibrate));
            let (alike, learnt) = Ensemble::shrunk(&ridge, &heads, &batcher, &judged);
            let outcomes = alike.outcomes(&batcher, &judged);
            let ensembles = [
                ("lstm", alike, learnt, outcomes),
                ("ensemble", combined, 0.0, crossed),
            ];
            for (name, mut ensemble, learnt, outcomes) in ensembles {
                ensemble.fit_width(&batcher, &self.parts.train);
                let mut line = score(name, &outcomes, self.scales);
                line.refused = line.mase > REFUSED_ABOVE * best;
                table.push(line.clone());
                candidates.push(Judged {
                    line,
                    learnt,
                    candidate: Candidate::Ensemble(Box::new(ensemble)),
                });
            }
        }
        self.report(Stage::Calibration, progress)?;
        let windows = independent(&batcher, &judged);
        let mut models = Vec::with_capacity(candidates.len());
        let mut best: Option<(f64, String, Vec<Outcome>)> = None;
        for judged in &candidates {
            let (params, outcomes) = self.calibrated(&batcher, &judged.candidate);
            let (name, error) = (&judged.line.model, judged.error(windows));
            models.push((name.clone(), params));
            let better = best.as_ref().is_none_or(|(least, ..)| error < *least);
            if !judged.line.refused && better {
                best = Some((error, name.clone(), outcomes));
            }
        }
        let Some((_, chosen, outcomes)) = best else {
            return Err(TrainError::Diverged { epoch: 0 });
        };
        let mut trained = self.trained(models, chosen, table, &outcomes, Some(linear.penalty))?;
        trained.warm = warm;
        if trained.chosen == "ridge" && self.config.refit {
            let beat = &mut self.beat(Stage::Calibration, progress);
            trained.params = self.refitted(&batcher, &linear, &outcomes, beat)?;
            trained.refitted = true;
        }
        Ok(trained)
    }

    /// The chosen ridge, fitted once more to all parts: of a world that has just begun, choosing and calibrating take most of
    /// the days. Its intervals are those of the ridge that has not seen the calibration part, which are wider, if anything.
    fn refitted(
        &self,
        batcher: &Batcher<'_>,
        linear: &Chosen,
        outcomes: &[Outcome],
        beat: &mut Beat<'_>,
    ) -> Result<ModelParams, TrainError> {
        let Parts {
            train,
            select,
            calibrate,
            ..
        } = self.parts;
        let mut all = [&train[..], select, calibrate].concat();
        // More days of the new world count as much together as those that were learnt from did.
        let recent = |part: &[Sample]| part.iter().filter(|s| s.weight > 1.0).count() as f32;
        let share = (recent(train) / recent(&all).max(1.0)).max(f32::MIN_POSITIVE);
        for sample in all.iter_mut().filter(|s| s.weight > 1.0) {
            sample.weight = (sample.weight * share).max(1.0);
        }
        let highway = linear.refit(batcher, &all, beat)?;
        let before = Ridge::new(&linear.highway, self.panel.horizon);
        let mut width = Ensemble::equal(&before, &[]);
        width.fit_width(batcher, train);
        let ridge = Ridge::new(&highway, self.panel.horizon);
        let ensemble = Ensemble {
            ridge: &ridge,
            ..width
        };
        let levels = &self.spec.quantiles;
        let offsets = conformal_offsets(outcomes, self.panel.horizon, levels);
        Ok(self.ensemble_params(batcher, &ensemble, &outward(&offsets, levels)))
    }

    /// The candidate with intervals from the calibration part, and its outcomes there.
    fn calibrated(
        &self,
        batcher: &Batcher<'_>,
        candidate: &Candidate<'_>,
    ) -> (ModelParams, Vec<Outcome>) {
        let (part, levels) = (&self.parts.calibrate, &self.spec.quantiles);
        let outcomes = match candidate {
            Candidate::Naive(season) => naive_outcomes(batcher, part, *season),
            Candidate::Ensemble(ensemble) => ensemble.outcomes(batcher, part),
        };
        let offsets = conformal_offsets(&outcomes, self.panel.horizon, levels);
        let params = match candidate {
            Candidate::Naive(season) => self.naive_params(*season, offsets),
            Candidate::Ensemble(ensemble) => {
                self.ensemble_params(batcher, ensemble, &outward(&offsets, levels))
            }
        };
        (params, outcomes)
    }

    fn heads(
        &self,
        batcher: &Batcher<'_>,
        ridge: &Ridge,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<(Vec<Decoder>, Option<WarmStart>), TrainError> {
        if self.config.max_epochs == 0 {
            let none = |_| WarmStart::refused("no head is trained");
            return Ok((Vec::new(), self.parent.map(none)));
        }
        let seeds = self.config.seeds;
        let begun = self.parent.map(|parent| {
            let like = fresh(batcher, self.config, &mut Rng::new(0));
            let like = (&like, self.panel.inputs, self.panel.future_width);
            warm::heads(parent, like, self.parts.split.select_from, seeds)
        });
        let (earlier, refused) = match begun {
            None => (Vec::new(), None),
            Some(Ok(heads)) => (heads, None),
            Some(Err(why)) => (Vec::new(), Some(WarmStart::refused(why))),
        };
        let task = Task {
            batcher,
            ridge,
            train: &self.parts.train,
            select: &self.parts.select,
            config: self.config,
            warm: &earlier,
        };
        let mut scratch = fit_heads(task, self.keep, self.began, progress)?;
        let warm = scratch.split_off(seeds.min(scratch.len()));
        if warm.is_empty() {
            return Ok((scratch, refused));
        }
        let error = |heads: &[Decoder]| {
            let (alike, _) = Ensemble::shrunk(ridge, heads, batcher, &self.parts.select);
            score(
                "lstm",
                &alike.outcomes(batcher, &self.parts.select),
                self.scales,
            )
            .mase
        };
        let note = WarmStart::judged(error(&scratch), error(&warm));
        let heads = if note.taken { warm } else { scratch };
        Ok((heads, Some(note)))
    }

    fn classic(
        &self,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Trained, TrainError> {
        let batcher = Batcher::new(self.panel, self.scales);
        let (select, calibrate) = (&self.parts.select, &self.parts.calibrate);
        let levels = &self.spec.quantiles;
        let (mut table, mut models) = (Vec::new(), Vec::new());
        for (name, season) in self.seasons() {
            table.push(score(
                name,
                &naive_outcomes(&batcher, select, season),
                self.scales,
            ));
            let outcomes = naive_outcomes(&batcher, calibrate, season);
            let offsets = conformal_offsets(&outcomes, self.panel.horizon, levels);
            models.push((name.to_owned(), self.naive_params(season, offsets)));
        }
        let train = &self.parts.train;
        let mut params = classic::fit(
            self.panel,
            train,
            (self.config, self.keep),
            levels,
            self.began,
            progress,
        )?;
        table.push(score(
            "classic",
            &classic::outcomes(self.panel, select, &params),
            self.scales,
        ));
        self.report(Stage::Calibration, progress)?;
        let outcomes = classic::outcomes(self.panel, calibrate, &params);
        params.quantile_offset = conformal_offsets(&outcomes, 1, levels);
        models.push(("classic".to_owned(), ModelParams::Classic(params)));
        self.trained(models, "classic".into(), table, &outcomes, None)
    }

    /// The naive baselines the window is long enough for: name and distance.
    fn seasons(&self) -> impl Iterator<Item = (&'static str, usize)> {
        const DAY_MS: Millis = 86_400_000;
        let season = self.panel.season;
        // Where the season is a day, the same hour a week before is the other natural guess.
        let daily = season as Millis * self.panel.period == DAY_MS;
        let weekly = if daily {
            season.saturating_mul(7)
        } else {
            usize::MAX
        };
        let lookback = self.panel.lookback;
        let all = [
            ("last_value", 1),
            ("seasonal_naive", season),
            ("weekly_naive", weekly),
        ];
        all.into_iter()
            .filter(move |(name, s)| *s <= lookback && (*s > 1 || *name == "last_value"))
    }

    fn naive_params(&self, season: usize, quantile_offset: Vec<f64>) -> ModelParams {
        ModelParams::SeasonalNaive(SeasonalNaiveParams {
            lookback: self.panel.lookback,
            inputs: self.panel.inputs,
            horizon: self.panel.horizon,
            future_width: self.panel.future_width,
            target_input: self.panel.target,
            season,
            quantiles: self.spec.quantiles.clone(),
            quantile_offset,
        })
    }

    fn ensemble_params(
        &self,
        batcher: &Batcher<'_>,
        ensemble: &Ensemble<'_>,
        offsets: &[f64],
    ) -> ModelParams {
        let decoder = |d: &Decoder| decoder_params(d, self.panel.inputs, self.panel.future_width);
        ModelParams::Ensemble(EnsembleParams {
            lookback: self.panel.lookback,
            inputs: self.panel.inputs,
            horizon: self.panel.horizon,
            future_width: self.panel.future_width,
            target_input: self.panel.target,
            train_dev: self.scales.train_dev.clone(),
            highway: linear_params(&ensemble.ridge.highway),
            future_weight: ensemble.ridge.future.clone(),
            lags: if ensemble.decoders.is_empty() {
                Vec::new()
            } else {
                batcher.lags.clone()
            },
            decoders: ensemble.decoders.iter().map(decoder).collect(),
            seasons: ensemble.seasons.clone(),
            mean_share: ensemble.shares(&ensemble.mean_weight),
            median_share: ensemble.shares(&ensemble.median_weight),
            spread: Spread {
                weight: ensemble.width_weight.clone(),
                bias: ensemble.width_bias.clone(),
                power: ensemble.width_power,
                usual: ensemble.usual,
            },
            quantiles: self.spec.quantiles.clone(),
            quantile_offset: offsets.iter().map(|o| *o as f32).collect(),
        })
    }

    fn trained(
        &self,
        models: Vec<(String, ModelParams)>,
        chosen: String,
        table: Vec<ModelScore>,
        outcomes: &[Outcome],
        penalty: Option<f64>,
    ) -> Result<Trained, TrainError> {
        let of_chosen = models.iter().find(|(name, _)| *name == chosen);
        let Some((_, params)) = of_chosen else {
            return Err(TrainError::Diverged { epoch: 0 });
        };
        Ok(Trained {
            params: params.clone(),
            chosen,
            table,
            models,
            calibration: calibration(
                outcomes,
                self.panel.horizon,
                &self.spec.quantiles,
                self.panel.period,
                &self.panel.devices,
            ),
            reference: ReferenceStats::from_rows(
                &self.spec.channels(),
                self.panel
                    .tracks
                    .iter()
                    .flat_map(|t| t.values.chunks_exact(self.panel.channels)),
            ),
            split: self.parts.split.clone(),
            train_dev_target: self.scales.target_dev,
            penalty,
            importance: Vec::new(),
            warm: None,
            refitted: false,
        })
    }
}
