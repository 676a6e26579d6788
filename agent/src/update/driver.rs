//! Carries out what the update machines ask for: keys, orders, downloads, checks; decides nothing about models itself.

use std::collections::BTreeMap;
use std::time::Duration;

use fieldcast_bundle::{KeyListChange, KeyRing, Me, verify_order};
use fieldcast_wire::caps::{MAX_COMMANDS, MAX_FORECASTERS, MAX_TEXT};
use fieldcast_wire::{Sha256, message, pb};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::bundles::{self, Bundles, Loaded, NotLoaded};
use super::commands::AtWork;
use super::download::{Download, Taken};
use super::floor;
use super::machine::{Event, Installed, Target};
use super::waiting::{Order, Waiting};
use crate::buffer::{BufferHandle, Commit};
use crate::clock::Clock;
use crate::identity::Identity;

/// State key of the newest key list.
const KEYS: &str = "keys";
/// Blocks that do not come within this process time are asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// Bundles that could not be checked are tried again after this process time.
const CHECK_AGAIN: Duration = Duration::from_secs(30);
/// The time floor is kept this often.
const KEEP_FLOOR: Duration = Duration::from_secs(600);
/// A bundle that takes longer to load hangs: the comparison of the engines alone may take two minutes.
const LOAD_WITHIN: Duration = Duration::from_secs(600);

/// Whether a bundle's own expiry counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is new here: an expired one is refused.
    New,
    /// It is in place or proved itself here: expiry must not take the last good model away.
    Kept,
}

/// From the engine.
#[derive(Debug)]
pub enum Request {
    /// The generation that was obeyed last, before this process began.
    Obeyed(String, u64),
    /// Get a bundle.
    Fetch(String, Target),
    /// Check and load one that is on disk.
    Load(String, Installed, Standing),
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

/// Whom this device trusts, for the state that goes to the hub.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// Version of the key list in force.
    pub key_list: u64,
    /// What of the newest orders was refused first, behind the number of its check.
    pub refused: String,
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
    /// Carries out commands.
    pub commands: AtWork,
    /// To whoever tells the hub.
    pub trust: watch::Sender<Trust>,
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
    waiting: Waiting,
    needed: Option<Vec<String>>,
    seen: BTreeMap<String, u64>,
    unchecked: BTreeMap<(String, String), (Installed, Standing)>,
    checked: Instant,
    floor_kept: Option<Instant>,
}

