//! A device's queue in memory: owns records, batches and what an ack does to them by the rules of `docs/protocol.md`; no I/O.
//!
//! It answers as the agent's SQLite buffer does, with a tail of nothing: what is acknowledged is forgotten.

use std::collections::VecDeque;
use std::ops::Range;

use fieldcast_device::acks::{self, Candidate, Fate, Hub, Voice};
use fieldcast_device::batches::{AckOutcome, BatchKey, SealedInfo, SyncHead};
use fieldcast_wire::batch::{self, Header};
use fieldcast_wire::caps::MAX_PAYLOAD;
use fieldcast_wire::{Epoch, Record, RecordBody, Sha256, pb};

/// Records that make a batch, as on a device.
const SEAL_RECORDS: usize = 2_000;

#[derive(Debug)]
struct Head {
    epoch: Epoch,
    next_seq: u64,
    next_batch: u64,
    acked_through: u64,
    last_acked: u64,
    hub: Vec<u8>,
    forgotten: (u64, u64),
}

impl Head {
    fn new(hub: Vec<u8>) -> Self {
        Self {
            epoch: Epoch(uuid::Uuid::new_v4()),
            next_seq: 1,
            next_batch: 1,
            acked_through: 0,
            last_acked: 0,
            hub,
            forgotten: (0, 0),
        }
    }
}

#[derive(Debug)]
struct Sealed {
    info: SealedInfo,
    stamp: i64,
    boot: u64,
    payload: Vec<u8>,
    /// Readings in it, by their place among all of the device.
    readings: Range<u64>,
    /// Process time at which they were taken.
    taken: i64,
    sent: bool,
}

#[derive(Debug)]
struct Waiting {
    /// Place among the device's readings; none for other records.
    reading: Option<u64>,
    taken: i64,
    body: RecordBody,
}

/// What an ack did, beside what it means for sending.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// For the sending machine.
    pub(super) outcome: AckOutcome,
    /// Readings acknowledged, and when they were taken.
    pub(super) acked: Vec<(u64, i64)>,
}

/// A device's queue.
#[derive(Debug)]
pub(super) struct Buffer {
    device: u32,
    boot: u64,
    current: Head,
    old: Vec<Head>,
    batches: VecDeque<Sealed>,
    order: i64,
    pending: VecDeque<Waiting>,
    readings: u64,
    hub: Option<Hub>,
    stamp: i64,
    bytes: u64,
    cap: u64,
    dropped: Vec<Range<u64>>,
}

impl Buffer {
    pub(super) fn new(device: u32, boot: u64, cap: u64) -> Self {
        Self {
            device,
            boot,
            current: Head::new(Vec::new()),
            old: Vec::new(),
            batches: VecDeque::new(),
            order: 0,
            pending: VecDeque::new(),
            readings: 0,
            hub: None,
            stamp: 0,
            bytes: 0,
            cap,
            dropped: Vec::new(),
        }
    }

    /// The process starts again: what is kept stays, times of the new boot do not compare with older ones.
    pub(super) fn boot(&mut self) {
        self.boot += 1;
    }

    pub(super) fn boot_id(&self) -> String {
        format!("{:08x}-{}", self.device, self.boot)
    }

    /// Takes a record; readings are counted in their order.
    pub(super) fn push(&mut self, body: RecordBody, now: i64) {
        let reading = matches!(body, RecordBody::Reading(_)).then_some(self.readings);
        self.readings += u64::from(reading.is_some());
        self.pending.push_back(Waiting {
            reading,
            taken: now,
            body,
        });
    }

    /// Readings given up so far, by their places.
    pub(super) fn dropped(&self) -> &[Range<u64>] {
        &self.dropped
    }

    /// Readings that the hub has not acknowledged, by their places.
    pub(super) fn unacknowledged(&self) -> Vec<Range<u64>> {
        let pending = self.pending.iter().filter_map(|w| w.reading);
        let sealed = self.batches.iter().map(|b| b.readings.clone());
        sealed
            .filter(|r| !r.is_empty())
            .chain(pending.map(|n| n..n + 1))
            .collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.pending.is_empty()
    }

