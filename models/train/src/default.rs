//! The linear part of preset `default`: owns the choice of penalty and the mean of ridges, never a head or the final verdict.

use crate::batch::{Batch, Batcher};
use crate::compact::CompactEquations;
use crate::decoder::{Decoder, Workspace};
use crate::highway::{Highway, NormalEquations};
use crate::network::Ridge;
use crate::samples::Sample;
use crate::{TrainConfig, TrainError};

/// Few features may need no more than this share of the penalty that many need.
const COMPACT: f64 = 1e-2;

/// Sum and count of absolute errors of the batch in MASE units over all observed steps.
fn absolute(batch: &Batch, out: impl Fn(usize) -> f32) -> (f64, f64) {
    let h = batch.target.len() / batch.rows.max(1);
    let (mut sum, mut count) = (0.0, 0.0);
    for (q, target) in batch.target.iter().enumerate().filter(|(_, t)| !t.is_nan()) {
        sum += f64::from((out(q) - target).abs() * batch.scale[q / h]);
        count += 1.0;
    }
    (sum, count)
}

/// Mean absolute error of ridge, and of a head beside it where there is one, in MASE units.
pub(crate) fn score(
    ridge: &Ridge,
    head: Option<&Decoder>,
    batcher: &Batcher<'_>,
    samples: &[Sample],
) -> f64 {
    let (mut batch, mut work, mut base) = (Batch::default(), Workspace::default(), Vec::new());
    let (mut sum, mut count) = (0.0, 0.0);
    for chunk in samples.chunks(256) {
        batcher.fill(chunk, &mut batch);
        ridge.forward(&batch, &mut base);
        let (s, n) = match head {
            Some(head) => {
                head.forward(&batch, &mut work);
                absolute(&batch, |q| base[q] + work.head[q])
            }
            None => absolute(&batch, |q| base[q]),
        };
        sum += s;
        count += n;
    }
    sum / f64::max(count, 1.0)
}

/// The mean of four ridges: over the whole window or over few features of it, with the calendar or without, each with the
/// penalty that scores best on the selection part. Each counts as far as `judged`, which no weight was learnt from, speaks for
/// it. The penalty of the best comes with it.
pub(crate) fn fit_highway(
    batcher: &Batcher<'_>,
    train: &[Sample],
    (select, judged): (&[Sample], &[Sample]),
    config: &TrainConfig,
) -> Result<(Highway, f64), TrainError> {
    let whole = NormalEquations::new(batcher, train);
    let compact = CompactEquations::new(batcher, train);
    let mut forms: [Option<(f64, Highway, f64)>; 4] = Default::default();
    let mut failed = None;
    for penalty in &config.ridge_penalties {
        let few = *penalty * COMPACT;
        for (form, solved) in [
            (0, whole.solve(*penalty, false)),
            (1, whole.solve(*penalty, true)),
            (2, compact.solve(*penalty, false)),
            (2, compact.solve(few, false)),
            (3, compact.solve(*penalty, true)),
            (3, compact.solve(few, true)),
        ] {
            let highway = match solved {
                Ok(highway) => highway,
                Err(e) => {
                    failed = Some(e);
                    continue;
                }
            };
            let ridge = Ridge::new(&highway, batcher.panel.horizon);
            let error = score(&ridge, None, batcher, select);
            if forms[form]
                .as_ref()
                .is_none_or(|(least, ..)| error < *least)
            {
                forms[form] = Some((error, highway, *penalty));
            }
        }
    }
    let mut forms: Vec<(f64, Highway, f64)> = forms.into_iter().flatten().collect();
    for (error, highway, _) in &mut forms {
        let ridge = Ridge::new(highway, batcher.panel.horizon);
        *error = score(&ridge, None, batcher, judged);
    }
    let Some((least, _, penalty)) = forms.iter().min_by(|a, b| a.0.total_cmp(&b.0)) else {
        return Err(failed.unwrap_or(TrainError::Config {
            setting: "ridge_penalties",
            problem: "must not be empty",
        }));
    };
    let apart = independent(batcher, judged);
    let weights: Vec<f64> = forms
        .iter()
        .map(|(error, ..)| {
            (least.max(f64::MIN_POSITIVE) / error.max(f64::MIN_POSITIVE)).powf(apart)
        })
        .collect();
    let parts: Vec<(f64, &Highway)> = weights
        .iter()
        .copied()
        .zip(forms.iter().map(|f| &f.1))
        .collect();
    Ok((Highway::averaged(&parts), *penalty))
}

/// Windows' worth of errors in `samples` that are not copies of each other: neighbours share steps ahead, errors of one
/// window are alike for about half a horizon, and all devices meet the same weather.
pub(crate) fn independent(batcher: &Batcher<'_>, samples: &[Sample]) -> f64 {
    let panel = batcher.panel;
    let row = |s: &Sample| panel.tracks[s.track].start / panel.period + s.origin as i64;
    let (first, last) = (samples.iter().map(row).min(), samples.iter().map(row).max());
    let span = last.unwrap_or(0) - first.unwrap_or(0);
    (2.0 * span as f64 / panel.horizon as f64).max(1.0)
}

#[cfg(test)]
#[path = "default_tests.rs"]
mod tests;
