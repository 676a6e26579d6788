//! From an ONNX file to a graph of tract: owns names, constants and attributes, never what an operator is.

use std::collections::{BTreeMap, BTreeSet};

use fieldcast_onnx::pb::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};
use prost::Message;
use tract_hir::internal::*;

use crate::operators;

// Codes of onnx.proto: AttributeProto.AttributeType and TensorProto.DataType.
const ATTRIBUTE_INT: i32 = 2;
const ATTRIBUTE_INTS: i32 = 7;
const F32: i32 = 1;
const I32: i32 = 6;
const I64: i32 = 7;
const BOOL: i32 = 9;
const F64: i32 = 11;

/// A node of a file, and the constants that it may read.
#[derive(Clone, Copy)]
pub(crate) struct Node<'a> {
    file: &'a NodeProto,
    constants: &'a BTreeMap<&'a str, &'a TensorProto>,
}

/// The graph of a file; its inputs are what is handed in, whatever the file says about their sizes.
pub(crate) fn read(onnx: &[u8], inputs: &[(&str, InferenceFact)]) -> TractResult<InferenceModel> {
    let file = ModelProto::decode(onnx).context("reading the file")?;
    let graph = file.graph.context("the file has no graph")?;
    check(&graph)?;
    let constants: BTreeMap<&str, &TensorProto> =
        graph.initializer.iter().map(|t| (&*t.name, t)).collect();
    let declared = graph.input.iter().map(|input| &*input.name);
    let declared = declared.filter(|name| !constants.contains_key(name));
    let declared: Vec<&str> = declared.collect();
    for (i, (name, _)) in inputs.iter().enumerate() {
        let found = declared.get(i);
        ensure!(
            found == Some(name),
            "input {i} is {found:?} instead of `{name}`"
        );
    }
    let mut model = InferenceModel::default();
    let mut values = BTreeMap::<&str, OutletId>::new();
    for (name, fact) in inputs {
        values.insert(name, model.add_source(*name, fact.clone())?);
    }
    for constant in &graph.initializer {
        let value = tensor(constant).with_context(|| format!("constant `{}`", constant.name))?;
        values.insert(&constant.name, model.add_const(&*constant.name, value)?);
    }
    for file in &graph.node {
        add(&mut model, &mut values, file, &constants)
            .with_context(|| format!("node `{}` ({})", file.name, file.op_type))?;
    }
    let outputs = graph.output.iter().map(|output| {
        let made = values.get(&*output.name).copied();
        made.with_context(|| format!("nothing makes the output `{}`", output.name))
    });
    let outputs = outputs.collect::<TractResult<Vec<_>>>()?;
    model.select_output_outlets(&outputs)?;
    Ok(model)
}

fn add<'a>(
    model: &mut InferenceModel,
    values: &mut BTreeMap<&'a str, OutletId>,
    file: &'a NodeProto,
    constants: &BTreeMap<&str, &TensorProto>,
) -> TractResult<()> {
    let builder = operators::builder(&file.op_type).context("it is no operator of ours")?;
    let op = builder(Node { file, constants })?;
    let outputs: Vec<&str> = file.output.iter().map(|name| &**name).collect();
    let outputs: Vec<&str> = outputs
        .into_iter()
        .filter(|name| !name.is_empty())
        .collect();
    let facts = outputs.iter().map(|_| InferenceFact::default()).collect();
    let id = model.add_node(format!("{}/{}", values.len(), file.name), op, facts)?;
    let inputs = file.input.iter().filter(|name| !name.is_empty());
    for (slot, name) in inputs.enumerate() {
        let value = values.get(&**name).copied();
        let value = value.with_context(|| format!("nothing before makes its input `{name}`"))?;
        model.add_edge(value, InletId::new(id, slot))?;
    }
    for (slot, name) in outputs.into_iter().enumerate() {
        values.insert(name, OutletId::new(id, slot));
    }
    Ok(())
}

/// Says which of a file's operators do not run here, and which do.
fn check(graph: &GraphProto) -> TractResult<()> {
    let kinds = graph.node.iter().map(|node| &*node.op_type);
    let unknown = kinds.filter(|kind| operators::builder(kind).is_none());
    let unknown: BTreeSet<&str> = unknown.collect();
    let unknown: Vec<&str> = unknown.into_iter().collect();
    ensure!(
        unknown.is_empty(),
        "the graph has operators that this program does not run: {}; it runs {}",
        unknown.join(", "),
        operators::names().join(", ")
    );
    Ok(())
}

