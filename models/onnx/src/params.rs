//! What a model is made of before it becomes a graph: owns the parameter structs and their shape rules, never any arithmetic.

use crate::{EnsembleParams, OnnxError};

/// A window's deviation is never taken smaller than this share of the feature's training deviation.
pub const DEV_FLOOR: f64 = 1e-3;
/// Smallest deviation at all, so that a feature that never moved in training divides by something.
pub const DEV_MIN: f64 = 1e-9;
/// Bound of the normalised window's values.
pub const Z_CLIP: f64 = 10.0;
/// The LSTM's part counts in units of the target's deviation in the window, but of no more than this many of its training deviations.
///
/// An LSTM is f32 everywhere, and every engine has another tanh: what it adds is sure to some 5e-7 of its unit. Beyond this bound it
/// has learnt nothing either; the linear part, in f64, goes on.
pub const LSTM_MOST: f64 = 10.0;

/// One LSTM layer as PyTorch stores it: gates in the order input, forget, cell, output; two bias vectors.
#[derive(Debug, Clone, PartialEq)]
pub struct LstmParams {
    /// Width of the input, I.
    pub input: usize,
    /// Width of the state, H.
    pub hidden: usize,
    /// `[4H, I]`, row-major.
    pub w_ih: Vec<f32>,
    /// `[4H, H]`, row-major.
    pub w_hh: Vec<f32>,
    /// `[4H]`.
    pub b_ih: Vec<f32>,
    /// `[4H]`.
    pub b_hh: Vec<f32>,
}

/// `y = weight x + bias`.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearParams {
    /// Width of x, I.
    pub input: usize,
    /// Width of y, O.
    pub output: usize,
    /// `[O, I]`, row-major.
    pub weight: Vec<f32>,
    /// `[O]`.
    pub bias: Vec<f32>,
}

/// Preset `classic`: MinMax of the inputs, LSTM, linear head on the last state, inverse MinMax of the target; one step ahead.
///
/// `x' = (x - x_min) / (x_max - x_min)` (a range of 0 counts as 1), computed in f64; a missing value is replaced by the feature's last
/// observed one, and by `x_min` where the window holds none. `y = y_min + y' (y_max - y_min)`.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassicParams {
    /// Steps of the window, T.
    pub lookback: usize,
    /// Width of the known-future input K; this preset does not read it.
    pub future_width: usize,
    /// Training minimum of each input, `[F]`, raw units.
    pub x_min: Vec<f64>,
    /// Training maximum of each input, `[F]`, raw units.
    pub x_max: Vec<f64>,
    /// Training minimum of the target, raw units.
    pub y_min: f64,
    /// Training maximum of the target, raw units.
    pub y_max: f64,
    /// Input width F.
    pub lstm: LstmParams,
    /// `[1, hidden]`.
    pub head: LinearParams,
    /// Quantile levels, ascending, `[Q]`.
    pub quantiles: Vec<f64>,
    /// Distance of each quantile from the mean, `[1, Q]`, raw units.
    pub quantile_offset: Vec<f64>,
}

/// The LSTM beside the highway: reads the normalised window in segments, oldest first; its last state is projected onto the horizon.
#[derive(Debug, Clone, PartialEq)]
pub struct LstmHead {
    /// Steps of one segment; divides the lookback.
    pub segment: usize,
    /// Input width `segment * F`: the segment's rows one after another.
    pub lstm: LstmParams,
    /// `[H, hidden]`.
    pub head: LinearParams,
}

/// Preset `default`.
///
/// With `last[f]` the last observed value of feature f in the window (0 where there is none), `d[t,f] = x[t,f] - last[f]`, `n[f]` the
/// number of observed steps and `m[f]` the mean of d over them:
/// `dev[f] = max(sqrt(sum of observed (d - m)^2 / max(n, 1)), max(1e-3 * train_dev[f], 1e-9))`,
/// `z[t,f] = clip(d / dev, -10, 10)`, 0 where missing. Then, with y the target's feature,
/// `mean[h] = last[y] + dev[y] * (highway(z)[h] + sum_k future_weight[h,k] future[h,k]) + min(dev[y], 10 * train_dev[y]) * lstm(z)[h]`
/// and `quantiles[h,q] = mean[h] + dev[y] * quantile_offset[h,q]`. The LSTM is f32 up to its last state, the rest f64.
#[derive(Debug, Clone, PartialEq)]
pub struct DefaultParams {
    /// Steps of the window, T.
    pub lookback: usize,
    /// Features of the window, F.
    pub inputs: usize,
    /// Steps that are forecast, H.
    pub horizon: usize,
    /// Known-future values of each forecast step, K; 0 is allowed.
    pub future_width: usize,
    /// The target's feature.
    pub target_input: usize,
    /// Deviation of each feature over the training part, `[F]`, raw units.
    pub train_dev: Vec<f64>,
    /// `[H, T*F]` over z, time-major (`t * F + f`).
    pub highway: LinearParams,
    /// `[H, K]`.
    pub future_weight: Vec<f32>,
    /// Left out where ridge alone was better.
    pub lstm: Option<LstmHead>,
    /// Quantile levels, ascending, `[Q]`.
    pub quantiles: Vec<f64>,
    /// `[H, Q]` in units of `dev[y]`, ascending along Q.
    pub quantile_offset: Vec<f32>,
}

