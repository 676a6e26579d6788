//! Reading an ONNX file for tract: owns the list of operators that a graph may use and what is refused, never what it computes.
//!
//! tract's own register holds every operator it knows, and with it the linker keeps operators in a program for small devices
//! that none of its graphs has. This one holds what our graphs are made of, and what is next to it and costs nothing.

use std::collections::BTreeSet;

use tract_onnx::Onnx;
use tract_onnx::model::{OnnxOpRegister, ParsingContext, optional_inputs};
use tract_onnx::ops::rec::lstm::lstm;
use tract_onnx::pb::{GraphProto, NodeProto, TensorProto, tensor_proto::DataType};
use tract_onnx::prelude::Framework as _;
use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::ops;
use tract_onnx::tract_hir::ops::activations;
use tract_onnx::tract_hir::ops::array;
use tract_onnx::tract_hir::ops::binary::Nary;
use tract_onnx::tract_hir::ops::logic::{Iff, wire_with_rank_broadcast};
use tract_onnx::tract_hir::ops::matmul::MatMulInference;
use tract_onnx::tract_hir::ops::nn::{Reduce, Reducer};
use tract_onnx::tract_hir::tract_core::ops::cast::cast;
use tract_onnx::tract_hir::tract_core::ops::logic::{And, CompEq, CompGT, CompLT, Or, not};
use tract_onnx::tract_hir::tract_core::ops::math::is_nan;

/// An operator, and the values it reads beside its inputs: for us always none.
type Built = TractResult<(Box<dyn InferenceOp>, Vec<String>)>;

/// The graph of a file; its inputs are what is handed in, whatever the file says about their sizes.
pub(crate) fn read(onnx: &[u8], inputs: &[(&str, InferenceFact)]) -> TractResult<InferenceModel> {
    let reader = Onnx {
        op_register: known(),
        ..Onnx::default()
    };
    let file = reader
        .proto_model_for_read(&mut std::io::Cursor::new(onnx))
        .context("reading the file")?;
    let graph = file.graph.as_ref().context("the file has no graph")?;
    check(graph, &reader.op_register)?;
    let mut model = reader.model_for_proto_model(&file)?;
    for (i, (name, fact)) in inputs.iter().enumerate() {
        let found = model.inputs.get(i).map(|o| &*model.node(o.node).name);
        ensure!(
            found == Some(name),
            "input {i} is {found:?} instead of `{name}`"
        );
        model.set_input_fact(i, fact.clone())?;
    }
    Ok(model)
}

/// Says which of a file's operators do not run here, and which do; and refuses what tract would panic at.
fn check(graph: &GraphProto, known: &OnnxOpRegister) -> TractResult<()> {
    let known: BTreeSet<&str> = known.0.keys().map(String::as_str).collect();
    let kinds = graph.node.iter().map(|node| &*node.op_type);
    let unknown: BTreeSet<&str> = kinds.filter(|kind| !known.contains(kind)).collect();
    ensure!(
        unknown.is_empty(),
        "the graph has operators that this program does not run: {}; it runs {}",
        join(unknown),
        join(known)
    );
    let text = |t: &&TensorProto| t.data_type == DataType::String as i32;
    if let Some(constant) = graph.initializer.iter().find(text) {
        bail!(
            "constant `{}` is text, which does not run here",
            constant.name
        );
    }
    let inputs = graph.input.iter().map(|input| &input.name);
    let constants = graph.initializer.iter().map(|constant| &constant.name);
    let made = graph.node.iter().flat_map(|node| &node.output);
    let values: BTreeSet<&String> = inputs.chain(constants).chain(made).collect();
    let mut outputs = graph.output.iter().map(|output| &output.name);
    match outputs.find(|output| !values.contains(output)) {
        Some(output) => bail!("nothing makes the output `{output}`"),
        None => Ok(()),
    }
}

fn join(names: BTreeSet<&str>) -> String {
    names.into_iter().collect::<Vec<_>>().join(", ")
}

