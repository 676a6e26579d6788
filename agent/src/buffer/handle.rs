//! The thread that owns the file, and its handle: owns group commit and the time of sealing; no SQL.

use std::ops::RangeInclusive;
use std::time::Duration;

use fieldcast_wire::{Epoch, Reading, pb};
use tokio::sync::{mpsc, oneshot, watch};

use super::error::BufferError;
use super::policy::STEP_MS;
use super::store::Store;
use super::types::{AckOutcome, BatchKey, Commit, Depth, Limits, SealedInfo, SyncHead};
use crate::clock::{Clock, Millis};

/// Requests that may wait; beyond it callers wait themselves.
const QUEUE: usize = 256;
/// Commits that share one transaction at most.
const GROUP: usize = 128;
/// Records that share one transaction at most, roughly.
const GROUP_RECORDS: usize = 8_192;

type Reply<T> = oneshot::Sender<Result<T, BufferError>>;
type Task = Box<dyn FnOnce(&mut Store) -> Result<(), BufferError> + Send>;

enum Request {
    Commit(Commit, Reply<RangeInclusive<u64>>),
    Task(Task),
    Close(Reply<()>),
}

/// A way to the buffer; clones share it.
#[derive(Clone)]
pub struct BufferHandle {
    requests: mpsc::Sender<Request>,
    sealed: watch::Receiver<i64>,
    boot: u64,
}

/// The running buffer: its handle and its thread.
pub struct Buffer {
    /// The way to it.
    pub handle: BufferHandle,
    thread: std::thread::JoinHandle<()>,
}

impl Buffer {
    /// Opens the file, counts this start of the agent and starts the owning thread.
    ///
    /// # Errors
    /// See [`Store::open`].
    pub fn start(limits: Limits, clock: Clock) -> Result<Self, BufferError> {
        let mut store = Store::open(limits, clock)?;
        let boot = store.begin_boot()?;
        let (requests, inbox) = mpsc::channel(QUEUE);
        let newest = store.newest_order()?;
        let (tell, sealed) = watch::channel(newest);
        let dir = store.limits.dir.clone();
        let thread = std::thread::Builder::new()
            .name("buffer".into())
            .spawn(move || run(store, inbox, &tell))
            .map_err(|source| BufferError::Io {
                operation: "starting the thread",
                path: dir,
                source,
            })?;
        Ok(Self {
            handle: BufferHandle {
                requests,
                sealed,
                boot,
            },
            thread,
        })
    }

    /// Seals what waits, closes the file and waits for the thread; blocks.
    ///
    /// # Errors
    /// A failing disk.
    pub async fn close(self) -> Result<(), BufferError> {
        let done = self.handle.close().await;
        // The thread has answered and only unwinds from here.
        let _ = self.thread.join();
        done
    }
}

