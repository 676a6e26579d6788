//! Drives experiments: owns the way from the database through the machine and back, never a decision.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use chrono::{DateTime, Utc};
use fieldcast_drift::arms::Arm;
use fieldcast_store::Store;
use fieldcast_store::decisions::NewDecision;
use fieldcast_store::desired::NewOrder;
use fieldcast_store::experiments::{ExperimentRow, HeardRow, LockedExperiment, NewMember};
use fieldcast_store::time::timestamp;
use fieldcast_wire::Sha256;
use serde_json::json;
use tokio::task::JoinSet;

use super::machine::{Event, Experiment, Order, step};
use super::{report, rows};
use crate::rollout::driver::{Driver, OVERLAP};
use crate::rollout::orders::{Model, Order as Signed};
use crate::rollout::plan::Mode;
use crate::rollout::rows::{floor_of, report_of, reported};

/// What one round leaves to the next.
#[derive(Debug, Default)]
pub struct Seen {
    /// When the newest state came that has been taken in, by experiment.
    heard: BTreeMap<i64, DateTime<Utc>>,
    /// The one report that is being made: it reads for minutes, while orders and rollouts move on. Given up with this.
    report: JoinSet<Result<()>>,
}

impl Seen {
    /// Makes the report of an experiment that has ended, where none is being made; an error is that of the one before.
    fn report(&mut self, store: &Store, row: &ExperimentRow) -> Result<()> {
        self.heard.remove(&row.id);
        match self.report.try_join_next() {
            // The row may have been read before this report was kept: the next round looks again.
            Some(done) => return done.context("make a report")?,
            None if self.report.is_empty() => {
                let (store, id) = (store.clone(), row.id);
                self.report.spawn(async move {
                    let Some((row, members)) = store.experiment(id).await? else {
                        return Ok(());
                    };
                    let report = report::of(&store, &row, &members).await;
                    let report = report.with_context(|| format!("report on experiment {id}"))?;
                    Ok(store.keep_report(id, &report).await?)
                });
            }
            None => {}
        }
        Ok(())
    }
}

/// What is new of an experiment.
struct News {
    floor: u64,
    said: Vec<HeardRow>,
    fit: Vec<HeardRow>,
    bundles: [Sha256; 2],
}

/// Moves one experiment, or has its report made once it has ended. Devices whose
/// generation is not believed are put into `far`.
///
/// # Errors
/// The database, or rows that a newer hub wrote.
pub async fn advance(
    driver: &Driver,
    row: &ExperimentRow,
    kept: &mut Seen,
    far: &mut BTreeSet<String>,
) -> Result<()> {
    let store = &driver.store;
    if row.finished_at.is_some() {
        kept.report(store, row)?;
        return Ok(());
    }
    let forecaster = row.forecaster.as_str();
    let mut models = Vec::new();
    for version in [row.version_a, row.version_b] {
        let model = store.model_version(forecaster, version).await?;
        models.push(model.with_context(|| format!("version {version} of {forecaster} is gone"))?);
    }
    let [a, b] = models.as_slice() else {
        return Ok(());
    };
    let members = store
        .experiment(row.id)
        .await?
        .map_or_else(Vec::new, |e| e.1);
    let mut seen = rows::read(row, &members)?;
    let now = row.now.timestamp_millis();
    let fits = seen.joins(now);
    let since = kept.heard.get(&row.id).map(|at| *at - OVERLAP);
    let news = News {
        floor: floor_of(store.forecaster(forecaster).await?.as_ref()),
        said: match seen.status.holds() {
            true => store.heard_of(row.id, since).await?,
            false => Vec::new(),
        },
        fit: match fits {
            true => {
                store
                    .candidates(row.id, &json!(row.labels), AT_ONCE)
                    .await?
            }
            false => Vec::new(),
        },
        bundles: [digest(&a.bundle)?, digest(&b.bundle)?],
    };
    let newest = news.said.iter().map(|s| s.received_at).max();
    if !news.fit.is_empty() {
        seen.generation = u64::try_from(store.highest_generation(forecaster).await?)?;
    }
    // Looked at without the lock: mostly there is nothing to do.
    let before = seen.clone();
    apply(&mut seen, row, &news, now);
    if seen.joins(now) {
        let fit = news.fit.iter().map(|f| &f.device);
        far.extend(fit.filter(|d| !seen.members.contains_key(*d)).cloned());
    }
    if seen != before {
        let Some(locked) = store.lock_experiment(row.id).await? else {
            return Ok(());
        };
        act(driver, locked, &news, (&Model::of(a)?, &Model::of(b)?)).await?;
        kept.heard.extend(newest.map(|at| (row.id, at)));
        return Ok(());
    }
    kept.heard.extend(newest.map(|at| (row.id, at)));
    Ok(())
}

