//! Small models and windows that are the same on every machine: owns their construction, never an expectation.

use fieldcast_features::{ForecasterSpec, Preset, Selector, Window, calendar};
use fieldcast_onnx::{
    ClassicParams, DecoderParams, DefaultParams, EnsembleParams, LinearParams, LstmHead,
    LstmParams, ModelParams, SeasonalNaiveParams, Spread,
};

/// Deviation of each input in turn.
const SCALES: [f64; 3] = [8.0, 20.0, 150.0];

/// A model with its forecaster; `train_dev` is the target's.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) spec: ForecasterSpec,
    pub(crate) params: ModelParams,
    pub(crate) train_dev: f64,
}

/// A linear congruential generator (Knuth's MMIX constants): exact arithmetic only, so equal everywhere.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Uniform in [-1, 1).
    pub(crate) fn next(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    pub(crate) fn f32s(&mut self, n: usize, scale: f64) -> Vec<f32> {
        (0..n).map(|_| (self.next() * scale) as f32).collect()
    }

    pub(crate) fn linear(&mut self, input: usize, output: usize, scale: f64) -> LinearParams {
        LinearParams {
            input,
            output,
            weight: self.f32s(input * output, scale),
            bias: self.f32s(output, scale),
        }
    }

    pub(crate) fn lstm(&mut self, input: usize, hidden: usize, scale: f64) -> LstmParams {
        LstmParams {
            input,
            hidden,
            w_ih: self.f32s(4 * hidden * input, scale),
            w_hh: self.f32s(4 * hidden * hidden, scale),
            b_ih: self.f32s(4 * hidden, scale),
            b_hh: self.f32s(4 * hidden, scale),
        }
    }
}

pub(crate) fn spec(preset: Preset, lookback: usize, horizon: usize) -> ForecasterSpec {
    let classic = preset == Preset::Classic;
    let inputs: &[&str] = if classic {
        &["temperature", "humidity"]
    } else {
        &["temperature", "humidity", "demand"]
    };
    ForecasterSpec {
        name: "demand".into(),
        target: "demand".into(),
        inputs: inputs.iter().map(|i| (*i).into()).collect(),
        period: "1h".into(),
        lookback,
        horizon,
        season: None,
        quantiles: vec![0.1, 0.5, 0.9],
        preset,
        timezone: "UTC".into(),
        holidays: Vec::new(),
        selector: Selector::default(),
    }
}

pub(crate) fn all() -> Vec<Case> {
    let mut random = Random::new(7);
    let (lookback, horizon, features) = (24, 6, 3);
    let default = spec(Preset::Default, lookback, horizon);
    let k = calendar::width(&default);
    let ridge = DefaultParams {
        lookback,
        inputs: features,
        horizon,
        future_width: k,
        target_input: 2,
        train_dev: vec![8.0, 20.0, 150.0],
        highway: random.linear(lookback * features, horizon, 0.1),
        future_weight: random.f32s(horizon * k, 0.3),
        lstm: None,
        quantiles: default.quantiles.clone(),
        quantile_offset: [-0.5, 0.01, 0.75].repeat(horizon),
    };
    let mut lstm = ridge.clone();
    lstm.lstm = Some(LstmHead {
        segment: 6,
        lstm: random.lstm(6 * features, 8, 0.5),
        head: random.linear(8, horizon, 0.5),
    });
    let naive = SeasonalNaiveParams {
        lookback,
        inputs: features,
        horizon,
        future_width: k,
        target_input: 2,
        season: 4,
        quantiles: default.quantiles.clone(),
        quantile_offset: [-30.0, 0.0, 40.0].repeat(horizon),
    };
    let reference = spec(Preset::Classic, 10, 1);
    let classic = ClassicParams {
        lookback: 10,
        future_width: calendar::width(&reference),
        x_min: vec![-10.0, 0.0],
        x_max: vec![35.0, 100.0],
        y_min: 3.0,
        y_max: 900.0,
        lstm: random.lstm(2, 10, 0.5),
        head: random.linear(10, 1, 0.5),
        quantiles: reference.quantiles.clone(),
        quantile_offset: vec![-50.0, 1.0, 60.0],
    };
    let ensemble = ensemble(&mut random, &default, k);
    // What training takes where the heads' plain mean is best: no naive forecast among the parts.
    let heads = EnsembleParams {
        seasons: Vec::new(),
        mean_share: random.f32s(3 * default.horizon, 0.4),
        median_share: random.f32s(3 * default.horizon, 0.4),
        ..ensemble.clone()
    };
    let (for_ensemble, for_heads) = (default.clone(), default.clone());
    let case = |name, spec, params| Case {
        name,
        spec,
        params,
        train_dev: 150.0,
    };
    vec![
        case("lstm", default.clone(), ModelParams::Default(lstm)),
        case("ridge", default.clone(), ModelParams::Default(ridge)),
        case("seasonal_naive", default, ModelParams::SeasonalNaive(naive)),
        case("classic", reference, ModelParams::Classic(classic)),
        case("ensemble", for_ensemble, ModelParams::Ensemble(ensemble)),
        case("heads", for_heads, ModelParams::Ensemble(heads)),
    ]
}

