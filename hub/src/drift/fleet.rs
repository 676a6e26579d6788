//! Have the inputs of a fleet changed, by the hub's own data: owns the loop that compares windows with what the champion was
//! trained on, never the verdict. It warns, and trains nothing.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use anyhow::{Context as _, Result};
use chrono::DateTime;
use fieldcast_drift::fleet::{Changed, Rules, Series, Skipped, Verdict, confirm, judge};
use fieldcast_features::{ForecasterSpec, Millis};
use fieldcast_store::drift_reports::OpenSignal;
use fieldcast_store::forecasters::ForecasterRow;
use fieldcast_store::jobs::JobRow;
use fieldcast_store::model_versions::ModelVersionRow;
use fieldcast_store::{Store, StoreError};
use fieldcast_train::multivariate::fleet as together;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::fleet_words::{Errors, words};
use crate::check::words::moved;
use crate::features;
use crate::page::{Bars, Course, Panel};

const DAY_MS: Millis = 86_400_000;
const EVERY: Duration = Duration::from_secs(10);
/// Means over at least this long are compared: what is quicker is noise, or the device's to watch.
const SPAN_MS: Millis = 3_600_000;
/// Most of the past that is a reference: one year.
const REFERENCE_MS: Millis = 366 * DAY_MS;
/// How far back the time lines of a report, and the search for a beginning, go beyond the reference.
const RECENT_MS: Millis = 180 * DAY_MS;
/// Fewest values of a window.
const FEWEST: Millis = 32;
/// Most sensors that a report draws.
const DRAWN: usize = 20;

/// What was looked at last, by forecaster: model version and end of the newest window.
pub type Seen = HashMap<String, (i64, Millis)>;

