//! Hubs with one database in memory: owns rounds that crash and overlap; what they answer is the real hub's machine.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use fieldcast_ledger::machine::{Arrived, Event, Fate, Output, State, step};
use fieldcast_ledger::memory::{Entry, Ledger, Round};
use fieldcast_ledger::rows::{RejectedRecord, proof};
use fieldcast_wire::{DeviceId, Epoch, RecordBody, Sha256, batch, pb};
use uuid::Uuid;

use super::{Broken, Chance, DELAY_MS, is_refused};

/// The hub's clock against those of devices, which nothing vouches for.
pub(super) const AHEAD_MS: i64 = 5_000_000;

/// What a database holds; a copy of it is a backup.
#[derive(Clone, Default)]
pub(super) struct Database {
    pub(super) ledger: Ledger,
    /// How often each reading is there.
    pub(super) rows: HashMap<i64, u32>,
    pub(super) gaps: Vec<pb::Gap>,
    /// First and last record of each batch.
    pub(super) spans: Vec<(Epoch, u64, u64)>,
}

/// What reaches a hub.
#[derive(Clone)]
pub(super) enum Message {
    Batches(Vec<Vec<u8>>),
    Sync(pb::Sync),
}

pub(super) struct Hubs {
    pub(super) device: DeviceId,
    pub(super) name: Vec<u8>,
    names: u128,
    pub(super) database: Database,
    /// All bytes that were ever committed, backups or not.
    pub(super) ever: HashSet<(Epoch, u64, Sha256)>,
    pub(super) crashes: u32,
    pub(super) overlaps: u32,
    pub(super) conflicts: u32,
    pub(super) broken: Option<Broken>,
    now: Arc<AtomicI64>,
    /// Watermarks as they were a while ago.
    noted: (i64, Vec<(Epoch, u64)>),
}

/// A round's messages, decoded.
struct Work {
    event: Event,
    arrived: Vec<Arrived>,
    decoded: Vec<batch::Batch>,
    refused: Vec<Vec<RejectedRecord>>,
    fresh: Uuid,
    now: i64,
}

impl Work {
    /// P9: the clock of the newest message that an ack answers.
    fn newest(&self, epoch: Epoch) -> Option<pb::ClockStamp> {
        if let Event::Sync(_, _, sync) = &self.event {
            return sync.clock.clone();
        }
        let of_it = self.decoded.iter().filter(|b| b.epoch == epoch);
        of_it.max_by_key(|b| b.number).map(|b| b.clock.clone())
    }
}

impl Hubs {
    pub(super) fn new(now: Arc<AtomicI64>) -> Self {
        Self {
            device: DeviceId::new("d").unwrap(),
            name: b"first".to_vec(),
            names: 0,
            database: Database::default(),
            ever: HashSet::new(),
            crashes: 0,
            overlaps: 0,
            conflicts: 0,
            broken: None,
            now,
            noted: (0, Vec::new()),
        }
    }

    fn fresh(&mut self) -> Uuid {
        self.names += 1;
        Uuid::from_u128(self.names)
    }

    /// Another name, as after a restore that the hub was told of.
    pub(super) fn renew(&mut self) {
        self.name = self.fresh().as_bytes().to_vec();
    }

    /// The hub's clock.
    pub(super) fn time(&self) -> i64 {
        self.now.load(Ordering::Relaxed) + AHEAD_MS
    }

    /// Forgets by age: of some batches that lie below the watermark for longer than any message is on its way, only what
    /// proves them is left.
    pub(super) fn fold(&mut self, chance: &mut Chance) {
        let time = self.time();
        let ledger = &mut self.database.ledger;
        let young = |e: &Entry| time - e.at <= 2 * DELAY_MS;
        if time - self.noted.0 > 2 * DELAY_MS {
            for (epoch, through) in std::mem::take(&mut self.noted.1) {
                let mut of_it = ledger.batches.iter().filter(|(key, _)| key.1 == epoch);
                let first = of_it.find(|(_, e)| young(e)).map(|(key, _)| key.2);
                let most = through.min(first.map_or(u64::MAX, |n| n - 1));
                ledger.fold(self.device.as_str(), epoch, chance.roll(most + 1));
            }
            let lives = ledger
                .epochs
                .iter()
                .map(|(key, life)| (key.1, life.through));
            self.noted = (time, lives.collect());
        }
    }