/// Two heads of different sizes, two seasons and an interval whose width follows the calendar.
fn ensemble(random: &mut Random, spec: &ForecasterSpec, k: usize) -> EnsembleParams {
    let (t, f, h, lags) = (spec.lookback, spec.inputs.len(), spec.horizon, 5);
    let mut decoder = |segment: usize, hidden: usize, units: usize| DecoderParams {
        segment,
        lstm: random.lstm(segment * f, hidden, 0.5),
        state: random.linear(hidden, units, 0.5),
        known_weight: random.f32s(units * k, 0.2),
        lag_weight: random.f32s(units * lags, 0.2),
        step: random.f32s(h * units, 0.5),
        out: random.f32s(h * units, 0.3),
        out_bias: random.f32s(h, 0.1),
    };
    let decoders = vec![decoder(6, 8, 10), decoder(1, 5, 7)];
    EnsembleParams {
        lookback: t,
        inputs: f,
        horizon: h,
        future_width: k,
        target_input: 2,
        train_dev: vec![8.0, 20.0, 150.0],
        highway: random.linear(t * f, h, 0.1),
        future_weight: random.f32s(h * k, 0.3),
        lags: (0..h * lags).map(|i| (i * 37 + 11) % (t * f)).collect(),
        decoders,
        seasons: vec![1, 4],
        mean_share: random.f32s(5 * h, 0.4),
        median_share: random.f32s(5 * h, 0.4),
        spread: Spread {
            weight: random.f32s(k, 0.4),
            bias: random.f32s(h, 0.3),
            power: -0.4,
            usual: 120.0,
        },
        quantiles: spec.quantiles.clone(),
        quantile_offset: [-0.5, 0.0, 0.75].repeat(h),
    }
}

/// The models of `cargo xtask bench infer`: `classic`, and an LSTM over 168 x 8 of hidden 64 beside its highway.
pub(crate) fn large() -> Vec<Case> {
    let mut random = Random::new(3);
    let reference = spec(Preset::Classic, 30, 1);
    let classic = ClassicParams {
        lookback: 30,
        future_width: calendar::width(&reference),
        x_min: vec![-10.0, 0.0],
        x_max: vec![35.0, 100.0],
        y_min: 3.0,
        y_max: 900.0,
        lstm: random.lstm(2, 50, 0.14),
        head: random.linear(50, 1, 0.14),
        quantiles: reference.quantiles.clone(),
        quantile_offset: vec![-50.0, 1.0, 60.0],
    };
    let mut long = spec(Preset::Default, 168, 24);
    let more = ["wind", "rain", "sun", "load", "price"];
    long.inputs.splice(0..0, more.map(str::to_owned));
    let k = calendar::width(&long);
    let beside = DefaultParams {
        lookback: 168,
        inputs: 8,
        horizon: 24,
        future_width: k,
        target_input: 7,
        train_dev: (0..8).map(|f| SCALES[f % 3]).collect(),
        highway: random.linear(168 * 8, 24, 0.02),
        future_weight: random.f32s(24 * k, 0.3),
        lstm: Some(LstmHead {
            segment: 1,
            lstm: random.lstm(8, 64, 0.125),
            head: random.linear(64, 24, 0.125),
        }),
        quantiles: long.quantiles.clone(),
        quantile_offset: [-0.5, 0.01, 0.75].repeat(24),
    };
    let case = |name, spec, params, train_dev| Case {
        name,
        spec,
        params,
        train_dev,
    };
    vec![
        case(
            "classic_30x2",
            reference,
            ModelParams::Classic(classic),
            150.0,
        ),
        case(
            "lstm_168x8",
            long,
            ModelParams::Default(beside),
            SCALES[7 % 3],
        ),
    ]
}

/// Windows of eight kinds in turn: plain, a third missing, constant, far from zero, a feature without any value, a jump of many
/// deviations and a gap at the end, spikes beyond all measure, almost no movement.
pub(crate) fn windows(spec: &ForecasterSpec, count: usize) -> Vec<Window> {
    let mut random = Random::new(11);
    let (t, f) = (spec.lookback, spec.inputs.len());
    let k = calendar::width(spec);
    let value = |kind: usize, row: usize, feature: usize, random: &mut Random| {
        let scale = SCALES[feature % 3];
        let noise = random.next();
        let skip = random.next();
        match kind {
            1 if skip > 0.33 => f64::NAN,
            2 => 12.5 * (feature + 1) as f64,
            3 => 1e7 + scale * noise,
            4 if feature == 0 => f64::NAN,
            5 if row + 3 >= t => f64::NAN,
            5 => (if row < t / 2 { -40.0 } else { 40.0 }) * scale + noise,
            6 if skip > 0.9 => noise * 1e12,
            7 => 3.0 * scale + 1e-6 * scale * noise,
            _ => 3.0 * scale + scale * noise,
        }
    };
    (0..count)
        .map(|i| {
            let mut window = Vec::with_capacity(t * f);
            for row in 0..t {
                for feature in 0..f {
                    window.push(value(i % 8, row, feature, &mut random));
                }
            }
            // Whatever is missing, one value of the last feature, the target, is there.
            if window[f - 1].is_nan() {
                window[f - 1] = 5.0;
            }
            let future = (0..spec.horizon * k).map(|_| random.next()).collect();
            Window {
                origin: 0,
                lookback: t,
                inputs: f,
                window,
                horizon: spec.horizon,
                future_width: k,
                future,
            }
        })
        .collect()
}
