//! The summary: owns comparing what was forecast with what came, from the hub's REST answers alone.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use super::stage::Stage;
use super::table;

const DAY_MS: i64 = 86_400_000;

/// Sums of absolute errors.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Errors {
    model: f64,
    naive: f64,
    count: u32,
}

/// Which forecasts stand in one line: those of a version, before or after the world changed under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Part {
    version: u64,
    drifted: bool,
}

#[derive(Debug, Clone, Default)]
struct Line {
    errors: Errors,
    from: String,
    to: String,
}

/// The summary: models, their errors before and after each change beside seasonal naive, and the newest whole forecast.
pub(crate) fn summary(stage: &Stage) -> Result<String> {
    let client = stage.client()?;
    let definition = &stage.definition;
    let period = period_ms(&definition.period)?;
    // A week for daily data, a day for finer.
    let season = if period >= DAY_MS { 7 * period } else { DAY_MS };
    let reports = client.items(&format!(
        "/v1/drift-reports?forecaster={}&confirmed=true",
        definition.name
    ))?;
    let onsets = onsets(&reports)?;
    let mut parts: BTreeMap<Part, Line> = BTreeMap::new();
    let mut newest = String::new();
    for (index, device) in stage.devices().iter().enumerate() {
        let readings = client.items(&format!(
            "/v1/readings?device={}&sensor={}",
            device.device, definition.target
        ))?;
        let actual = values(&readings)?;
        let forecasts = client.items(&format!(
            "/v1/forecasts?device={}&forecaster={}",
            device.device, definition.name
        ))?;
        let own: Vec<&Value> = forecasts
            .iter()
            .filter(|f| f["made_by"] == "bundle" && f["shadow"] != true)
            .collect();
        for forecast in &own {
            let origin = forecast["origin"]
                .as_str()
                .context("a forecast has an origin")?;
            let at = millis(origin)?;
            let version = forecast["model_version"].as_u64().unwrap_or_default();
            let drifted = onsets.get(&version).is_some_and(|onset| at >= *onset);
            let line = parts.entry(Part { version, drifted }).or_default();
            let date = origin.chars().take(10).collect::<String>();
            if line.from.is_empty() || date < line.from {
                line.from.clone_from(&date);
            }
            line.to = line.to.clone().max(date);
            add(
                &mut line.errors,
                &actual,
                at,
                period,
                season,
                &numbers(&forecast["mean"])?,
            );
        }
        if index == 0 {
            newest = beside_actuals(&device.device, &own, &actual, period)?;
        }
    }
    let rows: Vec<Vec<String>> = parts
        .iter()
        .filter(|(_, line)| line.errors.count > 0)
        .map(|(part, line)| {
            let n = f64::from(line.errors.count);
            vec![
                format!("{} to {}", line.from, line.to),
                format!(
                    "version {}{}",
                    part.version,
                    if part.drifted {
                        ", the world changed"
                    } else {
                        ""
                    }
                ),
                format!("{:.2}", line.errors.model / n),
                format!("{:.2}", line.errors.naive / n),
                format!("{:.0} %", 100.0 * line.errors.model / line.errors.naive),
            ]
        })
        .collect();
    let errors = table::render(
        &["forecasts made", "by", "MAE", "seasonal naive", "of naive"],
        &rows,
    );
    Ok(format!("{}\n\n{errors}\n\n{newest}", models(stage)?))
}

/// Since when each version's world was another, by the newest confirmed report on it.
fn onsets(reports: &[Value]) -> Result<BTreeMap<u64, i64>> {
    let mut found = BTreeMap::new();
    // Newest first: the first report of a version knows most.
    for report in reports {
        let version = report["model_version"]
            .as_u64()
            .context("a report names a version")?;
        let onset = millis(report["onset"].as_str().context("a report has an onset")?)?;
        found.entry(version).or_insert(onset);
    }
    Ok(found)
}

/// The newest forecast whose every actual has come, step by step.
fn beside_actuals(
    device: &str,
    forecasts: &[&Value],
    actual: &BTreeMap<i64, f64>,
    period: i64,
) -> Result<String> {
    for forecast in forecasts.iter().rev() {
        let origin = millis(
            forecast["origin"]
                .as_str()
                .context("a forecast has an origin")?,
        )?;
        let mean = numbers(&forecast["mean"])?;
        let mut rows = Vec::with_capacity(mean.len());
        let mut time = origin;
        for value in &mean {
            time += period;
            let Some(came) = actual.get(&time) else { break };
            let at = chrono::DateTime::from_timestamp_millis(time)
                .map(|t| t.format("%Y-%m-%d %H:%M").to_string());
            rows.push(vec![
                at.unwrap_or_default(),
                format!("{value:.1}"),
                format!("{came:.1}"),
            ]);
        }
        if rows.len() == mean.len() {
            let few: Vec<Vec<String>> = rows.into_iter().step_by(mean.len().div_ceil(8)).collect();
            return Ok(table::render(
                &[&format!("{device}, for"), "forecast", "actual"],
                &few,
            ));
        }
    }
    Ok(String::new())
}

/// The versions and how each was made.
fn models(stage: &Stage) -> Result<String> {
    let client = stage.client()?;
    let name = &stage.definition.name;
    let models = client.items(&format!("/v1/models?forecaster={name}"))?;
    let runs = client.items(&format!("/v1/training-runs?forecaster={name}"))?;
    Ok(table::render(
        &["version", "model", "trained on", "because of", "verdict"],
        &models
            .iter()
            .rev()
            .map(|m| model_row(m, &runs))
            .collect::<Vec<_>>(),
    ))
}

