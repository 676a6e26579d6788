//! A training made again from an earlier run's snapshot: owns what is taken over from that run, never the training.

use chrono::{DateTime, Utc};
use fieldcast_store::Store;
use fieldcast_store::forecasters::ForecasterRow;
use fieldcast_store::model_versions::ModelVersionRow;
use fieldcast_store::training_runs::TrainingRunRow;
use serde_json::{Value, json};

use super::plan::Cut;
use crate::jobs::JobError;

/// The run that is made again.
pub(super) struct Earlier {
    pub run: TrainingRunRow,
    /// When its rows were known.
    pub known: DateTime<Utc>,
    /// The definition that it had.
    pub forecaster: ForecasterRow,
    /// The version that it made.
    pub model: Option<ModelVersionRow>,
}

impl Earlier {
    pub(super) async fn read(
        store: &Store,
        current: &ForecasterRow,
        id: i64,
    ) -> Result<Self, JobError> {
        let name = &current.name;
        let gone = || {
            JobError::fatal(format!(
                "there is no training run {id} of {name}; see `fieldcast-hub run list`"
            ))
        };
        let run = store.training_run(id).await?.ok_or_else(gone)?;
        if run.forecaster != *name {
            return Err(gone());
        }
        let (Some(known), Some(defined)) = (run.snapshot_at, run.spec_version) else {
            return Err(JobError::fatal(format!(
                "training run {id} took no snapshot; train {name} without `--run`"
            )));
        };
        let model = match run.model_version {
            Some(version) => store.model_version(name, version).await?,
            None => None,
        };
        // Without a model to make again only the snapshot is taken over, and what comes out is judged as ever.
        if model.is_none() && defined != current.version {
            return Err(JobError::fatal(format!(
                "training run {id} made no model, and {name} is defined anew since; train it without `--run`"
            )));
        }
        let forecaster = store
            .forecaster_version(name, defined)
            .await?
            .ok_or_else(gone)?;
        Ok(Self {
            run,
            known,
            forecaster,
            model,
        })
    }

    /// Whether the rows are those that the run had.
    pub(super) fn check(&self, digest: &str) -> Result<(), JobError> {
        let had = self.run.snapshot_sha.as_deref().unwrap_or_default();
        if had == digest {
            return Ok(());
        }
        Err(JobError::fatal(format!(
            "the rows that training run {} had are not all there any more, or its devices have other labels (snapshot \
             {digest}, it had {had}); train without `--run`",
            self.run.id
        )))
    }

    /// The cut that made the model: which champion there was then does not matter any more.
    pub(super) fn cut(&self) -> Option<Cut> {
        let lineage = &self.model.as_ref()?.lineage;
        let train_until = lineage["data_until"].as_i64()?;
        let judged = self
            .run
            .verdict
            .as_ref()
            .is_some_and(|v| !v["champion"].is_null());
        Some(Cut {
            train_until,
            holdout_from: judged.then_some(train_until),
            config: serde_json::from_value(lineage["config"].clone()).ok()?,
        })
    }

    /// Forecaster, version and ONNX of the model at whose weights it began beside random ones, if there was one.
    pub(super) fn began(&self) -> Option<(String, i64, String)> {
        let warm = &self.model.as_ref()?.lineage["warm"];
        let onnx = warm["onnx"].as_str()?;
        // A lineage of before knows no other forecaster.
        let forecaster = warm["forecaster"].as_str().unwrap_or(&self.forecaster.name);
        Some((
            forecaster.to_owned(),
            warm["version"].as_i64()?,
            onnx.to_owned(),
        ))
    }

    /// The verdict on a model that was made again: nobody asked for another champion.
    pub(super) fn document(&self, version: i64, manifest: &Value) -> Option<Value> {
        let model = self.model.as_ref()?;
        let same = |key: &str| manifest[key] == model.manifest[key];
        let alike = match (same("onnx_sha256"), same("reference_sha256")) {
            (true, true) => "model and reference are the same, bit for bit".to_owned(),
            (true, false) => "the model is the same, its reference is not".to_owned(),
            _ => format!(
                "the model is another one (program {} on {} then, {} on {} now)",
                self.run.code_version.as_deref().unwrap_or("unknown"),
                model.lineage["simd"].as_str().unwrap_or("unknown vectors"),
                crate::CODE_VERSION,
                fieldcast_train::simd_path(),
            ),
        };
        Some(json!({
            "champion": null, "challenger": version, "better": false, "scores": null, "decided_by": "judge",
            "again": self.run.id, "same": same("onnx_sha256") && same("reference_sha256"),
            "reason": format!("run {} again, which made version {}: {alike}", self.run.id, model.version),
        }))
    }
}
