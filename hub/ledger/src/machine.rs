//! The hub's half of the protocol: a pure machine from messages to what is read, written and acknowledged; no I/O, no clock.
//!
//! ```text
//!          Batches          Looked            Wrote            Held                Committed
//!   Idle ──────────► Looking ───────► Writing ──────► Holding ──────► Committing ──────────────► Idle, acks
//!     │     Sync                            Known                      ▲
//!     └──────────► Asking ────────────────────────────────────────────┘
//! ```
//! One round is one transaction. Whoever carries it out does what is told in its order and answers with the event that each
//! output names. Where the database fails, the transaction is rolled back and the machine thrown away: a device that has no
//! ack sends again. Numbers `P…` are those of `docs/protocol.md`; P4: an ack comes out of [`Event::Committed`] only.

use std::collections::BTreeMap;

use fieldcast_wire::caps::{MAX_ACK_PROOFS, MAX_ACK_REJECTED};
use fieldcast_wire::{DeviceId, Epoch, SCHEMA, Sha256, pb};
use uuid::Uuid;

use crate::rows::{
    Committed, Key, LedgerRow, Newest, RejectedRecord, SealedAt, instance_for, proof,
};
use crate::rules::{self, Decision, watermark};

/// What is decided on of a batch.
#[derive(Debug, Clone)]
pub struct Arrived {
    /// Whose.
    pub device: DeviceId,
    /// Of which buffer.
    pub epoch: Epoch,
    /// Number in it.
    pub number: u64,
    /// SHA-256 of its bytes.
    pub digest: Sha256,
    /// Its clocks.
    pub clock: pb::ClockStamp,
    /// What is added to the instance that its device is told; see [`instance_for`].
    pub restored: Option<Uuid>,
}

impl Arrived {
    /// Its key in the ledger.
    #[must_use]
    pub fn key(&self) -> Key {
        (self.device.to_string(), self.epoch, self.number)
    }
}

/// What became of a batch that was to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is written with its ledger row, but for these records.
    Written(Vec<RejectedRecord>),
    /// Nothing was written: another hub, or the same group, was quicker, and this is its row.
    Overtaken(Option<LedgerRow>),
    /// Nothing was written, since there is no room for what cannot become rows: it stays with its device.
    NoRoom,
}

/// What is read for a sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Whose.
    pub device: DeviceId,
    /// Epoch.
    pub epoch: Epoch,
    /// Batches from this number on, and when they were sealed.
    pub next_batch: u64,
    /// Whether this batch is committed; 0: none is asked about.
    pub last_acked: u64,
    /// Digests of batches behind this number, at most [`MAX_ACK_PROOFS`].
    pub acked_through: u64,
    /// The session, kept where it is the highest.
    pub session: u64,
    /// Boot of the sync.
    pub boot_id: String,
    /// When in that boot.
    pub monotonic_ms: i64,
}

/// Answer to a [`Question`].
#[derive(Debug, Clone)]
pub struct Known {
    /// Batches from [`Question::next_batch`] on, at most [`crate::rows::MAX_LATER`].
    pub later: Vec<SealedAt>,
    /// The epoch, locked.
    pub committed: Committed,
    /// Whether [`Question::last_acked`] is committed, or none was asked about.
    pub last_acked: bool,
    /// Who synchronised before.
    pub newest: Newest,
    /// What is added to the instance that the device is told.
    pub restored: Option<Uuid>,
    /// Numbers and digests behind [`Question::acked_through`].
    pub proven: Vec<(u64, Sha256)>,
    /// What will be added to it if a restore comes to light: never used before.
    pub fresh: Uuid,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// Batches of known devices, sorted by device, epoch and number.
    Batches(Vec<Arrived>),
    /// A device says what it holds of an epoch.
    Sync(DeviceId, Epoch, pb::Sync),
    /// Answer to [`Output::Look`].
    Looked(BTreeMap<Key, LedgerRow>),
    /// Answer to [`Output::Write`], in its order.
    Wrote(Vec<Fate>),
    /// Answer to [`Output::Hold`], in its order.
    Held(Vec<Committed>),
    /// Answer to [`Output::Ask`].
    Known(Known),
    /// Answer to [`Output::Commit`]: all of it is on disk.
    Committed,
}

