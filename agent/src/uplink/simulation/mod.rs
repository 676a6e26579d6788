//! The protocol over a bad network: the real buffer and machine of devices against the real machine of hubs, through a network
//! that loses, repeats, delays, reorders and cuts, with crashes at every step of either side; each invariant is an assertion.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod device;
mod hub;
mod properties;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use fieldcast_device::clock::offset;
use fieldcast_ledger::rules::LATE_MS;
use fieldcast_wire::caps::PROOF;
use fieldcast_wire::{Epoch, Reading, RecordBody, Sha256, batch, pb};

use self::device::{Device, Image, settings};
use self::hub::{AHEAD_MS, Database, Hubs, Message};
use super::machine::{Event, Output, step};
use crate::buffer::Commit;

/// All chance of a run follows from its seed.
struct Chance {
    state: u64,
    faults: bool,
}

impl Chance {
    fn roll(&mut self, n: u64) -> u64 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % n
    }

    /// A fault that comes once in so many times, while there are faults.
    fn one_in(&mut self, n: u64) -> bool {
        self.faults && self.roll(n) == 0
    }
}

/// Whether the hub is restored from its backups, and whether anybody tells it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Restores {
    Never,
    Told,
    Untold,
}

/// What becomes of a copy of the device's disk.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Copy {
    None,
    /// The device comes back with it.
    OldImage,
    /// A second device runs with it.
    Clone,
}

/// A rule that is broken on purpose, to see that the assertions notice.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Broken {
    AckBeforeCommit,
    WriteAgain,
    ConflictIsKnown,
    FoldedIsKnown,
    TrimByNumber,
    DropInSilence,
}

/// What a run is to be.
#[derive(Debug, Clone, Copy)]
struct Plan {
    steps: usize,
    restores: Restores,
    copy: Copy,
    tail_bytes: u64,
    /// Whether the device's disk is full now and then.
    full: bool,
    broken: Option<Broken>,
}

/// No message is longer on its way.
const DELAY_MS: i64 = 3_000;

/// More than any of these runs writes.
const LONG_TAIL: u64 = 1 << 30;

const PLAN: Plan = Plan {
    steps: 300,
    restores: Restores::Never,
    copy: Copy::None,
    tail_bytes: LONG_TAIL,
    full: false,
    broken: None,
};

/// The hub refuses these by themselves.
fn is_refused(time: i64) -> bool {
    time % 17 == 3
}

enum Packet {
    Batch(Vec<u8>),
    Sync(pb::Sync),
    Ack(usize, pb::Ack),
}

struct World {
    plan: Plan,
    chance: Chance,
    now: Arc<AtomicI64>,
    devices: Vec<Device>,
    hubs: Hubs,
    backup: Database,
    wire: Vec<(i64, Packet)>,
    /// Each reading that was accepted, and by whom.
    produced: BTreeMap<i64, usize>,
    /// A copy of the first device's disk, and the first reading that it does not know.
    image: Option<(Image, i64)>,
    /// Readings that only a disk knew that is gone.
    may_miss: BTreeSet<i64>,
    /// Epochs of a disk that is gone.
    gone: BTreeSet<Epoch>,
    /// Readings that two disks held unsealed.
    may_be_twice: BTreeSet<i64>,
    /// Batches that a full disk cost.
    dropped: u32,
    /// What was stamped with each time of each boot, disk by disk.
    stamps: BTreeMap<(u32, String, i64), Option<Sha256>>,
}

impl World {
    fn new(seed: u64, plan: Plan) -> Self {
        let now = Arc::new(AtomicI64::new(1_000_000));
        let mut device = Device::new(0, &now, plan.tail_bytes, seed);
        device.start(false, seed);
        let mut hubs = Hubs::new(now.clone());
        hubs.broken = plan.broken;
        Self {
            plan,
            chance: Chance {
                state: seed,
                faults: true,
            },
            now,
            devices: vec![device],
            backup: hubs.database.clone(),
            hubs,
            wire: Vec::new(),
            produced: BTreeMap::new(),
            image: None,
            may_miss: BTreeSet::new(),
            gone: BTreeSet::new(),
            may_be_twice: BTreeSet::new(),
            dropped: 0,
            stamps: BTreeMap::new(),
        }
    }

