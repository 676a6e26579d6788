//! Runs a model: owns the way from a verified bundle to forecasts and the golden check, never where bundles or windows come from.

mod check;
mod explain;
mod fused;
mod operators;
mod plain;

use fieldcast_bundle::{GoldenVector, VerifiedBundle};
use fieldcast_features::{ForecasterSpec, PIPELINE_VERSION, Window, calendar};
use fieldcast_onnx::{ModelParams, Shape};

pub use fieldcast_kernel::lanes;

pub use crate::check::{Agreement, CheckError, EQUAL, compare};
pub use crate::explain::{Explanation, Group, MOST_RUNS, Part};
use crate::fused::Fused;
use crate::plain::Plain;

/// Golden outputs may differ by this share of the target's training deviation.
pub const GOLDEN_TOLERANCE: f64 = 1e-4;

/// A forecast in raw units.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Prediction {
    /// `[H]`.
    pub mean: Vec<f64>,
    /// `[H, Q]`, row-major, the levels of the forecaster.
    pub quantiles: Vec<f64>,
}

/// Why a model does not load or does not forecast.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RuntimeError {
    /// Trained on rows of another feature pipeline.
    #[error(
        "loading model {version} of `{forecaster}`: it was trained with feature pipeline {found}, this program has {ours}; train it again or update the older side"
    )]
    Pipeline {
        /// The forecaster.
        forecaster: String,
        /// The model's version.
        version: u64,
        /// The pipeline it was trained with.
        found: u32,
        /// Ours.
        ours: u32,
    },
    /// The graph is not one that runs here.
    #[error(
        "loading the model of `{forecaster}`: {cause}; build the graph again with this version"
    )]
    Load {
        /// The forecaster.
        forecaster: String,
        /// What the engine says.
        cause: String,
    },
    /// A window of another size than the model's.
    #[error(
        "forecasting: `{what}` has {found} values, the model takes {expected}; cut the window with the bundle's own forecaster"
    )]
    WindowSize {
        /// Input of the graph.
        what: &'static str,
        /// Its values.
        found: usize,
        /// What the graph takes.
        expected: usize,
    },
    /// Nothing of the target was observed.
    #[error(
        "forecasting: no value of the target in the window; wait for readings or check the sensor"
    )]
    NoTarget,
    /// NaN or infinity came out, or infinity went in.
    #[error(
        "forecasting: `{what}` holds NaN or infinity; check the inputs for infinite values, else go back to the last good bundle"
    )]
    NotFinite {
        /// Input or output of the graph.
        what: &'static str,
    },
    /// The engine failed.
    #[error("forecasting: {cause}; go back to the last good bundle")]
    Run {
        /// What the engine says.
        cause: String,
    },
    /// This machine computes something else than the one that trained.
    #[error(
        "checking golden vector {index}: `{what}`[{at}] is {found}, it must be {expected} within {allowed}; refuse the bundle and report this machine's CPU"
    )]
    Golden {
        /// Which vector, from 0.
        index: usize,
        /// Output of the graph.
        what: &'static str,
        /// Position in the output, from 0.
        at: usize,
        /// Computed here.
        found: f64,
        /// In the manifest.
        expected: f64,
        /// Largest difference allowed.
        allowed: f64,
    },
}

impl RuntimeError {
    /// Number of the check in `docs/protocol.md` that failed while a bundle was loaded.
    #[must_use]
    pub fn step(&self) -> &'static str {
        match self {
            Self::Pipeline { .. } => "V8",
            _ => "V9",
        }
    }
}

/// What computes a model's forecasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunsBy {
    /// Kernels of ours, which agree with tract.
    Fused,
    /// tract; and why not the kernels.
    Plain(String),
}

impl std::fmt::Display for RunsBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fused => f.write_str("fused kernels"),
            Self::Plain(why) => write!(f, "tract ({why})"),
        }
    }
}

/// A model in memory, ready to forecast; `Send`, and forecasting neither loads nor waits for anything.
pub struct LoadedModel {
    engine: Engine,
    runs_by: RunsBy,
    /// The target's feature, where the window holds it.
    target: Option<usize>,
}

enum Engine {
    Fused(Box<Fused>),
    Plain(Plain),
}

impl std::fmt::Debug for LoadedModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadedModel")
            .field("shape", &self.shape())
            .field("runs_by", &self.runs_by)
            .finish_non_exhaustive()
    }
}

