//! A small writer of ONNX graphs: owns tensor and node encoding, never knows a model.

use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};

/// Operator set of every graph we write.
pub const OPSET: i64 = 17;
/// File format version that goes with the operator set.
const IR_VERSION: i64 = 8;

// Codes of onnx.proto: TensorProto.DataType and AttributeProto.AttributeType.
pub(crate) const F32: i32 = 1;
pub(crate) const I64: i32 = 7;
pub(crate) const F64: i32 = 11;
const ATTRIBUTE_INT: i32 = 2;
const ATTRIBUTE_INTS: i32 = 7;

/// A value in the graph, by its name.
#[derive(Debug, Clone)]
pub(crate) struct Value(pub(crate) String);

/// An attribute of a node.
pub(crate) enum Attribute {
    Int(&'static str, i64),
    Ints(&'static str, Vec<i64>),
}

/// A graph in the making; values are named after the node that makes them.
#[derive(Default)]
pub(crate) struct Graph {
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<ValueInfoProto>,
    /// What the graph is, in words.
    pub(crate) doc: &'static str,
}

impl Graph {
    /// Declares an input; a missing dimension is the batch.
    pub(crate) fn input(&mut self, name: &str, element: i32, dims: &[Option<usize>]) -> Value {
        self.inputs.push(value_info(name, element, dims));
        Value(name.into())
    }

    /// Declares `value` as an output called `name`.
    pub(crate) fn output(
        &mut self,
        name: &str,
        value: &Value,
        element: i32,
        dims: &[Option<usize>],
    ) {
        self.nodes
            .push(node("Identity", name, &[value], vec![name.into()], vec![]));
        self.outputs.push(value_info(name, element, dims));
    }

    pub(crate) fn f32s(&mut self, name: &str, dims: &[usize], data: &[f32]) -> Value {
        self.constant(
            name,
            F32,
            dims,
            data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        )
    }

    pub(crate) fn f64s(&mut self, name: &str, dims: &[usize], data: &[f64]) -> Value {
        self.constant(
            name,
            F64,
            dims,
            data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        )
    }

    pub(crate) fn i64s(&mut self, name: &str, data: &[i64]) -> Value {
        self.constant(
            name,
            I64,
            &[data.len()],
            data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        )
    }

    fn constant(&mut self, name: &str, element: i32, dims: &[usize], raw_data: Vec<u8>) -> Value {
        self.initializers.push(TensorProto {
            name: name.into(),
            dims: dims.iter().map(|d| index(*d)).collect(),
            data_type: element,
            raw_data,
            ..Default::default()
        });
        Value(name.into())
    }

    /// A node with one output, which bears the node's name.
    pub(crate) fn op(&mut self, op: &str, name: &str, inputs: &[&Value]) -> Value {
        self.op_with(op, name, inputs, vec![])
    }

    pub(crate) fn op_with(
        &mut self,
        op: &str,
        name: &str,
        inputs: &[&Value],
        attributes: Vec<Attribute>,
    ) -> Value {
        self.nodes
            .push(node(op, name, inputs, vec![name.into()], attributes));
        Value(name.into())
    }

    pub(crate) fn cast(&mut self, name: &str, value: &Value, element: i32) -> Value {
        self.op_with(
            "Cast",
            name,
            &[value],
            vec![Attribute::Int("to", i64::from(element))],
        )
    }

    /// The last state `[1, B, hidden]` of an LSTM over `[T, B, I]`.
    pub(crate) fn lstm_last(&mut self, name: &str, inputs: &[&Value], hidden: usize) -> Value {
        let outputs = vec![String::new(), name.into()];
        self.nodes.push(node(
            "LSTM",
            name,
            inputs,
            outputs,
            vec![Attribute::Int("hidden_size", index(hidden))],
        ));
        Value(name.into())
    }

    /// What the file holds.
    pub(crate) fn model(self, metadata: &[(String, String)]) -> ModelProto {
        ModelProto {
            ir_version: IR_VERSION,
            producer_name: "fieldcast".into(),
            producer_version: env!("CARGO_PKG_VERSION").into(),
            opset_import: vec![OperatorSetIdProto {
                domain: String::new(),
                version: OPSET,
            }],
            metadata_props: metadata
                .iter()
                .map(|(key, value)| StringStringEntryProto {
                    key: key.clone(),
                    value: value.clone(),
                })
                .collect(),
            graph: Some(GraphProto {
                name: "forecast".into(),
                doc_string: self.doc.into(),
                node: self.nodes,
                initializer: self.initializers,
                input: self.inputs,
                output: self.outputs,
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

/// A size as ONNX writes it.
pub(crate) fn index(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn node(
    op: &str,
    name: &str,
    inputs: &[&Value],
    output: Vec<String>,
    attributes: Vec<Attribute>,
) -> NodeProto {
    NodeProto {
        op_type: op.into(),
        name: format!("{op}/{name}"),
        input: inputs.iter().map(|v| v.0.clone()).collect(),
        output,
        attribute: attributes
            .into_iter()
            .map(|a| match a {
                Attribute::Int(name, i) => AttributeProto {
                    name: name.into(),
                    r#type: ATTRIBUTE_INT,
                    i,
                    ..Default::default()
                },
                Attribute::Ints(name, ints) => AttributeProto {
                    name: name.into(),
                    r#type: ATTRIBUTE_INTS,
                    ints,
                    ..Default::default()
                },
            })
            .collect(),
        ..Default::default()
    }
}

fn value_info(name: &str, element: i32, dims: &[Option<usize>]) -> ValueInfoProto {
    let dim = dims
        .iter()
        .map(|d| Dimension {
            value: Some(match d {
                Some(n) => dimension::Value::DimValue(index(*n)),
                None => dimension::Value::DimParam("batch".into()),
            }),
            ..Default::default()
        })
        .collect();
    ValueInfoProto {
        name: name.into(),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(type_proto::Tensor {
                elem_type: element,
                shape: Some(TensorShapeProto { dim }),
            })),
            ..Default::default()
        }),
        ..Default::default()
    }
}
