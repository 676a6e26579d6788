//! One device: owns its real buffer, the real machine of sending, its crashes and images of its disk.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use fieldcast_wire::{Epoch, RecordBody, Sha256, batch};

use super::super::machine::{Settings, State};
use crate::buffer::{BatchKey, DropPolicy, Limits, SealedInfo, Store};
use crate::clock::Clock;

pub(super) fn settings() -> Settings {
    Settings {
        backlog_bytes_per_s: 4_000,
        ack_deadline: 2_000,
        sync_deadline: 1_000,
        backoff: (100, 2_000),
        stable_after: 5_000,
        silence: 9_000,
        ..Settings::default()
    }
}

pub(super) struct Device {
    pub(super) dir: tempfile::TempDir,
    pub(super) store: Option<Store>,
    pub(super) machine: State,
    pub(super) connected: bool,
    pub(super) session: u64,
    pub(super) boots: u32,
    /// Counts the images that were put into it: what it stamps says nothing of another disk.
    pub(super) disk: u32,
    now: Arc<AtomicI64>,
    pub(super) clock: Clock,
    tail_bytes: u64,
    /// Tells its boots from those of another instance.
    name: u32,
    policy: usize,
    /// The bytes of each batch as they were sealed.
    pub(super) sealed: HashMap<BatchKey, Sha256>,
    /// Readings that are in no batch yet.
    pub(super) unsealed: BTreeSet<i64>,
    /// The numbers that each reading ever had in a sealed batch.
    pub(super) homes: HashMap<i64, Vec<(Epoch, u64)>>,
}

/// A disk as it was, and what was known of it.
pub(super) struct Image {
    files: Vec<(std::ffi::OsString, Vec<u8>)>,
    sealed: HashMap<BatchKey, Sha256>,
    pub(super) unsealed: BTreeSet<i64>,
    homes: HashMap<i64, Vec<(Epoch, u64)>>,
}

impl Device {
    pub(super) fn new(name: u32, now: &Arc<AtomicI64>, tail_bytes: u64, seed: u64) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            store: None,
            machine: State::new(settings(), seed),
            connected: false,
            session: 0,
            boots: 0,
            disk: name,
            now: now.clone(),
            clock: Clock::simulated(&format!("boot {name}.0"), now.clone()),
            tail_bytes,
            name,
            policy: usize::from(seed % 2 == 1),
            sealed: HashMap::new(),
            unsealed: BTreeSet::new(),
            homes: HashMap::new(),
        }
    }

    pub(super) fn store(&mut self) -> &mut Store {
        self.store.as_mut().unwrap()
    }

    /// The process ends; what was not committed is gone.
    pub(super) fn stop(&mut self) {
        self.store = None;
        self.connected = false;
    }

    /// The process starts, on a machine that started anew or not.
    pub(super) fn start(&mut self, reboot: bool, seed: u64) {
        if reboot {
            self.boots += 1;
            let boot = format!("boot {}.{}", self.name, self.boots);
            self.clock = Clock::simulated(&boot, self.now.clone());
        }
        let limits = Limits {
            seal_records: 5,
            reserve_bytes: 0,
            tail_bytes: self.tail_bytes,
            policy: [DropPolicy::Oldest, DropPolicy::Newest][self.policy],
            ..Limits::new(self.dir.path())
        };
        let mut store = Store::open(limits, self.clock.clone()).unwrap();
        store.relax();
        store.begin_boot().unwrap();
        self.store = Some(store);
        self.machine = State::new(settings(), seed);
    }

    /// The disk of a stopped device.
    pub(super) fn image(&self) -> Image {
        let entries = std::fs::read_dir(self.dir.path()).unwrap();
        let files = entries.map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name(), std::fs::read(entry.path()).unwrap())
        });
        Image {
            files: files.collect(),
            sealed: self.sealed.clone(),
            unsealed: self.unsealed.clone(),
            homes: self.homes.clone(),
        }
    }

    /// Puts a disk into a stopped device.
    pub(super) fn insert(&mut self, image: Image) {
        let dir: &Path = self.dir.path();
        for entry in std::fs::read_dir(dir).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
        for (name, bytes) in image.files {
            std::fs::write(dir.join(name), bytes).unwrap();
        }
        self.disk += 2;
        self.sealed = image.sealed;
        self.unsealed = image.unsealed;
        // What the disk had known since may be at the hub under these numbers all the same.
        for (time, homes) in image.homes {
            self.homes.entry(time).or_insert(homes);
        }
    }

    /// Notes what a batch holds as it is sealed.
    pub(super) fn note(&mut self, info: &SealedInfo) {
        let payload = self.store().batch(info.key).unwrap().unwrap();
        let digest = Sha256::of(&payload);
        let before = self.sealed.insert(info.key, digest);
        assert!(
            before.is_none_or(|d| d == digest),
            "P3: batch {:?} was sealed with other bytes",
            info.key
        );
        for record in batch::decode(&payload).unwrap().records {
            if let RecordBody::Reading(r) = record.body {
                self.unsealed.remove(&r.time);
                let home = (info.key.epoch, record.seq);
                self.homes.entry(r.time).or_default().push(home);
            }
        }
    }
}