    /// Whether records wait for a batch.
    pub(super) fn has_unsealed(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Records and bytes waiting.
    pub(super) fn depth(&self) -> (u64, u64) {
        let sealed = self.batches.iter();
        let records: u64 = sealed.map(|b| b.info.last_seq - b.info.first_seq + 1).sum();
        (records + self.pending.len() as u64, self.bytes)
    }

    /// Place of the newest batch in the order of sending.
    pub(super) fn newest(&self) -> i64 {
        self.order
    }

    fn clock(&mut self, now: i64, wall: i64) -> pb::ClockStamp {
        // P3, P5: no two batches or syncs of one boot have the same time.
        self.stamp = now.max(self.stamp + 1);
        pb::ClockStamp {
            boot_id: self.boot_id(),
            monotonic_ms: self.stamp,
            wall_ms: wall,
            synchronised: true,
        }
    }

    /// Seals all that waits; answers how many readings that were.
    ///
    /// # Errors
    /// A record that fits in no batch.
    pub(super) fn seal(&mut self, now: i64, wall: i64) -> Result<u64, batch::BatchError> {
        let mut sealed = 0;
        while !self.pending.is_empty() {
            let (mut count, mut before) = (0, None);
            for w in self.pending.iter().take(SEAL_RECORDS) {
                // Readings that got new numbers are not next to new ones: each run is a batch of its own.
                match (w.reading, before) {
                    (Some(r), Some(last)) if last != (r.wrapping_sub(1), w.taken) => break,
                    (Some(r), _) => before = Some((r, w.taken)),
                    (None, _) => {}
                }
                count += 1;
            }
            let taken = before.map_or(now, |(_, taken)| taken);
            let clock = self.clock(now, wall);
            let header = Header {
                epoch: self.current.epoch,
                number: self.current.next_batch,
                clock: clock.clone(),
            };
            let (count, payload) = loop {
                let bodies = self.pending.iter().take(count);
                let records: Vec<Record> = (self.current.next_seq..)
                    .zip(bodies)
                    .map(|(seq, w)| Record {
                        seq,
                        body: w.body.clone(),
                    })
                    .collect();
                match batch::encode(&header, &records) {
                    Ok(payload) if payload.len() < MAX_PAYLOAD - 1_024 => break (count, payload),
                    Ok(_) | Err(batch::BatchError::TooLarge { .. }) if count > 1 => count /= 2,
                    Ok(payload) => break (count, payload),
                    Err(error) => return Err(error),
                }
            };
            let places: Vec<u64> = self
                .pending
                .drain(..count)
                .filter_map(|w| w.reading)
                .collect();
            let readings = places.first().map_or(0..0, |f| *f..f + places.len() as u64);
            sealed += readings.end - readings.start;
            let first_seq = self.current.next_seq;
            self.current.next_seq += count as u64;
            self.current.next_batch += 1;
            self.order += 1;
            self.bytes += payload.len() as u64;
            self.batches.push_back(Sealed {
                info: SealedInfo {
                    key: BatchKey {
                        epoch: header.epoch,
                        number: header.number,
                    },
                    order: self.order,
                    bytes: payload.len() as u64,
                    first_seq,
                    last_seq: self.current.next_seq - 1,
                    contested: false,
                },
                stamp: clock.monotonic_ms,
                boot: self.boot,
                payload,
                readings,
                taken,
                sent: false,
            });
        }
        self.make_room();
        Ok(sealed)
    }

    /// P6: above the cap whole batches go, oldest first, each under a gap record.
    fn make_room(&mut self) {
        while self.bytes > self.cap && self.batches.len() > 1 {
            let Some(b) = self.batches.pop_front() else {
                return;
            };
            self.bytes -= b.info.bytes;
            if !b.readings.is_empty() {
                self.dropped.push(b.readings);
            }
            let gap = pb::Gap {
                kind: pb::GapKind::BufferFull as i32,
                epoch: b.info.key.epoch.to_vec(),
                first_seq: b.info.first_seq,
                last_seq: b.info.last_seq,
                reason: "the buffer is full".into(),
                ..pb::Gap::default()
            };
            self.push(RecordBody::Gap(gap), b.taken);
        }
    }

    /// Unacknowledged batches behind a place in the order of sending.
    pub(super) fn unacked(&self, after: i64, limit: usize) -> Vec<SealedInfo> {
        let later = self.batches.iter().filter(|b| b.info.order > after);
        later.take(limit).map(|b| b.info.clone()).collect()
    }

    /// The sealed bytes, always the same; none where they are held no more.
    pub(super) fn batch(&self, key: BatchKey) -> Option<Vec<u8>> {
        let found = self.batches.iter().find(|b| b.info.key == key);
        found.map(|b| b.payload.clone())
    }

    /// Notes that a batch is sent; answers whether it was before.
    pub(super) fn sent(&mut self, key: BatchKey) -> bool {
        let found = self.batches.iter_mut().find(|b| b.info.key == key);
        found.is_some_and(|b| std::mem::replace(&mut b.sent, true))
    }

    /// Batches that wait.
    pub(super) fn waiting(&self) -> usize {
        self.batches.len()
    }

    /// What the hub is told at sync, the current epoch last: its answer is the one waited for.
    pub(super) fn heads(&mut self, now: i64, wall: i64) -> Vec<SyncHead> {
        let clock = self.clock(now, wall);
        let heads = self.old.iter().chain([&self.current]);
        let head = |h: &Head| SyncHead {
            epoch: h.epoch,
            oldest_batch: self
                .held(h.epoch)
                .map(|b| b.info.key.number)
                .min()
                .unwrap_or(0),
            next_batch: h.next_batch,
            next_seq: h.next_seq,
            acked_through: h.acked_through,
            last_acked: h.last_acked,
            acked: Vec::new(),
            hub_instance: h.hub.clone(),
            buffered_bytes: self.bytes,
            clock: clock.clone(),
        };
        heads.map(head).collect()
    }

    fn held(&self, epoch: Epoch) -> impl Iterator<Item = &Sealed> {
        self.batches
            .iter()
            .filter(move |b| b.info.key.epoch == epoch)
    }

    /// Applies an acknowledgement that came at `now`.
    pub(super) fn apply(&mut self, ack: &pb::Ack, now: i64) -> Applied {
        let mut done = Applied::default();
        let out = &mut done.outcome;
        out.echo = (ack.echo_boot_id == self.boot_id()).then_some(ack.echo_monotonic_ms);
        let Ok(epoch) = Epoch::from_slice(&ack.epoch) else {
            return done;
        };
        let is_current = epoch == self.current.epoch;
        if !is_current && !self.old.iter().any(|h| h.epoch == epoch) {
            return done;
        }
        match acks::voice(self.hub.as_ref(), ack, &self.boot_id()) {
            Voice::InForce => {}
            Voice::New => {
                out.new_hub = true;
                self.hub = Some(Hub {
                    instance: ack.hub_instance.clone(),
                    boot_id: self.boot_id(),
                    heard_ms: now,
                });
            }
            Voice::Stranger => {
                out.stranger = true;
                return done;
            }
        }
        self.rewind(epoch, ack);
        let this_boot = ack.echo_boot_id == self.boot_id();
        let fate = |b: &Sealed| {
            let number = b.info.key.number;
            let mut of_it = ack.proofs.iter().filter(|p| p.batch == number);
            let candidate = Candidate {
                number,
                contested: b.info.contested,
                answered: this_boot && b.boot == self.boot && b.stamp == ack.echo_monotonic_ms,
                proved: of_it.any(|p| acks::proves(p, &Sha256::of(&b.payload).0)),
            };
            (b.info.key, acks::fate(ack, candidate))
        };
        let fates: Vec<(BatchKey, Fate)> = self.held(epoch).map(fate).collect();
        for (key, fate) in fates {
            match fate {
                Fate::Waits => continue,
                Fate::Done => {}
                Fate::Renumber => out.renumbered += self.renumber(key),
            }
            out.done.push(key);
        }
        if !ack.new_epoch {
            let newest = out.done.iter().map(|key| key.number).max();
            if let Some(head) = self.head(epoch) {
                head.acked_through = head.acked_through.max(ack.through.min(head.next_batch - 1));
                out.behind = acks::behind(ack, head.acked_through, &[head.last_acked]);
                head.last_acked = acks::last_acked(ack, head.last_acked, newest);
            }
        } else if is_current {
            out.new_epoch = Some(self.begin(ack));
        }
        for r in acks::refusals(ack) {
            if r.seq > 0 {
                out.rejected.push((r.seq, r.reason.clone()));
            } else if let Some(b) = self.held(epoch).find(|b| b.info.key.number == r.batch) {
                let records = b.info.last_seq - b.info.first_seq + 1;
                out.refused.push((r.batch, records, r.reason.clone()));
            }
        }
        self.forget(&mut done);
        let hub = self.hub.as_ref().map(|h| h.instance.clone());
        self.old.retain(|h| {
            let open = hub.as_ref().is_some_and(|hub| *hub != h.hub) && h.forgotten.0 > 0;
            open || self.batches.iter().any(|b| b.info.key.epoch == h.epoch)
        });
        let heads = self.old.iter().chain([&self.current]);
        let open =
            heads.filter(|h| hub.as_ref().is_some_and(|hub| *hub != h.hub) && h.forgotten.0 > 0);
        done.outcome.unanswered = open.count() as u64;
        done
    }

    fn head(&mut self, epoch: Epoch) -> Option<&mut Head> {
        let current = std::iter::once(&mut self.current);
        current.chain(&mut self.old).find(|h| h.epoch == epoch)
    }

    /// P5: what another instance does not know of an epoch is forgotten here too, and goes under a gap.
    fn rewind(&mut self, epoch: Epoch, ack: &pb::Ack) {
        let through = ack.through;
        let instance = &ack.hub_instance;
        let Some(head) = self.head(epoch) else { return };
        if instance.is_empty() || head.hub == *instance {
            return;
        }
        head.hub.clone_from(instance);
        head.acked_through = through.min(head.next_batch - 1);
        head.last_acked = 0;
        let (batch, seq) = head.forgotten;
        if batch > through {
            let gap = pb::Gap {
                kind: pb::GapKind::BeforeTail as i32,
                epoch: epoch.to_vec(),
                first_seq: 1,
                last_seq: seq,
                reason: "the hub was restored from a backup and no tail is kept".into(),
                ..pb::Gap::default()
            };
            self.push(RecordBody::Gap(gap), 0);
        }
    }

    /// P4: the current epoch is spent; its batches become contested, what is unsealed moves over.
    fn begin(&mut self, ack: &pb::Ack) -> Epoch {
        let head = Head::new(self.current.hub.clone());
        let epoch = head.epoch;
        tracing::warn!(
            device = self.device,
            reason = ack.reason,
            "a new epoch begins"
        );
        let old = std::mem::replace(&mut self.current, head);
        for b in &mut self.batches {
            b.info.contested |= b.info.key.epoch == old.epoch;
        }
        self.old.push(old);
        epoch
    }

    /// P4: the hub holds another batch under this number, so its records get new ones.
    fn renumber(&mut self, key: BatchKey) -> u64 {
        let Some(at) = self.batches.iter().position(|b| b.info.key == key) else {
            return 0;
        };
        let Some(b) = self.batches.remove(at) else {
            return 0;
        };
        self.bytes -= b.info.bytes;
        let records = batch::decode(&b.payload).map_or_else(|_| Vec::new(), |b| b.records);
        let count = records.len() as u64;
        let mut places = b.readings;
        for record in records {
            let is_reading = matches!(record.body, RecordBody::Reading(_));
            self.pending.push_back(Waiting {
                reading: is_reading.then(|| places.next()).flatten(),
                taken: b.taken,
                body: record.body,
            });
        }
        count
    }

    /// Removes what is done.
    fn forget(&mut self, done: &mut Applied) {
        for key in &done.outcome.done {
            let Some(at) = self.batches.iter().position(|b| b.info.key == *key) else {
                continue;
            };
            let Some(b) = self.batches.remove(at) else {
                continue;
            };
            self.bytes -= b.info.bytes;
            done.acked
                .push((b.readings.end - b.readings.start, b.taken));
            if let Some(head) = self.head(key.epoch) {
                head.forgotten.0 = head.forgotten.0.max(key.number);
                head.forgotten.1 = head.forgotten.1.max(b.info.last_seq);
            }
        }
    }
}