fn model_row(model: &Value, runs: &[Value]) -> Vec<String> {
    let run = runs.iter().find(|r| r["model_version"] == model["version"]);
    let of_run = |key: &str| run.and_then(|r| r[key].as_str()).unwrap_or("?").to_owned();
    let until = model["lineage"]["data_until"]
        .as_i64()
        .and_then(chrono::DateTime::from_timestamp_millis);
    let verdict = run
        .and_then(|r| r["verdict"]["reason"].as_str())
        .unwrap_or("?");
    vec![
        format!(
            "{}{}",
            model["version"],
            if model["champion"] == true {
                " (champion)"
            } else {
                ""
            }
        ),
        model["lineage"]["chosen"]
            .as_str()
            .unwrap_or("?")
            .to_owned(),
        format!(
            "{} rows until {}",
            model["lineage"]["rows"],
            until.map_or_else(|| "?".into(), |t| t.format("%Y-%m-%d").to_string())
        ),
        of_run("trigger"),
        verdict.to_owned(),
    ]
}

/// Adds every step of one forecast whose actual and whose value one season before are known.
fn add(
    errors: &mut Errors,
    actual: &BTreeMap<i64, f64>,
    origin: i64,
    period: i64,
    season: i64,
    mean: &[f64],
) {
    let mut time = origin;
    for forecast in mean {
        time += period;
        // The newest value of that time of the season that was known at the origin.
        let mut before = time - season;
        while before > origin {
            before -= season;
        }
        if let (Some(came), Some(naive)) = (actual.get(&time), actual.get(&before)) {
            errors.model += (forecast - came).abs();
            errors.naive += (naive - came).abs();
            errors.count += 1;
        }
    }
}

fn values(readings: &[Value]) -> Result<BTreeMap<i64, f64>> {
    readings
        .iter()
        .map(|r| {
            let time = millis(r["time"].as_str().context("a reading has a time")?)?;
            Ok((time, r["value"].as_f64().context("a reading has a value")?))
        })
        .collect()
}

fn numbers(list: &Value) -> Result<Vec<f64>> {
    list.as_array()
        .context("a list of numbers")?
        .iter()
        .map(|v| v.as_f64().context("a number"))
        .collect()
}

fn millis(time: &str) -> Result<i64> {
    let parsed = chrono::DateTime::parse_from_rfc3339(time)
        .with_context(|| format!("`{time}` is no RFC 3339 time"))?;
    Ok(parsed.timestamp_millis())
}

fn period_ms(text: &str) -> Result<i64> {
    let known = || format!("period `{text}` must be a number with s, m, h or d, such as 1h");
    let unit = match text.chars().last() {
        Some('s') => 1_000,
        Some('m') => 60_000,
        Some('h') => 3_600_000,
        Some('d') => DAY_MS,
        _ => anyhow::bail!(known()),
    };
    let number: i64 = text[..text.len() - 1].parse().with_context(known)?;
    Ok(number * unit)
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "tests"
    )]
    use super::*;

    #[test]
    fn errors_count_steps_whose_actual_came_against_the_season_before() {
        let hour = 3_600_000;
        // A ramp: one season (24 h) before, every value is 24 lower.
        let actual: BTreeMap<i64, f64> = (0..60)
            .map(|h| (i64::from(h) * hour, f64::from(h)))
            .collect();
        let mut errors = Errors::default();
        add(
            &mut errors,
            &actual,
            57 * hour,
            hour,
            24 * hour,
            &[57.0, 57.0, 57.0, 57.0],
        );
        assert_eq!(
            errors,
            Errors {
                model: 1.0 + 2.0,
                naive: 48.0,
                count: 2
            }
        );
    }

    #[test]
    fn a_model_is_shown_with_the_run_that_made_it_and_the_newest_onset_counts() {
        let model = serde_json::json!({"version": 2, "champion": true,
            "lineage": {"chosen": "lstm", "rows": 900, "data_until": 86_400_000}});
        let runs = [
            serde_json::json!({"model_version": 2, "trigger": "drift", "verdict": {"reason": "loss falls"}}),
        ];
        let row = model_row(&model, &runs);
        assert_eq!(
            row,
            [
                "2 (champion)",
                "lstm",
                "900 rows until 1970-01-02",
                "drift",
                "loss falls"
            ]
        );
        let reports = [
            serde_json::json!({"model_version": 1, "onset": "1970-01-01T00:00:05Z"}),
            serde_json::json!({"model_version": 1, "onset": "1970-01-01T00:00:01Z"}),
        ];
        assert_eq!(onsets(&reports).unwrap(), [(1, 5_000)].into());
    }

    #[test]
    fn the_newest_forecast_with_all_its_actuals_is_shown() {
        let list = [
            serde_json::json!({"origin": "1970-01-01T00:00:00Z", "mean": [1.0, 2.0]}),
            serde_json::json!({"origin": "1970-01-01T01:00:00Z", "mean": [3.0, 4.0]}),
        ];
        let actual: BTreeMap<i64, f64> = (1..=2).map(|h| (h * 3_600_000, 7.5)).collect();
        let shown = beside_actuals("d", &[&list[0], &list[1]], &actual, 3_600_000).unwrap();
        assert!(
            shown.contains("2.0") && !shown.contains("4.0") && shown.contains("7.5"),
            "{shown}"
        );
    }

    #[test]
    fn naive_never_uses_what_was_not_known_at_the_origin() {
        let actual: BTreeMap<i64, f64> = [(0, 5.0), (10, 7.0), (20, 9.0)].into();
        let mut errors = Errors::default();
        // Two steps of 10 ahead of 0 with a season of 10: both are compared with the value at 0.
        add(&mut errors, &actual, 0, 10, 10, &[7.0, 9.0]);
        assert_eq!(
            errors,
            Errors {
                model: 0.0,
                naive: 2.0 + 4.0,
                count: 2
            }
        );
    }
}
