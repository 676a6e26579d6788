//! From parameters to forecasts: the graphs against onnxruntime's outputs, and the whole way through a sealed bundle.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod cases;
mod explain;

use fieldcast_bundle::{
    Caps, Expected, GoldenVector, KeyRing, Kind, Manifest, Training, UnverifiedBundle,
    VerifiedBundle, seal, signed,
};
use fieldcast_features::{PIPELINE_VERSION, Window};
use fieldcast_onnx::build;
use fieldcast_runtime::{
    EQUAL, Prediction, RunsBy, RuntimeError, compare, load, load_onnx, load_plain, load_with,
};
use fieldcast_wire::Sha256;
use fieldcast_wire::pb::{HubKey, KeyList};
use ring::signature::{Ed25519KeyPair, KeyPair};

#[derive(serde::Deserialize)]
struct Fixture {
    cases: std::collections::BTreeMap<String, Outputs>,
}

#[derive(serde::Deserialize)]
struct Outputs {
    mean: Vec<Vec<f64>>,
    quantiles: Vec<Vec<f64>>,
}

#[test]
fn our_engine_computes_what_onnxruntime_computes() {
    let fixture: Fixture = serde_json::from_str(include_str!("fixtures/onnxruntime.json")).unwrap();
    for case in cases::all() {
        let expected = &fixture.cases[case.name];
        let model = load_onnx(&build(&case.params, &[]).unwrap(), &case.spec).unwrap();
        let windows = cases::windows(&case.spec, expected.mean.len());
        for (i, window) in windows.iter().enumerate() {
            let found = model.forecast(window).unwrap();
            let theirs = expected.mean[i].iter().chain(&expected.quantiles[i]);
            let ours = found.mean.iter().chain(&found.quantiles);
            assert_eq!(ours.clone().count(), theirs.clone().count());
            for (a, b) in ours.zip(theirs) {
                let allowed = 1e-5 * (b.abs() + case.train_dev);
                assert!(
                    (a - b).abs() <= allowed,
                    "{} window {i}: {a} against {b}",
                    case.name
                );
            }
        }
    }
}

#[test]
fn kernels_tract_and_trainer_compute_the_same() {
    for case in cases::all().into_iter().chain(cases::large()) {
        let onnx = build(&case.params, &[]).unwrap();
        let fused = load_onnx(&onnx, &case.spec).unwrap();
        assert_eq!(*fused.runs_by(), RunsBy::Fused, "{}", case.name);
        let plain = load_plain(&onnx, &case.spec).unwrap();
        assert!(matches!(plain.runs_by(), RunsBy::Plain(_)));
        let mut ours = Prediction::default();
        for (i, window) in cases::windows(&case.spec, 1_000).iter().enumerate() {
            fused.forecast_into(window, &mut ours).unwrap();
            let plain = plain.forecast(window).unwrap();
            let trainer = fieldcast_train::predict(&case.params, window).unwrap();
            let of_trainer = (&trainer.mean, &trainer.quantiles);
            for (name, (mean, quantiles)) in [
                ("tract", (&plain.mean, &plain.quantiles)),
                ("trainer", of_trainer),
            ] {
                let theirs = mean.iter().chain(quantiles);
                let ours = ours.mean.iter().chain(&ours.quantiles);
                assert_eq!(ours.clone().count(), theirs.clone().count());
                for (a, b) in ours.zip(theirs) {
                    let allowed = EQUAL * (b.abs() + case.train_dev);
                    assert!(
                        (a - b).abs() <= allowed,
                        "{} window {i}: {a} against {b} of {name}",
                        case.name
                    );
                }
            }
        }
    }
}

