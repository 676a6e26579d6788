//! A version of before as the answer to a world that came back: owns which one, and what of it is measured anew; never fits a model.
//!
//! It learnt from none of the days since the change: the first of them choose among the versions, the others judge the chosen one beside
//! the champion, by the rules for any challenger. What passes is sealed as a new version with the weights of the old one, its errors and
//! intervals measured in the world of today.

use std::sync::Arc;

use fieldcast_bundle::ModelScore as Told;
use fieldcast_features::{ForecasterSpec, Millis};
use fieldcast_store::Store;
use fieldcast_store::model_versions::ModelVersionRow;
use fieldcast_train::evaluate::Cases;
use fieldcast_train::{ModelScore, Split, TrainConfig, Trained, TrainingData};
use serde::Deserialize as _;

use super::again::Earlier;
use super::compare::{self, Judged, score};
use super::plan::{self, Cut};
use super::{computed, spans};
use crate::jobs::{JobError, JobHandle};
use crate::judge::Gate;
use crate::registry::{self, OpenError, worlds};
use crate::rollout::request::Refusal;
use crate::signing::Signer;

/// What part of a wrong verdict's chance is spent on versions of before, a fifth; the rest is left for the model that is fitted where
/// none passes.
const FIFTH: f64 = 5.0;

/// What asks for it.
pub(super) struct Question<'a> {
    pub spec: &'a ForecasterSpec,
    pub champion: &'a ModelVersionRow,
    pub data: &'a Arc<TrainingData>,
    pub onset: Millis,
    /// Newest row.
    pub last: Millis,
    pub gate: Gate,
}

/// A version of before, ready to be sealed anew.
pub(super) struct Known {
    pub version: i64,
    pub trained: Trained,
    pub cut: Cut,
}

/// A version of before that is better in the world of today, if there is one, and the gate that is left for what is judged next.
pub(super) async fn find(
    store: &Store,
    signer: &Signer,
    question: &Question<'_>,
    handle: &JobHandle,
) -> Result<(Option<Known>, Gate), JobError> {
    let Question {
        spec,
        champion,
        data,
        onset,
        last,
        gate,
    } = *question;
    let horizon_ms = spec.period_ms() * Millis::try_from(spec.horizon).unwrap_or(1);
    let seen = champion.lineage["data_until"].as_i64().unwrap_or(last);
    let Some((chosen_until, judged_from)) = plan::known(onset, last, seen, horizon_ms) else {
        return Ok((None, gate));
    };
    let (mut rows, mut models) = (Vec::new(), Vec::new());
    for row in worlds::before(store, champion, spec).await? {
        match registry::open(store, signer, &row).await {
            Ok(model) => {
                rows.push(row);
                models.push(model);
            }
            Err(OpenError::Store(e)) => return Err(e.into()),
            Err(e) => handle.line(format!("a version of before is left out: {e}")),
        }
    }
    if rows.is_empty() {
        return Ok((None, gate));
    }
    handle.progress(0.03, "asking the versions of before");
    let own = registry::open(store, signer, champion).await?;
    let losses = {
        let (spec, data, models) = (spec.clone(), Arc::clone(data), models.clone());
        let handle = handle.clone();
        let span = (onset, chosen_until.saturating_add(horizon_ms + 1));
        computed(move || {
            let cases = Cases::new(&spec, &data, span, 1)?;
            let of = |model| Ok(score(model, &cases, &spec, &handle)?.mase);
            models
                .iter()
                .map(|m| of(m))
                .collect::<anyhow::Result<Vec<f64>>>()
        })
        .await?
    };
    let pairs = rows.into_iter().zip(models).zip(losses);
    let best = pairs
        .filter(|(_, loss)| loss.is_finite())
        .min_by(|a, b| a.1.total_cmp(&b.1));
    let Some(((row, model), _)) = best else {
        return Ok((None, gate));
    };
    let left = Gate {
        max_p: gate.max_p - gate.max_p / FIFTH,
        ..gate
    };
    let gate = Gate {
        max_p: gate.max_p / FIFTH,
        ..gate
    };
    let judged = Judged {
        champion: own,
        champion_spec: Some(spec.clone()),
        challenger: model,
        spec: spec.clone(),
        data: Arc::clone(data),
        from: judged_from,
        until: last,
        unseen: [
            spans(&champion.lineage["unseen"]),
            spans(&row.lineage["unseen"]),
        ],
        onset: Some(onset),
        gate,
        handle: handle.clone(),
    };
    let verdict = computed(move || compare::compare(&judged)).await?.verdict;
    handle.line(format!(
        "version {} of before: {}",
        row.version, verdict.reason
    ));
    if !verdict.better {
        return Ok((None, left));
    }
    let cut = Cut {
        train_until: chosen_until,
        holdout_from: Some(judged_from),
        config: config(&row),
    };
    match taken(store, signer, &row, cut, (onset, last)).await {
        Ok(known) => Ok((Some(known), gate)),
        Err(e) if e.retry => Err(e),
        // An imported one, or of another program: then a model is fitted.
        Err(e) => {
            handle.line(e.to_string());
            Ok((None, left))
        }
    }
}

