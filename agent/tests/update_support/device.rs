//! An agent's inside between channels: owns its wiring, never a model or an order.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fieldcast_agent::buffer::{Buffer, BufferHandle, Limits};
use fieldcast_agent::clock::Clock;
use fieldcast_agent::config::LatencyConfig;
use fieldcast_agent::control::Control;
use fieldcast_agent::identity::Identity;
use fieldcast_agent::pipeline::engine::{Engine, Parts};
use fieldcast_agent::pipeline::sensors::Sensors;
use fieldcast_agent::quality::Checker;
use fieldcast_agent::source::{Ingest, Item, RawReading};
use fieldcast_agent::status::board::Board;
use fieldcast_agent::update::bundles::Bundles;
use fieldcast_agent::update::commands::{AtWork, Desk};
use fieldcast_agent::update::driver::{Ask, FromHub, Trust, Updater};
use fieldcast_agent::update::witness::Witness;
use fieldcast_wire::caps::BLOCK;
use fieldcast_wire::{RecordBody, Sha256, pb};
use ring::signature::KeyPair;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{desired, key, spec};

pub const HOUR: i64 = 3_600_000;

/// An agent's inside without network; the data folder outlives it.
pub struct Device {
    pub ingests: mpsc::Sender<Ingest>,
    pub hub: mpsc::Sender<FromHub>,
    pub asks: mpsc::Receiver<Ask>,
    pub states: watch::Receiver<Vec<pb::ForecasterState>>,
    pub buffer: Buffer,
    pub handle: BufferHandle,
    pub engine: tokio::task::JoinHandle<()>,
    pub board: Arc<Board>,
    pub clock: Clock,
    pub cancel: CancellationToken,
    pub trust: watch::Receiver<Trust>,
    pub control: Control,
    /// Filters that commands put in force.
    pub filters: Arc<Mutex<Vec<String>>>,
}

impl Device {
    pub async fn start(dir: &std::path::Path) -> Self {
        Self::start_at(dir, 0).await
    }

    /// Not before this time.
    pub async fn start_at(dir: &std::path::Path, floor: i64) -> Self {
        Self::start_with(dir, floor, LatencyConfig::default()).await
    }

    pub async fn start_with(dir: &std::path::Path, floor: i64, latency: LatencyConfig) -> Self {
        Self::start_leaving(dir, floor, latency, 0).await
    }

    /// With so much free disk left to others.
    pub async fn start_leaving(
        dir: &std::path::Path,
        floor: i64,
        latency: LatencyConfig,
        reserve: u64,
    ) -> Self {
        let clock = Clock::new();
        clock.raise_floor(floor);
        let buffer = Buffer::start(Limits::new(dir), clock.clone()).unwrap();
        let handle = buffer.handle.clone();
        let (ingests, ingest_inbox) = mpsc::channel(8);
        let (requests, request_inbox) = mpsc::channel(64);
        let (events, model_inbox) = mpsc::channel(8);
        let (hub, hub_inbox) = mpsc::channel(64);
        let (asks_in, asks) = mpsc::channel(16);
        let (states_in, states) = watch::channel(Vec::new());
        let cancel = CancellationToken::new();
        let (trust_in, trust) = watch::channel(Trust::default());
        let filters: Arc<Mutex<Vec<String>>> = Arc::default();
        let into = Arc::clone(&filters);
        let set = move |filter: &str| {
            into.lock().unwrap().push(filter.to_owned());
            Ok(())
        };
        let control = Control::new(CancellationToken::new(), Arc::new(set));
        let board = Arc::new(Board::default());
        let (witness, death) = Witness::open(dir, clock.boot_id(), handle.boot());
        let parts = Parts {
            buffer: handle.clone(),
            clock: clock.clone(),
            checker: Checker::default(),
            sensors: Sensors::new(BTreeMap::new()),
            sketches: fieldcast_agent::pipeline::sketches::Sketches::default(),
            specs: vec![spec()],
            probation: 3,
            latency,
            board: Arc::clone(&board),
            updater: requests,
            states: states_in,
        };
        let engine = Engine::start(parts, death).await.unwrap();
        let root = Sha256::from_slice(key(1).public_key().as_ref()).unwrap();
        let identity = format!(
            "site = \"plant\"\ndevice = \"pi\"\nbroker = \"mqtt://127.0.0.1:1\"\ntoken = \"t\"\nroot_public_key = \"{root}\"\n"
        );
        let updater = Updater {
            identity: Some(Identity::parse(std::path::Path::new("id"), &identity).unwrap()),
            bundles: Bundles::new(dir)
                .witnessed_by(witness)
                .leaving(reserve)
                .checked_by(std::path::Path::new(env!("CARGO_BIN_EXE_fieldcast-agent"))),
            buffer: handle.clone(),
            clock: clock.clone(),
            engine: events,
            asks: asks_in,
            commands: AtWork::new(Desk {
                buffer: handle.clone(),
                clock: clock.clone(),
                board: Arc::clone(&board),
                control: control.clone(),
            }),
            trust: trust_in,
            cancel: cancel.clone(),
        };
        tokio::spawn(updater.run(request_inbox, hub_inbox));
        let engine = tokio::spawn(engine.run(ingest_inbox, model_inbox, cancel.clone()));
        Self {
            ingests,
            hub,
            asks,
            states,
            buffer,
            handle,
            engine,
            board,
            clock,
            cancel,
            trust,
            control,
            filters,
        }
    }

    pub async fn hours(&self, hours: std::ops::Range<i64>) {
        assert!(self.hours_if_taken(hours).await);
    }

