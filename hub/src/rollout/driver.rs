//! Drives rollouts: owns the loop that feeds the machine from the database and carries out its actions, never a decision.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use chrono::{DateTime, Utc};
use fieldcast_features::ForecasterSpec;
use fieldcast_store::Store;
use fieldcast_store::model_versions::ModelVersionRow;
use fieldcast_store::rollouts::{FleetRow, LockedRollout, NewOrder, RolloutRow};
use fieldcast_wire::{DeviceId, Sha256, SiteId, message, pb};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::machine::{
    Action, Deployment, DeviceState, Event, Operator, Report, Rollout, Status, step,
};
use super::plan::{Mode, Plan};
use crate::downlink::Downlink;
use crate::signing::Signer;

const EVERY: Duration = Duration::from_secs(1);
/// How long an order may be obeyed; the driver renews none, a device that was away longer gets the champion anew.
const ORDER_DAYS: i64 = 90;

/// Moves every open rollout once a second, and gives late joiners the champion.
#[derive(Debug, Clone)]
pub struct Driver {
    /// The database.
    pub store: Store,
    /// Signs orders.
    pub signer: Arc<Signer>,
    /// Publishes them after COMMIT.
    pub downlink: Downlink,
    /// Named in every order.
    pub site: SiteId,
}

/// Creates a rollout of a model version to the devices that its forecaster selects.
///
/// # Errors
/// The database.
pub async fn start(
    store: &Store,
    forecaster: &str,
    version: i64,
    plan: Plan,
    by: &str,
) -> Result<i64, fieldcast_store::StoreError> {
    let labels = store
        .forecaster(forecaster)
        .await?
        .map_or_else(|| json!({}), |f| json!(f.spec.selector.labels));
    let fleet = store.fleet(&labels, forecaster).await?;
    let mut highest = u64::try_from(store.highest_generation(forecaster).await?).unwrap_or(0);
    for report in fleet.iter().filter_map(|d| reported(d, forecaster)) {
        highest = highest.max(report.generation);
    }
    let devices = fleet
        .iter()
        .map(|d| (d.device.clone(), bucket(forecaster, version, &d.device)));
    let rollout = Rollout::new(plan, devices, highest);
    let (machine, devices) = encode(&rollout);
    store
        .create_rollout(forecaster, version, &machine, &devices, by)
        .await
}

/// 0..100, the same for a device throughout one rollout and unlike its place in another.
fn bucket(forecaster: &str, version: i64, device: &str) -> u8 {
    let digest = Sha256::of(format!("{forecaster}/{version}/{device}").as_bytes());
    (u32::from_le_bytes([digest.0[0], digest.0[1], digest.0[2], digest.0[3]]) % 100) as u8
}

fn encode(rollout: &Rollout) -> (Value, Vec<(String, Value)>) {
    let devices = rollout
        .devices
        .iter()
        .map(|(name, d)| (name.clone(), json!(d)))
        .collect();
    let mut bare = json!(rollout);
    bare["devices"] = json!({});
    (bare, devices)
}

fn decode(locked: &LockedRollout) -> Result<Rollout> {
    let mut rollout: Rollout =
        serde_json::from_value(locked.row.machine.clone()).context("read the rollout's state")?;
    for row in &locked.deployments {
        let device: Deployment =
            serde_json::from_value(row.machine.clone()).context("read a deployment's state")?;
        rollout.devices.insert(row.device.clone(), device);
    }
    Ok(rollout)
}

fn reported(device: &FleetRow, forecaster: &str) -> Option<pb::ForecasterState> {
    let state: pb::State = message::decode("state", device.raw.as_deref()?).ok()?;
    state
        .forecasters
        .into_iter()
        .find(|f| f.forecaster == forecaster)
}

