//! Drives rollouts: owns the loop that feeds the machine from the database and carries out its actions, never a decision.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use chrono::{DateTime, Utc};
use fieldcast_features::ForecasterSpec;
use fieldcast_store::desired::NewOrder;
use fieldcast_store::model_versions::ModelVersionRow;
use fieldcast_store::rollouts::{LockedRollout, NewRollout, RolloutRow};
use fieldcast_store::{Store, StoreError};
use fieldcast_wire::{DeviceId, Sha256, SiteId, message, pb};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::machine::{
    Action, Deployment, DeviceState, Event, Operator, Report, Rollout, Status, connected, step,
};
use super::plan::{Mode, Plan};
use crate::downlink::Downlink;
use crate::signing::Signer;

const EVERY: Duration = Duration::from_secs(1);
/// How long an order may be obeyed.
const ORDER_DAYS: i64 = 90;
/// An order outside a rollout is given anew so long before it expires: a device that was away longer still finds one.
const RENEW_DAYS: i64 = 7;

/// How long one round may publish; what is left is for the next one.
const PUBLISH_FOR: Duration = Duration::from_secs(30);

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

/// What one round leaves to the next.
#[derive(Debug, Default)]
pub struct Rounds {
    /// Devices whose orders are stored and not yet published.
    pub unpublished: BTreeSet<String>,
    /// What fails, by what it is, so that it is said once and not every second.
    failing: BTreeMap<String, String>,
}

