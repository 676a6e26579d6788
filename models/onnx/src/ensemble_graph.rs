//! The ensemble as one graph: owns its arithmetic in standard operators, never its parameters' rules.

use crate::Shape;
use crate::ensemble::{DecoderParams, EnsembleParams, SPREAD_CLIP};
use crate::graph::{Attribute, F32, F64, Graph, Value, index};
use crate::models::{ENSEMBLE, Observed, Scaled, column, linear, lstm, observed, scale};
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
    let flat = flatten(g, "z_flat", &scaled.z);
    let mut ridge = linear(g, "highway", &p.highway, &flat);
    if s.future_width > 0 {
        let width = g.i64s("width_axis", &[2]);
        let dims = [1, s.horizon, s.future_width];
        let w = widened(g, "future_weight", &dims, &p.future_weight);
        let part = g.op("Mul", "known_weighted", &[future, &w]);
        let keep = vec![Attribute::Int("keepdims", 0)];
        let part = g.op_with("ReduceSum", "known_sum", &[&part, &width], keep);
        ridge = g.op("Add", "with_known", &[&ridge, &part]);
    }
    let heads = match p.decoders.is_empty() {
        true => Vec::new(),
        false => heads(g, p, s, &scaled, future),
    };
    let mut seasons = Vec::new();
    for (i, season) in p.seasons.iter().enumerate() {
        let step = |h: usize| s.lookback - season + h % season;
        let source = |h: usize| index(step(h) * s.inputs + p.target_input);
        let source: Vec<i64> = (0..s.horizon).map(source).collect();
        seasons.push(gather(g, &season_name(i), &flat, &source));
    }
    let scale = target_scale(g, &seen, &scaled, p.target_input);
    let mut raw = |name: &str, shares: &[f32]| {
        let dims = [p.parts(), s.horizon];
        let shares = widened(g, &format!("{name}_share"), &dims, shares);
        let parts = std::iter::once(&ridge).chain(&heads).chain(&seasons);
        let mut linear = None;
        let mut learnt = None;
        for (i, part) in parts.enumerate() {
            let named = |what: &str| format!("{name}_{what}_{i}");
            let row = g.i64s(&named("row"), &[index(i)]);
            let axis = vec![Attribute::Int("axis", 0)];
            let share = g.op_with("Gather", &named("share"), &[&shares, &row], axis);
            let part = g.op("Mul", &named("part"), &[part, &share]);
            let sum = if (1..=heads.len()).contains(&i) {
                &mut learnt
            } else {
                &mut linear
            };
            *sum = Some(match sum.take() {
                None => part,
                Some(before) => g.op("Add", &named("sum"), &[&before, &part]),
            });
        }
        let linear = linear.unwrap_or_else(|| ridge.clone());
        let change = g.op("Mul", &format!("{name}_change"), &[&linear, &scale.dev]);
        let linear = g.op("Add", &format!("{name}_linear"), &[&change, &scale.last]);
        let Some(learnt) = learnt else { return linear };
        let change = g.op("Mul", &format!("{name}_learnt"), &[&learnt, &scale.most]);
        g.op("Add", &format!("{name}_raw"), &[&linear, &change])
    };
    let mean = raw("mean", &p.mean_share);
    let median = raw("median", &p.median_share);
    let offsets = offsets(g, p, s, future, &scale);
    let last_axis = g.i64s("last_axis", &[2]);
    let wide = g.op("Unsqueeze", "median_wide", &[&median, &last_axis]);
    let quantiles = g.op("Add", "quantiles_raw", &[&wide, &offsets]);
    (mean, quantiles, ENSEMBLE)
}

/// What each head adds to ridge, in units of dev.
fn heads(
    g: &mut Graph,
    p: &EnsembleParams,
    s: Shape,
    scaled: &Scaled,
    future: &Value,
) -> Vec<Value> {
    let axes = vec![Attribute::Ints("axes", vec![1])];
    let mean = g.op_with("ReduceMean", "z_mean", &[&scaled.z], axes);
    let centred = g.op("Sub", "centred", &[&scaled.z, &mean]);
    let narrow = g.cast("centred_f32", &centred, F32);
    let lags = (!p.lags.is_empty()).then(|| {
        let flat = flatten(g, "centred_flat", &centred);
        let values: Vec<i64> = p.lags.iter().map(|at| index(*at)).collect();
        let flat = gather(g, "lags", &flat, &values);
        let dims = g.i64s("lags_shape", &[0, index(s.horizon), index(p.lag_width())]);
        g.op("Reshape", "lags_by_step", &[&flat, &dims])
    });
    let inputs = (&narrow, future, lags.as_ref());
    let each = p.decoders.iter().enumerate();
    each.map(|(i, d)| decoder(g, &decoder_prefix(i), d, s, inputs))
        .collect()
}

