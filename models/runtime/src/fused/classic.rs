//! Preset `classic`: owns its scaling and what stands in for a missing value, never the LSTM's arithmetic.

use fieldcast_onnx::ClassicParams;

use super::{Head, Scratch, spread};
use crate::Prediction;

pub(super) struct Classic {
    x_min: Vec<f64>,
    /// 1 where the feature never moved.
    x_range: Vec<f64>,
    y_min: f64,
    y_range: f64,
    head: Head,
    offsets: Vec<f64>,
}

impl Classic {
    pub(super) fn new(p: &ClassicParams) -> Self {
        let ranges = p.x_min.iter().zip(&p.x_max).map(|(low, high)| high - low);
        Self {
            x_min: p.x_min.clone(),
            x_range: ranges.map(|r| if r == 0.0 { 1.0 } else { r }).collect(),
            y_min: p.y_min,
            y_range: p.y_max - p.y_min,
            head: Head::new(&p.lstm, &p.head),
            offsets: p.quantile_offset.clone(),
        }
    }

    pub(super) fn run(&self, window: &[f64], scratch: &mut Scratch, out: &mut Prediction) {
        let features = self.x_min.len();
        scratch.x.resize(window.len(), 0.0);
        for (f, (min, range)) in self.x_min.iter().zip(&self.x_range).enumerate() {
            let column = window.iter().skip(f).step_by(features);
            let last = column.clone().rev().find(|v| !v.is_nan()).unwrap_or(min);
            for (v, x) in column.zip(scratch.x.iter_mut().skip(f).step_by(features)) {
                let v = if v.is_nan() { last } else { v };
                *x = ((v - min) / range) as f32;
            }
        }
        let Scratch { x, tape, state, .. } = scratch;
        self.head.run(x, tape, state, &mut out.mean);
        for mean in &mut out.mean {
            *mean = *mean * self.y_range + self.y_min;
        }
        spread(out, &self.offsets, 1.0);
    }
}