    fn work(&mut self, message: &Message) -> Work {
        let mut work = Work {
            event: Event::Committed,
            arrived: Vec::new(),
            decoded: Vec::new(),
            refused: Vec::new(),
            fresh: self.fresh(),
            now: self.time(),
        };
        match message {
            Message::Sync(sync) => {
                let epoch = Epoch::from_slice(&sync.epoch).unwrap();
                work.event = Event::Sync(self.device.clone(), epoch, sync.clone());
            }
            Message::Batches(payloads) => {
                let decoded = payloads
                    .iter()
                    .map(|p| (Sha256::of(p), batch::decode(p).unwrap()));
                let mut decoded: Vec<_> = decoded.collect();
                decoded.sort_by_key(|(_, b)| (b.epoch, b.number));
                let restored = &self.database.ledger.restored;
                for (digest, b) in decoded {
                    work.arrived.push(Arrived {
                        device: self.device.clone(),
                        epoch: b.epoch,
                        number: b.number,
                        digest,
                        clock: b.clock.clone(),
                        restored: restored.get(self.device.as_str()).copied(),
                    });
                    let bad = b.records.iter().filter(
                        |r| matches!(&r.body, RecordBody::Reading(r) if is_refused(r.time)),
                    );
                    let bad = bad.map(|r| RejectedRecord::new(r.seq, "refused"));
                    work.refused.push(bad.collect());
                    work.decoded.push(b);
                }
                work.event = Event::Batches(work.arrived.clone());
            }
        }
        work
    }

    /// One hub's round over a message, which may crash before any step; a second hub's whole round may come in between.
    pub(super) fn round(
        &mut self,
        message: &Message,
        mut rival: Option<Message>,
        chance: &mut Chance,
    ) -> Vec<pb::Ack> {
        let work = self.work(message);
        let mut machine = State::new(self.name.clone());
        let mut todo = VecDeque::from(step(&mut machine, work.event.clone(), work.now));
        let mut view = self.database.clone();
        let (mut log, mut acks) = (Vec::new(), Vec::new());
        while let Some(output) = todo.pop_front() {
            if chance.one_in(40) {
                self.crashes += 1;
                break;
            }
            if rival
                .as_ref()
                .is_some_and(|r| may_overlap(&output, &work, r))
            {
                self.overlaps += 1;
                let rival = rival.take().unwrap();
                acks.extend(self.round(&rival, None, chance));
                view = self.database.clone();
                for output in &log {
                    let _ = view.perform(output, &work, self.broken);
                }
            }
            if let Output::Ack(_, ack) = output {
                self.check(&ack, &work);
                self.conflicts += u32::from(ack.rejected.iter().any(|r| r.seq == 0));
                acks.push(ack);
                continue;
            }
            if output == Output::Commit && self.broken == Some(Broken::AckBeforeCommit) {
                todo.extend(step(&mut machine, Event::Committed, work.now));
                continue;
            }
            let event = view.perform(&output, &work, self.broken);
            if output == Output::Commit {
                self.database = view.clone();
                let of =
                    |((_, e, n), entry): (&(String, Epoch, u64), &Entry)| (*e, *n, entry.digest);
                self.ever
                    .extend(self.database.ledger.batches.iter().map(of));
            }
            log.push(output);
            if let Some(event) = event {
                todo.extend(step(&mut machine, event, work.now));
            }
        }
        if let Some(rival) = rival {
            acks.extend(self.round(&rival, None, chance));
        }
        acks
    }

