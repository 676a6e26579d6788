//! Tests of reading graphs that are not ours: what runs, and what is refused with which words.
#![allow(clippy::unwrap_used, reason = "tests")]

use fieldcast_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
};
use fieldcast_onnx::{INPUT_FUTURE, INPUT_WINDOW};
use prost::Message;
use tract_hir::internal::*;

use super::read;

fn node(kind: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    NodeProto {
        op_type: kind.into(),
        name: kind.into(),
        input: names(inputs),
        output: names(outputs),
        ..Default::default()
    }
}

fn attribute(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        r#type: super::ATTRIBUTE_INTS,
        ints: ints.to_vec(),
        ..Default::default()
    }
}

fn to(element: i32) -> AttributeProto {
    AttributeProto {
        name: "to".into(),
        r#type: super::ATTRIBUTE_INT,
        i: i64::from(element),
        ..Default::default()
    }
}

fn doubles(name: &str, values: &[f64]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: vec![i64::try_from(values.len()).unwrap()],
        data_type: super::F64,
        double_data: values.to_vec(),
        ..Default::default()
    }
}

fn info(name: &str) -> ValueInfoProto {
    ValueInfoProto {
        name: name.into(),
        ..Default::default()
    }
}

/// Runs nodes from `window` `[1, n]` to `out`.
fn run(
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
    window: &[f64],
) -> Result<Vec<f64>, String> {
    let file = ModelProto {
        graph: Some(GraphProto {
            node: nodes,
            initializer: constants,
            input: vec![info(INPUT_WINDOW), info(INPUT_FUTURE)],
            output: vec![info("out")],
            ..Default::default()
        }),
        ..Default::default()
    };
    let inputs = [
        (INPUT_WINDOW, f64::fact([1, window.len()]).into()),
        (INPUT_FUTURE, f64::fact([1, 1]).into()),
    ];
    let text = |e: TractError| format!("{e:#}");
    let model = read(&file.encode_to_vec(), &inputs).map_err(text)?;
    let plan = model.into_optimized().map_err(text)?.into_runnable();
    let window = Tensor::from_shape(&[1, window.len()], window).unwrap();
    let future = Tensor::from_shape(&[1, 1], &[0.0]).unwrap();
    let plan = plan.map_err(text)?;
    let outputs = plan.run(tvec!(window.into(), future.into()));
    let outputs = outputs.map_err(text)?;
    let plain = outputs[0].try_as_plain_ram().map_err(text)?;
    Ok(plain.as_slice::<f64>().map_err(text)?.to_vec())
}

#[test]
fn operators_beside_ours_compute_what_onnx_says() {
    let window = [-2.0, 0.5, 3.0];
    let unary = |kind: &str| run(vec![node(kind, &["window"], &["out"])], vec![], &window);
    let each = |f: fn(f64) -> f64| window.map(f).to_vec();
    assert_eq!(unary("Abs"), Ok(each(f64::abs)));
    assert_eq!(unary("Neg"), Ok(each(|v| -v)));
    assert_eq!(unary("Relu"), Ok(each(|v| v.max(0.0))));
    // tract has these in f32 only.
    let narrow = |kind: &str| {
        let mut narrow = node("Cast", &["window"], &["narrow"]);
        narrow.attribute = vec![to(super::F32)];
        let mut wide = node("Cast", &["made"], &["out"]);
        wide.attribute = vec![to(super::F64)];
        let nodes = vec![narrow, node(kind, &["narrow"], &["made"]), wide];
        run(nodes, vec![], &window).unwrap()
    };
    for (kind, expected) in [
        ("Tanh", each(f64::tanh)),
        ("Sigmoid", each(|v| 1.0 / (1.0 + (-v).exp()))),
    ] {
        let found = narrow(kind);
        assert_eq!(found.len(), expected.len());
        for (a, b) in found.iter().zip(&expected) {
            assert!((a - b).abs() < 1e-5, "{kind}: {a} against {b}");
        }
    }
    // One bound of two; axes as older files write them.
    let mut least = node("ReduceMin", &["high"], &["out"]);
    least.attribute = vec![attribute("axes", &[1])];
    let clip = node("Clip", &["window", "", "most"], &["high"]);
    let most = TensorProto {
        dims: vec![],
        ..doubles("most", &[1.0])
    };
    let clipped = run(vec![clip.clone()], vec![most.clone()], &window);
    assert!(clipped.unwrap_err().contains("nothing makes the output"));
    assert_eq!(run(vec![clip, least], vec![most], &window), Ok(vec![-2.0]));
    // Comparisons, and a choice between two.
    let nodes = vec![
        node("Less", &["window", "zero"], &["below"]),
        node("Greater", &["window", "two"], &["above"]),
        node("Or", &["below", "above"], &["outside"]),
        node("Where", &["outside", "zero", "window"], &["out"]),
    ];
    let constants = vec![doubles("zero", &[0.0]), doubles("two", &[2.0])];
    assert_eq!(run(nodes, constants, &window), Ok(vec![0.0, 0.5, 0.0]));
}

#[test]
fn what_does_not_run_is_refused_with_its_reason() {
    let refused = |nodes: Vec<NodeProto>, constants| run(nodes, constants, &[1.0]).unwrap_err();
    let unknown = refused(vec![node("Conv", &["window"], &["out"])], vec![]);
    assert!(unknown.contains("does not run: Conv; it runs Abs, Add, "));
    let mut backward = node("LSTM", &["window", "w", "r"], &["out"]);
    backward.attribute = vec![attribute("direction", &[])];
    let backward = refused(vec![backward], vec![]);
    assert!(backward.contains("`direction` does not run here"));
    let inputs = ["window", "w", "r", "", "", "first_state"];
    let with_state = refused(vec![node("LSTM", &inputs, &["out"])], vec![]);
    assert!(with_state.contains("first states and peepholes"));
    let dangling = refused(vec![node("Abs", &["nobody"], &["out"])], vec![]);
    assert!(dangling.contains("nothing before makes its input `nobody`"));
    let moved = refused(
        vec![node("Squeeze", &["window", "future"], &["out"])],
        vec![],
    );
    assert!(moved.contains("must be a constant"));
    let add = || vec![node("Add", &["window", "c"], &["out"])];
    let constant = |change: &dyn Fn(&mut TensorProto)| {
        let mut constant = doubles("c", &[1.0]);
        change(&mut constant);
        refused(add(), vec![constant])
    };
    assert!(constant(&|c| c.dims = vec![3]).contains("1 values for dimensions [3]"));
    assert!(constant(&|c| c.dims = vec![-1]).contains("its dimensions"));
    assert!(constant(&|c| c.dims = vec![i64::MAX; 3]).contains("values for dimensions"));
    assert!(constant(&|c| c.raw_data = vec![0; 9]).contains("1 bytes are too many"));
    assert!(constant(&|c| c.data_type = 8).contains("element type 8 does not run here"));
    assert!(constant(&|c| c.external_data = vec![Default::default()]).contains("lie elsewhere"));
}