/// What to do, in order, within one transaction.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Enter the epochs where they are new, and look up the rows of these batches.
    Look(Vec<Key>),
    /// Write these of the batches, each with its ledger row or not at all.
    Write(Vec<usize>),
    /// Lock these epochs and read what is committed of them, with what this transaction has written.
    Hold(Vec<(DeviceId, Epoch)>),
    /// Read what a sync is judged by.
    Ask(Question),
    /// Raise the watermarks of epochs; none ever goes back.
    Through(Vec<(DeviceId, Epoch, u64)>),
    /// Mark an epoch as spent.
    Spend(DeviceId, Epoch, String),
    /// Raise an alarm of the hub's own.
    Raise(DeviceId, &'static str, String),
    /// Add this to the instance that a device is told.
    Renew(DeviceId, Uuid),
    /// Make all of it permanent.
    Commit,
    /// Tell a device.
    Ack(DeviceId, pb::Ack),
}

/// What the ack of one epoch will say beyond its watermark.
#[derive(Debug, Default)]
struct Answer {
    newest: Option<(u64, pb::ClockStamp)>,
    restored: Option<Uuid>,
    committed: Vec<(u64, Sha256)>,
    rejected: Vec<pb::Rejected>,
    conflict: Option<String>,
}

#[derive(Debug, Default)]
struct Answers(BTreeMap<(DeviceId, Epoch), Answer>);

#[derive(Debug)]
enum Phase {
    Idle,
    Looking(Vec<Arrived>),
    Writing {
        batches: Vec<Arrived>,
        open: Vec<usize>,
        answers: Answers,
    },
    Holding(Answers),
    Asking(DeviceId, Epoch, pb::Sync),
    Committing(Vec<(DeviceId, pb::Ack)>),
}

/// State of one round.
#[derive(Debug)]
pub struct State {
    database: Vec<u8>,
    phase: Phase,
}

impl State {
    /// A machine for the database of this name.
    #[must_use]
    pub fn new(database: Vec<u8>) -> Self {
        Self {
            database,
            phase: Phase::Idle,
        }
    }
}

/// One step of the machine. An event that answers nothing asked for ends the round: nothing is acknowledged.
pub fn step(s: &mut State, event: Event, now: i64) -> Vec<Output> {
    let phase = std::mem::replace(&mut s.phase, Phase::Idle);
    let (next, out) = match (phase, event) {
        (Phase::Idle, Event::Batches(batches)) if !batches.is_empty() => {
            let keys = batches.iter().map(Arrived::key).collect();
            (Phase::Looking(batches), vec![Output::Look(keys)])
        }
        (Phase::Idle, Event::Sync(device, epoch, sync)) => {
            let clock = sync.clock.clone().unwrap_or_default();
            let question = Question {
                device: device.clone(),
                epoch,
                next_batch: sync.next_batch,
                last_acked: sync.last_acked,
                acked_through: sync.acked_through,
                session: sync.session,
                boot_id: clock.boot_id,
                monotonic_ms: clock.monotonic_ms,
            };
            (
                Phase::Asking(device, epoch, sync),
                vec![Output::Ask(question)],
            )
        }
        (Phase::Looking(batches), Event::Looked(rows)) => looked(batches, &rows),
        (
            Phase::Writing {
                batches,
                open,
                mut answers,
            },
            Event::Wrote(fates),
        ) => {
            for (i, fate) in open.into_iter().zip(fates) {
                match fate {
                    Fate::Written(rejected) => answers.take(&batches[i], rejected),
                    // Where it is neither written nor there, its device sends it again.
                    Fate::Overtaken(row) => drop(answers.judge(&batches[i], row.as_ref())),
                    Fate::NoRoom => {}
                }
            }
            hold(answers)
        }
        (Phase::Holding(answers), Event::Held(held)) => settle(&s.database, answers, held),
        (Phase::Asking(device, epoch, sync), Event::Known(known)) => {
            synchronised(&s.database, device, epoch, sync, known)
        }
        (Phase::Committing(acks), Event::Committed) => {
            let acks = acks.into_iter().map(|(device, ack)| {
                let ack = pb::Ack {
                    hub_time_ms: now,
                    ..ack
                };
                Output::Ack(device, ack)
            });
            (Phase::Idle, acks.collect())
        }
        _ => (Phase::Idle, Vec::new()),
    };
    s.phase = next;
    out
}

