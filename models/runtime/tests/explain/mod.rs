//! What made a forecast: parts of linear models are exact, and an input that a model does not read has none.

use crate::cases;
use fieldcast_features::Window;
use fieldcast_kernel::{InstanceNorm, Normalised};
use fieldcast_onnx::params::{Z_CLIP, dev_floor};
use fieldcast_onnx::{ModelParams, build};
use fieldcast_runtime::{Group, MOST_RUNS, load_onnx, load_plain};

/// A model's linear branch: what an LSTM adds counts for nothing. None where there is no such branch.
fn linear(params: &ModelParams) -> Option<ModelParams> {
    let mut params = params.clone();
    match &mut params {
        ModelParams::Default(p) => p.lstm = None,
        ModelParams::Ensemble(p) => {
            let heads = p.horizon..(1 + p.decoders.len()) * p.horizon;
            p.mean_share[heads].fill(0.0);
        }
        _ => return None,
    }
    Some(params)
}

/// What `group` adds to the mean of a linear branch, `[H]`, by its weights alone.
fn by_weights(params: &ModelParams, window: &Window, group: &Group) -> Vec<f64> {
    let shape = params.shape();
    let (t, f, h, k) = (
        shape.lookback,
        shape.inputs,
        shape.horizon,
        shape.future_width,
    );
    let (highway, future, train_dev, target) = match params {
        ModelParams::Default(p) => (&p.highway, &p.future_weight, &p.train_dev, p.target_input),
        ModelParams::Ensemble(p) => (&p.highway, &p.future_weight, &p.train_dev, p.target_input),
        other => panic!("no linear branch: {other:?}"),
    };
    let wide = |list: &[f32]| list.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
    let (mut past, mut known) = (wide(&highway.weight), wide(future));
    if let ModelParams::Ensemble(p) = params {
        for step in 0..h {
            let share = |part: usize| f64::from(p.mean_share[part * h + step]);
            let row = &mut past[step * t * f..][..t * f];
            row.iter_mut().for_each(|w| *w *= share(0));
            known[step * k..][..k]
                .iter_mut()
                .for_each(|w| *w *= share(0));
            for (i, season) in p.seasons.iter().enumerate() {
                let at = (t - season + step % season) * f + target;
                row[at] += share(1 + p.decoders.len() + i);
            }
        }
    }
    let floors = train_dev.iter().map(|dev| dev_floor(*dev)).collect();
    let mut scaled = Normalised::default();
    InstanceNorm::new(floors, Z_CLIP).run(&window.window, &mut scaled);
    let z = &scaled.z;
    let mean = |f_: usize| z.iter().skip(f_).step_by(f).sum::<f64>() / t as f64;
    let means: Vec<f64> = (0..f).map(mean).collect();
    let inside = |place: &usize| match group {
        Group::Inputs(inputs) => inputs.contains(&(place % f)),
        Group::Steps(steps) => steps.contains(&(t - 1 - place / f)),
        Group::Calendar => false,
    };
    let step = |step: usize| {
        let values = (0..t * f).filter(inside);
        let values = values.map(|at| past[step * t * f + at] * (z[at] - means[at % f]));
        let future = match group {
            Group::Calendar => 0..k,
            _ => 0..0,
        };
        let future = future.map(|i| known[step * k + i] * window.future[step * k + i]);
        scaled.dev[target] * (values.sum::<f64>() + future.sum::<f64>())
    };
    (0..h).map(step).collect()
}

#[test]
fn parts_of_a_linear_branch_are_what_its_weights_say_and_sum_alike_by_inputs_and_by_steps() {
    let mut met = Vec::new();
    for case in cases::all() {
        let Some(params) = linear(&case.params) else {
            continue;
        };
        met.push(case.name);
        let model = load_onnx(&build(&params, &[]).unwrap(), &case.spec).unwrap();
        for window in cases::windows(&case.spec, 20) {
            let explained = model.explain(&window, 4).unwrap();
            assert!(explained.parts.len() < MOST_RUNS);
            assert_eq!(explained.mean, model.forecast(&window).unwrap().mean);
            for part in &explained.parts {
                let exact = by_weights(&params, &window, &part.group);
                for ((effect, exact), mean) in part.effect.iter().zip(exact).zip(&explained.mean) {
                    assert!(
                        (effect - exact).abs()
                            <= 1e-9 * (mean.abs() + case.train_dev + exact.abs()),
                        "{} {:?}: {effect} {exact}",
                        case.name,
                        part.group
                    );
                }
            }
            for h in 0..explained.mean.len() {
                let sum = |inputs: bool| -> f64 {
                    let of_kind = explained.parts.iter().filter(|p| match p.group {
                        Group::Inputs(_) => inputs,
                        Group::Steps(_) => !inputs,
                        Group::Calendar => false,
                    });
                    of_kind.map(|p| p.effect[h]).sum()
                };
                let scale = explained.mean[h].abs() + case.train_dev + sum(true).abs();
                assert!(
                    (sum(true) - sum(false)).abs() <= 1e-6 * scale,
                    "{}: {} {}",
                    case.name,
                    sum(true),
                    sum(false)
                );
            }
        }
    }
    assert_eq!(met, ["lstm", "ridge", "ensemble", "heads"]);
}

#[test]
fn an_input_that_a_model_does_not_read_has_no_part() {
    for case in cases::all() {
        let Some(mut params) = linear(&case.params) else {
            continue;
        };
        let blind = 0;
        let (highway, target) = match &mut params {
            ModelParams::Default(p) => (&mut p.highway, p.target_input),
            ModelParams::Ensemble(p) => (&mut p.highway, p.target_input),
            other => panic!("no linear branch: {other:?}"),
        };
        assert_ne!(blind, target);
        let weights = highway.weight.iter_mut().skip(blind);
        weights
            .step_by(case.spec.inputs.len())
            .for_each(|w| *w = 0.0);
        let model = load_onnx(&build(&params, &[]).unwrap(), &case.spec).unwrap();
        let window = cases::windows(&case.spec, 1).remove(0);
        let explained = model.explain(&window, 4).unwrap();
        for part in &explained.parts {
            if part.group == Group::Inputs(blind..blind + 1) {
                assert!(
                    part.size() <= 1e-9 * (1.0 + explained.mean[0].abs()),
                    "{part:?}"
                );
            }
        }
        let first = &explained.parts[0];
        assert!(first.size() > 0.0 && first.group != Group::Inputs(blind..blind + 1));
    }
}

#[test]
fn every_model_explains_itself_also_in_tract() {
    for case in cases::all() {
        let onnx = build(&case.params, &[]).unwrap();
        let window = cases::windows(&case.spec, 1).remove(0);
        for model in [
            load_onnx(&onnx, &case.spec).unwrap(),
            load_plain(&onnx, &case.spec).unwrap(),
        ] {
            let explained = model.explain(&window, 24).unwrap();
            assert_eq!(explained.mean.len(), case.spec.horizon);
            assert!(!explained.parts.is_empty(), "{}", case.name);
        }
    }
}
