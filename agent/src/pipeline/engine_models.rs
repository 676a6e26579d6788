//! The engine's side of models: owns what runs where and what survives a restart; never verifies a bundle.

use std::collections::BTreeMap;

use fieldcast_features::quality::Quality;
use fieldcast_features::{ForecasterSpec, Millis};
use fieldcast_wire::{RecordBody, pb};

use super::engine::{Engine, LastMade};
use super::forecaster::{Forecaster, Note, Step, Stored};
use super::intervals::Intervals;
use super::model::Slot;
use super::paired::Paired;
use crate::buffer::{BufferError, BufferHandle, Commit};
use crate::update::driver::{ModelEvent, Request, Standing};
use crate::update::machine::{Event, Machine, Output};
use crate::update::pace::Terms;
use crate::update::witness::Death;

/// State key of the forecasters this device has met, with the definition of their newest bundle.
const KNOWN: &str = "forecasters";

/// Explaining costs up to twenty forecasts: no more often than this, however fast history is replayed.
const EXPLAINED_EVERY: std::time::Duration = std::time::Duration::from_secs(30);

type Known = BTreeMap<String, Option<ForecasterSpec>>;

impl Engine {
    /// After a failed commit, memory has run ahead of the disk: begins again from there, for as long as it takes.
    pub(super) async fn catch_up(&mut self) {
        if let Some(before) = &self.ahead {
            let before = before.clone();
            match self.take_up(None).await {
                Ok(()) => self.ahead = None,
                Err(e) => {
                    let problem = e.to_string();
                    if problem != before {
                        tracing::error!("begin again from the buffer: {problem}; tried again");
                    }
                    self.ahead = Some(problem);
                }
            }
        }
        while self.ahead.is_none()
            && let Some(event) = self.missed.pop_front()
        {
            self.model_event(event).await;
        }
    }

    /// Makes forecasters and machines out of what is stored; `death` is how the process before ended, at a start.
    pub(super) async fn take_up(&mut self, death: Option<Death>) -> Result<(), BufferError> {
        let buffer = self.parts.buffer.clone();
        let known: Known = buffer
            .state(KNOWN)
            .await?
            .and_then(|b| serde_json::from_slice(&b).ok())
            .unwrap_or_default();
        self.forecasters.clear();
        self.beside.clear();
        self.machines.clear();
        self.parts.sensors.forget();
        self.parts.sketches.forget();
        let mut specs: BTreeMap<String, ForecasterSpec> = self
            .parts
            .specs
            .iter()
            .map(|s| (s.name.clone(), s.clone()))
            .collect();
        let mut names: Vec<String> = specs.keys().cloned().collect();
        for (name, spec) in known {
            if !names.contains(&name) {
                names.push(name.clone());
            }
            // What the newest bundle was trained with wins over the configuration.
            if let Some(spec) = spec {
                specs.insert(name, spec);
            }
        }
        let mut step = Step::default();
        if let Some(death) = &death {
            tracing::error!(bundle = %death.sha, "the process before died {}", death.words());
        }
        for spec in specs.into_values() {
            if let Some(f) = self.make(spec, &mut step).await? {
                self.forecasters.insert(f.spec().name.clone(), f);
            }
        }
        let mut requests = Vec::new();
        for name in names {
            let stored = buffer.state(&Machine::key(&name)).await?;
            let mut machine: Machine = stored
                .and_then(|b| serde_json::from_slice(&b).ok())
                .unwrap_or_default();
            requests.push(Request::Obeyed(name.clone(), machine.generation()));
            let outputs = machine.step(Event::Started(death.clone()), &self.terms(&name));
            self.machines.insert(name.clone(), machine);
            requests.extend(self.apply(&name, outputs, &mut step).await);
            self.keep_machine(&name, &mut step);
        }
        buffer
            .commit(Commit {
                records: step.records,
                recent: false,
                state: step.state,
            })
            .await?;
        self.send(requests, true);
        self.publish();
        Ok(())
    }

    /// A forecaster with its stored history, or with what the buffer's recent readings give.
    async fn make(
        &self,
        spec: ForecasterSpec,
        step: &mut Step,
    ) -> Result<Option<Forecaster>, BufferError> {
        let buffer = &self.parts.buffer;
        let name = spec.name.clone();
        let mut forecaster = match Forecaster::new(spec) {
            Ok(f) => f,
            Err(e) => {
                tracing::error!(forecaster = %name, "{e}; it is left out");
                return Ok(None);
            }
        };
        let stored = Stored {
            kept: buffer.state(&Forecaster::state_key(&name)).await?,
            rows: values(buffer, forecaster.row_keys()).await?,
            pending: values(buffer, forecaster.pending_keys()).await?,
            intervals: buffer.state(&Intervals::key(&name)).await?,
            paired: buffer.state(&Paired::key(&name)).await?,
        };
        forecaster.restore(&stored);
        let boot = self.bootstrap(&mut forecaster).await?;
        step.state.extend(boot.state);
        Ok(Some(forecaster))
    }