/// Loads a verified bundle and reproduces its golden vectors (V8 and V9 of the verification): what this returns may forecast.
/// The fused kernels are checked against tract in this process.
///
/// # Errors
/// As [`load_with`].
pub fn load(bundle: &VerifiedBundle) -> Result<LoadedModel, RuntimeError> {
    load_with(bundle, |bundle| {
        let manifest = bundle.manifest();
        let dev = Some(manifest.train_dev);
        compare(bundle.onnx(), &manifest.forecaster, dev, &manifest.golden)
            .map(|_| ())
            .map_err(|e| e.to_string())
    })
}

/// As [`load`], but whether the fused kernels agree with tract is what `check` says, which [`compare`] may have found out in another
/// process or at another time. Where it refuses, or the graph is not one that the kernels know, tract runs the model.
///
/// # Errors
/// Another feature pipeline, a graph that does not run here, or golden vectors that come out differently.
pub fn load_with(
    bundle: &VerifiedBundle,
    check: impl FnOnce(&VerifiedBundle) -> Result<(), String>,
) -> Result<LoadedModel, RuntimeError> {
    let manifest = bundle.manifest();
    if manifest.pipeline_version != PIPELINE_VERSION {
        return Err(RuntimeError::Pipeline {
            forecaster: manifest.forecaster.name.clone(),
            version: manifest.version,
            found: manifest.pipeline_version,
            ours: PIPELINE_VERSION,
        });
    }
    let spec = &manifest.forecaster;
    let model = load_by(bundle.onnx(), spec, || check(bundle))?;
    model.check_golden(&manifest.golden, manifest.train_dev)?;
    Ok(model)
}

/// Loads a graph that is not sealed yet: the hub's way to score a candidate and to make its golden vectors.
///
/// # Errors
/// A graph that does not run or does not fit the forecaster.
pub fn load_onnx(onnx: &[u8], spec: &ForecasterSpec) -> Result<LoadedModel, RuntimeError> {
    load_by(onnx, spec, || {
        compare(onnx, spec, None, &[])
            .map(|_| ())
            .map_err(|e| e.to_string())
    })
}

/// Loads a graph for plain tract, whatever it is.
///
/// # Errors
/// A graph that does not run or does not fit the forecaster.
pub fn load_plain(onnx: &[u8], spec: &ForecasterSpec) -> Result<LoadedModel, RuntimeError> {
    plain(onnx, spec, "asked for".to_owned())
}

/// Loads a graph for the fused kernels without any check: for measuring them. [`load_with`] is how a model gets to forecast.
///
/// # Errors
/// A graph that the kernels do not know, or that does not fit the forecaster.
pub fn load_fused(onnx: &[u8], spec: &ForecasterSpec) -> Result<LoadedModel, CheckError> {
    let (params, _) = check::recognise(onnx, spec)?;
    Ok(fused(&params, spec))
}

fn load_by(
    onnx: &[u8],
    spec: &ForecasterSpec,
    check: impl FnOnce() -> Result<(), String>,
) -> Result<LoadedModel, RuntimeError> {
    let params = match check::recognise(onnx, spec) {
        Ok((params, _)) => params,
        Err(e) => return plain(onnx, spec, e.to_string()),
    };
    if let Err(why) = check() {
        return plain(onnx, spec, why);
    }
    Ok(fused(&params, spec))
}

fn fused(params: &ModelParams, spec: &ForecasterSpec) -> LoadedModel {
    LoadedModel {
        engine: Engine::Fused(Box::new(Fused::new(params))),
        runs_by: RunsBy::Fused,
        target: target(spec),
    }
}

fn plain(onnx: &[u8], spec: &ForecasterSpec, why: String) -> Result<LoadedModel, RuntimeError> {
    let engine = Plain::load(onnx, shape(spec)).map_err(|cause| RuntimeError::Load {
        forecaster: spec.name.clone(),
        cause,
    })?;
    Ok(LoadedModel {
        engine: Engine::Plain(engine),
        runs_by: RunsBy::Plain(why),
        target: target(spec),
    })
}

fn target(spec: &ForecasterSpec) -> Option<usize> {
    spec.inputs.iter().position(|input| *input == spec.target)
}

/// The sizes that a forecaster's graph has.
pub(crate) fn shape(spec: &ForecasterSpec) -> Shape {
    Shape {
        lookback: spec.lookback,
        inputs: spec.inputs.len(),
        horizon: spec.horizon,
        future_width: calendar::width(spec),
        quantiles: spec.quantiles.len(),
    }
}

