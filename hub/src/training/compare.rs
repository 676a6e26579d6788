//! Champion against challenger on the same windows: owns which windows both are asked about, never the verdict's limits.

use std::sync::Arc;

use fieldcast_features::{ForecasterSpec, Millis};
use fieldcast_runtime::LoadedModel;
use fieldcast_store::model_versions::ModelVersionRow;
use fieldcast_train::evaluate::{Case, Cases, Scores, Tally};
use fieldcast_train::{Prediction, TrainingData};
use serde_json::{Value, json};

use super::days::by_day;
use super::old;
use crate::jobs::JobHandle;
use crate::judge::{self, Gate, Old, Verdict};

/// What is compared.
pub(super) struct Judged {
    pub champion: Arc<LoadedModel>,
    /// Definition that the champion was made for; none where it cannot be read any more.
    pub champion_spec: Option<ForecasterSpec>,
    pub challenger: Arc<LoadedModel>,
    pub spec: ForecasterSpec,
    pub data: Arc<TrainingData>,
    /// First origin that neither model has seen.
    pub from: Millis,
    /// Newest row.
    pub until: Millis,
    /// Older spans that the champion was kept from, and those of the challenger.
    pub unseen: [Vec<(Millis, Millis)>; 2],
    /// Since when the world is different.
    pub onset: Option<Millis>,
    pub gate: Gate,
    /// Says when to leave off.
    pub handle: JobHandle,
}

/// A verdict with the scores behind it.
pub(super) struct Comparison {
    pub verdict: Verdict,
    pub scores: Value,
    /// Both models' losses over time.
    pub days: Value,
}

/// Whether both definitions ask the same: then their errors are errors at the same thing. How a model comes to its
/// answer (window, quantiles, holidays), and of which devices and sensors it is asked, may differ.
fn same_question(a: &ForecasterSpec, b: &ForecasterSpec) -> bool {
    a.target == b.target
        && a.inputs == b.inputs
        && a.period_ms() == b.period_ms()
        && a.horizon == b.horizon
}

pub(super) fn compare(judged: &Judged) -> anyhow::Result<Comparison> {
    let spec = &judged.spec;
    let old = judged
        .champion_spec
        .as_ref()
        .filter(|old| same_question(old, spec));
    let Some(old) = old else {
        // Losses of different questions cannot be compared; the new definition is what people asked for.
        let mut verdict = judge::verdict(&[], &[], spec.horizon, judged.gate);
        verdict.better = true;
        verdict.reason =
            "the forecaster's definition changed: the champion answers another question".into();
        return Ok(Comparison {
            verdict,
            scores: Value::Null,
            days: Value::Null,
        });
    };
    let until = judged.until.saturating_add(1);
    let span = (judged.from, until);
    // Each model is asked in its own way, and both are measured in the same unit.
    let old = ForecasterSpec {
        season: spec.season,
        ..old.clone()
    };
    let [of_champion, of_challenger] = &judged.unseen;
    let spans = old::shared(of_champion, of_challenger);
    let models = ((&*judged.champion, &old), (&*judged.challenger, spec));
    let handle = &judged.handle;
    let older = old::losses(models.0, models.1, &judged.data, &spans, handle)?;
    let (old, new) = both(models, &judged.data, span, |_| Ok(handle.go_on()?))?;
    let losses =
        |s: &Scores| -> Vec<f64> { s.origin_losses.iter().map(|(_, loss)| *loss).collect() };
    let origins: Vec<Millis> = old.origin_losses.iter().map(|(at, _)| *at).collect();
    let (before, after) = (losses(&old), losses(&new));
    let days = json!({"onset": judged.onset, "recent": by_day(&origins, &before, &after),
        "older": by_day(&older.origins, &older.champion, &older.challenger)});
    let forgotten = match spans.is_empty() {
        false => Old::Losses {
            champion: &older.champion,
            challenger: &older.challenger,
            naive: judged.onset.map(|_| &older.naive[..]),
        },
        true if of_challenger.is_empty() => {
            Old::Nothing("the data hold no older time of which a part could be kept")
        }
        true => Old::Nothing("the champion learnt from all of the older time, or from none of it"),
    };
    let verdict = judge::verdict(&before, &after, spec.horizon, judged.gate)
        .with_coverage(coverage(&new), coverage(&old))
        .with_old(forgotten);
    let mean = |x: &[f64]| (!x.is_empty()).then(|| x.iter().sum::<f64>() / x.len() as f64);
    let older = json!({"spans": spans, "origins": older.champion.len(), "champion": mean(&older.champion),
        "challenger": mean(&older.challenger), "naive": mean(&older.naive)});
    let brief = |s: &Scores| {
        json!({"windows": s.windows, "mae": s.mae, "rmse": s.rmse, "mase": s.mase, "pinball": s.pinball,
            "intervals": s.intervals})
    };
    let scores = json!({"from": judged.from, "until": until, "champion": brief(&old), "challenger": brief(&new),
        "older": older});
    Ok(Comparison {
        verdict,
        scores,
        days,
    })
}