    async fn bootstrap(&self, forecaster: &mut Forecaster) -> Result<Step, BufferError> {
        let since = forecaster.closed_through().map_or(Millis::MIN, |t| t + 1);
        let mut readings = Vec::new();
        for (channel, sensor) in forecaster.sensors().iter().enumerate() {
            for r in self.parts.buffer.recent(sensor, since).await? {
                let quality = Quality::from_u8(r.quality).unwrap_or(Quality::Bad);
                readings.push((channel, r.time, quality.admit(r.value)));
            }
        }
        Ok(forecaster.bootstrap(readings))
    }

    /// One beside the running model, with what waited there before a restart.
    async fn taken_up(&self, mut beside: Forecaster) -> Result<Forecaster, BufferError> {
        self.bootstrap(&mut beside).await?;
        let (buffer, name) = (&self.parts.buffer, beside.spec().name.clone());
        beside.restore_beside(&Stored {
            pending: values(buffer, beside.pending_keys()).await?,
            paired: buffer.state(&Paired::key(&name)).await?,
            ..Stored::default()
        });
        if let Some(running) = self.forecasters.get(&name) {
            let charge = beside.compares_with(running).then(|| running.in_charge());
            beside.hear(charge, &[], &mut Step::default());
        }
        Ok(beside)
    }

    /// Lets a shadow watch on rows of its own, beside the running model.
    async fn watch_beside(&mut self, name: &str, spec: ForecasterSpec, slot: Slot) {
        // What both stored has one owner.
        if let Some(running) = self.forecasters.get_mut(name) {
            running.set_shadow(None);
        }
        let made = match Forecaster::beside(spec) {
            Ok(f) => self.taken_up(f).await.map_err(|e| e.to_string()),
            Err(e) => Err(e),
        };
        match made {
            Ok(mut f) => {
                f.set_shadow(Some(slot));
                self.beside.insert(name.to_owned(), f);
            }
            Err(e) => tracing::error!(forecaster = name, "the shadow does not watch: {e}"),
        }
    }

    /// Something happened to a bundle: the machine decides, the decision is written, then carried out.
    pub(super) async fn model_event(&mut self, event: ModelEvent) {
        let ModelEvent {
            forecaster,
            event,
            loaded,
        } = event;
        if matches!(event, Event::NotObeyed(_)) && !self.machines.contains_key(&forecaster) {
            return;
        }
        // Everything else comes again by itself once the buffer is taken up.
        let again = matches!(event, Event::Ordered(_) | Event::NotObeyed(_)).then(|| ModelEvent {
            forecaster: forecaster.clone(),
            event: event.clone(),
            loaded: None,
        });
        let mut step = Step::default();
        let fresh = !self.machines.contains_key(&forecaster);
        if let Some(loaded) = loaded {
            self.loaded.insert(loaded.slot.sha.to_string(), loaded);
        }
        let terms = self.terms(&forecaster);
        let machine = self.machines.entry(forecaster.clone()).or_default();
        let before = machine.clone();
        let outputs = machine.step(event, &terms);
        let changed = *machine != before;
        let tidy = before.needed() != machine.needed();
        if changed {
            tracing::info!(%forecaster, phase = ?machine.phase, generation = machine.generation(), reason = %machine.reason, "order");
        }
        let requests = self.apply(&forecaster, outputs, &mut step).await;
        self.loaded.clear();
        if changed || fresh {
            self.keep_machine(&forecaster, &mut step);
            self.keep_known(&mut step);
        }
        if !step.state.is_empty() || !step.records.is_empty() {
            let commit = Commit {
                records: step.records,
                recent: false,
                state: step.state,
            };
            if let Err(e) = self.parts.buffer.commit(commit).await {
                tracing::error!("{e}");
                self.ahead = Some(e.to_string());
                self.missed.extend(again);
                return;
            }
        }
        self.send(requests, tidy);
        self.publish();
    }

    fn terms(&self, forecaster: &str) -> Terms {
        let known = self.forecasters.get(forecaster);
        let period = known.map_or(Millis::MAX, |f| f.spec().period_ms());
        self.parts.latency.terms(self.parts.probation, period)
    }