impl DefaultParams {
    /// Smallest deviation of feature `f` in a window; [`DEV_MIN`] for a feature that does not exist.
    #[must_use]
    pub fn dev_floor(&self, f: usize) -> f64 {
        dev_floor(self.train_dev.get(f).copied().unwrap_or_default())
    }
}

/// Smallest deviation in a window of a feature of this training deviation, raw units.
#[must_use]
pub fn dev_floor(train_dev: f64) -> f64 {
    (DEV_FLOOR * train_dev).max(DEV_MIN)
}

/// The value one season before (of the window's last season, repeated), the last observed value where that one is missing.
#[derive(Debug, Clone, PartialEq)]
pub struct SeasonalNaiveParams {
    /// Steps of the window, T.
    pub lookback: usize,
    /// Features of the window, F.
    pub inputs: usize,
    /// Steps that are forecast, H.
    pub horizon: usize,
    /// Width of the known-future input K; this model does not read it.
    pub future_width: usize,
    /// The target's feature.
    pub target_input: usize,
    /// Steps of one season, at most the lookback.
    pub season: usize,
    /// Quantile levels, ascending, `[Q]`.
    pub quantiles: Vec<f64>,
    /// Distance of each quantile from the mean, `[H, Q]`, raw units.
    pub quantile_offset: Vec<f64>,
}

/// The parameters of one trained model.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelParams {
    /// Preset `classic`.
    Classic(ClassicParams),
    /// Preset `default`, with or without its LSTM.
    Default(DefaultParams),
    /// The baseline that was not beaten.
    SeasonalNaive(SeasonalNaiveParams),
    /// Preset `default`, several members averaged.
    Ensemble(EnsembleParams),
}

/// The sizes that a graph's inputs and outputs follow from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Steps of the window, T.
    pub lookback: usize,
    /// Features of the window, F.
    pub inputs: usize,
    /// Steps that are forecast, H.
    pub horizon: usize,
    /// Known-future values of each forecast step, K.
    pub future_width: usize,
    /// Quantiles of each forecast step, Q.
    pub quantiles: usize,
}

impl ModelParams {
    /// The sizes of the model's inputs and outputs.
    #[must_use]
    pub fn shape(&self) -> Shape {
        match self {
            Self::Classic(p) => Shape {
                lookback: p.lookback,
                inputs: p.x_min.len(),
                horizon: 1,
                future_width: p.future_width,
                quantiles: p.quantiles.len(),
            },
            Self::Default(p) => Shape {
                lookback: p.lookback,
                inputs: p.inputs,
                horizon: p.horizon,
                future_width: p.future_width,
                quantiles: p.quantiles.len(),
            },
            Self::SeasonalNaive(p) => Shape {
                lookback: p.lookback,
                inputs: p.inputs,
                horizon: p.horizon,
                future_width: p.future_width,
                quantiles: p.quantiles.len(),
            },
            Self::Ensemble(p) => Shape {
                lookback: p.lookback,
                inputs: p.inputs,
                horizon: p.horizon,
                future_width: p.future_width,
                quantiles: p.quantiles.len(),
            },
        }
    }

