//! Wires the agent's tasks and channels, and ends them in order; decides nothing itself.
//!
//! | channel | from | to | when full |
//! |---|---|---|---|
//! | `ingests` (32 runs) | sources, the look for silent sensors | engine | a replay waits, a push is answered 503 |
//! | `requests` (256) | engine | updater | the request is logged and taken up at the next start |
//! | `model_events` (32) | updater | engine | the updater waits |
//! | `from_hub` (256) | uplink's events | updater | events wait in the uplink's broadcast |
//! | `asks` (16) | updater | uplink | asked again after five seconds |
//! | `states`, `trust` (watch) | engine, updater | uplink | only the newest counts |

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fieldcast_wire::pb;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::buffer::{Buffer, BufferError, BufferHandle, DropPolicy, Limits};
use crate::clock::Clock;
use crate::config::{BufferConfig, Config, FullPolicy, SourceConfig};
use crate::control::Control;
use crate::http::Port;
use crate::identity::Identity;
use crate::notify::Notify;
use crate::pipeline::engine::{Engine, Parts};
use crate::pipeline::sensors::Sensors;
use crate::pipeline::sketches::Sketches;
use crate::quality::Checker;
use crate::source::http::HttpPush;
use crate::source::replay::{Replay, cursor_key};
use crate::source::{INGEST_QUEUE, Ingest, IngestSender, Item};
use crate::status::board::Board;
use crate::status::server;
use crate::update::bundles::Bundles;
use crate::update::commands::{AtWork, Desk};
use crate::update::driver::{Ask, FromHub, Trust, Updater};
use crate::update::witness::Witness;
use crate::uplink::{LinkStatus, Settings, UplinkEvent, UplinkHandle};
use fieldcast_wire::caps::MAX_FORECASTERS;

/// How long each part may take to end.
const DRAIN: Duration = Duration::from_secs(5);
/// Pause before a port that was in use is tried again.
const PORT_AGAIN: Duration = Duration::from_secs(5);
/// How often it is seen which sensors have fallen silent.
const LOOK: Duration = Duration::from_secs(15);
/// A state is published at least this often while anything in it changes.
const STATE_EVERY: Duration = Duration::from_secs(10);

/// Threads of sources and servers, joined at the end.
type Threads = Arc<std::sync::Mutex<Vec<std::thread::JoinHandle<()>>>>;

fn keep(threads: &Threads, new: impl IntoIterator<Item = std::thread::JoinHandle<()>>) {
    let mut threads = threads
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    threads.extend(new);
}

