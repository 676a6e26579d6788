//! Training jobs: owns the way from a snapshot to a registered, judged model version, never the arithmetic of a model.

pub mod admit;
mod again;
pub mod cancel;
mod checkpoint;
mod compare;
pub mod days;
mod known;
pub mod make;
pub mod old;
pub mod plan;
pub mod snapshot;
mod warm;

use std::ops::ControlFlow;
use std::sync::Arc;

use fieldcast_bundle::Learnt;
use fieldcast_drift::estimate::WidthErrors;
use fieldcast_features::{ForecasterSpec, Millis};
use fieldcast_store::Store;
use fieldcast_store::decisions::NewDecision;
use fieldcast_store::jobs::JobRow;
use fieldcast_store::model_versions::{Concluded, Conclusion, NewModelVersion};
use fieldcast_store::rollouts::BY_TRAINING;
use fieldcast_store::training_runs::NewTrainingRun;
use fieldcast_train::backtest;
use fieldcast_train::evaluate::{self, Cases};
use fieldcast_train::warm::Parent;
use fieldcast_train::{DailyErrors, Series, Stage, TrainConfig, Trained, TrainingData, fit_warm};
use fieldcast_wire::Sha256;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::jobs::{JobError, JobHandle};
use crate::rollout::policy::Kind;
use crate::signing::{Signer, hex};
use crate::{features, registry, rollout, triggers};
use again::Earlier;
use compare::Judged;
use warm::Start;

/// A champion that has seen less of its world than this is a first answer to a change: four weeks.
const YOUNG_MS: Millis = 28 * 86_400_000;

/// Kind of the jobs that [`run`] does.
pub const KIND: &str = "train";

/// What a training job is asked to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// `drift`, `error`, `rival`, `given_up`, `volume`, `schedule` or `person`.
    pub trigger: String,
    /// Why, in words.
    pub reason: String,
    /// Since when the world is different, data time.
    #[serde(default)]
    pub onset: Option<Millis>,
    /// Seed of the random numbers.
    #[serde(default = "one")]
    pub seed: u64,
    /// Settings of the training; none: those of the forecaster's policy.
    #[serde(default)]
    pub config: Option<TrainConfig>,
    /// Training run whose snapshot is taken again, with its cut where it made a model.
    #[serde(default)]
    pub again: Option<i64>,
}

impl Request {
    /// Since when the world is another one, where that is what asks: then a version of before may be the answer.
    fn another_world(&self) -> Option<Millis> {
        let found = matches!(
            self.trigger.as_str(),
            "drift" | "error" | "rival" | "given_up"
        );
        self.onset.filter(|_| found)
    }

    /// What its model is beside the champion, by that one's manifest and lineage. An onset that is only handed on, of the world that the
    /// champion was made for, says nothing against the champion, unless that one has seen little of it.
    fn kind(&self, champion: Option<(&Value, &Value)>, spec: &ForecasterSpec) -> Kind {
        let young = champion.is_some_and(|(_, lineage)| is_young(lineage));
        let failing = self.another_world().is_some() || young;
        rollout::rows::kind_of(champion.map(|(manifest, _)| manifest), spec, failing)
    }
}

/// Whether a champion is a first answer to a change: made of a few days of its world, it needs no failure to be followed by one of more.
fn is_young(lineage: &Value) -> bool {
    let time = |key: &str| lineage[key].as_i64();
    // An onset behind all that it learnt from, which older hubs took from people, says nothing of its age.
    matches!((time("onset"), time("data_until")),
        (Some(onset), Some(until)) if (0..YOUNG_MS).contains(&until.saturating_sub(onset)))
}

fn one() -> u64 {
    1
}

