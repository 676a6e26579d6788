//! What a bundle says about its model: owns the manifest's fields and their JSON, never a signature.

use std::collections::BTreeMap;

use fieldcast_drift::estimate::WidthErrors;
use fieldcast_features::{ForecasterSpec, Millis};
use serde::{Deserialize, Serialize};

/// Layout of the manifest and its parts.
pub const FORMAT: u32 = 1;

/// Everything that is signed; hashes tie the parts to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Layout, [`FORMAT`].
    pub format: u32,
    /// The forecaster as it was trained.
    pub forecaster: ForecasterSpec,
    /// Model version, unique and ascending for each forecaster.
    pub version: u64,
    /// SHA-256 of the ONNX part, hexadecimal; [`crate::seal`] fills it in.
    pub onnx_sha256: String,
    /// SHA-256 of the reference part, hexadecimal; [`crate::seal`] fills it in.
    pub reference_sha256: String,
    /// Version of the feature pipeline that made the training rows.
    pub pipeline_version: u32,
    /// Deviation of the target over the training part, raw units; tolerances are measured by it.
    pub train_dev: f64,
    /// Inputs with the outputs that a device must reproduce, 1 to [`MAX_GOLDEN`].
    pub golden: Vec<GoldenVector>,
    /// How wrong the model is when all is well.
    pub calibration: Calibration,
    /// Where the model comes from.
    pub training: Training,
    /// Oldest agent that can run it, `major.minor.patch`.
    pub min_agent: String,
    /// Time of the data snapshot.
    pub created: Millis,
    /// From this time on the bundle is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Millis>,
}

/// Most golden vectors of a manifest.
pub const MAX_GOLDEN: usize = 32;

/// Most devices whose error level a manifest names.
pub const MAX_LEVELS: usize = 1_024;

/// One input with its output, both in raw units and row-major.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GoldenVector {
    /// `[T, F]`, NaN where missing (`null` in JSON).
    #[serde(with = "nullable")]
    pub window: Vec<f64>,
    /// `[H, K]`.
    pub future: Vec<f64>,
    /// `[H]`.
    pub mean: Vec<f64>,
    /// `[H, Q]`.
    pub quantiles: Vec<f64>,
}

/// How wrong the model was on the calibration part: what a device compares its own errors with. Raw units.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Windows it was measured on.
    pub windows: usize,
    /// Root mean square of the residuals of each step, `[H]`.
    pub residual_std: Vec<f64>,
    /// Mean absolute residual of each step, `[H]`.
    pub residual_mae: Vec<f64>,
    /// The daily level of its errors.
    pub daily: DailyErrors,
    /// Coverage of the intervals between symmetric quantile levels.
    pub coverage: Vec<LevelCoverage>,
    /// How its errors follow the width of its widest interval, where that is known: what is said of errors before actual
    /// values come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub widths: Option<WidthErrors>,
}

/// ln(mean absolute error of a UTC day) while the model is right.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DailyErrors {
    /// Mean of the devices' levels.
    pub mean: f64,
    /// Standard deviation of the devices' levels around it.
    pub between: f64,
    /// Standard deviation of one device's days around its level.
    pub std: f64,
    /// Lag-1 autocorrelation of the same, 0 to 0.95.
    pub lag1: f64,
    /// Standard deviation of the days after averaging over devices.
    pub fleet_std: f64,
    /// UTC days behind the numbers.
    pub days: usize,
    /// In all but the least full twentieth of the windows behind the numbers the target was observed in this share of the
    /// lookback or more; none in bundles that do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<f64>,
    /// Levels of devices that were learnt from, at most [`MAX_LEVELS`]; any other device begins at `mean`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub levels: BTreeMap<String, f64>,
    /// What the mean errors of the same days were like; none in bundles that do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias: Option<DailyBias>,
}

/// The mean error of a UTC day (actual less forecast) over the device's usual absolute error, while the model is right.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DailyBias {
    /// Standard deviation of one device's days around its level.
    pub std: f64,
    /// Lag-1 autocorrelation of the same, 0 to 0.95.
    pub lag1: f64,
    /// Standard deviation of the days after averaging over devices.
    pub fleet_std: f64,
    /// Levels of the devices that [`DailyErrors::levels`] names.
    pub levels: BTreeMap<String, f64>,
}