/// Looks until cancelled, while this hub leads.
pub async fn run(store: Store, leads: watch::Receiver<bool>, cancel: CancellationToken) {
    let mut seen = Seen::new();
    while !cancel.is_cancelled() {
        if !*leads.borrow() {
            seen.clear();
        } else if let Err(e) = check_all(&store, &mut seen, &cancel).await {
            tracing::warn!("inputs of the fleet: {e:#}");
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// Judges each forecaster whose data have grown by a window since the last look; a report is written on change only. A
/// forecaster that cannot be judged keeps no other from it.
///
/// # Errors
/// The database.
pub async fn check_all(store: &Store, seen: &mut Seen, cancel: &CancellationToken) -> Result<()> {
    for forecaster in store.forecasters().await? {
        if cancel.is_cancelled() {
            return Ok(());
        }
        if let Err(e) = look_at(store, &forecaster, seen, cancel).await {
            tracing::warn!("inputs of {}: {e:#}", forecaster.name);
            // The database may answer the next time; what cannot be judged now cannot be judged then.
            if e.is::<StoreError>() {
                seen.remove(&forecaster.name);
            }
        }
    }
    Ok(())
}

async fn look_at(
    store: &Store,
    forecaster: &ForecasterRow,
    seen: &mut Seen,
    cancel: &CancellationToken,
) -> Result<()> {
    let Some(champion) = store.champion(&forecaster.name).await? else {
        return Ok(());
    };
    let Some(look) = Look::new(store, &forecaster.spec, &champion).await? else {
        return Ok(());
    };
    let now = (champion.version, look.end);
    if seen.get(&forecaster.name) == Some(&now) {
        return Ok(());
    }
    // Before the look: one that cannot be made is made again with the next window, not each moment.
    seen.insert(forecaster.name.clone(), now);
    check(store, &forecaster.spec, &champion, &look, cancel).await
}

/// What one look compares.
struct Look {
    version: i64,
    devices: Vec<String>,
    sensors: Vec<String>,
    span: Millis,
    /// Where the reference begins and ends.
    reference: (Millis, Millis),
    end: Millis,
    rules: Rules,
}

impl Look {
    /// None before as many windows as the rules ask for have closed since the reference.
    async fn new(
        store: &Store,
        spec: &ForecasterSpec,
        champion: &ModelVersionRow,
    ) -> Result<Option<Self>> {
        let Some(until) = champion.lineage["data_until"].as_i64() else {
            return Ok(None);
        };
        let span = spec.period_ms().max(SPAN_MS);
        let rules = Rules {
            window_ms: Rules::default().window_ms.max(FEWEST * span),
            ..Rules::default()
        };
        let mut sensors: Vec<String> = spec
            .inputs
            .iter()
            .map(|c| spec.sensor_of(c).to_owned())
            .collect();
        sensors.sort();
        sensors.dedup();
        // A window is over when most devices are past it: what was stored while offline has come then.
        let newest = features::newest_by_device(store, spec, &sensors).await?;
        let (devices, mut ends): (Vec<String>, Vec<Millis>) = newest.into_iter().unzip();
        ends.sort_unstable();
        let Some(newest) = ends.get(ends.len() / 2).copied() else {
            return Ok(None);
        };
        let windows = newest.saturating_sub(until) / rules.window_ms;
        if windows < Millis::try_from(rules.windows).unwrap_or(Millis::MAX) {
            return Ok(None);
        }
        // A model made for a new world knows no other.
        let onset = champion.lineage["onset"].as_i64().unwrap_or(Millis::MIN);
        Ok(Some(Self {
            version: champion.version,
            devices,
            sensors,
            span,
            reference: (
                (until - REFERENCE_MS).max(onset.min(until - rules.window_ms)),
                until,
            ),
            end: until + windows * rules.window_ms,
            rules,
        }))
    }

    async fn series(&self, store: &Store, device: &str, sensor: &str) -> Result<Series> {
        let (from, until) = self.reference;
        let windows = self.rules.window_ms * Millis::try_from(self.rules.windows).unwrap_or(1);
        let recent = (until.max(self.end - RECENT_MS.max(2 * windows)), self.end);
        Ok(Series {
            device: device.to_owned(),
            sensor: sensor.to_owned(),
            reference: store
                .means(device, sensor, (from, until), self.span)
                .await?,
            recent: store.means(device, sensor, recent, self.span).await?,
        })
    }
}

async fn check(
    store: &Store,
    spec: &ForecasterSpec,
    champion: &ModelVersionRow,
    look: &Look,
    cancel: &CancellationToken,
) -> Result<()> {
    let before = store.newest_fleet_report(&spec.name).await?;
    let was = before
        .as_ref()
        .map(|r| members(&r.report))
        .unwrap_or_default();
    let (mut known, mut skipped) = (Vec::new(), Vec::new());
    // Those that had changed are a family of their own: among them others would be called changed sooner.
    let (mut joint, mut again) = (Vec::new(), Vec::new());
    for device in &look.devices {
        if cancel.is_cancelled() {
            return Ok(());
        }
        let mut own = Vec::new();
        for sensor in &look.sensors {
            own.push(look.series(store, device, sensor).await?);
        }
        let (end, rules) = (look.end, look.rules);
        let had = was.iter().any(|(d, s)| d == device && s.is_empty());
        let turn = look.end.div_euclid(look.rules.window_ms);
        let asked = had || together::is_asked(device, look.devices.len(), turn);
        let judged = tokio::task::spawn_blocking(move || {
            let each: Vec<_> = own.iter().map(|s| judge(s, end, &rules)).collect();
            (
                each,
                asked.then(|| together::judge(&own, end, &rules)).flatten(),
            )
        });
        let (each, all) = judged
            .await
            .context("compare windows; this is a defect: keep the log and report it")?;
        if had {
            again.extend(all);
        } else {
            joint.extend(all);
        }
        for judged in each {
            match judged {
                Ok(judged) => known.push(judged),
                Err(why) => skipped.push(why),
            }
        }
    }
    let verdict = confirm(&known, skipped, look.end, &look.rules);
    let both = joint.iter().chain(&again);
    let together: BTreeSet<String> = both.map(|j| j.device.clone()).collect();
    let mut joint = together::found(joint, &look.rules);
    joint.extend(together::found(again, &look.rules));
    // What had changed and can no longer be judged is not as it was.
    let skipped = |(d, s): &&(String, String)| {
        let lacks = |k: &Skipped| k.device == *d && k.sensor == *s;
        verdict.skipped.iter().any(lacks)
            || !look.devices.contains(d)
            || (s.is_empty() && !together.contains(d))
    };
    let kept: Vec<Value> = was
        .iter()
        .filter(skipped)
        .map(|(device, sensor)| json!({"device": device, "sensor": sensor}))
        .collect();
    let is = members(&json!({"verdict": verdict, "together": joint, "kept": kept}));
    if news(&was, look.devices.len()) == news(&is, look.devices.len()) {
        return Ok(());
    }
    let since = look.end - look.rules.window_ms * Millis::try_from(look.rules.windows).unwrap_or(1);
    let named: BTreeSet<String> = is.iter().map(|(device, _)| device.clone()).collect();
    let errors = errors(store, spec, champion, (since, &named)).await?;
    let jobs = store.live_jobs().await?;
    let training = |j: &&JobRow| j.kind == crate::training::KIND && j.subject == spec.name;
    let training = jobs.iter().find(training).map(|j| j.id);
    let raised = store.raised_inputs(&spec.name, look.version).await?;
    let agree = |c: &&Changed| {
        let own = |(d, s): &(String, String)| *d == c.device && *s == c.sensor;
        raised.iter().any(own)
    };
    let agreeing = verdict.changed.iter().filter(agree).count();
    let said = words(
        &verdict,
        look.version,
        (agreeing, &joint, kept.len()),
        (errors, training),
    );
    let panels = panels(store, look, &verdict).await?;
    let report = json!({"words": said, "verdict": verdict, "devices_agree": agreeing, "together": joint, "kept": kept, "panels": panels});
    let time = |ms| DateTime::from_timestamp_millis(ms).unwrap_or_else(crate::clock::now);
    let onset = verdict
        .changed
        .iter()
        .map(|c| c.onset)
        .min()
        .unwrap_or(look.end);
    tracing::warn!(forecaster = spec.name, "{said}");
    store
        .add_drift_report(
            "inputs",
            (&spec.name, look.version),
            (time(onset), time(look.end)),
            !is.is_empty(),
            &report,
        )
        .await?;
    Ok(())
}

/// Device and sensor of all that a report calls changed; no sensor where it is all of them together.
fn members(report: &Value) -> Vec<(String, String)> {
    let changed = report["verdict"]["changed"].as_array();
    let name = |one: &Value, what: &str| one[what].as_str().unwrap_or_default().to_owned();
    let joint = report["together"].as_array();
    let kept = report["kept"].as_array();
    let each = changed.into_iter().chain(joint).chain(kept).flatten();
    let mut all: Vec<_> = each
        .map(|c| (name(c, "device"), name(c, "sensor")))
        .collect();
    all.sort();
    all
}

/// What of the members is news where it is others: in a fleet of which only some are asked at a time whether their inputs changed
/// together, that some did, or none; else each look would be news.
fn news(members: &[(String, String)], devices: usize) -> BTreeSet<(&str, &str)> {
    let some = devices > together::MOST;
    let each = members.iter().map(|(device, sensor)| {
        let joint = some && sensor.is_empty();
        (if joint { "" } else { device.as_str() }, sensor.as_str())
    });
    each.collect()
}

/// What is known of the champion's errors on devices, of the days from `since` on where they were measured.
async fn errors(
    store: &Store,
    spec: &ForecasterSpec,
    champion: &ModelVersionRow,
    (since, devices): (Millis, &BTreeSet<String>),
) -> Result<Errors> {
    let open = store.open_concept_signals().await?;
    let worse = |s: &&OpenSignal| s.forecaster == spec.name && s.model_version == champion.version;
    if open.iter().find(worse).is_some() {
        return Ok(Errors::Worse);
    }
    if let Some((ratio, t)) = super::measured(store, spec, champion, (since, devices)).await? {
        return Ok(Errors::Measured { ratio, t });
    }
    let known = super::estimate::errors(store, spec, champion).await?;
    let ratio = known.and_then(|known| known.ratio_on(devices));
    Ok(ratio.map_or(Errors::Unknown, Errors::Unmeasured))
}

async fn panels(store: &Store, look: &Look, verdict: &Verdict) -> Result<Vec<Panel>> {
    let mut panels = Vec::new();
    let window = look.end - look.rules.window_ms;
    for one in verdict.changed.iter().take(DRAWN) {
        let series = look.series(store, &one.device, &one.sensor).await?;
        let values = |of: &[(Millis, f64)], from: Millis| -> Vec<f64> {
            of.iter()
                .filter(|(t, _)| *t > from)
                .map(|(_, v)| *v)
                .collect()
        };
        let bars = Bars::numbers(
            &values(&series.reference, Millis::MIN),
            &values(&series.recent, window),
        );
        let all = [series.reference, series.recent].concat();
        panels.push(Panel {
            name: format!("{} of {}", one.sensor, one.device),
            drift: true,
            words: format!(
                "{} of {} {}; {:.0} % of the evidence",
                one.sensor,
                one.device,
                moved(&one.compared.moved),
                one.contribution * 100.0
            ),
            bars,
            course: Course::of(&all, look.reference.1, Some(one.onset)),
        });
    }
    Ok(panels)
}
