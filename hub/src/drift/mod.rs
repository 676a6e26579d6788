//! Confirms the devices' drift signals: owns the loop that checks them against stored forecasts and actuals, never the verdict.

pub mod bias;
pub mod daily;
pub mod estimate;
pub mod fleet;
mod fleet_words;
mod given_up;
pub mod inputs;
pub mod later;
mod outdated;
pub mod rivals;
pub mod verdict;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use anyhow::{Context as _, Result};
use chrono::DateTime;
use fieldcast_bundle::DailyErrors;
use fieldcast_features::{ForecasterSpec, Millis};
use fieldcast_store::decisions::NewDecision;
use fieldcast_store::drift_reports::OpenSignal;
use fieldcast_store::forecasters::ForecasterRow;
use fieldcast_store::model_versions::ModelVersionRow;
use fieldcast_store::{Store, StoreError};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::features::{self, Kept};
use crate::page::{Course, Panel};
use crate::training::{self, Request, admit};
use crate::triggers::{self, policy::Policy};
use verdict::{Decision, DeviceDays, DeviceVerdict, LastRetrain, Rules, Verdict, decide};

const DAY_MS: Millis = 86_400_000;
/// How far before the devices' estimate of the onset the hub looks for a better one.
const BEFORE_MS: Millis = 90 * DAY_MS;
/// Most devices that a report draws.
const DRAWN: usize = 20;
/// A champion that no device complains of is looked at this often.
const WEEK_MS: Millis = 7 * DAY_MS;
/// Turns of the loop between two looks at whether a week has passed for what nobody complains of: few, as the weeks of a backlog
/// or a replay pass quickly.
const UNASKED_TURNS: u32 = 5;
const EVERY: Duration = Duration::from_secs(1);

