//! A device's models: owns orders, downloads and how its made models behave; decides by the agent's machine, sends nothing itself.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use fieldcast_bundle::{KeyRing, Me, verify_order};
use fieldcast_device::death::{Death, Doing};
use fieldcast_device::pace::{Terms, Took};
use fieldcast_device::update::{Event, Installed, Machine, Output, Target};
use fieldcast_features::{ForecasterSpec, Millis};
use fieldcast_sim::{Channel, Stream};
use fieldcast_wire::caps::{BLOCK, MAX_BLOCKS_ASKED, MAX_FORECASTERS};
use fieldcast_wire::{RecordBody, Sha256, pb};

use super::plan::{Misdeed, Plan};
use super::shelf::Shelf;
use super::tally::Tally;

/// Blocks that do not come within this process time are asked for again, as on a device.
const ASK_AGAIN: i64 = 5_000;

/// What is to be done for the models.
#[derive(Debug)]
pub(super) enum Effect {
    /// Ask for blocks.
    Ask(pb::BlobRequest),
    /// Tell the hub, as a record.
    Record(RecordBody),
    /// The process dies.
    Die,
}

/// A bundle on its way: only the digest of what came is kept, so blocks count in their order.
struct Fetch {
    forecaster: String,
    target: Target,
    sha: Sha256,
    next: usize,
    digest: ring::digest::Context,
    asked: Option<i64>,
}

impl Fetch {
    fn new(forecaster: String, target: Target, sha: Sha256) -> Self {
        Self {
            forecaster,
            target,
            sha,
            next: 0,
            digest: ring::digest::Context::new(&ring::digest::SHA256),
            asked: None,
        }
    }

    fn blocks(&self) -> usize {
        self.target.size.div_ceil(BLOCK)
    }
}

#[derive(Debug, Default)]
struct Slot {
    machine: Machine,
    specs: BTreeMap<String, Arc<ForecasterSpec>>,
    running: Option<Installed>,
    last_origin: Millis,
    /// Data time from which the shadow watches.
    watches: Option<Millis>,
}

/// Who the models belong to.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    pub(super) number: u32,
    pub(super) site: String,
    pub(super) device: String,
    pub(super) root: [u8; 32],
}

/// A device's models.
pub(super) struct Models {
    owner: Owner,
    plan: Arc<Plan>,
    shelf: Arc<Shelf>,
    tally: Arc<Tally>,
    ring: KeyRing,
    seen: BTreeMap<String, u64>,
    slots: BTreeMap<String, Slot>,
    fetching: BTreeMap<String, Fetch>,
    dice: Stream,
    /// The bundle whose model ended the process.
    died_of: Option<String>,
    starts: u64,
    /// Something in the state has changed.
    pub(super) changed: bool,
}

/// What a forecast of a made model takes, and what it may take, microseconds.
const TAKES_US: u32 = 1_000;
const BUDGET_US: u32 = 1_000_000;

impl Models {
    pub(super) fn new(owner: Owner, plan: Arc<Plan>, shelf: Arc<Shelf>, tally: Arc<Tally>) -> Self {
        Self {
            ring: KeyRing::new(owner.root),
            dice: Stream::new(plan.seed, (1 << 60) | u64::from(owner.number)),
            owner,
            plan,
            shelf,
            tally,
            seen: BTreeMap::new(),
            slots: BTreeMap::new(),
            fetching: BTreeMap::new(),
            died_of: None,
            starts: 1,
            changed: true,
        }
    }

    /// What runs, without the fields that only the connection knows.
    pub(super) fn state(&self) -> pb::State {
        let sha = |i: &Option<Installed>| {
            let digest = i.as_ref().and_then(Installed::digest);
            digest.map_or_else(Vec::new, Sha256::to_vec)
        };
        let of = |(name, slot): (&String, &Slot)| pb::ForecasterState {
            forecaster: name.clone(),
            running: sha(&slot.running),
            model_version: slot.running.as_ref().map_or(0, |i| i.version),
            phase: slot.machine.phase.wire() as i32,
            reason: slot.machine.told(),
            generation: slot.machine.generation(),
            attempt: slot.machine.target.as_ref().map_or(0, |t| t.attempt),
            last_forecast_ms: slot.last_origin,
            forecasts: slot.machine.forecasts,
            last_good: sha(&slot.machine.last_good),
            before: sha(&slot.machine.before),
            newest_version: slot.machine.newest_version(),
        };
        pb::State {
            forecasters: self.slots.iter().map(of).collect(),
            key_list_version: self.ring.version(),
            ..pb::State::default()
        }
    }