/// Runs the agent until `control` stops it, then drains it.
///
/// # Errors
/// Where the data folder or the buffer cannot be used; anything else is reported and the rest runs on.
pub async fn run(config: Config, control: Control) -> anyhow::Result<()> {
    let notify = Notify::from_environment();
    let _held = crate::data_dir::hold(&config.data_dir)?;
    let board = Arc::new(Board::default());
    let clock = Clock::new();
    let identity = identity(&config, &board);
    board.update(|f| {
        f.version = crate::VERSION.to_owned();
        f.device = identity
            .as_ref()
            .map_or_else(String::new, |i| i.device.to_string());
        f.connected = identity.as_ref().map(|_| false);
    });
    let buffer = Buffer::start(limits(&config), clock.clone())?;
    let handle = buffer.handle.clone();
    handle.set_linked(false).await?;
    crate::update::floor::restore(&handle, &clock).await?;

    let (ingests, ingest_inbox) = mpsc::channel(INGEST_QUEUE);
    // At the start each forecaster may ask for four things at once, while the updater checks a model.
    let (requests, request_inbox) = mpsc::channel(4 * MAX_FORECASTERS);
    let (model_events, model_inbox) = mpsc::channel(32);
    let (to_updater, hub_inbox) = mpsc::channel(256);
    let (asks, ask_inbox) = mpsc::channel(16);
    let (states, state_seen) = watch::channel(Vec::new());
    let (trust, trusted) = watch::channel(Trust::default());

    let (witness, death) = Witness::open(&config.data_dir, clock.boot_id(), handle.boot());
    let parts = Parts {
        buffer: handle.clone(),
        clock: clock.clone(),
        checker: Checker::new(config.sensors.clone()),
        sensors: Sensors::new(config.sensors.clone()),
        sketches: Sketches::default(),
        specs: config.forecasters.clone(),
        probation: config.probation,
        latency: config.latency,
        board: board.clone(),
        updater: requests,
        states,
    };
    let engine = Engine::start(parts, death).await?;
    // Sources end first, then what they feed, then the way to the hub.
    let (sources_end, engine_end, uplink_end) = (
        CancellationToken::new(),
        CancellationToken::new(),
        CancellationToken::new(),
    );
    let engine = tokio::spawn(engine.run(ingest_inbox, model_inbox, engine_end.clone()));
    let updater = Updater {
        identity: identity.clone(),
        bundles: Bundles::new(&config.data_dir)
            .for_device(identity.as_ref().map_or("", |i| i.device.as_str()))
            .leaving(config.buffer.reserve_bytes)
            .witnessed_by(witness),
        buffer: handle.clone(),
        clock: clock.clone(),
        engine: model_events,
        asks,
        commands: AtWork::new(Desk {
            buffer: handle.clone(),
            clock: clock.clone(),
            board: board.clone(),
            control: control.clone(),
        }),
        trust,
        cancel: engine_end.clone(),
    };
    let updater = tokio::spawn(updater.run(request_inbox, hub_inbox));
    let uplink = identity.map(|identity| {
        let (uplink, task) = crate::uplink::start(
            identity,
            handle.clone(),
            clock.clone(),
            Settings::default(),
            uplink_end.clone(),
        );
        tokio::spawn(hear(uplink.events(), to_updater, board.clone()));
        tokio::spawn(show_link(uplink.status(), board.clone()));
        tokio::spawn(ask(uplink.clone(), ask_inbox));
        tokio::spawn(say(uplink, state_seen, handle.clone(), trusted));
        task
    });

    let threads: Threads = Arc::default();
    let ports = Arc::new(Ports::new(&config));
    ports.write(None);
    if config.status.enabled {
        let (threads, board, ports) = (threads.clone(), board.clone(), ports.clone());
        let (listen, end) = (config.status.listen.clone(), engine_end.clone());
        tokio::spawn(async move {
            let opened = open_port("status", &listen, "[status] listen", &board, &end).await;
            if let Some(port) = opened {
                ports.write(Some(("status".to_owned(), port.address().to_string())));
                served(
                    "status",
                    server::serve(port, board.clone(), end),
                    &board,
                    &threads,
                );
            }
        });
    }
    start_sources(
        &config,
        &ingests,
        &handle,
        &clock,
        &board,
        &sources_end,
        &threads,
        &ports,
    )
    .await?;
    tokio::spawn(look(ingests, sources_end.clone()));
    tracing::info!(data = %config.data_dir.display(), boot = handle.boot(), "agent is running");
    notify.ready();

    let watched = watch_over(&handle, &board, &notify, control.stop()).await;

    tracing::info!("ending: sources, engine, uplink, buffer");
    // To the system's manager a process that starts itself again never stopped.
    if !control.restarts() {
        notify.stopping();
    }
    sources_end.cancel();
    let joining = {
        let mut list = threads
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        std::mem::take(&mut *list)
    };
    // The status server goes on until the engine has ended; it is not waited for.
    let sources = joining
        .into_iter()
        .filter(|t| t.thread().name() == Some("source"));
    let sources: Vec<_> = sources.collect();
    let joined = tokio::task::spawn_blocking(move || {
        for thread in sources {
            // A source that panicked has told so already.
            let _ = thread.join();
        }
    });
    late("sources", joined).await;
    engine_end.cancel();
    late("engine", engine).await;
    late("updater", updater).await;
    uplink_end.cancel();
    if let Some(uplink) = uplink {
        late("uplink", uplink).await;
    }
    let closed = tokio::time::timeout(DRAIN, buffer.close()).await;
    watched?;
    match closed {
        Ok(done) => done?,
        Err(_) => tracing::warn!("the buffer did not close in time; what is committed is safe"),
    }
    Ok(())
}