impl BufferHandle {
    /// Keeps a commit; returns after it is on the disk. Concurrent commits share one transaction.
    ///
    /// The range is that of the records' numbers, empty where there are none.
    ///
    /// # Errors
    /// A record that must not be kept, or a failing disk; then nothing of it was kept.
    pub async fn commit(&self, commit: Commit) -> Result<RangeInclusive<u64>, BufferError> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Commit(commit, reply)).await?;
        answer.await.map_err(|_| BufferError::Closed)?
    }

    /// A value kept under a key.
    ///
    /// # Errors
    /// A failing disk.
    pub async fn state(&self, key: &str) -> Result<Option<Vec<u8>>, BufferError> {
        let key = key.to_owned();
        self.ask(move |s| s.state(&key)).await
    }

    /// Readings of the window history from `since` on, in order of time.
    ///
    /// # Errors
    /// A failing disk.
    pub async fn recent(&self, sensor: &str, since: Millis) -> Result<Vec<Reading>, BufferError> {
        let sensor = sensor.to_owned();
        self.ask(move |s| s.recent(&sensor, since)).await
    }

    /// Seals all records that wait now; answers the last batch made.
    ///
    /// # Errors
    /// A failing disk.
    pub async fn seal(&self) -> Result<Option<SealedInfo>, BufferError> {
        self.ask(|s| {
            let mut last = None;
            while let Some(sealed) = s.seal()? {
                last = Some(sealed);
            }
            Ok(last)
        })
        .await
    }

    /// Says whether the hub can be told of batches now; without a connection records wait longer for theirs. Where it begins, all
    /// that waits is sealed; answers the place of the newest batch.
    ///
    /// # Errors
    /// A failing disk.
    pub async fn set_linked(&self, linked: bool) -> Result<i64, BufferError> {
        self.ask(move |s| {
            s.linked = linked;
            while linked && s.has_pending() && s.seal()?.is_some() {}
            s.newest_order()
        })
        .await
    }

    /// The sealed bytes of a batch; none where it is not held.
    ///
    /// # Errors
    /// A failing disk.
    pub async fn batch(&self, key: BatchKey) -> Result<Option<Vec<u8>>, BufferError> {
        self.ask(move |s| s.batch(key)).await
    }

    /// Batches that wait for the hub, in the order of sending, after a place in that order.
    ///
    /// # Errors
    /// A failing disk.
    pub async fn unacked(&self, after: i64, limit: usize) -> Result<Vec<SealedInfo>, BufferError> {
        self.ask(move |s| s.unacked(after, limit)).await
    }

    /// What is said at sync.
    ///
    /// # Errors
    /// A failing disk.
    pub async fn sync_heads(&self) -> Result<Vec<SyncHead>, BufferError> {
        self.ask(Store::sync_heads).await
    }

    /// Applies an acknowledgement.
    ///
    /// # Errors
    /// A failing disk.
    pub async fn apply_ack(&self, ack: pb::Ack) -> Result<AckOutcome, BufferError> {
        self.ask(move |s| s.apply_ack(&ack)).await
    }

    /// What waits.
    ///
    /// # Errors
    /// A failing disk.
    pub async fn depth(&self) -> Result<Depth, BufferError> {
        self.ask(|s| s.depth()).await
    }

    /// Ends the current epoch and begins another.
    ///
    /// # Errors
    /// A failing disk.
    pub async fn new_epoch(&self, reason: &str) -> Result<Epoch, BufferError> {
        let reason = reason.to_owned();
        self.ask(move |s| s.new_epoch(&reason)).await
    }

    /// Number of this start of the agent.
    #[must_use]
    pub fn boot(&self) -> u64 {
        self.boot
    }

    /// Counts a connection; never twice the same.
    ///
    /// # Errors
    /// A failing disk.
    pub async fn next_session(&self) -> Result<u64, BufferError> {
        self.ask(Store::next_session).await
    }

    /// Place of the newest sealed batch in the order of sending; changes when one is sealed.
    #[must_use]
    pub fn sealed(&self) -> watch::Receiver<i64> {
        self.sealed.clone()
    }

    async fn close(&self) -> Result<(), BufferError> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Close(reply)).await?;
        answer.await.map_err(|_| BufferError::Closed)?
    }

    async fn send(&self, request: Request) -> Result<(), BufferError> {
        self.requests
            .send(request)
            .await
            .map_err(|_| BufferError::Closed)
    }

    async fn ask<T: Send + 'static>(
        &self,
        task: impl FnOnce(&mut Store) -> Result<T, BufferError> + Send + 'static,
    ) -> Result<T, BufferError> {
        let (reply, answer) = oneshot::channel();
        let task: Task = Box::new(move |store| match task(store) {
            // The thread must see damage to act on it; the caller learns that something was wrong.
            Err(e) if e.is_damage() => {
                let _ = reply.send(Err(BufferError::Shared {
                    cause: e.to_string(),
                }));
                Err(e)
            }
            answer => {
                // A caller that gave up is no concern of the buffer.
                let _ = reply.send(answer);
                Ok(())
            }
        });
        self.send(Request::Task(task)).await?;
        answer.await.map_err(|_| BufferError::Closed)?
    }
}

impl Store {
    fn newest_order(&self) -> Result<i64, BufferError> {
        self.db
            .query_row("SELECT coalesce(max(id), 0) FROM batches", [], |r| r.get(0))
            .map_err(super::error::sql("opening"))
    }
}

fn run(mut store: Store, mut inbox: mpsc::Receiver<Request>, sealed: &watch::Sender<i64>) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
    else {
        tracing::error!("the buffer's thread has no timer; restart the agent");
        return;
    };
    let mut waiting_since: Option<Millis> = None;
    let mut held: Option<Request> = None;
    loop {
        let patience = store.patience(waiting_since);
        let request = match held.take() {
            Some(request) => Some(request),
            None => match runtime
                .block_on(async { tokio::time::timeout(patience, inbox.recv()).await })
            {
                Ok(None) => return finish(store, sealed, None),
                Ok(Some(request)) => Some(request),
                Err(_) => None,
            },
        };
        let done = match request {
            Some(Request::Close(reply)) => return finish(store, sealed, Some(reply)),
            Some(Request::Task(task)) => task(&mut store),
            Some(Request::Commit(commit, reply)) => {
                let group = gather(commit, reply, &mut inbox, &mut held);
                commit_group(&mut store, group)
            }
            None => Ok(()),
        };
        let done = done.and_then(|()| store.housekeeping(&mut waiting_since, sealed));
        if let Err(e) = done {
            tracing::error!("{e}");
            if e.is_damage() {
                let (limits, clock) = (store.limits.clone(), store.clock.clone());
                drop(store);
                let newest = *sealed.borrow();
                let salvaged = Store::salvaged(limits, clock, &e.to_string(), newest);
                store = match salvaged.and_then(|s| s.newest_order().map(|n| (s, n))) {
                    Ok((store, newest)) => {
                        sealed.send_replace(newest);
                        store
                    }
                    Err(e) => {
                        tracing::error!("{e}");
                        return;
                    }
                };
            }
        }
    }
}