/// Checks what devices say until cancelled, while this hub leads: two would tell everything twice.
pub async fn run(
    store: Store,
    rules: Rules,
    leads: watch::Receiver<bool>,
    cancel: CancellationToken,
) {
    let mut seen = HashMap::new();
    let mut turn = 0_u32;
    while !cancel.is_cancelled() {
        if *leads.borrow() {
            // What nobody complains of is looked at less often: it is looked for on every device.
            let all = turn.is_multiple_of(UNASKED_TURNS);
            if let Err(e) = check_all(&store, &rules, &mut seen, all).await {
                tracing::warn!("drift: {e:#}");
            }
            if let Err(e) = inputs::report_all(&store).await {
                tracing::warn!("drift of inputs: {e:#}");
            }
            turn = turn.wrapping_add(1);
        } else {
            // Whoever leads meanwhile tells on.
            seen.clear();
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// Checks every forecaster with open signals, and with `unasked` each week of data those without; one whose data have not grown
/// by a day since the last look is left alone. While a rollout is open, what is looked for is a change that its version did not
/// learn from. A forecaster that cannot be checked keeps no other from it.
///
/// # Errors
/// The database.
pub async fn check_all(
    store: &Store,
    rules: &Rules,
    seen: &mut HashMap<String, (i64, Millis)>,
    unasked: bool,
) -> Result<()> {
    let mut open: BTreeMap<String, Vec<OpenSignal>> = BTreeMap::new();
    for signal in store.open_concept_signals().await? {
        open.entry(signal.forecaster.clone())
            .or_default()
            .push(signal);
    }
    let rollouts = store.open_rollouts().await?;
    let jobs = store.live_jobs().await?;
    for forecaster in store.forecasters().await? {
        let name = &forecaster.name;
        let rollout = rollouts.iter().rfind(|r| r.forecaster == *name);
        let busy = jobs.iter().any(|j| j.subject == *name)
            || store.holding_experiment(name).await?.is_some();
        let Some(champion) = store.champion(name).await? else {
            continue;
        };
        // A signal about a model that no longer runs is answered already.
        let mut signals = open.remove(name).unwrap_or_default();
        signals.retain(|s| s.model_version == champion.version);
        // Where they shall not ask for a retraining they must not keep the hub from finding by itself what it would without them.
        if triggers::policy_of(&forecaster).is_ok_and(|policy| !policy.drift) {
            signals.clear();
        }
        let mut until = champion.lineage["data_until"].as_i64();
        let open = match rollout {
            Some(rollout) if !busy => outdated::Open::of(store, rollout, &champion).await?,
            _ => None,
        };
        if let Some(open) = &open {
            // What its version learnt from is no news.
            signals.retain(|s| s.onset.timestamp_millis() >= open.known.until);
            until = Some(open.known.until);
        }
        let busy = busy || rollout.is_some() != open.is_some();
        let Some(onset) = signals
            .iter()
            .map(|s| s.onset.timestamp_millis())
            .min()
            .or(until)
        else {
            continue;
        };
        if busy || (signals.is_empty() && !unasked) {
            continue;
        }
        let Some(now) = features::newest(store, &forecaster.spec).await? else {
            continue;
        };
        // No further back than is needed, where nobody says since when.
        let onset = if signals.is_empty() {
            onset.max(now - BEFORE_MS)
        } else {
            onset
        };
        let last = match seen.get(name) {
            Some((version, at)) if *version == champion.version => Some(*at),
            // A hub that just began to lead goes on from what was told before, whoever told it.
            _ => store
                .newest_decided_look(name, champion.version)
                .await?
                .map(|at| at.timestamp_millis())
                .filter(|at| *at <= now),
        };
        if let Some(at) = last {
            seen.insert(name.clone(), (champion.version, at));
        }
        let wait = if signals.is_empty() { WEEK_MS } else { DAY_MS };
        let since = last.or(until.filter(|_| signals.is_empty()));
        if since.is_some_and(|since| now - since < wait) {
            continue;
        }
        let found = match &open {
            Some(open) => {
                outdated::look(
                    store,
                    rules,
                    (&forecaster, &champion),
                    &signals,
                    (open, now),
                )
                .await
            }
            None => check(store, rules, &forecaster, &champion, &signals, (onset, now)).await,
        };
        if let Err(e) = found {
            tracing::warn!("drift of {name}: {e:#}");
            // The database may answer the next time; what cannot be read now cannot be read then.
            if e.is::<StoreError>() {
                continue;
            }
        }
        seen.insert(name.clone(), (champion.version, now));
    }
    Ok(())
}

async fn check(
    store: &Store,
    rules: &Rules,
    forecaster: &ForecasterRow,
    champion: &ModelVersionRow,
    signals: &[OpenSignal],
    (signalled, now): (Millis, Millis),
) -> Result<()> {
    let spec = &forecaster.spec;
    let policy = triggers::policy_of(forecaster)?;
    let trigger = if signals.is_empty() { "error" } else { "drift" };
    if signals.is_empty() && (!policy.error || champion.manifest["calibration"]["daily"].is_null())
    {
        return Ok(());
    }
    let promise = promise_of(champion)?;
    let from = if signals.is_empty() {
        signalled
    } else {
        signalled - BEFORE_MS
    };
    let of = (champion.version, promise.least_observed());
    let Daily { errors, means } = daily(store, spec, of, from).await?;
    let mut days = errors;
    if signals.is_empty() {
        // Of a device that was not learnt from nobody knows what is usual.
        days.retain(|d| promise.levels.contains_key(&d.device));
    }
    let asked_for = Rules {
        min_t: if signals.is_empty() {
            rules.min_t_unasked
        } else {
            rules.min_t
        },
        ..*rules
    };
    let judged = verdict::verdict(signalled, &days, &promise, &asked_for);
    let judged = later::newest(judged, &days, &promise, &asked_for);
    let about = (forecaster, champion);
    if !judged.confirmed
        && let Some(found) = bias::find(&days, &means, &promise)
    {
        let verdict = &found.verdict;
        let mut report = document(verdict, signals, &promise, rules, &days);
        report["bias"] = json!(found);
        let mean = |device: &DeviceVerdict| {
            let mean = found.devices.get(&device.device).copied();
            format!(
                "mean error: {:.2} of the usual one over {} days (t = {:.1}); absolute error: {:.2} times the usual one",
                mean.unwrap_or_default(),
                device.days,
                device.t,
                device.ratio
            )
        };
        report["panels"] = json!(panels(verdict, &found.daily, mean));
        // Whether it is more than one device's is decided already, by the bias and not by errors that it hardly changes.
        let rules = &Rules {
            min_ratio: 0.0,
            ..cooled(rules, &policy)
        };
        return act(store, rules, about, (trigger, verdict, &report), now).await;
    }
    // Nobody asked: what is as it should be need not be written down each week.
    if signals.is_empty() && !judged.confirmed {
        return Ok(());
    }
    let rules = &cooled(rules, &policy);
    let report = document(&judged, signals, &promise, rules, &days);
    act(store, rules, about, (trigger, &judged, &report), now).await
}

/// The rules with the cool-down of a forecaster.
fn cooled(rules: &Rules, policy: &Policy) -> Rules {
    Rules {
        cool_down_days: policy.cool_down_days(),
        ..*rules
    }
}

/// Decides what follows from a verdict, and does it: report and decision are kept, and a training is enqueued where it is time for one.
async fn act(
    store: &Store,
    rules: &Rules,
    (forecaster, champion): (&ForecasterRow, &ModelVersionRow),
    (trigger, judged, report): (&str, &Verdict, &Value),
    now: Millis,
) -> Result<()> {
    let spec = &forecaster.spec;
    let policy = triggers::policy_of(forecaster)?;
    let asked = match trigger {
        "drift" => policy.drift,
        _ => policy.error,
    };
    let last = store.last_decision(&spec.name, "retrain").await?;
    let last = last.and_then(|d| {
        let crowned = d.job.is_some() && champion.lineage["training_run"].as_i64() == d.job;
        d.data_time.map(|t| LastRetrain {
            at: t.timestamp_millis(),
            crowned,
        })
    });
    let decision = decide(judged, now, last, &cooled(rules, &policy));
    let today = triggers::today(store, &spec.name).await?;
    let time = |ms: Millis| DateTime::from_timestamp_millis(ms).unwrap_or_else(crate::clock::now);
    let id = store
        .add_drift_report(
            "concept",
            (&spec.name, champion.version),
            (time(judged.onset), time(now)),
            judged.confirmed,
            report,
        )
        .await?;
    let alone = admit::change(&judged.devices, rules.min_ratio, &policy)
        .err()
        .map(|refusal| refusal.to_string());
    let (word, reason, request) = match decision {
        Decision::Retrain if !asked => {
            let why = format!(
                "{}; the forecaster's policy asks for no retraining on {trigger}",
                judged.words
            );
            ("wait", why, None)
        }
        Decision::Retrain if today >= policy.a_day => {
            let why = format!(
                "{today} retrainings in the last 24 hours, {} are allowed",
                policy.a_day
            );
            ("budget", why, None)
        }
        Decision::Retrain if alone.is_some() => ("refused", alone.unwrap_or_default(), None),
        Decision::Retrain => {
            let request = Request {
                trigger: trigger.into(),
                reason: judged.words.clone(),
                onset: Some(judged.onset),
                seed: u64::try_from(champion.version).unwrap_or(1) + 1,
                config: None,
                again: None,
            };
            ("retrain", judged.words.clone(), Some(json!(request)))
        }
        Decision::Wait(why) => ("wait", why, None),
        Decision::NotConfirmed => ("not_confirmed", judged.words.clone(), None),
        Decision::CoolDown(why) => ("cool_down", why, None),
    };
    let mut new = NewDecision {
        forecaster: &spec.name,
        decision: word,
        reason: &reason,
        drift_report: Some(id),
        data_time: Some(time(now)),
        decided_by: "drift check",
        ..NewDecision::default()
    };
    let busy = match &request {
        Some(request) => {
            let asked = store.enqueue_decided(training::KIND, request, &new);
            let (job, begun) = asked.await?;
            (!begun).then(|| format!("training {job} is under way"))
        }
        None => {
            store.record_decision(&new).await?;
            None
        }
    };
    if let Some(busy) = &busy {
        (new.decision, new.reason) = ("wait", busy);
        store.record_decision(&new).await?;
    }
    let (decision, reason) = (new.decision, new.reason);
    tracing::info!(forecaster = spec.name, decision, reason, "drift");
    Ok(())
}

/// What a model promised of its errors.
fn promise_of(model: &ModelVersionRow) -> Result<DailyErrors> {
    serde_json::from_value(model.manifest["calibration"]["daily"].clone()).with_context(|| {
        format!(
            "read the calibration of {} version {}; train it again",
            model.forecaster, model.version
        )
    })
}

/// Why a change of the world is suspected that nobody has confirmed: the newest days are those of another one already, by the
/// limit of what devices complain of and over fewer days. None where there is nothing to judge by.
///
/// # Errors
/// The database, or a calibration that cannot be read.
pub async fn suspected(
    store: &Store,
    spec: &ForecasterSpec,
    champion: &ModelVersionRow,
    now: Millis,
) -> Result<Option<String>> {
    if champion.manifest["calibration"]["daily"].is_null() {
        return Ok(None);
    }
    let promise = promise_of(champion)?;
    let until = champion.lineage["data_until"].as_i64().unwrap_or(now);
    let of = (champion.version, promise.least_observed());
    let mut days = daily_errors(store, spec, of, until.max(now - BEFORE_MS)).await?;
    days.retain(|d| promise.levels.contains_key(&d.device));
    let judged = verdict::verdict(until, &days, &promise, &Rules::suspicion());
    Ok(judged.confirmed.then_some(judged.words))
}

/// How a champion's errors on `devices` since `since` compare with those that its calibration promises ([`verdict::measured`]): their
/// ratio and its t. None where too little is measured, or nothing was promised.
async fn measured(
    store: &Store,
    spec: &ForecasterSpec,
    champion: &ModelVersionRow,
    (since, devices): (Millis, &BTreeSet<String>),
) -> Result<Option<(f64, f64)>> {
    if champion.manifest["calibration"]["daily"].is_null() {
        return Ok(None);
    }
    let promise = promise_of(champion)?;
    let of = (champion.version, promise.least_observed());
    // Where a device is not named in the promise its own days of before say what is usual.
    let named = |device: &String| promise.levels.contains_key(device);
    let from = match devices.iter().all(named) {
        true => since,
        false => since - BEFORE_MS,
    };
    let mut days = daily_errors(store, spec, of, from).await?;
    days.retain(|d| devices.contains(&d.device));
    let rules = Rules::suspicion();
    days.retain(|d| {
        named(&d.device) || d.days.iter().filter(|(t, _)| *t < since).count() >= rules.min_days
    });
    Ok(verdict::measured(since, &days, &promise, &rules))
}

/// Errors of closed days by device.
struct Daily {
    /// Mean absolute ones.
    errors: Vec<DeviceDays>,
    /// Means of actual less forecast.
    means: Vec<DeviceDays>,
}

/// The absolute ones of [`daily`].
async fn daily_errors(
    store: &Store,
    spec: &ForecasterSpec,
    of: (i64, f64),
    onset: Millis,
) -> Result<Vec<DeviceDays>> {
    Ok(daily(store, spec, of, onset).await?.errors)
}

/// Errors by device and UTC day of the origin, over forecasts whose every step has its actual or lies behind
/// the newest row, made when the device knew the target in at least a share `least` of the lookback.
async fn daily(
    store: &Store,
    spec: &ForecasterSpec,
    (version, least): (i64, f64),
    onset: Millis,
) -> Result<Daily> {
    let period = spec.period_ms();
    let horizon = Millis::try_from(spec.horizon).unwrap_or(1);
    let least = least * spec.lookback as f64;
    let lookback = Millis::try_from(spec.lookback).unwrap_or(1) * period;
    let before = onset.saturating_sub(lookback);
    let mark = features::advance(store, spec).await?;
    let kept = Kept::open(store, spec).await?;
    let span = (before, fieldcast_wire::caps::MAX_TIME_MS);
    let mut daily = Daily {
        errors: Vec::new(),
        means: Vec::new(),
    };
    for device in features::devices(store, spec).await? {
        // One after the other: a fleet's forecasts are never in memory at once.
        let own = store
            .forecasts_of(&spec.name, version, &device, onset)
            .await?;
        if own.is_empty() {
            continue;
        }
        // What a broken sensor gave is no error of the model's.
        let (rows, _) = kept.rows_to_learn(&device, span, mark).await?;
        let target = spec.target_channel();
        let actual: HashMap<Millis, f64> = rows
            .iter()
            .filter_map(|r| Some((r.time, r.value(target)?)))
            .collect();
        let newest = rows.last().map_or(Millis::MIN, |r| r.time);
        // A device forecasts at each row it has: what it said nothing at (imported history, a buffer that was lost) it did not know.
        let mut known = store.origins_of(&spec.name, &device, before).await?;
        known.retain(|origin| actual.contains_key(origin));
        let until = |time: Millis| known.partition_point(|k| *k <= time);
        let full = |origin: Millis| (until(origin) - until(origin - lookback)) as f64 >= least;
        let mut days: BTreeMap<Millis, [f64; 3]> = BTreeMap::new();
        let due = own.iter().filter(|f| f.origin + horizon * period <= newest);
        for forecast in due.filter(|f| full(f.origin)) {
            for (h, mean) in forecast.mean.iter().enumerate() {
                let time = forecast.origin + (Millis::try_from(h).unwrap_or(0) + 1) * period;
                let Some(actual) = actual.get(&time) else {
                    continue;
                };
                let day = days
                    .entry(forecast.origin.div_euclid(DAY_MS) * DAY_MS)
                    .or_default();
                let error = actual - mean;
                *day = [day[0] + error.abs(), day[1] + error, day[2] + 1.0];
            }
        }
        // The newest day may still be under way.
        let closed = (newest - horizon * period).div_euclid(DAY_MS) * DAY_MS;
        days.retain(|day, _| *day < closed || period >= DAY_MS);
        let of = |sum: usize| DeviceDays {
            device: device.clone(),
            days: days.iter().map(|(day, s)| (*day, s[sum] / s[2])).collect(),
        };
        daily.errors.push(of(0));
        daily.means.push(of(1));
    }
    Ok(daily)
}

fn document(
    judged: &Verdict,
    signals: &[OpenSignal],
    promise: &DailyErrors,
    rules: &Rules,
    days: &[DeviceDays],
) -> Value {
    let absolute = |device: &DeviceVerdict| {
        format!(
            "absolute error: {:.2} times the usual one over {} days (t = {:.1})",
            device.ratio, device.days, device.t
        )
    };
    json!({"words": judged.words, "verdict": judged, "signals": signals, "calibration": promise, "rules": rules,
        "daily_errors": days, "panels": panels(judged, days, absolute)})
}

/// Each device's daily errors as a time line, and what is said of it.
fn panels(
    judged: &Verdict,
    days: &[DeviceDays],
    words: impl Fn(&DeviceVerdict) -> String,
) -> Vec<Panel> {
    let drawn = judged.devices.iter().take(DRAWN).filter_map(|device| {
        let own = days.iter().find(|d| d.device == device.device)?;
        Some(Panel {
            name: device.device.clone(),
            drift: device.drifted,
            words: words(device),
            bars: None,
            course: Course::of(&own.days, judged.onset - 1, Some(judged.onset)),
        })
    });
    drawn.collect()
}
