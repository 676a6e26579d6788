//! Models, bundles and signed orders as a hub would make them: owns their making, never a device.

pub mod device;

use fieldcast_agent::update::driver::FromHub;
use fieldcast_bundle::{Calibration, GoldenVector, Kind, Manifest, Training, seal, signed};
use fieldcast_features::{ForecasterSpec, PIPELINE_VERSION, calendar};
use fieldcast_onnx::{
    DefaultParams, LinearParams, LstmHead, LstmParams, ModelParams, SeasonalNaiveParams, build,
};
use fieldcast_wire::caps::BLOCK;
use fieldcast_wire::{Sha256, message, pb};
use ring::signature::{Ed25519KeyPair, KeyPair};

pub fn key(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

pub fn sign(seed: u8) -> impl Fn(&[u8]) -> [u8; 64] {
    move |bytes| key(seed).sign(bytes).as_ref().try_into().unwrap()
}

pub fn spec() -> ForecasterSpec {
    toml::from_str("name = \"demand\"\ntarget = \"demand\"\ninputs = [\"demand\"]\nperiod = \"1h\"\nlookback = 24\nhorizon = 2\nquantiles = [0.1, 0.5, 0.9]\n").unwrap()
}

/// A model as it would be trained: seasonal naive, shifted by `shift` in its quantiles.
pub fn naive(shift: f64) -> ModelParams {
    naive_of(&spec(), shift)
}

pub fn naive_of(s: &ForecasterSpec, shift: f64) -> ModelParams {
    ModelParams::SeasonalNaive(SeasonalNaiveParams {
        lookback: s.lookback,
        inputs: 1,
        horizon: s.horizon,
        future_width: calendar::width(s),
        target_input: 0,
        season: 24,
        quantiles: s.quantiles.clone(),
        quantile_offset: [-1.0 - shift, 0.0, 1.0 + shift].repeat(s.horizon),
    })
}

const LOOKBACK: usize = 192;
const HIDDEN: usize = 256;

pub fn long() -> ForecasterSpec {
    ForecasterSpec {
        lookback: LOOKBACK,
        ..spec()
    }
}

/// A recurrent one beside the last value: its weights are so small that they change nothing, and cost what large ones cost.
pub fn thorough() -> ModelParams {
    let s = long();
    let (h, k) = (s.horizon, calendar::width(&s));
    let small = |n: usize| vec![1e-6; n];
    ModelParams::Default(DefaultParams {
        lookback: LOOKBACK,
        inputs: 1,
        horizon: h,
        future_width: k,
        target_input: 0,
        train_dev: vec![10.0],
        highway: LinearParams {
            input: LOOKBACK,
            output: h,
            weight: vec![0.0; LOOKBACK * h],
            bias: vec![0.0; h],
        },
        future_weight: vec![0.0; h * k],
        lstm: Some(LstmHead {
            segment: 1,
            lstm: LstmParams {
                input: 1,
                hidden: HIDDEN,
                w_ih: small(4 * HIDDEN),
                w_hh: small(4 * HIDDEN * HIDDEN),
                b_ih: small(4 * HIDDEN),
                b_hh: small(4 * HIDDEN),
            },
            head: LinearParams {
                input: HIDDEN,
                output: h,
                weight: small(HIDDEN * h),
                bias: vec![0.0; h],
            },
        }),
        quantiles: s.quantiles.clone(),
        quantile_offset: [-1.0, 0.0, 1.0].repeat(h),
    })
}

/// The last value and so many deviations of the window more.
pub fn raised(deviations: f32) -> ModelParams {
    let s = spec();
    let (h, k) = (s.horizon, calendar::width(&s));
    ModelParams::Default(DefaultParams {
        lookback: s.lookback,
        inputs: 1,
        horizon: h,
        future_width: k,
        target_input: 0,
        train_dev: vec![10.0],
        highway: LinearParams {
            input: s.lookback,
            output: h,
            weight: vec![0.0; s.lookback * h],
            bias: vec![deviations; h],
        },
        future_weight: vec![0.0; h * k],
        lstm: None,
        quantiles: s.quantiles.clone(),
        quantile_offset: [-1.0, 0.0, 1.0].repeat(h),
    })
}

/// Weights and a deviation so large that only a future whose first two values are equal (as the golden one's) gives finite numbers.
pub fn exploding() -> ModelParams {
    let s = spec();
    let k = calendar::width(&s);
    let mut future_weight = vec![0.0; s.horizon * k];
    for step in future_weight.chunks_exact_mut(k) {
        step[..2].copy_from_slice(&[3e38, -3e38]);
    }
    ModelParams::Default(DefaultParams {
        lookback: s.lookback,
        inputs: 1,
        horizon: s.horizon,
        future_width: k,
        target_input: 0,
        train_dev: vec![1e300],
        highway: LinearParams {
            input: s.lookback,
            output: s.horizon,
            weight: vec![0.0; s.lookback * s.horizon],
            bias: vec![0.0; s.horizon],
        },
        future_weight,
        lstm: None,
        quantiles: s.quantiles.clone(),
        quantile_offset: [-1.0, 0.0, 1.0].repeat(s.horizon),
    })
}

pub fn bundle(params: &ModelParams, version: u64, golden_error: f64) -> Vec<u8> {
    bundle_of(spec(), params, version, golden_error)
}

/// One that may be taken up only before a time.
pub fn expiring(params: &ModelParams, version: u64, expires: i64) -> Vec<u8> {
    let mut made = manifest(spec(), params, version, 0.0);
    made.0.expires = Some(expires);
    sealed(made)
}

pub fn bundle_of(
    s: ForecasterSpec,
    params: &ModelParams,
    version: u64,
    golden_error: f64,
) -> Vec<u8> {
    sealed(manifest(s, params, version, golden_error))
}

/// The reference part is larger than a block, so that a bundle takes several.
pub fn sealed((manifest, onnx): (Manifest, Vec<u8>)) -> Vec<u8> {
    seal(manifest, onnx, vec![b' '; 3 * BLOCK], sign(2), "hub").unwrap()
}

pub fn manifest(
    s: ForecasterSpec,
    params: &ModelParams,
    version: u64,
    golden_error: f64,
) -> (Manifest, Vec<u8>) {
    let onnx = build(params, &[]).unwrap();
    let model = fieldcast_runtime::load_onnx(&onnx, &s).unwrap();
    let mut golden = GoldenVector {
        window: vec![5.0; s.lookback],
        future: vec![0.5; s.horizon * calendar::width(&s)],
        mean: Vec::new(),
        quantiles: Vec::new(),
    };
    let out = model.forecast_golden(&golden).unwrap();
    golden.mean = out.mean.iter().map(|v| v + golden_error).collect();
    golden.quantiles = out.quantiles;
    let manifest = Manifest {
        format: 0,
        forecaster: s,
        version,
        onnx_sha256: String::new(),
        reference_sha256: String::new(),
        pipeline_version: PIPELINE_VERSION,
        train_dev: 1.0,
        golden: vec![golden],
        calibration: Calibration::default(),
        training: Training::default(),
        min_agent: "0.1.0".into(),
        created: 1,
        expires: None,
    };
    (manifest, onnx)
}

pub fn desired(bytes: &[u8], version: u64, generation: u64, stage: pb::Stage) -> FromHub {
    signed_order(order(bytes, version, generation, stage))
}

pub fn order(bytes: &[u8], version: u64, generation: u64, stage: pb::Stage) -> pb::Order {
    pb::Order {
        site: "plant".into(),
        device: "pi".into(),
        forecaster: "demand".into(),
        bundle: Sha256::of(bytes).0.to_vec(),
        bundle_size: bytes.len() as u64,
        model_version: version,
        stage: stage as i32,
        generation,
        attempt: 1,
        expires_ms: i64::MAX,
        issued_ms: 0,
    }
}

pub fn key_list() -> pb::Signed {
    key_list_of(1, &[("hub", 2)])
}

/// A list of hub keys, each by name and seed, that the root signed.
pub fn key_list_of(version: u64, keys: &[(&str, u8)]) -> pb::Signed {
    let list = pb::KeyList {
        version,
        keys: keys
            .iter()
            .map(|(name, seed)| pb::HubKey {
                key_id: (*name).into(),
                public_key: key(*seed).public_key().as_ref().to_vec(),
            })
            .collect(),
    };
    signed::sign(Kind::KeyList, message::encode(&list), "root", sign(1))
}

/// Signed by the hub key of a name and seed.
pub fn by(kind: Kind, payload: Vec<u8>, (name, seed): (&str, u8)) -> pb::Signed {
    signed::sign(kind, payload, name, sign(seed))
}

pub fn signed_order(order: pb::Order) -> FromHub {
    FromHub::Desired(pb::Desired {
        key_list: Some(key_list()),
        orders: vec![by(Kind::Order, message::encode(&order), ("hub", 2))],
        commands: Vec::new(),
    })
}
