//! Turns parameters into ONNX bytes: owns the graphs' arithmetic, never trains or runs them.

use crate::ensemble_graph::ensemble;
use crate::graph::{Attribute, F32, F64, Graph, Value, index};
use crate::params::{
    ClassicParams, DEV_FLOOR, DEV_MIN, DefaultParams, LSTM_MOST, LinearParams, LstmParams,
    ModelParams, SeasonalNaiveParams, Z_CLIP,
};
use crate::{OnnxError, Shape};

/// Name of the input `[B, T, F]`, f64, raw units, NaN where missing, oldest step first.
pub const INPUT_WINDOW: &str = "window";
/// Name of the input `[B, H, K]`, f64: what is known of each forecast step. Models that do not read it declare it all the same.
pub const INPUT_FUTURE: &str = "future";
/// Name of the output `[B, H]`, f64, raw units.
pub const OUTPUT_MEAN: &str = "mean";
/// Name of the output `[B, H, Q]`, f64, raw units.
pub const OUTPUT_QUANTILES: &str = "quantiles";

/// Name of the metadata property with the quantiles' levels, separated by commas.
pub const QUANTILES: &str = "quantiles";
/// What the graph of each kind of model says it is.
pub(crate) const CLASSIC: &str = "preset classic: MinMax, LSTM, linear head, one step ahead";
pub(crate) const DEFAULT: &str =
    "preset default: normalised window, linear highway, known-future weights, optional LSTM";
pub(crate) const ENSEMBLE: &str = "preset default: ridge, LSTM heads and naive forecasts, averaged";
pub(crate) const SEASONAL_NAIVE: &str = "seasonal naive: the value one season before";

/// The ONNX file of a model: opset 17, dynamic batch, the inputs and outputs named above.
///
/// `metadata` becomes the file's metadata properties (spec hash, model version and the like), in the given order, followed by
/// [`QUANTILES`]: equal parameters and metadata give equal bytes.
///
/// # Errors
/// [`OnnxError`] where lengths do not fit or a parameter is not finite.
pub fn build(params: &ModelParams, metadata: &[(String, String)]) -> Result<Vec<u8>, OnnxError> {
    let levels: Vec<String> = match params {
        ModelParams::Classic(p) => &p.quantiles,
        ModelParams::Default(p) => &p.quantiles,
        ModelParams::SeasonalNaive(p) => &p.quantiles,
        ModelParams::Ensemble(p) => &p.quantiles,
    }
    .iter()
    .map(f64::to_string)
    .collect();
    let levels = (QUANTILES.to_owned(), levels.join(","));
    let metadata = [metadata, &[levels]].concat();
    Ok(prost::Message::encode_to_vec(
        &graph(params)?.model(&metadata),
    ))
}

/// The graph alone.
pub(crate) fn graph(params: &ModelParams) -> Result<Graph, OnnxError> {
    params.check()?;
    let mut g = Graph::default();
    let s = params.shape();
    let window = g.input(INPUT_WINDOW, F64, &[None, Some(s.lookback), Some(s.inputs)]);
    let future = g.input(
        INPUT_FUTURE,
        F64,
        &[None, Some(s.horizon), Some(s.future_width)],
    );
    let (mean, quantiles, doc) = match params {
        ModelParams::Classic(p) => classic(&mut g, p, s, &window),
        ModelParams::Default(p) => default(&mut g, p, s, &window, &future),
        ModelParams::SeasonalNaive(p) => seasonal_naive(&mut g, p, s, &window),
        ModelParams::Ensemble(p) => ensemble(&mut g, p, s, &window, &future),
    };
    g.output(OUTPUT_MEAN, &mean, F64, &[None, Some(s.horizon)]);
    g.output(
        OUTPUT_QUANTILES,
        &quantiles,
        F64,
        &[None, Some(s.horizon), Some(s.quantiles)],
    );
    g.doc = doc;
    Ok(g)
}

/// What is observed in a `[B, T, C]` series, and each column's last observed value.
pub(crate) struct Observed {
    /// bool `[B, T, C]`.
    pub(crate) mask: Value,
    /// `[B, 1, C]`, 0 where nothing is observed.
    pub(crate) last: Value,
    /// bool `[B, 1, C]`.
    pub(crate) nothing: Value,
}