#[test]
fn a_graph_that_is_not_ours_runs_in_tract() {
    use prost::Message;
    let case = &cases::all()[0];
    let ours = build(&case.params, &[]).unwrap();
    let window = cases::windows(&case.spec, 1).remove(0);
    let expected = load_onnx(&ours, &case.spec).unwrap();
    let expected = expected.forecast(&window).unwrap();
    let changed = |change: &dyn Fn(&mut tract_onnx::pb::GraphProto)| {
        let mut file = tract_onnx::pb::ModelProto::decode(&ours[..]).unwrap();
        change(file.graph.as_mut().unwrap());
        load_onnx(&file.encode_to_vec(), &case.spec).unwrap()
    };
    // The same arithmetic under another name, and another arithmetic under the same names.
    let renamed = changed(&|g| {
        for node in &mut g.node {
            for name in node.input.iter_mut().chain(&mut node.output) {
                if name == "ratio" {
                    *name = "quotient".into();
                }
            }
        }
    });
    let other = changed(&|g| {
        let node = g.node.iter_mut().find(|n| n.output == ["lstm_dev"]);
        node.unwrap().op_type = "Max".into();
    });
    for model in [&renamed, &other] {
        assert!(matches!(model.runs_by(), RunsBy::Plain(_)), "{model:?}");
    }
    let near = |a: f64, b: f64| (a - b).abs() <= EQUAL * (b.abs() + case.train_dev);
    let (renamed, other) = (renamed.forecast(&window), other.forecast(&window));
    assert!(near(renamed.unwrap().mean[0], expected.mean[0]));
    assert!(!near(other.unwrap().mean[0], expected.mean[0]));
    // Another number is a model of ours all the same, and runs with it.
    let tuned = changed(&|g| {
        let bias = g.initializer.iter_mut().find(|t| t.name == "highway_bias");
        bias.unwrap().raw_data[..4].copy_from_slice(&100.0_f32.to_le_bytes());
    });
    assert_eq!(*tuned.runs_by(), RunsBy::Fused);
    assert!(tuned.forecast(&window).unwrap().mean[0] > expected.mean[0] + 1.0);
}

#[test]
fn an_operator_that_does_not_run_here_is_named_with_those_that_do() {
    use prost::Message;
    let case = &cases::all()[0];
    let ours = build(&case.params, &[]).unwrap();
    let mut file = tract_onnx::pb::ModelProto::decode(&ours[..]).unwrap();
    let nodes = &mut file.graph.as_mut().unwrap().node;
    nodes[0].op_type = "Conv".into();
    nodes[1].op_type = "Mystery".into();
    let error = load_onnx(&file.encode_to_vec(), &case.spec).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("Conv, Mystery; it runs Abs, "), "{error}");
    assert!(error.contains(", LSTM, ") && error.contains("build the graph again"));
}

#[test]
fn kernels_that_were_refused_do_not_run() {
    let case = &cases::all()[0];
    let bundle = sealed(case, |_| {});
    let refused = load_with(&bundle, |_| Err("they differ".into())).unwrap();
    assert_eq!(*refused.runs_by(), RunsBy::Plain("they differ".into()));
    let trusted = load_with(&bundle, |_| Ok(())).unwrap();
    assert_eq!(*trusted.runs_by(), RunsBy::Fused);
    let golden = &bundle.manifest().golden;
    let dev = Some(case.train_dev);
    let agreement = compare(bundle.onnx(), &case.spec, dev, golden).unwrap();
    assert!(agreement.windows > 100 && agreement.worst < EQUAL);
    // A golden vector that does not fit is no reason to panic.
    let mut short = golden.clone();
    short[0].window.pop();
    assert!(compare(bundle.onnx(), &case.spec, dev, &short).is_err());
}

/// Seals a case with golden vectors made by `load_onnx`, changed by `change`, and verifies it as a device would.
fn sealed(case: &cases::Case, change: impl Fn(&mut Manifest)) -> VerifiedBundle {
    let onnx = build(&case.params, &[]).unwrap();
    let model = load_onnx(&onnx, &case.spec).unwrap();
    let golden = cases::windows(&case.spec, 6).into_iter().map(|w| {
        let p = model.forecast(&w).unwrap();
        GoldenVector {
            window: w.window,
            future: w.future,
            mean: p.mean,
            quantiles: p.quantiles,
        }
    });
    let mut manifest = Manifest {
        format: 0,
        forecaster: case.spec.clone(),
        version: 3,
        onnx_sha256: String::new(),
        reference_sha256: String::new(),
        pipeline_version: PIPELINE_VERSION,
        train_dev: case.train_dev,
        golden: golden.collect(),
        calibration: Default::default(),
        training: Training::default(),
        min_agent: "0.1.0".into(),
        created: 1_000,
        expires: None,
    };
    change(&mut manifest);
    let (root, hub) = (key(1), key(2));
    let bytes = seal(manifest, onnx, b"{}".to_vec(), signer(&hub), "hub").unwrap();
    let public_key = hub.public_key().as_ref().to_vec();
    let list = KeyList {
        version: 1,
        keys: vec![HubKey {
            key_id: "hub".into(),
            public_key,
        }],
    };
    let list = signed::sign(
        Kind::KeyList,
        fieldcast_wire::message::encode(&list),
        "root",
        signer(&root),
    );
    let mut ring = KeyRing::new(root.public_key().as_ref().try_into().unwrap());
    ring.accept(&list).unwrap();
    let expected = Expected {
        sha256: Sha256::of(&bytes),
        forecaster: "demand",
        agent_version: "0.1.0",
    };
    UnverifiedBundle::parse(&bytes, &Caps::default())
        .unwrap()
        .verify(&ring, &expected, 2_000)
        .unwrap()
}