fn known() -> OnnxOpRegister {
    let mut known = OnnxOpRegister::default();
    arithmetic(&mut known);
    shapes(&mut known);
    known.insert("Identity", |_, _| {
        built(Box::<ops::identity::Identity>::default())
    });
    known.insert("Cast", |_, node| {
        let to = node.get_attr::<DatumType>("to")?;
        // tract counts in its own type of integer.
        let counts = to == i64::datum_type();
        let to = if counts { TDim::datum_type() } else { to };
        built(Box::new(cast(to)))
    });
    known.insert("LSTM", |context, node| {
        // tract leaves out all others of it: direction, activations, clip, coupled gates.
        only(node, &["hidden_size", "layout"])?;
        lstm(context, node)
    });
    known.insert("MatMul", |_, _| built(expand(MatMulInference::default())));
    known
}

/// Refuses every attribute but these.
fn only(node: &NodeProto, names: &[&str]) -> TractResult<()> {
    let mut others = node.attribute.iter().map(|a| &*a.name);
    match others.find(|name| !names.contains(name)) {
        Some(other) => node.bail(&format!(
            "attribute `{other}` does not run here; leave it out"
        )),
        None => Ok(()),
    }
}

fn built(op: Box<dyn InferenceOp>) -> Built {
    Ok((op, vec![]))
}

fn arithmetic(known: &mut OnnxOpRegister) {
    known.insert("Add", |_, _| built(ops::math::Add.into_hir()));
    known.insert("Sub", |_, _| built(ops::math::Sub.into_hir()));
    known.insert("Mul", |_, _| built(ops::math::Mul.into_hir()));
    known.insert("Div", |_, _| built(ops::math::Div.into_hir()));
    known.insert("Max", |_, _| {
        built(Box::new(Nary(Box::new(ops::math::Max), false)))
    });
    known.insert("Min", |_, _| {
        built(Box::new(Nary(Box::new(ops::math::Min), false)))
    });
    known.insert("Clip", |_, node| {
        only(node, &[])?;
        let mut bounds = optional_inputs(node).skip(1);
        let min = bounds.next().flatten();
        let max = bounds.next().flatten();
        built(expand(Clip { min, max }))
    });
    known.insert("Abs", |_, _| built(ops::math::abs().into_hir()));
    known.insert("Neg", |_, _| built(ops::math::neg().into_hir()));
    known.insert("Exp", |_, _| built(ops::math::exp().into_hir()));
    known.insert("Log", |_, _| built(ops::math::ln().into_hir()));
    known.insert("Sqrt", |_, _| built(ops::math::sqrt().into_hir()));
    known.insert("IsNaN", |_, _| built(is_nan().into_hir()));
    known.insert("Relu", |_, _| {
        built(expand(activations::Clip::new(Some(0.0), None)))
    });
    known.insert("Sigmoid", |_, _| built(ops::nn::sigmoid().into_hir()));
    known.insert("Tanh", |_, _| built(ops::math::tanh().into_hir()));
    known.insert("Not", |_, _| built(not().into_hir()));
    known.insert("And", |_, _| built(And.into_hir()));
    known.insert("Or", |_, _| built(Or.into_hir()));
    known.insert("Equal", |_, _| built(CompEq.into_hir()));
    known.insert("Greater", |_, _| built(CompGT.into_hir()));
    known.insert("Less", |_, _| built(CompLT.into_hir()));
    known.insert("Where", |_, _| built(expand(Iff)));
}

