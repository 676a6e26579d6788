//! The ledger without a database: carries the machine's outputs out in memory, for simulations and as what the real tables
//! are held against; never part of a hub that runs.

use std::collections::{BTreeMap, VecDeque};

use fieldcast_wire::caps::MAX_ACK_PROOFS;
use fieldcast_wire::{DeviceId, Epoch, Sha256, pb};
use uuid::Uuid;

use crate::machine::{Arrived, Event, Fate, Known, Output, Question, State, step};
use crate::rows::{Committed, Key, LedgerRow, MAX_BEYOND, MAX_LATER, RejectedRecord, SealedAt};

/// A batch that is entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// SHA-256 of its bytes.
    pub digest: Sha256,
    /// What was refused of it.
    pub rejected: Vec<RejectedRecord>,
    /// Boot in which it was sealed, and when in that boot.
    pub sealed: (String, i64),
}

/// An epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Life {
    /// The watermark.
    pub through: u64,
    /// Why it is spent.
    pub spent: Option<String>,
    /// Batches up to this one are known by their numbers only.
    pub folded: u64,
}

/// All that a ledger holds. A copy of it is a backup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Batches.
    pub batches: BTreeMap<Key, Entry>,
    /// Epochs.
    pub epochs: BTreeMap<(String, Epoch), Life>,
    /// What is added to the instance that a device is told.
    pub restored: BTreeMap<String, Uuid>,
    /// Highest session of each device.
    pub sessions: BTreeMap<String, u64>,
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
}

impl Ledger {
    /// A whole round at once, at time 0; answers its acks.
    pub fn take(
        &mut self,
        database: &[u8],
        event: Event,
        round: &Round<'_>,
    ) -> Vec<(DeviceId, pb::Ack)> {
        let mut machine = State::new(database.to_vec());
        let mut todo = VecDeque::from(step(&mut machine, event, 0));
        let mut acks = Vec::new();
        while let Some(output) = todo.pop_front() {
            match (self.perform(&output, round), output) {
                (Some(event), _) => todo.extend(step(&mut machine, event, 0)),
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
            Output::Ask(question) => Some(Event::Known(self.known(question, round.fresh))),
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

    /// Whether a batch is committed, whatever its bytes.
    #[must_use]
    pub fn row(&self, key: &Key) -> Option<LedgerRow> {
        if let Some(entry) = self.batches.get(key) {
            return Some(LedgerRow {
                digest: Some(entry.digest),
                rejected: entry.rejected.clone(),
            });
        }
        let life = self.epochs.get(&(key.0.clone(), key.1))?;
        (life.folded >= key.2).then_some(LedgerRow {
            digest: None,
            rejected: Vec::new(),
        })
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

    fn known(&mut self, question: &Question, fresh: Uuid) -> Known {
        let (device, epoch) = (&question.device, question.epoch);
        let name = device.to_string();
        let folded = self.life(device, epoch).folded;
        let row = |(number, (boot_id, monotonic_ms)): (u64, (String, i64))| SealedAt {
            number,
            boot_id,
            monotonic_ms,
        };
        let own = self.from(device, epoch, question.next_batch);
        let mut later: Vec<SealedAt> = own.map(|(n, e)| row((n, e.sealed.clone()))).collect();
        if folded >= question.next_batch {
            later.push(row((folded, Default::default())));
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
        let session = self.sessions.entry(name).or_default();
        let before = *session;
        *session = before.max(question.session);
        Known {
            later,
            committed,
            last_acked,
            session: before,
            restored,
            proven,
            fresh,
        }
    }
}
