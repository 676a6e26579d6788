//! The one task that takes readings, runs forecasters and writes both in one commit; owns no file and no socket.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fieldcast_features::ForecasterSpec;
use fieldcast_features::quality::Quality;
use fieldcast_wire::{Reading, RecordBody, Sha256, pb};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::forecaster::{Forecaster, Step};
use super::model::Influence;
use super::sensors::Sensors;
use super::sketches::Sketches;
use super::true_time::TrueTime;
use crate::buffer::{BufferHandle, Commit};
use crate::clock::Clock;
use crate::config::LatencyConfig;
use crate::quality::Checker;
use crate::source::{Accepted, Ingest, Item, NotAccepted};
use crate::status::board::Board;
use crate::update::bundles::Loaded;
use crate::update::driver::{ModelEvent, Request};
use crate::update::machine::Machine;
use crate::update::witness::Death;

/// Runs of readings that share one commit at most.
const TOGETHER: usize = 16;
/// Records of one commit beyond which it is not enlarged.
const RECORDS: usize = 4_096;
/// Pause before the buffer is taken up again after it failed.
const AGAIN: Duration = Duration::from_secs(1);

/// What the engine is given.
pub struct Parts {
    /// The only queue.
    pub buffer: BufferHandle,
    /// For device-dated readings and outcomes.
    pub clock: Clock,
    /// Ranges of readings.
    pub checker: Checker,
    /// Monitors of sensors.
    pub sensors: Sensors,
    /// Their open weeks.
    pub sketches: Sketches,
    /// Forecasters of the configuration.
    pub specs: Vec<ForecasterSpec>,
    /// Forecasts that prove a model.
    pub probation: u32,
    /// How long a model may compute.
    pub latency: LatencyConfig,
    /// What people see.
    pub board: Arc<Board>,
    /// To the updater.
    pub updater: mpsc::Sender<Request>,
    /// To the uplink: what runs, whenever it changes.
    pub states: watch::Sender<Vec<pb::ForecasterState>>,
}

/// Who made the last forecast of a forecaster.
#[derive(Debug, Clone, Default)]
pub(super) struct LastMade {
    pub(super) bundle: Option<Sha256>,
    pub(super) made_by: String,
    pub(super) version: u64,
    pub(super) origin: i64,
    /// When a forecast was explained last.
    pub(super) explained: Option<std::time::Instant>,
    /// What it was made from.
    pub(super) influences: Vec<Influence>,
}

/// The engine.
pub struct Engine {
    pub(super) parts: Parts,
    pub(super) forecasters: BTreeMap<String, Forecaster>,
    pub(super) machines: BTreeMap<String, Machine>,
    pub(super) last: BTreeMap<String, LastMade>,
    pub(super) loaded: BTreeMap<String, Box<Loaded>>,
    /// Shadows whose definition is not that of the running model, each with rows of its own.
    pub(super) beside: BTreeMap<String, Forecaster>,
    /// Why memory has run ahead of the disk; none while both agree.
    pub(super) ahead: Option<String>,
    /// Orders whose commit failed.
    pub(super) missed: VecDeque<ModelEvent>,
    true_time: TrueTime,
}

type Answer = (
    oneshot::Sender<Result<Accepted, NotAccepted>>,
    Accepted,
    Arc<str>,
);

impl Engine {
    /// Takes up what the buffer holds; `death` says with which model at work the process before died.
    ///
    /// # Errors
    /// Where the buffer cannot be read or written.
    pub async fn start(
        parts: Parts,
        death: Option<Death>,
    ) -> Result<Self, crate::buffer::BufferError> {
        let mut engine = Self {
            parts,
            forecasters: BTreeMap::new(),
            machines: BTreeMap::new(),
            last: BTreeMap::new(),
            loaded: BTreeMap::new(),
            beside: BTreeMap::new(),
            ahead: None,
            missed: VecDeque::new(),
            true_time: TrueTime::default(),
        };
        engine.take_up(death).await?;
        Ok(engine)
    }

