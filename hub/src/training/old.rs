//! Older windows that neither champion nor challenger learnt from: owns which they are and the losses on them, never a verdict.

use std::collections::{BTreeMap, HashMap};

use fieldcast_features::{FeatureRow, ForecasterSpec, Millis};
use fieldcast_runtime::LoadedModel;
use fieldcast_train::TrainingData;
use fieldcast_train::evaluate::{self, Case};

use super::compare::{common, score};
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
    (champion, old): (&LoadedModel, &ForecasterSpec),
    (challenger, new): (&LoadedModel, &ForecasterSpec),
    data: &TrainingData,
    spans: &[(Millis, Millis)],
    handle: &JobHandle,
) -> anyhow::Result<Losses> {
    let mut all = Losses::default();
    for span in spans {
        let (a, b) = common([old, new].map(|spec| evaluate::cases(spec, data, *span, 1)))?;
        all.naive.extend(naive(new, data, &b));
        for (origin, loss) in score(champion, &a, old, handle)?.origin_losses {
            all.origins.push(origin);
            all.champion.push(loss);
        }
        let scores = score(challenger, &b, new, handle)?;
        let losses = scores.origin_losses.iter();
        all.challenger.extend(losses.map(|(_, loss)| loss));
    }
    Ok(all)
}

/// What repeating the last season loses, origin by origin. Origins with nothing to repeat count as the unit.
#[must_use]
pub fn naive(spec: &ForecasterSpec, data: &TrainingData, cases: &[Case]) -> Vec<f64> {
    let target = spec.target_channel();
    let known = |rows: &[FeatureRow]| -> HashMap<Millis, f64> {
        let known = rows.iter().filter_map(|r| Some((r.time, r.value(target)?)));
        known.collect()
    };
    let known: Vec<_> = data.series.iter().map(|s| known(&s.rows)).collect();
    let (period, season) = (spec.period_ms(), spec.season_steps().max(1));
    let mut origins: BTreeMap<Millis, (f64, f64)> = BTreeMap::new();
    for case in cases {
        let sum = origins.entry(case.window.origin).or_default();
        for (h, actual) in case
            .actual
            .iter()
            .enumerate()
            .filter(|(_, a)| a.is_finite())
        {
            let back = (h / season + 1) * season;
            let steps = h as Millis + 1 - back as Millis;
            let said = known[case.series].get(&(case.window.origin + steps * period));
            if let Some(said) = said {
                *sum = (sum.0 + (said - actual).abs() / case.mase_unit, sum.1 + 1.0);
            }
        }
    }
    let mean = |(sum, n): &(f64, f64)| if *n > 0.0 { sum / n } else { 1.0 };
    origins.values().map(mean).collect()
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
