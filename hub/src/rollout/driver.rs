//! Drives rollouts: owns the loop that feeds the machine from the database and carries out its actions, never a decision.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use chrono::{DateTime, Utc};
use fieldcast_features::ForecasterSpec;
use fieldcast_store::Store;
use fieldcast_store::desired::{NewOrder, UnpublishedRow};
use fieldcast_store::forecasters::ForecasterRow;
use fieldcast_store::listening::Listening;
use fieldcast_store::model_versions::ModelVersionRow;
use fieldcast_store::rollouts::{FleetRow, LockedRollout, RolloutRow};
use fieldcast_wire::{Sha256, SiteId};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::evidence::{self, Blocks};
use super::judge;
use super::machine::{Action, Event, Operator, Rollout, Status, connected, listening, step};
use super::numbers::next_above;
use super::orders::{Model, Order, Writer};
use super::plan::Mode;
use super::request::Person;
use super::rows::{decode, floor_of, report_of, reported};
use crate::downlink::Downlink;
use crate::experiment::{self, driver::Seen};
use crate::signing::Signer;

const EVERY: Duration = Duration::from_secs(1);
/// An order outside a rollout is given anew so long before it expires: a device that was away longer still finds one.
const RENEW_DAYS: i64 = 7;

/// How long one round may publish; what is left is for the next one.
const PUBLISH_FOR: Duration = Duration::from_secs(30);

/// Moves every open rollout once a second, experiments now and then, and gives late joiners the champion.
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
    /// Whether this hub leads: then it publishes at once what any hub has ordered.
    pub leads: watch::Receiver<bool>,
}

/// Experiments take days: their devices are not looked at every second.
const EXPERIMENTS: Duration = Duration::from_secs(5);
/// So often every device's report is taken in once more, whether it is new or not.
const ANEW: Duration = Duration::from_secs(60);
/// An order that the leader has not published for so many seconds is published by any hub that can: the leader may have lost its broker.
const OVERDUE_SECS: f64 = 10.0;
/// So often the leader says that it hears devices.
const LISTENS: Duration = Duration::from_secs(10);
/// Nobody hears devices where it was not said for so many seconds.
const UNHEARD_SECS: f64 = 60.0;
/// A state that another one's transaction overtook is not missed.
pub(crate) const OVERLAP: chrono::Duration = chrono::Duration::seconds(2);

/// What one round leaves to the next.
#[derive(Debug, Default)]
pub struct Rounds {
    /// Open rollouts as this hub last saw them, by number.
    known: BTreeMap<i64, Known>,
    /// When experiments were looked at last, and what was seen of them.
    experiments: (Option<Instant>, Seen),
    /// Orders that were handed to the connection in the last round. They count as published where it still stands in this one: what was
    /// only handed to it may have died with it.
    told: Vec<UnpublishedRow>,
    /// When this hub said last that devices are heard.
    listened: Option<Instant>,
    /// When devices that strayed from their orders were looked for last.
    strays: Option<Instant>,
    /// What fails, by what it is, so that it is said once and not every second.
    failing: BTreeMap<String, String>,
}

/// A rollout as it is stored, as long as nobody else stores it: thousands of devices are not read every second.
#[derive(Debug)]
struct Known {
    rollout: Rollout,
    updated_at: DateTime<Utc>,
    /// When the newest state came that has been taken in.
    heard: Option<DateTime<Utc>>,
    /// When all devices were read.
    whole: Instant,
}

