//! A champion that no device runs any more, as each of them has gone back from it by itself: owns whether that is so and since when,
//! never what a device does.
//!
//! With it its errors are gone, by which drift is measured: nothing else would ever ask for a retraining.

use anyhow::{Context as _, Result};
use chrono::TimeDelta;
use fieldcast_store::Store;
use fieldcast_store::forecasters::ForecasterRow;
use fieldcast_store::model_versions::ModelVersionRow;
use fieldcast_wire::{Sha256, pb};
use serde_json::json;

use super::verdict::{Rules, Verdict, verdict};
use super::{BEFORE_MS, DAY_MS, Millis, act, daily_errors, document, promise_of};
use crate::rollout::rows::reported;

/// A device that was not heard of for longer says nothing of today.
const RECENT: TimeDelta = TimeDelta::days(7);

/// What one device that was lately connected says of the champion.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Word {
    device: String,
    online: bool,
    /// It went back from what it was ordered, with the reason; none: it did not.
    gave_up: Option<String>,
    /// The champion makes its forecasts.
    runs: bool,
}

/// Why the fleet counts as having given the champion up: half of those lately connected have, and nobody who is connected runs it.
/// One device that is left over while the others are away speaks for itself alone.
fn all(words: &[Word]) -> Option<String> {
    let gone: Vec<(&str, &str)> = words
        .iter()
        .filter_map(|w| Some((w.device.as_str(), w.gave_up.as_deref()?)))
        .collect();
    let few = gone.is_empty() || 2 * gone.len() < words.len();
    if few || words.iter().any(|w| w.online && w.runs) {
        return None;
    }
    let names: Vec<&str> = gone.iter().take(5).map(|(device, _)| *device).collect();
    let (_, why) = gone.first()?;
    Some(format!(
        "no connected device runs the champion, and {} went back from it ({}{}): {why}",
        gone.len(),
        names.join(", "),
        if gone.len() > names.len() {
            ", ..."
        } else {
            ""
        }
    ))
}

fn word((device, online): (String, bool), state: &pb::ForecasterState, champion: &Sha256) -> Word {
    let runs = Sha256::from_slice(&state.running).as_ref() == Some(champion);
    let back = matches!(
        state.phase(),
        pb::ModelPhase::RolledBack | pb::ModelPhase::Failed
    );
    // Since its start it has forecast: before that it does not say what it runs.
    let forecast = state.last_forecast_ms > 0;
    Word {
        device,
        online,
        gave_up: (back && forecast && !runs).then(|| state.reason.clone()),
        runs,
    }
}

/// Looks whether the champion was given up, and has a new one made if so. Answers whether it was.
pub(super) async fn look(
    store: &Store,
    rules: &Rules,
    (forecaster, champion): (&ForecasterRow, &ModelVersionRow),
    now: Millis,
) -> Result<bool> {
    let name = &forecaster.name;
    let labels = json!(forecaster.spec.selector.labels);
    let bundle = Sha256::from_hex(&champion.bundle).context("the bundle's digest is malformed")?;
    let fleet = store.fleet(&labels, name).await?;
    let lately = crate::clock::now() - RECENT;
    let words: Vec<Word> = fleet
        .into_iter()
        .filter(|d| d.online || d.received_at.is_some_and(|at| at >= lately))
        .filter_map(|d| {
            let state = reported(d.raw.as_deref(), name)?;
            Some(word((d.device, d.online), &state, &bundle))
        })
        .collect();
    let Some(why) = all(&words) else {
        return Ok(false);
    };
    let (judged, report) = since(store, rules, (forecaster, champion), now, why).await?;
    // What runs instead is no model of the forecaster's: no days are waited for, and the next attempt has twice as many.
    let rules = Rules {
        min_new_days: 0,
        growth: 2.0,
        ..*rules
    };
    let about = (forecaster, champion);
    act(store, &rules, about, ("given_up", &judged, &report), now).await?;
    Ok(true)
}

