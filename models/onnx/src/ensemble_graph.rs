//! The ensemble as one graph: owns its arithmetic in standard operators, never its parameters' rules.

use crate::Shape;
use crate::ensemble::{DecoderParams, EnsembleParams, SPREAD_CLIP};
use crate::graph::{Attribute, F32, F64, Graph, Value, index};
use crate::models::{Observed, Scaled, column, linear, lstm, observed, scale};
use crate::params::LSTM_MOST;

/// Mean, quantiles and what the file says of itself.
pub(crate) fn ensemble(
    g: &mut Graph,
    p: &EnsembleParams,
    s: Shape,
    window: &Value,
    future: &Value,
) -> (Value, Value, &'static str) {
    let seen = observed(g, window, s.lookback);
    let scaled = scale(g, &p.train_dev, s, window, &seen);
    let axis = || vec![Attribute::Int("axis", 1)];
    let flat = g.op_with("Flatten", "z_flat", &[&scaled.z], axis());
    let known = g.cast("known", future, F32);
    let mut ridge = linear(g, "highway", &p.highway, &flat);
    if s.future_width > 0 {
        let width = g.i64s("width_axis", &[2]);
        let dims = [1, s.horizon, s.future_width];
        let w = g.f32s("future_weight", &dims, &p.future_weight);
        let w = g.cast("future_weight_f64", &w, F64);
        let part = g.op("Mul", "known_weighted", &[future, &w]);
        let keep = vec![Attribute::Int("keepdims", 0)];
        let part = g.op_with("ReduceSum", "known_sum", &[&part, &width], keep);
        ridge = g.op("Add", "with_known", &[&ridge, &part]);
    }
    let z = g.cast("z_f32", &scaled.z, F32);
    let axes = vec![Attribute::Ints("axes", vec![1])];
    let mean = g.op_with("ReduceMean", "z_mean", &[&z], axes);
    let centred = g.op("Sub", "centred", &[&z, &mean]);
    let lags = (!p.lags.is_empty()).then(|| {
        let flat = g.op_with(
            "Flatten",
            "centred_flat",
            &[&centred],
            vec![Attribute::Int("axis", 1)],
        );
        let values: Vec<i64> = p.lags.iter().map(|at| index(*at)).collect();
        let flat = gather(g, "lags", &flat, &values);
        let dims = g.i64s("lags_shape", &[0, index(s.horizon), index(p.lag_width())]);
        g.op("Reshape", "lags_by_step", &[&flat, &dims])
    });
    let mut heads = Vec::new();
    for (i, d) in p.decoders.iter().enumerate() {
        let inputs = (&centred, &known, lags.as_ref());
        let head = decoder(g, &format!("d{i}_"), d, s, inputs);
        heads.push(g.cast(&format!("d{i}_head_f64"), &head, F64));
    }
    let mut seasons = Vec::new();
    for season in &p.seasons {
        let step = |h: usize| s.lookback - season + h % season;
        let source = |h: usize| index(step(h) * s.inputs + p.target_input);
        let source: Vec<i64> = (0..s.horizon).map(source).collect();
        seasons.push(gather(g, &format!("season_{season}"), &flat, &source));
    }
    let scale = target_scale(g, &seen, &scaled, p.target_input);
    let mut raw = |name: &str, weights: &[f32]| {
        let shares = p.shares(weights);
        let (of_ridge, rest) = shares.split_at(s.horizon);
        let (of_heads, of_seasons) = rest.split_at(heads.len() * s.horizon);
        let mut total = weighted(g, name, std::slice::from_ref(&ridge), of_ridge, None);
        total = weighted(
            g,
            &format!("{name}_seasons"),
            &seasons,
            of_seasons,
            Some(total),
        );
        let total = total.unwrap_or_else(|| ridge.clone());
        let change = g.op("Mul", &format!("{name}_change"), &[&total, &scale.dev]);
        let linear = g.op("Add", &format!("{name}_linear"), &[&change, &scale.last]);
        let learnt = weighted(g, &format!("{name}_heads"), &heads, of_heads, None);
        let Some(learnt) = learnt else { return linear };
        let change = g.op("Mul", &format!("{name}_learnt"), &[&learnt, &scale.most]);
        g.op("Add", &format!("{name}_raw"), &[&linear, &change])
    };
    let mean = raw("mean", &p.mean_weight);
    let median = raw("median", &p.median_weight);
    let offsets = offsets(g, p, s, &known, &scale);
    let last_axis = g.i64s("last_axis", &[2]);
    let wide = g.op("Unsqueeze", "median_wide", &[&median, &last_axis]);
    let quantiles = g.op("Add", "quantiles_raw", &[&wide, &offsets]);
    (
        mean,
        quantiles,
        "preset default: ridge, LSTM heads and naive forecasts, averaged",
    )
}

