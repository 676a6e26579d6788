//! The model that a retraining may begin at: owns finding it and when it is none, never the training.

use fieldcast_features::{ForecasterSpec, Millis};
use fieldcast_store::model_versions::ModelVersionRow;
use fieldcast_store::{Store, StoreError};
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
    forecaster: String,
    version: i64,
    /// SHA-256 of its ONNX.
    pub(super) onnx: String,
    pub(super) parent: Parent,
}

/// What a training could begin at.
pub(super) enum Start<'a> {
    /// Random numbers only.
    Nothing,
    /// The champion of the same forecaster.
    Own(&'a ModelVersionRow),
    /// The champion of another one, as a group's model begins at that of all.
    Other(&'a str),
    /// Where the run began that is made again: it must begin there.
    Earlier(&'a Earlier),
}

/// Where a training begins, with what stands in the way, if anything does.
pub(super) async fn beginning(
    store: &Store,
    signer: &Signer,
    start: Start<'_>,
    spec: &ForecasterSpec,
) -> Result<(Option<Beginning>, Option<WarmStart>), JobError> {
    let found = match start {
        Start::Nothing => return Ok((None, None)),
        Start::Earlier(earlier) => return Ok((again(store, signer, earlier, spec).await?, None)),
        Start::Own(row) => open(store, signer, row, spec).await?,
        Start::Other(name) => match store.champion(name).await? {
            Some(row) => open(store, signer, &row, spec).await?,
            None => Err(format!("there is no champion of `{name}` to begin at")),
        },
    };
    Ok(match found {
        Ok(found) => (Some(found), None),
        Err(why) => (None, Some(WarmStart::refused(why))),
    })
}

async fn again(
    store: &Store,
    signer: &Signer,
    earlier: &Earlier,
    spec: &ForecasterSpec,
) -> Result<Option<Beginning>, JobError> {
    let Some((forecaster, version, onnx)) = earlier.began() else {
        return Ok(None);
    };
    let gone = |why: &str| {
        JobError::fatal(format!(
            "training run {} began at version {version} of {forecaster}, which is not there any more ({why}); train without `--run`",
            earlier.run.id
        ))
    };
    let row = store.model_version(&forecaster, version).await?;
    let row = row.ok_or_else(|| gone("no such version"))?;
    let found = open(store, signer, &row, spec).await?;
    let found = found.map_err(|e| gone(&e))?;
    if found.onnx != onnx {
        return Err(gone("it is another model"));
    }
    Ok(Some(found))
}

/// The model to begin at; inside, why it is none. That the database does not answer is no reason to begin elsewhere.
async fn open(
    store: &Store,
    signer: &Signer,
    row: &ModelVersionRow,
    spec: &ForecasterSpec,
) -> Result<Result<Beginning, String>, StoreError> {
    let bytes = match Sha256::from_hex(&row.bundle) {
        Some(sha) => store.bundle(&sha).await?,
        None => None,
    };
    Ok(read(signer, row, spec, bytes))
}

fn read(
    signer: &Signer,
    row: &ModelVersionRow,
    spec: &ForecasterSpec,
    bytes: Option<Vec<u8>>,
) -> Result<Beginning, String> {
    let had: Option<ForecasterSpec> =
        serde_json::from_value(row.manifest["forecaster"].clone()).ok();
    // Whose they are, which devices and which quantiles say nothing of the weights.
    let had = had.map(|had| ForecasterSpec {
        name: spec.name.clone(),
        selector: spec.selector.clone(),
        quantiles: spec.quantiles.clone(),
        ..had
    });
    if had.as_ref() != Some(spec) {
        return Err(format!(
            "the champion of {} is of another definition",
            row.forecaster
        ));
    }
    let until: Millis = row.lineage["data_until"]
        .as_i64()
        .ok_or("it is not known what data the champion saw")?;
    let bytes = bytes.ok_or("the champion's bundle is gone")?;
    let bundle = registry::verified(signer, row, &bytes).map_err(|e| e.to_string())?;
    let params = fieldcast_onnx::read(bundle.onnx()).map_err(|e| e.to_string())?;
    Ok(Beginning {
        forecaster: row.forecaster.clone(),
        version: row.version,
        onnx: bundle.manifest().onnx_sha256.clone(),
        parent: Parent { params, until },
    })
}

/// What the lineage keeps of it.
pub(super) fn document(begun: Option<&Beginning>, note: Option<&WarmStart>) -> Value {
    let Some(note) = note else { return Value::Null };
    let mut document = json!(note);
    document["forecaster"] = json!(begun.map(|b| b.forecaster.as_str()));
    document["version"] = json!(begun.map(|b| b.version));
    document["onnx"] = json!(begun.map(|b| b.onnx.as_str()));
    document
}
