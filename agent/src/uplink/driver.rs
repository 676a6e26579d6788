//! The uplink's task: carries the machine's outputs to broker and buffer; decides nothing itself.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use fieldcast_device::acks;
use fieldcast_device::clock::offset;
use fieldcast_wire::caps::MAX_BLOCKS_ASKED;
use fieldcast_wire::{DeviceTopic, RecordBody, SCHEMA, Sha256, Topics, message, pb};
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::client::{Connection, LinkEvent};
use super::machine::{self, Event, Lane, Output, Settings, State};
use crate::buffer::{BufferError, BufferHandle, Commit};
use crate::clock::{Clock, Millis};
use crate::identity::Identity;

/// What comes from the hub, and whether it can be reached.
#[derive(Debug, Clone)]
pub enum UplinkEvent {
    /// Connected and subscribed.
    Connected,
    /// The connection is gone.
    Disconnected,
    /// Signed orders; also kept in [`UplinkHandle::desired`].
    Desired(Arc<pb::Desired>),
    /// One block of a bundle.
    Block {
        /// Of which bundle.
        sha: Sha256,
        /// Number of the block.
        n: u32,
        /// Its bytes.
        bytes: Arc<[u8]>,
    },
}

/// The uplink as people see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkStatus {
    /// Connected and subscribed.
    pub connected: bool,
    /// Wall time of the last change.
    pub since_ms: Millis,
    /// Connections so far.
    pub session: u64,
    /// Batches sent and not acknowledged.
    pub in_flight: usize,
    /// Wall time of the last acknowledgement.
    pub last_ack_ms: Option<Millis>,
    /// Hub time minus device time, and its error bound.
    pub clock_offset: Option<(Millis, Millis)>,
    /// Why the last connection ended.
    pub last_error: Option<String>,
    /// When the hub last said that it did not take a message, and why.
    pub not_taken: Option<(Millis, String)>,
}

enum Request {
    State(Box<pb::State>),
    Blob(pb::BlobRequest),
}

/// A way to the uplink; clones share it.
#[derive(Clone)]
pub struct UplinkHandle {
    requests: mpsc::Sender<Request>,
    events: broadcast::Sender<UplinkEvent>,
    desired: watch::Receiver<Option<Arc<pb::Desired>>>,
    status: watch::Receiver<LinkStatus>,
}

impl UplinkHandle {
    /// Publishes what runs, retained, now and after each reconnection. `boot`, `n` and the version are filled in here.
    pub async fn publish_state(&self, state: pb::State) {
        // Only fails while the agent ends.
        let _ = self.requests.send(Request::State(Box::new(state))).await;
    }

    /// Asks for blocks of a bundle; at most as many as one request may name.
    pub async fn request_blob(&self, sha: Sha256, missing: &[u32]) {
        let missing: Vec<u32> = missing.iter().copied().take(MAX_BLOCKS_ASKED).collect();
        let request = pb::BlobRequest {
            sha256: sha.to_vec(),
            offset_blocks: missing.first().copied().unwrap_or(0).into(),
            missing,
            framed: true,
        };
        let _ = self.requests.send(Request::Blob(request)).await;
    }

    /// What comes from now on; a receiver that lags loses the oldest.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<UplinkEvent> {
        self.events.subscribe()
    }

    /// The newest orders.
    #[must_use]
    pub fn desired(&self) -> watch::Receiver<Option<Arc<pb::Desired>>> {
        self.desired.clone()
    }

    /// How the uplink is.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<LinkStatus> {
        self.status.clone()
    }
}

/// Starts the uplink on the current runtime; it ends when `cancel` is, after saying goodbye.
#[must_use]
pub fn start(
    identity: Identity,
    buffer: BufferHandle,
    clock: Clock,
    settings: Settings,
    cancel: CancellationToken,
) -> (UplinkHandle, tokio::task::JoinHandle<()>) {
    let (requests, inbox) = mpsc::channel(16);
    let (events, _) = broadcast::channel(128);
    let (desired_in, desired) = watch::channel(None);
    let (status_in, status) = watch::channel(LinkStatus::default());
    let handle = UplinkHandle {
        requests,
        events: events.clone(),
        desired,
        status,
    };
    let seed = Sha256::of(
        format!(
            "{}{}{}",
            identity.device,
            clock.boot_id(),
            clock.monotonic_ms()
        )
        .as_bytes(),
    );
    let seed = seed.0.iter().take(8).fold(0, |n, b| n << 8 | u64::from(*b));
    let driver = Driver {
        topics: Topics::new(&identity.site),
        state_again: settings.state_again,
        machine: State::new(settings, seed),
        identity,
        buffer,
        clock,
        events,
        desired: desired_in,
        status: status_in,
        connection: None,
        state: None,
        state_n: 0,
        state_sent: 0,
        anchor: None,
        session: 0,
    };
    let task = tokio::spawn(driver.run(inbox, cancel));
    (handle, task)
}