impl Answers {
    fn of(&mut self, batch: &Arrived) -> &mut Answer {
        let key = (batch.device.clone(), batch.epoch);
        let answer = self.0.entry(key).or_default();
        answer.restored = batch.restored;
        let newest = answer.newest.as_ref();
        if newest.is_none_or(|(n, _)| *n <= batch.number) {
            answer.newest = Some((batch.number, batch.clock.clone()));
        }
        answer
    }

    /// The batch is committed, or is when this transaction is.
    fn take(&mut self, batch: &Arrived, rejected: Vec<RejectedRecord>) {
        let answer = self.of(batch);
        answer.committed.push((batch.number, batch.digest));
        answer.reject(batch.number, rejected);
    }

    /// Answers a batch by the ledger's row of its key; true where it is to be written.
    fn judge(&mut self, batch: &Arrived, row: Option<&LedgerRow>) -> bool {
        match rules::decide(row, &batch.digest) {
            Decision::AlreadyCommitted(rejected) => self.take(batch, rejected),
            Decision::DigestConflict => self.conflict(batch),
            Decision::Write => return true,
        }
        false
    }

    fn conflict(&mut self, batch: &Arrived) {
        let why = format!(
            "batch {} of epoch {} is committed, not with these bytes: a clone or a restored disk image",
            batch.number, batch.epoch
        );
        let answer = self.of(batch);
        // P4: number 0 names the whole batch; acks of a spent epoch say nothing else of a conflict.
        let whole = RejectedRecord::new(0, why.as_str());
        answer.reject(batch.number, vec![whole]);
        answer.conflict = Some(why);
    }
}

impl Answer {
    fn reject(&mut self, batch: u64, rejected: Vec<RejectedRecord>) {
        let room = MAX_ACK_REJECTED.saturating_sub(self.rejected.len());
        let rejected = rejected.into_iter().take(room);
        self.rejected.extend(rejected.map(|r| pb::Rejected {
            batch,
            seq: r.seq,
            reason: r.reason,
        }));
    }
}

fn looked(batches: Vec<Arrived>, rows: &BTreeMap<Key, LedgerRow>) -> (Phase, Vec<Output>) {
    let mut answers = Answers::default();
    let mut open = Vec::new();
    for (i, batch) in batches.iter().enumerate() {
        if answers.judge(batch, rows.get(&batch.key())) {
            open.push(i);
        }
    }
    if open.is_empty() {
        return hold(answers);
    }
    let out = vec![Output::Write(open.clone())];
    let phase = Phase::Writing {
        batches,
        open,
        answers,
    };
    (phase, out)
}

fn hold(answers: Answers) -> (Phase, Vec<Output>) {
    let epochs = answers.0.keys().cloned().collect();
    (Phase::Holding(answers), vec![Output::Hold(epochs)])
}

