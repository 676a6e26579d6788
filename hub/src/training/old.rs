//! Older windows that neither champion nor challenger learnt from: owns which they are and the losses on them, never a verdict.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use fieldcast_features::{ForecasterSpec, Millis};
use fieldcast_train::TrainingData;
use fieldcast_train::evaluate::Case;

use super::compare::{Asked, both};
use crate::jobs::JobHandle;

/// Most spans that are judged, the newest: each costs a pass over the data.
const MOST: usize = 12;

/// Origin-averaged losses on the older windows, in time order.
#[derive(Debug, Default)]
pub(super) struct Losses {
    pub origins: Vec<Millis>,
    pub champion: Vec<f64>,
    pub challenger: Vec<f64>,
    pub naive: Vec<f64>,
}

/// The spans that both were kept from.
#[must_use]
pub fn shared(
    champion: &[(Millis, Millis)],
    challenger: &[(Millis, Millis)],
) -> Vec<(Millis, Millis)> {
    let both = challenger.iter().filter(|span| champion.contains(span));
    let mut both: Vec<_> = both.copied().collect();
    both.drain(..both.len().saturating_sub(MOST));
    both
}

/// Asks both models, each in its own way, about every window within the spans.
pub(super) fn losses(
    champion: Asked<'_>,
    challenger: Asked<'_>,
    data: &TrainingData,
    spans: &[(Millis, Millis)],
    handle: &JobHandle,
) -> anyhow::Result<Losses> {
    let mut all = Losses::default();
    for span in spans {
        let mut naive = Naive::new(challenger.1, data);
        let models = (champion, challenger);
        let (old, new) = both(models, data, *span, |case| {
            handle.go_on()?;
            naive.add(case);
            Ok(())
        })?;
        all.naive.extend(naive.losses());
        for (origin, loss) in old.origin_losses {
            all.origins.push(origin);
            all.champion.push(loss);
        }
        let losses = new.origin_losses.into_iter();
        all.challenger.extend(losses.map(|(_, loss)| loss));
    }
    Ok(all)
}

/// What repeating the last season loses, origin by origin. Origins with nothing to repeat count as the unit.
#[must_use]
pub fn naive(
    spec: &ForecasterSpec,
    data: &TrainingData,
    cases: impl IntoIterator<Item = impl Borrow<Case>>,
) -> Vec<f64> {
    let mut naive = Naive::new(spec, data);
    cases.into_iter().for_each(|case| naive.add(case.borrow()));
    naive.losses().collect()
}

/// Sums behind [`naive`].
struct Naive<'a> {
    data: &'a TrainingData,
    target: usize,
    period: Millis,
    season: usize,
    /// Sum and count of scaled errors of each origin.
    origins: BTreeMap<Millis, (f64, f64)>,
}

impl<'a> Naive<'a> {
    fn new(spec: &ForecasterSpec, data: &'a TrainingData) -> Self {
        Self {
            data,
            target: spec.target_channel(),
            period: spec.period_ms(),
            season: spec.season_steps().max(1),
            origins: BTreeMap::new(),
        }
    }

    fn add(&mut self, case: &Case) {
        let sum = self.origins.entry(case.window.origin).or_default();
        // A snapshot has its rows in the order of their times.
        let rows = &self.data.series[case.series].rows;
        let actual = case.actual.iter().enumerate();
        for (h, actual) in actual.filter(|(_, a)| a.is_finite()) {
            let back = (h / self.season + 1) * self.season;
            let steps = h as Millis + 1 - back as Millis;
            let time = case.window.origin + steps * self.period;
            let row = rows.binary_search_by_key(&time, |r| r.time);
            let said = row.ok().and_then(|at| rows[at].value(self.target));
            if let Some(said) = said {
                *sum = (sum.0 + (said - actual).abs() / case.mase_unit, sum.1 + 1.0);
            }
        }
    }

    fn losses(self) -> impl Iterator<Item = f64> {
        let mean = |(sum, n): (f64, f64)| if n > 0.0 { sum / n } else { 1.0 };
        self.origins.into_values().map(mean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_both_were_kept_from_counts_and_the_newest_of_it() {
        let spans = |range: std::ops::Range<Millis>| -> Vec<_> {
            range.map(|n| (n * 100, n * 100 + 10)).collect()
        };
        assert_eq!(shared(&spans(0..5), &spans(2..9)), spans(2..5));
        assert!(shared(&[], &spans(0..9)).is_empty());
        assert_eq!(shared(&spans(0..30), &spans(0..30)), spans(18..30));
    }
}
