//! Moves bytes between buffer and connection as the machine says; decides nothing itself.

use std::time::Duration;

use fieldcast_wire::caps::{MAX_BLOCKS_ASKED, MAX_FORECASTERS};
use fieldcast_wire::topics::DeviceTopic;
use fieldcast_wire::{RecordBody, SCHEMA, Topics, message, pb};
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::client::{Connection, Incoming};
use super::machine::{Event, Lane, Output, State};
use super::{Request, UplinkEvent, UplinkHandle};
use crate::buffer::{BufferError, BufferHandle, Commit};
use crate::clock::{self, Clock};
use crate::identity::Identity;

/// How often time is looked at.
const TICK: Duration = Duration::from_millis(200);
/// How often what the buffer holds is said again, so that an ack that was lost with everything else comes again.
const SYNC_EVERY_MS: i64 = 60_000;

struct Driver {
    identity: Identity,
    topics: Topics,
    buffer: BufferHandle,
    clock: Clock,
    machine: State,
    connection: Option<Connection>,
    events: broadcast::Sender<UplinkEvent>,
    online: watch::Sender<bool>,
    session: u64,
    state: Option<pb::State>,
    state_count: u64,
    fact: Option<pb::ClockFact>,
    last_sync: i64,
}

/// Starts the uplink's task; it ends with `cancel`, after a good-bye.
#[must_use]
pub fn start(
    identity: Identity,
    buffer: BufferHandle,
    clock: Clock,
    cancel: CancellationToken,
) -> (UplinkHandle, tokio::task::JoinHandle<()>) {
    let (requests, inbox) = mpsc::channel(64);
    let (events, _) = broadcast::channel(256);
    let (online, online_seen) = watch::channel(false);
    let handle = UplinkHandle { requests, events: events.clone(), online: online_seen };
    let driver = Driver {
        topics: Topics::new(&identity.site),
        identity,
        buffer,
        clock,
        machine: State::default(),
        connection: None,
        events,
        online,
        session: 0,
        state: None,
        state_count: 0,
        fact: None,
        last_sync: 0,
    };
    (handle, tokio::spawn(driver.run(inbox, cancel)))
}

impl Driver {
    async fn run(mut self, mut inbox: mpsc::Receiver<Request>, cancel: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut sealed = self.buffer.sealed();
        loop {
            let done = tokio::select! {
                () = cancel.cancelled() => break,
                _ = tick.tick() => self.tick().await,
                Ok(()) = sealed.changed() => self.step(Event::Sealed).await,
                Some(request) = inbox.recv() => { self.request(request); Ok(()) }
                incoming = next(&mut self.connection) => self.incoming(incoming).await,
            };
            if let Err(e) = done {
                tracing::error!("uplink: {e}");
            }
        }
        self.leave().await;
    }

    async fn tick(&mut self) -> Result<(), BufferError> {
        if self.machine.is_online() && self.clock.monotonic_ms() - self.last_sync >= SYNC_EVERY_MS {
            self.sync().await?;
        }
        self.step(Event::Tick).await
    }

    async fn step(&mut self, event: Event) -> Result<(), BufferError> {
        let mut outputs = self.machine.step(event, self.clock.monotonic_ms());
        while !outputs.is_empty() {
            let mut next = Vec::new();
            for output in outputs {
                if let Some(event) = self.perform(output).await? {
                    next.extend(self.machine.step(event, self.clock.monotonic_ms()));
                }
            }
            outputs = next;
        }
        Ok(())
    }

    async fn perform(&mut self, output: Output) -> Result<Option<Event>, BufferError> {
        match output {
            Output::Connect => self.connect().await,
            Output::Introduce => {
                self.introduce().await?;
                Ok(None)
            }
            Output::Publish(key, lane) => {
                let topic = match lane {
                    Lane::Live => DeviceTopic::Live,
                    Lane::Backlog => DeviceTopic::Back,
                };
                if let Some(bytes) = self.buffer.batch(key).await? {
                    // A full queue drops it here; its deadline sends it again.
                    self.publish(topic, false, bytes);
                    Ok(None)
                } else {
                    // Given up under a gap record since it was listed.
                    Ok(Some(Event::Applied { done: vec![key], reload: false }))
                }
            }
            Output::Load { after, limit } => {
                let found = self.buffer.unacked(after, limit).await?;
                let complete = found.len() < limit;
                Ok(Some(Event::Loaded { found, complete }))
            }
        }
    }