    /// A model made a forecast or failed to.
    pub(super) async fn note(&mut self, forecaster: &str, note: Note, step: &mut Step) {
        let event = match note {
            Note::Forecasted {
                bundle,
                made_by,
                shadow,
                origin,
                took,
            } => {
                if !shadow {
                    let running = self.forecasters.get(forecaster).and_then(|f| f.active());
                    let version = running
                        .filter(|s| Some(s.sha) == bundle)
                        .map_or(0, |s| s.version);
                    let before = self.last.remove(forecaster).unwrap_or_default();
                    let due = before
                        .explained
                        .is_none_or(|at| at.elapsed() >= EXPLAINED_EVERY);
                    let (explained, influences) = match version > 0 {
                        true if due => {
                            let f = self.forecasters.get_mut(forecaster);
                            let influences = f.map(Forecaster::explain).unwrap_or_default();
                            (Some(std::time::Instant::now()), influences)
                        }
                        _ if before.bundle == bundle => (before.explained, before.influences),
                        _ => (None, Vec::new()),
                    };
                    let made = LastMade {
                        bundle,
                        made_by,
                        version,
                        origin,
                        explained,
                        influences,
                    };
                    self.last.insert(forecaster.to_owned(), made);
                }
                bundle.map(|sha| Event::Forecasted(sha.to_string(), took))
            }
            Note::Failed {
                bundle,
                shadow,
                reason,
            } => {
                tracing::error!(forecaster, %bundle, shadow, "the model failed: {reason}");
                Some(Event::Failed(bundle.to_string(), reason))
            }
            Note::Worse { bundle, reason } => {
                tracing::error!(forecaster, %bundle, "{reason}");
                Some(Event::Worse(bundle.to_string(), reason))
            }
            Note::NoWindow { bundle, reason } => Some(Event::NoWindow(bundle.to_string(), reason)),
        };
        let Some(event) = event else { return };
        let terms = self.terms(forecaster);
        let machine = self.machines.entry(forecaster.to_owned()).or_default();
        let outputs = machine.step(event, &terms);
        // While the commit is on its way nothing but readings is handled, so requests may go out before it.
        let requests = self.apply(forecaster, outputs, step).await;
        self.keep_machine(forecaster, step);
        self.send(requests, false);
    }

    async fn apply(&mut self, name: &str, outputs: Vec<Output>, step: &mut Step) -> Vec<Request> {
        let mut requests = Vec::new();
        for output in outputs {
            match output {
                Output::Fetch(target) => requests.push(Request::Fetch(name.to_owned(), target)),
                Output::Take(bundle) => {
                    requests.push(Request::Load(name.to_owned(), bundle, Standing::New));
                }
                Output::Load(bundle) => {
                    requests.push(Request::Load(name.to_owned(), bundle, Standing::Kept));
                }
                Output::Activate(sha) => self.put(name, &sha, false, step).await,
                Output::Watch(sha) => self.put(name, &sha, true, step).await,
                Output::Baseline => {
                    if let Some(f) = self.forecasters.get_mut(name) {
                        f.set_active(None);
                    }
                }
                Output::Unwatch => {
                    if let Some(f) = self.forecasters.get_mut(name) {
                        f.set_shadow(None);
                    }
                    self.beside.remove(name);
                    step.state.push((Paired::key(name), Vec::new()));
                }
                Output::Outcome {
                    generation,
                    attempt,
                    ok,
                    message,
                } => step.records.push(RecordBody::Outcome(pb::Outcome {
                    subject: format!("order/{name}/{generation}/{attempt}"),
                    ok,
                    message,
                    time_ms: self.parts.clock.wall_ms(),
                    ..pb::Outcome::default()
                })),
            }
        }
        requests
    }

    async fn put(&mut self, name: &str, sha: &str, shadow: bool, step: &mut Step) {
        let Some(loaded) = self.loaded.remove(sha) else {
            tracing::error!(
                forecaster = name,
                bundle = sha,
                "the model is not in memory; it is loaded at the next start"
            );
            return;
        };
        let same = self
            .forecasters
            .get(name)
            .is_some_and(|f| *f.spec() == loaded.spec);
        if shadow {
            self.beside.remove(name);
            if !same && self.forecasters.contains_key(name) {
                // What is on trial must not change what runs: its windows come from rows of its own.
                self.watch_beside(name, loaded.spec, loaded.slot).await;
                return;
            }
        }
        if !same {
            let fresh = match self.make(loaded.spec.clone(), step).await {
                Ok(Some(fresh)) => fresh,
                Ok(None) => return,
                Err(e) => {
                    tracing::error!("{e}");
                    return;
                }
            };
            let old = self.forecasters.insert(name.to_owned(), fresh);
            if let Some(mut old) = old
                && let Some(slot) = old.set_shadow(None)
            {
                self.watch_beside(name, old.spec().clone(), slot).await;
            }
        }
        if let Some(f) = self.forecasters.get_mut(name) {
            if shadow {
                f.set_shadow(Some(loaded.slot));
            } else {
                f.watch(loaded.watch, loaded.inputs);
                f.set_active(Some(loaded.slot));
            }
        }
    }

