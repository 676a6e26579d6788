//! Which inputs a trained model lives on: owns the permutation of inputs and what it costs, never a forecast's own explanation.

use fieldcast_features::{ForecasterSpec, Millis, Window};
use fieldcast_kernel::Rng;
use fieldcast_onnx::ModelParams;
use serde::{Deserialize, Serialize};

use crate::evaluate::{Case, cases};
use crate::{TrainError, TrainingData, predict};

/// About so many windows are looked at.
const WINDOWS: usize = 200;
/// The name of what is known of the future.
pub const CALENDAR: &str = "calendar";

/// What a model loses without one of its inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InputImportance {
    /// Channel, or `calendar`.
    pub input: String,
    /// By what share its absolute error grows where the input comes from another window of the same device; 0 is none.
    pub error_increase: f64,
}

/// Permutation importance (Breiman, 2001; Fisher et al., 2019) of every input on windows with an origin in `span`, largest first.
/// Without a window there, or for a model without error, none.
///
/// # Errors
/// [`TrainError`] where the data does not fit the definition.
pub fn permutation(
    spec: &ForecasterSpec,
    data: &TrainingData,
    params: &ModelParams,
    span: (Millis, Millis),
    seed: u64,
) -> Result<Vec<InputImportance>, TrainError> {
    let period = spec.period_ms().max(1);
    let rows = usize::try_from((span.1 - span.0) / period).unwrap_or(0) * data.series.len();
    let season = spec.season_steps().max(1);
    // Every hour of the day must be met.
    let mut stride = (rows / WINDOWS).max(1);
    while gcd(stride, season) > 1 {
        stride += 1;
    }
    let cases = cases(spec, data, span, stride)?;
    let mut rng = Rng::new(seed);
    let others = others(&cases, &mut rng);
    let error = |change: &dyn Fn(&Case, &Case) -> Option<Window>| -> Result<f64, TrainError> {
        let mut sum = 0.0;
        for (case, other) in cases.iter().zip(&others) {
            let changed = change(case, &cases[*other]);
            let forecast = predict(params, changed.as_ref().unwrap_or(&case.window))?;
            let seen = forecast.mean.iter().zip(&case.actual);
            let seen = seen.filter(|(_, actual)| !actual.is_nan());
            sum += seen
                .map(|(m, a)| (m - a).abs() / case.mase_unit)
                .sum::<f64>();
        }
        Ok(sum)
    };
    let whole = error(&|_, _| None)?;
    if whole <= 0.0 {
        return Ok(Vec::new());
    }
    let mut all = Vec::new();
    for (f, input) in spec.inputs.iter().enumerate() {
        let without = error(&|case, other| {
            let mut window = case.window.clone();
            let own = window.window.iter_mut().skip(f).step_by(case.window.inputs);
            let theirs = other.window.window.iter().skip(f);
            own.zip(theirs.step_by(case.window.inputs))
                .for_each(|(own, theirs)| *own = *theirs);
            Some(window)
        })?;
        all.push(InputImportance {
            input: input.clone(),
            error_increase: without / whole - 1.0,
        });
    }
    let without = error(&|case, other| {
        let mut window = case.window.clone();
        window.future.clone_from(&other.window.future);
        Some(window)
    })?;
    all.push(InputImportance {
        input: CALENDAR.into(),
        error_increase: without / whole - 1.0,
    });
    all.sort_by(|a, b| b.error_increase.total_cmp(&a.error_increase));
    Ok(all)
}

/// Of each case another one of the same device, drawn without repetition.
fn others(cases: &[Case], rng: &mut Rng) -> Vec<usize> {
    let mut others: Vec<usize> = (0..cases.len()).collect();
    let devices = cases.iter().map(|c| c.series).max().map_or(0, |s| s + 1);
    for device in 0..devices {
        let own: Vec<usize> = (0..cases.len())
            .filter(|i| cases[*i].series == device)
            .collect();
        let mut shuffled = own.clone();
        rng.shuffle(&mut shuffled);
        for (i, at) in shuffled.iter().enumerate() {
            others[*at] = shuffled[(i + 1) % shuffled.len()];
        }
    }
    others
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::{TrainConfig, fit, fixture};

    #[test]
    fn what_drives_the_target_matters_and_what_does_not_hardly() {
        let mut spec = fixture::spec();
        spec.inputs.push("noise".into());
        let mut data = fixture::data(80, 4);
        let mut rng = Rng::new(8);
        for row in data.series.iter_mut().flat_map(|s| &mut s.rows) {
            row.values.push(f64::from(rng.normal()));
        }
        let config = TrainConfig {
            max_epochs: 0,
            ..TrainConfig::default()
        };
        let trained = fit(&spec, &data, &config, &mut |_| ControlFlow::Continue(())).unwrap();
        let of = |name: &str| {
            let found = trained.importance.iter().find(|i| i.input == name);
            found.unwrap().error_increase
        };
        assert_eq!(trained.importance.len(), 4);
        assert!(of("load") > 0.3, "{:?}", trained.importance);
        assert!(
            of("noise").abs() < 0.1 && of("noise") < of("heat"),
            "{:?}",
            trained.importance
        );
        let sorted = trained.importance.windows(2);
        assert!(
            sorted
                .into_iter()
                .all(|w| w[0].error_increase >= w[1].error_increase)
        );
    }

    #[test]
    fn each_case_gets_another_of_its_own_device() {
        let spec = fixture::spec();
        let span = (fixture::START, fixture::START + 20 * 24 * fixture::HOUR_MS);
        let cases = cases(&spec, &fixture::data(20, 1), span, 7).unwrap();
        let others = others(&cases, &mut Rng::new(1));
        let mut once = others.clone();
        once.sort_unstable();
        assert_eq!(once, (0..cases.len()).collect::<Vec<_>>());
        for (i, other) in others.iter().enumerate() {
            assert!(*other != i && cases[*other].series == cases[i].series);
        }
    }
}
