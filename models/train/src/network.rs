//! Ridge over a batch: owns its forward pass, never how it was fitted.

use fieldcast_kernel::Linear;

use crate::batch::Batch;
use crate::highway::Highway;

/// The linear forecast from window and calendar.
#[derive(Debug, Clone)]
pub(crate) struct Ridge {
    pub(crate) horizon: usize,
    pub(crate) future_width: usize,
    /// `[H, T*F]` over z.
    pub(crate) highway: Linear,
    /// `[H, K]`
    pub(crate) future: Vec<f32>,
}

impl Ridge {
    pub(crate) fn new(highway: &Highway, horizon: usize) -> Self {
        Self {
            horizon,
            future_width: highway.future.len() / horizon,
            highway: Linear {
                input: highway.weight.len() / horizon,
                output: horizon,
                weight: highway.weight.clone(),
                bias: highway.bias.clone(),
            },
            future: highway.future.clone(),
        }
    }

    /// Forecasts of the batch in units of dev, into `out` `[B, H]`.
    pub(crate) fn forward(&self, batch: &Batch, out: &mut Vec<f32>) {
        let (rows, h, k) = (batch.rows, self.horizon, self.future_width);
        out.resize(rows * h, 0.0);
        self.highway.forward(rows, &batch.z, out, false);
        if k == 0 {
            return;
        }
        for (out, future) in out
            .chunks_exact_mut(h)
            .zip(batch.future.chunks_exact(h * k))
        {
            let steps = future.chunks_exact(k).zip(self.future.chunks_exact(k));
            for (out, (values, weights)) in out.iter_mut().zip(steps) {
                *out += values.iter().zip(weights).map(|(v, w)| v * w).sum::<f32>();
            }
        }
    }
}
