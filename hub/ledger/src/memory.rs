//! The ledger without a database: carries the machine's outputs out in memory, for simulations and as what the real tables
//! are held against; never part of a hub that runs.

use std::collections::{BTreeMap, VecDeque};

use fieldcast_wire::caps::{MAX_ACK_PROOFS, PROOF};
use fieldcast_wire::{DeviceId, Epoch, Sha256, pb};
use uuid::Uuid;

use crate::machine::{Arrived, Event, Fate, Known, Output, Question, State, step};
use crate::rows::{
    Committed, Key, LedgerRow, MAX_BEYOND, MAX_LATER, Newest, RejectedRecord, SealedAt, proof,
};

/// A batch that is entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// SHA-256 of its bytes.
    pub digest: Sha256,
    /// What was refused of it.
    pub rejected: Vec<RejectedRecord>,
    /// Boot in which it was sealed, and when in that boot.
    pub sealed: (String, i64),
    /// When it was committed.
    pub at: i64,
}

/// An epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Life {
    /// The watermark.
    pub through: u64,
    /// Why it is spent.
    pub spent: Option<String>,
    /// Of batches up to this one only proofs are known.
    pub folded: u64,
}

/// All that a ledger holds. A copy of it is a backup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Batches.
    pub batches: BTreeMap<Key, Entry>,
    /// What is left of those that were folded.
    pub proofs: BTreeMap<Key, [u8; PROOF]>,
    /// Epochs.
    pub epochs: BTreeMap<(String, Epoch), Life>,
    /// What is added to the instance that a device is told.
    pub restored: BTreeMap<String, Uuid>,
    /// Newest session of each device, and when its boot was first heard.
    pub sessions: BTreeMap<String, (Newest, i64)>,
    /// Alarms: about whom, and which.
    pub alarms: Vec<(String, &'static str)>,
}

/// What outputs speak of without containing it.
pub struct Round<'a> {
    /// The batches of the event that began it.
    pub batches: &'a [Arrived],
    /// What is refused of each.
    pub refused: &'a [Vec<RejectedRecord>],
    /// What an instance may get added.
    pub fresh: Uuid,
    /// The hub's time.
    pub now: i64,
}

impl Ledger {
    /// A whole round at once; answers its acks.
    pub fn take(
        &mut self,
        database: &[u8],
        event: Event,
        round: &Round<'_>,
    ) -> Vec<(DeviceId, pb::Ack)> {
        let mut machine = State::new(database.to_vec());
        let mut todo = VecDeque::from(step(&mut machine, event, round.now));
        let mut acks = Vec::new();
        while let Some(output) = todo.pop_front() {
            match (self.perform(&output, round), output) {
                (Some(event), _) => todo.extend(step(&mut machine, event, round.now)),
                (None, Output::Ack(device, ack)) => acks.push((device, ack)),
                (None, _) => {}
            }
        }
        acks
    }

    /// Carries one output out; answers the event that it leads to.
    pub fn perform(&mut self, output: &Output, round: &Round<'_>) -> Option<Event> {
        match output {
            Output::Look(keys) => {
                for (device, epoch, _) in keys {
                    self.epochs.entry((device.clone(), *epoch)).or_default();
                }
                let row = |key: &Key| Some((key.clone(), self.row(key)?));
                Some(Event::Looked(keys.iter().filter_map(row).collect()))
            }
            Output::Write(which) => {
                let fates = which.iter().map(|i| self.write(*i, round)).collect();
                Some(Event::Wrote(fates))
            }
            Output::Hold(epochs) => {
                let held = |(device, epoch): &(DeviceId, Epoch)| self.committed(device, *epoch);
                Some(Event::Held(epochs.iter().map(held).collect()))
            }
            Output::Ask(question) => Some(Event::Known(self.known(question, round))),
            Output::Through(marks) => {
                for (device, epoch, through) in marks {
                    let life = self.life(device, *epoch);
                    life.through = life.through.max(*through);
                }
                None
            }
            Output::Spend(device, epoch, why) => {
                let life = self.life(device, *epoch);
                life.spent.get_or_insert_with(|| why.clone());
                None
            }
            Output::Raise(device, code, _) => {
                self.alarms.push((device.to_string(), *code));
                None
            }
            Output::Renew(device, nonce) => {
                self.restored.insert(device.to_string(), *nonce);
                None
            }
            Output::Commit => Some(Event::Committed),
            Output::Ack(..) => None,
        }
    }