pub(crate) fn observed(g: &mut Graph, series: &Value, lookback: usize) -> Observed {
    #[allow(clippy::cast_precision_loss, reason = "a lookback is far below 2^24")]
    let positions: Vec<f32> = (1..=lookback).map(|t| t as f32).collect();
    let position = g.f32s("position", &[1, lookback, 1], &positions);
    let none = g.f32s("none", &[1], &[0.0]);
    let zero = g.f64s("zero", &[1], &[0.0]);
    let steps = g.i64s("steps_axis", &[1]);
    let missing = is_nan(g, "missing", series);
    let mask = g.op("Not", "observed", &[&missing]);
    let score = g.op("Where", "observed_position", &[&mask, &position, &none]);
    let newest = g.op_with(
        "ReduceMax",
        "last_position",
        &[&score],
        vec![Attribute::Ints("axes", vec![1])],
    );
    let nothing = g.op("Equal", "nothing_observed", &[&newest, &none]);
    let newest_or_older = g.op("Equal", "at_last_position", &[&score, &newest]);
    let is_last = g.op("And", "is_last", &[&newest_or_older, &mask]);
    let only_last = g.op("Where", "only_last", &[&is_last, series, &zero]);
    let last = g.op("ReduceSum", "last", &[&only_last, &steps]);
    Observed {
        mask,
        last,
        nothing,
    }
}

/// tract 0.23 knows IsNaN for f32 only; the cast keeps what is NaN and adds none.
fn is_nan(g: &mut Graph, name: &str, series: &Value) -> Value {
    let narrow = g.cast(&format!("{name}_f32"), series, F32);
    g.op("IsNaN", name, &[&narrow])
}

/// Column `c` of `[B, 1, C]` as `[B, 1, 1]`.
pub(crate) fn column(g: &mut Graph, name: &str, value: &Value, c: usize) -> Value {
    let at = g.i64s(&format!("{name}_index"), &[index(c)]);
    g.op_with(
        "Gather",
        name,
        &[value, &at],
        vec![Attribute::Int("axis", 2)],
    )
}

/// `[B, H, Q]` from the mean `[B, H]` and offsets that broadcast to the result.
fn spread(g: &mut Graph, mean: &Value, offset: &Value) -> Value {
    let last_axis = g.i64s("last_axis", &[2]);
    let wide = g.op("Unsqueeze", "mean_wide", &[mean, &last_axis]);
    g.op("Add", "spread", &[&wide, offset])
}

/// The last state `[B, hidden]` for a batch-major f32 sequence `[B, S, I]`.
///
/// `prefix` keeps the names of several layers in one graph apart.
pub(crate) fn lstm(g: &mut Graph, prefix: &str, p: &LstmParams, sequence: &Value) -> Value {
    let named = |name: &str| format!("{prefix}{name}");
    let bias = [iofc(&p.b_ih, p.hidden), iofc(&p.b_hh, p.hidden)].concat();
    let w = g.f32s(
        &named("lstm_w"),
        &[1, 4 * p.hidden, p.input],
        &iofc(&p.w_ih, p.hidden * p.input),
    );
    let r = g.f32s(
        &named("lstm_r"),
        &[1, 4 * p.hidden, p.hidden],
        &iofc(&p.w_hh, p.hidden * p.hidden),
    );
    let b = g.f32s(&named("lstm_b"), &[1, 8 * p.hidden], &bias);
    let directions = g.i64s(&named("directions_axis"), &[0]);
    let major = g.op_with(
        "Transpose",
        &named("time_major"),
        &[sequence],
        vec![Attribute::Ints("perm", vec![1, 0, 2])],
    );
    let state = g.lstm_last(&named("lstm_state"), &[&major, &w, &r, &b], p.hidden);
    g.op("Squeeze", &named("lstm_last"), &[&state, &directions])
}

/// PyTorch stacks the gates as input, forget, cell, output; ONNX as input, output, forget, cell.
fn iofc(stacked: &[f32], gate: usize) -> Vec<f32> {
    reordered(stacked, gate, [0, 3, 1, 2])
}