/// Trains, seals, judges and registers one model version, and starts its rollout where it is better or the first.
///
/// # Errors
/// What stands in the way, and whether trying again may help.
pub async fn run(
    store: &Store,
    signer: &Arc<Signer>,
    job: &JobRow,
    handle: &JobHandle,
) -> Result<Value, JobError> {
    let request: Request = serde_json::from_value(job.payload.clone()).map_err(|e| {
        JobError::fatal(format!("the job's payload is not a training request: {e}"))
    })?;
    let name = &job.subject;
    let forecaster = store.forecaster(name).await?.ok_or_else(|| {
        JobError::fatal(format!("forecaster `{name}` is not defined; define it with `fieldcast-hub forecaster apply FILE`"))
    })?;
    let policy =
        rollout::rows::policy_of(&forecaster).map_err(|e| JobError::fatal(format!("{e:#}")))?;
    let limits = triggers::policy_of(&forecaster).map_err(|e| JobError::fatal(format!("{e:#}")))?;
    let again = match request.again {
        Some(id) => Some(Earlier::read(store, &forecaster, id).await?),
        None => None,
    };
    let forecaster = match &again {
        Some(earlier) => earlier.forecaster.clone(),
        None => forecaster,
    };
    let spec = forecaster.spec;
    handle.progress(
        0.01,
        "making what is missing of the feature rows, and reading them",
    );
    // All readings received until a mark are in the snapshot.
    let interrupted = store
        .interrupted_training(job.id, forecaster.version, crate::CODE_VERSION)
        .await?;
    let (snapshot_at, earlier) = match interrupted {
        Some(left) => {
            handle.line("goes on from the checkpoint of an earlier attempt");
            (left.snapshot_at, Some(left.checkpoint))
        }
        None => match &again {
            Some(earlier) => (earlier.known, None),
            None => (features::advance(store, &spec).await?, None),
        },
    };
    let data = snapshot::take(store, &spec, fieldcast_wire::caps::MIN_TIME_MS, snapshot_at).await?;
    let count: usize = data.iter().map(|d| d.rows.len()).sum();
    let times = data
        .iter()
        .flat_map(|d| d.rows.first().into_iter().chain(d.rows.last()))
        .map(|r| r.time);
    let (Some(first), Some(last)) = (times.clone().min(), times.max()) else {
        return Err(JobError::fatal(format!(
            "no readings of {:?} from any selected device; import history (`fieldcast-hub import`) or check the selector",
            spec.channels()
        )));
    };
    let digest = snapshot::digest(&data);
    handle.line(format!(
        "snapshot {} of {snapshot_at}: {count} rows of {} devices",
        &hex(&digest)[..12],
        data.len()
    ));
    let spoilt: usize = data.iter().map(|d| d.spoilt).sum();
    if spoilt > 0 {
        handle.line(format!(
            "in {spoilt} of the rows what sensors' faults had spoilt before they were found is left out"
        ));
    }
    if let Some(earlier) = &again {
        earlier.check(&hex(&digest))?;
    }
    let run = NewTrainingRun {
        forecaster: name,
        spec_version: forecaster.version,
        trigger: &request.trigger,
        reason: &request.reason,
        snapshot_at,
        snapshot_sha: &digest,
        snapshot_rows: i64::try_from(count).unwrap_or(i64::MAX),
        seed: i64::try_from(request.seed).unwrap_or(i64::MAX),
        code_version: crate::CODE_VERSION,
    };
    if !store.begin_training_run(&job.claim(), &run).await? {
        return Err(JobError::claim_lost());
    }
    if let Err(refusal) = admit::snapshot(&spec, &data, &limits) {
        let reason = refusal.to_string();
        let refused = NewDecision {
            forecaster: name,
            decision: "refused",
            reason: &reason,
            job: Some(job.id),
            data_time: chrono::DateTime::from_timestamp_millis(last),
            decided_by: "snapshot",
            ..NewDecision::default()
        };
        if !store.record_once(&job.claim(), &refused).await? {
            return Err(JobError::claim_lost());
        }
        return Err(JobError::fatal(reason));
    }

    let champion = store.champion(name).await?;
    let seen = champion
        .as_ref()
        .map(|c| c.lineage["data_until"].as_i64().unwrap_or(last));
    let horizon_ms = spec.period_ms() * Millis::try_from(spec.horizon).unwrap_or(1);
    let base = TrainConfig {
        seed: request.seed,
        ..request
            .config
            .clone()
            .or_else(|| limits.training.clone())
            .unwrap_or_default()
    };
    let usual = || {
        let grid = (spec.period_ms(), horizon_ms);
        plan::cut((first, last), request.onset, seen, grid, base)
    };
    let mut cut = again.as_ref().and_then(Earlier::cut).unwrap_or_else(usual);
    cut.config.seed = request.seed;
    let all: Vec<Series> = data
        .into_iter()
        .map(|d| Series {
            device: d.device,
            rows: d.rows,
            weight_from: request.onset,
        })
        .collect();
    let all = Arc::new(TrainingData { series: all });
    let warnings = {
        let (spec, all) = (spec.clone(), Arc::clone(&all));
        computed(move || Ok(backtest::warnings(&spec, &all))).await?
    };
    for warning in warnings {
        handle.line(format!("warning: {warning}"));
    }
    let (known, gate) = match (&again, &champion, request.another_world()) {
        (Some(earlier), ..) => {
            let days = (request.onset.unwrap_or(first), last);
            let known = known::again(store, signer, earlier, &cut, days).await?;
            (known, limits.gate())
        }
        (None, Some(champion), Some(onset)) => {
            let question = known::Question {
                spec: &spec,
                champion,
                data: &all,
                onset,
                last,
                gate: limits.gate(),
            };
            known::find(store, signer, &question, handle).await?
        }
        _ => (None, limits.gate()),
    };
    let start = match (&again, &champion, &limits.begin_with) {
        (Some(earlier), ..) => Start::Earlier(earlier),
        (None, Some(own), _) if limits.warm_start && known.is_none() => Start::Own(own),
        (None, None, Some(other)) => Start::Other(other),
        _ => Start::Nothing,
    };
    let (begun, hindered) = warm::beginning(store, signer, start, &spec).await?;
    if let (None, None, Some(begun)) = (&again, &champion, &begun) {
        let grid = (spec.period_ms(), horizon_ms);
        plan::select_after(&mut cut.config, begun.parent.until, (first, last), grid);
    }
    let (taken, mut trained) = match known {
        Some(known) => {
            cut = known.cut;
            (Some(known.version), known.trained)
        }
        None => {
            cut.config.parent = begun.as_ref().map(|b| b.onnx.clone());
            let kept = checkpoint::Kept::new(store, job, earlier);
            let parent = begun.as_ref().map(|b| b.parent.clone());
            let mut trained = fit(&spec, &all, (&cut, parent), kept, handle).await?;
            trained.warm = trained.warm.or(hindered);
            (None, trained)
        }
    };
    if let Some(note) = &trained.warm {
        handle.line(format!("warm start: {}", note.reason));
    }
    let unlearnt = match (cut.holdout_from, trained.refitted) {
        (Some(holdout), true) => holdout,
        _ => trained.split.calibrate_from,
    };
    if cut.holdout_from.is_some() {
        let (spec, all, fitted) = (spec.clone(), Arc::clone(&all), trained.clone());
        let handle = handle.clone();
        trained.calibration.daily =
            computed(move || daily_errors(&spec, &all, &fitted, (unlearnt, last), &handle)).await?;
    }
    trained.calibration.widths = {
        let (spec, all, fitted) = (spec.clone(), Arc::clone(&all), trained.clone());
        let handle = handle.clone();
        computed(move || width_errors(&spec, &all, &fitted, (unlearnt, last), &handle)).await?
    };
    let trained = Arc::new(trained);
    match taken {
        Some(version) => handle.line(format!("taken: the weights of version {version}")),
        None => handle.line(format!("chosen: {}", trained.chosen)),
    }
    handle.progress(0.85, "sealing");
    let scores = serde_json::to_value(&trained.table).unwrap_or_default();

    let version = registry::next_version(store, name).await?;
    let made = {
        let (spec, snapshot, run, seed) = (spec.clone(), hex(&digest), job.id, request.seed);
        let (trained, data, signer) = (Arc::clone(&trained), Arc::clone(&all), Arc::clone(signer));
        let created = snapshot_at.timestamp_millis();
        let learnt = Learnt {
            from: first,
            until: cut.train_until,
            unseen: cut.config.unseen.clone(),
        };
        let parent = cut.config.parent.clone();
        computed(move || {
            let seal = make::Seal {
                spec: &spec,
                version,
                run,
                seed,
                snapshot,
                created,
                learnt,
                parent,
            };
            make::make(&seal, &trained, &data, &signer)
        })
        .await?
    };
    handle.progress(0.9, "judging");
    let repeated = again
        .as_ref()
        .and_then(|e| e.document(version, &made.manifest));
    let comparison = match (&champion, cut.holdout_from) {
        (Some(champion), Some(from)) if repeated.is_none() => {
            let judged = Judged {
                champion: registry::open(store, signer, champion).await?,
                champion_spec: serde_json::from_value(champion.manifest["forecaster"].clone()).ok(),
                challenger: Arc::new(made.model),
                spec: spec.clone(),
                data: Arc::clone(&all),
                from,
                until: last,
                unseen: [
                    spans(&champion.lineage["unseen"]),
                    cut.config.unseen.clone(),
                ],
                onset: request.onset,
                gate,
                handle: handle.clone(),
            };
            Some(computed(move || compare::compare(&judged)).await?)
        }
        _ => None,
    };
    let sha = Sha256::of(&made.bytes);
    let lineage = json!({
        "training_run": job.id, "snapshot": hex(&digest), "snapshot_at": snapshot_at, "rows": count,
        "again": request.again,
        "spec_version": forecaster.version, "seed": request.seed, "code_version": crate::CODE_VERSION,
        "simd": fieldcast_train::simd_path(),
        "data_from": first, "data_until": cut.train_until, "onset": request.onset, "config": cut.config,
        "unseen": cut.config.unseen, "split": trained.split, "chosen": trained.chosen,
        "warm": warm::document(begun.as_ref(), trained.warm.as_ref()), "known": taken,
    });
    let better = repeated.is_none() && comparison.as_ref().is_none_or(|c| c.verdict.better);
    let against = champion.as_ref().filter(|_| repeated.is_none());
    let against = against.map(|c| c.version);
    let document = repeated
        .unwrap_or_else(|| compare::document(champion.as_ref(), version, comparison.as_ref()));
    let reason = document["reason"].as_str().unwrap_or_default().to_owned();
    let metrics = json!({"table": scores, "calibration": trained.calibration, "holdout": document["scores"],
            "importance": trained.importance});
    let by = format!("{BY_TRAINING}{}", job.id);
    let kind = request.kind(champion.as_ref().map(|c| (&c.manifest, &c.lineage)), &spec);
    let plan = policy.plan(kind, spec.period_ms());
    let conclusion = Conclusion {
        model: NewModelVersion {
            forecaster: name,
            version,
            sha: &sha.0,
            bytes: &made.bytes,
            manifest: &made.manifest,
            metrics: &metrics,
            lineage: &lineage,
            verdict: &document,
            scores: &scores,
        },
        decision: NewDecision {
            forecaster: name,
            decision: if better { "roll_out" } else { "keep" },
            reason: &reason,
            job: Some(job.id),
            data_time: chrono::DateTime::from_timestamp_millis(last),
            decided_by: "judge",
            ..NewDecision::default()
        },
        rollout: match better {
            true => Some(rollout::rows::prepare(store, name, version, plan, &by).await?),
            false => None,
        },
        champion: against,
        result: json!({"model_version": version, "bundle": sha.to_string(), "chosen": trained.chosen,
            "better": better, "reason": reason}),
    };
    let concluded = store.conclude_training(&job.claim(), &conclusion).await?;
    let result = match concluded {
        Concluded::Stored(result) => result,
        Concluded::ClaimLost => return Err(JobError::claim_lost()),
        Concluded::Overtaken => {
            return Err(JobError {
                message: "another version was stored, or another model became the champion, while this one was judged; \
                          it is judged anew"
                    .to_owned(),
                retry: true,
            });
        }
    };
    handle.line(format!("version {version}: {reason}"));
    if let Some(id) = result["rollout"].as_i64() {
        handle.line(format!("rollout {id} started"));
    }
    Ok(result)
}

