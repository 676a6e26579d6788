//! One made device: carries out what its machines decide, on the process's clock; decides nothing about sending or models.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use fieldcast_device::acks;
use fieldcast_device::batches::BatchKey;
use fieldcast_device::clock::offset;
use fieldcast_device::uplink::{Event, Lane, Output, State, step};
use fieldcast_sim::{Channel, Stream};
use fieldcast_wire::{
    DeviceId, DeviceTopic, Reading, RecordBody, SCHEMA, Sha256, Topics, message, pb,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::buffer::Buffer;
use super::link::{Heard, Link, Way};
use super::model::{Effect, Models, Owner};
use super::plan::{Plan, millis};
use super::shelf::Shelf;
use super::tally::Tally;
use crate::clock::now;

/// What all devices of a fleet share.
pub(super) struct Fleet {
    pub(super) plan: Arc<Plan>,
    pub(super) topics: Topics,
    pub(super) site: String,
    pub(super) way: Way,
    pub(super) root: [u8; 32],
    pub(super) shelf: Arc<Shelf>,
    pub(super) tally: Arc<Tally>,
    pub(super) began: Instant,
    /// Sessions and boots of this run begin above those of earlier ones.
    pub(super) run: u64,
    pub(super) stop: CancellationToken,
}

/// What became of a device's readings, by their places.
#[derive(Debug, Clone)]
pub struct Report {
    /// Counted from 0.
    pub device: u32,
    /// Readings made.
    pub made: u64,
    /// Given up under a gap record.
    pub dropped: Vec<Range<u64>>,
    /// Not acknowledged: the hub may have them or not.
    pub open: Vec<Range<u64>>,
}

pub(super) struct Device {
    fleet: Arc<Fleet>,
    number: u32,
    id: DeviceId,
    token: String,
    buffer: Buffer,
    machine: State,
    models: Models,
    link: Option<Link>,
    online: bool,
    session: u64,
    said: u64,
    /// When it said so last, by its monotonic clock.
    state_sent: i64,
    boot: u64,
    channels: Vec<Channel>,
    taken: u64,
    dice: Stream,
    anchored: bool,
    /// Never connects.
    offline: bool,
}

impl Device {
    pub(super) fn new(fleet: Arc<Fleet>, number: u32, id: DeviceId, token: String) -> Self {
        let plan = &fleet.plan;
        let owner = Owner {
            number,
            site: fleet.site.clone(),
            device: id.as_str().to_owned(),
            root: fleet.root,
        };
        let (shelf, tally) = (Arc::clone(&fleet.shelf), Arc::clone(&fleet.tally));
        let seed = plan.seed ^ (u64::from(number) << 32) ^ fleet.run;
        Self {
            number,
            id,
            token,
            buffer: Buffer::new(number, fleet.run, plan.buffer_bytes),
            machine: State::new(plan.settings.clone(), seed),
            models: Models::new(owner, Arc::clone(plan), shelf, tally),
            link: None,
            online: false,
            session: fleet.run,
            said: 0,
            state_sent: 0,
            boot: fleet.run,
            channels: plan.channels(number),
            taken: 0,
            dice: Stream::new(seed, 3),
            anchored: false,
            offline: plan.offline(number),
            fleet,
        }
    }

    fn now(&self) -> i64 {
        millis(self.fleet.began.elapsed()) + 1
    }

    /// Lives until its readings are delivered, or are not in time.
    pub(super) async fn run(mut self) -> Report {
        let plan = Arc::clone(&self.fleet.plan);
        let offline = self.offline;
        let joins = plan.joins(self.number);
        let every = millis(plan.every);
        let mut next = plan.phase(self.number) + every;
        let mut storm = plan.storm_after(0);
        let mut until = millis(plan.duration);
        let stop = self.fleet.stop.clone();
        loop {
            let now = self.now();
            if stop.is_cancelled() {
                until = until.min(now);
            }
            let taking = now < until;
            if taking && now >= next {
                next += every;
                if plan.waiting.is_none_or(|most| self.buffer.waiting() < most) {
                    self.take(now).await;
                }
                continue;
            }
            if !taking {
                // Storms end with the readings, so that the rest can get through.
                storm = i64::MAX;
                if self.buffer.has_unsealed() {
                    self.seal(now).await;
                }
                let done = offline || self.buffer.is_empty();
                if done || now >= until + millis(plan.drain) {
                    break;
                }
            }
            if now >= storm {
                storm = plan.storm_after(now);
                self.cut().await;
                continue;
            }
            let wake = if offline {
                i64::MAX
            } else if now < joins {
                joins
            } else {
                self.feed(Event::Tick).await;
                self.tick().await;
                self.machine.wake_at().min(self.models.wake_at())
            };
            let due = if taking {
                next.min(until)
            } else {
                until + millis(plan.drain)
            };
            let wait = wake.min(due).min(storm).saturating_sub(now);
            let wait = wait.clamp(1, 3_600_000).unsigned_abs();
            let slept = tokio::time::sleep(Duration::from_millis(wait));
            tokio::select! {
                () = stop.cancelled(), if taking => {}
                heard = next_of(&mut self.link) => self.heard(heard).await,
                () = slept => {}
            }
        }
        self.leave().await;
        Report {
            device: self.number,
            made: self.taken * u64::from(plan.sensors),
            dropped: self.buffer.dropped().to_vec(),
            open: self.buffer.unacknowledged(),
        }
    }

    async fn leave(&mut self) {
        if let Some(link) = self.link.take() {
            let (topic, payload) = self.presence(false);
            link.publish(topic, true, payload);
            link.close().await;
        }
        self.gone();
    }

    /// Takes readings of all sensors, lets models forecast, and seals.
    async fn take(&mut self, now: i64) {
        let plan = Arc::clone(&self.fleet.plan);
        let external = plan.speed > 1;
        let mut time = 0;
        for _ in 0..plan.per_batch {
            time = plan.time(self.number, self.taken);
            self.taken += 1;
            let shift = plan.shift(time);
            for (sensor, channel) in (0..).zip(&mut self.channels) {
                let reading = Reading {
                    sensor: Plan::sensor(sensor),
                    time,
                    value: channel.next(time, shift),
                    quality: 0,
                    time_source: if external {
                        pb::TimeSource::External
                    } else {
                        pb::TimeSource::Device
                    },
                };
                self.buffer.push(RecordBody::Reading(reading), now);
            }
        }
        let made = u64::from(plan.per_batch) * u64::from(plan.sensors);
        Tally::add(&self.fleet.tally.produced, made);
        let mut effects = Vec::new();
        if let Some(channel) = self.channels.first() {
            self.models
                .forecast(channel, time, wall(), &mut effects)
                .await;
        }
        self.carry_out(effects).await;
        self.seal(now).await;
        if self.dice.uniform() < plan.faults.cut {
            self.cut().await;
        }
    }

    async fn seal(&mut self, now: i64) {
        let gaps = self.buffer.dropped().len();
        match self.buffer.seal(now, wall()) {
            Ok(readings) => Tally::add(&self.fleet.tally.sealed, readings),
            Err(e) => tracing::error!(device = %self.id, "{e}"),
        }
        let lost = self.buffer.dropped().iter().skip(gaps);
        Tally::add(
            &self.fleet.tally.dropped,
            lost.map(|r| r.end - r.start).sum(),
        );
        let newest = self.buffer.newest();
        self.feed(Event::Sealed { newest }).await;
    }

    /// The connection breaks without a goodbye.
    async fn cut(&mut self) {
        if self.link.take().is_some() {
            self.gone();
            self.feed(Event::Lost).await;
        }
    }

    fn gone(&mut self) {
        if std::mem::take(&mut self.online) {
            self.fleet.tally.online.fetch_sub(1, Relaxed);
        }
    }

    async fn tick(&mut self) {
        let mut effects = Vec::new();
        let now = self.now();
        if now >= self.state_sent + self.fleet.plan.settings.state_again {
            self.send_state();
        }
        if self.online && now >= self.models.wake_at() {
            self.models.tick(now, wall(), &mut effects).await;
        }
        self.carry_out(effects).await;
    }

    async fn carry_out(&mut self, effects: Vec<Effect>) {
        let mut dies = false;
        let mut records = false;
        for effect in effects {
            match effect {
                Effect::Ask(request) => {
                    self.publish(DeviceTopic::Blob, false, message::encode(&request));
                }
                Effect::Record(body) => {
                    records = true;
                    let now = self.now();
                    self.buffer.push(body, now);
                }
                Effect::Die => dies = true,
            }
        }
        if dies {
            self.buffer.boot();
            self.boot += 1;
            self.said = 0;
            self.anchored = false;
            self.link = None;
            self.gone();
            // What the process knew of sending is lost with it; the buffer is not.
            let seed = self.dice.uniform().to_bits();
            self.machine = State::new(self.fleet.plan.settings.clone(), seed);
            let mut effects = Vec::new();
            self.models.restarted(wall(), &mut effects).await;
            effects.retain(|e| !matches!(e, Effect::Die));
            Box::pin(self.carry_out(effects)).await;
        } else if records && self.online {
            let now = self.now();
            Box::pin(self.seal(now)).await;
        }
        if std::mem::take(&mut self.models.changed) {
            self.send_state();
        }
    }

    async fn feed(&mut self, event: Event) {
        if self.offline {
            return;
        }
        let mut queue = VecDeque::from([event]);
        while let Some(event) = queue.pop_front() {
            let now = self.now();
            for output in step(&mut self.machine, event, now) {
                queue.extend(self.output(output));
            }
        }
    }

    fn output(&mut self, output: Output) -> Option<Event> {
        match output {
            Output::Connect => {
                self.session += 1;
                let will = self.presence(false);
                self.link = Some(Link::open(
                    &self.fleet.way,
                    self.id.as_str(),
                    &self.token,
                    will,
                ));
            }
            Output::Disconnect => {
                self.link = None;
                self.gone();
            }
            Output::Sync => self.sync(),
            Output::Page { lane, after, limit } => {
                let batches = self.buffer.unacked(after, limit);
                return Some(Event::Page { lane, batches });
            }
            Output::Publish { key, lane } => {
                let Some(payload) = self.buffer.batch(key) else {
                    return Some(Event::Gone(key));
                };
                let topic = match lane {
                    Lane::Live => DeviceTopic::Live,
                    Lane::Backlog => DeviceTopic::Back,
                };
                if self.dice.uniform() < self.fleet.plan.faults.repeat {
                    self.count(key, payload.len());
                    self.publish(topic, false, payload.clone());
                }
                self.count(key, payload.len());
                if !self.publish(topic, false, payload) {
                    return Some(Event::Refused(key));
                }
            }
        }
        None
    }

    fn count(&mut self, key: BatchKey, bytes: usize) {
        let again = self.buffer.sent(key);
        let tally = &self.fleet.tally;
        Tally::add(&tally.published, 1);
        Tally::add(&tally.resent, u64::from(again));
        Tally::add(&tally.bytes, bytes as u64);
    }

    fn sync(&mut self) {
        let now = self.now();
        for head in self.buffer.heads(now, wall()) {
            let sync = head.message(self.session);
            self.publish(DeviceTopic::Sync, false, message::encode(&sync));
        }
    }

    fn publish(&self, topic: DeviceTopic, retain: bool, payload: Vec<u8>) -> bool {
        let topic = self.fleet.topics.device(&self.id, topic);
        self.link
            .as_ref()
            .is_some_and(|link| link.publish(topic, retain, payload))
    }

    fn presence(&self, online: bool) -> (String, Vec<u8>) {
        let presence = pb::Presence {
            session: self.session,
            online,
            agent_version: env!("CARGO_PKG_VERSION").into(),
            time_ms: wall(),
        };
        let topic = self.fleet.topics.device(&self.id, DeviceTopic::Presence);
        (topic, message::encode(&presence))
    }

    fn send_state(&mut self) {
        if !self.online {
            return;
        }
        self.said += 1;
        self.state_sent = self.now();
        let (records, bytes) = self.buffer.depth();
        let state = pb::State {
            boot: self.boot,
            n: self.said,
            agent_version: env!("CARGO_PKG_VERSION").into(),
            buffered_records: records,
            buffered_bytes: bytes,
            ..self.models.state()
        };
        self.publish(DeviceTopic::State, true, message::encode(&state));
    }

    async fn heard(&mut self, heard: Heard) {
        match heard {
            Heard::Nothing => {}
            Heard::Connected => {
                let standing = self.fleet.topics.device_standing(&self.id);
                let asked = self.link.as_ref().is_some_and(|l| l.subscribe(standing));
                if !asked {
                    self.cut().await;
                }
            }
            Heard::Subscribed => {
                self.online = true;
                self.fleet.tally.online.fetch_add(1, Relaxed);
                Tally::add(&self.fleet.tally.connections, 1);
                let (topic, payload) = self.presence(true);
                if let Some(link) = &self.link {
                    link.publish(topic, true, payload);
                }
                self.models.connected();
                self.models.changed = false;
                self.send_state();
                let newest = self.buffer.newest();
                self.feed(Event::Connected { newest }).await;
            }
            Heard::Message(topic, payload) => self.message(&topic, &payload).await,
            Heard::Lost(why) => {
                tracing::debug!(device = %self.id, why, "connection lost");
                self.link = None;
                self.gone();
                self.feed(Event::Lost).await;
            }
        }
    }

    async fn message(&mut self, topic: &str, payload: &[u8]) {
        let Some((_, topic)) = self
            .fleet
            .topics
            .parse(topic)
            .filter(|(device, _)| *device == self.id)
        else {
            return;
        };
        let mut effects = Vec::new();
        match topic {
            DeviceTopic::Ack => match message::receive::<pb::Ack>(payload) {
                Ok(ack) if ack.schema <= SCHEMA => self.ack(&ack).await,
                Ok(_) => {}
                Err(e) => tracing::warn!(device = %self.id, "{e}"),
            },
            DeviceTopic::Desired => match message::receive::<pb::Desired>(payload) {
                Ok(desired) => {
                    self.models.desired(&desired, wall(), &mut effects).await;
                    self.feed(Event::Told).await;
                }
                Err(e) => tracing::warn!(device = %self.id, "{e}"),
            },
            DeviceTopic::Blocks => match message::receive::<pb::Block>(payload) {
                Ok(block) => {
                    let at = (self.now(), wall());
                    if let Some(sha) = Sha256::from_slice(&block.sha256) {
                        let (n, content) = (block.number, &block.content);
                        self.models.block(sha, n, content, at, &mut effects).await;
                    }
                }
                Err(e) => tracing::warn!(device = %self.id, "{e}"),
            },
            _ => {}
        }
        self.carry_out(effects).await;
    }

    async fn ack(&mut self, ack: &pb::Ack) {
        if self.dice.uniform() < self.fleet.plan.faults.drop_acks {
            return;
        }
        if ack.epoch.is_empty() {
            tracing::warn!(device = %self.id, reason = ack.reason, "the hub did not take a message");
            return self.feed(Event::NotTaken(acks::no_room(ack))).await;
        }
        let now = self.now();
        if !self.anchored && ack.echo_boot_id == self.buffer.boot_id() {
            let said = offset(ack.echo_monotonic_ms, ack.hub_time_ms, now, wall());
            if let Some((offset_ms, error_ms)) = said {
                self.anchored = true;
                let fact = pb::ClockFact {
                    seq: 0,
                    boot_id: self.buffer.boot_id(),
                    offset_ms,
                    error_ms,
                    synchronised: true,
                };
                self.buffer.push(RecordBody::Clock(fact), now);
            }
        }
        let applied = self.buffer.apply(ack, now);
        for (readings, taken) in applied.acked {
            if readings > 0 {
                self.fleet.tally.acked(readings, now - taken);
            }
        }
        let refused = applied.outcome.rejected.len() as u64;
        let whole: u64 = applied.outcome.refused.iter().map(|r| r.1).sum();
        if refused + whole > 0 {
            Tally::add(&self.fleet.tally.rejected, refused + whole);
            tracing::warn!(device = %self.id, outcome = ?applied.outcome, "the hub refused records");
        }
        self.feed(Event::Acked(applied.outcome)).await;
    }
}

fn wall() -> i64 {
    now().timestamp_millis()
}

async fn next_of(link: &mut Option<Link>) -> Heard {
    match link {
        Some(link) => link.next().await,
        None => std::future::pending().await,
    }
}