    pub async fn hours_if_taken(&self, hours: std::ops::Range<i64>) -> bool {
        let items = hours.flat_map(|h| {
            #[allow(clippy::cast_precision_loss, reason = "tests")]
            let value = 100.0 + (h % 24) as f64;
            let reading = RawReading {
                sensor: "demand".into(),
                time: h * HOUR,
                value,
                time_source: pb::TimeSource::External,
            };
            [Item::Reading(reading), Item::Complete(h * HOUR + 1)]
        });
        let (reply, answer) = oneshot::channel();
        let ingest = Ingest {
            source: "test".into(),
            sensors: Arc::new(["demand".to_owned()]),
            items: items.collect(),
            cursor: None,
            alarms: Vec::new(),
            reply,
        };
        self.ingests.send(ingest).await.unwrap();
        answer.await.unwrap().is_ok()
    }

    /// Orders a bundle and serves it.
    pub async fn order(&mut self, bytes: &[u8], version: u64, generation: u64, stage: pb::Stage) {
        self.hub
            .send(desired(bytes, version, generation, stage))
            .await
            .unwrap();
        self.serve(bytes, generation).await;
    }

    /// Answers every request for blocks out of `bytes` until this order's machine leaves downloading.
    pub async fn serve(&mut self, bytes: &[u8], generation: u64) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        loop {
            tokio::select! {
                Some(ask) = self.asks.recv() => {
                    assert_eq!(ask.sha, Sha256::of(bytes));
                    for n in ask.missing {
                        let at = n as usize * BLOCK;
                        let block = bytes[at..bytes.len().min(at + BLOCK)].to_vec();
                        self.hub.send(FromHub::Block(ask.sha, n, block)).await.unwrap();
                    }
                }
                changed = self.states.changed() => changed.unwrap(),
                () = tokio::time::sleep_until(deadline) => panic!("{:?}", self.state()),
            }
            let s = self.state();
            let arriving = [
                pb::ModelPhase::None,
                pb::ModelPhase::Downloading,
                pb::ModelPhase::Verified,
            ];
            if s.generation == generation && !arriving.contains(&s.phase()) {
                return;
            }
        }
    }

    pub fn state(&self) -> pb::ForecasterState {
        self.states.borrow().first().cloned().unwrap_or_default()
    }

    pub async fn phase(&mut self, phase: pb::ModelPhase) -> pb::ForecasterState {
        self.until(|s| s.phase() == phase).await
    }

    /// Waits for a state of the forecaster that is so.
    pub async fn until(
        &mut self,
        so: impl Fn(&pb::ForecasterState) -> bool,
    ) -> pb::ForecasterState {
        let wait = self.states.wait_for(|s| s.first().is_some_and(&so));
        let found = tokio::time::timeout(Duration::from_secs(30), wait).await;
        found
            .map(|s| s.unwrap().first().cloned().unwrap())
            .unwrap_or_else(|_| panic!("{:?}", self.state()))
    }

    /// Feeds hours from this one on until a forecast is `bytes`' own; gives the next hour.
    pub async fn until_running(&self, bytes: &[u8], mut hour: i64) -> i64 {
        let sha = Sha256::of(bytes).0;
        let back = async {
            while self.state().running != sha {
                self.hours(hour..hour + 1).await;
                hour += 1;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), back)
            .await
            .unwrap_or_else(|_| panic!("{:?}", self.state()));
        hour
    }

    /// All records that wait for the hub.
    pub async fn records(&self) -> Vec<RecordBody> {
        self.handle.seal().await.unwrap();
        let mut found = Vec::new();
        for info in self.handle.unacked(0, 1_000).await.unwrap() {
            let bytes = self.handle.batch(info.key).await.unwrap().unwrap();
            let records = fieldcast_wire::batch::decode(&bytes).unwrap().records;
            found.extend(records.into_iter().map(|r| r.body));
        }
        found
    }

    /// Outcomes under a subject that wait for the hub, once there is one: whether it counts as done, and why.
    pub async fn outcomes(&self, subject: &str) -> Vec<(bool, String)> {
        let there = async {
            loop {
                let of = |record| match record {
                    RecordBody::Outcome(o) if o.subject == subject => Some((o.ok, o.message)),
                    _ => None,
                };
                let found: Vec<_> = self.records().await.into_iter().filter_map(of).collect();
                if !found.is_empty() {
                    return found;
                }
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(30), there).await;
        found.unwrap_or_else(|_| panic!("no outcome of {subject}"))
    }

    /// Waits until what was refused last begins like this.
    pub async fn refuses(&mut self, number: &str) -> String {
        let wait = self.trust.wait_for(|t| t.refused.starts_with(number));
        let found = tokio::time::timeout(Duration::from_secs(30), wait).await;
        found
            .map(|t| t.unwrap().refused.clone())
            .unwrap_or_else(|_| panic!("not {number}: {:?}", self.trust.borrow()))
    }

    /// All paired losses that wait for the hub, and none of a shadow's own forecasts beside them.
    pub async fn paired(&self) -> Vec<pb::PairedLosses> {
        let mut found = Vec::new();
        for record in self.records().await {
            match record {
                RecordBody::Paired(paired) => found.push(paired),
                RecordBody::Forecast(f) => assert!(!f.shadow, "{f:?}"),
                RecordBody::Residual(r) => assert!(!r.shadow, "{r:?}"),
                _ => {}
            }
        }
        found
    }

    pub async fn stop(self) {
        self.cancel.cancel();
        self.engine.await.unwrap();
        drop(self.handle);
        self.buffer.close().await.unwrap();
    }

    /// As a power cut would: nothing is told that it ends.
    pub async fn die(self) {
        self.engine.abort();
        let _ = self.engine.await;
        self.cancel.cancel();
        drop(self.handle);
        self.buffer.close().await.unwrap();
    }
}