/// Back from ONNX's order to PyTorch's.
pub(crate) fn ifgo(stacked: &[f32], gate: usize) -> Vec<f32> {
    reordered(stacked, gate, [0, 2, 3, 1])
}

fn reordered(stacked: &[f32], gate: usize, order: [usize; 4]) -> Vec<f32> {
    order
        .into_iter()
        .flat_map(|k| stacked[k * gate..(k + 1) * gate].iter().copied())
        .collect()
}

/// `[B, output]` in f64 for x `[B, input]` of either width, with weights kept in f32. No Gemm: tract 0.23 knows it for f32 only.
pub(crate) fn linear(g: &mut Graph, name: &str, p: &LinearParams, x: &Value) -> Value {
    let x = g.cast(&format!("{name}_x"), x, F64);
    let w = g.f32s(&format!("{name}_weight"), &[p.output, p.input], &p.weight);
    let w = g.cast(&format!("{name}_weight_f64"), &w, F64);
    let swap = vec![Attribute::Ints("perm", vec![1, 0])];
    let w = g.op_with("Transpose", &format!("{name}_columns"), &[&w], swap);
    let b = g.f32s(&format!("{name}_bias"), &[p.output], &p.bias);
    let b = g.cast(&format!("{name}_bias_f64"), &b, F64);
    let product = g.op("MatMul", &format!("{name}_product"), &[&x, &w]);
    g.op("Add", name, &[&product, &b])
}

fn default(
    g: &mut Graph,
    p: &DefaultParams,
    s: Shape,
    window: &Value,
    future: &Value,
) -> (Value, Value, &'static str) {
    let seen = observed(g, window, s.lookback);
    let scale = scale(g, &p.train_dev, s, window, &seen);

    // Everything but the LSTM in f64: an output that cancels to almost nothing keeps its digits.
    let flat = g.op_with(
        "Flatten",
        "z_flat",
        &[&scale.z],
        vec![Attribute::Int("axis", 1)],
    );
    let mut total = linear(g, "highway", &p.highway, &flat);
    if s.future_width > 0 {
        let width = g.i64s("width_axis", &[2]);
        let w = g.f32s(
            "future_weight",
            &[1, s.horizon, s.future_width],
            &p.future_weight,
        );
        let w = g.cast("future_weight_f64", &w, F64);
        let part = g.op("Mul", "known_weighted", &[future, &w]);
        let keep = vec![Attribute::Int("keepdims", 0)];
        let part = g.op_with("ReduceSum", "known_sum", &[&part, &width], keep);
        total = g.op("Add", "with_known", &[&total, &part]);
    }
    let width = g.i64s("target_axis", &[2]);
    let last_y = column(g, "last_y_wide", &seen.last, p.target_input);
    let last_y = g.op("Squeeze", "last_y", &[&last_y, &width]);
    let dev_y_wide = column(g, "dev_y_wide", &scale.dev, p.target_input);
    let dev_y = g.op("Squeeze", "dev_y", &[&dev_y_wide, &width]);
    let change = g.op("Mul", "change", &[&total, &dev_y]);
    let mut mean = g.op("Add", "mean_linear", &[&change, &last_y]);
    if let Some(l) = &p.lstm {
        let z = g.cast("z_f32", &scale.z, F32);
        let dims = g.i64s(
            "segment_shape",
            &[
                0,
                index(s.lookback / l.segment),
                index(l.segment * s.inputs),
            ],
        );
        let segments = g.op("Reshape", "segments", &[&z, &dims]);
        let state = lstm(g, "", &l.lstm, &segments);
        let head = linear(g, "lstm_head", &l.head, &state);
        let learnt = column(g, "train_dev_y_wide", &scale.train_dev, p.target_input);
        let learnt = g.op("Squeeze", "train_dev_y", &[&learnt, &width]);
        let most = g.f64s("lstm_most", &[1], &[LSTM_MOST]);
        let most = g.op("Mul", "lstm_dev_most", &[&learnt, &most]);
        let dev = g.op("Min", "lstm_dev", &[&dev_y, &most]);
        let change = g.op("Mul", "lstm_change", &[&head, &dev]);
        mean = g.op("Add", "with_lstm", &[&mean, &change]);
    }
    let dims = [1, s.horizon, s.quantiles];
    let offset = g.f32s("quantile_offset", &dims, &p.quantile_offset);
    let offset = g.cast("quantile_offset_f64", &offset, F64);
    let offset = g.op("Mul", "quantile_offset_raw", &[&offset, &dev_y_wide]);
    let quantiles = spread(g, &mean, &offset);
    (mean, quantiles, DEFAULT)
}

