//! Carries out what the update machines ask for: keys, orders, downloads, checks; decides nothing about models itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fieldcast_bundle::{KeyListChange, KeyRing, Me, verify_order};
use fieldcast_wire::caps::MAX_FORECASTERS;
use fieldcast_wire::{Sha256, message, pb};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::bundles::{Bundles, Loaded};
use super::download::{Download, Taken};
use super::machine::{Event, Installed, Target};
use crate::buffer::{BufferHandle, Commit};
use crate::clock::Clock;
use crate::identity::Identity;

/// State key of the newest key list.
const KEYS: &str = "keys";
/// Blocks that do not come within this process time are asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// From the engine.
#[derive(Debug)]
pub enum Request {
    /// Get a bundle.
    Fetch(String, Target),
    /// Check and load one that is on disk.
    Load(String, Installed),
    /// Bundles (digests) that any machine still needs.
    Keep(Vec<String>),
}

/// From the hub, by way of the uplink.
#[derive(Debug)]
pub enum FromHub {
    /// The connection is there.
    Connected,
    /// Keys and orders.
    Desired(pb::Desired),
    /// A block of a bundle.
    Block(Sha256, u32, Vec<u8>),
}

/// To the engine.
#[derive(Debug)]
pub struct ModelEvent {
    /// The forecaster it is about.
    pub forecaster: String,
    /// What happened.
    pub event: Event,
    /// With [`Event::Loaded`]: the model.
    pub loaded: Option<Box<Loaded>>,
}

/// To the hub, by way of the uplink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The bundle.
    pub sha: Sha256,
    /// Blocks that are missing.
    pub missing: Vec<u32>,
}

/// What the updater owns.
pub struct Updater {
    /// Who this device is; without it nothing is ever ordered.
    pub identity: Option<Identity>,
    /// Files.
    pub bundles: Bundles,
    /// For the key list.
    pub buffer: BufferHandle,
    /// For expiry.
    pub clock: Clock,
    /// To the engine.
    pub engine: mpsc::Sender<ModelEvent>,
    /// To the uplink.
    pub asks: mpsc::Sender<Ask>,
    /// Version of the key list in force, for the state that goes to the hub.
    pub key_list: Arc<AtomicU64>,
    /// Ends it.
    pub cancel: CancellationToken,
}

struct Fetching {
    forecaster: String,
    target: Target,
    download: Download,
    asked: Option<Instant>,
}

struct Running {
    this: Updater,
    ring: Option<KeyRing>,
    fetching: BTreeMap<String, Fetching>,
    needed: Option<Vec<String>>,
    seen: BTreeMap<String, u64>,
}

impl Updater {
    /// Runs until cancelled.
    pub async fn run(
        self,
        mut requests: mpsc::Receiver<Request>,
        mut hub: mpsc::Receiver<FromHub>,
    ) {
        let cancel = self.cancel.clone();
        let mut running = Running {
            ring: self
                .identity
                .as_ref()
                .map(|i| KeyRing::new(i.root_public_key)),
            this: self,
            fetching: BTreeMap::new(),
            needed: None,
            seen: BTreeMap::new(),
        };
        running.stored_keys().await;
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                Some(request) = requests.recv() => running.request(request).await,
                Some(message) = hub.recv() => running.heard(message).await,
                _ = tick.tick() => running.tick().await,
            }
        }
    }
}

impl Running {
    async fn stored_keys(&mut self) {
        let stored = self.this.buffer.state(KEYS).await.ok().flatten();
        if let (Some(bytes), Some(ring)) = (stored, &mut self.ring)
            && let Ok(list) = message::decode::<pb::Signed>("key list", &bytes)
            && let Err(e) = ring.accept(&list)
        {
            tracing::warn!("stored key list: {e}");
        }
        self.show_key_list();
    }

    fn show_key_list(&self) {
        let version = self.ring.as_ref().map_or(0, KeyRing::version);
        self.this.key_list.store(version, Ordering::Relaxed);
    }

    async fn tell(&self, forecaster: &str, event: Event, loaded: Option<Box<Loaded>>) {
        let event = ModelEvent {
            forecaster: forecaster.to_owned(),
            event,
            loaded,
        };
        // The engine outlives the updater; a closed way means that the agent is ending.
        let _ = self.this.engine.send(event).await;
    }

    async fn request(&mut self, request: Request) {
        match request {
            Request::Fetch(forecaster, target) => self.fetch(forecaster, target).await,
            Request::Load(forecaster, installed) => self.load(&forecaster, installed).await,
            Request::Keep(needed) => {
                let mut all = needed.clone();
                all.extend(self.fetching.keys().cloned());
                self.this.bundles.keep_only(&all);
                self.needed = Some(needed);
            }
        }
    }

    async fn load(&mut self, forecaster: &str, installed: Installed) {
        let sha = installed.sha;
        let now = self.this.clock.wall_ms();
        let loaded = match &self.ring {
            Some(ring) => self.this.bundles.load(forecaster, &sha, ring, now),
            None => Err("no identity is configured, so no key vouches for the bundle".to_owned()),
        };
        match loaded {
            Ok(loaded) => {
                tracing::info!(forecaster, bundle = %sha, version = loaded.slot.version, "bundle verified and loaded");
                self.tell(forecaster, Event::Loaded(sha), Some(Box::new(loaded)))
                    .await;
            }
            Err(reason) => {
                tracing::error!(forecaster, bundle = %sha, "bundle refused: {reason}");
                self.tell(forecaster, Event::Refused(sha, reason), None)
                    .await;
            }
        }
    }

