//! The ONNX operators that a graph may use here: owns their list and how tract gets them, never what a graph computes with them.
//!
//! tract reads ONNX files itself, with every operator it knows, and with it the linker keeps convolutions, Fourier transforms and
//! attention in a program for small devices. These are what our graphs are made of, and what is next to it and costs nothing.

use tract_hir::internal::*;
use tract_hir::ops::activations;
use tract_hir::ops::array;
use tract_hir::ops::binary::Nary;
use tract_hir::ops::identity::Identity;
use tract_hir::ops::logic::{Iff, wire_with_rank_broadcast};
use tract_hir::ops::math;
use tract_hir::ops::matmul::MatMulInference;
use tract_hir::ops::nn::{Reduce, Reducer, sigmoid};
use tract_hir::tract_core::ops::cast::cast;
use tract_hir::tract_core::ops::logic::{And, CompEq, CompGT, CompLT, Or, not};

use crate::lstm::Lstm;
use crate::reader::{Node, element};

type Operator = TractResult<Box<dyn InferenceOp>>;
pub(crate) type Builder = fn(Node) -> Operator;

/// By name, in order.
const KNOWN: &[(&str, Builder)] = &[
    ("Abs", |_| Ok(math::abs().into_hir())),
    ("Add", |_| Ok(math::Add.into_hir())),
    ("And", |_| Ok(And.into_hir())),
    ("Cast", |node| {
        let to = element(node.int("to", 0)?)?;
        // tract counts in its own type of integer.
        let counts = to == i64::datum_type();
        let to = if counts { TDim::datum_type() } else { to };
        Ok(Box::new(cast(to)))
    }),
    ("Clip", |node| {
        node.only(&[])?;
        Ok(expand(Clip {
            min: node.slot_of_input(1),
            max: node.slot_of_input(2),
        }))
    }),
    ("Div", |_| Ok(math::Div.into_hir())),
    ("Equal", |_| Ok(CompEq.into_hir())),
    ("Exp", |_| Ok(math::exp().into_hir())),
    ("Flatten", |node| {
        Ok(expand(array::Flatten::new(node.int("axis", 1)?)))
    }),
    ("Gather", |node| {
        Ok(expand(array::Gather::new(node.int("axis", 0)?)))
    }),
    ("Greater", |_| Ok(CompGT.into_hir())),
    ("Identity", |_| Ok(Box::<Identity>::default())),
    ("IsNaN", |_| Ok(math::is_nan().into_hir())),
    ("LSTM", |node| Ok(expand(Lstm::of(node)?))),
    ("Less", |_| Ok(CompLT.into_hir())),
    ("Log", |_| Ok(math::ln().into_hir())),
    ("MatMul", |_| Ok(expand(MatMulInference::default()))),
    ("Max", |_| Ok(Box::new(Nary(Box::new(math::Max), false)))),
    ("Min", |_| Ok(Box::new(Nary(Box::new(math::Min), false)))),
    ("Mul", |_| Ok(math::Mul.into_hir())),
    ("Neg", |_| Ok(math::neg().into_hir())),
    ("Not", |_| Ok(not().into_hir())),
    ("Or", |_| Ok(Or.into_hir())),
    ("ReduceMax", |node| reduce(node, Reducer::Max)),
    ("ReduceMean", |node| reduce(node, Reducer::Mean)),
    ("ReduceMin", |node| reduce(node, Reducer::Min)),
    ("ReduceSum", |node| reduce(node, Reducer::Sum)),
    ("Relu", |_| {
        Ok(expand(activations::Clip::new(Some(0.0), None)))
    }),
    ("Reshape", |node| {
        let keep_zero = node.int("allowzero", 0)? != 0;
        Ok(expand(array::Reshape::new(keep_zero)))
    }),
    ("Sigmoid", |_| Ok(sigmoid().into_hir())),
    ("Sqrt", |_| Ok(math::sqrt().into_hir())),
    ("Squeeze", |node| {
        let axes = node.axes()?.map(signed);
        Ok(first_input(array::Squeeze::new(axes)))
    }),
    ("Sub", |_| Ok(math::Sub.into_hir())),
    ("Tanh", |_| Ok(math::tanh().into_hir())),
    ("Transpose", |node| {
        let order = node.ints("perm")?.unwrap_or_default().into_iter();
        let order: TVec<usize> = order.map(usize::try_from).collect::<Result<_, _>>()?;
        let order = Some(order).filter(|order| !order.is_empty());
        Ok(expand(array::PermuteAxes::new(order)))
    }),
    ("Unsqueeze", |node| {
        let axes = node.axes()?.map(signed).unwrap_or_default();
        Ok(first_input(array::AddDims::new(axes)))
    }),
    ("Where", |_| Ok(expand(Iff))),
];

/// How tract gets an operator; none for one that does not run here.
pub(crate) fn builder(name: &str) -> Option<Builder> {
    let found = KNOWN.iter().find(|(known, _)| *known == name);
    found.map(|(_, builder)| *builder)
}

/// Every operator that runs here.
pub(crate) fn names() -> Vec<&'static str> {
    KNOWN.iter().map(|(name, _)| *name).collect()
}

fn reduce(node: Node, reducer: Reducer) -> Operator {
    node.only(&["axes", "keepdims"])?;
    let keep = node.int("keepdims", 1)? == 1;
    Ok(first_input(Reduce::new(node.axes()?, keep, reducer)))
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
            (self.min, "min", math::max()),
            (self.max, "max", math::min()),
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
