//! The seasonal naive model: owns which step repeats which, never a parameter's origin.

use fieldcast_onnx::SeasonalNaiveParams;

use super::spread;
use crate::Prediction;

pub(super) struct Naive {
    inputs: usize,
    target: usize,
    /// First step of the last season.
    from: usize,
    season: usize,
    offsets: Vec<f64>,
}

impl Naive {
    pub(super) fn new(p: &SeasonalNaiveParams) -> Self {
        Self {
            inputs: p.inputs,
            target: p.target_input,
            from: p.lookback - p.season,
            season: p.season,
            offsets: p.quantile_offset.clone(),
        }
    }

    pub(super) fn run(&self, window: &[f64], out: &mut Prediction) {
        let past = window.iter().skip(self.target).step_by(self.inputs);
        let last = past.clone().rev().find(|v| !v.is_nan());
        let last = last.copied().unwrap_or_default();
        for (h, mean) in out.mean.iter_mut().enumerate() {
            let step = self.from + h % self.season;
            let value = window[step * self.inputs + self.target];
            *mean = if value.is_nan() { last } else { value };
        }
        spread(out, &self.offsets, 1.0);
    }
}
