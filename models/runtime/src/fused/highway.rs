//! Preset `default`: owns how highway, known future and LSTM come together, never their arithmetic.

use fieldcast_kernel::{InstanceNorm, WideLinear};
use fieldcast_onnx::DefaultParams;
use fieldcast_onnx::params::{LSTM_MOST, Z_CLIP};

use super::{Head, Scratch, add_known, linear, spread};
use crate::Prediction;

pub(super) struct Highway {
    norm: InstanceNorm,
    target: usize,
    highway: WideLinear,
    /// `[H, K]`
    future: Vec<f32>,
    lstm: Option<Head>,
    /// The LSTM's part counts in no larger unit, raw units.
    lstm_most: f64,
    offsets: Vec<f64>,
}

impl Highway {
    pub(super) fn new(p: &DefaultParams) -> Self {
        let floors = (0..p.inputs).map(|f| p.dev_floor(f)).collect();
        let learnt = p.train_dev.get(p.target_input).copied();
        Self {
            norm: InstanceNorm::new(floors, Z_CLIP),
            target: p.target_input,
            highway: linear(&p.highway),
            future: p.future_weight.clone(),
            lstm: p.lstm.as_ref().map(|l| Head::new(&l.lstm, &l.head)),
            lstm_most: LSTM_MOST * learnt.unwrap_or_default(),
            offsets: p.quantile_offset.iter().map(|o| f64::from(*o)).collect(),
        }
    }

    pub(super) fn run(
        &self,
        window: &[f64],
        future: &[f64],
        scratch: &mut Scratch,
        out: &mut Prediction,
    ) {
        let Scratch {
            window: scaled,
            x,
            tape,
            state,
            part,
            hidden,
            ..
        } = scratch;
        super::scaled(&self.norm, window, hidden, scaled);
        let (last, dev) = (scaled.last[self.target], scaled.dev[self.target]);
        self.highway.run(&scaled.z, &mut out.mean);
        add_known(future, &self.future, &mut out.mean);
        for mean in &mut out.mean {
            *mean = *mean * dev + last;
        }
        if let Some(head) = &self.lstm {
            x.clear();
            x.extend(scaled.z.iter().map(|z| *z as f32));
            part.resize(out.mean.len(), 0.0);
            head.run(x, tape, state, part);
            let unit = dev.min(self.lstm_most);
            for (mean, part) in out.mean.iter_mut().zip(part) {
                *mean += *part * unit;
            }
        }
        spread(out, &self.offsets, dev);
    }
}
