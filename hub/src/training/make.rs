//! From a trained model to a sealed bundle: owns graph, golden vectors, reference and manifest, never what is learnt.

use std::collections::BTreeMap;

use anyhow::Context as _;
use fieldcast_bundle::{GoldenVector, Learnt, Manifest, ModelScore, Training};
use fieldcast_drift::reference::ReferenceStats;
use fieldcast_features::{ForecasterSpec, Millis, PIPELINE_VERSION, WindowBuilder};
use fieldcast_runtime::LoadedModel;
use fieldcast_train::{Trained, TrainingData};
use fieldcast_wire::Sha256;
use serde_json::Value;

use crate::signing::Signer;

const GOLDEN: usize = 4;

/// What the bundle says beside the model.
#[derive(Debug, Clone)]
pub struct Seal<'a> {
    /// Forecaster.
    pub spec: &'a ForecasterSpec,
    /// Model version.
    pub version: i64,
    /// Training run.
    pub run: i64,
    /// Seed of the run.
    pub seed: u64,
    /// Digest of the data.
    pub snapshot: String,
    /// Time of the snapshot.
    pub created: Millis,
    /// Which rows were learnt from.
    pub learnt: Learnt,
    /// SHA-256 of the ONNX of the model at whose weights it may have begun.
    pub parent: Option<String>,
}

/// A sealed model, running.
#[derive(Debug)]
pub struct Made {
    /// The bundle.
    pub bytes: Vec<u8>,
    /// Its manifest.
    pub manifest: Value,
    /// The model, as it runs from the bundle's graph.
    pub model: LoadedModel,
}

/// Builds the graph, runs it, takes golden vectors from it and seals all of it.
///
/// # Errors
/// A graph that does not build or run, or no window to take a golden vector from.
pub fn make(
    about: &Seal<'_>,
    trained: &Trained,
    data: &TrainingData,
    signer: &Signer,
) -> anyhow::Result<Made> {
    let spec = about.spec;
    let metadata = metadata(spec, &trained.chosen)?;
    let onnx = fieldcast_onnx::build(&trained.params, &metadata)?;
    let model = fieldcast_runtime::load_onnx(&onnx, spec)?;
    let golden = golden(about, data, &model)?;
    // The golden vectors are the kernels'; tract, which reads the file itself, must reproduce them as a device must.
    fieldcast_runtime::load_plain(&onnx, spec)?
        .check_golden(&golden, trained.train_dev_target)
        .context(
            "running the new model by tract; this is a defect: keep the training run and report it",
        )?;
    let reference = reference(about, data);
    let manifest = Manifest {
        format: fieldcast_bundle::manifest::FORMAT,
        forecaster: spec.clone(),
        version: u64::try_from(about.version)?,
        onnx_sha256: String::new(),
        reference_sha256: String::new(),
        pipeline_version: PIPELINE_VERSION,
        train_dev: trained.train_dev_target,
        golden,
        calibration: trained.calibration.clone(),
        training: Training {
            run: about.run.to_string(),
            snapshot: about.snapshot.clone(),
            seed: about.seed,
            code_version: crate::CODE_VERSION.to_owned(),
            chosen: trained.chosen.clone(),
            table: trained
                .table
                .iter()
                .map(|s| ModelScore {
                    model: s.model.clone(),
                    mae: s.mae,
                    rmse: s.rmse,
                    mase: Some(s.mase).filter(|m| m.is_finite()),
                    refused: s.refused,
                })
                .collect(),
            learnt: Some(about.learnt.clone()),
            parent: about
                .parent
                .clone()
                .filter(|_| trained.warm.as_ref().is_some_and(|w| w.taken)),
        },
        min_agent: "0.1.0".to_owned(),
        created: about.created,
        expires: None,
    };
    let reference = serde_json::to_vec(&reference)?;
    // What is kept beside the bundle names its parts as the sealed manifest does.
    let manifest = Manifest {
        onnx_sha256: Sha256::of(&onnx).to_string(),
        reference_sha256: Sha256::of(&reference).to_string(),
        ..manifest
    };
    let json = serde_json::to_value(&manifest)?;
    let bytes = signer.seal(manifest, onnx, reference)?;
    Ok(Made {
        bytes,
        manifest: json,
        model,
    })
}

/// What a graph says of itself: nothing that counts or dates, so that one snapshot and seed give one file, whatever version it
/// becomes.
///
/// # Errors
/// None that a definition which was read gives.
pub fn metadata(spec: &ForecasterSpec, chosen: &str) -> anyhow::Result<[(String, String); 3]> {
    let digest = Sha256::of(&serde_json::to_vec(spec)?);
    Ok([
        ("forecaster".to_owned(), spec.name.clone()),
        ("spec_sha256".to_owned(), digest.to_string()),
        ("chosen".to_owned(), chosen.to_owned()),
    ])
}

/// What the inputs looked like in what was learnt from.
fn reference(about: &Seal<'_>, data: &TrainingData) -> ReferenceStats {
    let devices: Vec<_> = data
        .series
        .iter()
        .map(|s| {
            let learnt = s.rows.iter().filter(|r| r.time <= about.learnt.until);
            let rows: BTreeMap<_, _> = learnt.map(|r| (r.time, r.values.as_slice())).collect();
            (s.device.as_str(), rows.into_iter().collect::<Vec<_>>())
        })
        .collect();
    let all = devices.iter().flat_map(|(_, rows)| rows);
    ReferenceStats::from_rows(&about.spec.channels(), all.map(|(_, values)| *values))
        .with_days(about.spec.period_ms(), &devices)
}

/// Windows spread over the data, each with what the graph says.
fn golden(
    about: &Seal<'_>,
    data: &TrainingData,
    model: &LoadedModel,
) -> anyhow::Result<Vec<GoldenVector>> {
    let builder = WindowBuilder::new(about.spec)?;
    let mut vectors = Vec::new();
    for series in &data.series {
        let mut taken = 0;
        let n = series.rows.len();
        for i in (0..n).rev().step_by((n / (GOLDEN * 4)).max(1)) {
            let rows = &series.rows[i.saturating_sub(about.spec.lookback * 2)..=i];
            let Ok(window) = builder.at(rows, series.rows[i].time) else {
                continue;
            };
            let Ok(out) = model.forecast(&window) else {
                continue;
            };
            vectors.push(GoldenVector {
                window: window.window,
                future: window.future,
                mean: out.mean,
                quantiles: out.quantiles,
            });
            taken += 1;
            if taken == GOLDEN || vectors.len() == GOLDEN * 2 {
                break;
            }
        }
        if vectors.len() >= GOLDEN * 2 {
            break;
        }
    }
    anyhow::ensure!(
        !vectors.is_empty(),
        "no complete window of {} steps in the data; wait for more readings",
        about.spec.lookback
    );
    Ok(vectors)
}