/// Since when: the day that parts the champion's last errors best, else its last forecast.
async fn since(
    store: &Store,
    rules: &Rules,
    (forecaster, champion): (&ForecasterRow, &ModelVersionRow),
    now: Millis,
    why: String,
) -> Result<(Verdict, serde_json::Value)> {
    let spec = &forecaster.spec;
    let last = store.newest_origin(&spec.name, champion.version).await?;
    // One that never forecast has a day that stays the same all the same: attempts follow as days since then double.
    let made = champion.created_at.timestamp_millis();
    let known = champion.lineage["data_until"].as_i64().unwrap_or(made);
    let mut judged = Verdict {
        confirmed: true,
        enough: true,
        words: why.clone(),
        onset: last.unwrap_or(known).min(now).div_euclid(DAY_MS) * DAY_MS,
        ratio: 1.0,
        t: 0.0,
        devices: Vec::new(),
    };
    if champion.manifest["calibration"]["daily"].is_null() {
        return Ok((judged, json!({"words": why})));
    }
    let promise = promise_of(champion)?;
    let until = champion.lineage["data_until"].as_i64().unwrap_or(now);
    let from = until.max(judged.onset - BEFORE_MS);
    let of = (champion.version, promise.least_observed());
    let days = daily_errors(store, spec, of, from).await?;
    // It was given up after a day or two: so few say when, and that they are worse the devices have found.
    let few = Rules {
        min_days: 1,
        ..*rules
    };
    let found = verdict(judged.onset, &days, &promise, &few);
    if found.enough && found.ratio >= rules.min_ratio {
        judged = Verdict {
            confirmed: true,
            words: why,
            ..found
        };
    }
    let report = document(&judged, &[], &promise, rules, &days);
    Ok((judged, report))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn say(device: &str, phase: pb::ModelPhase, running: Option<&Sha256>) -> Word {
        let state = pb::ForecasterState {
            running: running.map_or_else(Vec::new, |sha| sha.0.to_vec()),
            phase: phase as i32,
            reason: "worse than the device's own naive forecast".into(),
            last_forecast_ms: 1,
            ..Default::default()
        };
        word((device.to_owned(), true), &state, &Sha256::of(b"champion"))
    }

    #[test]
    fn a_champion_is_given_up_when_somebody_went_back_and_nobody_runs_it() {
        use pb::ModelPhase::{Active, Downloading, Failed, Healthy, RolledBack};
        let (champion, before) = (Sha256::of(b"champion"), Sha256::of(b"before"));
        let runs = || say("a", Healthy, Some(&champion));
        assert_eq!(all(&[]), None);
        assert_eq!(all(&[runs()]), None);
        assert_eq!(all(&[runs(), say("b", Failed, None)]), None);
        let why = all(&[say("a", Failed, None), say("b", RolledBack, Some(&before))]).unwrap();
        assert!(
            why.contains("2 went back from it (a, b): worse than"),
            "{why}"
        );
        // Who is on the way to it, or fell ill while it runs on, has not given it up.
        assert_eq!(
            all(&[say("a", Downloading, None), say("b", Active, None)]),
            None
        );
        assert_eq!(all(&[say("a", RolledBack, Some(&champion))]), None);
        assert!(all(&[say("a", Failed, None), say("b", Downloading, None)]).is_some());
        // One that has just started does not know yet what makes its forecasts.
        let state = pb::ForecasterState {
            phase: RolledBack as i32,
            ..Default::default()
        };
        let started = word(("c".into(), true), &state, &champion);
        assert_eq!(all(&[started]), None);
        // Those that are away for a moment are of the fleet all the same: one of three is not half of them.
        let away = |device| Word {
            online: false,
            ..say(device, Healthy, Some(&champion))
        };
        assert!(all(&[say("a", Failed, None), away("b")]).is_some());
        assert_eq!(all(&[say("a", Failed, None), away("b"), away("c")]), None);
    }
}
