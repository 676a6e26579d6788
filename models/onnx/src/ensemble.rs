//! The ensemble of ridge, LSTM heads and naive forecasts: owns its parameters and their rules, never any arithmetic.

use crate::params::{LinearParams, LstmParams, finite, length};
use crate::{OnnxError, Shape};

/// Bound of the exponent of [`Spread`]: no calendar makes an interval e^4 times wider or narrower than usual.
pub const SPREAD_CLIP: f64 = 4.0;

/// An LSTM beside the ridge highway whose last state meets each forecast step's calendar and the target's past at the
/// same phase of the season.
///
/// With `c` the normalised window z minus its mean over the window (missing steps counting as 0), `state` the last state over
/// segments of c, `lag[h,j] = c[lags[h,j]]` and `known[h]` the step's known-future values:
/// `unit[h] = max(0, state_weight state + state_bias + known_weight known[h] + lag_weight lag[h] + step[h])`,
/// `head[h] = out[h] · unit[h] + out_bias[h]`.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderParams {
    /// Steps of one segment; divides the lookback.
    pub segment: usize,
    /// Input width `segment * F`.
    pub lstm: LstmParams,
    /// `[D, hidden]`, from the last state to the units.
    pub state: LinearParams,
    /// `[D, K]`
    pub known_weight: Vec<f32>,
    /// `[D, J]`
    pub lag_weight: Vec<f32>,
    /// `[H, D]`: what each step adds.
    pub step: Vec<f32>,
    /// `[H, D]`
    pub out: Vec<f32>,
    /// `[H]`
    pub out_bias: Vec<f32>,
}

/// How wide the intervals are, by calendar and by how restless the window is:
/// `s[h] = exp(clip(weight · known[h] + bias[h] + power * ln(dev[y] / usual), -4, 4))`.
#[derive(Debug, Clone, PartialEq)]
pub struct Spread {
    /// `[K]`
    pub weight: Vec<f32>,
    /// `[H]`
    pub bias: Vec<f32>,
    /// 0 where errors grow with the window's deviation, -1 where they do not care.
    pub power: f32,
    /// A usual deviation of the target, raw units, above 0.
    pub usual: f32,
}

/// Ridge, LSTM heads and naive forecasts, averaged.
///
/// Normalisation and ridge as in [`crate::DefaultParams`], `naive[s,h] = z[T - s + h mod s, y]` the value of z one season s before.
/// With the shares w of ridge, of each head i and of each season s:
/// `mean[h] = last[y] + dev[y] * (w[h] * ridge(z)[h] + sum over s of w[s,h] * naive[s,h]) + min(dev[y], 10 * train_dev[y]) * sum over i of
/// w[i,h] * head_i(z)[h]`; the same with `median_share` for the median, and
/// `quantiles[h,q] = median[h] + dev[y] * s[h] * quantile_offset[h,q]`. The LSTMs are f32 up to their last states, the rest f64.
#[derive(Debug, Clone, PartialEq)]
pub struct EnsembleParams {
    /// Steps of the window, T.
    pub lookback: usize,
    /// Features of the window, F.
    pub inputs: usize,
    /// Steps that are forecast, H.
    pub horizon: usize,
    /// Known-future values of each forecast step, K.
    pub future_width: usize,
    /// The target's feature.
    pub target_input: usize,
    /// Deviation of each feature over the training part, `[F]`, raw units.
    pub train_dev: Vec<f64>,
    /// `[H, T*F]` over z.
    pub highway: LinearParams,
    /// `[H, K]`.
    pub future_weight: Vec<f32>,
    /// `[H, J]`: values of the window, `t * F + f`, that the decoders look up for each forecast step.
    pub lags: Vec<usize>,
    /// The LSTM heads.
    pub decoders: Vec<DecoderParams>,
    /// Distances of the naive members, each at most the lookback.
    pub seasons: Vec<usize>,
    /// `[M, H]`, a row a part: ridge, heads, seasons. A head stands on ridge, so ridge's row holds the heads' shares too.
    pub mean_share: Vec<f32>,
    /// `[M, H]`
    pub median_share: Vec<f32>,
    /// Width of the intervals by calendar.
    pub spread: Spread,
    /// Quantile levels, ascending, `[Q]`.
    pub quantiles: Vec<f64>,
    /// `[H, Q]` in units of `dev[y] * s[h]`, ascending along Q.
    pub quantile_offset: Vec<f32>,
}

impl EnsembleParams {
    /// Lags of each forecast step, J.
    #[must_use]
    pub fn lag_width(&self) -> usize {
        self.lags.len() / self.horizon.max(1)
    }

    /// Number of parts: ridge, heads, seasons.
    #[must_use]
    pub fn parts(&self) -> usize {
        1 + self.decoders.len() + self.seasons.len()
    }

    pub(crate) fn check(&self, s: Shape) -> Result<(), OnnxError> {
        let (h, k) = (s.horizon, s.future_width);
        let below = |what, found, expected| OnnxError::Shape {
            what,
            found,
            expected,
        };
        length("train_dev", self.train_dev.len(), s.inputs)?;
        finite("train_dev", self.train_dev.iter().copied())?;
        self.highway.check(s.lookback * s.inputs, h)?;
        length("lags", self.lags.len(), self.lag_width() * h)?;
        let values = s.lookback * s.inputs;
        if let Some(lag) = self.lags.iter().find(|at| **at >= values) {
            return Err(below("lags (below lookback * inputs)", *lag, values));
        }
        if let Some(season) = self.seasons.iter().find(|n| **n == 0 || **n > s.lookback) {
            return Err(below("season (1 to lookback)", *season, s.lookback));
        }
        let lists = [
            ("future_weight", &self.future_weight, h * k),
            ("mean_share", &self.mean_share, self.parts() * h),
            ("median_share", &self.median_share, self.parts() * h),
            ("spread.weight", &self.spread.weight, k),
            ("spread.bias", &self.spread.bias, h),
            ("quantile_offset", &self.quantile_offset, h * s.quantiles),
        ];
        lists.into_iter().try_for_each(list)?;
        let spread = [self.spread.power, self.spread.usual.ln()];
        finite(
            "spread.power, ln(spread.usual)",
            spread.map(f64::from).into_iter(),
        )?;
        self.decoders
            .iter()
            .try_for_each(|d| d.check(s, self.lag_width()))
    }
}

impl DecoderParams {
    fn check(&self, s: Shape, lags: usize) -> Result<(), OnnxError> {
        if self.segment == 0 || !s.lookback.is_multiple_of(self.segment) {
            return Err(OnnxError::Shape {
                what: "segment (must divide lookback)",
                found: self.segment,
                expected: s.lookback,
            });
        }
        self.lstm.check(self.segment * s.inputs)?;
        let units = self.state.output;
        length("units", units.min(1), 1)?;
        self.state.check(self.lstm.hidden, units)?;
        let lists = [
            ("known_weight", &self.known_weight, units * s.future_width),
            ("lag_weight", &self.lag_weight, units * lags),
            ("step", &self.step, s.horizon * units),
            ("out", &self.out, s.horizon * units),
            ("out_bias", &self.out_bias, s.horizon),
        ];
        lists.into_iter().try_for_each(list)
    }
}

fn list((what, list, expected): (&'static str, &Vec<f32>, usize)) -> Result<(), OnnxError> {
    length(what, list.len(), expected)?;
    finite(what, list.iter().map(|v| f64::from(*v)))
}