/// The same for a run that is made again: where that took a version of before, the same one.
pub(super) async fn again(
    store: &Store,
    signer: &Signer,
    earlier: &Earlier,
    cut: &Cut,
    days: (Millis, Millis),
) -> Result<Option<Known>, JobError> {
    let lineage = earlier.model.as_ref().map(|model| &model.lineage);
    let Some(version) = lineage.and_then(|l| l["known"].as_i64()) else {
        return Ok(None);
    };
    let row = store
        .model_version(&earlier.forecaster.name, version)
        .await?;
    let row = row.ok_or_else(|| {
        JobError::fatal(format!(
            "version {version}, whose weights training run {} took, is not there any more; train without `--run`",
            earlier.run.id
        ))
    })?;
    taken(store, signer, &row, cut.clone(), days)
        .await
        .map(Some)
}

/// A version of before with its weights, whose errors since `onset` are still to be measured.
async fn taken(
    store: &Store,
    signer: &Signer,
    row: &ModelVersionRow,
    cut: Cut,
    (onset, last): (Millis, Millis),
) -> Result<Known, JobError> {
    let gone = |why: String| {
        JobError::fatal(format!(
            "take version {} of before: {why}; train anew",
            row.version
        ))
    };
    let bytes = match registry::bundle(store, row).await {
        Err(Refusal::Store(e)) => return Err(e.into()),
        bytes => bytes.map_err(|e| gone(e.to_string()))?,
    };
    let bundle = registry::verified(signer, row, &bytes).map_err(|e| gone(e.to_string()))?;
    let params = fieldcast_onnx::read(bundle.onnx()).map_err(|e| gone(e.to_string()))?;
    let manifest = bundle.manifest();
    let split = row.lineage["split"].clone();
    let split: Split = serde_json::from_value(split).map_err(|e| gone(e.to_string()))?;
    Ok(Known {
        version: row.version,
        trained: Trained {
            params,
            chosen: manifest.training.chosen.clone(),
            table: manifest.training.table.iter().map(told).collect(),
            models: Vec::new(),
            calibration: manifest.calibration.clone(),
            reference: fieldcast_drift::reference::ReferenceStats::default(),
            split: Split {
                calibrate_from: onset,
                until: last,
                ..split
            },
            train_dev_target: manifest.train_dev,
            penalty: None,
            importance: Vec::new(),
            warm: None,
            refitted: false,
        },
        cut,
    })
}

fn told(score: &Told) -> ModelScore {
    ModelScore {
        model: score.model.clone(),
        mae: score.mae,
        rmse: score.rmse,
        mase: score.mase.unwrap_or(f64::NAN),
        refused: score.refused,
    }
}

/// The settings that it was trained with, and the spans that it was kept from.
fn config(row: &ModelVersionRow) -> TrainConfig {
    let kept = TrainConfig::deserialize(&row.lineage["config"]).unwrap_or_default();
    TrainConfig {
        unseen: spans(&row.lineage["unseen"]),
        ..kept
    }
}
