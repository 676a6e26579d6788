//! What an open rollout waits for: owns the words and numbers shown to people, never a gate or a transition.

use anyhow::Result;
use fieldcast_store::Store;
use fieldcast_store::rollouts::{DeploymentRow, RolloutRow};
use serde::Serialize;

use super::judge::{self, Counts};
use super::machine::{DeviceState, Rollout, Status};
use super::plan::{Need, Stage};
use super::rows;
use super::state::Evidence;

/// One rollout at a glance.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Overview {
    /// Number.
    pub rollout: i64,
    /// Forecaster.
    pub forecaster: String,
    /// Version that is rolled out.
    pub version: i64,
    /// What devices go back to; none: no model.
    pub previous: Option<i64>,
    /// State of the machine.
    pub status: &'static str,
    /// Why, in words.
    pub reason: String,
    /// Where it stands among its stages, in words.
    pub stage: Option<String>,
    /// What must happen next, in words.
    pub waits_for: String,
    /// Devices of the current stage.
    pub devices: Counts,
    /// How the new model does beside the old one, in numbers.
    pub evidence: Option<Evidence>,
}

impl Overview {
    /// Nothing leads on from here.
    #[must_use]
    pub fn ended(&self) -> bool {
        ["succeeded", "rolled_back", "superseded"].contains(&self.status)
    }
}

impl std::fmt::Display for Overview {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "rollout {}: {} version {}: {}",
            self.rollout, self.forecaster, self.version, self.status
        )?;
        if let Some(stage) = &self.stage {
            write!(f, ", {stage}")?;
        }
        let c = self.devices;
        write!(
            f,
            " ({} passed, {} failed, {} open, {} offline of {}); ",
            c.passed, c.failed, c.open, c.offline, c.members
        )?;
        if self.ended() {
            f.write_str(&self.reason)?;
        } else {
            write!(f, "waits for {}", self.waits_for)?;
        }
        match &self.evidence {
            Some(evidence) => write!(f, "; {evidence}"),
            None => Ok(()),
        }
    }
}

/// A rollout and its devices at process time `now`.
///
/// # Errors
/// A state that a newer hub wrote.
pub fn overview(row: &RolloutRow, devices: &[DeploymentRow], now: i64) -> Result<Overview> {
    let r = rows::read(row, devices)?;
    Ok(Overview {
        rollout: row.id,
        forecaster: row.forecaster.clone(),
        version: row.model_version,
        previous: row.previous_version,
        status: r.status.as_str(),
        reason: r.reason.clone(),
        stage: rows::stage_of(row),
        waits_for: waits_for(&r, row.id, now),
        devices: judge::counts(&r),
        evidence: r.evidence.clone(),
    })
}

/// Every open rollout, oldest first.
///
/// # Errors
/// The database, or a state that a newer hub wrote.
pub async fn open(store: &Store, now: i64) -> Result<Vec<Overview>> {
    let mut all = Vec::new();
    for row in store.open_rollouts().await? {
        // It may end between the two questions.
        if let Some((row, devices)) = store.rollout(row.id).await? {
            all.push(overview(&row, &devices, now)?);
        }
    }
    Ok(all)
}

/// What must happen before the rollout goes on.
#[must_use]
pub fn waits_for(r: &Rollout, id: i64, now: i64) -> String {
    if now < r.hears_from && matches!(r.status, Status::Running | Status::RollingBack) {
        return "devices to be heard anew: a hub that leads must be connected to the broker".into();
    }
    match r.status {
        Status::Awaiting => {
            format!(
                "a person: `rollout approve {id}` begins the next stage, `rollout abort {id}` goes back"
            )
        }
        Status::Paused => format!("a person: `rollout resume {id}` or `rollout abort {id}`"),
        Status::RollingBack => going_back(r),
        Status::Running => match (r.current(), r.since) {
            (Some(stage), Some(since)) => running(r, stage, since, now),
            _ => match r.behind {
                Some(older) => {
                    format!("the devices of rollout {older} to run the champion again")
                }
                None => "the hub (`serve`) to begin the stage".into(),
            },
        },
        Status::Succeeded | Status::RolledBack | Status::Superseded => {
            "nothing: it has ended".into()
        }
    }
}

fn going_back(r: &Rollout) -> String {
    let ordered = r
        .devices
        .values()
        .filter(|d| d.generation > 0 && d.state != DeviceState::Superseded);
    let (mut all, mut back, mut away) = (0, 0, 0);
    for d in ordered {
        all += 1;
        back += usize::from(d.back);
        away += usize::from(!d.back && !d.online);
    }
    format!("{all} devices to go back: {back} have, {away} are offline and not waited for")
}

fn running(r: &Rollout, stage: &Stage, since: i64, now: i64) -> String {
    let c = judge::counts(r);
    let left = (since.saturating_add(stage.deadline_ms) - now).max(0);
    let mut waits = Vec::new();
    if c.open > 0 {
        waits.push(format!("{} connected devices to settle", c.open));
    }
    if c.offline > 0 && left > 0 {
        waits.push(format!(
            "{} offline devices, for another {}",
            c.offline,
            span(left)
        ));
    }
    let heard = c.passed + c.failed;
    let needed = (stage.min_online_share * c.members as f64).ceil() as usize;
    if heard < needed {
        waits.push(format!("{needed} devices heard, {heard} are"));
    }
    if let Some(proof) = judge::proof(r) {
        let none = Evidence::default();
        let e = r.evidence.as_ref().unwrap_or(&none);
        match proof.need {
            _ if judge::shown(proof, e) => {}
            Need::NotHarmful if e.blocks < proof.min_blocks => waits.push(format!(
                "evidence that it is not worse, {} of {} blocks",
                e.blocks, proof.min_blocks
            )),
            Need::NotHarmful => waits.push(format!(
                "evidence that it is rather better than worse, {} of at most {} blocks",
                e.blocks, proof.max_blocks
            )),
            _ => waits.push(format!(
                "evidence that it is better, {} of at most {} blocks",
                e.blocks, proof.max_blocks
            )),
        }
    }
    match r.passed_since {
        Some(passed) if waits.is_empty() => {
            let left = (passed.saturating_add(stage.soak_ms) - now).max(0);
            waits.push(format!("the soak time, another {}", span(left)));
        }
        _ if waits.is_empty() => waits.push("the hub (`serve`) to look again".into()),
        _ => {}
    }
    waits.join("; ")
}

fn span(ms: i64) -> String {
    match ms / 60_000 {
        0 => format!("{} s", ms.div_euclid(1_000)),
        minutes @ 1..=119 => format!("{minutes} min"),
        minutes => format!("{} h", minutes / 60),
    }
}

#[cfg(test)]
#[path = "overview_tests.rs"]
mod tests;