/// What the names of a decoder's tensors begin with.
pub(crate) fn decoder_prefix(i: usize) -> String {
    format!("d{i}_")
}

/// The name of a naive forecast.
pub(crate) fn season_name(i: usize) -> String {
    format!("season_{i}")
}

/// Distances of the quantiles from the median, `[B, H, Q]`, raw units.
fn offsets(
    g: &mut Graph,
    p: &EnsembleParams,
    s: Shape,
    known: &Value,
    scale: &TargetScale,
) -> Value {
    let mut exponent = widened(g, "spread_bias", &[1, s.horizon, 1], &p.spread.bias);
    if s.future_width > 0 {
        let weight = widened(g, "spread_weight", &[s.future_width, 1], &p.spread.weight);
        let by_calendar = g.op("MatMul", "spread_by_calendar", &[known, &weight]);
        exponent = g.op("Add", "spread_exponent", &[&by_calendar, &exponent]);
    }
    let usual = widened(g, "spread_usual", &[1], &[p.spread.usual]);
    let restless = g.op("Div", "spread_ratio", &[&scale.dev_wide, &usual]);
    let restless = g.op("Log", "spread_log_ratio", &[&restless]);
    let power = widened(g, "spread_power", &[1], &[p.spread.power]);
    let restless = g.op("Mul", "spread_restless", &[&restless, &power]);
    let exponent = g.op("Add", "spread_whole", &[&exponent, &restless]);
    let low = g.f64s("spread_min", &[], &[-SPREAD_CLIP]);
    let high = g.f64s("spread_max", &[], &[SPREAD_CLIP]);
    let exponent = g.op("Clip", "spread_clipped", &[&exponent, &low, &high]);
    let width = g.op("Exp", "spread", &[&exponent]);
    let width = g.op("Mul", "spread_raw", &[&width, &scale.dev_wide]);
    let dims = [1, s.horizon, s.quantiles];
    let offsets = widened(g, "quantile_offset", &dims, &p.quantile_offset);
    g.op("Mul", "quantile_offset_raw", &[&width, &offsets])
}

/// Parameters that lie in the file as f32 and count in f64.
fn widened(g: &mut Graph, name: &str, dims: &[usize], values: &[f32]) -> Value {
    let narrow = g.f32s(name, dims, values);
    g.cast(&format!("{name}_f64"), &narrow, F64)
}

/// `[B, T, F]` -> `[B, T*F]`.
fn flatten(g: &mut Graph, name: &str, value: &Value) -> Value {
    g.op_with("Flatten", name, &[value], vec![Attribute::Int("axis", 1)])
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

/// A decoder's head, `[B, H]`. Its LSTM reads `centred`, which is f32.
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
    let steps = g.i64s(&named("steps_axis"), &[1]);
    let state = g.op("Unsqueeze", &named("state_wide"), &[&state, &steps]);
    let step = widened(g, &named("step"), &[1, s.horizon, units], &p.step);
    let mut sum = g.op("Add", &named("with_step"), &[&state, &step]);
    for (name, input, weight) in [
        ("known", Some(known), &p.known_weight),
        ("lag", lags, &p.lag_weight),
    ] {
        let width = weight.len() / units;
        let Some(input) = input.filter(|_| width > 0) else {
            continue;
        };
        let of = |what: &str| named(&format!("{name}_{what}"));
        let weight = widened(g, &of("weight"), &[units, width], weight);
        let swap = vec![Attribute::Ints("perm", vec![1, 0])];
        let weight = g.op_with("Transpose", &of("columns"), &[&weight], swap);
        let part = g.op("MatMul", &of("part"), &[input, &weight]);
        sum = g.op("Add", &named(&format!("with_{name}")), &[&sum, &part]);
    }
    let nothing = g.f64s(&named("inactive"), &[1], &[0.0]);
    let active = g.op("Max", &named("units"), &[&sum, &nothing]);
    let out = widened(g, &named("out"), &[1, s.horizon, units], &p.out);
    let each = g.op("Mul", &named("weighted_units"), &[&active, &out]);
    let width = g.i64s(&named("units_axis"), &[2]);
    let head = g.op_with(
        "ReduceSum",
        &named("head_unbiased"),
        &[&each, &width],
        vec![Attribute::Int("keepdims", 0)],
    );
    let bias = widened(g, &named("out_bias"), &[1, s.horizon], &p.out_bias);
    g.op("Add", &named("head"), &[&head, &bias])
}
