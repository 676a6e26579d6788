//! What made a forecast: parts of linear models are exact, and an input that a model does not read has none.

use crate::cases;
use fieldcast_onnx::{ModelParams, build};
use fieldcast_runtime::{Group, MOST_RUNS, load_onnx, load_plain};

#[test]
fn parts_of_a_linear_model_by_inputs_and_by_steps_sum_to_the_same() {
    let mut met = 0;
    for mut case in cases::all() {
        let ModelParams::Default(p) = &mut case.params else {
            continue;
        };
        p.lstm = None;
        met += 1;
        let model = load_onnx(&build(&case.params, &[]).unwrap(), &case.spec).unwrap();
        for window in cases::windows(&case.spec, 20) {
            let explained = model.explain(&window, 4).unwrap();
            assert!(explained.parts.len() < MOST_RUNS);
            assert_eq!(explained.mean, model.forecast(&window).unwrap().mean);
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
    assert!(met > 0);
}

#[test]
fn an_input_that_a_model_does_not_read_has_no_part() {
    for mut case in cases::all() {
        let ModelParams::Default(p) = &mut case.params else {
            continue;
        };
        if p.inputs < 2 {
            continue;
        }
        p.lstm = None;
        let (inputs, blind) = (p.inputs, p.inputs - 1 - p.target_input.min(p.inputs - 1));
        if blind == p.target_input {
            continue;
        }
        let weights = p.highway.weight.iter_mut().skip(blind);
        weights.step_by(inputs).for_each(|w| *w = 0.0);
        let model = load_onnx(&build(&case.params, &[]).unwrap(), &case.spec).unwrap();
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