/// File work and model optimisation take long: they never hold up the runtime's one thread.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| format!("the work on it ended badly: {e}"))
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
            waiting: Waiting::default(),
            needed: None,
            seen: BTreeMap::new(),
            unchecked: BTreeMap::new(),
            checked: Instant::now(),
            floor_kept: None,
        };
        running.stored_keys().await;
        running.this.commands.started().await;
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
        self.this.trust.send_modify(|t| t.key_list = version);
    }

    /// Shows what the newest orders were refused for first; nothing where all held.
    fn show_refused(&self, refused: Option<String>) {
        // It may quote what came: the hub stores no NUL, and takes no state that holds one.
        let mut text = refused.unwrap_or_default().replace('\0', "\u{fffd}");
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        self.this.trust.send_if_modified(|t| {
            let new = t.refused != text;
            t.refused = text;
            new
        });
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
            Request::Obeyed(forecaster, generation) => {
                let seen = self.seen.entry(forecaster).or_default();
                *seen = generation.max(*seen);
            }
            Request::Fetch(forecaster, target) => self.fetch(forecaster, target).await,
            Request::Load(forecaster, installed, standing) => {
                self.load(&forecaster, installed, standing).await;
            }
            Request::Keep(needed) => {
                let mut all = needed.clone();
                all.extend(self.fetching.keys().cloned());
                let bundles = self.this.bundles.clone();
                if let Err(e) = aside(move || bundles.keep_only(&all)).await {
                    tracing::warn!("remove old bundles: {e}");
                }
                self.unchecked.retain(|(_, sha), _| needed.contains(sha));
                self.needed = Some(needed);
            }
        }
    }

    async fn load(&mut self, forecaster: &str, installed: Installed, standing: Standing) {
        let sha = installed.sha.clone();
        let now = self.this.clock.trusted_ms();
        let later = |why: &str| Err(NotLoaded::Unchecked(why.to_owned()));
        let loaded = match &self.ring {
            Some(ring) if ring.version() > 0 => {
                let (bundles, ring) = (self.this.bundles.clone(), ring.clone());
                let (forecaster, installed) = (forecaster.to_owned(), installed.clone());
                let now = (standing == Standing::New).then_some(now);
                let loading = aside(move || bundles.load(&forecaster, &installed, &ring, now));
                match tokio::time::timeout(LOAD_WITHIN, loading).await {
                    Ok(done) => done.unwrap_or_else(|e| Err(NotLoaded::Refused(e))),
                    Err(_) => bundles::hung(&sha),
                }
            }
            Some(_) => {
                later("no key list is here yet to check the bundle with; connect to the hub")
            }
            None => later(
                "no identity can be read, so no key vouches for the bundle; correct the identity file and restart the agent",
            ),
        };
        match loaded {
            Ok(loaded) => {
                tracing::info!(forecaster, bundle = %sha, version = loaded.slot.version, "bundle verified and loaded");
                self.tell(forecaster, Event::Loaded(sha), Some(Box::new(loaded)))
                    .await;
            }
            Err(NotLoaded::Unchecked(reason)) => {
                tracing::error!(forecaster, bundle = %sha, "bundle not checked: {reason}");
                let key = (forecaster.to_owned(), sha.clone());
                self.unchecked.insert(key, (installed, standing));
                self.tell(forecaster, Event::Unchecked(sha, reason), None)
                    .await;
            }
            Err(NotLoaded::Refused(reason)) => {
                tracing::error!(forecaster, bundle = %sha, "bundle refused: {reason}");
                self.tell(forecaster, Event::Refused(sha, reason), None)
                    .await;
            }
        }
    }

    /// Tries again what could not be checked; without an identity that is the next start's.
    async fn check_again(&mut self) {
        self.checked = Instant::now();
        match &self.ring {
            None => return,
            Some(ring) if ring.version() == 0 => self.stored_keys().await,
            Some(_) => {}
        }
        for ((forecaster, _), (installed, standing)) in std::mem::take(&mut self.unchecked) {
            self.load(&forecaster, installed, standing).await;
        }
    }

    async fn fetch(&mut self, forecaster: String, target: Target) {
        // A newer order for the same forecaster supersedes an unfinished download.
        self.fetching.retain(|_, f| f.forecaster != forecaster);
        self.waiting.remove(&forecaster);
        let Some(bundle) = target.bundle.clone() else {
            return;
        };
        let sha = bundle.sha.clone();
        if self.this.bundles.has(&sha) {
            self.tell(&forecaster, Event::Fetched(sha), None).await;
            return;
        }
        let Some(digest) = bundle.digest() else {
            let reason = "the digest of the ordered bundle is none; order it again".to_owned();
            let event = Event::Unfetchable(sha, reason);
            return self.tell(&forecaster, event, None).await;
        };
        if let Err(reason) = self.this.bundles.room(&sha, target.size) {
            return self.no_room(&forecaster, sha, target, reason).await;
        }
        // It may have waited, before a restart too.
        let over = Event::Waiting(sha.clone(), String::new());
        self.tell(&forecaster, over, None).await;
        let (folder, size) = (self.this.bundles.folder().to_owned(), target.size);
        let opened =
            aside(move || Download::open(&folder, digest, size).map_err(|e| e.to_string()));
        match opened.await.and_then(|o| o) {
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
                self.no_room(&forecaster, sha, target, reason).await;
            }
        }
    }

    /// The disk takes it later, or the order expires.
    async fn no_room(&mut self, forecaster: &str, sha: String, target: Target, reason: String) {
        tracing::error!(forecaster, bundle = %sha, "{reason}");
        self.waiting
            .for_room(forecaster, target, &reason, Instant::now());
        self.tell(forecaster, Event::Waiting(sha, reason), None)
            .await;
    }

    /// Asks (again) for what is missing and gives up what has expired.
    async fn tick(&mut self) {
        if !self.unchecked.is_empty() && self.checked.elapsed() >= CHECK_AGAIN {
            self.check_again().await;
        }
        if self.floor_kept.is_none_or(|at| at.elapsed() >= KEEP_FLOOR) {
            self.keep_floor().await;
        }
        self.look_for_room().await;
        let whole = self.fetching.iter();
        let whole = whole.filter(|(_, f)| f.download.missing().is_empty());
        for sha in whole.map(|(sha, _)| sha.clone()).collect::<Vec<_>>() {
            self.on_disk(sha, Download::check).await;
        }
        let now = self.this.clock.trusted_ms();
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

    async fn look_for_room(&mut self) {
        let now = self.this.clock.trusted_ms();
        for (forecaster, Order { target, reason, .. }) in self.waiting.due(now, Instant::now()) {
            if now < target.expires {
                // Boxed, since what is fetched looks for room itself.
                Box::pin(self.fetch(forecaster, target)).await;
                continue;
            }
            if let Some(bundle) = target.bundle {
                let reason = format!(
                    "the order expired, and its bundle was not here: {reason}; order it again"
                );
                let event = Event::Unfetchable(bundle.sha, reason);
                self.tell(&forecaster, event, None).await;
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
            FromHub::Block(sha, n, bytes) => self.block(sha, n, bytes).await,
        }
    }

    async fn keep_floor(&mut self) {
        self.floor_kept = Some(Instant::now());
        if let Err(e) = floor::keep(&self.this.buffer, &self.this.clock).await {
            tracing::warn!("keep the time floor: {e}");
        }
    }

    async fn block(&mut self, sha: Sha256, n: u32, bytes: Vec<u8>) {
        let name = sha.to_string();
        let more = self.on_disk(name, move |d| d.take(n, &bytes)).await;
        if more {
            self.tick().await;
        }
    }

    /// Works on a download's file; true where more blocks are to be asked for at once.
    async fn on_disk(
        &mut self,
        name: String,
        work: impl FnOnce(&mut Download) -> std::io::Result<Taken> + Send + 'static,
    ) -> bool {
        let Some(f) = self.fetching.remove(&name) else {
            return false;
        };
        let Fetching {
            forecaster,
            target,
            mut download,
            asked,
        } = f;
        let path = self.this.bundles.path(&name);
        let done = aside(move || {
            let taken = work(&mut download);
            if matches!(taken, Ok(Taken::Complete)) {
                return match download.finish(&path) {
                    Ok(()) => Ok(None),
                    Err(e) => Err(format!("the bundle cannot be kept ({e}); free disk space")),
                };
            }
            Ok(Some((download, taken)))
        });
        let (download, taken) = match done.await.and_then(|d| d) {
            Ok(Some(back)) => back,
            Ok(None) => {
                self.waiting.fetched(&name);
                self.tell(&forecaster, Event::Fetched(name), None).await;
                return false;
            }
            Err(reason) => {
                self.no_room(&forecaster, name, target, reason).await;
                return false;
            }
        };
        let mut fetching = Fetching {
            forecaster: forecaster.clone(),
            target,
            download,
            asked,
        };
        let mut more = false;
        match taken {
            Ok(Taken::More) => {
                fetching.asked = Some(Instant::now());
                // All of one request are here: ask for the next ones at once.
                let (here, all) = fetching.download.progress();
                more = here.is_multiple_of(fieldcast_wire::caps::MAX_BLOCKS_ASKED) && here < all;
                if more {
                    fetching.asked = None;
                }
            }
            Ok(Taken::Ignored | Taken::Complete) => {}
            Ok(Taken::WrongDigest) => {
                let (target, now) = (fetching.target, Instant::now());
                let reason = self.waiting.behind_another(&forecaster, &name, target, now);
                tracing::warn!(bundle = %name, "{reason}");
                self.tell(&forecaster, Event::Waiting(name, reason), None)
                    .await;
                return false;
            }
            Err(e) => {
                let reason = format!("write a block: {e}; free disk space");
                self.no_room(&forecaster, name, fetching.target, reason)
                    .await;
                return false;
            }
        }
        self.fetching.insert(name, fetching);
        more
    }

    async fn desired(&mut self, desired: pb::Desired) {
        let Some(identity) = self.this.identity.clone() else {
            return;
        };
        let mut refused = None;
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
                    self.check_again().await;
                }
                Ok(KeyListChange::Same) => {}
                Err(e) => {
                    tracing::error!("key list refused: {e}");
                    refused.get_or_insert(format!("{}: {e}", e.step()));
                }
            }
        }
        self.show_key_list();
        let me = Me {
            site: identity.site.as_str(),
            device: identity.device.as_str(),
        };
        let now = self.this.clock.trusted_ms();
        for signed in desired.orders.iter().take(MAX_FORECASTERS) {
            let Some(ring) = &self.ring else { return };
            let last = |f: &str| self.seen.get(f).copied().unwrap_or(0);
            match verify_order(signed, ring, me, last, now) {
                Ok(order) => {
                    self.seen.insert(order.forecaster.clone(), order.generation);
                    if !self.this.clock.synchronised() && order.issued > now {
                        self.this.clock.raise_floor(order.issued);
                        self.keep_floor().await;
                    }
                    // What it does not name is not wanted any more.
                    let ordered = order.model.map(|m| m.bundle.to_string());
                    self.fetching.retain(|sha, f| {
                        f.forecaster != order.forecaster || Some(sha) == ordered.as_ref()
                    });
                    self.waiting
                        .keep_only(&order.forecaster, ordered.as_deref());
                    let target = Target {
                        bundle: order.model.map(|m| Installed {
                            sha: m.bundle.to_string(),
                            version: m.version,
                        }),
                        size: order.model.map_or(0, |m| m.size),
                        shadow: order.stage == pb::Stage::Shadow,
                        generation: order.generation,
                        attempt: order.attempt,
                        expires: order.expires,
                    };
                    self.tell(&order.forecaster, Event::Ordered(target), None)
                        .await;
                }
                Err(e) => {
                    tracing::warn!("order refused: {e}");
                    refused.get_or_insert(format!("{}: {e}", e.step()));
                    // Unsigned, so it says no more than whose page the refusal belongs on.
                    if let Ok(order) = message::decode::<pb::Order>("order", &signed.payload) {
                        let event = Event::NotObeyed(format!("{}: {e}", e.step()));
                        self.tell(&order.forecaster, event, None).await;
                    }
                }
            }
        }
        if let Some(ring) = &self.ring {
            for signed in desired.commands.iter().take(MAX_COMMANDS) {
                if let Err(e) = self.this.commands.heard(signed, ring, me).await {
                    tracing::warn!("command refused: {e}");
                    refused.get_or_insert(format!("{}: {e}", e.step()));
                }
            }
        }
        self.show_refused(refused);
    }
}
