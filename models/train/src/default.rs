//! The linear part of preset `default`: owns the choice of penalty and the mean of ridges, never a head or the final verdict.

use crate::batch::{Batch, Batcher};
use crate::compact::CompactEquations;
use crate::decoder::{Decoder, Workspace};
use crate::heads::Beat;
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

/// What passes over samples need, used again from batch to batch.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    pub(crate) batch: Batch,
    pub(crate) work: Workspace,
    /// `[B, H]`: what ridge says.
    pub(crate) base: Vec<f32>,
}

/// Mean absolute error of ridge, and of a head beside it where there is one, in MASE units.
pub(crate) fn score(
    ridge: &Ridge,
    head: Option<&Decoder>,
    batcher: &Batcher<'_>,
    samples: &[Sample],
    Buffers { batch, work, base }: &mut Buffers,
) -> f64 {
    work.keep_all();
    let (mut sum, mut count) = (0.0, 0.0);
    for chunk in samples.chunks(256) {
        batcher.fill(chunk, batch);
        ridge.forward(batch, base);
        let (s, n) = match head {
            Some(head) => {
                head.forward(batch, work);
                absolute(batch, |q| base[q] + work.head[q])
            }
            None => absolute(batch, |q| base[q]),
        };
        sum += s;
        count += n;
    }
    sum / f64::max(count, 1.0)
}

/// One of the ridges whose mean was taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    form: usize,
    penalty: f64,
    weight: f64,
}

/// The mean of four ridges, as it was chosen.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) highway: Highway,
    /// Of the best of them, as the settings have it.
    pub(crate) penalty: f64,
    parts: Vec<Part>,
}

impl Chosen {
    /// The same mean of the same ridges, fitted to other samples.
    pub(crate) fn refit(
        &self,
        batcher: &Batcher<'_>,
        samples: &[Sample],
        beat: &mut Beat<'_>,
    ) -> Result<Highway, TrainError> {
        let equations = Equations::new(batcher, samples, beat)?;
        let mut solve = |p: &Part| {
            beat()?;
            Ok((p.weight, equations.solve(p.form, p.penalty)?))
        };
        let solved: Result<Vec<(f64, Highway)>, TrainError> =
            self.parts.iter().map(&mut solve).collect();
        let solved = solved?;
        let parts: Vec<(f64, &Highway)> = solved.iter().map(|(w, h)| (*w, h)).collect();
        Ok(Highway::averaged(&parts))
    }
}

/// What the ridges of any penalty follow from: over the whole window, and over few features of it.
struct Equations<'a> {
    whole: NormalEquations,
    compact: CompactEquations<'a>,
}

impl<'a> Equations<'a> {
    fn new(
        batcher: &'a Batcher<'a>,
        samples: &[Sample],
        beat: &mut Beat<'_>,
    ) -> Result<Self, TrainError> {
        Ok(Self {
            whole: NormalEquations::new(batcher, samples, beat)?,
            compact: CompactEquations::new(batcher, samples, beat)?,
        })
    }

    /// Of the forms the first two are over the whole window, and every second one has the calendar.
    fn solve(&self, form: usize, penalty: f64) -> Result<Highway, TrainError> {
        match form {
            0 | 1 => self.whole.solve(penalty, form == 1),
            _ => self.compact.solve(penalty, form == 3),
        }
    }
}

/// The mean of four ridges: over the whole window or over few features of it, with the calendar or without, each with the
/// penalty that scores best on the selection part. Each counts as far as `judged`, which no weight was learnt from, speaks for
/// it.
pub(crate) fn fit_highway(
    batcher: &Batcher<'_>,
    train: &[Sample],
    (select, judged): (&[Sample], &[Sample]),
    config: &TrainConfig,
    beat: &mut Beat<'_>,
) -> Result<Chosen, TrainError> {
    let equations = Equations::new(batcher, train, beat)?;
    let mut forms: [Option<(f64, Highway, f64, f64)>; 4] = Default::default();
    let (mut failed, mut buffers) = (None, Buffers::default());
    for penalty in &config.ridge_penalties {
        let few = *penalty * COMPACT;
        for (form, asked) in [
            (0, *penalty),
            (1, *penalty),
            (2, *penalty),
            (2, few),
            (3, *penalty),
            (3, few),
        ] {
            beat()?;
            let highway = match equations.solve(form, asked) {
                Ok(highway) => highway,
                Err(e) => {
                    failed = Some(e);
                    continue;
                }
            };
            let ridge = Ridge::new(&highway, batcher.panel.horizon);
            let error = score(&ridge, None, batcher, select, &mut buffers);
            if forms[form]
                .as_ref()
                .is_none_or(|(least, ..)| error < *least)
            {
                forms[form] = Some((error, highway, *penalty, asked));
            }
        }
    }
    let mut forms: Vec<(usize, (f64, Highway, f64, f64))> = forms
        .into_iter()
        .enumerate()
        .filter_map(|(form, found)| Some((form, found?)))
        .collect();
    for (_, (error, highway, ..)) in &mut forms {
        beat()?;
        let ridge = Ridge::new(highway, batcher.panel.horizon);
        *error = score(&ridge, None, batcher, judged, &mut buffers);
    }
    let best = forms.iter().min_by(|a, b| a.1.0.total_cmp(&b.1.0));
    let Some((least, penalty)) = best.map(|(_, (least, _, penalty, _))| (*least, *penalty)) else {
        return Err(failed.unwrap_or(TrainError::Config {
            setting: "ridge_penalties",
            problem: "must not be empty",
        }));
    };
    let apart = independent(batcher, judged);
    let parts: Vec<Part> = forms
        .iter()
        .map(|(form, (error, _, _, asked))| Part {
            form: *form,
            penalty: *asked,
            weight: (least.max(f64::MIN_POSITIVE) / error.max(f64::MIN_POSITIVE)).powf(apart),
        })
        .collect();
    let weighted = parts.iter().map(|p| p.weight);
    let weighted: Vec<(f64, &Highway)> = weighted.zip(forms.iter().map(|f| &f.1.1)).collect();
    Ok(Chosen {
        highway: Highway::averaged(&weighted),
        penalty,
        parts,
    })
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