impl Rounds {
    /// Says once which devices get no order because of the generation that they say they know.
    fn left_out(&mut self, of: &str, far: &BTreeSet<String>) {
        let none = far.is_empty();
        let names = far.iter().take(10).cloned().collect::<Vec<_>>().join(", ");
        let said = anyhow::anyhow!(
            "{} devices ({names}) say they know a generation far above any that was given, and are ordered nothing; \
             set their agents up anew",
            far.len()
        );
        self.took(
            &format!("give orders of {of}"),
            if none { Ok(()) } else { Err(said) },
        );
    }

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
        let heard = self.listen(rounds).await;
        let open = self.store.open_rollouts().await;
        let open = rounds.took("list open rollouts", open.map_err(Into::into));
        let open = open.unwrap_or_default();
        rounds
            .known
            .retain(|id, _| open.iter().any(|r| r.id == *id));
        for row in open {
            let known = rounds.known.remove(&row.id);
            let done = self.advance(&row, known, heard, &mut rounds.known).await;
            rounds.took(&format!("move rollout {}", row.id), done);
        }
        if rounds
            .experiments
            .0
            .is_none_or(|at| at.elapsed() >= EXPERIMENTS)
        {
            self.experiments(rounds).await;
        }
        let stray = rounds.strays.is_none_or(|at| at.elapsed() >= ANEW);
        if stray {
            rounds.strays = Some(Instant::now());
        }
        let forecasters = self.store.forecasters().await;
        let forecasters = rounds.took("list forecasters", forecasters.map_err(Into::into));
        for forecaster in forecasters.unwrap_or_default() {
            let mut far = BTreeSet::new();
            if stray {
                let done = self.call_in(&forecaster, &mut far).await;
                rounds.took(&format!("call in strays of {}", forecaster.name), done);
            }
            let done = self.welcome(&forecaster, &mut far).await;
            let what = format!("order the champion of {}", forecaster.name);
            rounds.took(&what, done);
            rounds.left_out(&forecaster.name, &far);
        }
        self.publish(rounds).await;
    }

    /// Says that devices are heard, where it is this hub that hears them, and sees whether anybody does.
    async fn listen(&self, rounds: &mut Rounds) -> Listening {
        let hears = *self.leads.borrow() && self.downlink.connected();
        if hears && rounds.listened.is_none_or(|at| at.elapsed() >= LISTENS) {
            let said = self.store.listens(UNHEARD_SECS).await;
            let said = rounds.took("note that devices are heard", said.map_err(Into::into));
            rounds.listened = said.map(|()| Instant::now());
        }
        let heard = self.store.listening(UNHEARD_SECS).await;
        rounds
            .took("see whether devices are heard", heard.map_err(Into::into))
            .unwrap_or(Listening::Unknown)
    }

    /// One round over all experiments.
    pub async fn experiments(&self, rounds: &mut Rounds) {
        rounds.experiments.0 = Some(Instant::now());
        let open = self.store.open_experiments().await;
        let open = rounds.took("list open experiments", open.map_err(Into::into));
        for row in open.unwrap_or_default() {
            let mut far = BTreeSet::new();
            let seen = &mut rounds.experiments.1;
            let done = experiment::driver::advance(self, &row, seen, &mut far).await;
            rounds.took(&format!("move experiment {}", row.id), done);
            rounds.left_out(&format!("experiment {}", row.id), &far);
        }
    }

    /// Publishes what nobody has published yet, whoever ordered it: the hub that did may have died since. The leader alone, as long as it
    /// can: two that publish for a device could leave the older order with the broker.
    async fn publish(&self, rounds: &mut Rounds) {
        let told = std::mem::take(&mut rounds.told);
        if !self.downlink.connected() {
            return;
        }
        let done = self.store.published_orders(&told).await;
        rounds.took("note that orders were published", done.map_err(Into::into));
        let overdue = if *self.leads.borrow() {
            0.0
        } else {
            OVERDUE_SECS
        };
        let waiting = self.store.unpublished_orders(overdue).await;
        let waiting = rounds.took("list orders to be published", waiting.map_err(Into::into));
        let mut waiting = waiting.unwrap_or_default();
        let mut devices: Vec<String> = waiting.iter().map(|o| o.device.clone()).collect();
        devices.dedup();
        let mut told = BTreeSet::new();
        let publishing = self.downlink.refresh(&devices, |device| {
            told.insert(device.to_owned());
        });
        // A broker that takes nothing must not keep rollouts from moving.
        if let Ok(done) = tokio::time::timeout(PUBLISH_FOR, publishing).await {
            rounds.took("publish orders", done);
        }
        waiting.retain(|o| told.contains(&o.device));
        rounds.told = waiting;
    }

    /// Moves one rollout; leaves what it knows of it for the next round.
    async fn advance(
        &self,
        row: &RolloutRow,
        known: Option<Known>,
        listens: Listening,
        keep: &mut BTreeMap<i64, Known>,
    ) -> Result<()> {
        let forecaster = row.forecaster.as_str();
        let Some(target) = self
            .store
            .model_version(forecaster, row.model_version)
            .await?
        else {
            return Ok(());
        };
        let previous = match row.previous_version {
            Some(version) => self.store.model_version(forecaster, version).await?,
            None => None,
        };
        let bundle =
            Sha256::from_hex(&target.bundle).context("the bundle's digest is malformed")?;
        let definition = self.store.forecaster(forecaster).await?;
        let floor = floor_of(definition.as_ref());
        // Whoever else drives may have stored it between two rounds: then everything is read.
        let known = known.filter(|k| k.updated_at == row.updated_at && k.whole.elapsed() < ANEW);
        let since = known.as_ref().and_then(|k| Some(k.heard? - OVERLAP));
        let fleet = self.store.fleet_of(row.id, since).await?;
        let Some(mut locked) = self.store.lock_rollout(row.id).await? else {
            return Ok(());
        };
        if locked.row.updated_at != row.updated_at {
            return Ok(());
        }
        let newest = fleet.iter().filter_map(|d| d.received_at).max();
        let heard = newest.max(known.as_ref().and_then(|k| k.heard));
        let whole = match (&known, since) {
            (Some(known), Some(_)) => known.whole,
            _ => Instant::now(),
        };
        let mut rollout = match known {
            Some(known) => known.rollout,
            None => {
                let devices = locked.deployments().await?;
                decode(&locked.row, &devices, &fleet)?
            }
        };
        let before = rollout.head();
        // A shadow is to watch beside the champion.
        let older = locked.older.filter(|_| rollout.begins_in_shadow());
        rollout.behind = older.map(u64::try_from).transpose()?;
        rollout.generation = rollout.generation.max(u64::try_from(locked.highest)?);
        let now = locked.now;
        let at = now.timestamp_millis();
        for device in &fleet {
            connected(&mut rollout, &device.device, device.online, at);
        }
        match listens {
            Listening::Unknown => {}
            Listening::Nobody => listening(&mut rollout, None, at),
            Listening::Since(since) => listening(&mut rollout, Some(since.timestamp_millis()), at),
        }
        // What a newer hub asks is left for one that knows it.
        locked.commands.retain(|c| understood(&c.command));
        let mut events = events(&rollout, &locked, &fleet, &bundle, floor);
        if since.is_none() {
            let expiring = locked.expiring(now + chrono::Duration::days(RENEW_DAYS));
            events.push(Event::Expiring(expiring.await?));
        }
        if let (Some(champion), Some(blocks)) = (&previous, blocks_of(&target, definition.as_ref()))
            && judge::gathers(&rollout)
        {
            let look = evidence::look(
                &self.store,
                &locked.row,
                &rollout,
                &target,
                champion,
                blocks,
            );
            events.extend(look.await?.map(Event::Evidence));
        }
        let mut actions = Vec::new();
        for event in events.into_iter().chain([Event::Tick]) {
            actions.extend(step(&mut rollout, event, at));
        }
        let moved = rollout.devices.changed();
        let moved: Vec<(String, Value)> = moved.map(|(n, d)| (n.clone(), json!(d))).collect();
        // They are about to be: whatever fails below drops the rollout, and all is read anew.
        rollout.devices.now_stored();
        let same = moved.is_empty() && rollout.head() == before;
        if same && locked.commands.is_empty() {
            let updated_at = row.updated_at;
            keep.insert(
                row.id,
                Known {
                    rollout,
                    updated_at,
                    heard,
                    whole,
                },
            );
            return Ok(());
        }
        // What is ordered last counts.
        let mut orders = BTreeMap::new();
        let (new, none) = (Model::of(&target)?, Model::none(forecaster));
        let old = previous.as_ref().map(Model::of).transpose()?;
        for action in &actions {
            let (device, model, mode, generation) = match action {
                Action::Order {
                    device,
                    mode,
                    generation,
                } => (device, &new, *mode, *generation),
                Action::OrderBack {
                    device,
                    to,
                    generation,
                } => {
                    let model = old.as_ref().filter(|_| to.is_some()).unwrap_or(&none);
                    (device, model, Mode::Active, *generation)
                }
                Action::Promote => {
                    locked.promote().await?;
                    continue;
                }
            };
            let order = self.writer().order(device, model, mode, generation, now)?;
            orders.insert(device.clone(), order);
        }
        give(&mut locked, &orders).await?;
        locked.save_devices(&moved).await?;
        if matches!(rollout.status, Status::RolledBack | Status::Superseded) {
            locked.depose().await?;
        }
        let machine = json!(rollout);
        let asked = !locked.commands.is_empty();
        let updated_at = locked.save(&machine, rollout.status.is_final()).await?;
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
        // What a person says may make reports count that did not before.
        if !asked {
            keep.insert(
                row.id,
                Known {
                    rollout,
                    updated_at,
                    heard,
                    whole,
                },
            );
        }
        Ok(())
    }

    pub(crate) fn writer(&self) -> Writer<'_> {
        Writer {
            site: &self.site,
            signer: &self.signer,
        }
    }

    /// Devices that know a newer order than the database get theirs anew, and those that went back below the floor by themselves are
    /// ordered to run no model, then as everyone.
    async fn call_in(&self, forecaster: &ForecasterRow, far: &mut BTreeSet<String>) -> Result<()> {
        let name = forecaster.name.as_str();
        let renewed = self.store.renew_forgotten(name).await?;
        if renewed > 0 {
            tracing::info!(
                forecaster = name,
                "{renewed} devices know orders that this database does not; theirs are given anew"
            );
        }
        let floor = i64::try_from(floor_of(Some(forecaster)))?;
        if floor <= 1 || self.store.devices_below(name, floor).await?.is_empty() {
            return Ok(());
        }
        let mut orders = self.store.lock_orders(name).await?;
        let below = orders.devices_below(floor).await?;
        let (database, now) = (u64::try_from(orders.highest)?, crate::clock::now());
        let (none, writer) = (Model::none(name), self.writer());
        let mut given = Vec::new();
        for (device, raw) in &below {
            let known = reported(Some(raw.as_slice()), name).map_or(0, |f| f.generation);
            match next_above(database, known) {
                Some(generation) => {
                    given.push(writer.order(device, &none, Mode::Active, generation, now)?);
                }
                None => {
                    far.insert(device.clone());
                }
            }
        }
        let given: Vec<NewOrder<'_>> = given.iter().map(Order::as_new).collect();
        orders.put(&given).await?;
        orders.commit().await?;
        Ok(())
    }

    /// Devices that the forecaster selects get the champion where they are ordered something else, nothing yet, or
    /// something that soon expires. Without a champion, or with one below the floor or on trial, those that are ordered a model
    /// are ordered to run none.
    /// Devices whose generation is not believed are put into `far` and ordered nothing.
    async fn welcome(&self, forecaster: &ForecasterRow, far: &mut BTreeSet<String>) -> Result<()> {
        let spec = &forecaster.spec;
        let labels = json!(spec.selector.labels);
        let now = crate::clock::now();
        let renew = now + chrono::Duration::days(RENEW_DAYS);
        let floor = i64::try_from(floor_of(Some(forecaster)))?;
        if self
            .store
            .late_devices(&spec.name, &labels, floor, renew)
            .await?
            .is_empty()
        {
            return Ok(());
        }
        let mut orders = self.store.lock_orders(&spec.name).await?;
        let late = orders.late_devices(&labels, floor, renew).await?;
        let champion = match late.first().and_then(|d| d.champion) {
            Some(version) => self.store.model_version(&spec.name, version).await?,
            None => None,
        };
        let database = u64::try_from(orders.highest)?;
        let model = champion.as_ref().map(Model::of).transpose()?;
        let model = model.unwrap_or(Model::none(&spec.name));
        let mut given = Vec::new();
        for device in &late {
            let known = reported(device.raw.as_deref(), &spec.name).map_or(0, |f| f.generation);
            let Some(generation) = next_above(database, known) else {
                far.insert(device.device.clone());
                continue;
            };
            let writer = self.writer();
            given.push(writer.order(&device.device, &model, Mode::Active, generation, now)?);
        }
        let given: Vec<NewOrder<'_>> = given.iter().map(Order::as_new).collect();
        orders.put(&given).await?;
        orders.commit().await?;
        Ok(())
    }
}

