//! Which inputs a trained model lives on: owns the permutation of inputs and what it costs, never a forecast's own explanation.

use std::collections::BTreeMap;

use fieldcast_features::{ForecasterSpec, Millis, Window};
use fieldcast_kernel::Rng;
use fieldcast_onnx::ModelParams;
use serde::{Deserialize, Serialize};

use crate::cases::{Case, Cases};
use crate::heads::Beat;
use crate::{TrainError, TrainingData, predict};

/// About so many windows are looked at.
const WINDOWS: usize = 200;
/// Of at most so many devices: each must have enough of them to be compared among each other.
const DEVICES: usize = 20;
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
/// None where no device has two windows there, or for a model without error.
///
/// # Errors
/// [`TrainError`] where the data does not fit the definition, and what `beat` ends with.
pub(crate) fn permutation(
    spec: &ForecasterSpec,
    data: &TrainingData,
    params: &ModelParams,
    span: (Millis, Millis),
    seed: u64,
    beat: &mut Beat<'_>,
) -> Result<Vec<InputImportance>, TrainError> {
    let cases = sample(spec, data, span)?;
    let mut rng = Rng::new(seed);
    let others = others(&cases, &mut rng);
    let mut error = |change: &dyn Fn(&Case, &Case) -> Option<Window>| -> Result<f64, TrainError> {
        let mut sum = 0.0;
        for (case, other) in cases.iter().zip(&others) {
            beat()?;
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

/// Some windows of some devices, of each of these at least two.
fn sample(
    spec: &ForecasterSpec,
    data: &TrainingData,
    span: (Millis, Millis),
) -> Result<Vec<Case>, TrainError> {
    let inside = |t: Millis| span.0 <= t && t < span.1;
    let there = |s: &usize| {
        data.series[*s]
            .rows
            .iter()
            .filter(|r| inside(r.time))
            .nth(1)
    };
    let all: Vec<usize> = (0..data.series.len())
        .filter(|s| there(s).is_some())
        .collect();
    let taken = all.len().min(DEVICES);
    let of: Vec<usize> = (0..taken).map(|i| all[i * all.len() / taken]).collect();
    let rows = usize::try_from((span.1 - span.0) / spec.period_ms().max(1)).unwrap_or(0) * taken;
    // Every hour of the day must be met.
    let mut stride = (rows / WINDOWS).max(1);
    while gcd(stride, spec.season_steps().max(1)) > 1 {
        stride += 1;
    }
    let cases = Cases::new(spec, data, span, stride)?.of(&of);
    let mut cases: Vec<Case> = cases.iter().collect();
    let mut found = vec![0; data.series.len()];
    cases.iter().for_each(|c| found[c.series] += 1);
    cases.retain(|c| found[c.series] > 1);
    Ok(cases)
}

/// Of each case another one of the same device, drawn without repetition.
fn others(cases: &[Case], rng: &mut Rng) -> Vec<usize> {
    let mut others: Vec<usize> = (0..cases.len()).collect();
    let mut devices: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (i, case) in cases.iter().enumerate() {
        devices.entry(case.series).or_default().push(i);
    }
    for mut shuffled in devices.into_values() {
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
    use std::collections::BTreeSet;
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
    fn of_a_fleet_of_any_size_each_window_taken_has_another_of_its_own_device() {
        let spec = fixture::spec();
        let days = 30;
        let span = (
            fixture::START,
            fixture::START + days * 24 * fixture::HOUR_MS,
        );
        let pair = fixture::data(days as usize, 1).series;
        for size in [1, 2, 19, 150, 450] {
            let mut data = TrainingData::default();
            for i in 0..size {
                let mut series = pair[i % 2].clone();
                // Every ninth has stopped long before: of it there is nothing to look at.
                if i % 9 == 8 {
                    series.rows.truncate(5);
                }
                data.series.push(series);
            }
            let cases = sample(&spec, &data, span).unwrap();
            let others = others(&cases, &mut Rng::new(1));
            let devices: BTreeSet<usize> = cases.iter().map(|c| c.series).collect();
            assert!(
                (100..=2 * WINDOWS).contains(&cases.len()),
                "{size}: {}",
                cases.len()
            );
            assert!(
                devices.len() >= (size - size / 9).min(DEVICES),
                "{size}: {devices:?}"
            );
            let mut once = others.clone();
            once.sort_unstable();
            assert_eq!(once, (0..cases.len()).collect::<Vec<_>>());
            for (i, other) in others.iter().enumerate() {
                assert!(*other != i && cases[*other].series == cases[i].series);
            }
        }
    }

    #[test]
    fn what_drives_the_target_matters_in_a_fleet_too() {
        let spec = fixture::spec();
        let mut data = TrainingData::default();
        for i in 0..300 {
            let mut pair = fixture::data(12, 100 + i).series;
            data.series.push(pair.swap_remove(i as usize % 2));
        }
        let config = TrainConfig {
            max_epochs: 0,
            max_windows: 4_000,
            forest: false,
            ..TrainConfig::default()
        };
        let trained = fit(&spec, &data, &config, &mut |_| ControlFlow::Continue(())).unwrap();
        let load = trained.importance.iter().find(|i| i.input == "load");
        assert!(
            load.unwrap().error_increase > 0.3,
            "{:?}",
            trained.importance
        );
    }

    #[test]
    fn without_two_windows_of_one_device_there_is_none() {
        let (spec, data) = (fixture::spec(), fixture::data(20, 1));
        let from = fixture::START + 10 * 24 * fixture::HOUR_MS;
        let span = (from, from + (spec.horizon as i64 + 1) * fixture::HOUR_MS);
        assert!(sample(&spec, &data, span).unwrap().is_empty());
    }
}