/// A window with the target in so much of its lookback is a full one, however full those of the calibration were.
const FULL: f64 = 0.9;

impl DailyErrors {
    /// The share of the lookback in which the target must have been observed for a forecast to be judged by these numbers: they
    /// say nothing of what is made from less.
    #[must_use]
    pub fn least_observed(&self) -> f64 {
        self.observed.map_or(FULL, |share| share.min(FULL))
    }
}

/// Coverage of one interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LevelCoverage {
    /// Lower quantile level.
    pub lower: f64,
    /// Upper quantile level.
    pub upper: f64,
    /// Share of actual values inside; should be near `upper - lower`.
    pub coverage: f64,
}

/// Where a model comes from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// The training run.
    pub run: String,
    /// Name or digest of the data snapshot.
    pub snapshot: String,
    /// Seed of the run.
    pub seed: u64,
    /// Version of the code that trained.
    pub code_version: String,
    /// What was chosen: `lstm`, `ridge`, `seasonal_naive` or `classic`.
    pub chosen: String,
    /// Every candidate's scores on the selection part.
    pub table: Vec<ModelScore>,
    /// SHA-256 of the ONNX of the model at whose weights it began, hexadecimal; none where it began at random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Which times it learnt from; none in bundles that do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learnt: Option<Learnt>,
}

/// The data times that a model learnt from: what another model may be compared with it on is the rest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learnt {
    /// Oldest row.
    pub from: Millis,
    /// Newest row.
    pub until: Millis,
    /// Spans between them that it was kept from.
    #[serde(default)]
    pub unseen: Vec<(Millis, Millis)>,
}

/// Scores of one candidate on the selection part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelScore {
    /// The candidate.
    pub model: String,
    /// Mean absolute error, raw units.
    pub mae: f64,
    /// Root of the mean squared error, raw units.
    pub rmse: f64,
    /// Mean absolute error in units of the training part's mean absolute seasonal difference; none where that one is 0.
    pub mase: Option<f64>,
    /// True for a candidate that was too bad to be chosen.
    #[serde(default)]
    pub refused: bool,
}

impl Manifest {
    /// Checks what can be checked without the parts.
    ///
    /// # Errors
    /// The first field that breaks its rule.
    pub fn check(&self) -> Result<(), String> {
        self.forecaster.validate().map_err(|e| e.to_string())?;
        if self.golden.is_empty() || self.golden.len() > MAX_GOLDEN {
            return Err(format!(
                "{} golden vectors instead of 1 to {MAX_GOLDEN}",
                self.golden.len()
            ));
        }
        if !(self.train_dev.is_finite() && self.train_dev >= 0.0) {
            return Err("the training deviation is not a finite number from 0".into());
        }
        let daily = &self.calibration.daily;
        let bias = daily.bias.as_ref().map_or(0, |bias| bias.levels.len());
        let levels = daily.levels.len().max(bias);
        if levels > MAX_LEVELS {
            return Err(format!(
                "{levels} error levels, at most {MAX_LEVELS} are allowed"
            ));
        }
        let f = &self.forecaster;
        let width = fieldcast_features::calendar::width(f);
        for golden in &self.golden {
            let right = golden.window.len() == f.lookback * f.inputs.len()
                && golden.future.len() == f.horizon * width
                && golden.mean.len() == f.horizon
                && golden.quantiles.len() == f.horizon * f.quantiles.len();
            if !right {
                return Err("a golden vector's lengths do not fit the forecaster".into());
            }
            let numbers = golden
                .future
                .iter()
                .chain(&golden.mean)
                .chain(&golden.quantiles);
            if !numbers.into_iter().all(|v| v.is_finite()) {
                return Err("a golden vector's future or output is not finite".into());
            }
        }
        Ok(())
    }
}

/// JSON has no NaN: a missing value is `null`.
mod nullable {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(values: &[f64], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(
            values
                .iter()
                .map(|v| if v.is_nan() { None } else { Some(*v) }),
        )
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<f64>, D::Error> {
        let values = Vec::<Option<f64>>::deserialize(from)?;
        Ok(values.into_iter().map(|v| v.unwrap_or(f64::NAN)).collect())
    }
}
