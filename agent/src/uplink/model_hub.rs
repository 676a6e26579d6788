//! A hub in memory for the simulation: owns ledger, watermark and acks as the real one keeps them; never a database.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fieldcast_wire::caps::{MAX_ACK_PROOFS, PROOF};
use fieldcast_wire::{Epoch, RecordBody, Sha256, batch, pb};

use crate::buffer::SyncHead;

/// Behaves as `hub/src/ingest` and the leader's sync do, in memory.
#[derive(Clone, Default)]
pub(super) struct Hub {
    pub(super) instance: u64,
    /// Where new names come from, also for what is restored from a copy.
    pub(super) names: Arc<AtomicU64>,
    pub(super) ledger: BTreeMap<(Epoch, u64), (Sha256, pb::ClockStamp)>,
    /// Holes below were closed because the device holds nothing there any more.
    pub(super) floors: BTreeMap<Epoch, u64>,
    /// How often each reading is in the database.
    pub(super) rows: HashMap<i64, u32>,
    pub(super) gaps: Vec<pb::Gap>,
    pub(super) conflicts: u32,
    pub(super) spent: BTreeSet<Epoch>,
}

impl Hub {
    fn name(&self) -> Vec<u8> {
        self.instance.to_le_bytes().to_vec()
    }

    /// Another name, as after a restore that the hub was told of.
    pub(super) fn renew(&mut self) {
        self.instance = 2 + self.names.fetch_add(1, Ordering::Relaxed);
    }

    fn ack(&self, epoch: Epoch, clock: &pb::ClockStamp, proven: &[u64]) -> pb::Ack {
        let floor = self.floors.get(&epoch).copied().unwrap_or(0);
        let numbers: Vec<u64> = self
            .ledger
            .range((epoch, floor + 1)..=(epoch, u64::MAX))
            .map(|((_, n), _)| *n)
            .collect();
        let through = floor
            + (floor + 1..)
                .zip(&numbers)
                .take_while(|(i, n)| i == *n)
                .count() as u64;
        let beyond = numbers.iter().filter(|n| **n > through);
        pb::Ack {
            schema: 1,
            epoch: epoch.to_vec(),
            through,
            ranges: beyond
                .map(|n| pb::BatchRange {
                    first: *n,
                    last: *n,
                })
                .take(64)
                .collect(),
            hub_instance: self.name(),
            echo_monotonic_ms: clock.monotonic_ms,
            echo_boot_id: clock.boot_id.clone(),
            new_epoch: self.spent.contains(&epoch),
            proofs: proven
                .iter()
                .filter_map(|n| {
                    let (digest, _) = self.ledger.get(&(epoch, *n))?;
                    Some(pb::Proof {
                        batch: *n,
                        digest: digest.0[..PROOF].to_vec(),
                    })
                })
                .collect(),
            ..pb::Ack::default()
        }
    }

    pub(super) fn batch(&mut self, payload: &[u8]) -> pb::Ack {
        let b = batch::decode(payload).unwrap();
        let digest = Sha256::of(payload);
        let known = self.ledger.get(&(b.epoch, b.number)).map(|(d, _)| *d);
        if known.is_some_and(|d| d != digest) {
            self.conflicts += 1;
            self.spent.insert(b.epoch);
            let mut ack = self.ack(b.epoch, &b.clock, &[]);
            ack.new_epoch = true;
            ack.rejected = vec![pb::Rejected {
                batch: b.number,
                seq: 0,
                reason: "other digest".into(),
            }];
            return ack;
        }
        if known.is_none() {
            self.ledger
                .insert((b.epoch, b.number), (digest, b.clock.clone()));
            for record in b.records {
                match record.body {
                    RecordBody::Reading(r) => *self.rows.entry(r.time).or_default() += 1,
                    RecordBody::Gap(gap) => self.gaps.push(gap),
                    _ => {}
                }
            }
        }
        self.ack(b.epoch, &b.clock, &[b.number])
    }

    pub(super) fn sync(&mut self, head: &SyncHead) -> pb::Ack {
        let (epoch, clock) = (head.epoch, &head.clock);
        let mut later = self
            .ledger
            .range((epoch, head.next_batch)..=(epoch, u64::MAX));
        if later
            .any(|(_, (_, at))| at.boot_id != clock.boot_id || at.monotonic_ms < clock.monotonic_ms)
        {
            self.spent.insert(epoch);
        }
        let own = head.hub_instance == self.name();
        let lacks = head.last_acked > 0 && !self.ledger.contains_key(&(epoch, head.last_acked));
        if own && (lacks || head.acked_through > self.ack(epoch, clock, &[]).through) {
            self.renew();
        } else if head.hub_instance.is_empty() || own {
            let floor = self.floors.entry(epoch).or_default();
            *floor = (*floor).max(head.oldest_batch.saturating_sub(1));
        }
        let next = head.acked_through + 1;
        let proven: Vec<u64> = (next..head.next_batch).take(MAX_ACK_PROOFS).collect();
        self.ack(epoch, clock, &proven)
    }
}
