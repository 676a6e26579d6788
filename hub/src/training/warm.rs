//! The model that a retraining may begin at: owns finding it and when it is none, never the training.

use fieldcast_features::{ForecasterSpec, Millis};
use fieldcast_store::Store;
use fieldcast_store::model_versions::ModelVersionRow;
use fieldcast_train::warm::{Parent, WarmStart};
use fieldcast_wire::Sha256;
use serde_json::{Value, json};

use super::again::Earlier;
use crate::jobs::JobError;
use crate::registry;
use crate::signing::Signer;

/// What a training begins at beside random numbers.
#[derive(Debug, Clone)]
pub(super) struct Beginning {
    version: i64,
    /// SHA-256 of its ONNX.
    pub(super) onnx: String,
    pub(super) parent: Parent,
}

/// Where a training begins: at the champion's weights, or where the earlier run began; with what stands in the way, if anything
/// does. A run that is made again must begin where it began.
pub(super) async fn beginning(
    store: &Store,
    signer: &Signer,
    (champion, again): (Option<&ModelVersionRow>, Option<&Earlier>),
    spec: &ForecasterSpec,
) -> Result<(Option<Beginning>, Option<WarmStart>), JobError> {
    let Some(earlier) = again else {
        let Some(row) = champion else {
            return Ok((None, None));
        };
        return Ok(match open(store, signer, row, spec).await {
            Ok(found) => (Some(found), None),
            Err(why) => (None, Some(WarmStart::refused(why))),
        });
    };
    let Some((version, onnx)) = earlier.began() else {
        return Ok((None, None));
    };
    let gone = |why: &str| {
        JobError::fatal(format!(
            "training run {} began at version {version}, which is not there any more ({why}); train without `--run`",
            earlier.run.id
        ))
    };
    let row = store.model_version(&spec.name, version).await?;
    let row = row.ok_or_else(|| gone("no such version"))?;
    let found = open(store, signer, &row, spec)
        .await
        .map_err(|e| gone(&e))?;
    if found.onnx != onnx {
        return Err(gone("it is another model"));
    }
    Ok((Some(found), None))
}

async fn open(
    store: &Store,
    signer: &Signer,
    row: &ModelVersionRow,
    spec: &ForecasterSpec,
) -> Result<Beginning, String> {
    let had: Option<ForecasterSpec> =
        serde_json::from_value(row.manifest["forecaster"].clone()).ok();
    // Which devices and which quantiles say nothing of the weights.
    let had = had.map(|had| ForecasterSpec {
        selector: spec.selector.clone(),
        quantiles: spec.quantiles.clone(),
        ..had
    });
    if had.as_ref() != Some(spec) {
        return Err("the champion is of another definition".to_owned());
    }
    let until: Millis = row.lineage["data_until"]
        .as_i64()
        .ok_or("it is not known what data the champion saw")?;
    let sha = Sha256::from_hex(&row.bundle).ok_or("the champion's digest is malformed")?;
    let bytes = store.bundle(&sha).await.map_err(|e| e.to_string())?;
    let bytes = bytes.ok_or("the champion's bundle is gone")?;
    let bundle = registry::verified(signer, row, &bytes).map_err(|e| e.to_string())?;
    let params = fieldcast_onnx::read(bundle.onnx()).map_err(|e| e.to_string())?;
    Ok(Beginning {
        version: row.version,
        onnx: bundle.manifest().onnx_sha256.clone(),
        parent: Parent { params, until },
    })
}

/// What the lineage keeps of it.
pub(super) fn document(begun: Option<&Beginning>, note: Option<&WarmStart>) -> Value {
    let Some(note) = note else { return Value::Null };
    let mut document = json!(note);
    document["version"] = json!(begun.map(|b| b.version));
    document["onnx"] = json!(begun.map(|b| b.onnx.as_str()));
    document
}
