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

/// Mean absolute error of each month of the replay, beside seasonal naive and the versions that forecast.
pub(crate) fn summary(stage: &Stage) -> Result<String> {
    let client = stage.client()?;
    let definition = &stage.definition;
    let period = period_ms(&definition.period)?;
    // A week for daily data, a day for finer.
    let season = if period >= DAY_MS { 7 * period } else { DAY_MS };
    let mut months: BTreeMap<String, (Errors, Vec<u64>)> = BTreeMap::new();
    for device in stage.devices() {
        let readings = client.items(&format!(
            "/v1/readings?device={}&sensor={}",
            device.device, definition.target
        ))?;
        let actual = values(&readings)?;
        let forecasts = client.items(&format!(
            "/v1/forecasts?device={}&forecaster={}",
            device.device, definition.name
        ))?;
        for forecast in forecasts
            .iter()
            .filter(|f| f["made_by"] == "bundle" && f["shadow"] != true)
        {
            let origin = forecast["origin"]
                .as_str()
                .context("a forecast has an origin")?;
            let month = months.entry(origin.chars().take(7).collect()).or_default();
            add(
                &mut month.0,
                &actual,
                millis(origin)?,
                period,
                season,
                &numbers(&forecast["mean"])?,
            );
            let version = forecast["model_version"].as_u64().unwrap_or_default();
            if !month.1.contains(&version) {
                month.1.push(version);
            }
        }
    }
    let rows: Vec<Vec<String>> = months
        .iter()
        .filter(|(_, (errors, _))| errors.count > 0)
        .map(|(month, (errors, versions))| {
            let n = f64::from(errors.count);
            let versions: Vec<String> = versions.iter().map(ToString::to_string).collect();
            vec![
                month.clone(),
                versions.join(" -> "),
                format!("{:.2}", errors.model / n),
                format!("{:.2}", errors.naive / n),
                format!("{:.0} %", 100.0 * errors.model / errors.naive),
            ]
        })
        .collect();
    let table = table::render(
        &[
            "month",
            "model versions",
            "MAE",
            "seasonal naive",
            "of naive",
        ],
        &rows,
    );
    Ok(format!("{}\n\n{table}", models(stage)?))
}

/// The versions and how each was made.
fn models(stage: &Stage) -> Result<String> {
    let models = stage
        .client()?
        .items(&format!("/v1/models?forecaster={}", stage.definition.name))?;
    let text = |value: &Value| {
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    };
    let rows: Vec<Vec<String>> = models
        .iter()
        .map(|m| {
            ["version", "kind", "status", "created"]
                .iter()
                .map(|key| text(&m[*key]))
                .collect()
        })
        .collect();
    Ok(table::render(
        &["version", "model", "status", "data until"],
        &rows,
    ))
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