/// Distances of the quantiles from the median, `[B, H, Q]`, raw units.
fn offsets(
    g: &mut Graph,
    p: &EnsembleParams,
    s: Shape,
    known: &Value,
    scale: &TargetScale,
) -> Value {
    let mut exponent = g.f32s("spread_bias", &[1, s.horizon, 1], &p.spread.bias);
    if s.future_width > 0 {
        let weight = g.f32s("spread_weight", &[s.future_width, 1], &p.spread.weight);
        let by_calendar = g.op("MatMul", "spread_by_calendar", &[known, &weight]);
        exponent = g.op("Add", "spread_exponent", &[&by_calendar, &exponent]);
    }
    let usual = g.f32s("spread_usual", &[1], &[p.spread.usual]);
    let dev = g.cast("dev_y_f32", &scale.dev_wide, F32);
    let restless = g.op("Div", "spread_ratio", &[&dev, &usual]);
    let restless = g.op("Log", "spread_log_ratio", &[&restless]);
    let power = g.f32s("spread_power", &[1], &[p.spread.power]);
    let restless = g.op("Mul", "spread_restless", &[&restless, &power]);
    let exponent = g.op("Add", "spread_whole", &[&exponent, &restless]);
    let low = g.f32s("spread_min", &[], &[-SPREAD_CLIP]);
    let high = g.f32s("spread_max", &[], &[SPREAD_CLIP]);
    let exponent = g.op("Clip", "spread_clipped", &[&exponent, &low, &high]);
    let width = g.op("Exp", "spread_f32", &[&exponent]);
    let width = g.cast("spread_f64", &width, F64);
    let width = g.op("Mul", "spread_raw", &[&width, &scale.dev_wide]);
    let offsets: Vec<f64> = p.quantile_offset.iter().map(|v| f64::from(*v)).collect();
    let offsets = g.f64s("quantile_offset", &[1, s.horizon, s.quantiles], &offsets);
    g.op("Mul", "quantile_offset_raw", &[&width, &offsets])
}

/// Columns `at` of the flat window `[B, T*F]`.
fn gather(g: &mut Graph, name: &str, flat: &Value, at: &[i64]) -> Value {
    let at = g.i64s(&format!("{name}_at"), at);
    g.op_with(
        "Gather",
        name,
        &[flat, &at],
        vec![Attribute::Int("axis", 1)],
    )
}

/// `sum` and the `[B, H]` parts, each times its share of `[parts, H]`; none of nothing.
fn weighted(
    g: &mut Graph,
    name: &str,
    parts: &[Value],
    shares: &[f32],
    sum: Option<Value>,
) -> Option<Value> {
    let horizon = shares.len() / parts.len().max(1);
    let mut total = sum;
    for (i, part) in parts.iter().enumerate() {
        let own = &shares[i * horizon..(i + 1) * horizon];
        let share = g.f32s(&format!("{name}_share_{i}"), &[1, horizon], own);
        let share = g.cast(&format!("{name}_share_{i}_f64"), &share, F64);
        let part = g.op("Mul", &format!("{name}_part_{i}"), &[part, &share]);
        total = Some(match total {
            None => part,
            Some(sum) => g.op("Add", &format!("{name}_sum_{i}"), &[&sum, &part]),
        });
    }
    total
}

