//! A person asks for an experiment or for its end: owns what is refused and why, and what is told beforehand; never how it moves.

use std::collections::BTreeMap;

use fieldcast_drift::arms::{Summary, detectable};
use fieldcast_features::ForecasterSpec;
use fieldcast_store::decisions::NewDecision;
use fieldcast_store::experiments::{Begun, NewExperiment};
use fieldcast_store::measures::Span;
use fieldcast_store::model_versions::ModelVersionRow;
use fieldcast_store::{Store, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::report::{LEVEL, before_hours, measure, scaled};
use crate::rollout::policy::Kind;
use crate::rollout::request::{Person, Refusal as Forbidden, eligible};
use crate::rollout::rows::kind_of;

/// An order holds for 90 days, and nobody renews those of an experiment.
const MOST_DAYS: i32 = 80;
/// What is promised of the detectable effect.
const POWER: f64 = 0.8;
/// Fewer devices in an arm than this say little, whatever was measured.
const FEW: usize = 10;
/// An effect that must be larger than this share of the mean to be found is seldom that large.
const COARSE: f64 = 0.1;
/// More devices than this are not asked for what is told beforehand.
const LOOKED_AT: i64 = 100_000;

/// Why nothing was started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Who asks, or which version.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// A number out of its range.
    #[error("{0}")]
    Range(String),
    /// A label that no device can carry beside the selector's.
    #[error(
        "label `{0}` is another one in the selector of `{1}`: no device has both; leave it out or correct it"
    )]
    Label(String, String),
    /// Errors that cannot be compared.
    #[error(
        "versions {0} and {1} forecast different targets, periods or horizons: their errors cannot be compared; name a sensor \
         that both act upon"
    )]
    Incomparable(i64, i64),
    /// Another one has the devices.
    #[error(
        "experiment {0} of `{1}` is not over; wait for its end, or `experiment stop {0}` first"
    )]
    Open(i64, String),
    /// No such experiment, or over.
    #[error(
        "experiment {0} does not exist or its time is over; see `fieldcast-hub experiment list`"
    )]
    NotOpen(i64),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An experiment that is asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Forecaster.
    pub forecaster: String,
    /// What is compared with.
    pub a: i64,
    /// What is compared.
    pub b: i64,
    /// Share of the devices that get B.
    pub share: f64,
    /// How long it takes.
    pub days: i32,
    /// Hours after a device joined that are not measured.
    pub settle_hours: i32,
    /// Labels that devices must carry, beside the selector's.
    pub labels: BTreeMap<String, String>,
    /// Sensor whose mean is the outcome; none: errors of forecasts.
    pub sensor: Option<String>,
}

/// What the number of devices can show, from what they did before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Foreseen {
    /// Devices that fit now.
    pub devices: usize,
    /// What is measured, before any has joined.
    pub before: Option<Summary>,
    /// The smallest difference that is found four times in five.
    pub detectable: Option<f64>,
    /// The same over the mean.
    pub relative: Option<f64>,
    /// What speaks against starting it like this.
    pub warnings: Vec<String>,
}

/// Starts an experiment in a person's name, with the decision that says so; answers its number and what can be expected of it.
///
/// # Errors
/// A version, number, label or name that does not hold, an open rollout or experiment in the way, or the database.
pub async fn start(
    store: &Store,
    asked: &Asked,
    person: Person<'_>,
) -> Result<(i64, Foreseen), Refusal> {
    let person = person.checked()?;
    check(asked)?;
    let name = &asked.forecaster;
    let a = eligible(store, name, asked.a).await?;
    let b = eligible(store, name, asked.b).await?;
    if asked.sensor.is_none() && !comparable(&a, &b) {
        return Err(Refusal::Incomparable(asked.a, asked.b));
    }
    let mut labels = asked.labels.clone();
    if let Some(definition) = store.forecaster(name).await? {
        for (key, value) in definition.spec.selector.labels {
            let own = labels.insert(key.clone(), value.clone());
            if own.is_some_and(|own| own != value) {
                return Err(Refusal::Label(key, name.clone()));
            }
        }
    }
    let refused = |begun| match begun {
        Begun::Rollout(id) => Forbidden::Open(id, name.clone()).into(),
        Begun::Gone(version) => Forbidden::Removed(name.clone(), version).into(),
        Begun::Experiment(id) | Begun::Started(id) => Refusal::Open(id, name.clone()),
    };
    // What is told beforehand reads weeks of data: not for one that cannot start.
    if let Some(found) = store.in_the_way(name, [asked.a, asked.b]).await? {
        return Err(refused(found));
    }
    let labels = json!(labels);
    let foreseen = foresee(store, asked, &labels).await?;
    let reason = person.because(&format!(
        "versions {} and {} are compared on devices for {} days",
        asked.a, asked.b, asked.days
    ));
    let decision = NewDecision {
        forecaster: name,
        decision: "experiment",
        reason: &reason,
        decided_by: person.name,
        ..NewDecision::default()
    };
    let new = NewExperiment {
        version_a: asked.a,
        version_b: asked.b,
        share_b: asked.share,
        labels: &labels,
        sensor: asked.sensor.as_deref(),
        days: asked.days,
        settle_hours: asked.settle_hours,
        foreseen: &json!(foreseen),
    };
    match store.create_experiment(&new, &decision).await? {
        Begun::Started(id) => Ok((id, foreseen)),
        other => Err(refused(other)),
    }
}

