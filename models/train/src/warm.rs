//! A training that begins at an earlier model's heads: owns when that is fair, whether they fit, and which of the two stays; never
//! the training itself.

use fieldcast_features::Millis;
use fieldcast_onnx::{DecoderParams, ModelParams};
use serde::{Deserialize, Serialize};

use crate::decoder::Decoder;
use crate::predict::{kernel_linear, kernel_lstm};

/// The model that a training may begin at.
#[derive(Debug, Clone)]
pub struct Parent {
    /// What it has learnt.
    pub params: ModelParams,
    /// The newest time of which it can have seen anything, also to stop or to calibrate.
    pub until: Millis,
}

/// What came of beginning at an earlier model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WarmStart {
    /// Whether the heads that began there are the bundle's candidates.
    pub taken: bool,
    /// Error on the selection part of the heads that began at random, in MASE.
    pub scratch: Option<f64>,
    /// The same of those that began at the earlier model.
    pub warm: Option<f64>,
    /// In words: why not, or by how much.
    pub reason: String,
}

impl WarmStart {
    /// It was not tried.
    #[must_use]
    pub fn refused(reason: impl Into<String>) -> Self {
        Self {
            taken: false,
            scratch: None,
            warm: None,
            reason: reason.into(),
        }
    }

    /// The lesser error on the selection part decides; of equal ones that from scratch stays.
    pub(crate) fn judged(scratch: f64, warm: f64) -> Self {
        let taken = warm < scratch;
        let gain = 100.0 * (1.0 - warm / scratch);
        let reason = format!(
            "on the selection part heads from the earlier model's weights have MASE {warm:.4}, heads from scratch {scratch:.4} ({gain:+.1} % \
             gained); {}",
            if taken {
                "the first are taken"
            } else {
                "the second are taken"
            }
        );
        Self {
            taken,
            scratch: Some(scratch),
            warm: Some(warm),
            reason,
        }
    }
}

/// At most `most` heads of the parent where they are of the shape of `like`, and the parent saw nothing that selects.
pub(crate) fn heads(
    parent: &Parent,
    (like, inputs, k): (&Decoder, usize, usize),
    select_from: Millis,
    most: usize,
) -> Result<Vec<Decoder>, String> {
    if parent.until >= select_from {
        return Err(
            "the earlier model has seen rows that select here: it would be judged on what it knows"
                .to_owned(),
        );
    }
    let ModelParams::Ensemble(ensemble) = &parent.params else {
        return Err("the earlier model has no heads".to_owned());
    };
    let found: Vec<Decoder> = ensemble
        .decoders
        .iter()
        .take(most)
        .filter_map(|p| head(p, like, inputs, k))
        .collect();
    if found.is_empty() {
        return Err("the earlier model has no heads, or heads of another shape".to_owned());
    }
    Ok(found)
}

/// The head of a graph; none where it is of another shape.
fn head(p: &DecoderParams, like: &Decoder, inputs: usize, k: usize) -> Option<Decoder> {
    let mut local = like.local.clone();
    let lags = local.input.checked_sub(k)?;
    let fits = p.segment * inputs == like.lstm.input
        && (p.lstm.input, p.lstm.hidden) == (like.lstm.input, like.lstm.hidden)
        && (p.state.input, p.state.output) == (like.state.input, like.state.output)
        && p.known_weight.len() == local.output * k
        && p.lag_weight.len() == local.output * lags
        && p.step.len() == like.step.len()
        && p.out.len() == like.out.len()
        && p.out_bias.len() == like.out_bias.len();
    if !fits {
        return None;
    }
    for (unit, row) in local
        .weight
        .chunks_exact_mut(local.input.max(1))
        .enumerate()
    {
        let (known, lag) = row.split_at_mut(k);
        known.copy_from_slice(&p.known_weight[unit * k..][..k]);
        lag.copy_from_slice(&p.lag_weight[unit * lags..][..lags]);
    }
    // One bias says it all in a graph: it is the state's.
    local.bias.fill(0.0);
    Some(Decoder {
        horizon: like.horizon,
        lstm: kernel_lstm(&p.lstm),
        state: kernel_linear(&p.state),
        local,
        step: p.step.clone(),
        out: p.out.clone(),
        out_bias: p.out_bias.clone(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::{TrainConfig, Trained, fit, fit_warm, fixture};

    const DAY: Millis = 86_400_000;

    fn config(max_epochs: usize) -> TrainConfig {
        TrainConfig {
            max_epochs,
            seeds: 2,
            units: 8,
            hidden: 4,
            epoch_windows: 512,
            threads: Some(2),
            ..TrainConfig::default()
        }
    }

    /// A model of the first days, and the newest of them.
    fn parent(days: usize) -> (Trained, Parent) {
        let data = fixture::data(days, 2);
        let until = data
            .series
            .iter()
            .flat_map(|s| s.rows.last())
            .map(|r| r.time)
            .max();
        let trained = fit(&fixture::spec(), &data, &config(8), &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap();
        let with_heads = trained
            .models
            .iter()
            .find(|(name, _)| name == "ensemble")
            .unwrap();
        let parent = Parent {
            params: with_heads.1.clone(),
            until: until.unwrap(),
        };
        (trained, parent)
    }

    fn child(parent: Option<&Parent>, config: &TrainConfig) -> Trained {
        let (spec, data) = (fixture::spec(), fixture::data(90, 2));
        fit_warm(&spec, &data, config, parent, None, &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap()
    }

    #[test]
    fn the_better_beginning_stays_and_the_same_beginning_gives_the_same_model() {
        let (_, parent) = parent(40);
        // One epoch from scratch is little against what eight have taught.
        let short = config(1);
        let warm = child(Some(&parent), &short);
        let note = warm.warm.clone().unwrap();
        assert!(warm.split.select_from > parent.until + DAY);
        assert!(note.taken && note.warm < note.scratch, "{note:?}");
        assert!(
            note.reason.contains("the first are taken"),
            "{}",
            note.reason
        );
        let again = child(Some(&parent), &short);
        let onnx = |t: &Trained| fieldcast_onnx::build(&t.models.last().unwrap().1, &[]).unwrap();
        assert_eq!(onnx(&warm), onnx(&again));
        assert_ne!(onnx(&warm), onnx(&child(None, &short)));
    }

    #[test]
    fn what_saw_the_judging_rows_or_has_another_shape_is_no_beginning_and_changes_nothing() {
        let (_, mut parent) = parent(40);
        let plain = child(None, &config(1));
        let wide = TrainConfig {
            hidden: 6,
            ..config(1)
        };
        let refused = child(Some(&parent), &wide).warm.unwrap();
        assert!(
            !refused.taken && refused.reason.contains("another shape"),
            "{refused:?}"
        );
        parent.until = plain.split.select_from;
        let leaky = child(Some(&parent), &config(1));
        let note = leaky.warm.clone().unwrap();
        assert!(!note.taken && note.reason.contains("seen rows"), "{note:?}");
        assert_eq!((leaky.params, leaky.table), (plain.params, plain.table));
    }
}