impl Store {
    fn seal_after(&self) -> Duration {
        match self.linked {
            true => self.limits.seal_after,
            false => self.limits.seal_after_unlinked,
        }
    }

    fn patience(&self, waiting_since: Option<Millis>) -> Duration {
        match waiting_since {
            Some(since) => {
                let waited = u64::try_from(self.clock.monotonic_ms() - since).unwrap_or(0);
                self.seal_after()
                    .saturating_sub(Duration::from_millis(waited))
            }
            None if self.gave_back_ms.is_some() => Duration::from_millis(STEP_MS.unsigned_abs()),
            None => Duration::from_secs(60),
        }
    }

    fn housekeeping(
        &mut self,
        since: &mut Option<Millis>,
        sealed: &watch::Sender<i64>,
    ) -> Result<(), BufferError> {
        let now = self.clock.monotonic_ms();
        if self.has_pending() && since.is_none() {
            *since = Some(now);
        }
        let age = since.map_or(0, |s| u64::try_from(now - s).unwrap_or(0));
        let old = self.has_pending() && Duration::from_millis(age) >= self.seal_after();
        let mut newest = None;
        if old || self.seal_due() {
            while old && self.has_pending() || self.seal_due() {
                match self.seal()? {
                    Some(info) => newest = Some(info.order),
                    None => break,
                }
            }
            self.make_room(false)?;
            self.restore_ballast();
        }
        if !self.has_pending() {
            *since = None;
        } else if newest.is_some() {
            *since = Some(now);
        }
        if let Some(order) = newest {
            sealed.send_replace(order);
        }
        if newest.is_some() || self.gave_back_ms.is_some() || since.is_none() {
            self.give_back()?;
        }
        Ok(())
    }
}

type Group = Vec<(Commit, Reply<RangeInclusive<u64>>)>;

fn gather(
    commit: Commit,
    reply: Reply<RangeInclusive<u64>>,
    inbox: &mut mpsc::Receiver<Request>,
    held: &mut Option<Request>,
) -> Group {
    let mut records = commit.records.len();
    let mut group = vec![(commit, reply)];
    while group.len() < GROUP && records < GROUP_RECORDS {
        match inbox.try_recv() {
            Ok(Request::Commit(commit, reply)) => {
                records += commit.records.len();
                group.push((commit, reply));
            }
            Ok(other) => {
                *held = Some(other);
                break;
            }
            Err(_) => break,
        }
    }
    group
}

fn commit_group(store: &mut Store, group: Group) -> Result<(), BufferError> {
    let (commits, replies): (Vec<Commit>, Vec<_>) = group.into_iter().unzip();
    match store.commit(&commits) {
        Ok(ranges) => {
            for (reply, range) in replies.into_iter().zip(ranges) {
                let _ = reply.send(Ok(range));
            }
            Ok(())
        }
        Err(_) if commits.len() > 1 => {
            // One bad commit must not take the others with it.
            for (commit, reply) in commits.into_iter().zip(replies) {
                commit_group(store, vec![(commit, reply)])?;
            }
            Ok(())
        }
        Err(e) => {
            let damage = e.is_damage().then(|| BufferError::Damaged {
                what: e.to_string(),
            });
            if let Some(reply) = replies.into_iter().next() {
                let _ = reply.send(Err(e));
            }
            damage.map_or(Ok(()), Err)
        }
    }
}

fn finish(mut store: Store, sealed: &watch::Sender<i64>, reply: Option<Reply<()>>) {
    let mut done = Ok(());
    loop {
        match store.seal() {
            Ok(Some(info)) => {
                sealed.send_replace(info.order);
            }
            Ok(None) => break,
            Err(e) => {
                done = Err(e);
                break;
            }
        }
    }
    let closed = store.close();
    if let Some(reply) = reply {
        let _ = reply.send(done.and(closed));
    }
}
