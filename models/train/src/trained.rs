//! What a training run hands back: owns its parts and their meaning, never how they come about.

use fieldcast_drift::reference::ReferenceStats;
use fieldcast_features::Millis;
use fieldcast_onnx::ModelParams;
use serde::{Deserialize, Serialize};

use crate::Calibration;
use crate::importance::InputImportance;
use crate::warm::WarmStart;

/// One model's errors on the selection and the calibration part, which no weight was learnt from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelScore {
    /// `last_value`, `seasonal_naive`, `weekly_naive`, `ridge`, `forest`, `lstm` (its heads averaged, as far as they were right), `ensemble` or `classic`.
    pub model: String,
    /// Mean absolute error over all steps, raw units.
    pub mae: f64,
    /// Root mean square error, raw units.
    pub rmse: f64,
    /// MAE in units of the training part's mean absolute seasonal difference, series by series: what decides.
    pub mase: f64,
    /// True for an LSTM more than 1 % worse than the best baseline that a bundle can hold (preset `classic` is only reported).
    pub refused: bool,
}

/// The three chronological parts, as origins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// First origin that was learnt from.
    pub train_from: Millis,
    /// First origin of the selection part; what was learnt from ends a horizon earlier.
    pub select_from: Millis,
    /// First origin of the calibration part.
    pub calibrate_from: Millis,
    /// Last origin.
    pub until: Millis,
    /// Windows of the train part, before thinning.
    pub train_windows: usize,
    /// Windows of the selection part.
    pub select_windows: usize,
    /// Windows of the calibration part.
    pub calibrate_windows: usize,
}

/// The outcome of a training run.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// The chosen model.
    pub params: ModelParams,
    /// Its name in the table.
    pub chosen: String,
    /// All models on the selection and the calibration part, baselines first.
    pub table: Vec<ModelScore>,
    /// Every model of the table that a bundle could hold, by name, with intervals of its own.
    pub models: Vec<(String, ModelParams)>,
    /// The chosen model's errors on the calibration part.
    pub calibration: Calibration,
    /// Summary of every channel over all rows used, for the drift statistics.
    pub reference: ReferenceStats,
    /// Where the parts were cut.
    pub split: Split,
    /// The target's deviation over the training part, raw units: what tolerances are measured in.
    pub train_dev_target: f64,
    /// Ridge's chosen penalty, where one was fitted.
    pub penalty: Option<f64>,
    /// What the chosen model loses without each input on the selection and the calibration part, largest first.
    pub importance: Vec<InputImportance>,
    /// What came of beginning at an earlier model, where there was one.
    pub warm: Option<WarmStart>,
    /// The chosen model has learnt from all parts since it was chosen: what is measured of its errors must be of later days.
    pub refitted: bool,
}
