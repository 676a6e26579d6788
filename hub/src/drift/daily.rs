//! What the hub looks at each day of data although nobody complains: owns the loop, and how the versions of before would have done,
//! never a verdict.
//!
//! Champion and versions of before are asked about the same newest windows. Nothing of it is stored: what is known follows from
//! readings and bundles, and a hub that begins anew looks back as far as counts.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use chrono::{DateTime, Utc};
use fieldcast_features::{ForecasterSpec, Millis};
use fieldcast_runtime::LoadedModel;
use fieldcast_store::Store;
use fieldcast_store::decisions::NewDecision;
use fieldcast_store::forecasters::ForecasterRow;
use fieldcast_store::model_versions::ModelVersionRow;
use fieldcast_store::rollouts::{BY_TRAINING, RolloutRow};
use fieldcast_train::evaluate::{self, Case};
use fieldcast_train::multivariate::fleet::is_asked;
use fieldcast_train::{Series, TrainingData};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::rivals::{Beaten, Loss, judge};
use super::verdict::Rules;
use super::{BEFORE_MS, DAY_MS, DRAWN, WEEK_MS, act, given_up};
use crate::features::{self, Kept};
use crate::page::{Course, Panel};
use crate::registry::{self, OpenError, worlds};
use crate::signing::Signer;
use crate::triggers;

/// The next look behind one that found a day of data or work at hand, and at most: the weeks of a backlog or a replay pass quickly, those
/// of a fleet that lives do not, and the newest reading of thousands of devices is not asked for nothing.
const EVERY: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(8);
/// Origins that a season's windows are asked at: neighbouring ones say the same.
const A_SEASON: usize = 8;
/// Fewest steps behind a block's loss, with some to spare for values that are missing.
const STEPS: usize = 48;