/// Spans as a lineage has them; a model from before they were kept has none.
fn spans(kept: &Value) -> Vec<(Millis, Millis)> {
    Vec::deserialize(kept).unwrap_or_default()
}

/// Computes on a thread where it holds up nothing else.
async fn computed<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> Result<T, JobError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|e| JobError::fatal(format!("{e:#}"))),
        Err(e) => Err(JobError::fatal(format!(
            "{e}; this is a defect: keep the log and report it"
        ))),
    }
}

/// The level of errors that devices are told to expect: from the calibration part and the holdout together. A few days of a
/// new world say little, and the model learnt from neither.
fn daily_errors(
    spec: &ForecasterSpec,
    all: &TrainingData,
    trained: &Trained,
    (from, last): (Millis, Millis),
    handle: &JobHandle,
) -> anyhow::Result<DailyErrors> {
    let cases = Cases::new(spec, all, (from, last.saturating_add(1)), 1)?;
    evaluate::daily_errors(cases.iter(), all, spec.period_ms(), |window| {
        handle.go_on()?;
        Ok(fieldcast_train::predict(&trained.params, window)?)
    })
}

/// How the new model's errors follow its intervals, over the same days.
fn width_errors(
    spec: &ForecasterSpec,
    all: &TrainingData,
    trained: &Trained,
    (from, last): (Millis, Millis),
    handle: &JobHandle,
) -> anyhow::Result<Option<WidthErrors>> {
    let cases = Cases::new(spec, all, (from, last.saturating_add(1)), 1)?;
    evaluate::width_errors(cases.iter(), all, &spec.quantiles, |window| {
        handle.go_on()?;
        Ok(fieldcast_train::predict(&trained.params, window)?)
    })
}