/// What gives a forecast in units of the window back its raw units, f64.
struct TargetScale {
    /// `[B, 1]`: the last observed value.
    last: Value,
    /// `[B, 1]`: the deviation in the window.
    dev: Value,
    /// `[B, 1]`: the same, but no more than the heads have learnt.
    most: Value,
    /// `[B, 1, 1]`: the deviation.
    dev_wide: Value,
}

fn target_scale(g: &mut Graph, seen: &Observed, scaled: &Scaled, target: usize) -> TargetScale {
    let width = g.i64s("target_axis", &[2]);
    let last = column(g, "last_y_wide", &seen.last, target);
    let last = g.op("Squeeze", "last_y", &[&last, &width]);
    let dev_wide = column(g, "dev_y_wide", &scaled.dev, target);
    let dev = g.op("Squeeze", "dev_y", &[&dev_wide, &width]);
    let learnt = column(g, "train_dev_y_wide", &scaled.train_dev, target);
    let learnt = g.op("Squeeze", "train_dev_y", &[&learnt, &width]);
    let most = g.f64s("lstm_most", &[1], &[LSTM_MOST]);
    let most = g.op("Mul", "lstm_dev_most", &[&learnt, &most]);
    let most = g.op("Min", "lstm_dev", &[&dev, &most]);
    TargetScale {
        last,
        dev,
        most,
        dev_wide,
    }
}

/// A decoder's head, `[B, H]`.
fn decoder(
    g: &mut Graph,
    prefix: &str,
    p: &DecoderParams,
    s: Shape,
    (centred, known, lags): (&Value, &Value, Option<&Value>),
) -> Value {
    let named = |name: &str| format!("{prefix}{name}");
    let units = p.state.output;
    let dims = [
        0,
        index(s.lookback / p.segment),
        index(p.segment * s.inputs),
    ];
    let dims = g.i64s(&named("segment_shape"), &dims);
    let segments = g.op("Reshape", &named("segments"), &[centred, &dims]);
    let state = lstm(g, prefix, &p.lstm, &segments);
    let state = linear(g, &named("state"), &p.state, &state);
    let state = g.cast(&named("state_f32"), &state, F32);
    let steps = g.i64s(&named("steps_axis"), &[1]);
    let state = g.op("Unsqueeze", &named("state_wide"), &[&state, &steps]);
    let step = g.f32s(&named("step"), &[1, s.horizon, units], &p.step);
    let mut sum = g.op("Add", &named("with_step"), &[&state, &step]);
    for (name, input, weight) in [
        ("known", Some(known), &p.known_weight),
        ("lag", lags, &p.lag_weight),
    ] {
        let width = weight.len() / units;
        let Some(input) = input.filter(|_| width > 0) else {
            continue;
        };
        let weight = transposed(weight, width);
        let weight = g.f32s(&named(&format!("{name}_weight")), &[width, units], &weight);
        let part = g.op("MatMul", &named(&format!("{name}_part")), &[input, &weight]);
        sum = g.op("Add", &named(&format!("with_{name}")), &[&sum, &part]);
    }
    let active = g.op("Relu", &named("units"), &[&sum]);
    let out = g.f32s(&named("out"), &[1, s.horizon, units], &p.out);
    let each = g.op("Mul", &named("weighted_units"), &[&active, &out]);
    let width = g.i64s(&named("units_axis"), &[2]);
    let head = g.op_with(
        "ReduceSum",
        &named("head_unbiased"),
        &[&each, &width],
        vec![Attribute::Int("keepdims", 0)],
    );
    let bias = g.f32s(&named("out_bias"), &[1, s.horizon], &p.out_bias);
    g.op("Add", &named("head"), &[&head, &bias])
}

/// `[O, I]` -> `[I, O]`.
fn transposed(weight: &[f32], width: usize) -> Vec<f32> {
    (0..width)
        .flat_map(|i| weight.iter().skip(i).step_by(width).copied())
        .collect()
}
