//! What the pipeline needs of a model: a window in, finite numbers of the right shape out; never loads one.

use fieldcast_features::ForecasterSpec;
use fieldcast_features::window::Window;
use fieldcast_wire::Sha256;
use serde::{Deserialize, Serialize};

/// Some of what a forecast was made from, and what it did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Influence {
    /// `input NAME`, `newest step`, `steps 2 to 6 back`, `calendar`.
    pub of: String,
    /// By how much the forecast differs from one without it, absolute, mean over the steps ahead, the target's unit.
    pub size: f64,
    /// The same with its sign.
    pub change: f64,
}

/// What a model computed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Computed {
    /// `[H]`, in the target's unit.
    pub mean: Vec<f64>,
    /// `[H * Q]`, step-major.
    pub quantiles: Vec<f64>,
    /// Processor time that it took, microseconds; 0 where it was not measured.
    pub took_us: u32,
}

/// A model that is ready to run.
pub trait Model: Send + Sync {
    /// A forecast from a window.
    ///
    /// # Errors
    /// Why the model could not run.
    fn forecast(&self, window: &Window) -> Result<Computed, String>;

    /// Which inputs and which lags make the forecast from `window`; nothing where the model cannot say.
    fn explain(&self, _spec: &ForecasterSpec, _window: &Window) -> Vec<Influence> {
        Vec::new()
    }
}

/// A model of a verified bundle, in place.
pub struct Slot {
    /// Digest of the bundle.
    pub sha: Sha256,
    /// Its model version.
    pub version: u64,
    /// Quantile levels of its outputs.
    pub levels: Vec<f64>,
    /// The target's deviation over its training part.
    pub train_dev: f64,
    /// Share of the lookback in which the target must have been observed for a forecast's errors to say anything of it.
    pub least_observed: f64,
    /// What computes its forecasts, in words.
    pub engine: String,
    /// What a golden vector took when it was loaded, microseconds; 0 where it was not measured.
    pub golden_us: u32,
    /// The model.
    pub model: Box<dyn Model>,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot")
            .field("sha", &self.sha)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl Slot {
    /// Runs the model and checks its numbers: a forecast with anything that is not finite is none.
    ///
    /// # Errors
    /// Why there is no usable forecast.
    pub fn forecast(&self, window: &Window) -> Result<Computed, String> {
        let computed = self.model.forecast(window)?;
        let (mean, quantiles) = (&computed.mean, &computed.quantiles);
        let shape = window.horizon * self.levels.len();
        if mean.len() != window.horizon || quantiles.len() != shape {
            return Err(format!(
                "{} means and {} quantiles instead of {} and {shape}",
                mean.len(),
                quantiles.len(),
                window.horizon
            ));
        }
        if let Some(bad) = mean.iter().chain(quantiles).find(|v| !v.is_finite()) {
            return Err(format!("a value of the forecast is {bad}"));
        }
        Ok(computed)
    }
}