    async fn fetch(&mut self, forecaster: String, target: Target) {
        let sha = target.bundle.sha.clone();
        // A newer order for the same forecaster supersedes an unfinished download.
        self.fetching.retain(|_, f| f.forecaster != forecaster);
        if self.this.bundles.has(&sha) {
            self.tell(&forecaster, Event::Fetched(sha), None).await;
            return;
        }
        let opened = target
            .bundle
            .digest()
            .ok_or_else(|| std::io::Error::other("no digest"))
            .and_then(|d| Download::open(self.this.bundles.folder(), d, target.size));
        match opened {
            Ok(download) => {
                tracing::info!(forecaster, bundle = %sha, bytes = target.size, "fetching a bundle");
                let fetching = Fetching {
                    forecaster,
                    target,
                    download,
                    asked: None,
                };
                self.fetching.insert(sha, fetching);
                self.tick().await;
            }
            Err(e) => {
                let reason = format!("the bundle cannot be written ({e}); free disk space");
                self.tell(&forecaster, Event::Unfetchable(sha, reason), None)
                    .await;
            }
        }
    }

    /// Asks (again) for what is missing and gives up what has expired.
    async fn tick(&mut self) {
        let now = self.this.clock.wall_ms();
        let mut expired = Vec::new();
        for (sha, fetching) in &mut self.fetching {
            if now >= fetching.target.expires {
                expired.push(sha.clone());
                continue;
            }
            if fetching.asked.is_none_or(|at| at.elapsed() >= ASK_AGAIN) {
                fetching.asked = Some(Instant::now());
                let ask = Ask {
                    sha: fetching.download.sha(),
                    missing: fetching.download.missing(),
                };
                if let Err(e) = self.this.asks.try_send(ask) {
                    tracing::debug!("ask for blocks: {e}; asked again later");
                }
            }
        }
        for sha in expired {
            if let Some(f) = self.fetching.remove(&sha) {
                let reason = "the order expired before its bundle was complete".to_owned();
                self.tell(&f.forecaster, Event::Unfetchable(sha, reason), None)
                    .await;
            }
        }
    }

    async fn heard(&mut self, message: FromHub) {
        match message {
            FromHub::Connected => {
                for fetching in self.fetching.values_mut() {
                    fetching.asked = None;
                }
                self.tick().await;
            }
            FromHub::Desired(desired) => self.desired(desired).await,
            FromHub::Block(sha, n, bytes) => self.block(sha, n, &bytes).await,
        }
    }

    async fn block(&mut self, sha: Sha256, n: u32, bytes: &[u8]) {
        let name = sha.to_string();
        let Some(fetching) = self.fetching.get_mut(&name) else {
            return;
        };
        match fetching.download.take(n, bytes) {
            Ok(Taken::More) => {
                fetching.asked = Some(Instant::now());
                // All of one request are here: ask for the next ones at once.
                let (here, all) = fetching.download.progress();
                if here.is_multiple_of(fieldcast_wire::caps::MAX_BLOCKS_ASKED) && here < all {
                    fetching.asked = None;
                    self.tick().await;
                }
            }
            Ok(Taken::Ignored) => {}
            Ok(Taken::WrongDigest) => {
                tracing::warn!(bundle = %name, "the blocks are not the bundle; it is fetched anew");
                fetching.asked = None;
            }
            Ok(Taken::Complete) => {
                if let Some(f) = self.fetching.remove(&name) {
                    let event = match f.download.finish(&self.this.bundles.path(&name)) {
                        Ok(()) => Event::Fetched(name),
                        Err(e) => {
                            Event::Unfetchable(name, format!("the bundle cannot be kept: {e}"))
                        }
                    };
                    self.tell(&f.forecaster, event, None).await;
                }
            }
            Err(e) => tracing::warn!(bundle = %name, "write a block: {e}; it is asked for again"),
        }
    }

    async fn desired(&mut self, desired: pb::Desired) {
        let Some(identity) = self.this.identity.clone() else {
            return;
        };
        if let (Some(list), Some(ring)) = (&desired.key_list, &mut self.ring) {
            match ring.accept(list) {
                Ok(KeyListChange::Newer) => {
                    let commit = Commit {
                        state: vec![(KEYS.to_owned(), message::encode(list))],
                        ..Commit::default()
                    };
                    if let Err(e) = self.this.buffer.commit(commit).await {
                        tracing::warn!("keep the key list: {e}");
                    }
                }
                Ok(KeyListChange::Same) => {}
                Err(e) => tracing::error!("key list refused: {e}"),
            }
        }
        self.show_key_list();
        let me = Me {
            site: identity.site.as_str(),
            device: identity.device.as_str(),
        };
        let now = self.this.clock.wall_ms();
        for signed in desired.orders.iter().take(MAX_FORECASTERS) {
            let Some(ring) = &self.ring else { return };
            let last = |f: &str| self.seen.get(f).copied().unwrap_or(0);
            match verify_order(signed, ring, me, last, now) {
                Ok(order) => {
                    self.seen.insert(order.forecaster.clone(), order.generation);
                    let target = Target {
                        bundle: Installed {
                            sha: order.bundle.to_string(),
                            version: order.model_version,
                        },
                        size: order.bundle_size,
                        shadow: order.stage == pb::Stage::Shadow,
                        generation: order.generation,
                        attempt: order.attempt,
                        expires: order.expires,
                    };
                    self.tell(&order.forecaster, Event::Ordered(target), None)
                        .await;
                }
                Err(e) => tracing::warn!("order refused: {e}"),
            }
        }
    }
}