    async fn connect(&mut self) -> Result<Option<Event>, BufferError> {
        self.session = self.buffer.next_session().await?;
        match Connection::open(&self.identity, &self.topics, self.presence(false)) {
            Ok(connection) => {
                self.connection = Some(connection);
                Ok(None)
            }
            Err(e) => {
                tracing::error!("uplink: the CA file cannot be read ({e}); correct `ca_file` in the identity");
                Ok(Some(Event::Disconnected { jitter: 1.0 }))
            }
        }
    }

    async fn introduce(&mut self) -> Result<(), BufferError> {
        tracing::info!(session = self.session, "connected to the broker");
        self.publish(DeviceTopic::Presence, true, self.presence(true));
        self.sync().await?;
        self.publish_state();
        self.online.send_replace(true);
        // Nobody listens where no forecaster is configured.
        let _ = self.events.send(UplinkEvent::Connected);
        Ok(())
    }

    async fn sync(&mut self) -> Result<(), BufferError> {
        self.last_sync = self.clock.monotonic_ms();
        for head in self.buffer.sync_heads(true).await? {
            let sync = pb::Sync {
                schema: SCHEMA,
                epoch: head.epoch.to_vec(),
                session: self.session,
                oldest_batch: head.oldest_batch,
                next_batch: head.next_batch,
                next_seq: head.next_seq,
                acked_through: head.acked_through,
                hub_instance: head.hub_instance,
                clock: Some(self.clock.stamp()),
                buffered_bytes: head.buffered_bytes,
            };
            self.publish(DeviceTopic::Sync, false, message::encode(&sync));
        }
        Ok(())
    }

    async fn incoming(&mut self, incoming: Incoming) -> Result<(), BufferError> {
        match incoming {
            Incoming::Up => self.step(Event::Connected).await,
            Incoming::Down(reason) => {
                self.connection = None;
                if self.online.send_replace(false) {
                    let _ = self.events.send(UplinkEvent::Disconnected);
                }
                tracing::warn!("no connection to {:?}: {reason}; trying again", self.identity.broker);
                self.step(Event::Disconnected { jitter: jitter() }).await
            }
            Incoming::Message { topic, payload } => match self.topics.parse(&topic) {
                Some((device, kind)) if device == self.identity.device => self.message(kind, payload).await,
                _ => Ok(()),
            },
        }
    }

    async fn message(&mut self, kind: DeviceTopic, payload: Vec<u8>) -> Result<(), BufferError> {
        match kind {
            DeviceTopic::Ack => match message::decode::<pb::Ack>("ack", &payload) {
                Ok(ack) => return self.ack(ack).await,
                Err(e) => tracing::warn!("{e}"),
            },
            DeviceTopic::Desired => match message::decode::<pb::Desired>("desired orders", &payload) {
                Ok(desired) if desired.orders.len() <= MAX_FORECASTERS => {
                    let _ = self.events.send(UplinkEvent::Desired(Box::new(desired)));
                }
                Ok(desired) => tracing::warn!("{} orders at once are ignored; allowed are {MAX_FORECASTERS}", desired.orders.len()),
                Err(e) => tracing::warn!("{e}"),
            },
            DeviceTopic::Block(sha256, n) => {
                let _ = self.events.send(UplinkEvent::Block { sha256, n, bytes: payload });
            }
            _ => {}
        }
        Ok(())
    }