/// Looks each day of data until cancelled, while this hub leads.
pub async fn run(
    (store, signer): (Store, Arc<Signer>),
    rules: Rules,
    leads: watch::Receiver<bool>,
    cancel: CancellationToken,
) {
    let mut seen = Seen::default();
    let mut wait = EVERY;
    while !cancel.is_cancelled() {
        let mut found = false;
        if *leads.borrow() {
            match look(&store, &signer, &rules, &mut seen).await {
                Ok(looked) => found = looked,
                Err(e) => tracing::warn!("the daily look at champions: {e:#}"),
            }
        } else {
            seen = Seen::default();
        }
        wait = match found {
            true => EVERY,
            false => (2 * wait).min(SELDOM),
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// What one look leaves to the next, by forecaster.
#[derive(Debug, Default)]
pub struct Seen {
    /// Newest row at the last look.
    looked: HashMap<String, Millis>,
    watched: HashMap<String, Watched>,
}

/// A champion and the versions of before, in memory, with how they did.
#[derive(Debug)]
struct Watched {
    champion: i64,
    spec: ForecasterSpec,
    versions: Vec<i64>,
    /// The champion first.
    models: Arc<Vec<Arc<LoadedModel>>>,
    /// Where the first block begins that counts.
    since: Millis,
    /// End of the last block that was judged, by device: one that was away catches up.
    through: HashMap<String, Millis>,
    losses: Vec<Loss>,
}

/// Looks once at every forecaster whose data have grown by a day, and says whether there was one, or one at work. One that cannot be looked at keeps no
/// other from it.
///
/// # Errors
/// The database.
pub async fn look(store: &Store, signer: &Signer, rules: &Rules, seen: &mut Seen) -> Result<bool> {
    let rollouts = store.open_rollouts().await?;
    let jobs = store.live_jobs().await?;
    let forecasters = store.forecasters().await?;
    let is_there = |name: &String| forecasters.iter().any(|f| f.name == *name);
    seen.looked.retain(|name, _| is_there(name));
    seen.watched.retain(|name, _| is_there(name));
    let mut found = false;
    for forecaster in forecasters {
        let name = &forecaster.name;
        if jobs.iter().any(|j| j.subject == *name) {
            found = true;
            continue;
        }
        if store.holding_experiment(name).await?.is_some() {
            continue;
        }
        let Some(champion) = store.champion(name).await? else {
            continue;
        };
        let Some(now) = features::newest(store, &forecaster.spec).await? else {
            continue;
        };
        let looked = seen.looked.get(name);
        if looked.is_some_and(|looked| now - looked < DAY_MS) {
            continue;
        }
        let rollout = rollouts.iter().rfind(|r| r.forecaster == *name);
        let about = (&forecaster, &champion, rollout);
        if let Err(e) = look_at(store, signer, rules, about, now, &mut seen.watched).await {
            tracing::warn!("the daily look at {name}: {e:#}");
        }
        seen.looked.insert(name.clone(), now);
        found = true;
    }
    Ok(found)
}

async fn look_at(
    store: &Store,
    signer: &Signer,
    rules: &Rules,
    (forecaster, champion, rollout): (&ForecasterRow, &ModelVersionRow, Option<&RolloutRow>),
    now: Millis,
    watched: &mut HashMap<String, Watched>,
) -> Result<()> {
    let about = (forecaster, champion);
    if rollout.is_none() && given_up::look(store, rules, about, now).await? {
        return Ok(());
    }
    let spec = &forecaster.spec;
    let same = |w: &Watched| w.champion == champion.version && w.spec == *spec;
    if !watched.get(&spec.name).is_some_and(same) {
        let fresh = Watched::open(store, signer, about, now).await?;
        watched.insert(spec.name.clone(), fresh);
    }
    let Some(watched) = watched.get_mut(&spec.name) else {
        return Ok(());
    };
    watched.follow(store, now).await?;
    let pairs = spec.block_pairs();
    let Some(beaten) = judge(&watched.losses, &watched.versions, pairs, rules) else {
        return Ok(());
    };
    let report = watched.document(&beaten, rules);
    if let Some(rollout) = rollout {
        return take_back(store, about, rollout, (&beaten, &report), now).await;
    }
    // A version that is known has learnt already: only so many days are asked as show that it is better.
    let rules = Rules {
        min_new_days: rules.min_days,
        ..*rules
    };
    act(
        store,
        &rules,
        about,
        ("rival", &beaten.verdict, &report),
        now,
    )
    .await
}

/// Asks that a rollout goes back whose version was made for the world before the one that came back. What a person began is left to
/// that person.
async fn take_back(
    store: &Store,
    (forecaster, champion): (&ForecasterRow, &ModelVersionRow),
    rollout: &RolloutRow,
    (beaten, report): (&Beaten, &Value),
    now: Millis,
) -> Result<()> {
    let name = &forecaster.name;
    let mine = rollout.created_by.starts_with(BY_TRAINING)
        && rollout.previous_version == Some(champion.version)
        && rollout.status != "rolling_back";
    if !mine || !triggers::policy_of(forecaster)?.error {
        return Ok(());
    }
    let Some(version) = store.model_version(name, rollout.model_version).await? else {
        return Ok(());
    };
    let onset = beaten.verdict.onset;
    if !outlived(&version.lineage, &champion.lineage, (beaten.by, onset)) {
        return Ok(());
    }
    let time = |ms: Millis| DateTime::from_timestamp_millis(ms).unwrap_or_else(crate::clock::now);
    let times = (time(onset), time(now));
    let id = store
        .add_drift_report("concept", (name, champion.version), times, true, report)
        .await?;
    let reason = format!(
        "outdated: {}; version {} of rollout {} was made for the world before",
        beaten.verdict.words, version.version, rollout.id
    );
    let new = NewDecision {
        forecaster: name,
        decision: "outdated",
        reason: &reason,
        drift_report: Some(id),
        data_time: Some(time(now)),
        decided_by: "drift check",
        ..NewDecision::default()
    };
    if store.outdate_rollout(rollout.id, &new).await? {
        tracing::info!(forecaster = name, rollout = rollout.id, reason, "drift");
    }
    Ok(())
}

/// Whether a version that is rolled out is of a world before the one since whose onset a version of before does better, by the
/// lineages. The day of an onset is found anew each day: an answer to this very change is not taken back for a later guess.
fn outlived(version: &Value, champion: &Value, (by, onset): (i64, Millis)) -> bool {
    let number = |of: &Value, key: &str| of[key].as_i64();
    if number(version, "known") == Some(by) {
        return false;
    }
    // Made for a change that the champion does not know: it is of before only if it has seen nothing of what came after.
    let since = match number(version, "onset") == number(champion, "onset") {
        true => number(version, "onset").or(number(version, "data_from")),
        false => number(version, "data_until"),
    };
    since.is_some_and(|since| since + WEEK_MS <= onset)
}

impl Watched {
    async fn open(
        store: &Store,
        signer: &Signer,
        (forecaster, champion): (&ForecasterRow, &ModelVersionRow),
        now: Millis,
    ) -> Result<Self> {
        let spec = &forecaster.spec;
        let (mut versions, mut models) = (Vec::new(), Vec::new());
        let rows = worlds::before(store, champion, spec).await?;
        if !rows.is_empty() {
            models.push(registry::open(store, signer, champion).await?);
        }
        for row in rows {
            match registry::open(store, signer, &row).await {
                Ok(model) => {
                    versions.push(row.version);
                    models.push(model);
                }
                Err(OpenError::Store(e)) => return Err(e.into()),
                Err(e) => tracing::info!("a version of before is left out: {e}"),
            }
        }
        // What the champion learnt from says nothing of it.
        let until = champion.lineage["data_until"].as_i64().unwrap_or(now);
        Ok(Self {
            champion: champion.version,
            spec: spec.clone(),
            versions,
            models: Arc::new(models),
            since: next_block(until.max(now - BEFORE_MS), spec.block_ms()),
            through: HashMap::new(),
            losses: Vec::new(),
        })
    }

    /// Takes in the blocks of each device that are complete by now.
    async fn follow(&mut self, store: &Store, now: Millis) -> Result<()> {
        let spec = &self.spec;
        let (period, block) = (spec.period_ms(), spec.block_ms().max(1));
        let steps = |n: usize| period.saturating_mul(Millis::try_from(n).unwrap_or(1));
        let horizon = steps(spec.horizon);
        let complete = |newest: Millis| newest.saturating_sub(horizon).div_euclid(block) * block;
        let until = complete(now);
        if until <= self.since || self.versions.is_empty() {
            return Ok(());
        }
        let mark: DateTime<Utc> = features::advance(store, spec).await?;
        let kept = Kept::open(store, spec).await?;
        let devices = features::devices(store, spec).await?;
        let count = devices.len();
        for device in devices.into_iter().filter(|d| is_asked(d, count, 0)) {
            let from = self.through.get(&device).copied().unwrap_or(self.since);
            let from = from.max(until - BEFORE_MS);
            let span = (
                from - steps(2 * spec.lookback + spec.season_steps()),
                until + horizon,
            );
            let (rows, _) = kept.rows_to_learn(&device, span, mark).await?;
            let through = rows.last().map_or(from, |r| complete(r.time).min(until));
            if through <= from {
                continue;
            }
            let name = device.clone();
            let data = TrainingData {
                series: vec![Series {
                    device,
                    rows,
                    weight_from: None,
                }],
            };
            let (spec, models) = (spec.clone(), Arc::clone(&self.models));
            // The block that begins at its end is not over.
            let span = (from, through + horizon);
            let measured = tokio::task::spawn_blocking(move || losses(&spec, &models, &data, span));
            // A sensor that stands still or is away says nothing of any model, and keeps no other device from it.
            match measured.await? {
                Ok(found) => self.losses.extend(found),
                Err(e) => tracing::info!(
                    device = name,
                    "its newest days are asked of no version of before: {e:#}"
                ),
            }
            self.through.insert(name, through);
        }
        self.losses.retain(|l| l.from >= until - BEFORE_MS);
        Ok(())
    }

    fn document(&self, beaten: &Beaten, rules: &Rules) -> Value {
        let verdict = &beaten.verdict;
        let panels = verdict.devices.iter().take(DRAWN).map(|device| {
            let own = self.losses.iter().filter(|l| l.device == device.device);
            let own: Vec<(Millis, f64)> = own.map(|l| (l.from, l.champion)).collect();
            Panel {
                name: device.device.clone(),
                drift: device.drifted,
                words: format!(
                    "mean absolute error of a block: the champion's is {:.2} times that of the version of before, over {} blocks",
                    device.ratio, device.days
                ),
                bars: None,
                course: Course::of(&own, verdict.onset - 1, Some(verdict.onset)),
            }
        });
        let panels: Vec<Panel> = panels.collect();
        json!({"words": verdict.words, "verdict": verdict, "rivals": beaten.rivals, "rules": rules, "panels": panels})
    }
}

fn next_block(time: Millis, block: Millis) -> Millis {
    let block = block.max(1);
    (time.div_euclid(block) + 1) * block
}

/// How the models, the champion first, did on a device's windows with origins from `from` on, a block each.
fn losses(
    spec: &ForecasterSpec,
    models: &[Arc<LoadedModel>],
    data: &TrainingData,
    span: (Millis, Millis),
) -> Result<Vec<Loss>> {
    let a_block = usize::try_from(spec.block_ms() / spec.period_ms().max(1)).unwrap_or(1);
    let stride = (spec.season_steps() / A_SEASON)
        .min(a_block * spec.horizon / STEPS)
        .max(1);
    let cases = evaluate::cases(spec, data, span, stride)?;
    let block = spec.block_ms().max(1);
    let mut blocks: BTreeMap<Millis, (u32, Vec<f64>)> = BTreeMap::new();
    for case in &cases {
        let from = case.window.origin.div_euclid(block) * block;
        let known = case.actual.iter().filter(|a| a.is_finite()).count();
        let (steps, sums) = blocks
            .entry(from)
            .or_insert_with(|| (0, vec![0.0; models.len()]));
        *steps += u32::try_from(known).unwrap_or(0);
        for (sum, model) in sums.iter_mut().zip(models) {
            // One that makes no forecast of a window is not judged in that block.
            *sum += error(model, case).unwrap_or(f64::NAN);
        }
    }
    let device = data.series.first().map_or("", |s| s.device.as_str());
    let one = |(from, (steps, sums)): (Millis, (u32, Vec<f64>))| {
        let mut means = sums.into_iter().map(|sum| sum / f64::from(steps.max(1)));
        Some(Loss {
            from,
            device: device.to_owned(),
            steps,
            champion: means.next()?,
            rivals: means.collect(),
        })
    };
    Ok(blocks.into_iter().filter_map(one).collect())
}

fn error(model: &LoadedModel, case: &Case) -> Option<f64> {
    let mean = model.forecast(&case.window).ok()?.mean;
    let known = mean.iter().zip(&case.actual);
    let known = known.filter(|(_, actual)| actual.is_finite());
    Some(known.map(|(mean, actual)| (mean - actual).abs()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_for_the_world_before_goes_back_and_what_answers_this_change_stays() {
        let day = |n: i64| n * DAY_MS;
        let lineage = |onset: Option<i64>, until: i64, known: Option<i64>| json!({"data_from": 0, "onset": onset.map(day), "data_until": day(until), "known": known});
        let champion = lineage(Some(400), 420, None);
        let gone = |version: &Value, since: i64| outlived(version, &champion, (1, day(since)));
        // More data of the champion's world, some of them of the new one.
        assert!(gone(&lineage(Some(400), 505, None), 500));
        assert!(!gone(&lineage(Some(400), 505, None), 405));
        // The version that does better is on its way, whatever day is guessed now.
        assert!(!gone(&lineage(Some(500), 505, Some(1)), 530));
        // A model that was fitted to this change; one fitted to a change that is over.
        assert!(!gone(&lineage(Some(500), 515, None), 510));
        assert!(gone(&lineage(Some(500), 515, None), 530));
        // A champion of the first world knows no onset.
        let first = lineage(None, 365, None);
        assert!(outlived(&lineage(None, 505, None), &first, (1, day(500))));
        assert!(!outlived(&json!({}), &json!({}), (1, day(500))));
    }
}
