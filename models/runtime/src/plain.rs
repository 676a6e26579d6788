//! tract behind one small face: owns loading and running a graph at batch 1, never what the numbers mean.

use std::sync::Arc;

use fieldcast_onnx::{INPUT_FUTURE, INPUT_WINDOW, Shape};
use tract_onnx::prelude::*;

use crate::{Prediction, operators};

/// An optimised plan; running it loads nothing.
pub(crate) struct Plain {
    plan: Arc<TypedRunnableModel>,
    shape: Shape,
}

impl Plain {
    /// Reads, checks and optimises a graph whose sizes must be `shape`.
    pub(crate) fn load(onnx: &[u8], shape: Shape) -> Result<Self, String> {
        // At batch 1, whatever batch the file is for: tract cannot make an LSTM's initial state for an unknown one.
        let window = f64::fact([1, shape.lookback, shape.inputs]);
        let future = f64::fact([1, shape.horizon, shape.future_width]);
        let inputs = [(INPUT_WINDOW, window.into()), (INPUT_FUTURE, future.into())];
        let model = operators::read(onnx, &inputs).map_err(text)?;
        let model = model.into_optimized().map_err(text)?;
        let expected = [
            vec![1, shape.horizon],
            vec![1, shape.horizon, shape.quantiles],
        ];
        if model.outputs.len() != expected.len() {
            return Err(format!(
                "{} outputs instead of {}",
                model.outputs.len(),
                expected.len()
            ));
        }
        for (i, expected) in expected.iter().enumerate() {
            let fact = model.output_fact(i).map_err(text)?;
            let found = fact.shape.as_concrete();
            if fact.datum_type != f64::datum_type() || found != Some(expected) {
                return Err(format!(
                    "output {i} is {fact:?} instead of {expected:?}, F64"
                ));
            }
        }
        let plan = model.into_runnable().map_err(text)?;
        Ok(Self { plan, shape })
    }

    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    /// Fills mean `[H]` and quantiles `[H, Q]`; lengths of the inputs are the caller's to check.
    pub(crate) fn run(
        &self,
        window: &[f64],
        future: &[f64],
        out: &mut Prediction,
    ) -> Result<(), String> {
        let s = self.shape;
        let window = Tensor::from_shape(&[1, s.lookback, s.inputs], window).map_err(text)?;
        let future = Tensor::from_shape(&[1, s.horizon, s.future_width], future).map_err(text)?;
        let outputs = self
            .plan
            .run(tvec!(window.into(), future.into()))
            .map_err(text)?;
        for (i, values) in [&mut out.mean, &mut out.quantiles].into_iter().enumerate() {
            let output = outputs
                .get(i)
                .ok_or_else(|| format!("output {i} is missing"))?;
            let plain = output.try_as_plain_ram().map_err(text)?;
            values.clear();
            values.extend_from_slice(plain.as_slice::<f64>().map_err(text)?);
        }
        Ok(())
    }
}

/// The whole chain of causes in one line.
fn text(error: TractError) -> String {
    format!("{error:#}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use fieldcast_onnx::{ModelParams, SeasonalNaiveParams, build};

    #[test]
    fn seasonal_naive_repeats_the_last_season_and_skips_its_gaps() {
        let params = ModelParams::SeasonalNaive(SeasonalNaiveParams {
            lookback: 4,
            inputs: 2,
            horizon: 3,
            future_width: 0,
            target_input: 1,
            season: 2,
            quantiles: vec![0.1, 0.5, 0.9],
            quantile_offset: [-1.0, 0.0, 1.0].repeat(3),
        });
        let plain = Plain::load(&build(&params, &[]).unwrap(), params.shape()).unwrap();
        let window = [9.0, 1.0, 9.0, 2.0, 9.0, 3.0, 9.0, 4.0];
        let mut found = Prediction::default();
        plain.run(&window, &[], &mut found).unwrap();
        assert_eq!(found.mean, [3.0, 4.0, 3.0]);
        let quantiles = [2.0, 3.0, 4.0, 3.0, 4.0, 5.0, 2.0, 3.0, 4.0];
        assert_eq!(found.quantiles, quantiles);
        let gap = [9.0, 1.0, 9.0, 2.0, f64::NAN, f64::NAN, 9.0, 4.0];
        plain.run(&gap, &[], &mut found).unwrap();
        assert_eq!(found.mean, [4.0, 4.0, 4.0]);
    }
}