fn settle(database: &[u8], answers: Answers, held: Vec<Committed>) -> (Phase, Vec<Output>) {
    let (mut out, mut marks, mut acks) = (Vec::new(), Vec::new(), Vec::new());
    for (((device, epoch), answer), committed) in answers.0.into_iter().zip(held) {
        let numbers: Vec<u64> = answer.committed.iter().map(|(n, _)| *n).collect();
        let (through, ranges) = watermark(&committed, &numbers);
        if through > committed.through {
            marks.push((device.clone(), epoch, through));
        }
        if let Some(why) = &answer.conflict {
            spend(&mut out, &device, epoch, &committed, why);
        }
        let reason = answer.conflict.or(committed.spent);
        let clock = answer.newest.map(|(_, clock)| clock).unwrap_or_default();
        let ack = pb::Ack {
            through,
            ranges,
            rejected: answer.rejected,
            hub_instance: instance_for(database, answer.restored),
            ..ack(epoch, clock, &answer.committed, reason)
        };
        acks.push((device, ack));
    }
    if !marks.is_empty() {
        out.push(Output::Through(marks));
    }
    out.push(Output::Commit);
    (Phase::Committing(acks), out)
}

/// An epoch is spent once, with one alarm. A second live instance shows by it alone where both count the same sessions.
fn spend(out: &mut Vec<Output>, device: &DeviceId, epoch: Epoch, held: &Committed, why: &str) {
    if held.spent.is_none() {
        out.push(Output::Spend(device.clone(), epoch, why.to_owned()));
        out.push(Output::Raise(device.clone(), "clone", why.to_owned()));
    }
}

fn synchronised(
    database: &[u8],
    device: DeviceId,
    epoch: Epoch,
    sync: pb::Sync,
    known: Known,
) -> (Phase, Vec<Output>) {
    let mut committed = known.committed;
    let verdict = rules::sync(
        &sync,
        &rules::Held {
            known: &known.later,
            committed: &committed,
            through: watermark(&committed, &[]).0,
            last_acked: known.last_acked,
            newest: &known.newest,
            instance: &instance_for(database, known.restored),
        },
    );
    let (mut out, mut restored) = (Vec::new(), known.restored);
    if let Some(why) = verdict.forgotten {
        restored = Some(known.fresh);
        out.push(Output::Renew(device.clone(), known.fresh));
        out.push(Output::Raise(device.clone(), "hub_restored", why));
    }
    if let Some(why) = &verdict.new_epoch {
        spend(&mut out, &device, epoch, &committed, why);
    }
    if let Some(why) = verdict.clone {
        out.push(Output::Raise(device.clone(), "clone", why));
    }
    let before = committed.through;
    committed.through = before.max(verdict.floor);
    let (through, ranges) = watermark(&committed, &[]);
    if through > before {
        out.push(Output::Through(vec![(device.clone(), epoch, through)]));
    }
    let reason = verdict.new_epoch.or(committed.spent);
    // The device may have missed acks: those of what it still counts as waiting come first.
    let proven = &known.proven[..known.proven.len().min(MAX_ACK_PROOFS)];
    let ack = pb::Ack {
        through,
        ranges,
        hub_instance: instance_for(database, restored),
        ..ack(epoch, sync.clock.unwrap_or_default(), proven, reason)
    };
    out.push(Output::Commit);
    (Phase::Committing(vec![(device, ack)]), out)
}

/// An ack that echoes a clock, proves what it may and says whether the epoch goes on.
fn ack(
    epoch: Epoch,
    clock: pb::ClockStamp,
    proven: &[(u64, Sha256)],
    spent: Option<String>,
) -> pb::Ack {
    let prove = |(batch, digest): &(u64, Sha256)| pb::Proof {
        batch: *batch,
        digest: proof(digest).to_vec(),
    };
    pb::Ack {
        schema: SCHEMA,
        epoch: epoch.to_vec(),
        proofs: proven.iter().map(prove).collect(),
        echo_monotonic_ms: clock.monotonic_ms,
        echo_boot_id: clock.boot_id,
        new_epoch: spent.is_some(),
        reason: spent.unwrap_or_default(),
        ..pb::Ack::default()
    }
}
