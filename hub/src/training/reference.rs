//! A second reader of every new model: owns running its file by tract-onnx, never what a device runs.
//!
//! Devices run models by kernels of ours, and what those do not know by tract with a reader of ours. That all of them agree says
//! little if they share a misreading; tract-onnx shares no code with them but tract's arithmetic.

use anyhow::{Context as _, Result, bail, ensure};
use fieldcast_bundle::GoldenVector;
use fieldcast_features::{ForecasterSpec, calendar};
use fieldcast_runtime::GOLDEN_TOLERANCE;
use tract_onnx::prelude::{
    DatumExt as _, Framework as _, InferenceModelExt as _, IntoRunnable as _, Tensor, tvec,
};

/// Whether tract-onnx computes the golden vectors from the file, within [`GOLDEN_TOLERANCE`] of `train_dev`.
///
/// # Errors
/// A file it does not read or run, or another number.
pub(super) fn check(
    onnx: &[u8],
    spec: &ForecasterSpec,
    golden: &[GoldenVector],
    train_dev: f64,
) -> Result<()> {
    let window = [1, spec.lookback, spec.inputs.len()];
    let future = [1, spec.horizon, calendar::width(spec)];
    let model = tract_onnx::onnx()
        .model_for_read(&mut std::io::Cursor::new(onnx))?
        .with_input_fact(0, f64::fact(window).into())?
        .with_input_fact(1, f64::fact(future).into())?
        .into_optimized()?
        .into_runnable()?;
    for (index, golden) in golden.iter().enumerate() {
        let inputs = tvec!(
            Tensor::from_shape(&window, &golden.window)?.into(),
            Tensor::from_shape(&future, &golden.future)?.into()
        );
        let outputs = model.run(inputs)?;
        for (i, (what, expected)) in [("mean", &golden.mean), ("quantiles", &golden.quantiles)]
            .into_iter()
            .enumerate()
        {
            let output = outputs
                .get(i)
                .with_context(|| format!("there is no output {i}"))?;
            let plain = output.try_as_plain_ram()?;
            let found = plain.as_slice::<f64>()?;
            ensure!(
                found.len() == expected.len(),
                "`{what}` has {} values instead of {}",
                found.len(),
                expected.len()
            );
            for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
                let allowed = (GOLDEN_TOLERANCE * train_dev).max(1e-12 * expected.abs());
                let equal = (found - expected).abs() <= allowed;
                if !equal {
                    bail!(
                        "golden vector {index}: `{what}`[{at}] is {found} by tract-onnx, {expected} by what devices run"
                    );
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use fieldcast_onnx::{ModelParams, SeasonalNaiveParams, build};

    #[test]
    fn a_model_that_another_reader_computes_otherwise_is_named() {
        let spec: ForecasterSpec = serde_json::from_str(
            r#"{"name": "load", "target": "load", "inputs": ["load"], "period": "1h", "lookback": 4, "horizon": 2,
                "quantiles": [0.1, 0.5, 0.9]}"#,
        )
        .unwrap();
        let width = calendar::width(&spec);
        let params = ModelParams::SeasonalNaive(SeasonalNaiveParams {
            lookback: 4,
            inputs: 1,
            horizon: 2,
            future_width: width,
            target_input: 0,
            season: 2,
            quantiles: vec![0.1, 0.5, 0.9],
            quantile_offset: [-1.0, 0.0, 1.0].repeat(2),
        });
        let onnx = build(&params, &[]).unwrap();
        let mut golden = GoldenVector {
            window: vec![1.0, 2.0, 3.0, 4.0],
            future: vec![0.0; 2 * width],
            mean: vec![3.0, 4.0],
            quantiles: vec![2.0, 3.0, 4.0, 3.0, 4.0, 5.0],
        };
        check(&onnx, &spec, std::slice::from_ref(&golden), 1.0).unwrap();
        golden.quantiles[4] += 0.01;
        let error = check(&onnx, &spec, &[golden], 1.0).unwrap_err().to_string();
        assert!(error.contains("`quantiles`[4]"), "{error}");
        assert!(check(b"no model", &spec, &[], 1.0).is_err());
    }
}