fn key(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn signer(key: &Ed25519KeyPair) -> impl Fn(&[u8]) -> [u8; 64] {
    |message| key.sign(message).as_ref().try_into().unwrap()
}

#[test]
fn every_kind_of_model_goes_the_whole_way() {
    for case in cases::all() {
        let model = load(&sealed(&case, |_| {})).unwrap();
        let window = cases::windows(&case.spec, 1).remove(0);
        let direct = load_onnx(&build(&case.params, &[]).unwrap(), &case.spec).unwrap();
        // Used from another thread than the one that loaded it.
        let moved = std::thread::scope(|s| s.spawn(|| model.forecast(&window)).join().unwrap());
        assert_eq!(moved, direct.forecast(&window));
    }
}

#[test]
fn a_golden_vector_that_comes_out_differently_refuses_the_bundle() {
    let case = &cases::all()[0];
    let off = 2e-4 * case.train_dev;
    let moved = sealed(case, |m| m.golden[4].mean[2] += off);
    let error = load(&moved).unwrap_err();
    assert!(
        matches!(
            error,
            RuntimeError::Golden {
                index: 4,
                what: "mean",
                at: 2,
                ..
            }
        ),
        "{error}"
    );
    let moved = sealed(case, |m| m.golden[0].quantiles[0] -= off);
    assert!(matches!(
        load(&moved),
        Err(RuntimeError::Golden {
            index: 0,
            what: "quantiles",
            at: 0,
            ..
        })
    ));
    assert!(load(&sealed(case, |m| m.golden[4].mean[2] += 0.1 * off)).is_ok());
}

#[test]
fn another_feature_pipeline_refuses_the_bundle() {
    let other = sealed(&cases::all()[1], |m| {
        m.pipeline_version = PIPELINE_VERSION + 1
    });
    assert!(matches!(load(&other), Err(RuntimeError::Pipeline { .. })));
}

#[test]
fn wrong_windows_and_outputs_are_errors() {
    let case = &cases::all()[0];
    let model = load_onnx(&build(&case.params, &[]).unwrap(), &case.spec).unwrap();
    let good = cases::windows(&case.spec, 1).remove(0);
    let with = |change: &dyn Fn(&mut Window)| {
        let mut window = good.clone();
        change(&mut window);
        model.forecast(&window).unwrap_err()
    };
    assert!(matches!(
        with(&|w| w.window.truncate(1)),
        RuntimeError::WindowSize { what: "window", .. }
    ));
    assert!(matches!(
        with(&|w| w.future.clear()),
        RuntimeError::WindowSize { what: "future", .. }
    ));
    let empty = with(&|w| {
        w.window
            .iter_mut()
            .skip(2)
            .step_by(3)
            .for_each(|v| *v = f64::NAN)
    });
    assert_eq!(empty, RuntimeError::NoTarget);
    assert_eq!(
        with(&|w| w.future[0] = f64::NAN),
        RuntimeError::NotFinite { what: "mean" }
    );
    assert_eq!(
        with(&|w| w.window[0] = f64::INFINITY),
        RuntimeError::NotFinite { what: "window" }
    );
    let mut other = case.spec.clone();
    other.lookback += 1;
    let refused = load_onnx(&build(&case.params, &[]).unwrap(), &other);
    assert!(matches!(refused, Err(RuntimeError::Load { .. })));
    assert!(matches!(
        load_onnx(b"no graph", &case.spec),
        Err(RuntimeError::Load { .. })
    ));
}