    fn now(&self) -> i64 {
        self.now.load(Ordering::Relaxed)
    }

    fn read(&mut self, d: usize) {
        let time = self.produced.len() as i64;
        let reading = Reading {
            sensor: "s".into(),
            time,
            value: 1.5,
            quality: 0,
            time_source: pb::TimeSource::External,
        };
        let commit = Commit {
            records: vec![RecordBody::Reading(reading)],
            ..Commit::default()
        };
        let device = &mut self.devices[d];
        let before = device.store().unacked(0, usize::MAX).unwrap();
        device.store().commit(&[commit]).unwrap();
        self.produced.insert(time, d);
        device.unsealed.insert(time);
        // A commit under another clock seals what the clock before it left.
        let newest = before.last().map_or(0, |info| info.order);
        for info in device.store().unacked(newest, usize::MAX).unwrap() {
            device.note(&info);
        }
        if device.store().seal_due() {
            self.seal(d);
        }
    }

    fn seal(&mut self, d: usize) {
        if let Some(info) = self.devices[d].store().seal().unwrap() {
            self.devices[d].note(&info);
            if self.chance.one_in(60) {
                return self.crash(d);
            }
            self.feed(d, Event::Sealed { newest: info.order });
        }
    }

    /// The network: what is sent may be lost, come late, twice and in another order.
    fn send(&mut self, packet: impl Fn() -> Packet) {
        let copies = 1 + u64::from(self.chance.one_in(6));
        for _ in 0..copies {
            if self.chance.one_in(5) {
                continue;
            }
            let delay = if self.chance.faults {
                self.chance.roll(DELAY_MS as u64) as i64
            } else {
                5
            };
            self.wire.push((self.now() + delay, packet()));
        }
    }

    /// P3: no sync and no batch of one boot share a time, so that an ack can name what it answers.
    fn stamp(&mut self, disk: u32, clock: &pb::ClockStamp, digest: Option<Sha256>) {
        let key = (disk, clock.boot_id.clone(), clock.monotonic_ms);
        let before = self.stamps.insert(key, digest);
        let same = before.is_none_or(|b| b.is_some() && b == digest);
        assert!(same, "P3: two messages of one boot share {clock:?}");
    }

    fn feed(&mut self, d: usize, event: Event) {
        let mut queue = vec![event];
        while let Some(event) = queue.pop() {
            let now = self.now();
            for output in step(&mut self.devices[d].machine, event, now) {
                if self.chance.one_in(150) {
                    return self.crash(d);
                }
                if let Some(event) = self.carry_out(d, output) {
                    queue.push(event);
                }
            }
        }
    }

    fn carry_out(&mut self, d: usize, output: Output) -> Option<Event> {
        let refused = matches!(output, Output::Connect) && self.chance.one_in(3);
        let device = &mut self.devices[d];
        let disk = device.disk;
        match output {
            Output::Connect if refused => return Some(Event::Lost),
            Output::Connect => {
                let session = device.store().next_session().unwrap();
                assert!(
                    session > device.session,
                    "P10: session {session} comes again"
                );
                device.session = session;
                device.connected = true;
                let waiting = device.store().unacked(0, 100_000).unwrap();
                let newest = waiting.last().map_or(0, |b| b.order);
                return Some(Event::Connected { newest });
            }
            Output::Disconnect => device.connected = false,
            Output::Sync => {
                let (session, connected) = (device.session, device.connected);
                let mut heads = device.store().sync_heads().unwrap();
                heads.reverse();
                if let Some(head) = heads.first() {
                    let clock = head.clock.clone();
                    self.stamp(disk, &clock, None);
                }
                for head in heads.into_iter().filter(|_| connected) {
                    let sync = head.message(session);
                    self.send(|| Packet::Sync(sync.clone()));
                }
            }
            Output::Page { lane, after, limit } => {
                let batches = device.store().unacked(after, limit).unwrap();
                return Some(Event::Page { lane, batches });
            }
            Output::Publish { key, .. } => {
                let Some(payload) = device.store().batch(key).unwrap() else {
                    return Some(Event::Gone(key));
                };
                let digest = Sha256::of(&payload);
                let sealed = device.sealed.get(&key).copied();
                assert_eq!(sealed, Some(digest), "P3: other bytes are sent for {key:?}");
                let clock = batch::decode(&payload).unwrap().clock;
                let connected = device.connected;
                self.stamp(disk, &clock, Some(digest));
                if connected {
                    self.send(|| Packet::Batch(payload.clone()));
                }
            }
        }
        None
    }