struct Driver {
    identity: Identity,
    topics: Topics,
    buffer: BufferHandle,
    clock: Clock,
    machine: State,
    events: broadcast::Sender<UplinkEvent>,
    desired: watch::Sender<Option<Arc<pb::Desired>>>,
    status: watch::Sender<LinkStatus>,
    connection: Option<Connection>,
    state: Option<pb::State>,
    state_n: u64,
    /// When it was said last, by the monotonic clock.
    state_sent: Millis,
    state_again: Millis,
    anchor: Option<(Millis, Millis)>,
    session: u64,
}

impl Driver {
    async fn run(mut self, mut inbox: mpsc::Receiver<Request>, cancel: CancellationToken) {
        let mut sealed = self.buffer.sealed();
        self.feed(Event::Tick).await;
        loop {
            let wait = self
                .machine
                .wake_at()
                .min(self.state_sent + self.state_again)
                .saturating_sub(self.clock.monotonic_ms())
                .clamp(1, 60_000);
            let wait = Duration::from_millis(wait.unsigned_abs());
            let event = tokio::select! {
                () = cancel.cancelled() => break,
                link = next(&mut self.connection) => self.link(link).await,
                request = inbox.recv() => {
                    if let Some(request) = request { self.request(request).await; }
                    None
                }
                changed = sealed.changed() => match changed {
                    Ok(()) => Some(Event::Sealed { newest: *sealed.borrow_and_update() }),
                    // The buffer has closed: nothing can be sent any more.
                    Err(_) => break,
                },
                () = tokio::time::sleep(wait) => Some(Event::Tick),
            };
            if let Some(event) = event {
                self.feed(event).await;
            }
            if self.clock.monotonic_ms() >= self.state_sent + self.state_again {
                self.send_state().await;
            }
        }
        if let Some(connection) = self.connection.take() {
            let (topic, payload) = self.presence(false);
            connection.publish(topic, true, payload);
            connection.close().await;
        }
        self.gone(None).await;
    }

    async fn feed(&mut self, event: Event) {
        let mut queue = VecDeque::from([event]);
        while let Some(event) = queue.pop_front() {
            let outputs = machine::step(&mut self.machine, event, self.clock.monotonic_ms());
            for output in outputs {
                match self.carry_out(output).await {
                    Ok(Some(event)) => queue.push_back(event),
                    Ok(None) => {}
                    // The buffer's thread deals with its damage; the batch is looked for again later.
                    Err(e) => tracing::error!("{e}"),
                }
            }
        }
        let in_flight = self.machine.in_flight();
        self.status
            .send_if_modified(|s| std::mem::replace(&mut s.in_flight, in_flight) != in_flight);
    }

    async fn carry_out(&mut self, output: Output) -> Result<Option<Event>, BufferError> {
        match output {
            Output::Connect => {
                self.session = self.buffer.next_session().await?;
                let will = self.presence(false);
                match Connection::open(&self.identity, &self.clock, will) {
                    Ok(connection) => self.connection = Some(connection),
                    Err(e) => {
                        self.gone(Some(e)).await;
                        return Ok(Some(Event::Lost));
                    }
                }
            }
            Output::Disconnect => {
                self.connection = None;
                self.gone(Some("no answer from the hub in time".into()))
                    .await;
            }
            Output::Sync => {
                let mut heads = self.buffer.sync_heads().await?;
                // The current epoch comes first in the list and is said last: its answer is the one waited for.
                heads.reverse();
                for head in heads {
                    let sync = head.message(self.session);
                    self.publish(DeviceTopic::Sync, false, message::encode(&sync));
                }
            }
            Output::Page { lane, after, limit } => {
                return Ok(Some(match self.buffer.unacked(after, limit).await {
                    Ok(batches) => Event::Page { lane, batches },
                    Err(e) => {
                        tracing::error!("{e}; asked again soon");
                        Event::Unread { lane }
                    }
                }));
            }
            Output::Publish { key, lane } => {
                let Some(payload) = self.buffer.batch(key).await? else {
                    return Ok(Some(Event::Gone(key)));
                };
                let topic = match lane {
                    Lane::Live => DeviceTopic::Live,
                    Lane::Backlog => DeviceTopic::Back,
                };
                if !self.publish(topic, false, payload) {
                    return Ok(Some(Event::Refused(key)));
                }
            }
        }
        Ok(None)
    }