    /// Runs until cancelled, then finishes what sources have handed over already.
    pub async fn run(
        mut self,
        mut ingests: mpsc::Receiver<Ingest>,
        mut models: mpsc::Receiver<ModelEvent>,
        cancel: CancellationToken,
    ) {
        loop {
            self.catch_up().await;
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                Some(event) = models.recv(), if self.ahead.is_none() => self.model_event(event).await,
                Some(ingest) = ingests.recv() => {
                    self.ingest(ingest, &mut ingests).await;
                    // A replay at full speed must leave the single thread to the others now and then.
                    tokio::task::yield_now().await;
                }
                () = tokio::time::sleep(AGAIN), if self.ahead.is_some() => {}
                else => break,
            }
        }
        ingests.close();
        while let Some(ingest) = ingests.recv().await {
            self.ingest(ingest, &mut ingests).await;
        }
    }

    async fn ingest(&mut self, first: Ingest, queue: &mut mpsc::Receiver<Ingest>) {
        if let Some(problem) = &self.ahead {
            // Judged by what is in memory now, it would be judged twice.
            let _ = first.reply.send(Err(NotAccepted {
                source_name: first.source.to_string(),
                problem: problem.clone(),
            }));
            return;
        }
        let mut step = Step::default();
        let mut answers = Vec::new();
        let mut readings = 0;
        let mut next = Some(first);
        while let Some(ingest) = next.take() {
            readings += self.take(ingest, &mut step, &mut answers).await;
            if answers.len() < TOGETHER && step.records.len() < RECORDS {
                next = queue.try_recv().ok();
            }
        }
        self.show(&step, readings, &answers);
        let Step { records, state, .. } = step;
        let commit = Commit {
            records,
            recent: true,
            // Only the last value of a key is worth writing.
            state: state
                .into_iter()
                .collect::<BTreeMap<_, _>>()
                .into_iter()
                .collect(),
        };
        match self.parts.buffer.commit(commit).await {
            Ok(_) => {
                self.parts.board.update(|f| f.buffer.problem = None);
                for (reply, accepted, _) in answers {
                    // A client that went away has its readings in the buffer all the same.
                    let _ = reply.send(Ok(accepted));
                }
                self.publish();
            }
            Err(e) => {
                tracing::error!("{e}");
                let problem = e.to_string();
                self.parts
                    .board
                    .update(|f| f.buffer.problem = Some(problem.clone()));
                self.ahead = Some(problem.clone());
                for (reply, _, source) in answers {
                    let _ = reply.send(Err(NotAccepted {
                        source_name: source.to_string(),
                        problem: problem.clone(),
                    }));
                }
            }
        }
    }

    async fn take(&mut self, ingest: Ingest, step: &mut Step, answers: &mut Vec<Answer>) -> u64 {
        let mut accepted = Accepted::default();
        let now = self.parts.clock.wall_ms();
        let machine = (now, self.parts.clock.monotonic_ms());
        let vouched = self.true_time.now(machine, self.parts.clock.synchronised());
        step.records
            .extend(ingest.alarms.into_iter().map(RecordBody::Alarm));
        step.state.extend(ingest.cursor);
        let mut index = 0;
        for item in ingest.items {
            match item {
                Item::Reading(raw) => {
                    match self.parts.checker.check(raw, now) {
                        Ok(reading) => {
                            accepted.stored += 1;
                            self.reading(reading, (now, vouched), step).await;
                        }
                        Err(why) => {
                            tracing::debug!(source = %ingest.source, "reading refused: {why}");
                            accepted.refused.push((index, why));
                        }
                    }
                    index += 1;
                }
                Item::Complete(time) => {
                    for f in self
                        .forecasters
                        .values_mut()
                        .chain(self.beside.values_mut())
                    {
                        f.complete(&ingest.sensors, time);
                    }
                    self.silence(time, Some(&ingest.sensors), step);
                    self.advance(step).await;
                }
                Item::Look => {
                    for sensor in self.parts.sensors.unmet() {
                        self.meet(&sensor).await;
                    }
                    self.silence(now, None, step);
                }
            }
        }
        self.advance(step).await;
        let stored = accepted.stored as u64;
        answers.push((ingest.reply, accepted, ingest.source));
        stored
    }

    fn silence(&mut self, now: i64, of: Option<&[String]>, step: &mut Step) {
        let (records, state) = (&mut step.records, &mut step.state);
        self.parts.sensors.silence(now, of, records, state);
    }

    async fn meet(&mut self, sensor: &str) {
        let stored = self.parts.buffer.state(&Sensors::key(sensor)).await;
        let stored = stored.ok().flatten();
        self.parts.sensors.meet(sensor, stored.as_deref());
    }

    async fn reading(
        &mut self,
        mut reading: Reading,
        (now, vouched): (i64, Option<i64>),
        step: &mut Step,
    ) {
        if !self.parts.sensors.knows(&reading.sensor) {
            self.meet(&reading.sensor).await;
        }
        let mut found = Vec::new();
        // Data that carry their own time are of no clock here.
        let vouched = vouched.filter(|_| reading.time_source == pb::TimeSource::Device);
        let clock = (vouched.unwrap_or(now), vouched.is_some());
        self.parts
            .sensors
            .judge(&mut reading, clock, &mut found, &mut step.state);
        let quality = Quality::from_u8(reading.quality).unwrap_or(Quality::Bad);
        let value = quality.admit(reading.value);
        for f in self
            .forecasters
            .values_mut()
            .chain(self.beside.values_mut())
        {
            f.reading(&reading.sensor, reading.time, value);
        }
        if !self.parts.sketches.knows(&reading.sensor)
            && self.parts.sensors.watches(&reading.sensor)
        {
            let stored = self
                .parts
                .buffer
                .state(&Sketches::key(&reading.sensor))
                .await;
            let stored = stored.ok().flatten();
            self.parts.sketches.meet(&reading.sensor, stored.as_deref());
        }
        self.parts
            .sketches
            .add(&reading, &mut found, &mut step.state);
        step.records.push(RecordBody::Reading(reading));
        step.records.append(&mut found);
    }

    /// Lets every forecaster close what is finished, then lets the machines know how their models did.
    async fn advance(&mut self, step: &mut Step) {
        let names: Vec<String> = self.forecasters.keys().cloned().collect();
        for name in names {
            let told = step.records.len();
            if let Some(f) = self.forecasters.get_mut(&name) {
                f.advance(step);
                self.parts.sensors.explain_shifts(&mut step.records, told);
            }
            if let (Some(beside), Some(f)) =
                (self.beside.get_mut(&name), self.forecasters.get(&name))
            {
                let charge = beside.compares_with(f).then(|| f.in_charge());
                let said: Vec<RecordBody> = step.records.split_off(told);
                beside.hear(charge, &said, step);
                step.records.extend(said);
            }
            for note in std::mem::take(&mut step.notes) {
                self.note(&name, note, step).await;
            }
        }
        let names: Vec<String> = self.beside.keys().cloned().collect();
        for name in names {
            let mut apart = Step::default();
            if let Some(f) = self.beside.get_mut(&name) {
                f.advance(&mut apart);
            }
            step.records.append(&mut apart.records);
            step.state.append(&mut apart.state);
            for note in apart.notes {
                self.note(&name, note, step).await;
            }
        }
    }

    fn show(&self, step: &Step, readings: u64, answers: &[Answer]) {
        let refused: usize = answers.iter().map(|a| a.1.refused.len()).sum();
        let drifts = step
            .records
            .iter()
            .filter(|r| matches!(r, RecordBody::Drift(_)))
            .count();
        let faults = self.parts.sensors.faults();
        self.parts.board.update(|f| {
            f.readings += readings;
            f.refused += refused as u64;
            f.drift_signals += drifts as u64;
            f.faults = faults;
        });
        for record in &step.records {
            if let RecordBody::Drift(d) = record {
                tracing::warn!(forecaster = %d.forecaster, sensor = %d.sensor, detector = %d.detector,
                    raised = d.raised, severity = d.severity, "drift signal");
            }
        }
        for f in step.records.iter().rev() {
            if let RecordBody::Forecast(f) = f
                && !f.shadow
            {
                self.parts.board.update(|b| {
                    let facts = b.forecasters.entry(f.forecaster.clone()).or_default();
                    if facts.last.as_ref().is_none_or(|l| l.origin < f.origin_ms) {
                        facts.last = Some(crate::status::board::LastForecast {
                            origin: f.origin_ms,
                            period: f.period_ms,
                            mean: f.mean.clone(),
                        });
                    }
                });
            }
        }
    }
}