/// The share of actual values inside the interval from 10 to 90 %, where the forecaster has one and anything is known.
fn coverage(scores: &Scores) -> Option<f64> {
    let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
    let eighty = scores.intervals.iter();
    let mut eighty = eighty.filter(|i| near(i.lower, 0.1) && near(i.upper, 0.9));
    eighty
        .next()
        .map(|i| i.coverage)
        .filter(|c| c.is_finite() && scores.points > 0)
}

/// A model and the definition that it is asked by.
pub(super) type Asked<'a> = (&'a LoadedModel, &'a ForecasterSpec);

/// Scores of two models on the windows that both can be asked about, two at a time; `each` sees those of the second.
pub(super) fn both(
    (one, other): (Asked<'_>, Asked<'_>),
    data: &TrainingData,
    span: (Millis, Millis),
    mut each: impl FnMut(&Case) -> anyhow::Result<()>,
) -> anyhow::Result<(Scores, Scores)> {
    let cases = |asked: Asked<'_>| Cases::new(asked.1, data, span, 1);
    let (a, b) = (cases(one)?, cases(other)?);
    let mut tallies = [one, other].map(|asked| Tally::new(&asked.1.quantiles));
    let [first, second] = &mut tallies;
    let mut rest = b.iter().peekable();
    for a in a.iter() {
        while rest.next_if(|b| key(b) < key(&a)).is_some() {}
        if let Some(b) = rest.next_if(|b| key(b) == key(&a)) {
            first.add(&a, &said(one.0, &a)?);
            second.add(&b, &said(other.0, &b)?);
            each(&b)?;
        }
    }
    let [first, second] = tallies.map(Tally::scores);
    Ok((first, second))
}

fn key(case: &Case) -> (Millis, usize) {
    (case.window.origin, case.series)
}

fn said(model: &LoadedModel, case: &Case) -> anyhow::Result<Prediction> {
    let said = model.forecast(&case.window)?;
    Ok(Prediction {
        mean: said.mean,
        quantiles: said.quantiles,
    })
}

pub(super) fn score(
    model: &LoadedModel,
    cases: &Cases<'_>,
    spec: &ForecasterSpec,
    handle: &JobHandle,
) -> anyhow::Result<Scores> {
    let mut tally = Tally::new(&spec.quantiles);
    for case in cases.iter() {
        handle.go_on()?;
        tally.add(&case, &said(model, &case)?);
    }
    Ok(tally.scores())
}

/// The verdict as it is stored. Without a comparison there was no champion.
pub(super) fn document(
    champion: Option<&ModelVersionRow>,
    version: i64,
    comparison: Option<&Comparison>,
) -> Value {
    match (champion, comparison) {
        (Some(champion), Some(c)) => json!({
            "champion": champion.version, "challenger": version, "better": c.verdict.better,
            "reason": c.verdict.reason, "rules": c.verdict.rules, "test": c.verdict, "scores": c.scores,
            "days": c.days, "decided_by": "judge",
        }),
        _ => json!({
            "champion": null, "challenger": version, "better": true, "scores": null, "decided_by": "judge",
            "reason": "the first model of this forecaster: there is no champion to beat",
        }),
    }
}