    /// P4: whatever an ack says is on disk, with these very bytes.
    fn check(&self, ack: &pb::Ack, work: &Work) {
        let epoch = Epoch::from_slice(&ack.epoch).unwrap();
        let ledger = &self.database.ledger;
        let entry = |n: u64| ledger.row(&(self.device.to_string(), epoch, n));
        for told in &ack.proofs {
            let known = entry(told.batch).and_then(|row| row.proof);
            assert_eq!(
                known.as_ref().map(|known| &known[..]),
                Some(&told.digest[..]),
                "P4: batch {} is acknowledged, the database does not hold these bytes",
                told.batch
            );
        }
        let newest = work.newest(epoch).unwrap();
        assert_eq!(
            (&ack.echo_boot_id, ack.echo_monotonic_ms, ack.hub_time_ms),
            (&newest.boot_id, newest.monotonic_ms, work.now),
            "P9: an ack echoes the newest message that it answers, with the hub's time"
        );
        let life = ledger.epochs.get(&(self.device.to_string(), epoch));
        let through = life.map_or(0, |l| l.through);
        assert!(
            ack.through <= through,
            "P4: through {} is told, {through} is committed",
            ack.through
        );
        for n in ack.ranges.iter().flat_map(|r| r.first..=r.last) {
            assert!(
                entry(n).is_some(),
                "P4: batch {n} is listed and not committed"
            );
        }
        for r in ack.rejected.iter().filter(|r| r.seq == 0) {
            assert!(
                ack.new_epoch,
                "P8: batch {} is refused as a whole although nothing in it is malformed",
                r.batch
            );
        }
    }
}

impl Database {
    fn perform(&mut self, output: &Output, work: &Work, broken: Option<Broken>) -> Option<Event> {
        let round = Round {
            batches: &work.arrived,
            refused: &work.refused,
            fresh: work.fresh,
            now: work.now,
        };
        match (output, broken) {
            (Output::Look(_), Some(Broken::WriteAgain)) => {
                return Some(Event::Looked(Default::default()));
            }
            (Output::Write(which), Some(Broken::WriteAgain)) => {
                for i in which {
                    self.ledger.batches.remove(&work.arrived[*i].key());
                }
            }
            _ => {}
        }
        let mut event = self.ledger.perform(output, &round);
        if let (Output::Write(which), Some(Event::Wrote(fates))) = (output, &event) {
            for (i, fate) in which.iter().zip(fates) {
                if let Fate::Written(rejected) = fate {
                    let refused: BTreeSet<u64> = rejected.iter().map(|r| r.seq).collect();
                    self.write(&work.decoded[*i], &refused);
                }
            }
        }
        if let Some(Event::Looked(rows)) = &mut event {
            for arrived in &work.arrived {
                let key = arrived.key();
                // As if a number alone told a batch.
                let believed = match broken {
                    Some(Broken::ConflictIsKnown) => true,
                    Some(Broken::FoldedIsKnown) => !self.ledger.batches.contains_key(&key),
                    _ => false,
                };
                if let (true, Some(row)) = (believed, rows.get_mut(&key)) {
                    row.proof = Some(proof(&arrived.digest));
                }
            }
        }
        event
    }

    fn write(&mut self, b: &batch::Batch, refused: &BTreeSet<u64>) {
        self.spans.push((b.epoch, b.first_seq, b.last_seq));
        for record in b.records.iter().filter(|r| !refused.contains(&r.seq)) {
            match &record.body {
                RecordBody::Reading(r) => *self.rows.entry(r.time).or_default() += 1,
                RecordBody::Gap(gap) => self.gaps.push(gap.clone()),
                _ => {}
            }
        }
    }
}

/// Where another transaction is not held up by what this one has locked: before its first write, and before it locks the
/// epochs where the other writes other batches.
fn may_overlap(output: &Output, work: &Work, rival: &Message) -> bool {
    match (output, rival) {
        (Output::Write(_), _) => true,
        (Output::Hold(_), Message::Batches(payloads)) => payloads.iter().all(|p| {
            let b = batch::decode(p).unwrap();
            let same = |a: &Arrived| (a.epoch, a.number) == (b.epoch, b.number);
            !work.arrived.iter().any(same)
        }),
        _ => false,
    }
}