async fn late<T>(what: &str, task: tokio::task::JoinHandle<T>) {
    match tokio::time::timeout(DRAIN, task).await {
        Ok(Ok(_)) => {}
        Ok(Err(e)) => tracing::error!("{what} ended badly: {e}"),
        Err(_) => tracing::warn!("{what} did not end within {DRAIN:?}; what is committed is safe"),
    }
}

fn identity(config: &Config, board: &Board) -> Option<Identity> {
    let file = config.identity.as_ref()?;
    match Identity::read(file) {
        Ok((identity, warning)) => {
            if let Some(warning) = warning {
                tracing::warn!("{warning}");
            }
            Some(identity)
        }
        Err(e) => {
            tracing::error!("{e}; running unconnected");
            board.problem("identity", Some(format!("{e}; running unconnected")));
            None
        }
    }
}

fn limits(config: &Config) -> Limits {
    let b: &BufferConfig = &config.buffer;
    Limits {
        max_bytes: b.max_bytes,
        reserve_bytes: b.reserve_bytes,
        policy: match b.policy {
            FullPolicy::DropOldest => DropPolicy::Oldest,
            FullPolicy::DropNewest => DropPolicy::Newest,
        },
        tail_bytes: b.tail_bytes,
        seal_after: Duration::from_millis(b.seal_after_ms),
        seal_after_unlinked: Duration::from_millis(b.seal_after_unlinked_ms.max(b.seal_after_ms)),
        seal_records: b.seal_records,
        recent_rows: b.recent_rows,
        ..Limits::new(&config.data_dir)
    }
}

/// Where the agent listens, in `agent.json` of the data folder, for `fieldcast-agent status` and tests.
struct Ports {
    file: std::path::PathBuf,
    open: std::sync::Mutex<BTreeMap<String, String>>,
}

impl Ports {
    fn new(config: &Config) -> Self {
        Self {
            file: config.data_dir.join("agent.json"),
            open: std::sync::Mutex::default(),
        }
    }

    fn write(&self, new: Option<(String, String)>) {
        let mut open = self
            .open
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        open.extend(new);
        let json = serde_json::json!({"pid": std::process::id(), "listen": *open});
        let part = self.file.with_extension("json.part");
        let written = std::fs::write(&part, json.to_string())
            .and_then(|()| std::fs::rename(&part, &self.file));
        if let Err(e) = written {
            tracing::warn!(file = %self.file.display(), "write the addresses: {e}");
        }
    }
}

/// Opens a port, again and again while it is in use; the rest of the agent does not wait for it.
async fn open_port(
    part: &str,
    listen: &str,
    key: &str,
    board: &Board,
    end: &CancellationToken,
) -> Option<Port> {
    let mut told = false;
    loop {
        match crate::http::open(listen, key) {
            Ok(port) => {
                tracing::info!(part, address = %port.address(), "listening");
                board.problem(part, None);
                return Some(port);
            }
            Err(e) => {
                if !told {
                    tracing::error!("{part}: {e}; the rest runs on and the port is tried again");
                    board.problem(part, Some(e));
                    told = true;
                }
            }
        }
        tokio::select! {
            () = end.cancelled() => return None,
            () = tokio::time::sleep(PORT_AGAIN) => {}
        }
    }
}