    fn publish(&self, topic: DeviceTopic, retain: bool, payload: Vec<u8>) -> bool {
        let topic = self.topics.device(&self.identity.device, topic);
        self.connection
            .as_ref()
            .is_some_and(|c| c.publish(topic, retain, payload))
    }

    fn presence(&self, online: bool) -> (String, Vec<u8>) {
        let presence = pb::Presence {
            session: self.session,
            online,
            agent_version: crate::VERSION.into(),
            time_ms: self.clock.wall_ms(),
        };
        let topic = self
            .topics
            .device(&self.identity.device, DeviceTopic::Presence);
        (topic, message::encode(&presence))
    }

    async fn gone(&self, error: Option<String>) {
        if let Err(e) = self.buffer.set_linked(false).await {
            tracing::debug!("{e}");
        }
        if let Some(e) = &error {
            tracing::warn!(broker = %self.identity.broker.host, "uplink lost: {e}");
        }
        let now = self.clock.wall_ms();
        let was = self.status.borrow().connected;
        self.status.send_modify(|s| {
            if s.connected {
                s.since_ms = now;
            }
            s.connected = false;
            s.last_error = error.or(s.last_error.take());
        });
        if was {
            // Nobody listens: nobody minds.
            let _ = self.events.send(UplinkEvent::Disconnected);
        }
    }

    async fn link(&mut self, event: LinkEvent) -> Option<Event> {
        match event {
            LinkEvent::Connected => {
                let standing = self.topics.device_standing(&self.identity.device);
                if !self
                    .connection
                    .as_ref()
                    .is_some_and(|c| c.subscribe(standing))
                {
                    self.connection = None;
                    self.gone(Some("the subscription could not be sent".into()))
                        .await;
                    return Some(Event::Lost);
                }
                None
            }
            LinkEvent::Subscribed => {
                let (topic, payload) = self.presence(true);
                if let Some(c) = &self.connection {
                    c.publish(topic, true, payload);
                }
                self.send_state().await;
                let (now, session) = (self.clock.wall_ms(), self.session);
                self.status.send_modify(|s| {
                    (s.connected, s.since_ms, s.session, s.last_error) = (true, now, session, None);
                });
                tracing::info!(broker = %self.identity.broker.host, session, "connected to the hub's broker");
                let _ = self.events.send(UplinkEvent::Connected);
                let newest = match self.buffer.set_linked(true).await {
                    Ok(newest) => newest,
                    Err(e) => {
                        tracing::error!("{e}");
                        *self.buffer.sealed().borrow()
                    }
                };
                Some(Event::Connected { newest })
            }
            LinkEvent::Lost(why) => {
                self.connection = None;
                self.gone(Some(why)).await;
                Some(Event::Lost)
            }
            LinkEvent::Message { topic, payload } => self.message(&topic, &payload).await,
        }
    }

    async fn message(&mut self, topic: &str, payload: &[u8]) -> Option<Event> {
        let (device, topic) = self.topics.parse(topic)?;
        if device != self.identity.device {
            return None;
        }
        match topic {
            DeviceTopic::Ack => match message::receive::<pb::Ack>(payload) {
                Ok(ack) if ack.schema > SCHEMA => tracing::warn!(
                    schema = ack.schema,
                    "an acknowledgement of a newer layout is left alone; update the agent"
                ),
                Ok(ack) => return self.ack(ack).await,
                Err(e) => tracing::warn!("{e}"),
            },
            DeviceTopic::Desired => match message::receive::<pb::Desired>(payload) {
                Ok(desired) => {
                    let desired = Arc::new(desired);
                    self.desired.send_replace(Some(desired.clone()));
                    let _ = self.events.send(UplinkEvent::Desired(desired));
                    return Some(Event::Told);
                }
                Err(e) => tracing::warn!("{e}"),
            },
            DeviceTopic::Blocks => match message::receive::<pb::Block>(payload) {
                Ok(block) => self.block(block),
                Err(e) => tracing::warn!("{e}"),
            },
            _ => {}
        }
        None
    }

