//! What a source handed over and was told of it: owns the runs of one device; never looks into the database.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

/// Readings `first..end`, and whether the agent answered success for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: u64,
    end: u64,
    accepted: bool,
}

#[derive(Debug)]
struct Inner {
    runs: Vec<Run>,
    accepted: u64,
    file: File,
}

/// The oracle's log of one device.
#[derive(Debug)]
pub(crate) struct Log {
    inner: Mutex<Inner>,
}

impl Log {
    /// Also kept in a file, to be read when a run has failed.
    pub(crate) fn new(file: &Path) -> Result<Self> {
        let file = File::create(file).with_context(|| format!("create {}", file.display()))?;
        Ok(Self {
            inner: Mutex::new(Inner {
                runs: Vec::new(),
                accepted: 0,
                file,
            }),
        })
    }

    /// Readings that are about to be offered: from now on a row of them is no surprise.
    pub(crate) fn offer(&self, count: u64) -> u64 {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let first = inner.runs.last().map_or(0, |r| r.end);
        inner.runs.push(Run {
            first,
            end: first + count,
            accepted: false,
        });
        first
    }

    /// The offer that began with this reading was answered with success.
    pub(crate) fn accept(&self, first: u64) -> Result<()> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(at) = inner.runs.binary_search_by_key(&first, |r| r.first) else {
            return Ok(());
        };
        inner.runs[at].accepted = true;
        let run = inner.runs[at];
        inner.accepted += run.end - run.first;
        writeln!(inner.file, "{}..{}", run.first, run.end)?;
        // Neighbours that ended alike are one run.
        if at > 0 && inner.runs[at - 1].accepted {
            inner.runs[at - 1].end = run.end;
            inner.runs.remove(at);
        }
        Ok(())
    }

    /// Readings the agent said it had accepted.
    pub(crate) fn accepted(&self) -> u64 {
        self.inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .accepted
    }

    /// The number that the next reading will get.
    pub(crate) fn next(&self) -> u64 {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.runs.last().map_or(0, |r| r.end)
    }

    /// For each reading from `from` on that was ever offered: whether it was accepted.
    pub(crate) fn verdicts(&self, from: u64) -> Vec<bool> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let first = inner.runs.partition_point(|r| r.end <= from);
        let mut all = Vec::new();
        for run in &inner.runs[first..] {
            let count = usize::try_from(run.end - run.first.max(from)).unwrap_or(0);
            all.resize(all.len() + count, run.accepted);
        }
        all
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_answered_counts_as_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::new(&dir.path().join("log")).unwrap();
        assert_eq!(log.offer(2), 0);
        log.accept(0).unwrap();
        assert_eq!((log.offer(1), log.offer(2), log.offer(1)), (2, 3, 5));
        log.accept(5).unwrap();
        log.accept(3).unwrap();
        assert_eq!(log.verdicts(0), [true, true, false, true, true, true]);
        assert_eq!(log.verdicts(4), [true, true]);
        assert_eq!((log.accepted(), log.next()), (5, 6));
    }
}