    /// What is known of a batch; where its number is older than the ledger remembers, not its bytes.
    #[must_use]
    pub fn row(&self, key: &Key) -> Option<LedgerRow> {
        if let Some(entry) = self.batches.get(key) {
            return Some(LedgerRow {
                proof: Some(proof(&entry.digest)),
                rejected: entry.rejected.clone(),
            });
        }
        let life = self.epochs.get(&(key.0.clone(), key.1))?;
        (life.folded >= key.2).then(|| LedgerRow {
            proof: self.proofs.get(key).copied(),
            rejected: Vec::new(),
        })
    }

    /// Leaves of the batches of an epoch up to a number only what proves them, as far as the watermark is there.
    pub fn fold(&mut self, device: &str, epoch: Epoch, upto: u64) {
        let Some(life) = self.epochs.get_mut(&(device.to_owned(), epoch)) else {
            return;
        };
        if upto > life.through {
            return;
        }
        life.folded = life.folded.max(upto);
        let old = |(d, e, n): &Key| d == device && *e == epoch && *n <= upto;
        let gone = self.batches.extract_if(.., |key, _| old(key));
        let proofs = gone.map(|(key, entry)| (key, proof(&entry.digest)));
        self.proofs.extend(proofs);
    }

    fn life(&mut self, device: &DeviceId, epoch: Epoch) -> &mut Life {
        let key = (device.to_string(), epoch);
        self.epochs.entry(key).or_default()
    }

    fn write(&mut self, i: usize, round: &Round<'_>) -> Fate {
        let batch = &round.batches[i];
        if let Some(row) = self.row(&batch.key()) {
            return Fate::Overtaken(Some(row));
        }
        let rejected = round.refused.get(i).cloned().unwrap_or_default();
        let entry = Entry {
            digest: batch.digest,
            rejected: rejected.clone(),
            sealed: (batch.clock.boot_id.clone(), batch.clock.monotonic_ms),
            at: round.now,
        };
        self.batches.insert(batch.key(), entry);
        Fate::Written(rejected)
    }

    /// Entries of an epoch from a number on.
    fn from(
        &self,
        device: &DeviceId,
        epoch: Epoch,
        number: u64,
    ) -> impl Iterator<Item = (u64, &Entry)> {
        let key = |n| (device.to_string(), epoch, n);
        let range = self.batches.range(key(number)..=key(u64::MAX));
        range.map(|((.., n), entry)| (*n, entry))
    }

    fn committed(&self, device: &DeviceId, epoch: Epoch) -> Committed {
        let life = self.epochs.get(&(device.to_string(), epoch));
        let life = life.cloned().unwrap_or_default();
        let beyond = self.from(device, epoch, life.through + 1).map(|(n, _)| n);
        Committed {
            through: life.through,
            beyond: beyond.take(MAX_BEYOND).collect(),
            spent: life.spent,
        }
    }

    fn known(&mut self, question: &Question, round: &Round<'_>) -> Known {
        let (device, epoch) = (&question.device, question.epoch);
        let name = device.to_string();
        let folded = self.life(device, epoch).folded;
        let own = self.from(device, epoch, question.next_batch);
        let own = own.map(|(number, entry)| SealedAt {
            number,
            boot_id: entry.sealed.0.clone(),
            monotonic_ms: entry.sealed.1,
            age_ms: round.now - entry.at,
        });
        let mut later: Vec<SealedAt> = own.collect();
        if folded >= question.next_batch {
            later.push(SealedAt {
                number: folded,
                boot_id: String::new(),
                monotonic_ms: 0,
                age_ms: i64::MAX,
            });
        }
        later.sort_by_key(|b| b.number);
        later.truncate(MAX_LATER);
        let last = (name.clone(), epoch, question.last_acked);
        let proven = self.from(device, epoch, question.acked_through.saturating_add(1));
        let proven = proven
            .map(|(n, e)| (n, e.digest))
            .take(MAX_ACK_PROOFS)
            .collect();
        let committed = self.committed(device, epoch);
        let last_acked = question.last_acked == 0 || self.row(&last).is_some();
        let restored = self.restored.get(&name).copied();
        let (newest, since) = self.sessions.entry(name).or_default();
        let before = Newest {
            boot_age_ms: round.now - *since,
            ..newest.clone()
        };
        if question.session > newest.session {
            if question.boot_id != newest.boot_id {
                *since = round.now;
            }
            *newest = Newest {
                session: question.session,
                boot_id: question.boot_id.clone(),
                monotonic_ms: question.monotonic_ms,
                boot_age_ms: 0,
            };
        }
        Known {
            later,
            committed,
            last_acked,
            newest: before,
            restored,
            proven,
            fresh: round.fresh,
        }
    }
}
