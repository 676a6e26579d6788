//! Batches that the hub has no room for: owns which are put aside and until when; never whether one is sent.

use std::collections::BTreeMap;

use crate::batches::{BatchKey, SealedInfo};

/// How long a batch is left alone.
const AGAIN: i64 = 3_600_000;

/// What is put aside. In memory only: after a restart each is tried once more.
#[derive(Debug, Clone, Default)]
pub(crate) struct Aside(BTreeMap<BatchKey, (i64, SealedInfo)>);

impl Aside {
    /// Puts a batch aside.
    pub(crate) fn put(&mut self, batch: SealedInfo, now: i64) {
        self.0.insert(batch.key, (now + AGAIN, batch));
    }

    /// Whether it is put aside.
    pub(crate) fn holds(&self, key: &BatchKey) -> bool {
        self.0.contains_key(key)
    }

    /// It need not be sent any more.
    pub(crate) fn done(&mut self, key: &BatchKey) {
        self.0.remove(key);
    }

    /// All are to be looked at anew.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// When the next one is due.
    pub(crate) fn due_at(&self) -> Option<i64> {
        self.0.values().map(|(at, _)| *at).min()
    }

    /// Takes what is due, the oldest first, at most so many.
    pub(crate) fn take(&mut self, limit: usize, now: i64) -> Vec<SealedInfo> {
        let mut due: Vec<SealedInfo> = (self.0.values().filter(|(at, _)| *at <= now))
            .map(|(_, batch)| batch.clone())
            .collect();
        due.sort_by_key(|batch| batch.order);
        due.truncate(limit);
        for batch in &due {
            self.0.remove(&batch.key);
        }
        due
    }
}