    /// Keys and orders came.
    pub(super) async fn desired(
        &mut self,
        desired: &pb::Desired,
        wall: i64,
        out: &mut Vec<Effect>,
    ) {
        if let Some(list) = &desired.key_list
            && let Err(e) = self.ring.accept(list)
        {
            tracing::warn!(device = self.owner.device, "key list refused: {e}");
        }
        for signed in desired.orders.iter().take(MAX_FORECASTERS) {
            let me = Me {
                site: &self.owner.site,
                device: &self.owner.device,
            };
            let last = |f: &str| self.seen.get(f).copied().unwrap_or(0);
            let order = match verify_order(signed, &self.ring, me, last, wall) {
                Ok(order) => order,
                Err(e) => {
                    Tally::add(&self.tally.disobeyed, 1);
                    tracing::warn!(
                        device = self.owner.device,
                        "order refused: {}: {e}",
                        e.step()
                    );
                    continue;
                }
            };
            self.seen.insert(order.forecaster.clone(), order.generation);
            let model = order.model;
            let target = Target {
                bundle: model.map(|m| Installed {
                    sha: m.bundle.to_string(),
                    version: m.version,
                }),
                size: model.map_or(0, |m| m.size),
                shadow: order.stage == pb::Stage::Shadow,
                generation: order.generation,
                attempt: order.attempt,
                expires: order.expires,
            };
            self.feed(&order.forecaster, Event::Ordered(target), wall, out)
                .await;
        }
    }

    /// A block of a bundle came.
    pub(super) async fn block(
        &mut self,
        sha: Sha256,
        n: u32,
        bytes: &[u8],
        (now, wall): (i64, i64),
        out: &mut Vec<Effect>,
    ) {
        let name = sha.to_string();
        let Some(fetch) = self.fetching.get_mut(&name) else {
            return;
        };
        let offset = fetch.next.saturating_mul(BLOCK);
        let expected = fetch.target.size.saturating_sub(offset).min(BLOCK);
        if usize::try_from(n) != Ok(fetch.next) || bytes.len() != expected {
            return;
        }
        Tally::add(&self.tally.blocks, 1);
        fetch.digest.update(bytes);
        self.shelf.put(sha, fetch.next, bytes);
        fetch.next += 1;
        fetch.asked = Some(now);
        if fetch.next < fetch.blocks() {
            if fetch.next.is_multiple_of(MAX_BLOCKS_ASKED) {
                fetch.asked = None;
                self.ask(now, out);
            }
            return;
        }
        let Some(fetch) = self.fetching.remove(&name) else {
            return;
        };
        if fetch.digest.finish().as_ref() == sha.0 {
            self.feed(&fetch.forecaster, Event::Fetched(name), wall, out)
                .await;
        } else {
            let again = Fetch::new(fetch.forecaster, fetch.target, sha);
            self.fetching.insert(name, again);
            self.ask(now, out);
        }
    }

    /// When something is to be asked for again.
    pub(super) fn wake_at(&self) -> i64 {
        let due = self.fetching.values();
        due.map(|f| f.asked.map_or(0, |at| at + ASK_AGAIN))
            .min()
            .unwrap_or(i64::MAX)
    }

    /// All that was asked on the connection before is lost.
    pub(super) fn connected(&mut self) {
        self.fetching.values_mut().for_each(|f| f.asked = None);
        self.changed = true;
    }

    /// Asks for what does not come and gives up what has expired.
    pub(super) async fn tick(&mut self, now: i64, wall: i64, out: &mut Vec<Effect>) {
        let expired = self
            .fetching
            .iter()
            .filter(|(_, f)| wall >= f.target.expires);
        for sha in expired.map(|(sha, _)| sha.clone()).collect::<Vec<_>>() {
            if let Some(f) = self.fetching.remove(&sha) {
                let reason = "the order expired before its bundle was complete".to_owned();
                self.feed(&f.forecaster, Event::Unfetchable(sha, reason), wall, out)
                    .await;
            }
        }
        self.ask(now, out);
    }

    fn ask(&mut self, now: i64, out: &mut Vec<Effect>) {
        for fetch in self.fetching.values_mut() {
            if fetch.asked.is_some_and(|at| now - at < ASK_AGAIN) {
                continue;
            }
            fetch.asked = Some(now);
            let missing = (fetch.next..fetch.blocks()).take(MAX_BLOCKS_ASKED);
            out.push(Effect::Ask(pb::BlobRequest {
                sha256: fetch.sha.to_vec(),
                offset_blocks: fetch.next as u64,
                missing: missing.filter_map(|n| u32::try_from(n).ok()).collect(),
                framed: true,
            }));
        }
    }

