//! ONNX's LSTM as a loop of tract: owns how its step is wired, never the arithmetic.
//!
//! Forward, from zero states, with the usual activations: what our graphs use. Everything else of the operator is refused.

use tract_hir::internal::*;
use tract_hir::ops::{array, math};
use tract_hir::tract_core::ops::einsum::EinSum;
use tract_hir::tract_core::ops::lstm_cell::LstmEpilogue;
use tract_hir::tract_core::ops::scan::{InputMapping, OutputMapping, Scan, ScanInfo};

use crate::reader::Node;

/// The operator with the inputs and outputs that a node has.
#[derive(Debug, Clone)]
pub(crate) struct Lstm {
    bias: bool,
    /// Which of the node's outputs: all states, the last state, the last cell.
    every: Option<usize>,
    state: Option<usize>,
    cell: Option<usize>,
}

impl Lstm {
    pub(crate) fn of(node: Node) -> TractResult<Self> {
        node.only(&["hidden_size"])?;
        let other = (4..node.inputs()).any(|place| node.input(place).is_some());
        ensure!(
            !other,
            "sequence lengths, first states and peepholes do not run here; leave them out"
        );
        Ok(Self {
            bias: node.input(3).is_some(),
            every: node.slot_of_output(0),
            state: node.slot_of_output(1),
            cell: node.slot_of_output(2),
        })
    }

    fn outputs(&self) -> usize {
        let all = [self.every, self.state, self.cell];
        all.into_iter().flatten().count()
    }

    /// One step: x `[B, 1, I]`, state and cell `[B, 1, H]` in, the next state and cell out.
    fn step(&self, facts: &Facts) -> TractResult<TypedModel> {
        let mut body = TypedModel {
            symbols: facts.symbols.clone(),
            ..TypedModel::default()
        };
        let x = body.add_source("x", facts.x.clone())?;
        let w = body.add_source("w", facts.w.clone())?;
        let r = body.add_source("r", facts.r.clone())?;
        let b = match &facts.b {
            Some(b) => Some(body.add_source("b", b.clone())?),
            None => None,
        };
        let state = body.add_source("state", facts.state.clone())?;
        let cell = body.add_source("cell", facts.state.clone())?;
        let x = wire(&mut body, "x_flat", AxisOp::Rm(1), &[x])?;
        let state = wire(&mut body, "state_flat", AxisOp::Rm(1), &[state])?;
        let cell = wire(&mut body, "cell_flat", AxisOp::Rm(1), &[cell])?;
        // All four gates by one product on each side.
        let product = EinSum::new("mk,nk->mn".parse()?, facts.r.datum_type);
        let of_x = wire(&mut body, "of_x", product.clone(), &[x, w])?;
        let of_state = wire(&mut body, "of_state", product, &[state, r])?;
        let mut gates = wire(&mut body, "gates", math::add(), &[of_x, of_state])?;
        if let Some(b) = b {
            let half = 4 * facts.hidden;
            let of_w = array::Slice::new(1, 0, half);
            let of_r = array::Slice::new(1, half, 2 * half);
            let of_w = wire(&mut body, "bias_w", of_w, &[b])?;
            let of_r = wire(&mut body, "bias_r", of_r, &[b])?;
            let bias = wire(&mut body, "bias", math::add(), &[of_w, of_r])?;
            gates = wire(&mut body, "gates_biased", math::add(), &[gates, bias])?;
        }
        let hidden = facts.hidden;
        let next = body.wire_node("next", LstmEpilogue { hidden }, &[gates, cell])?;
        let state = wire(&mut body, "next_state", AxisOp::Add(1), &next[..1])?;
        let cell = wire(&mut body, "next_cell", AxisOp::Add(1), &next[1..])?;
        body.select_output_outlets(&[state, cell])?;
        Ok(body)
    }
}

/// What a step reads.
struct Facts {
    symbols: SymbolScope,
    x: TypedFact,
    w: TypedFact,
    r: TypedFact,
    b: Option<TypedFact>,
    state: TypedFact,
    hidden: usize,
}

fn wire(
    model: &mut TypedModel,
    name: &str,
    op: impl Into<Box<dyn TypedOp>>,
    inputs: &[OutletId],
) -> TractResult<OutletId> {
    let outputs = model.wire_node(name, op, inputs)?;
    outputs.first().copied().context("an output")
}

impl Expansion for Lstm {
    fn name(&self) -> StaticName {
        "LSTM".into()
    }

