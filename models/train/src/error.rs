//! Why a training run did not give a model: owns the errors, each with what to do next.

use fieldcast_features::{Millis, SpecError};

/// What went wrong in [`crate::fit`]; everything but the last three is found before training starts.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TrainError {
    /// The forecaster's definition.
    #[error("training cannot start: {0}; correct the forecaster's definition")]
    Spec(#[from] SpecError),
    /// A setting of the training run.
    #[error("training cannot start: setting `{setting}` {problem}")]
    Config {
        /// The setting.
        setting: &'static str,
        /// What is wrong and what is allowed.
        problem: &'static str,
    },
    /// A row whose number of values is not the forecaster's number of channels.
    #[error(
        "training cannot start: device `{device}` has a row at {time} with {found} values where the forecaster has {expected} channels; rebuild the feature rows with this version of the forecaster"
    )]
    RowWidth {
        /// Device of the row.
        device: String,
        /// Time of the row.
        time: Millis,
        /// Values in the row.
        found: usize,
        /// Channels of the forecaster.
        expected: usize,
    },
    /// A row between two grid times.
    #[error(
        "training cannot start: device `{device}` has a row at {time}, which is no multiple of the period of {period} ms; resample the readings onto the grid first"
    )]
    OffGrid {
        /// Device of the row.
        device: String,
        /// Time of the row.
        time: Millis,
        /// The grid's period.
        period: Millis,
    },
    /// An infinite value; missing values are NaN and allowed.
    #[error(
        "training cannot start: device `{device}`, channel `{channel}` is infinite at {time}; mark such readings as bad so that they become missing"
    )]
    NotFinite {
        /// Device of the row.
        device: String,
        /// Time of the row.
        time: Millis,
        /// Channel of the value.
        channel: String,
    },
    /// No value of the target at all.
    #[error(
        "training cannot start: the target `{target}` is missing in all {rows} rows; check the selector's sensor mapping"
    )]
    MissingTarget {
        /// The forecaster's target.
        target: String,
        /// Rows over all devices.
        rows: usize,
    },
    /// A target that never changes in what would be learnt from: nothing can be learnt and every scale is zero.
    #[error(
        "training cannot start: the target `{target}` is {value} in every row from {from} to {until} (ms UTC), and that is what would be learnt from; a constant needs no forecast, or the sensor is stuck: wait until it has moved, or move the parts' shares"
    )]
    ConstantTarget {
        /// The forecaster's target.
        target: String,
        /// Its only value (that of the first device, where each has its own).
        value: f64,
        /// Time of its first row.
        from: Millis,
        /// Time of its last row.
        until: Millis,
    },
    /// Too little data for the three chronological parts.
    #[error(
        "training cannot start: {rows} rows give {found} usable windows; {needed} are needed, so that the train, select and calibrate parts stay apart by a horizon of {horizon} and hold enough each, which takes about {rows_needed} rows without gaps on one device (a window takes {lookback} rows); wait for more data or shorten lookback or horizon"
    )]
    TooFewRows {
        /// Rows over all devices.
        rows: usize,
        /// Windows with enough observed values.
        found: usize,
        /// Windows needed.
        needed: usize,
        /// Steps of the horizon.
        horizon: usize,
        /// Steps of the window.
        lookback: usize,
        /// Gapless rows of one device that would do.
        rows_needed: usize,
    },
    /// One of the three parts came out too small.
    #[error(
        "training cannot start: the {part} part holds {found} windows and needs {needed}; the data is too gappy at that time, or the parts' shares are too uneven"
    )]
    PartTooSmall {
        /// `train`, `select` or `calibrate`.
        part: &'static str,
        /// Windows in it.
        found: usize,
        /// Windows needed.
        needed: usize,
    },
    /// A part to judge on with next to no window in it.
    #[error(
        "nothing to judge on: judging one origin in {stride}, the last {share:.1} % of the time give {found} windows with a horizon of {horizon} behind them, and {needed} are needed; give the judged part a larger share of the split, a smaller stride, or more data"
    )]
    NothingToJudge {
        /// Percent of the time that is judged.
        share: f64,
        /// Every so many origins is judged.
        stride: usize,
        /// Steps of the horizon.
        horizon: usize,
        /// Windows in it.
        found: usize,
        /// Windows needed.
        needed: usize,
    },
    /// The progress callback asked to stop.
    #[error(
        "training was cancelled in epoch {epoch}; start it again when wanted, it goes on from its checkpoint if it keeps one"
    )]
    Cancelled {
        /// Epoch it was in, from 1; 0 before the first.
        epoch: usize,
    },
    /// The normal equations could not be solved even with the largest penalty.
    #[error(
        "fitting ridge failed: the normal equations of {features} features are not positive definite; look for inputs that copy each other or hold absurd values"
    )]
    Singular {
        /// Features of the regression.
        features: usize,
    },
    /// Loss or weights stopped being numbers.
    #[error("training diverged in epoch {epoch}: the loss is not finite; lower the learning rate")]
    Diverged {
        /// Epoch, from 1.
        epoch: usize,
    },
    /// A search without an outcome.
    #[error("searching for settings: {error}; give it more time, or correct that first")]
    Search {
        /// What stood in the way.
        error: String,
    },
    /// A window that does not fit the model.
    #[error(
        "prediction failed: `{what}` has {found} values where the model needs {expected}; build the window with the model's own forecaster"
    )]
    WindowShape {
        /// Which input.
        what: &'static str,
        /// Values found.
        found: usize,
        /// Values needed.
        expected: usize,
    },
}
