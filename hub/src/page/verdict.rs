//! The verdict on a new model as one HTML page: owns what is said and drawn of it, never judges.

use chrono::DateTime;
use fieldcast_features::Millis;
use fieldcast_store::training_runs::TrainingRunRow;
use serde::Deserialize as _;
use serde_json::Value;

use super::{Course, Panel, page};
use crate::judge::{Outcome, Rule};
use crate::training::days::Day;

/// The page of a run's verdict; none where there is none yet.
#[must_use]
pub fn of(run: &TrainingRunRow) -> Option<String> {
    let verdict = run.verdict.as_ref().filter(|v| v.is_object())?;
    let better = verdict["better"].as_bool().unwrap_or(false);
    let reason = verdict["reason"].as_str().unwrap_or_default();
    let new = verdict["challenger"].as_i64().unwrap_or_default();
    let title = match (verdict["champion"].as_i64(), better) {
        (Some(old), true) => {
            format!("Version {new} is to replace version {old}: {reason}")
        }
        (Some(old), false) => format!("Version {old} stays, not {new}: {reason}"),
        (None, _) => format!("Version {new}: {reason}"),
    };
    let mut about = vec![format!(
        "Training run {} of {}, asked for by {}: {}",
        run.id, run.forecaster, run.trigger, run.reason
    )];
    let scores = &verdict["scores"];
    let time = |key: &str| scores[key].as_i64().and_then(day);
    if let (Some(from), Some(until)) = (time("from"), time("until")) {
        about.push(format!(
            "Both were asked about the same windows from {from} to {until}, of which neither had learnt."
        ));
    }
    about.push(format!(
        "Decided by {}{}.",
        verdict["decided_by"].as_str().unwrap_or("judge"),
        run.finished_at
            .map_or_else(String::new, |t| t.format(" on %Y-%m-%d").to_string())
    ));
    let panels: Vec<Panel> = [
        losses(verdict, "recent", "Losses on the newest windows"),
        losses(verdict, "older", "Losses on older windows"),
        model("Champion", &scores["champion"]),
        model("Challenger", &scores["challenger"]),
    ]
    .into_iter()
    .flatten()
    .chain(rules(verdict))
    .collect();
    Some(page(&title, !better, &about, &panels))
}

fn day(time: Millis) -> Option<String> {
    let time = DateTime::from_timestamp_millis(time)?;
    Some(time.format("%Y-%m-%d").to_string())
}

/// What both lost over time; none where a verdict of before kept nothing of it.
fn losses(verdict: &Value, which: &str, name: &str) -> Option<Panel> {
    let days = Vec::<Day>::deserialize(&verdict["days"][which]).ok()?;
    let line = |of: fn(&Day) -> f64| -> Vec<_> { days.iter().map(|d| (d.time, of(d))).collect() };
    let onset = verdict["days"]["onset"].as_i64();
    let course = Course::beside(line(|d| d.champion), line(|d| d.challenger), onset)?;
    Some(Panel {
        name: name.to_owned(),
        words: "Mean absolute error of a day in units of the seasonal difference: grey the champion's, orange the challenger's."
            .to_owned(),
        course: Some(course),
        ..Panel::default()
    })
}

fn model(name: &str, scores: &Value) -> Option<Panel> {
    let windows = scores["windows"].as_u64()?;
    let number = |key: &str| {
        let value = scores[key].as_f64()?;
        Some(format!("{} {value:.4}", key.to_uppercase()))
    };
    let numbers = ["mae", "rmse", "mase", "pinball"]
        .into_iter()
        .filter_map(number);
    let intervals = scores["intervals"].as_array().into_iter().flatten();
    let intervals = intervals.filter_map(|i| {
        let wide = i["upper"].as_f64()? - i["lower"].as_f64()?;
        let inside = i["coverage"].as_f64()?;
        Some(format!(
            "{:.1} % inside the {:.0} % interval",
            100.0 * inside,
            100.0 * wide
        ))
    });
    let words: Vec<String> = std::iter::once(format!("{windows} windows"))
        .chain(numbers)
        .chain(intervals)
        .collect();
    Some(Panel {
        name: name.to_owned(),
        words: words.join(", "),
        ..Panel::default()
    })
}