impl LoadedModel {
    /// What computes the forecasts.
    #[must_use]
    pub fn runs_by(&self) -> &RunsBy {
        &self.runs_by
    }

    fn shape(&self) -> Shape {
        match &self.engine {
            Engine::Fused(engine) => engine.shape(),
            Engine::Plain(engine) => engine.shape(),
        }
    }

    /// Forecasts the steps after the window's origin.
    ///
    /// # Errors
    /// A window of another size or without any value of the target; an output that is not finite.
    pub fn forecast(&self, window: &Window) -> Result<Prediction, RuntimeError> {
        self.run(&window.window, &window.future)
    }

    /// As [`Self::forecast`], into memory that is there: with the fused kernels a call allocates nothing.
    ///
    /// # Errors
    /// As [`Self::forecast`]; `out` then holds nothing of use.
    pub fn forecast_into(&self, window: &Window, out: &mut Prediction) -> Result<(), RuntimeError> {
        self.run_into(&window.window, &window.future, out)
    }

    /// Forecasts from a golden vector's inputs; only its inputs are read.
    ///
    /// # Errors
    /// As [`Self::forecast`].
    pub fn forecast_golden(&self, golden: &GoldenVector) -> Result<Prediction, RuntimeError> {
        self.run(&golden.window, &golden.future)
    }

    /// Whether this machine reproduces the golden vectors within [`GOLDEN_TOLERANCE`] of `train_dev` (raw units).
    ///
    /// # Errors
    /// The first value that differs by more, or what [`Self::forecast`] says.
    pub fn check_golden(
        &self,
        golden: &[GoldenVector],
        train_dev: f64,
    ) -> Result<(), RuntimeError> {
        for (index, vector) in golden.iter().enumerate() {
            let found = self.forecast_golden(vector)?;
            compare_golden(index, "mean", &found.mean, &vector.mean, train_dev)?;
            compare_golden(
                index,
                "quantiles",
                &found.quantiles,
                &vector.quantiles,
                train_dev,
            )?;
        }
        Ok(())
    }

    fn run(&self, window: &[f64], future: &[f64]) -> Result<Prediction, RuntimeError> {
        let mut out = Prediction::default();
        self.run_into(window, future, &mut out)?;
        Ok(out)
    }

    fn run_into(
        &self,
        window: &[f64],
        future: &[f64],
        out: &mut Prediction,
    ) -> Result<(), RuntimeError> {
        let s = self.shape();
        size("window", window.len(), s.lookback * s.inputs)?;
        size("future", future.len(), s.horizon * s.future_width)?;
        // An LSTM makes something finite of it, and each engine something else.
        if window.iter().any(|v| v.is_infinite()) {
            return Err(RuntimeError::NotFinite { what: "window" });
        }
        // The graphs answer with something for an empty target; a device has better things for it.
        if let Some(target) = self.target
            && window
                .iter()
                .skip(target)
                .step_by(s.inputs)
                .all(|v| v.is_nan())
        {
            return Err(RuntimeError::NoTarget);
        }
        match &self.engine {
            Engine::Fused(engine) => engine.run(window, future, out),
            Engine::Plain(engine) => engine
                .run(window, future, out)
                .map_err(|cause| RuntimeError::Run { cause })?,
        }
        for (what, values) in [("mean", &out.mean), ("quantiles", &out.quantiles)] {
            if !values.iter().all(|v| v.is_finite()) {
                return Err(RuntimeError::NotFinite { what });
            }
        }
        Ok(())
    }
}

fn size(what: &'static str, found: usize, expected: usize) -> Result<(), RuntimeError> {
    if found == expected {
        Ok(())
    } else {
        Err(RuntimeError::WindowSize {
            what,
            found,
            expected,
        })
    }
}

/// A difference that rounding alone makes is allowed where the target never moved in training, or far from zero.
fn compare_golden(
    index: usize,
    what: &'static str,
    found: &[f64],
    expected: &[f64],
    train_dev: f64,
) -> Result<(), RuntimeError> {
    size(what, expected.len(), found.len())?;
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let allowed = (GOLDEN_TOLERANCE * train_dev).max(1e-12 * expected.abs());
        let equal = (found - expected).abs() <= allowed;
        if !equal {
            return Err(RuntimeError::Golden {
                index,
                what,
                at,
                found: *found,
                expected: *expected,
                allowed,
            });
        }
    }
    Ok(())
}