fn shapes(known: &mut OnnxOpRegister) {
    known.insert("Flatten", |_, node| {
        let axis = node.get_attr_opt("axis")?.unwrap_or(1);
        built(expand(array::Flatten::new(axis)))
    });
    known.insert("Gather", |_, node| {
        let axis = node.get_attr_opt("axis")?.unwrap_or(0);
        built(expand(array::Gather::new(axis)))
    });
    known.insert("Reshape", |_, node| {
        let allow_zero = node.get_attr_opt::<i64>("allowzero")?.unwrap_or(0) != 0;
        built(expand(array::Reshape::new(allow_zero)))
    });
    known.insert("Transpose", |_, node| {
        let order = node.get_attr_opt_vec("perm")?;
        built(expand(array::PermuteAxes::new(order.map(|o| o.into()))))
    });
    known.insert("Squeeze", |context, node| {
        let axes = axes(context, node)?;
        built(first_input(array::Squeeze::new(axes.map(signed))))
    });
    known.insert("Unsqueeze", |context, node| {
        let axes = axes(context, node)?.unwrap_or_default();
        built(first_input(array::AddDims::new(signed(axes))))
    });
    known.insert("ReduceMax", |c, node| reduce(c, node, Reducer::Max));
    known.insert("ReduceMean", |c, node| reduce(c, node, Reducer::Mean));
    known.insert("ReduceMin", |c, node| reduce(c, node, Reducer::Min));
    known.insert("ReduceSum", |c, node| reduce(c, node, Reducer::Sum));
}

fn reduce(context: &ParsingContext, node: &NodeProto, reducer: Reducer) -> Built {
    only(node, &["axes", "keepdims"])?;
    let axes = axes(context, node)?;
    let keep = node.get_attr_opt("keepdims")?.unwrap_or(1_i64) == 1;
    built(first_input(Reduce::new(axes, keep, reducer)))
}

/// Axes are an attribute in older operator sets, a second input in newer ones; none at all means every axis.
fn axes(context: &ParsingContext, node: &NodeProto) -> TractResult<Option<Vec<i64>>> {
    let Some(name) = node.input.get(1).filter(|name| !name.is_empty()) else {
        return node.get_attr_opt_vec("axes");
    };
    let graph = context.parent_graphs.last();
    let mut constants = graph.iter().flat_map(|graph| &graph.initializer);
    let Some(constant) = constants.find(|t| t.name == *name) else {
        return node.bail("its axes must be a constant of the graph");
    };
    let axes = context.load_tensor(constant)?;
    let axes = axes.cast_to::<i64>()?;
    let axes = axes.try_as_plain_ram()?.as_slice::<i64>()?.to_vec();
    Ok(Some(axes).filter(|axes| !axes.is_empty()))
}

fn signed(axes: Vec<i64>) -> Vec<isize> {
    let axes = axes.into_iter();
    axes.map(|axis| isize::try_from(axis).unwrap_or(isize::MAX))
        .collect()
}

fn first_input(op: impl Expansion) -> Box<dyn InferenceOp> {
    expand(FirstInput(Box::new(op)))
}

/// An operator whose second input is a constant that it knows already.
#[derive(Debug, Clone)]
struct FirstInput(Box<dyn Expansion>);

impl Expansion for FirstInput {
    fn name(&self) -> StaticName {
        self.0.name()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        self.0.rules(s, first(inputs), outputs)
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        self.0.wire(prefix, model, first(inputs))
    }
}

fn first<T>(inputs: &[T]) -> &[T] {
    &inputs[..inputs.len().min(1)]
}

/// Bounds that are inputs, by their place; either may be absent.
#[derive(Debug, Clone)]
struct Clip {
    min: Option<usize>,
    max: Option<usize>,
}

impl Expansion for Clip {
    fn name(&self) -> StaticName {
        "Clip".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        let bounds = self.min.iter().chain(&self.max).count();
        check_input_arity(inputs, 1 + bounds)?;
        check_output_arity(outputs, 1)?;
        s.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
        s.equals(&inputs[0].shape, &outputs[0].shape)
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let mut wire = inputs[0];
        for (bound, name, op) in [
            (self.min, "min", ops::math::max()),
            (self.max, "max", ops::math::min()),
        ] {
            if let Some(bound) = bound {
                let name = format!("{prefix}.{name}");
                let both = [wire, inputs[bound]];
                wire = wire_with_rank_broadcast(name, model, op, &both)?[0];
            }
        }
        Ok(tvec!(wire))
    }
}

#[cfg(test)]
#[path = "operators_tests.rs"]
mod tests;
