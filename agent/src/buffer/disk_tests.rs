//! A disk without a free byte: owns tests on a small file system in memory; never fills the machine's own.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::tests::{commit, contents};
use super::*;
use crate::clock::Clock;

/// A file system of a few MiB; unmounted when dropped.
struct Disk(tempfile::TempDir);

impl Disk {
    /// None, said aloud, where it cannot be mounted.
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"])
            .arg(dir.path());
        if mount.output().is_ok_and(|out| out.status.success()) {
            return Some(Self(dir));
        }
        println!("skipped: a small disk cannot be mounted here");
        None
    }

    fn filler(&self) -> PathBuf {
        self.0.path().join("filler")
    }

    fn fill(&self) {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.filler())
            .unwrap();
        for piece in [vec![0; 4_096], vec![0]] {
            while file.write_all(&piece).is_ok() {}
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn open(dir: &Path) -> Store {
    let limits = Limits {
        max_bytes: 3 << 20,
        reserve_bytes: 0,
        ..super::tests::limits(dir)
    };
    Store::open(limits, Clock::new()).unwrap()
}

#[test]
fn a_full_disk_costs_old_batches_under_gaps_and_stops_nothing() {
    let Some(disk) = Disk::new() else { return };
    let mut store = open(disk.0.path());
    let ballast = disk.0.path().join("ballast");
    assert!(ballast.is_file(), "there is room for it");
    let mut n = 0;
    let mut take = |store: &mut Store, times: usize| {
        for _ in 0..times {
            store.commit(&[commit(n..n + 50)]).unwrap();
            while store.seal().unwrap().is_some() {}
            n += 50;
        }
        n
    };
    take(&mut store, 200);
    disk.fill();
    // More than the log's slack and all freed pages hold: without room to make room, one of these fails.
    let last = take(&mut store, 1_500);
    let dropped = store.depth().unwrap().dropped;
    assert!(dropped > 0, "P6: something had to go");
    std::fs::remove_file(disk.filler()).unwrap();
    store.restore_ballast();
    assert!(ballast.is_file(), "the next full disk finds one again");
    let (times, gaps) = contents(&mut store);
    let covered: u64 = gaps.iter().map(|g| g.last_seq - g.first_seq + 1).sum();
    assert!(
        times.len() as u64 + covered >= last.unsigned_abs(),
        "P6: {} kept, {covered} under gaps, of {last}",
        times.len()
    );
}

#[test]
fn a_buffer_opens_on_a_full_disk() {
    let Some(disk) = Disk::new() else { return };
    let mut store = open(disk.0.path());
    store.begin_boot().unwrap();
    for n in 0..100 {
        store.commit(&[commit(n * 50..n * 50 + 50)]).unwrap();
        while store.seal().unwrap().is_some() {}
    }
    // As after a kill: nothing is put in order.
    std::mem::forget(store);
    disk.fill();
    let mut store = open(disk.0.path());
    store.begin_boot().unwrap();
    store.commit(&[commit(5_000..5_050)]).unwrap();
    assert!(contents(&mut store).0.contains(&5_049));
}