    fn keep_machine(&self, name: &str, step: &mut Step) {
        if let Some(Ok(bytes)) = self.machines.get(name).map(serde_json::to_vec) {
            step.state.push((Machine::key(name), bytes));
        }
    }

    fn keep_known(&self, step: &mut Step) {
        let spec = |name: &String| self.forecasters.get(name).map(|f| f.spec().clone());
        let known: Known = self
            .machines
            .keys()
            .map(|name| (name.clone(), spec(name)))
            .collect();
        if let Ok(bytes) = serde_json::to_vec(&known) {
            step.state.push((KNOWN.to_owned(), bytes));
        }
    }

    fn send(&self, requests: Vec<Request>, tidy: bool) {
        let keep = tidy || !requests.is_empty();
        for request in requests {
            if let Err(e) = self.parts.updater.try_send(request) {
                tracing::error!(
                    "ask the updater: {e}; the order is taken up again at the next start"
                );
            }
        }
        if keep {
            let needed = self.machines.values().flat_map(Machine::needed);
            let needed = needed.map(str::to_owned).collect();
            if let Err(e) = self.parts.updater.try_send(Request::Keep(needed)) {
                tracing::debug!("tidy up bundles: {e}; done with the next order");
            }
        }
    }

    /// What runs, as seen from where forecasts are made.
    pub(super) fn publish(&self) {
        let blank = LastMade::default();
        let mut states = Vec::with_capacity(self.machines.len());
        for (name, machine) in &self.machines {
            let last = self.last.get(name).unwrap_or(&blank);
            let sha = |i: &Option<crate::update::Installed>| {
                i.as_ref()
                    .and_then(crate::update::Installed::digest)
                    .map_or_else(Vec::new, |d| d.0.to_vec())
            };
            states.push(pb::ForecasterState {
                forecaster: name.clone(),
                running: last.bundle.map_or_else(Vec::new, |b| b.0.to_vec()),
                model_version: last.version,
                phase: machine.phase.wire() as i32,
                reason: machine.told(),
                generation: machine.generation(),
                attempt: machine.target.as_ref().map_or(0, |t| t.attempt),
                last_forecast_ms: last.origin,
                forecasts: machine.forecasts,
                last_good: sha(&machine.last_good),
                before: sha(&machine.before),
                newest_version: machine.newest_version(),
            });
            let f = self.forecasters.get(name);
            let budget_us = self.terms(name).budget_us;
            self.parts.board.update(|b| {
                let facts = b.forecasters.entry(name.clone()).or_default();
                facts.running = last.bundle.map_or_else(String::new, |b| b.to_string());
                facts.made_by.clone_from(&last.made_by);
                facts.model_version = last.version;
                let slot = f.and_then(Forecaster::active);
                facts.engine = slot.map_or_else(String::new, |s| s.engine.clone());
                machine.phase.name().clone_into(&mut facts.phase);
                facts.reason = machine.told();
                facts.inference_us = machine.pace.p95();
                facts.shadow_us = machine
                    .shadow_pace
                    .p95()
                    .filter(|_| machine.shadow.is_some());
                facts.budget_us = budget_us;
                facts.generation = machine.generation();
                let name_of = |i: &Option<crate::update::Installed>| {
                    i.as_ref().map_or_else(String::new, |i| i.sha.clone())
                };
                facts.last_good = name_of(&machine.last_good);
                facts.shadow = name_of(&machine.shadow);
                facts.influences.clone_from(&last.influences);
                facts.forecasts = f.map_or(0, Forecaster::forecasts);
                facts.drift = f.is_some_and(Forecaster::drifting);
                facts.input_drift = f.map(Forecaster::drifting_inputs).unwrap_or_default();
            });
        }
        // Nobody may listen: without an identity there is no uplink.
        self.parts.states.send_replace(states);
    }
}

async fn values(buffer: &BufferHandle, keys: Vec<String>) -> Result<Vec<Vec<u8>>, BufferError> {
    let mut out = Vec::new();
    for key in keys {
        out.extend(buffer.state(&key).await?);
    }
    Ok(out)
}