fn rules(verdict: &Value) -> Vec<Panel> {
    let rules = Vec::<Rule>::deserialize(&verdict["rules"]).unwrap_or_default();
    let panel = |rule: Rule| Panel {
        name: format!("Rule: {}", rule.rule.replace('_', " ")),
        drift: rule.outcome == Outcome::Failed,
        words: match rule.outcome {
            Outcome::Passed => format!("Passed: {}", rule.words),
            Outcome::Failed => format!("Failed: {}", rule.words),
            Outcome::NotJudged => format!("Not judged: {}", rule.words),
        },
        ..Panel::default()
    };
    rules.into_iter().map(panel).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(verdict: Value) -> TrainingRunRow {
        let now = DateTime::from_timestamp_millis(1_780_000_000_000).unwrap();
        TrainingRunRow {
            id: 12,
            forecaster: "demand".into(),
            spec_version: None,
            trigger: "drift".into(),
            reason: "errors grew <twice>".into(),
            snapshot_at: None,
            snapshot_sha: None,
            snapshot_rows: 0,
            seed: 1,
            code_version: None,
            scores: None,
            verdict: Some(verdict),
            model_version: Some(7),
            status: "succeeded".into(),
            progress: 1.0,
            progress_text: String::new(),
            error: None,
            created_at: now,
            finished_at: Some(now),
        }
    }

    fn judged() -> Value {
        let scores = |mae: f64| {
            json!({"windows": 240, "mae": mae, "mase": 0.5,
            "intervals": [{"lower": 0.1, "upper": 0.9, "coverage": 0.783}]})
        };
        json!({"champion": 6, "challenger": 7, "better": true, "reason": "loss falls by 9.0 %", "decided_by": "judge",
            "rules": [{"rule": "gain", "outcome": "passed", "words": "9 %"},
                {"rule": "old_windows", "outcome": "not_judged", "words": "none"}],
            "scores": {"from": 0, "until": 864_000_000, "champion": scores(2.5), "challenger": scores(2.25)}})
    }

    #[test]
    fn a_verdict_shows_its_numbers_its_rules_who_decided_and_both_lines() {
        let mut verdict = judged();
        // Of before losses were kept: the numbers are there all the same.
        let old = of(&run(verdict.clone())).unwrap();
        assert!(!old.contains("<svg"), "{old}");
        verdict["days"] = json!({"onset": 86_400_000, "recent": [{"time": 0, "champion": 1.0, "challenger": 2.0},
            {"time": 86_400_000, "champion": 9.0, "challenger": 1.0}], "older": []});
        let page = of(&run(verdict)).unwrap();
        for text in [
            "Version 7 is to replace version 6: loss falls by 9.0 %",
            "errors grew &lt;twice&gt;",
            "from 1970-01-01 to 1970-01-11",
            "Decided by judge on 2026-05-28.",
            "240 windows, MAE 2.5000, MASE 0.5000, 78.3 % inside the 80 % interval",
            "Passed: 9 %",
            "Not judged: none",
        ] {
            assert!(
                page.contains(text) && (old.contains(text)),
                "{text}: {page}"
            );
        }
        for drawn in ["class=\"lr\"", "class=\"lc\"", "class=\"o\"", "from 1 to 9"] {
            assert!(page.contains(drawn), "{drawn}: {page}");
        }
        assert_eq!(page.matches("<svg").count(), 1);
        assert!(!page.contains("http") && !page.contains("<script"));
        let none = TrainingRunRow {
            verdict: None,
            ..run(Value::Null)
        };
        assert!(of(&none).is_none());
    }
}
