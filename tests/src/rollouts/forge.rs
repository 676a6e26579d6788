//! Models that do harm, and bundles that were tampered with: owns what is wrong with each, never who is ordered to run it.

use anyhow::{Context as _, Result};
use fieldcast_bundle::container::Container;
use fieldcast_bundle::{GoldenVector, Manifest, PART_ONNX, PART_REFERENCE, seal};
use fieldcast_features::{ForecasterSpec, calendar};
use fieldcast_onnx::{DefaultParams, LinearParams, LstmHead, LstmParams, ModelParams, build};
use fieldcast_wire::message;
use ring::signature::Ed25519KeyPair;

use super::bed::{Bed, text};

/// Of the slow model's LSTM: some 80 million products a forecast, thousands of times what a ridge takes.
const HIDDEN: usize = 640;

/// What a model does that passes every check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Harm {
    /// Its golden vectors are right, and what it says of real windows is not a number.
    NotANumber,
    /// It computes far too long.
    Slow,
    /// The process dies while it computes: somebody has to kill it there, so it computes as long.
    Deadly,
}

/// What is wrong with a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    /// Another graph than was signed.
    Graph,
    /// Another signature than that of its manifest.
    Signature,
}

/// The hub's own key, and a manifest and reference statistics that it made: all that whoever holds them needs.
pub(super) struct Forge {
    manifest: Manifest,
    onnx: Vec<u8>,
    reference: Vec<u8>,
    key: Ed25519KeyPair,
    key_id: String,
}

impl Forge {
    /// Takes version 1 of a forecaster as the pattern.
    pub(super) fn open(bed: &Bed, forecaster: &str) -> Result<Self> {
        let file = bed.dir.join("pattern.bundle");
        bed.hub
            .cli(&["model", "export", forecaster, "1", "--out", text(&file)?])?;
        let pattern: Container = message::decode("bundle", &std::fs::read(&file)?)?;
        let key = std::fs::read(bed.dir.join("hub/keys/hub.pk8"))?;
        let key = Ed25519KeyPair::from_pkcs8(&key).map_err(|e| anyhow::anyhow!("{e}"))?;
        let part = |name: &str| {
            let found = pattern.parts.iter().find(|p| p.name == name);
            found
                .with_context(|| format!("no {name}"))
                .map(|p| p.bytes.clone())
        };
        Ok(Self {
            manifest: serde_json::from_slice(&pattern.manifest)?,
            onnx: part(PART_ONNX)?,
            reference: part(PART_REFERENCE)?,
            key,
            key_id: pattern.key_id,
        })
    }

    /// The same model as another version.
    pub(super) fn harmless(&self, version: u32) -> Result<Vec<u8>> {
        self.sealed(version, self.manifest.golden.clone(), self.onnx.clone())
    }

    /// A bundle of a harmful model that is signed as any other.
    pub(super) fn harmful(&self, version: u32, harm: Harm) -> Result<Vec<u8>> {
        let spec = &self.manifest.forecaster;
        let onnx = build(&params(spec, harm), &[])?;
        let pattern = self.manifest.golden.first().context("no golden vector")?;
        let mut golden = GoldenVector {
            window: pattern.window.clone(),
            future: vec![0.5; spec.horizon * calendar::width(spec)],
            mean: Vec::new(),
            quantiles: Vec::new(),
        };
        let out = fieldcast_runtime::load_onnx(&onnx, spec)?.forecast_golden(&golden)?;
        (golden.mean, golden.quantiles) = (out.mean, out.quantiles);
        self.sealed(version, vec![golden], onnx)
    }

    fn sealed(&self, version: u32, golden: Vec<GoldenVector>, onnx: Vec<u8>) -> Result<Vec<u8>> {
        let manifest = Manifest {
            version: u64::from(version),
            golden,
            ..self.manifest.clone()
        };
        let sign = |message: &[u8]| {
            let mut signature = [0; 64];
            signature.copy_from_slice(self.key.sign(message).as_ref());
            signature
        };
        Ok(seal(
            manifest,
            onnx,
            self.reference.clone(),
            sign,
            &self.key_id,
        )?)
    }
}

/// A bundle with one bit changed.
pub(super) fn tampered(bundle: &[u8], wrong: Wrong) -> Result<Vec<u8>> {
    let mut parts: Container = message::decode("bundle", bundle)?;
    let bytes = match wrong {
        Wrong::Signature => &mut parts.signature,
        Wrong::Graph => {
            let graph = parts.parts.iter_mut().find(|p| p.name == PART_ONNX);
            &mut graph.context("no graph")?.bytes
        }
    };
    let middle = bytes.len() / 2;
    *bytes.get_mut(middle).context("nothing to change")? ^= 1;
    Ok(message::encode(&parts))
}

/// The last value, and something beside it.
fn params(spec: &ForecasterSpec, harm: Harm) -> ModelParams {
    let (t, f, h) = (spec.lookback, spec.inputs.len(), spec.horizon);
    let k = calendar::width(spec);
    let target = spec.inputs.iter().position(|i| *i == spec.target);
    let linear = |input: usize, weight: f32| LinearParams {
        input,
        output: h,
        weight: vec![weight; input * h],
        bias: vec![0.0; h],
    };
    // So small that they change nothing, and they cost what large ones cost.
    let small = |n: usize| vec![1e-6; n];
    let lstm = LstmHead {
        segment: 1,
        lstm: LstmParams {
            input: f,
            hidden: HIDDEN,
            w_ih: small(4 * HIDDEN * f),
            w_hh: small(4 * HIDDEN * HIDDEN),
            b_ih: small(4 * HIDDEN),
            b_hh: small(4 * HIDDEN),
        },
        head: linear(HIDDEN, 1e-6),
    };
    let mut future_weight = vec![0.0; h * k];
    if harm == Harm::NotANumber {
        // Only a future whose first two values are equal, as the golden one's, does not overflow.
        for step in future_weight.chunks_exact_mut(k) {
            step[..2].copy_from_slice(&[3e38, -3e38]);
        }
    }
    let slow = harm != Harm::NotANumber;
    ModelParams::Default(DefaultParams {
        lookback: t,
        inputs: f,
        horizon: h,
        future_width: k,
        target_input: target.unwrap_or(0),
        train_dev: vec![if slow { 10.0 } else { 1e300 }; f],
        highway: linear(t * f, 0.0),
        future_weight,
        lstm: slow.then_some(lstm),
        quantiles: spec.quantiles.clone(),
        quantile_offset: (0..h * spec.quantiles.len())
            .map(|i| (i % spec.quantiles.len()) as f32)
            .collect(),
    })
}