impl Rounds {
    /// Takes in what one part of the round did: an error ends that part only.
    fn took<T>(&mut self, what: &str, done: Result<T>) -> Option<T> {
        match done {
            Ok(done) => {
                self.failing.remove(what);
                Some(done)
            }
            Err(e) => {
                let said = format!("{e:#}");
                if self.failing.get(what) != Some(&said) {
                    tracing::warn!("{what}: {said}");
                    self.failing.insert(what.to_owned(), said);
                }
                None
            }
        }
    }
}

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
    // The database's own highest generation is taken under the lock under which orders are given.
    let reports = fleet
        .iter()
        .filter_map(|d| reported(d.raw.as_deref(), forecaster));
    let highest = reports.map(|r| r.generation).max().unwrap_or(0);
    let devices = fleet
        .iter()
        .map(|d| (d.device.clone(), bucket(forecaster, version, &d.device)));
    let (machine, devices) = encode(&Rollout::new(plan, devices, highest));
    Ok(NewRollout {
        forecaster,
        model_version: version,
        machine,
        devices,
        by: by.to_owned(),
    })
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
) -> Result<i64, StoreError> {
    let rollout = prepare(store, forecaster, version, plan, by).await?;
    store.create_rollout(&rollout).await
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

fn reported(raw: Option<&[u8]>, forecaster: &str) -> Option<pb::ForecasterState> {
    let state: pb::State = message::decode("state", raw?).ok()?;
    state
        .forecasters
        .into_iter()
        .find(|f| f.forecaster == forecaster)
}

fn report_of(
    online: bool,
    state: Option<pb::ForecasterState>,
    bundle: &Sha256,
    previous: Option<&ModelVersionRow>,
) -> Report {
    let Some(f) = state else {
        return Report {
            online,
            generation: 0,
            phase: DeviceState::Pending,
            runs_new: false,
            back: false,
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
        online,
        generation: f.generation,
        phase,
        runs_new,
        back: !runs_new || previous.is_some_and(|p| p.bundle == bundle.to_string()),
        reason: f.reason,
    }
}

impl Driver {
    /// Drives until cancelled.
    pub async fn run(&self, cancel: CancellationToken) {
        let mut rounds = Rounds::default();
        while !cancel.is_cancelled() {
            self.tick(&mut rounds).await;
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    /// One round over all open rollouts, all late joiners and all orders not yet published. What fails is logged, keeps
    /// nothing else from being done, and is tried again in the next round.
    pub async fn tick(&self, rounds: &mut Rounds) {
        let open = self.store.open_rollouts().await;
        let open = rounds.took("list open rollouts", open.map_err(Into::into));
        for row in open.unwrap_or_default() {
            let done = self.advance(&row).await;
            let changed = rounds.took(&format!("move rollout {}", row.id), done);
            rounds.unpublished.extend(changed.unwrap_or_default());
        }
        let forecasters = self.store.forecasters().await;
        let forecasters = rounds.took("list forecasters", forecasters.map_err(Into::into));
        for forecaster in forecasters.unwrap_or_default() {
            let done = self.welcome(&forecaster.spec).await;
            let changed = rounds.took(&format!("order the champion of {}", forecaster.name), done);
            rounds.unpublished.extend(changed.unwrap_or_default());
        }
        // A broker that takes nothing must not keep rollouts from moving.
        let _ = tokio::time::timeout(PUBLISH_FOR, self.publish(rounds)).await;
    }

    async fn publish(&self, rounds: &mut Rounds) {
        for device in rounds.unpublished.clone() {
            if !self.downlink.connected() {
                return;
            }
            let done = self.publish_to(&device).await;
            let what = format!("publish the orders of {device}");
            if rounds.took(&what, done).is_some() {
                rounds.unpublished.remove(&device);
            }
        }
    }

    async fn publish_to(&self, device: &str) -> Result<()> {
        self.downlink.refresh_desired(&DeviceId::new(device)?).await
    }

    async fn advance(&self, row: &RolloutRow) -> Result<BTreeSet<String>> {
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
        rollout.generation = rollout.generation.max(u64::try_from(locked.highest)?);
        for device in &fleet {
            connected(&mut rollout, &device.device, device.online);
        }
        let now = crate::clock::now();
        let at = now.timestamp_millis();
        let mut actions = Vec::new();
        if let Some(newer) = locked.newer {
            actions.extend(step(
                &mut rollout,
                Event::NewerRollout(u64::try_from(newer).unwrap_or(0)),
                at,
            ));
        }
        for device in fleet
            .iter()
            .filter(|d| before.devices.contains_key(&d.device))
        {
            let state = reported(device.raw.as_deref(), forecaster);
            let report = report_of(device.online, state, &bundle, previous.as_ref());
            actions.extend(step(
                &mut rollout,
                Event::Report(device.device.clone(), report),
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
                    let order = self.order(device, Model::of(&target)?, *mode, *generation, now)?;
                    self.give(&mut locked, order).await?;
                    changed.insert(device.clone());
                }
                Action::OrderBack { device, generation } => {
                    let model = previous.as_ref().map(Model::of).transpose()?;
                    let model = model.unwrap_or(Model::none(forecaster));
                    let order = self.order(device, model, Mode::Active, *generation, now)?;
                    self.give(&mut locked, order).await?;
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

    async fn give(&self, locked: &mut LockedRollout, order: Order<'_>) -> Result<()> {
        let stored = locked.order(&order.as_new()).await?;
        anyhow::ensure!(
            stored,
            "an order of at least generation {} stands for {}; this is a defect: keep the log and report it",
            order.generation,
            order.device
        );
        Ok(())
    }

    /// Devices that the forecaster selects get the champion where they are ordered something else, nothing yet, or
    /// something that soon expires. Without a champion, those that are ordered a model are ordered to run none.
    async fn welcome(&self, spec: &ForecasterSpec) -> Result<BTreeSet<String>> {
        let mut changed = BTreeSet::new();
        let labels = json!(spec.selector.labels);
        let now = crate::clock::now();
        let renew = now + chrono::Duration::days(RENEW_DAYS);
        if self
            .store
            .late_devices(&spec.name, &labels, renew)
            .await?
            .is_empty()
        {
            return Ok(changed);
        }
        let mut orders = self.store.lock_orders(&spec.name).await?;
        let champion = self.store.champion(&spec.name).await?;
        let database = u64::try_from(orders.highest)?;
        for device in orders.late_devices(&labels, renew).await? {
            let known = reported(device.raw.as_deref(), &spec.name).map_or(0, |f| f.generation);
            let generation = database.max(known) + 1;
            let model = champion.as_ref().map(Model::of).transpose()?;
            let model = model.unwrap_or(Model::none(&spec.name));
            let order = self.order(&device.device, model, Mode::Active, generation, now)?;
            orders.put(&order.as_new()).await?;
            changed.insert(device.device.clone());
        }
        orders.commit().await?;
        Ok(changed)
    }

    fn order<'a>(
        &self,
        device: &'a str,
        model: Model<'a>,
        mode: Mode,
        generation: u64,
        now: DateTime<Utc>,
    ) -> Result<Order<'a>> {
        let expires = now + chrono::Duration::days(ORDER_DAYS);
        let order = pb::Order {
            site: self.site.as_str().to_owned(),
            device: device.to_owned(),
            forecaster: model.forecaster.to_owned(),
            bundle: model.bundle.clone(),
            bundle_size: u64::try_from(model.size)?,
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
            device,
            model,
            stage,
            generation: i64::try_from(generation)?,
            expires,
            signed,
        })
    }
}

/// What a device is ordered to run.
struct Model<'a> {
    forecaster: &'a str,
    version: i64,
    bundle: Vec<u8>,
    size: i64,
}

impl<'a> Model<'a> {
    fn of(row: &'a ModelVersionRow) -> Result<Self> {
        let bundle = Sha256::from_hex(&row.bundle).context("the bundle's digest is malformed")?;
        Ok(Self {
            forecaster: &row.forecaster,
            version: row.version,
            bundle: bundle.to_vec(),
            size: row.bundle_size,
        })
    }

    /// No model: the device goes back to its own baseline. To order nothing would leave it running what it has.
    fn none(forecaster: &'a str) -> Self {
        Self {
            forecaster,
            version: 0,
            bundle: Vec::new(),
            size: 0,
        }
    }
}

struct Order<'a> {
    device: &'a str,
    model: Model<'a>,
    stage: &'static str,
    generation: i64,
    expires: DateTime<Utc>,
    signed: Vec<u8>,
}

impl Order<'_> {
    fn as_new(&self) -> NewOrder<'_> {
        NewOrder {
            device: self.device,
            forecaster: self.model.forecaster,
            bundle: &self.model.bundle,
            model_version: self.model.version,
            stage: self.stage,
            generation: self.generation,
            expires_at: self.expires,
            signed: &self.signed,
        }
    }
}