    fn validation(&self) -> Validation {
        Validation::Rounding
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.outputs())
    }

    /// X is `[T, B, I]`, W `[1, 4H, I]`, R `[1, 4H, H]`, B `[1, 8H]`; Y is `[T, 1, B, H]`, the last states `[1, B, H]`.
    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 3 + usize::from(self.bias))?;
        check_output_arity(outputs, self.outputs())?;
        let [x, w, r, ..] = inputs else {
            bail!("X, W and R are missing");
        };
        for (input, rank) in [(x, 3), (w, 3), (r, 3)] {
            s.equals(&input.rank, rank)?;
            s.equals(&input.datum_type, f32::datum_type())?;
        }
        s.equals(&w.shape[0], 1.to_dim())?;
        s.equals(&r.shape[0], 1.to_dim())?;
        s.equals(&w.shape[1], 4 * r.shape[2].bex())?;
        s.equals(&r.shape[1], 4 * r.shape[2].bex())?;
        s.equals(&w.shape[2], &x.shape[2])?;
        if let Some(b) = inputs.get(3) {
            s.equals(&b.rank, 2)?;
            s.equals(&b.datum_type, f32::datum_type())?;
            s.equals(&b.shape[0], 1.to_dim())?;
            s.equals(&b.shape[1], 8 * r.shape[2].bex())?;
        }
        if let Some(every) = self.every {
            s.equals(&outputs[every].datum_type, f32::datum_type())?;
            s.equals(&outputs[every].rank, 4)?;
            s.equals(&outputs[every].shape[0], &x.shape[0])?;
            s.equals(&outputs[every].shape[1], 1.to_dim())?;
            s.equals(&outputs[every].shape[2], &x.shape[1])?;
            s.equals(&outputs[every].shape[3], &r.shape[2])?;
        }
        for last in [self.state, self.cell].into_iter().flatten() {
            s.equals(&outputs[last].datum_type, f32::datum_type())?;
            s.equals(&outputs[last].rank, 3)?;
            s.equals(&outputs[last].shape[0], 1.to_dim())?;
            s.equals(&outputs[last].shape[1], &x.shape[1])?;
            s.equals(&outputs[last].shape[2], &r.shape[2])?;
        }
        Ok(())
    }

    fn wire(
        &self,
        prefix: &str,
        model: &mut TypedModel,
        inputs: &[OutletId],
    ) -> TractResult<TVec<OutletId>> {
        let named = |what: &str| format!("{prefix}.{what}");
        let x = wire(
            model,
            &named("batch_first"),
            AxisOp::Move(1, 0),
            &inputs[..1],
        )?;
        let w = wire(model, &named("w"), AxisOp::Rm(0), &inputs[1..2])?;
        let r = wire(model, &named("r"), AxisOp::Rm(0), &inputs[2..3])?;
        let b = inputs.get(3).copied();
        let batch = model.outlet_fact(x)?.shape[0].to_usize();
        let batch = batch.context("the batch must be known")?;
        let hidden = model.outlet_fact(r)?.shape[1].to_usize();
        let hidden = hidden.context("the hidden size must be known")?;
        let mut step_x = model.outlet_fact(x)?.without_value();
        step_x.shape.set(1, 1.to_dim());
        let fact = |at: OutletId| model.outlet_fact(at).cloned();
        let facts = Facts {
            symbols: model.symbols.clone(),
            x: step_x,
            w: fact(w)?,
            r: fact(r)?,
            b: b.map(fact).transpose()?,
            state: f32::fact([batch, 1, hidden]),
            hidden,
        };
        let body = self.step(&facts)?;
        let zeros = Tensor::zero::<f32>(&[batch, 1, hidden])?.into_arc_tensor();
        let zero_state = model.add_const(named("state"), zeros.clone())?;
        let zero_cell = model.add_const(named("cell"), zeros)?;
        let info = ScanInfo { axis: 1, chunk: 1 };
        let mut outer = vec![x, w, r];
        let mut mapping = vec![
            InputMapping::Scan(info),
            InputMapping::Full,
            InputMapping::Full,
        ];
        if let Some(b) = b {
            outer.push(b);
            mapping.push(InputMapping::Full);
        }
        outer.extend([zero_state, zero_cell]);
        mapping.extend([InputMapping::State, InputMapping::State]);
        let output = |last: Option<usize>, every: Option<usize>| OutputMapping {
            state: true,
            full_dim_hint: None,
            last_value_slot: last,
            scan: every.map(|slot| (slot, info)),
        };
        let results = vec![output(self.state, self.every), output(self.cell, None)];
        let scan = Scan::new(body, mapping, results, 0)?;
        let mut wires = model.wire_node(prefix, scan, &outer)?;
        // tract leaves the batch first: `[B, T, H]` and `[B, 1, H]`.
        for slot in 0..wires.len() {
            let turned = format!("{prefix}.turned_{slot}");
            wires[slot] = wire(model, &turned, AxisOp::Move(1, 0), &[wires[slot]])?;
            if self.every == Some(slot) {
                let spread = format!("{prefix}.directions");
                wires[slot] = wire(model, &spread, AxisOp::Add(1), &[wires[slot]])?;
            }
        }
        Ok(wires)
    }
}
