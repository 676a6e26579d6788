//! Tests of reading graphs that are not ours: what runs, and what is refused with which words.
#![allow(clippy::unwrap_used, reason = "tests")]

use fieldcast_onnx::{INPUT_FUTURE, INPUT_WINDOW};
use prost::Message;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto,
    type_proto,
};
use tract_onnx::tract_hir::internal::*;

use super::read;

fn node(kind: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    NodeProto {
        op_type: kind.into(),
        name: format!("{kind} of {}", outputs.join(", ")),
        input: names(inputs),
        output: names(outputs),
        ..Default::default()
    }
}

fn attribute(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        r#type: AttributeType::Ints as i32,
        ints: ints.to_vec(),
        ..Default::default()
    }
}

fn to(element: DataType) -> AttributeProto {
    AttributeProto {
        name: "to".into(),
        r#type: AttributeType::Int as i32,
        i: i64::from(element as i32),
        ..Default::default()
    }
}

fn doubles(name: &str, values: &[f64]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: vec![i64::try_from(values.len()).unwrap()],
        data_type: DataType::Double as i32,
        double_data: values.to_vec(),
        ..Default::default()
    }
}

fn info(name: &str) -> ValueInfoProto {
    let tensor = type_proto::Tensor {
        elem_type: DataType::Double as i32,
        shape: None,
    };
    ValueInfoProto {
        name: name.into(),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..Default::default()
        }),
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
        narrow.attribute = vec![to(DataType::Float)];
        let mut wide = node("Cast", &["made"], &["out"]);
        wide.attribute = vec![to(DataType::Double)];
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
    let refused = |nodes: Vec<NodeProto>, constants, why: &str| {
        let error = run(nodes, constants, &[1.0]).unwrap_err();
        assert!(error.contains(why), "{error}");
    };
    let conv = node("Conv", &["window"], &["out"]);
    let why = "does not run: Conv; it runs Abs, Add, ";
    refused(vec![conv], vec![], why);
    // tract would run each of these two as something else.
    let mut backward = node("LSTM", &["window", "w", "r"], &["out"]);
    backward.attribute = vec![attribute("direction", &[])];
    let why = "`direction` does not run here";
    refused(vec![backward], vec![], why);
    let mut old = node("Clip", &["window"], &["out"]);
    old.attribute = vec![attribute("min", &[])];
    refused(vec![old], vec![], "`min` does not run here");
    let dangling = node("Abs", &["nobody"], &["out"]);
    refused(vec![dangling], vec![], "resolve inputs at top-level");
    let moved = node("Squeeze", &["window", "future"], &["out"]);
    refused(vec![moved], vec![], "must be a constant");
    let nothing = "nothing makes the output `out`";
    refused(vec![node("Abs", &["window"], &["o"])], vec![], nothing);
    let constant = |change: &dyn Fn(&mut TensorProto), why| {
        let mut constant = doubles("c", &[1.0]);
        change(&mut constant);
        let add = node("Add", &["window", "c"], &["out"]);
        refused(vec![add], vec![constant], why);
    };
    constant(&|c| c.dims = vec![3], "ShapeError");
    constant(&|c| c.dims = vec![-1], "Negative dimension");
    constant(&|c| c.dims = vec![i64::MAX; 3], "ShapeError");
    constant(&|c| c.raw_data = vec![0; 9], "does not match shape");
    constant(&|c| c.data_type = DataType::String as i32, "is text");
    constant(&|c| c.data_type = 17, "Unknown DatumType");
    let elsewhere = |c: &mut TensorProto| c.data_location = Some(1);
    constant(&elsewhere, "external data");
}