/// Devices that join at once.
const AT_ONCE: i64 = 1_000;

fn digest(hex: &str) -> Result<Sha256> {
    Sha256::from_hex(hex).context("the bundle's digest is malformed")
}

/// All that is new, in the order in which it counts.
fn apply(e: &mut Experiment, row: &ExperimentRow, news: &News, now: i64) -> Vec<Order> {
    let stop = row.stop_by.clone().map(|who| {
        let why = row.stop_reason.clone().unwrap_or_default();
        Event::Stop(who, why)
    });
    let state = |heard: &HeardRow| reported(Some(&heard.raw), &row.forecaster);
    let reports = news.said.iter().filter_map(|heard| {
        let arm = e.members.get(&heard.device)?.arm;
        let bundle = &news.bundles[usize::from(arm == Arm::B)];
        Some((heard.device.clone(), report_of(true, state(heard), bundle)))
    });
    let reports = Event::Reports(reports.collect());
    let fit = news.fit.iter().map(|heard| {
        let known = state(heard).map_or(0, |f| f.generation);
        (heard.device.clone(), known)
    });
    let fit = Event::Fit(fit.collect());
    let events = [Event::Floor(news.floor), reports, Event::Tick, fit];
    let events = stop.into_iter().chain(events);
    events.flat_map(|event| step(e, event, now)).collect()
}

/// Does under the lock what is to be done.
async fn act(
    driver: &Driver,
    mut locked: LockedExperiment,
    news: &News,
    (a, b): (&Model<'_>, &Model<'_>),
) -> Result<()> {
    let row = locked.row.clone();
    let before = rows::read(&row, &locked.members)?;
    let mut e = before.clone();
    e.generation = u64::try_from(locked.highest)?;
    let orders = apply(&mut e, &row, news, row.now.timestamp_millis());
    let moved = e.members.iter();
    let moved = moved.filter(|(name, m)| before.members.get(*name) != Some(*m));
    let mut members = Vec::new();
    for (device, member) in moved {
        members.push(NewMember {
            device,
            arm: rows::letter(member.arm),
            generation: i64::try_from(member.generation)?,
            state: member.state.as_str(),
            reason: &member.reason,
        });
    }
    locked.put_members(&members).await?;
    // Orders are dated by the hub's clock, like all others.
    let (writer, at) = (driver.writer(), crate::clock::now());
    let mut signed = Vec::new();
    for order in &orders {
        let model = if order.arm == Arm::B { b } else { a };
        signed.push(writer.order(&order.device, model, Mode::Active, order.generation, at)?);
    }
    let new: Vec<NewOrder<'_>> = signed.iter().map(Signed::as_new).collect();
    let stored = locked.order(&new).await?;
    ensure!(
        stored == new.len() as u64,
        "only {stored} of {} orders are above what stands for their devices; this is a defect: keep the log and report it",
        new.len()
    );
    let by = format!("experiment {}", row.id);
    let reason = format!("{}: {}", e.status.as_str(), e.reason);
    let decision = NewDecision {
        forecaster: &row.forecaster,
        decision: "experiment",
        reason: &reason,
        decided_by: &by,
        ..NewDecision::default()
    };
    let decision = (e.status.is_final() && !before.status.is_final()).then_some(&decision);
    let (status, times) = (
        e.status,
        (e.started_at.map(timestamp), e.ends_at.map(timestamp)),
    );
    let ended = status.is_final();
    locked
        .save((status.as_str(), &e.reason), times, ended, decision)
        .await?;
    locked.commit().await?;
    if status != before.status {
        let (status, reason) = (status.as_str(), e.reason);
        tracing::info!(
            experiment = row.id,
            row.forecaster,
            status,
            reason,
            "experiment"
        );
    }
    Ok(())
}