/// Keeps a port's thread, or tells why there is none.
fn served(
    part: &str,
    thread: std::io::Result<std::thread::JoinHandle<()>>,
    board: &Board,
    threads: &Threads,
) {
    match thread {
        Ok(thread) => keep(threads, [thread]),
        Err(e) => {
            let problem = format!("cannot be served ({e}); restart the agent");
            tracing::error!("{part} {problem}");
            board.problem(part, Some(problem));
        }
    }
}

#[allow(clippy::too_many_arguments, reason = "called once, from the wiring")]
async fn start_sources(
    config: &Config,
    ingests: &IngestSender,
    buffer: &BufferHandle,
    clock: &Clock,
    board: &Arc<Board>,
    end: &CancellationToken,
    threads: &Threads,
    ports: &Arc<Ports>,
) -> anyhow::Result<()> {
    for source in &config.sources {
        match source.clone() {
            SourceConfig::Replay(source) => {
                let cursor = buffer.state(&cursor_key(&source)).await?;
                let replay = Replay {
                    cursor: cursor.and_then(|b| serde_json::from_slice(&b).ok()),
                    source,
                    sender: ingests.clone(),
                    clock: clock.clone(),
                    board: board.clone(),
                    cancel: end.clone(),
                };
                let thread = std::thread::Builder::new()
                    .name("source".into())
                    .spawn(move || replay.run())?;
                keep(threads, [thread]);
            }
            SourceConfig::Http(source) => {
                let push = HttpPush {
                    source: source.clone(),
                    sender: ingests.clone(),
                    clock: clock.clone(),
                    board: board.clone(),
                    cancel: end.clone(),
                };
                let (threads, board, ports) = (threads.clone(), board.clone(), ports.clone());
                let end = end.clone();
                tokio::spawn(async move {
                    let part = format!("http source {}", source.listen);
                    let key = "listen of [[source]] type http";
                    let opened = open_port(&part, &source.listen, key, &board, &end).await;
                    if let Some(port) = opened {
                        ports.write(Some((source.listen, port.address().to_string())));
                        served(&part, push.serve(port), &board, &threads);
                    }
                });
            }
        }
    }
    Ok(())
}

/// Keeps the facts and the watchdog fresh until the end is asked for; a buffer that has ended is an error, since
/// only a new start brings it back.
async fn watch_over(
    buffer: &BufferHandle,
    board: &Board,
    notify: &Notify,
    stop: &CancellationToken,
) -> Result<(), BufferError> {
    let began = Instant::now();
    let pause = notify
        .interval()
        .map_or(Duration::from_secs(1), |i| i.min(Duration::from_secs(1)));
    let mut tick = tokio::time::interval(pause);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = tick.tick() => {}
        }
        match buffer.depth().await {
            Ok(depth) => board.update(|f| {
                f.uptime_s = began.elapsed().as_secs();
                f.buffer.records = depth.records;
                f.buffer.bytes = depth.bytes;
                f.buffer.dropped = depth.dropped;
                f.buffer.rejected = depth.rejected;
            }),
            Err(e @ BufferError::Closed) => {
                tracing::error!("{e}; the agent ends");
                return Err(e);
            }
            Err(e) => board.update(|f| f.buffer.problem = Some(e.to_string())),
        }
        notify.alive();
    }
}

/// Lets the engine see which sensors have fallen silent, now and then.
async fn look(ingests: IngestSender, end: CancellationToken) {
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = end.cancelled() => return,
            _ = tick.tick() => {}
        }
        let (reply, answer) = oneshot::channel();
        let ingest = Ingest {
            source: "silence".into(),
            sensors: Arc::new([]),
            items: vec![Item::Look],
            cursor: None,
            alarms: Vec::new(),
            reply,
        };
        if ingests.send(ingest).await.is_err() {
            return;
        }
        // Where it was not stored, the next look finds the same.
        let _ = answer.await;
    }
}