/// A window in units of its own deviation, all in f64.
pub(crate) struct Scaled {
    /// `[B, T, F]`, 0 where missing.
    pub(crate) z: Value,
    /// `[B, 1, F]`, raw units.
    pub(crate) dev: Value,
    /// `[1, 1, F]`, raw units.
    pub(crate) train_dev: Value,
}

pub(crate) fn scale(
    g: &mut Graph,
    train_dev: &[f64],
    s: Shape,
    window: &Value,
    seen: &Observed,
) -> Scaled {
    let steps = g.i64s("deviation_axis", &[1]);
    let one = g.f64s("one", &[1], &[1.0]);
    let zero = g.f64s("missing_as", &[1], &[0.0]);
    let moved = g.op("Sub", "moved", &[window, &seen.last]);
    let d = g.op("Where", "d", &[&seen.mask, &moved, &zero]);
    let weight = g.cast("weight", &seen.mask, F64);
    let count = g.op("ReduceSum", "count", &[&weight, &steps]);
    let count = g.op("Max", "count_or_one", &[&count, &one]);
    let sum = g.op("ReduceSum", "d_sum", &[&d, &steps]);
    let average = g.op("Div", "d_mean", &[&sum, &count]);
    let centred = g.op("Sub", "d_centred", &[&d, &average]);
    let centred = g.op("Mul", "d_centred_observed", &[&centred, &weight]);
    let squares = g.op("Mul", "d_squares", &[&centred, &centred]);
    let squares = g.op("ReduceSum", "d_square_sum", &[&squares, &steps]);
    let variance = g.op("Div", "d_variance", &[&squares, &count]);
    let deviation = g.op("Sqrt", "d_deviation", &[&variance]);
    let train_dev = g.f64s("train_dev", &[1, 1, s.inputs], train_dev);
    let share = g.f64s("dev_floor_share", &[1], &[DEV_FLOOR]);
    let least = g.f64s("dev_min", &[1], &[DEV_MIN]);
    let floor = g.op("Mul", "dev_floor_of_training", &[&train_dev, &share]);
    let floor = g.op("Max", "dev_floor", &[&floor, &least]);
    let dev = g.op("Max", "dev", &[&deviation, &floor]);
    let ratio = g.op("Div", "ratio", &[&d, &dev]);
    let low = g.f64s("z_min", &[], &[-Z_CLIP]);
    let high = g.f64s("z_max", &[], &[Z_CLIP]);
    let z = g.op("Clip", "z", &[&ratio, &low, &high]);
    Scaled { z, dev, train_dev }
}

fn classic(
    g: &mut Graph,
    p: &ClassicParams,
    s: Shape,
    window: &Value,
) -> (Value, Value, &'static str) {
    let seen = observed(g, window, s.lookback);
    let dims = [1, 1, s.inputs];
    let (x_min, x_range) = min_and_range(g, "x", &dims, &p.x_min, &p.x_max);
    // scikit-learn's `MinMaxScaler` leaves a constant column unscaled.
    let zero = g.f64s("no_range", &[1], &[0.0]);
    let one = g.f64s("one", &[1], &[1.0]);
    let constant = g.op("Equal", "x_constant", &[&x_range, &zero]);
    let x_range = g.op("Where", "x_scale", &[&constant, &one, &x_range]);
    let stand_in = g.op("Where", "stand_in", &[&seen.nothing, &x_min, &seen.last]);
    let filled = g.op("Where", "filled", &[&seen.mask, window, &stand_in]);
    let above = g.op("Sub", "above_min", &[&filled, &x_min]);
    let scaled = g.op("Div", "scaled", &[&above, &x_range]);
    let scaled = g.cast("scaled_f32", &scaled, F32);
    let state = lstm(g, "", &p.lstm, &scaled);
    let head = linear(g, "head", &p.head, &state);
    let (y_min, y_range) = min_and_range(g, "y", &[1], &[p.y_min], &[p.y_max]);
    let above = g.op("Mul", "y_above_min", &[&head, &y_range]);
    let mean = g.op("Add", "mean_raw", &[&above, &y_min]);
    let offset = g.f64s("quantile_offset", &[1, 1, s.quantiles], &p.quantile_offset);
    let quantiles = spread(g, &mean, &offset);
    (mean, quantiles, CLASSIC)
}