impl<'a> Node<'a> {
    fn attribute(&self, name: &str, kind: i32) -> TractResult<Option<&'a AttributeProto>> {
        let found = self.file.attribute.iter().find(|a| a.name == name);
        if let Some(found) = found {
            ensure!(
                found.r#type == kind,
                "attribute `{name}` is of type {}, it must be of type {kind}",
                found.r#type
            );
        }
        Ok(found)
    }

    pub(crate) fn int(&self, name: &str, otherwise: i64) -> TractResult<i64> {
        let found = self.attribute(name, ATTRIBUTE_INT)?;
        Ok(found.map_or(otherwise, |a| a.i))
    }

    pub(crate) fn ints(&self, name: &str) -> TractResult<Option<Vec<i64>>> {
        let found = self.attribute(name, ATTRIBUTE_INTS)?;
        Ok(found.map(|a| a.ints.clone()))
    }

    /// Refuses every attribute but these.
    pub(crate) fn only(&self, known: &[&str]) -> TractResult<()> {
        let other = self.file.attribute.iter();
        let other = other.map(|a| &*a.name).find(|name| !known.contains(name));
        ensure!(
            other.is_none(),
            "attribute `{}` does not run here; leave it out",
            other.unwrap_or_default()
        );
        Ok(())
    }

    /// Name of an input; none where the file leaves it out.
    pub(crate) fn input(&self, place: usize) -> Option<&'a str> {
        let name = self.file.input.get(place)?;
        Some(&**name).filter(|name| !name.is_empty())
    }

    /// Which of the inputs that are there this one is.
    pub(crate) fn slot_of_input(&self, place: usize) -> Option<usize> {
        slot(&self.file.input, place)
    }

    /// Which of the outputs that are there this one is.
    pub(crate) fn slot_of_output(&self, place: usize) -> Option<usize> {
        slot(&self.file.output, place)
    }

    pub(crate) fn inputs(&self) -> usize {
        self.file.input.len()
    }

    /// Axes are an attribute in older operator sets, a constant input in newer ones; none at all means every axis.
    pub(crate) fn axes(&self) -> TractResult<Option<Vec<i64>>> {
        let Some(name) = self.input(1) else {
            return self.ints("axes");
        };
        let constant = self.constants.get(name);
        let constant = constant.context("its axes must be a constant of the graph")?;
        let axes = tensor(constant)?;
        let axes = axes.cast_to::<i64>()?;
        let axes = axes.try_as_plain_ram()?.as_slice::<i64>()?.to_vec();
        Ok(Some(axes).filter(|axes| !axes.is_empty()))
    }
}

fn slot(names: &[String], place: usize) -> Option<usize> {
    names.get(place).filter(|name| !name.is_empty())?;
    let before = names.iter().take(place);
    Some(before.filter(|name| !name.is_empty()).count())
}

/// The type that goes with a code of onnx.proto.
pub(crate) fn element(code: i64) -> TractResult<DatumType> {
    match i32::try_from(code) {
        Ok(F32) => Ok(f32::datum_type()),
        Ok(F64) => Ok(f64::datum_type()),
        Ok(I32) => Ok(i32::datum_type()),
        Ok(I64) => Ok(i64::datum_type()),
        Ok(BOOL) => Ok(bool::datum_type()),
        _ => {
            bail!("element type {code} does not run here; use float, double, int32, int64 or bool")
        }
    }
}

fn tensor(file: &TensorProto) -> TractResult<Tensor> {
    ensure!(
        file.external_data.is_empty() && file.segment.is_none(),
        "its values lie elsewhere; write them into the file"
    );
    let raw = (!file.raw_data.is_empty()).then_some(&file.raw_data[..]);
    match file.data_type {
        F32 => values(file, raw, &file.float_data, f32::from_le_bytes),
        F64 => values(file, raw, &file.double_data, f64::from_le_bytes),
        I32 => values(file, raw, &file.int32_data, i32::from_le_bytes),
        I64 => values(file, raw, &file.int64_data, i64::from_le_bytes),
        BOOL => {
            let data: Vec<bool> = file.int32_data.iter().map(|v| *v != 0).collect();
            values(file, raw, &data, |[byte]: [u8; 1]| byte != 0)
        }
        code => Err(element(i64::from(code)).err().unwrap_or_else(|| {
            format_err!("element type {code} is known, its values are not read")
        })),
    }
}

/// `raw` in little-endian bytes, or `data`.
fn values<T: Datum + Copy, const N: usize>(
    file: &TensorProto,
    raw: Option<&[u8]>,
    data: &[T],
    from: impl Fn([u8; N]) -> T,
) -> TractResult<Tensor> {
    let dims = file.dims.iter().map(|d| usize::try_from(*d));
    let dims: Vec<usize> = dims.collect::<Result<_, _>>().context("its dimensions")?;
    let expected = dims.iter().try_fold(1_usize, |n, d| n.checked_mul(*d));
    let read: Vec<T>;
    let data = match raw {
        Some(raw) => {
            let (parts, rest) = raw.as_chunks::<N>();
            ensure!(rest.is_empty(), "{} bytes are too many", rest.len());
            read = parts.iter().map(|part| from(*part)).collect();
            &read[..]
        }
        None => data,
    };
    ensure!(
        expected == Some(data.len()),
        "it has {} values for dimensions {dims:?}",
        data.len()
    );
    Tensor::from_shape(&dims, data)
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
