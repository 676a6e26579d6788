//! Rollouts as rows and devices' messages as reports: owns the translation both ways, never a decision.

use anyhow::{Context as _, Result};
use fieldcast_features::ForecasterSpec;
use fieldcast_store::forecasters::ForecasterRow;
use fieldcast_store::rollouts::{DeploymentRow, FleetRow, NewRollout, RolloutRow};
use fieldcast_store::{Store, StoreError};
use fieldcast_wire::{Sha256, message, pb};
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::devices::Devices;
use super::machine::{Deployment, DeviceState, Evidence, Report, Rollout};
use super::plan::{Member, Plan};
use super::policy::{Kind, Policy};

/// A rollout of a model version to the devices that its forecaster selects and that may connect, ready to be stored.
///
/// # Errors
/// The database.
pub async fn prepare<'a>(
    store: &Store,
    forecaster: &'a str,
    version: i64,
    plan: Plan,
    by: &str,
) -> Result<NewRollout<'a>, StoreError> {
    let labels = store
        .forecaster(forecaster)
        .await?
        .map_or_else(|| json!({}), |f| json!(f.spec.selector.labels));
    let mut fleet = store.fleet(&labels, forecaster).await?;
    fleet.retain(|d| d.may_connect);
    let members = members(forecaster, version, &fleet);
    let number = u64::try_from(version).unwrap_or(0);
    // The database's highest generation is taken under the lock under which orders are given, what devices know in each round.
    let rollout = Rollout::new(plan, number, &members, 0);
    let devices = rollout.devices.iter();
    Ok(NewRollout {
        forecaster,
        model_version: version,
        machine: json!(rollout),
        devices: devices.map(|(name, d)| (name.clone(), json!(d))).collect(),
        by: by.to_owned(),
    })
}

/// How new models of a forecaster reach devices, as it was applied.
///
/// # Errors
/// A policy that a newer hub wrote.
pub fn policy_of(forecaster: &ForecasterRow) -> Result<Policy> {
    serde_json::from_value(forecaster.rollout.clone()).with_context(|| {
        format!(
            "read how models of {} are rolled out; apply its definition again",
            forecaster.name
        )
    })
}

/// What a rollout knows of the new model beside the old one, where it has been compared.
#[must_use]
pub fn evidence_of(row: &RolloutRow) -> Option<Evidence> {
    serde_json::from_value(row.machine["evidence"].clone()).ok()
}

/// Where a rollout stands among its stages, in words.
#[must_use]
pub fn stage_of(row: &RolloutRow) -> Option<String> {
    let plan: Plan = serde_json::from_value(row.machine["plan"].clone()).ok()?;
    let stage = usize::try_from(row.machine["stage"].as_u64()?).ok()?;
    let name = &plan.stages.get(stage)?.name;
    Some(format!(
        "stage {} of {}: {name}",
        stage + 1,
        plan.stages.len()
    ))
}

/// The lowest version of a forecaster's models that devices may run, as its definition states it; 0: any.
#[must_use]
pub fn floor_of(forecaster: Option<&ForecasterRow>) -> u64 {
    forecaster
        .and_then(|f| f.rollout["floor"].as_u64())
        .unwrap_or(0)
}

/// What a new model is beside the one that runs, whose definition is in its manifest. `failing`: that one's errors have grown.
#[must_use]
pub fn kind_of(champion: Option<&Value>, spec: &ForecasterSpec, failing: bool) -> Kind {
    let Some(manifest) = champion else {
        return Kind::First;
    };
    match serde_json::from_value::<ForecasterSpec>(manifest["forecaster"].clone()) {
        Ok(old)
            if old.target == spec.target
                && old.period_ms() == spec.period_ms()
                && old.horizon == spec.horizon =>
        {
            if failing {
                Kind::Successor
            } else {
                Kind::Challenger
            }
        }
        _ => Kind::Incomparable,
    }
}

fn members(forecaster: &str, version: i64, fleet: &[FleetRow]) -> Vec<Member> {
    let one = |d: &FleetRow| Member {
        device: d.device.clone(),
        rank: rank(forecaster, version, &d.device),
        labels: d.labels.clone(),
    };
    fleet.iter().map(one).collect()
}

/// The same for a device throughout one rollout and unlike its place in another.
fn rank(forecaster: &str, version: i64, device: &str) -> u32 {
    let digest = Sha256::of(format!("{forecaster}/{version}/{device}").as_bytes());
    u32::from_le_bytes([digest.0[0], digest.0[1], digest.0[2], digest.0[3]])
}

/// A rollout as its rows have it.
///
/// # Errors
/// A state that a newer hub wrote.
pub fn read(row: &RolloutRow, deployments: &[DeploymentRow]) -> Result<Rollout> {
    let mut rollout: Rollout =
        serde_json::from_value(row.machine.clone()).context("read the rollout's state")?;
    rollout.version = u64::try_from(row.model_version)?;
    rollout.previous = row.previous_version.map(u64::try_from).transpose()?;
    let device = |row: &DeploymentRow| {
        let device = Deployment::deserialize(&row.machine).context("read a deployment's state")?;
        Ok((row.device.clone(), device))
    };
    let stored: Result<Devices> = deployments.iter().map(device).collect();
    rollout.devices = stored?;
    Ok(rollout)
}

pub(super) fn decode(
    row: &RolloutRow,
    deployments: &[DeploymentRow],
    fleet: &[FleetRow],
) -> Result<Rollout> {
    let mut rollout = read(row, deployments)?;
    if rollout.devices.values().all(|d| d.stages.is_empty()) {
        // Begun by a hub that kept no stages with devices.
        let mut there = members(&row.forecaster, row.model_version, fleet);
        there.retain(|m| rollout.devices.contains_key(&m.device));
        for (member, stages) in there.iter().zip(rollout.plan.membership(&there)) {
            if let Some(d) = rollout.devices.get_mut(&member.device) {
                d.stages = stages;
            }
        }
    }
    Ok(rollout)
}

pub(crate) fn reported(raw: Option<&[u8]>, forecaster: &str) -> Option<pb::ForecasterState> {
    let state: pb::State = message::decode("state", raw?).ok()?;
    state
        .forecasters
        .into_iter()
        .find(|f| f.forecaster == forecaster)
}

pub(crate) fn report_of(
    online: bool,
    state: Option<pb::ForecasterState>,
    bundle: &Sha256,
) -> Report {
    let Some(f) = state else {
        return Report {
            online,
            generation: 0,
            phase: DeviceState::Pending,
            runs_new: false,
            version: 0,
            reason: String::new(),
        };
    };
    let phase = match f.phase() {
        pb::ModelPhase::None => DeviceState::Pending,
        pb::ModelPhase::Downloading => DeviceState::Downloading,
        pb::ModelPhase::Verified => DeviceState::Verified,
        pb::ModelPhase::Shadowing => DeviceState::Shadowing,
        pb::ModelPhase::Active => DeviceState::Active,
        pb::ModelPhase::Healthy => DeviceState::Healthy,
        pb::ModelPhase::Rejected => DeviceState::Rejected,
        pb::ModelPhase::RolledBack => DeviceState::RolledBack,
        pb::ModelPhase::Failed => DeviceState::Failed,
    };
    Report {
        online,
        generation: f.generation,
        phase,
        runs_new: Sha256::from_slice(&f.running).as_ref() == Some(bundle),
        version: if f.running.is_empty() {
            0
        } else {
            f.model_version
        },
        reason: f.reason,
    }
}