    /// Checks every length against the sizes, and that every number is finite.
    ///
    /// # Errors
    /// [`OnnxError::Shape`] or [`OnnxError::NotFinite`] with the first parameter that breaks its rule.
    pub fn check(&self) -> Result<(), OnnxError> {
        let s = self.shape();
        length("lookback", s.lookback.min(1), 1)?;
        length("inputs", s.inputs.min(1), 1)?;
        length("horizon", s.horizon.min(1), 1)?;
        length("quantiles", s.quantiles.min(1), 1)?;
        let target = |input: usize| {
            if input < s.inputs {
                Ok(())
            } else {
                Err(OnnxError::Shape {
                    what: "target_input",
                    found: input,
                    expected: s.inputs.saturating_sub(1),
                })
            }
        };
        match self {
            Self::Classic(p) => {
                length("x_max", p.x_max.len(), s.inputs)?;
                finite(
                    "x_min, x_max, y_min, y_max",
                    p.x_min
                        .iter()
                        .chain(&p.x_max)
                        .chain([&p.y_min, &p.y_max])
                        .copied(),
                )?;
                p.lstm.check(s.inputs)?;
                p.head.check(p.lstm.hidden, 1)?;
                length("quantile_offset", p.quantile_offset.len(), s.quantiles)?;
                finite("quantile_offset", p.quantile_offset.iter().copied())
            }
            Self::Default(p) => {
                target(p.target_input)?;
                length("train_dev", p.train_dev.len(), s.inputs)?;
                finite("train_dev", p.train_dev.iter().copied())?;
                p.highway.check(s.lookback * s.inputs, s.horizon)?;
                length(
                    "future_weight",
                    p.future_weight.len(),
                    s.horizon * s.future_width,
                )?;
                finite(
                    "future_weight",
                    p.future_weight.iter().map(|v| f64::from(*v)),
                )?;
                length(
                    "quantile_offset",
                    p.quantile_offset.len(),
                    s.horizon * s.quantiles,
                )?;
                finite(
                    "quantile_offset",
                    p.quantile_offset.iter().map(|v| f64::from(*v)),
                )?;
                let Some(l) = &p.lstm else { return Ok(()) };
                if l.segment == 0 || !s.lookback.is_multiple_of(l.segment) {
                    return Err(OnnxError::Shape {
                        what: "segment (must divide lookback)",
                        found: l.segment,
                        expected: s.lookback,
                    });
                }
                l.lstm.check(l.segment * s.inputs)?;
                l.head.check(l.lstm.hidden, s.horizon)
            }
            Self::Ensemble(p) => {
                target(p.target_input)?;
                p.check(s)
            }
            Self::SeasonalNaive(p) => {
                target(p.target_input)?;
                if p.season == 0 || p.season > s.lookback {
                    return Err(OnnxError::Shape {
                        what: "season (1 to lookback)",
                        found: p.season,
                        expected: s.lookback,
                    });
                }
                length(
                    "quantile_offset",
                    p.quantile_offset.len(),
                    s.horizon * s.quantiles,
                )?;
                finite("quantile_offset", p.quantile_offset.iter().copied())
            }
        }
    }
}

impl LstmParams {
    pub(crate) fn check(&self, input: usize) -> Result<(), OnnxError> {
        length("lstm.input", self.input, input)?;
        length("lstm.hidden", self.hidden.min(1), 1)?;
        length("lstm.w_ih", self.w_ih.len(), 4 * self.hidden * self.input)?;
        length("lstm.w_hh", self.w_hh.len(), 4 * self.hidden * self.hidden)?;
        length("lstm.b_ih", self.b_ih.len(), 4 * self.hidden)?;
        length("lstm.b_hh", self.b_hh.len(), 4 * self.hidden)?;
        finite(
            "lstm",
            [&self.w_ih, &self.w_hh, &self.b_ih, &self.b_hh]
                .into_iter()
                .flatten()
                .map(|v| f64::from(*v)),
        )
    }
}

impl LinearParams {
    pub(crate) fn check(&self, input: usize, output: usize) -> Result<(), OnnxError> {
        length("linear.input", self.input, input)?;
        length("linear.output", self.output, output)?;
        length("linear.weight", self.weight.len(), input * output)?;
        length("linear.bias", self.bias.len(), output)?;
        finite(
            "linear",
            self.weight.iter().chain(&self.bias).map(|v| f64::from(*v)),
        )
    }
}

pub(crate) fn length(what: &'static str, found: usize, expected: usize) -> Result<(), OnnxError> {
    if found == expected {
        Ok(())
    } else {
        Err(OnnxError::Shape {
            what,
            found,
            expected,
        })
    }
}

pub(crate) fn finite(
    what: &'static str,
    mut values: impl Iterator<Item = f64>,
) -> Result<(), OnnxError> {
    if values.all(f64::is_finite) {
        Ok(())
    } else {
        Err(OnnxError::NotFinite { what })
    }
}