    /// The process starts again after it died.
    pub(super) async fn restarted(&mut self, wall: i64, out: &mut Vec<Effect>) {
        let death = self.died_of.take().map(|sha| Death {
            sha,
            start: self.starts,
            doing: Doing::Forecasting,
        });
        self.starts += 1;
        let names: Vec<String> = self.slots.keys().cloned().collect();
        for name in names {
            // Who makes the forecasts is known again with the first of them, as on a device.
            if let Some(slot) = self.slots.get_mut(&name) {
                slot.running = None;
            }
            self.feed(&name, Event::Started(death.clone()), wall, out)
                .await;
        }
    }

    /// The machine takes an event, and all that follows from it at once.
    async fn feed(&mut self, forecaster: &str, event: Event, wall: i64, out: &mut Vec<Effect>) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let known = self.slots.contains_key(forecaster);
            let slot = self.slots.entry(forecaster.to_owned()).or_default();
            let before = known.then_some(slot.machine.phase);
            let terms = Terms {
                probation: self.plan.probation,
                budget_us: BUDGET_US,
                floor_us: BUDGET_US / 10,
            };
            let outputs = slot.machine.step(event, &terms);
            let phase = slot.machine.phase;
            if before != Some(phase) {
                self.tally.moved(before, Some(phase));
                self.changed = true;
            }
            for output in outputs {
                match output {
                    Output::Fetch(target) => self.fetch(forecaster, target),
                    Output::Take(installed) | Output::Load(installed) => {
                        events.push_back(self.load(forecaster, installed, wall).await);
                    }
                    Output::Outcome {
                        generation,
                        attempt,
                        ok,
                        message,
                    } => out.push(Effect::Record(RecordBody::Outcome(pb::Outcome {
                        subject: format!("order/{forecaster}/{generation}/{attempt}"),
                        ok,
                        message,
                        time_ms: wall,
                        ..pb::Outcome::default()
                    }))),
                    Output::Baseline | Output::Activate(_) => {
                        if let Some(slot) = self.slots.get_mut(forecaster) {
                            slot.running = None;
                        }
                    }
                    Output::Watch(_) | Output::Unwatch => {
                        if let Some(slot) = self.slots.get_mut(forecaster) {
                            slot.watches = None;
                        }
                    }
                }
                self.changed = true;
            }
        }
    }

    fn fetch(&mut self, forecaster: &str, target: Target) {
        self.fetching.retain(|_, f| f.forecaster != forecaster);
        let bundle = target.bundle.clone();
        if let Some(bundle) = bundle
            && let Some(digest) = bundle.digest()
        {
            let fetch = Fetch::new(forecaster.to_owned(), target, digest);
            self.fetching.insert(bundle.sha, fetch);
        }
    }

    async fn load(&mut self, forecaster: &str, installed: Installed, wall: i64) -> Event {
        let sha = installed.sha.clone();
        if self.plan.misdeed(self.owner.number, installed.version) == Some(Misdeed::Refuse) {
            return Event::Refused(
                sha,
                "V9: the golden vectors are not reproduced here".to_owned(),
            );
        }
        let Some(digest) = installed.digest() else {
            return Event::Refused(sha, "V7: the bundle's digest is not one".to_owned());
        };
        match self.shelf.check(digest, forecaster, &self.ring, wall).await {
            Ok(spec) => {
                if let Some(slot) = self.slots.get_mut(forecaster) {
                    slot.specs.insert(sha.clone(), spec);
                }
                Event::Loaded(sha)
            }
            Err(why) => Event::Refused(sha, why),
        }
    }

    /// Data time went on to `time`: models forecast, and blocks of a watching one close.
    pub(super) async fn forecast(
        &mut self,
        channel: &Channel,
        time: Millis,
        wall: i64,
        out: &mut Vec<Effect>,
    ) {
        let names: Vec<String> = self.slots.keys().cloned().collect();
        for name in names {
            let Some(slot) = self.slots.get(&name) else {
                continue;
            };
            let in_place = [slot.machine.active.clone(), slot.machine.shadow.clone()];
            let last = slot.last_origin;
            let mut origin = last;
            for (installed, shadow) in in_place.into_iter().zip([false, true]) {
                let Some(installed) = installed else { continue };
                let spec = self
                    .slots
                    .get(&name)
                    .and_then(|s| s.specs.get(&installed.sha));
                let Some(spec) = spec.cloned() else { continue };
                let period = spec.period_ms().max(1);
                let newest = time.div_euclid(period) * period;
                if newest <= last {
                    continue;
                }
                origin = newest;
                if self.misbehaves(&name, &installed, wall, out).await {
                    continue;
                }
                let steps = if last == 0 {
                    1
                } else {
                    (newest - last) / period
                };
                let slow =
                    self.plan.misdeed(self.owner.number, installed.version) == Some(Misdeed::Slow);
                let took = Took {
                    us: if slow { 2 * BUDGET_US } else { TAKES_US },
                    golden_us: TAKES_US,
                };
                for _ in 0..steps.min(i64::from(self.plan.probation)) {
                    let event = Event::Forecasted(installed.sha.clone(), took);
                    self.feed(&name, event, wall, out).await;
                }
                if shadow {
                    self.paired(&name, &installed, &spec, newest, out);
                } else {
                    out.push(Effect::Record(forecast(&spec, &installed, channel, newest)));
                    if let Some(slot) = self.slots.get_mut(&name)
                        && slot.running.as_ref() != Some(&installed)
                    {
                        slot.running = Some(installed);
                        self.changed = true;
                    }
                }
            }
            if let Some(slot) = self.slots.get_mut(&name) {
                slot.last_origin = origin;
            }
        }
    }

    /// What the plan has a model do in place of a forecast.
    async fn misbehaves(
        &mut self,
        name: &str,
        installed: &Installed,
        wall: i64,
        out: &mut Vec<Effect>,
    ) -> bool {
        let reason = match self.plan.misdeed(self.owner.number, installed.version) {
            Some(Misdeed::Nan) => "the forecast holds a value that is not finite",
            Some(Misdeed::Crash) => {
                self.died_of = Some(installed.sha.clone());
                out.push(Effect::Die);
                return true;
            }
            Some(Misdeed::Slow | Misdeed::Refuse) | None => return false,
        };
        let event = Event::Failed(installed.sha.clone(), reason.to_owned());
        self.feed(name, event, wall, out).await;
        true
    }

    /// Blocks that ended before `until`, with the gain that the plan states.
    fn paired(
        &mut self,
        name: &str,
        watching: &Installed,
        spec: &ForecasterSpec,
        until: Millis,
        out: &mut Vec<Effect>,
    ) {
        let Some(slot) = self.slots.get_mut(name) else {
            return;
        };
        let (block, period) = (spec.block_ms().max(1), spec.period_ms().max(1));
        // The first whole block after the model began to watch.
        let mut from = slot
            .watches
            .unwrap_or((until.div_euclid(block) + 1) * block);
        let horizon = i64::try_from(spec.horizon).unwrap_or(0) * period;
        while from + block + horizon <= until {
            let mut noise = || 0.9 + 0.2 * self.dice.uniform();
            let running_abs = noise();
            let watching_abs = running_abs * (1.0 - self.plan.gain) * noise();
            let count = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
            let origins = block / period;
            let running = slot.running.as_ref();
            let digest = |i: Option<&Installed>| {
                i.and_then(Installed::digest)
                    .map_or_else(Vec::new, Sha256::to_vec)
            };
            out.push(Effect::Record(RecordBody::Paired(pb::PairedLosses {
                forecaster: name.to_owned(),
                running: digest(running),
                watching: digest(Some(watching)),
                running_version: running.map_or(0, |i| i.version),
                watching_version: watching.version,
                from_ms: from,
                to_ms: from + block,
                origins: count(origins),
                steps: count(origins * horizon / period),
                running_abs,
                watching_abs,
                running_quantile: running_abs / 2.0,
                watching_quantile: watching_abs / 2.0,
                ..pb::PairedLosses::default()
            })));
            from += block;
        }
        slot.watches = Some(from);
    }
}

/// A forecast of what is usual, with even intervals.
fn forecast(
    spec: &ForecasterSpec,
    installed: &Installed,
    channel: &Channel,
    origin: Millis,
) -> RecordBody {
    let step = |h: usize| origin + i64::try_from(h + 1).unwrap_or(0) * spec.period_ms();
    let mean: Vec<f64> = (0..spec.horizon).map(|h| channel.usual(step(h))).collect();
    let levels = &spec.quantiles;
    let quantiles = mean
        .iter()
        .flat_map(|m| levels.iter().map(move |q| m + (q - 0.5) * channel.swing()));
    RecordBody::Forecast(pb::Forecast {
        forecaster: spec.name.clone(),
        origin_ms: origin,
        period_ms: spec.period_ms(),
        quantiles: quantiles.collect(),
        quantile_levels: levels.clone(),
        mean,
        made_by: "bundle".into(),
        bundle: installed.digest().map_or_else(Vec::new, Sha256::to_vec),
        model_version: installed.version,
        ..pb::Forecast::default()
    })
}