    fn deliver(&mut self) {
        let now = self.now();
        let (due, rest) = std::mem::take(&mut self.wire)
            .into_iter()
            .partition::<Vec<_>, _>(|(at, _)| *at <= now);
        self.wire = rest;
        let mut messages: Vec<Message> = Vec::new();
        for (_, packet) in due {
            match packet {
                Packet::Ack(d, ack) => self.take(d, ack),
                Packet::Sync(sync) => messages.push(Message::Sync(sync)),
                Packet::Batch(payload) => match messages.last_mut() {
                    Some(Message::Batches(group)) if self.chance.roll(3) > 0 => group.push(payload),
                    _ => messages.push(Message::Batches(vec![payload])),
                },
            }
        }
        let mut messages = messages.into_iter().peekable();
        while let Some(message) = messages.next() {
            // Two hubs with one database.
            let together = messages.peek().is_some() && self.chance.roll(2) == 0;
            let rival = together.then(|| messages.next()).flatten();
            for ack in self.hubs.round(&message, rival, &mut self.chance) {
                for d in 0..self.devices.len() {
                    if self.devices[d].connected {
                        self.send(|| Packet::Ack(d, ack.clone()));
                    }
                }
            }
        }
    }

    fn take(&mut self, d: usize, mut ack: pb::Ack) {
        let device = &mut self.devices[d];
        if self.plan.broken == Some(Broken::TrimByNumber) {
            forge(device, &mut ack);
        }
        let outcome = device.store().apply_ack(&ack).unwrap();
        if let Some(echo) = outcome.echo {
            // Of two disks with one past either may have stamped it.
            let of_it =
                |(_, boot, at): &(u32, String, i64)| *at == echo && *boot == ack.echo_boot_id;
            assert!(
                self.stamps.keys().any(of_it),
                "P9: an ack echoes {echo} of {}, which was never stamped",
                ack.echo_boot_id
            );
            let clock = &device.clock;
            let (mono, wall) = (clock.monotonic_ms(), clock.raw_wall_ms());
            let known = offset(echo, ack.hub_time_ms, mono, wall);
            let ahead = mono + AHEAD_MS - wall;
            assert!(
                known.is_none_or(|(measured, error)| (measured - ahead).abs() <= error),
                "P9: {known:?} is further off than its error, the hub is ahead by {ahead}"
            );
        }
        let refused: BTreeSet<u64> = ack
            .rejected
            .iter()
            .filter(|r| r.seq == 0)
            .map(|r| r.batch)
            .collect();
        for key in &outcome.done {
            // What gave its records new numbers is done with too.
            let renumbered = ack.new_epoch && refused.contains(&key.number);
            let there = (key.epoch, key.number, device.sealed[key]);
            assert!(
                renumbered || self.hubs.ever.contains(&there),
                "P5: batch {key:?} is trimmed, the hub never had these bytes"
            );
        }
        if self.chance.one_in(60) {
            return self.crash(d);
        }
        self.feed(d, Event::Acked(outcome));
    }