fn understood(command: &str) -> bool {
    command == OUTDATE || Operator::of(command).is_some()
}

/// What happened since the last round, in the order in which it counts.
fn events(
    rollout: &Rollout,
    locked: &LockedRollout,
    fleet: &[FleetRow],
    bundle: &Sha256,
    floor: u64,
) -> Vec<Event> {
    let mut events = Vec::new();
    if let Some(newer) = locked.newer {
        events.push(Event::NewerRollout {
            id: u64::try_from(newer).unwrap_or(0),
            watches: locked.newer_watches,
        });
    }
    events.push(Event::Floor(floor));
    // Before what devices say: what is sent back must not succeed in the same round.
    for asked in &locked.commands {
        if asked.command == OUTDATE {
            events.push(Event::Outdated(asked.reason.clone()));
            continue;
        }
        // All that wait were said of the state in which the row lock finds the rollout. Said twice, the second would answer what nobody
        // has seen: the approval of one stage must not be that of the next.
        let known = |what| {
            let mut all = events.iter();
            all.any(|e| matches!(e, Event::Operator(before, _) if *before == what))
        };
        if let Some(what) = Operator::of(&asked.command).filter(|what| !known(*what)) {
            let person = Person {
                name: &asked.who,
                reason: &asked.reason,
            };
            events.push(Event::Operator(what, person.because(person.name)));
        }
    }
    let there = fleet
        .iter()
        .filter(|d| rollout.devices.contains_key(&d.device));
    let reports = there.map(|device| {
        let state = reported(device.raw.as_deref(), &locked.row.forecaster);
        (
            device.device.clone(),
            report_of(device.online, state, bundle),
        )
    });
    events.push(Event::Reports(reports.collect()));
    events
}

/// What the hub itself asks.
const OUTDATE: &str = "outdate";

/// The blocks that devices compare models over.
fn blocks_of(target: &ModelVersionRow, definition: Option<&ForecasterRow>) -> Option<Blocks> {
    let sealed = serde_json::from_value::<ForecasterSpec>(target.manifest["forecaster"].clone());
    let spec = sealed
        .as_ref()
        .ok()
        .or_else(|| definition.map(|d| &d.spec))?;
    Some(Blocks::of(spec))
}

async fn give(locked: &mut LockedRollout, orders: &BTreeMap<String, Order<'_>>) -> Result<()> {
    if orders.is_empty() {
        return Ok(());
    }
    let new: Vec<NewOrder<'_>> = orders.values().map(Order::as_new).collect();
    let stored = locked.order(&new).await?;
    anyhow::ensure!(
        stored == new.len() as u64,
        "only {stored} of {} orders are above what stands for their devices; this is a defect: keep the log and report it",
        new.len()
    );
    Ok(())
}