fn report_of(device: &FleetRow, forecaster: &str, bundle: &Sha256) -> Report {
    let Some(f) = reported(device, forecaster) else {
        return Report {
            online: device.online,
            generation: 0,
            phase: DeviceState::Pending,
            runs_new: false,
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
    let runs_new = Sha256::from_slice(&f.running).as_ref() == Some(bundle);
    Report {
        online: device.online,
        generation: f.generation,
        phase,
        runs_new,
        reason: f.reason,
    }
}

impl Driver {
    /// Drives until cancelled.
    pub async fn run(&self, cancel: CancellationToken) {
        while !cancel.is_cancelled() {
            if let Err(e) = self.tick().await {
                tracing::warn!("rollouts: {e:#}");
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    /// One round over all open rollouts and all late joiners.
    ///
    /// # Errors
    /// The database; what was committed before stays.
    pub async fn tick(&self) -> Result<()> {
        let mut newest: Vec<(String, i64)> = Vec::new();
        let open = self.store.open_rollouts().await?;
        for row in &open {
            newest.retain(|(f, _)| *f != row.forecaster);
            newest.push((row.forecaster.clone(), row.id));
        }
        let mut changed = BTreeSet::new();
        for row in &open {
            let newer = newest
                .iter()
                .find(|(f, id)| *f == row.forecaster && *id > row.id)
                .map(|(_, id)| *id);
            changed.extend(
                self.advance(row, newer)
                    .await
                    .with_context(|| format!("move rollout {}", row.id))?,
            );
        }
        for forecaster in self.store.forecasters().await? {
            if newest.iter().all(|(f, _)| *f != forecaster.name) {
                changed.extend(self.welcome(&forecaster.spec).await?);
            }
        }
        for device in changed {
            // What cannot be published now is published when the connection stands: the database is the truth.
            if let Err(e) = self.downlink.refresh_desired(&DeviceId::new(device)?).await {
                tracing::debug!("orders: {e:#}");
            }
        }
        Ok(())
    }

    async fn advance(&self, row: &RolloutRow, newer: Option<i64>) -> Result<BTreeSet<String>> {
        let mut changed = BTreeSet::new();
        let forecaster = row.forecaster.as_str();
        let Some(target) = self
            .store
            .model_version(forecaster, row.model_version)
            .await?
        else {
            return Ok(changed);
        };
        let previous = match row.previous_version {
            Some(version) => self.store.model_version(forecaster, version).await?,
            None => None,
        };
        let bundle =
            Sha256::from_hex(&target.bundle).context("the bundle's digest is malformed")?;
        let fleet = self.store.fleet(&json!({}), forecaster).await?;
        let Some(mut locked) = self.store.lock_rollout(row.id).await? else {
            return Ok(changed);
        };
        let before = decode(&locked)?;
        let mut rollout = before.clone();
        let now = crate::clock::now();
        let at = now.timestamp_millis();
        let mut actions = Vec::new();
        if let Some(newer) = newer {
            actions.extend(step(
                &mut rollout,
                Event::NewerRollout(u64::try_from(newer).unwrap_or(0)),
                at,
            ));
        }
        for (_, command, who) in &locked.commands {
            let what = match command.as_str() {
                "pause" => Operator::Pause,
                "resume" => Operator::Resume,
                "approve" => Operator::Approve,
                _ => Operator::Abort,
            };
            actions.extend(step(&mut rollout, Event::Operator(what, who.clone()), at));
        }
        for device in fleet
            .iter()
            .filter(|d| before.devices.contains_key(&d.device))
        {
            let report = report_of(device, forecaster, &bundle);
            actions.extend(step(
                &mut rollout,
                Event::Report(device.device.clone(), report),
                at,
            ));
        }
        actions.extend(step(&mut rollout, Event::Tick, at));
        if rollout == before && locked.commands.is_empty() {
            return Ok(changed);
        }
        for action in &actions {
            match action {
                Action::Order {
                    device,
                    mode,
                    generation,
                } => {
                    let order = self.order(device, &target, *mode, *generation, now)?;
                    locked.order(&order.as_new(device, &target)).await?;
                    changed.insert(device.clone());
                }
                Action::OrderBack { device, generation } => {
                    match &previous {
                        Some(champion) => {
                            let order =
                                self.order(device, champion, Mode::Active, *generation, now)?;
                            locked.order(&order.as_new(device, champion)).await?;
                        }
                        None => locked.withdraw(device).await?,
                    }
                    changed.insert(device.clone());
                }
                Action::Promote => locked.promote().await?,
            }
        }
        for (name, device) in &rollout.devices {
            if before.devices.get(name) != Some(device) {
                locked.save_device(name, &json!(device)).await?;
            }
        }
        if rollout.status == Status::RolledBack && previous.is_none() {
            locked.depose().await?;
        }
        let (machine, _) = encode(&rollout);
        locked.save(&machine, rollout.status.is_final()).await?;
        locked.commit().await?;
        if rollout.status != before.status {
            tracing::info!(
                rollout = row.id,
                forecaster,
                status = rollout.status.as_str(),
                reason = rollout.reason,
                "rollout"
            );
        }
        Ok(changed)
    }

    /// Devices that the forecaster selects and that were ordered nothing yet get the champion.
    async fn welcome(&self, spec: &ForecasterSpec) -> Result<BTreeSet<String>> {
        let mut changed = BTreeSet::new();
        let fleet = self
            .store
            .fleet(&json!(spec.selector.labels), &spec.name)
            .await?;
        let late: Vec<&FleetRow> = fleet.iter().filter(|d| d.desired.is_none()).collect();
        if late.is_empty() {
            return Ok(changed);
        }
        let Some(champion) = self.store.champion(&spec.name).await? else {
            return Ok(changed);
        };
        let database = u64::try_from(self.store.highest_generation(&spec.name).await?).unwrap_or(0);
        for device in late {
            let known = reported(device, &spec.name).map_or(0, |f| f.generation);
            let order = self.order(
                &device.device,
                &champion,
                Mode::Active,
                database.max(known) + 1,
                crate::clock::now(),
            )?;
            self.store
                .order_champion(&order.as_new(&device.device, &champion))
                .await?;
            changed.insert(device.device.clone());
        }
        Ok(changed)
    }

    fn order(
        &self,
        device: &str,
        model: &ModelVersionRow,
        mode: Mode,
        generation: u64,
        now: DateTime<Utc>,
    ) -> Result<Order> {
        let bundle = Sha256::from_hex(&model.bundle).context("the bundle's digest is malformed")?;
        let expires = now + chrono::Duration::days(ORDER_DAYS);
        let order = pb::Order {
            site: self.site.as_str().to_owned(),
            device: device.to_owned(),
            forecaster: model.forecaster.clone(),
            bundle: bundle.to_vec(),
            bundle_size: u64::try_from(model.bundle_size)?,
            model_version: u64::try_from(model.version)?,
            stage: match mode {
                Mode::Shadow => pb::Stage::Shadow,
                Mode::Active => pb::Stage::Active,
            } as i32,
            generation,
            attempt: 1,
            expires_ms: expires.timestamp_millis(),
            issued_ms: now.timestamp_millis(),
        };
        let signed = message::encode(&self.signer.sign("order", message::encode(&order)));
        let stage = match mode {
            Mode::Shadow => "shadow",
            Mode::Active => "active",
        };
        Ok(Order {
            bundle,
            stage,
            generation: i64::try_from(generation)?,
            expires,
            signed,
        })
    }
}

struct Order {
    bundle: Sha256,
    stage: &'static str,
    generation: i64,
    expires: DateTime<Utc>,
    signed: Vec<u8>,
}

impl Order {
    fn as_new<'a>(&'a self, device: &'a str, model: &'a ModelVersionRow) -> NewOrder<'a> {
        NewOrder {
            device,
            forecaster: &model.forecaster,
            bundle: &self.bundle.0,
            model_version: model.version,
            stage: self.stage,
            generation: self.generation,
            expires_at: self.expires,
            signed: &self.signed,
        }
    }
}