/// Asks the hub that drives experiments to end one before its time.
///
/// # Errors
/// No such experiment, nobody's name, or the database.
pub async fn stop(store: &Store, id: i64, person: Person<'_>) -> Result<(), Refusal> {
    let person = person.checked()?;
    if store
        .stop_experiment(id, person.name, person.reason)
        .await?
    {
        Ok(())
    } else {
        Err(Refusal::NotOpen(id))
    }
}

fn check(asked: &Asked) -> Result<(), Refusal> {
    let out = |problem: String| Err(Refusal::Range(problem));
    if asked.a == asked.b {
        return out(format!(
            "both arms are version {}; name two versions",
            asked.a
        ));
    }
    if !(0.1..=0.9).contains(&asked.share) {
        return out(format!(
            "a share of {} for B must be 0.1 to 0.9",
            asked.share
        ));
    }
    if !(1..=MOST_DAYS).contains(&asked.days) {
        return out(format!("{} days must be 1 to {MOST_DAYS}", asked.days));
    }
    if !(0..=asked.days * 12).contains(&asked.settle_hours) {
        let most = asked.days * 12;
        return out(format!(
            "{} hours to settle must be 0 to {most}, half of its time",
            asked.settle_hours
        ));
    }
    if asked.sensor.as_deref().is_some_and(|s| s.trim().is_empty()) {
        return out("the sensor's name is empty; name one, or leave it out".to_owned());
    }
    Ok(())
}

fn comparable(a: &ModelVersionRow, b: &ModelVersionRow) -> bool {
    let spec = serde_json::from_value::<ForecasterSpec>(b.manifest["forecaster"].clone());
    spec.is_ok_and(|spec| kind_of(Some(&a.manifest), &spec, false) != Kind::Incomparable)
}

async fn foresee(
    store: &Store,
    asked: &Asked,
    labels: &serde_json::Value,
) -> Result<Foreseen, StoreError> {
    let fit = store.candidates(0, labels, LOOKED_AT).await?;
    let now = crate::clock::now();
    let names: Vec<&str> = fit.iter().map(|d| d.device.as_str()).collect();
    let span = Span {
        forecaster: &asked.forecaster,
        sensor: asked.sensor.as_deref(),
        before_hours: before_hours(asked.days),
        settle_hours: 0,
        until: now,
    };
    let joined = vec![now; names.len()];
    let rows = store.measure(&span, (&names, &joined)).await?;
    let before = scaled(&rows, asked.sensor.is_some());
    let before = Summary::of(before.into_iter().filter_map(|(_, before)| before));
    Ok(foreseen(asked, names.len(), before))
}

/// What can be expected of so many devices that were like this before.
#[must_use]
pub fn foreseen(asked: &Asked, devices: usize, before: Summary) -> Foreseen {
    let in_b = (devices as f64 * asked.share).round() as usize;
    let arms = (devices - in_b.min(devices), in_b);
    let known = Some(before).filter(|b| b.devices > 1);
    let detectable = known.and_then(|b| detectable(b.deviation, arms, LEVEL, POWER));
    let relative = known.zip(detectable).map(|(b, d)| d / b.mean.abs());
    let relative = relative.filter(|r| r.is_finite());
    let mut warnings = Vec::new();
    if arms.0.min(arms.1) < FEW {
        warnings.push(format!(
            "{devices} devices fit, about {} for A and {} for B: with fewer than {FEW} in an arm only large effects show; let more \
             devices join",
            arms.0, arms.1
        ));
    }
    if known.is_none() {
        warnings.push(format!(
            "{}: not known of two devices before they join, so nobody can say which effect would show, and their past is not \
             taken out; check the sensor's name, or wait for data",
            measure(asked.sensor.as_deref())
        ));
    }
    if let Some(relative) = relative.filter(|r| *r > COARSE) {
        warnings.push(format!(
            "only a difference of {:.0} % or more of the mean is likely to be found; let more devices join",
            100.0 * relative
        ));
    }
    Foreseen {
        devices,
        before: known,
        detectable,
        relative,
        warnings,
    }
}