/// Shows why the hub is not reached, and what it did not take.
async fn show_link(mut status: watch::Receiver<LinkStatus>, board: Arc<Board>) {
    loop {
        let LinkStatus {
            last_error,
            not_taken,
            ..
        } = status.borrow_and_update().clone();
        board.update(|f| (f.link_error, f.not_taken) = (last_error, not_taken));
        if status.changed().await.is_err() {
            return;
        }
    }
}

async fn hear(
    mut events: broadcast::Receiver<UplinkEvent>,
    updater: mpsc::Sender<FromHub>,
    board: Arc<Board>,
) {
    loop {
        let message = match events.recv().await {
            Ok(UplinkEvent::Connected) => {
                board.update(|f| f.connected = Some(true));
                FromHub::Connected
            }
            Ok(UplinkEvent::Disconnected) => {
                board.update(|f| f.connected = Some(false));
                continue;
            }
            Ok(UplinkEvent::Desired(desired)) => FromHub::Desired((*desired).clone()),
            Ok(UplinkEvent::Block { sha, n, bytes }) => FromHub::Block(sha, n, bytes.to_vec()),
            // What was missed is asked for again, or comes again with the next connection.
            Err(broadcast::error::RecvError::Lagged(_)) => continue,
            Err(broadcast::error::RecvError::Closed) => return,
        };
        if updater.send(message).await.is_err() {
            return;
        }
    }
}

async fn ask(uplink: UplinkHandle, mut asks: mpsc::Receiver<Ask>) {
    while let Some(ask) = asks.recv().await {
        uplink.request_blob(ask.sha, &ask.missing).await;
    }
}

/// Publishes what runs: at once where a model or phase changed, else now and then.
async fn say(
    uplink: UplinkHandle,
    mut states: watch::Receiver<Vec<pb::ForecasterState>>,
    buffer: BufferHandle,
    mut trust: watch::Receiver<Trust>,
) {
    let mut said: Option<(Vec<pb::ForecasterState>, Trust)> = None;
    let mut at = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            changed = states.changed() => if changed.is_err() { return },
            changed = trust.changed() => if changed.is_err() { return },
            _ = tick.tick() => {}
        }
        let now = (
            states.borrow_and_update().clone(),
            trust.borrow_and_update().clone(),
        );
        let new = said
            .as_ref()
            .is_none_or(|s| s.1 != now.1 || decisive(&s.0) != decisive(&now.0));
        let due = at.elapsed() >= STATE_EVERY && said.as_ref() != Some(&now);
        if !new && !due {
            continue;
        }
        let depth = buffer.depth().await.ok();
        uplink
            .publish_state(pb::State {
                agent_version: crate::VERSION.to_owned(),
                buffered_records: depth.as_ref().map_or(0, |d| d.records),
                buffered_bytes: depth.as_ref().map_or(0, |d| d.bytes),
                forecasters: now.0.clone(),
                key_list_version: now.1.key_list,
                refused: now.1.refused.clone(),
                ..pb::State::default()
            })
            .await;
        said = Some(now);
        at = Instant::now();
    }
}

/// What a hub waits for; counters and times beside it change with every forecast.
fn decisive(states: &[pb::ForecasterState]) -> Vec<(&str, &[u8], i32, u64, u32)> {
    states
        .iter()
        .map(|s| {
            (
                s.forecaster.as_str(),
                s.running.as_slice(),
                s.phase,
                s.generation,
                s.attempt,
            )
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_agent_whose_buffer_has_ended_does_not_pretend_to_live() {
        let dir = tempfile::tempdir().unwrap();
        let buffer = Buffer::start(Limits::new(dir.path()), Clock::new()).unwrap();
        let handle = buffer.handle.clone();
        buffer.close().await.unwrap();
        let (board, notify) = (Board::default(), Notify::from_environment());
        let ended = watch_over(&handle, &board, &notify, &CancellationToken::new()).await;
        assert!(matches!(ended, Err(BufferError::Closed)));
    }
}