    async fn ack(&mut self, ack: pb::Ack) -> Result<(), BufferError> {
        self.learn_time(&ack).await?;
        let outcome = self.buffer.apply_ack(ack).await?;
        for (seq, reason) in &outcome.rejected {
            tracing::warn!("the hub refused record {seq}: {reason}");
        }
        if let Some(epoch) = outcome.new_epoch {
            tracing::warn!("the hub asked for a new epoch: {epoch}");
            self.sync().await?;
        }
        let reload = outcome.rewound || outcome.new_epoch.is_some() || outcome.renumbered > 0;
        self.step(Event::Applied { done: outcome.done, reload }).await
    }

    /// Cristian's method on the echoed stamp; a fact is recorded only where it says something new.
    async fn learn_time(&mut self, ack: &pb::Ack) -> Result<(), BufferError> {
        if ack.hub_time_ms == 0 || ack.echo_monotonic_ms == 0 || ack.echo_boot_id != self.clock.boot_id() {
            return Ok(());
        }
        let now = self.clock.stamp();
        let Some((offset_ms, error_ms)) =
            clock::offset(ack.echo_monotonic_ms, ack.hub_time_ms, now.monotonic_ms, now.wall_ms)
        else {
            return Ok(());
        };
        let news = self.fact.as_ref().is_none_or(|last| {
            error_ms * 2 < last.error_ms || (offset_ms - last.offset_ms).abs() > error_ms + last.error_ms
        });
        if !news {
            return Ok(());
        }
        self.clock.raise_floor(ack.hub_time_ms);
        let fact =
            pb::ClockFact { seq: 0, boot_id: now.boot_id, offset_ms, error_ms, synchronised: now.synchronised };
        self.fact = Some(fact.clone());
        self.buffer.commit(Commit { records: vec![RecordBody::Clock(fact)], ..Commit::default() }).await?;
        Ok(())
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::State(state) => {
                self.state = Some(*state);
                self.publish_state();
            }
            Request::Blob(mut request) => {
                request.missing.truncate(MAX_BLOCKS_ASKED);
                self.publish(DeviceTopic::Blob, false, message::encode(&request));
            }
        }
    }

    fn publish_state(&mut self) {
        if let Some(state) = self.state.clone().filter(|_| self.machine.is_online()) {
            self.state_count += 1;
            let state = pb::State { boot: self.buffer.boot(), n: self.state_count, ..state };
            self.publish(DeviceTopic::State, true, message::encode(&state));
        }
    }

    fn presence(&self, online: bool) -> Vec<u8> {
        message::encode(&pb::Presence {
            session: self.session,
            online,
            agent_version: crate::VERSION.to_owned(),
            time_ms: self.clock.wall_ms(),
        })
    }

    fn publish(&self, topic: DeviceTopic, retain: bool, payload: Vec<u8>) {
        if let Some(connection) = &self.connection {
            let topic = self.topics.device(&self.identity.device, topic);
            if !connection.publish(topic, retain, payload) {
                tracing::debug!("the connection's queue is full; the message comes again");
            }
        }
    }

    async fn leave(self) {
        if self.machine.is_online() {
            self.publish(DeviceTopic::Presence, true, self.presence(false));
            if let Some(mut connection) = self.connection {
                connection.goodbye();
                let end = async { while !matches!(connection.incoming.recv().await, None | Some(Incoming::Down(_))) {} };
                // Nothing is lost where the broker does not answer in time: its will says the same.
                let _ = tokio::time::timeout(Duration::from_secs(2), end).await;
            }
        }
    }
}

async fn next(connection: &mut Option<Connection>) -> Incoming {
    match connection {
        Some(connection) => connection
            .incoming
            .recv()
            .await
            .unwrap_or_else(|| Incoming::Down("the connection's task ended".to_owned())),
        None => std::future::pending().await,
    }
}

/// Uniform in [0, 1): spreads a fleet's reconnections, nothing that must be secret.
fn jitter() -> f64 {
    let bits = uuid::Uuid::new_v4().as_u64_pair().1 & 0xFFFF_FFFF;
    #[allow(clippy::cast_precision_loss, reason = "32 bits fit exactly")]
    let share = bits as f64 / f64::from(u32::MAX);
    share.min(0.999_999)
}
