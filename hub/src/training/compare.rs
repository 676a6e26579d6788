//! Champion against challenger on the same windows: owns which windows both are asked about, never the verdict's limits.

use std::collections::BTreeSet;
use std::sync::Arc;

use fieldcast_features::{ForecasterSpec, Millis};
use fieldcast_runtime::LoadedModel;
use fieldcast_store::model_versions::ModelVersionRow;
use fieldcast_train::TrainingData;
use fieldcast_train::evaluate::{self, Case, Scores};
use serde_json::{Value, json};

use crate::judge::{self, Gate, Verdict};

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
}

/// A verdict with the scores behind it.
pub(super) struct Comparison {
    pub verdict: Verdict,
    pub scores: Value,
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
        let mut verdict = judge::verdict(&[], &[], spec.horizon, Gate::default());
        verdict.better = true;
        verdict.reason =
            "the forecaster's definition changed: the champion answers another question".into();
        return Ok(Comparison {
            verdict,
            scores: Value::Null,
        });
    };
    let until = judged.until.saturating_add(1);
    let span = (judged.from, until);
    // Each model is asked in its own way, and both are measured in the same unit.
    let old = ForecasterSpec {
        season: spec.season,
        ..old.clone()
    };
    let mut cases = [&old, spec].map(|spec| evaluate::cases(spec, &judged.data, span, 1));
    if let [Ok(a), Ok(b)] = &mut cases {
        let both: BTreeSet<_> = &keys(a) & &keys(b);
        a.retain(|c| both.contains(&key(c)));
        b.retain(|c| both.contains(&key(c)));
    }
    let [a, b] = cases;
    let old = score(&judged.champion, &a?, &old)?;
    let new = score(&judged.challenger, &b?, spec)?;
    let losses =
        |s: &Scores| -> Vec<f64> { s.origin_losses.iter().map(|(_, loss)| *loss).collect() };
    let verdict = judge::verdict(&losses(&old), &losses(&new), spec.horizon, Gate::default());
    let brief = |s: &Scores| {
        json!({"windows": s.windows, "mae": s.mae, "rmse": s.rmse, "mase": s.mase, "pinball": s.pinball,
            "intervals": s.intervals})
    };
    let scores = json!({"from": judged.from, "until": until, "champion": brief(&old), "challenger": brief(&new)});
    Ok(Comparison { verdict, scores })
}

fn key(case: &Case) -> (Millis, usize) {
    (case.window.origin, case.series)
}

fn keys(cases: &[Case]) -> BTreeSet<(Millis, usize)> {
    cases.iter().map(key).collect()
}

fn score(model: &LoadedModel, cases: &[Case], spec: &ForecasterSpec) -> anyhow::Result<Scores> {
    let scores = evaluate::backtest(cases, &spec.quantiles, |window| {
        model.forecast(window).map(|p| fieldcast_train::Prediction {
            mean: p.mean,
            quantiles: p.quantiles,
        })
    });
    Ok(scores?)
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
            "reason": c.verdict.reason, "test": c.verdict, "scores": c.scores, "decided_by": "judge",
        }),
        _ => json!({
            "champion": null, "challenger": version, "better": true, "scores": null, "decided_by": "judge",
            "reason": "the first model of this forecaster: there is no champion to beat",
        }),
    }
}