fn min_and_range(
    g: &mut Graph,
    name: &str,
    dims: &[usize],
    min: &[f64],
    max: &[f64],
) -> (Value, Value) {
    let min = g.f64s(&format!("{name}_min"), dims, min);
    let max = g.f64s(&format!("{name}_max"), dims, max);
    let range = g.op("Sub", &format!("{name}_range"), &[&max, &min]);
    (min, range)
}

fn seasonal_naive(
    g: &mut Graph,
    p: &SeasonalNaiveParams,
    s: Shape,
    window: &Value,
) -> (Value, Value, &'static str) {
    let target = column(g, "target", window, p.target_input);
    let seen = observed(g, &target, s.lookback);
    let from = s.lookback - p.season;
    let source: Vec<i64> = (0..s.horizon).map(|h| index(from + h % p.season)).collect();
    let source = g.i64s("season_steps", &source);
    let season = g.op_with(
        "Gather",
        "season",
        &[&target, &source],
        vec![Attribute::Int("axis", 1)],
    );
    let gap = is_nan(g, "season_gap", &season);
    let filled = g.op("Where", "season_filled", &[&gap, &seen.last, &season]);
    let width = g.i64s("target_axis", &[2]);
    let mean = g.op("Squeeze", "mean_raw", &[&filled, &width]);
    let offset = g.f64s(
        "quantile_offset",
        &[1, s.horizon, s.quantiles],
        &p.quantile_offset,
    );
    let quantiles = spread(g, &mean, &offset);
    (mean, quantiles, SEASONAL_NAIVE)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    fn naive() -> SeasonalNaiveParams {
        SeasonalNaiveParams {
            lookback: 4,
            inputs: 2,
            horizon: 3,
            future_width: 1,
            target_input: 1,
            season: 2,
            quantiles: vec![0.5],
            quantile_offset: vec![0.0; 3],
        }
    }

    #[test]
    fn equal_parameters_give_equal_bytes() {
        let metadata = [("version".to_owned(), "3".to_owned())];
        let bytes = || build(&ModelParams::SeasonalNaive(naive()), &metadata).unwrap();
        assert_eq!(bytes(), bytes());
    }

    #[test]
    fn parameters_that_do_not_fit_are_named() {
        let refused = |change: &dyn Fn(&mut SeasonalNaiveParams)| {
            let mut params = naive();
            change(&mut params);
            build(&ModelParams::SeasonalNaive(params), &[]).unwrap_err()
        };
        let what = |error| match error {
            OnnxError::Shape { what, .. } | OnnxError::NotFinite { what } => what,
        };
        assert_eq!(what(refused(&|p| p.season = 5)), "season (1 to lookback)");
        assert_eq!(what(refused(&|p| p.target_input = 2)), "target_input");
        assert_eq!(
            what(refused(&|p| p.quantile_offset.truncate(2))),
            "quantile_offset"
        );
        let error = refused(&|p| p.quantile_offset[0] = f64::NAN);
        assert_eq!(
            error,
            OnnxError::NotFinite {
                what: "quantile_offset"
            }
        );
    }

    #[test]
    fn gates_move_from_pytorchs_order_to_onnxs_and_back() {
        let pytorch = [0.0, 0.1, 1.0, 1.1, 2.0, 2.1, 3.0, 3.1];
        let onnx = iofc(&pytorch, 2);
        assert_eq!(onnx, [0.0, 0.1, 3.0, 3.1, 1.0, 1.1, 2.0, 2.1]);
        assert_eq!(ifgo(&onnx, 2), pytorch);
    }
}