    /// What was sent may still reach the hub; nothing comes down any more.
    fn cut(&mut self, d: usize) {
        self.devices[d].connected = false;
        self.wire
            .retain(|(_, p)| !matches!(p, Packet::Ack(to, _) if *to == d));
    }

    fn crash(&mut self, d: usize) {
        self.devices[d].stop();
        self.cut(d);
        if self.plan.copy != Copy::None && self.image.is_none() {
            self.image = Some((self.devices[d].image(), self.produced.len() as i64));
        }
        // A start takes its time: no stamp of this boot comes again.
        self.now.fetch_add(1_000, Ordering::Relaxed);
        // The machine goes down with the agent, or not.
        let reboot = self.chance.roll(2) == 0;
        let seed = self.chance.roll(u64::MAX >> 33);
        self.devices[d].start(reboot, seed);
    }

    /// The disk is full for a moment: whole batches go, each under a gap record that is as durable as it was.
    fn fill(&mut self, d: usize) {
        let store = self.devices[d].store();
        if self.plan.broken == Some(Broken::DropInSilence) {
            return store.lose_a_batch();
        }
        let before = store.unacked(0, usize::MAX).unwrap();
        // Nothing may be left to drop.
        let _ = store.make_room(true);
        let kept = store.unacked(0, usize::MAX).unwrap();
        let gaps = store.unsealed_gaps();
        for b in before.iter().filter(|b| !kept.contains(b)) {
            self.dropped += 1;
            let covers = |g: &pb::Gap| {
                let numbers = g.first_seq..=g.last_seq;
                g.epoch == b.key.epoch.to_vec()
                    && numbers.contains(&b.first_seq)
                    && numbers.contains(&b.last_seq)
            };
            assert!(
                gaps.iter().any(covers),
                "P6: batch {:?} is dropped under no gap",
                b.key
            );
        }
    }

    /// The image comes back, or to life in a second device; once in a run.
    fn use_image(&mut self) {
        let Some((image, next)) = self.image.take() else {
            return;
        };
        if self.chance.roll(2) == 0 {
            // So late that nothing of before can still be on its way.
            self.now.fetch_add(LATE_MS + 1_000, Ordering::Relaxed);
        }
        self.may_be_twice.extend(&image.unsealed);
        let copy = std::mem::replace(&mut self.plan.copy, Copy::None);
        let seed = self.chance.roll(u64::MAX >> 33);
        let d = if copy == Copy::Clone {
            let tail_bytes = self.plan.tail_bytes;
            let clone = Device::new(1, &self.now, tail_bytes, seed);
            self.devices.push(clone);
            1
        } else {
            self.devices[0].stop();
            self.cut(0);
            let lost = self.devices[0].sealed.keys();
            self.gone.extend(lost.map(|key| key.epoch));
            // What was read since the image may have been on the disk only.
            self.may_miss
                .extend(self.produced.range(next..).map(|(t, _)| t));
            0
        };
        self.devices[d].insert(image);
        self.devices[d].session = 0;
        self.devices[d].start(true, seed);
    }

    fn tick(&mut self, by: i64) {
        self.now.fetch_add(by, Ordering::Relaxed);
        self.deliver();
        for d in 0..self.devices.len() {
            self.feed(d, Event::Tick);
        }
    }
}

/// What a device would believe that trims by numbers alone.
fn forge(device: &mut Device, ack: &mut pb::Ack) {
    let epoch = Epoch::from_slice(&ack.epoch).unwrap();
    let listed =
        |n: u64| n <= ack.through || ack.ranges.iter().any(|r| (r.first..=r.last).contains(&n));
    let forged = device
        .sealed
        .iter()
        .filter(|(key, _)| key.epoch == epoch && listed(key.number));
    let forged = forged.map(|(key, digest)| pb::Proof {
        batch: key.number,
        digest: digest.0[..PROOF].to_vec(),
    });
    ack.proofs = forged.collect();
}
