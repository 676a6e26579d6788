//! What made a forecast: owns the groups of its inputs and what changes without each, never a training's statistics.
//!
//! Occlusion by groups (Zeiler and Fergus, 2014): the model runs once more for each group, with the group's values replaced by
//! their input's mean over the window, where models of ours know them: behind the scaling by the window. So the part of ridge,
//! which is linear there, is its exact contribution. All of it costs at most [`MOST_RUNS`] forecasts.

use std::ops::Range;

use fieldcast_features::Window;

use crate::{Engine, LoadedModel, Prediction, RuntimeError};

/// Forecasts that an explanation may cost.
pub const MOST_RUNS: usize = 20;
/// Inputs have groups of their own up to here; where there are more, neighbours share one.
const MOST_INPUTS: usize = 12;

/// Some of what a forecast is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Group {
    /// All steps of these inputs, by their number.
    Inputs(Range<usize>),
    /// All inputs at these steps back from the origin; 0 is the newest.
    Steps(Range<usize>),
    /// What is known of the future: against a future that tells nothing.
    Calendar,
}

/// A group and what it did.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// The group.
    pub group: Group,
    /// `[H]`, raw units: the forecast minus the one without the group.
    pub effect: Vec<f64>,
}

impl Part {
    /// The mean over the steps ahead of how much the forecast changes, raw units.
    #[must_use]
    pub fn size(&self) -> f64 {
        self.effect.iter().map(|e| e.abs()).sum::<f64>() / self.effect.len().max(1) as f64
    }
}

/// A forecast and its parts; parts overlap (an input has steps), so they do not sum to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// `[H]`, raw units.
    pub mean: Vec<f64>,
    /// Inputs, then steps, then the calendar; each kind by falling size.
    pub parts: Vec<Part>,
}

impl LoadedModel {
    /// Forecasts, and says which inputs and which lags made the forecast. `season` is that of the forecaster, in steps.
    ///
    /// # Errors
    /// As [`Self::forecast`].
    pub fn explain(&self, window: &Window, season: usize) -> Result<Explanation, RuntimeError> {
        let shape = self.shape();
        let whole = self.forecast(window)?;
        let (mut out, mut raw) = (Prediction::default(), window.window.clone());
        let calm = vec![0.0; window.future.len()];
        let mut parts = Vec::new();
        for group in groups(shape.inputs, shape.lookback, season, shape.future_width > 0) {
            let hidden = |place: usize| match &group {
                Group::Inputs(inputs) => inputs.contains(&(place % shape.inputs)),
                Group::Steps(steps) => steps.contains(&(shape.lookback - 1 - place / shape.inputs)),
                Group::Calendar => false,
            };
            let future = match group {
                Group::Calendar => &calm,
                _ => &window.future,
            };
            match &self.engine {
                Engine::Fused(engine) if engine.scales_by_window() => {
                    engine.run_without(&window.window, future, &hidden, &mut out);
                }
                _ => {
                    raw.clone_from(&window.window);
                    flatten(&mut raw, shape.inputs, &hidden);
                    self.run_into(&raw, future, &mut out)?;
                }
            }
            let change = whole
                .mean
                .iter()
                .zip(&out.mean)
                .map(|(with, without)| with - without);
            let effect: Vec<f64> = change.collect();
            if !effect.iter().all(|e| e.is_finite()) {
                return Err(RuntimeError::NotFinite { what: "mean" });
            }
            parts.push(Part { group, effect });
        }
        let kind = |part: &Part| match part.group {
            Group::Inputs(_) => 0,
            Group::Steps(_) => 1,
            Group::Calendar => 2,
        };
        parts.sort_by(|a, b| kind(a).cmp(&kind(b)).then(b.size().total_cmp(&a.size())));
        Ok(Explanation {
            mean: whole.mean,
            parts,
        })
    }
}

/// Replaces hidden values `[T, F]` by their input's mean over the window; missing ones stay missing unless they are hidden.
pub(crate) fn flatten(values: &mut [f64], inputs: usize, hidden: &dyn Fn(usize) -> bool) {
    for f in 0..inputs {
        let column = values.iter().skip(f).step_by(inputs);
        let seen = column.filter(|v| !v.is_nan());
        let (sum, count) = seen.fold((0.0, 0.0_f64), |(s, n), v| (s + v, n + 1.0));
        if count > 0.0 {
            let places = values.iter_mut().enumerate().skip(f).step_by(inputs);
            places
                .filter(|(place, _)| hidden(*place))
                .for_each(|(_, v)| *v = sum / count);
        }
    }
}

/// Every input or some neighbours; the window cut at the newest step, a quarter, one and two seasons; the calendar.
fn groups(inputs: usize, lookback: usize, season: usize, calendar: bool) -> Vec<Group> {
    let each = inputs.div_ceil(MOST_INPUTS).max(1);
    let mut groups: Vec<Group> = (0..inputs)
        .step_by(each)
        .map(|f| Group::Inputs(f..(f + each).min(inputs)))
        .collect();
    let season = season.max(4);
    let mut from = 0;
    for until in [1, season / 4, season, 2 * season, usize::MAX] {
        let until = until.min(lookback);
        if until > from {
            groups.push(Group::Steps(from..until));
            from = until;
        }
    }
    groups.extend(calendar.then_some(Group::Calendar));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_cover_everything_within_their_budget() {
        for inputs in [1, 2, 12, 13, 40, 64] {
            for (lookback, season) in [(1, 1), (30, 7), (336, 24), (8_192, 1_440)] {
                let groups = groups(inputs, lookback, season, true);
                assert!(groups.len() < MOST_RUNS, "with the forecast itself");
                let (mut seen, mut steps) = (0, 0);
                for group in groups {
                    match group {
                        Group::Inputs(r) => seen += r.len(),
                        Group::Steps(r) => steps += r.len(),
                        Group::Calendar => {}
                    }
                }
                assert_eq!((seen, steps), (inputs, lookback));
            }
        }
    }

    #[test]
    fn hidden_values_become_their_inputs_mean() {
        let mut values = [1.0, 10.0, f64::NAN, 20.0, 3.0, f64::NAN];
        flatten(&mut values, 2, &|place| place % 2 == 0 && place < 4);
        assert_eq!(values[..4], [2.0, 10.0, 2.0, 20.0]);
        assert!(values[4] == 3.0 && values[5].is_nan());
    }
}