    fn block(&self, block: pb::Block) {
        let Some(sha) = Sha256::from_slice(&block.sha256) else {
            tracing::warn!("a block without a digest of 32 bytes is left alone; update the hub");
            return;
        };
        // Nobody downloads: nobody minds.
        let _ = self.events.send(UplinkEvent::Block {
            sha,
            n: block.number,
            bytes: block.content.into(),
        });
    }

    async fn ack(&mut self, ack: pb::Ack) -> Option<Event> {
        let wall = self.clock.wall_ms();
        if ack.epoch.is_empty() {
            let reason = &ack.reason;
            tracing::error!(
                reason,
                "the hub did not take a message of this device; report this with the hub's log"
            );
            let event = Event::NotTaken(acks::no_room(&ack));
            self.status
                .send_modify(|s| s.not_taken = Some((wall, ack.reason)));
            return Some(event);
        }
        self.status.send_modify(|s| s.last_ack_ms = Some(wall));
        if let Err(e) = self.learn_time(&ack).await {
            tracing::error!("{e}");
        }
        match self.buffer.apply_ack(ack).await {
            Ok(outcome) => {
                for (seq, reason) in &outcome.rejected {
                    tracing::warn!(seq, reason, "the hub refused a record");
                }
                for (batch, records, reason) in &outcome.refused {
                    tracing::error!(
                        batch,
                        records,
                        reason,
                        "the hub refused a whole batch: its records are lost; report this with the hub's log"
                    );
                }
                Some(Event::Acked(outcome))
            }
            // Not applied: the batches stay in flight and are sent again.
            Err(e) => {
                tracing::error!("{e}");
                None
            }
        }
    }

    async fn learn_time(&mut self, ack: &pb::Ack) -> Result<(), BufferError> {
        if ack.hub_time_ms <= 0 {
            return Ok(());
        }
        let mut commit = Commit::default();
        let (mono, wall) = (self.clock.monotonic_ms(), self.clock.wall_ms());
        if ack.echo_boot_id == self.clock.boot_id()
            && let Some((offset, error)) =
                offset(ack.echo_monotonic_ms, ack.hub_time_ms, mono, wall)
        {
            let news = self
                .anchor
                .is_none_or(|(o, e)| error * 4 < e || (offset - o).abs() > error + e + 1_000);
            if news {
                self.anchor = Some((offset, error));
                self.status
                    .send_modify(|s| s.clock_offset = Some((offset, error)));
                commit.records.push(RecordBody::Clock(pb::ClockFact {
                    seq: 0,
                    boot_id: self.clock.boot_id().into(),
                    offset_ms: offset,
                    error_ms: error,
                    synchronised: self.clock.synchronised(),
                }));
            }
        }
        // Acknowledgements are not signed: they never raise the floor that expiry is judged by.
        self.clock.hear(ack.hub_time_ms);
        if !commit.records.is_empty() {
            self.buffer.commit(commit).await?;
        }
        Ok(())
    }

    async fn request(&mut self, request: Request) {
        match request {
            Request::State(state) => {
                self.state = Some(*state);
                self.send_state().await;
            }
            Request::Blob(request) => {
                // A request that is lost is made again by who waits for the blocks.
                self.publish(DeviceTopic::Blob, false, message::encode(&request));
            }
        }
    }

    async fn send_state(&mut self) {
        self.state_sent = self.clock.monotonic_ms();
        let Some(mut state) = self.state.clone() else {
            return;
        };
        if let Ok(depth) = self.buffer.depth().await {
            state.buffered_records = depth.records;
            state.buffered_bytes = depth.bytes;
        }
        self.state_n += 1;
        state.boot = self.buffer.boot();
        state.n = self.state_n;
        state.agent_version = crate::VERSION.into();
        self.publish(DeviceTopic::State, true, message::encode(&state));
    }
}

async fn next(connection: &mut Option<Connection>) -> LinkEvent {
    match connection {
        Some(c) => match c.events.recv().await {
            Some(event) => event,
            None => LinkEvent::Lost("the connection's task ended".into()),
        },
        None => std::future::pending().await,
    }
}
