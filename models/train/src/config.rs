//! Settings of a training run and the progress it reports: owns their defaults and limits, never a value learnt.

use std::time::Duration;

use fieldcast_features::Millis;
use serde::{Deserialize, Serialize};

use crate::TrainError;

/// How to train. Two runs with equal data, spec and config give equal models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Start of every random number.
    pub seed: u64,
    /// Share of the origins, oldest first, that weights are learnt from.
    pub train_share: f64,
    /// Share after it that models and settings are chosen on; what is left calibrates the intervals.
    pub select_share: f64,
    /// First origin that selects, in place of `train_share`.
    pub select_from: Option<Millis>,
    /// First origin that calibrates, in place of `select_share`; none: half of what lies behind `select_from`.
    pub calibrate_from: Option<Millis>,
    /// Most epochs of each of preset `default`'s LSTM heads; 0 trains none.
    pub max_epochs: usize,
    /// Epochs without a better selection score before it stops.
    pub patience: usize,
    /// Windows in a batch of preset `default`.
    pub batch: usize,
    /// AdamW's step.
    pub learning_rate: f32,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f32,
    /// Share of a head's units that each step of the training leaves out, other ones for each window and step ahead.
    pub dropout: f32,
    /// Width of an LSTM head's state.
    pub hidden: usize,
    /// Units in which its state meets calendar and lags.
    pub units: usize,
    /// Heads that are trained from different random numbers and averaged.
    pub seeds: usize,
    /// Windows of an epoch, drawn anew for each; more of them are left for later epochs.
    pub epoch_windows: usize,
    /// Ridge penalties that are tried, relative to the mean diagonal of the normal equations.
    pub ridge_penalties: Vec<f64>,
    /// Spans `[from, until)` whose targets belong to no part of the training: they are kept for judging.
    pub unseen: Vec<(Millis, Millis)>,
    /// More training windows than this are thinned out evenly.
    pub max_windows: usize,
    /// How often a row after a series' `weight_from` counts.
    pub recent_weight: f32,
    /// Whether a ridge that is chosen is fitted once more to all parts, its promise being measured on days behind them: of a world that has
    /// just begun, choosing and calibrating take most of the days.
    pub refit: bool,
    /// Also fit a random forest on a subsample, as one more line of the table.
    pub forest: bool,
    /// Batch of preset `classic`; none is the whole data at once, as in the system it reproduces (32 is the usual choice).
    pub classic_batch: Option<usize>,
    /// Epochs of preset `classic`.
    pub classic_epochs: usize,
    /// SHA-256 of the ONNX of the model whose heads are tried as a beginning; whoever trains brings the model itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Most threads; none is as many as the machine has. The model does not depend on it.
    pub threads: Option<usize>,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            train_share: 0.7,
            select_share: 0.15,
            select_from: None,
            calibrate_from: None,
            max_epochs: 20,
            patience: 6,
            batch: 128,
            learning_rate: 1e-3,
            weight_decay: 0.2,
            dropout: 0.0,
            hidden: 16,
            units: 64,
            seeds: 3,
            epoch_windows: 8_192,
            ridge_penalties: vec![1e-4, 1e-3, 1e-2, 1e-1, 1.0],
            unseen: Vec::new(),
            max_windows: 40_000,
            recent_weight: 3.0,
            refit: false,
            forest: true,
            classic_batch: None,
            classic_epochs: 20,
            parent: None,
            threads: None,
        }
    }
}

impl TrainConfig {
    /// Threads to use.
    pub(crate) fn threads(&self) -> usize {
        let all = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.threads.unwrap_or_else(all).max(1)
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// The first that breaks its rule, with the rule.
    pub fn validate(&self) -> Result<(), TrainError> {
        let fail = |setting, problem| Err(TrainError::Config { setting, problem });
        let share = |s: f64| s > 0.0 && s < 1.0;
        if !share(self.train_share)
            || !share(self.select_share)
            || self.train_share + self.select_share >= 0.999
        {
            return fail(
                "train_share, select_share",
                "must each be above 0 and together below 1, so that a part is left to calibrate on",
            );
        }
        if self.batch == 0 || self.classic_batch == Some(0) {
            return fail("batch, classic_batch", "must be at least 1");
        }
        let width = |w: usize| (1..=1_024).contains(&w);
        if !width(self.hidden) || !width(self.units) {
            return fail("hidden, units", "must be 1 to 1024");
        }
        if self.seeds == 0 || self.seeds > 16 {
            return fail("seeds", "must be 1 to 16");
        }
        if self.epoch_windows < self.batch {
            return fail("epoch_windows", "must be at least a batch");
        }
        let rate = |r: f32| (0.0..=1.0).contains(&r);
        if !rate(self.learning_rate) || !rate(self.weight_decay) {
            return fail("learning_rate, weight_decay", "must be 0 to 1");
        }
        if !(0.0..=0.9).contains(&self.dropout) {
            return fail("dropout", "must be 0 to 0.9");
        }
        if self.ridge_penalties.is_empty()
            || !self
                .ridge_penalties
                .iter()
                .all(|l| l.is_finite() && *l > 0.0)
        {
            return fail(
                "ridge_penalties",
                "must hold at least one number, all above 0",
            );
        }
        if self.max_windows < 100 {
            return fail("max_windows", "must be at least 100");
        }
        if !(self.recent_weight >= 1.0 && self.recent_weight <= 1_000.0) {
            return fail("recent_weight", "must be 1 to 1000");
        }
        Ok(())
    }
}

/// What a training run is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Fitting and scoring the baselines.
    Baselines,
    /// Training the LSTM.
    Lstm,
    /// Calibrating the chosen model.
    Calibration,
}

/// One report to the callback of [`crate::fit`]; a callback that returns `Break` cancels the run.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// What the run is doing.
    pub stage: Stage,
    /// Epochs done in this stage.
    pub epoch: usize,
    /// Epochs it will take at most.
    pub epochs: usize,
    /// Mean training loss of the last epoch, where there was one.
    pub loss: Option<f64>,
    /// MASE on the selection part after the last epoch, where it was scored.
    pub selection_mase: Option<f64>,
    /// Time since the run began.
    pub elapsed: Duration,
    /// Time left if all epochs are needed, where it can be told.
    pub remaining: Option<Duration>,
}
