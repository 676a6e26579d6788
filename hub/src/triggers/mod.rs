//! What asks for a retraining beside drift: owns the loop over forecasters, never the decision.

pub mod policy;

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use chrono::{DateTime, TimeDelta};
use fieldcast_features::{ForecasterSpec, Millis};
use fieldcast_store::Store;
use fieldcast_store::decisions::NewDecision;
use fieldcast_store::forecasters::ForecasterRow;
use fieldcast_store::model_versions::ModelVersionRow;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::drift;
use crate::features;
use crate::training::{self, Request};
use policy::{Due, Facts, Policy, due, held, may_doubt};

const EVERY: Duration = Duration::from_secs(5);
const DAY_MS: Millis = 86_400_000;

/// What one look leaves to the next.
#[derive(Debug, Default)]
pub struct Said {
    /// The decision that was recorded last, by forecaster: the same one is not recorded over and over. Empty where nothing is due.
    told: HashMap<String, String>,
    /// When a change was suspected last, data time: the forecasts of a fleet are read once a day of data.
    suspected: HashMap<String, (Millis, String)>,
}

/// Looks at every forecaster until cancelled, while this hub leads.
pub async fn run(store: Store, leads: watch::Receiver<bool>, cancel: CancellationToken) {
    let mut said = Said::default();
    while !cancel.is_cancelled() {
        if !*leads.borrow() {
            // Whoever leads meanwhile tells on.
            said = Said::default();
        } else if let Err(e) = look(&store, &mut said).await {
            tracing::warn!("triggers of retraining: {e:#}");
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// Looks once: where volume or time asks for a retraining it is enqueued, or the reason why not is recorded. A forecaster that
/// cannot be looked at keeps no other from it.
///
/// # Errors
/// The database.
pub async fn look(store: &Store, said: &mut Said) -> Result<()> {
    let rollouts = store.open_rollouts().await?;
    let jobs = store.live_jobs().await?;
    for forecaster in store.forecasters().await? {
        let name = &forecaster.name;
        if jobs.iter().any(|j| j.subject == *name) {
            continue;
        }
        let tried = rollouts.iter().any(|r| r.forecaster == *name)
            || store.holding_experiment(name).await?.is_some();
        if let Err(e) = look_at(store, &forecaster, tried, said).await {
            tracing::warn!("triggers of retraining {name}: {e:#}");
        }
    }
    Ok(())
}

/// `tried`: whether versions of it are being compared on devices.
async fn look_at(
    store: &Store,
    forecaster: &ForecasterRow,
    tried: bool,
    said: &mut Said,
) -> Result<()> {
    let name = &forecaster.name;
    let Some(champion) = store.champion(name).await? else {
        return Ok(());
    };
    let policy = policy_of(forecaster)?;
    let Some(facts) = facts(store, &forecaster.spec, &champion).await? else {
        return Ok(());
    };
    let Some(due) = due(&policy, &facts) else {
        said.told.insert(name.clone(), String::new());
        return Ok(());
    };
    let held = if tried {
        let wait = "a rollout or an experiment of this forecaster is under way";
        Some(("wait", wait.to_owned()))
    } else if store.training_failed_lately(name).await? {
        let wait =
            "a training failed or was cancelled within the last day; see `fieldcast-hub run list`";
        Some(("wait", wait.to_owned()))
    } else {
        match held(&policy, &facts) {
            None => doubt(store, forecaster, &champion, (&facts, &due), said).await?,
            held => held,
        }
    };
    let Due {
        trigger,
        why,
        since,
    } = due;
    let word = held.as_ref().map_or("retrain", |(word, _)| word);
    let reason = match &held {
        Some((_, wait)) => format!("{}: {why}; {wait}", trigger.name()),
        None => why,
    };
    // Days and words in brackets change all the time; what is held back is told once for each reason to.
    let waits = held.as_ref().filter(|(word, _)| *word == "wait");
    let waits = waits.and_then(|(_, wait)| wait.split(" (").next());
    let waits = waits.unwrap_or_default();
    let key = format!("{word} {} {waits}", trigger.name());
    if held.is_some() && !said.told.contains_key(name) {
        // A hub that just began to lead goes on from what was told before of what is due now.
        let last = store.last_decision_by(name, "triggers").await?;
        let told = last.filter(|d| {
            d.decision == word
                && d.reason.starts_with(&format!("{}: ", trigger.name()))
                && d.reason.contains(waits)
                && d.data_time.is_some_and(|at| at.timestamp_millis() >= since)
        });
        if told.is_some() {
            said.told.insert(name.clone(), key.clone());
        }
    }
    if held.is_some() && said.told.get(name) == Some(&key) {
        return Ok(());
    }
    let new = NewDecision {
        forecaster: name,
        decision: word,
        reason: &reason,
        data_time: DateTime::from_timestamp_millis(facts.now),
        decided_by: "triggers",
        ..NewDecision::default()
    };
    if held.is_some() {
        store.record_decision(&new).await?;
    } else {
        let request = Request {
            trigger: trigger.name().into(),
            reason: reason.clone(),
            onset: champion.lineage["onset"].as_i64(),
            seed: u64::try_from(champion.version).unwrap_or(1) + 1,
            config: None,
            again: None,
        };
        let request = json!(request);
        let asked = store.enqueue_decided(training::KIND, &request, &new);
        let (_, begun) = asked.await?;
        if !begun {
            return Ok(());
        }
    }
    tracing::info!(forecaster = name, decision = word, reason, "retraining");
    said.told.insert(name.clone(), key);
    Ok(())
}

/// Why a retraining that is due waits for a suspicion to be settled: what has changed just now would be learnt as one with what was before,
/// and what the new model promises of its errors would be of both.
async fn doubt(
    store: &Store,
    forecaster: &ForecasterRow,
    champion: &ModelVersionRow,
    (facts, due): (&Facts, &Due),
    said: &mut Said,
) -> Result<Option<(&'static str, String)>> {
    if !may_doubt(facts, due) {
        return Ok(None);
    }
    let name = &forecaster.name;
    let known = said.suspected.get(name);
    let known = known.filter(|(at, _)| facts.now - at < DAY_MS);
    if known.is_none() {
        let found = drift::suspected(store, &forecaster.spec, champion, facts.now).await?;
        match found {
            Some(words) => said.suspected.insert(name.clone(), (facts.now, words)),
            None => said.suspected.remove(name),
        };
    }
    let Some((_, words)) = said.suspected.get(name) else {
        return Ok(None);
    };
    let wait = format!("the world may have changed just now ({words}), which is settled first");
    Ok(Some(("wait", wait)))
}

/// The policy of a forecaster as it was applied.
///
/// # Errors
/// A policy that a newer hub wrote.
pub fn policy_of(forecaster: &ForecasterRow) -> Result<Policy> {
    serde_json::from_value(forecaster.retraining.clone()).with_context(|| {
        format!(
            "read when {} is retrained; apply its definition again",
            forecaster.name
        )
    })
}

/// Retrainings that were decided on in the last 24 hours of process time.
///
/// # Errors
/// The database.
pub async fn today(store: &Store, forecaster: &str) -> Result<u32> {
    let since = crate::clock::now() - TimeDelta::hours(24);
    let count = store.decisions_since(forecaster, "retrain", since).await?;
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

async fn facts(
    store: &Store,
    spec: &ForecasterSpec,
    champion: &ModelVersionRow,
) -> Result<Option<Facts>> {
    let number = |key: &str| champion.lineage[key].as_i64();
    let Some(world) = number("onset").or_else(|| number("data_from")) else {
        return Ok(None);
    };
    let Some(until) = number("data_until") else {
        return Ok(None);
    };
    let Some(now) = features::newest(store, spec).await? else {
        return Ok(None);
    };
    let last = store.last_decision(&spec.name, "retrain").await?;
    let last: Option<Millis> = last.and_then(|d| d.data_time).map(|t| t.timestamp_millis());
    Ok(Some(Facts {
        now,
        world,
        // What was tried on as many data and was no better is not tried again on the same.
        learnt: last.map_or(until, |last| last.max(until)),
        last,
        today: today(store, &spec.name).await?,
    }))
}
