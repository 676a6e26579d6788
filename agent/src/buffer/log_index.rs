//! What SQLite's index knows of the log beside the buffer's file: owns noticing that the log lost its end; changes neither.
//!
//! SQLite takes a log for as long as its checksums hold. One that was cut or spoilt makes the file an older one of itself,
//! without a word. The index (`-shm`) of a process that was killed still says how long the log was. Its layout is that of
//! <https://www.sqlite.org/walformat.html>.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Version of the layout that is understood.
const LAYOUT: u32 = 3_007_000;
/// Bytes of one copy of the header; there are two.
const HEADER: usize = 48;

/// The log as its index tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogIndex {
    /// Committed frames.
    frames: u32,
    /// Those that are in the file by now.
    backfilled: u32,
    /// Whether it is of this very log, which begins anew with another salt.
    of_this_log: bool,
}

/// What was there before SQLite opened the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Witness {
    before: Option<LogIndex>,
    /// Whether the machine has not started anew since: what was mapped then is there to the last byte.
    same_boot: bool,
}

impl Witness {
    /// Reads the index of a file that is not open.
    pub(super) fn new(file: &Path, same_boot: bool) -> Self {
        Self {
            before: LogIndex::read(file),
            same_boot,
        }
    }

    /// Whether SQLite, which has opened the file and written nothing yet, found less than was committed.
    pub(super) fn misses(&self, file: &Path) -> bool {
        let found = LogIndex::read(file).map_or(0, |index| index.frames);
        self.before.is_some_and(|before| {
            let believed = self.same_boot || before.of_this_log;
            believed && before.frames > before.backfilled && found < before.frames
        })
    }
}

impl LogIndex {
    fn read(file: &Path) -> Option<Self> {
        let beside = |suffix| PathBuf::from(format!("{}{suffix}", file.display()));
        let index: [u8; 2 * HEADER + 4] = head(&beside("-shm"))?;
        let number = |at: usize| Some(u32::from_ne_bytes(index.get(at..at + 4)?.try_into().ok()?));
        let (one, two) = index.split_at(HEADER);
        // Copies that differ were being written.
        let whole =
            Some(one) == two.get(..HEADER) && number(0)? == LAYOUT && index.get(12) == Some(&1);
        let log: Option<[u8; 24]> = head(&beside("-wal"));
        Some(Self {
            frames: number(16)?,
            backfilled: number(2 * HEADER)?,
            of_this_log: log.is_some_and(|log| log.get(16..) == index.get(32..40)),
        })
        .filter(|_| whole)
    }
}

fn head<const N: usize>(path: &Path) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    File::open(path).ok()?.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs::OpenOptions;
    use std::os::unix::fs::FileExt as _;
    use std::sync::Arc;
    use std::sync::atomic::AtomicI64;

    use super::super::Store;
    use super::super::tests::{commit, contents, limits, open};
    use crate::clock::Clock;

    /// The files of a buffer whose process is killed after so many readings; every fifth hundred is not sealed.
    fn killed(readings: i64) -> tempfile::TempDir {
        let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut store = open(dir.path());
        store.begin_boot().unwrap();
        for n in 0..readings / 10 {
            store.commit(&[commit(n * 10..(n + 1) * 10)]).unwrap();
            if n % 50 < 40 && store.seal_due() {
                store.seal().unwrap();
            }
        }
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        copy
    }

    fn is_whole(store: &mut Store, readings: i64) {
        let (times, gaps) = contents(store);
        assert!((0..readings).all(|t| times.contains(&t)) && gaps.is_empty());
    }

    #[test]
    fn a_log_that_is_cut_or_spoilt_is_noticed_and_what_it_held_goes_under_a_gap() {
        for (how, same_boot) in [
            ("whole", true),
            ("cut", true),
            ("spoilt", true),
            ("gone", true),
            ("cut", false),
        ] {
            let dir = killed(700);
            let log = dir.path().join("buffer.db-wal");
            let size = std::fs::metadata(&log).unwrap().len();
            let file = OpenOptions::new().write(true).open(&log).unwrap();
            match how {
                "cut" => file.set_len(size * 2 / 3).unwrap(),
                "spoilt" => file.write_all_at(&[0x5a; 300], size / 2).unwrap(),
                "gone" => std::fs::remove_file(&log).unwrap(),
                _ => {}
            }
            drop(file);
            let clock = match same_boot {
                true => Clock::new(),
                false => Clock::simulated("another boot", Arc::new(AtomicI64::new(1_000))),
            };
            let mut store = Store::open(limits(dir.path()), clock.clone()).unwrap();
            if how == "whole" {
                is_whole(&mut store, 700);
                continue;
            }
            let (times, gaps) = contents(&mut store);
            let under = |t: i64| {
                let seq = t.unsigned_abs() + 1;
                gaps.iter()
                    .any(|g| (g.first_seq..=g.last_seq).contains(&seq))
            };
            assert!(
                !(0..700).all(|t| times.contains(&t)),
                "{how}: it costs something"
            );
            for t in 0..700 {
                let kept = times.contains(&t);
                assert!(
                    kept || under(t),
                    "P6: reading {t} is lost in silence, {how}"
                );
                assert!(
                    !kept || !under(t),
                    "what may be at the hub goes up once, {how}"
                );
            }
            // It goes on, and is told of once.
            store.commit(&[commit(5_000..5_010)]).unwrap();
            drop(store);
            let mut store = Store::open(limits(dir.path()), clock).unwrap();
            assert_eq!(contents(&mut store).1.len(), gaps.len());
        }
    }

    #[test]
    fn an_index_that_outlived_its_log_and_its_boot_proves_nothing() {
        let dir = killed(100);
        let stale = std::fs::read(dir.path().join("buffer.db-shm")).unwrap();
        let mut store = open(dir.path());
        is_whole(&mut store, 100);
        // All of it is in the file, and the next log has another salt.
        store.close().unwrap();
        std::fs::write(dir.path().join("buffer.db-shm"), stale).unwrap();
        let clock = Clock::simulated("another boot", Arc::new(AtomicI64::new(1_000)));
        is_whole(&mut Store::open(limits(dir.path()), clock).unwrap(), 100);
    }
}