async fn fit(
    spec: &ForecasterSpec,
    all: &Arc<TrainingData>,
    (cut, parent): (&plan::Cut, Option<Parent>),
    kept: checkpoint::Kept,
    handle: &JobHandle,
) -> Result<Trained, JobError> {
    let (spec, all, cut, handle) = (spec.clone(), Arc::clone(all), cut.clone(), handle.clone());
    let (done, outcome) = tokio::sync::oneshot::channel();
    // A thread of its own: it may run for minutes, and behind everything that serves.
    let started = std::thread::Builder::new()
        .name("train".into())
        .spawn(move || {
            let _ = rustix::process::nice(10);
            let mut data = TrainingData {
                series: all.series.clone(),
            };
            for series in &mut data.series {
                series.rows.retain(|r| r.time <= cut.train_until);
            }
            data.series.retain(|s| !s.rows.is_empty());
            let mut progress = |p: fieldcast_train::Progress| {
                let (share, text) = match p.stage {
                    Stage::Baselines => (0.0, "fitting the baselines".to_owned()),
                    Stage::Lstm => (
                        p.epoch as f64 / p.epochs.max(1) as f64,
                        format!("epoch {} of at most {}", p.epoch, p.epochs),
                    ),
                    Stage::Calibration => (1.0, "calibrating".to_owned()),
                };
                handle.progress(0.05 + 0.8 * share, text);
                if handle.stopped() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            };
            let place: &dyn fieldcast_train::Checkpoints = &kept;
            let trained = fit_warm(
                &spec,
                &data,
                &cut.config,
                parent.as_ref(),
                Some(place),
                &mut progress,
            );
            let _ = done.send(trained);
        });
    started.map_err(|e| JobError {
        message: format!("start the training thread: {e}; free memory"),
        retry: true,
    })?;
    outcome
        .await
        .map_err(|_| {
            JobError::fatal(
                "the training thread died; this is a defect: keep the log and report it",
            )
        })?
        .map_err(|e| JobError::fatal(e.to_string()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn only_what_another_world_asks_for_needs_no_proof_of_being_better() {
        let spec = json!({"name": "f", "target": "demand", "inputs": ["demand"], "period": "1h", "lookback": 48, "horizon": 6});
        let champion = json!({"forecaster": spec});
        let spec: ForecasterSpec = serde_json::from_value(spec).unwrap();
        let day = 86_400_000_i64;
        let grown = json!({"onset": 0, "data_until": 28 * day});
        let of = |trigger: &str, onset: Option<Millis>, lineage: &Value| {
            let request = json!({"trigger": trigger, "reason": "", "onset": onset});
            let request: Request = serde_json::from_value(request).unwrap();
            request.kind(Some((&champion, lineage)), &spec)
        };
        let kind = |trigger: &str, onset: Option<Millis>| of(trigger, onset, &grown);
        for trigger in ["drift", "error", "rival", "given_up"] {
            assert_eq!(kind(trigger, Some(1)), Kind::Successor, "{trigger}");
            assert_eq!(kind(trigger, None), Kind::Challenger, "{trigger}");
        }
        // They hand on the onset of the world that the champion was made for.
        for trigger in ["volume", "schedule", "person"] {
            assert_eq!(kind(trigger, Some(1)), Kind::Challenger, "{trigger}");
        }
        // A champion of two weeks of its world gives way to one of more; one that knows no onset does not.
        let young = json!({"onset": 0, "data_until": 14 * day});
        assert_eq!(of("volume", Some(1), &young), Kind::Successor);
        let first = json!({"onset": null, "data_until": 14 * day});
        assert_eq!(of("volume", None, &first), Kind::Challenger);
        let ahead = json!({"onset": 40 * day, "data_until": 14 * day});
        assert_eq!(of("volume", None, &ahead), Kind::Challenger);
    }
}
