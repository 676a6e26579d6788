//! The real tables against the ledger in memory: the same messages lead to the same acks, alarms and watermarks, so that what
//! simulations show of the one holds for the other.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod support;

use std::collections::BTreeMap;

use fieldcast_hub::ingest::{self, Ingestor, Job, check};
use fieldcast_ledger::machine::{Arrived, Event};
use fieldcast_ledger::memory::{Ledger, Round};
use fieldcast_ledger::rows::RejectedRecord;
use fieldcast_wire::{DeviceId, Epoch, pb};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use support::{Bed, add_device, bed, device, epoch, job, payload, psql, reading};
use uuid::Uuid;

const JAN_2026: i64 = 1_767_225_600_000;

/// Which hub instance a sync names.
#[derive(Debug, Clone, Copy)]
enum Instance {
    None,
    Told,
    Other,
}

#[derive(Debug, Clone)]
enum Step {
    /// Epoch, number and contents of the batches of a group.
    Batches(Vec<(u128, u64, u8)>),
    Sync {
        epoch: u128,
        next: u64,
        oldest: u64,
        acked: u64,
        last: u64,
        session: u64,
        instance: Instance,
        clock: (bool, i64),
    },
    /// An hour goes by; whether rows of before leave only what proves them, as far as whole blocks of 64 are committed.
    Wait { folds: bool },
}

fn any_step() -> impl Strategy<Value = Step> {
    let batch = (
        1..3_u128,
        prop_oneof![6 => 1..12_u64, 1 => 60..70_u64],
        prop_oneof![8 => Just(0_u8), 1 => Just(1), 2 => Just(2)],
    );
    let instance = prop_oneof![
        1 => Just(Instance::None),
        5 => Just(Instance::Told),
        1 => Just(Instance::Other)
    ];
    let next = prop_oneof![2 => 1..14_u64, 1 => 70..80_u64];
    let oldest = prop_oneof![3 => 0..6_u64, 1 => 64..70_u64];
    let numbers = (next, oldest, 0..10_u64, 0..12_u64, 1..5_u64);
    let sync = (1..3_u128, numbers, instance, (any::<bool>(), 0..200_i64));
    let sync = sync.prop_map(
        |(epoch, (next, oldest, acked, last, session), instance, clock)| Step::Sync {
            epoch,
            next,
            oldest,
            acked,
            last,
            session,
            instance,
            clock,
        },
    );
    prop_oneof![
        6 => prop::collection::vec(batch, 1..8).prop_map(Step::Batches),
        3 => sync,
        2 => any::<bool>().prop_map(|folds| Step::Wait { folds }),
    ]
}

/// Contents 0 and 1 are other bytes under the same key; of 2 a record is refused.
fn batch(device: &DeviceId, (e, number, contents): (u128, u64, u8)) -> Job {
    let name = if contents == 2 { "bad/name" } else { "t" };
    let time = |i| JAN_2026 + i64::try_from(number * 2 + i).unwrap() * 1_000;
    let bodies = vec![
        reading("t", time(0), f64::from(contents)),
        reading(name, time(1), 1.0),
    ];
    job(
        device.as_str(),
        &payload(epoch(e), number, number * 2, bodies),
    )
}

fn refused(job: &Job) -> Vec<RejectedRecord> {
    let records = job.batch.records.iter();
    let bad = records.filter_map(|r| Some(RejectedRecord::new(r.seq, check::refusal(&r.body)?)));
    job.rejected.iter().cloned().chain(bad).collect()
}

/// One side's acks with names of hub instances in the order in which they came up.
#[derive(Default)]
struct Side {
    names: Vec<Vec<u8>>,
    told: Vec<u8>,
}

impl Side {
    fn plain(&mut self, mut ack: pb::Ack) -> pb::Ack {
        self.told = std::mem::take(&mut ack.hub_instance);
        if !self.names.contains(&self.told) {
            self.names.push(self.told.clone());
        }
        let name = self.names.iter().position(|n| *n == self.told).unwrap();
        ack.hub_instance = vec![u8::try_from(name).unwrap()];
        ack.hub_time_ms = 0;
        ack
    }
}

struct Pair<'a> {
    bed: &'a Bed,
    hubs: Vec<Ingestor>,
    database: Vec<u8>,
    device: DeviceId,
    memory: Ledger,
    sides: (Side, Side),
    renewals: u128,
    now: i64,
    folded: u32,
}

impl Pair<'_> {
    async fn step(&mut self, n: usize, step: &Step) {
        let before = self.memory.restored.clone();
        let (real, model) = match step {
            Step::Batches(batches) => self.batches(n, batches).await,
            Step::Sync { epoch: e, .. } => self.sync(epoch(*e), step).await,
            Step::Wait { folds } => return self.wait(*folds).await,
        };
        let real: Vec<_> = real.into_iter().map(|a| self.sides.0.plain(a)).collect();
        let model: Vec<_> = model.into_iter().map(|a| self.sides.1.plain(a)).collect();
        assert_eq!(real, model, "step {n}: {step:?}");
        self.renewals += u128::from(before != self.memory.restored);
        self.state(n).await;
    }

    async fn batches(
        &mut self,
        n: usize,
        batches: &[(u128, u64, u8)],
    ) -> (Vec<pb::Ack>, Vec<pb::Ack>) {
        let mut jobs: Vec<Job> = batches.iter().map(|b| batch(&self.device, *b)).collect();
        jobs.sort_by_key(|j| (j.batch.epoch, j.batch.number));
        let restored = self.memory.restored.get(self.device.as_str()).copied();
        let arrived: Vec<Arrived> = jobs
            .iter()
            .map(|j| Arrived {
                device: self.device.clone(),
                epoch: j.batch.epoch,
                number: j.batch.number,
                digest: j.digest,
                clock: j.batch.clock.clone(),
                restored,
            })
            .collect();
        let refused: Vec<_> = jobs.iter().map(refused).collect();
        let hub = n % self.hubs.len();
        let written = self.hubs[hub].write(&jobs).await.unwrap();
        let round = Round {
            batches: &arrived,
            refused: &refused,
            fresh: Uuid::nil(),
            now: self.now,
        };
        let event = Event::Batches(arrived.clone());
        let model = self.memory.take(&self.database, event, &round);
        let acks = |all: Vec<(DeviceId, pb::Ack)>| all.into_iter().map(|(_, ack)| ack).collect();
        (acks(written.acks), acks(model))
    }

    async fn sync(&mut self, e: Epoch, step: &Step) -> (Vec<pb::Ack>, Vec<pb::Ack>) {
        let Step::Sync {
            next,
            oldest,
            acked,
            last,
            session,
            instance,
            clock,
            ..
        } = *step
        else {
            unreachable!("the caller knows what it is");
        };
        let message = |told: &[u8]| pb::Sync {
            schema: 1,
            epoch: e.to_vec(),
            session,
            oldest_batch: oldest.min(next),
            next_batch: next,
            acked_through: acked,
            last_acked: last,
            acked: match acked % 3 {
                0 => vec![pb::BatchRange {
                    first: acked + 2,
                    last: (acked + 2).max(last),
                }],
                _ => Vec::new(),
            },
            hub_instance: match instance {
                Instance::None => Vec::new(),
                Instance::Told => told.to_vec(),
                Instance::Other => b"other".to_vec(),
            },
            clock: Some(pb::ClockStamp {
                boot_id: if clock.0 { "boot" } else { "other" }.into(),
                monotonic_ms: clock.1,
                ..Default::default()
            }),
            ..Default::default()
        };
        let (store, name) = (&self.bed.store, self.database.clone());
        let asked = message(&self.sides.0.told);
        let real = ingest::sync(store, name, &self.device, e, asked).await;
        let round = Round {
            batches: &[],
            refused: &[],
            fresh: Uuid::from_u128(1 + self.renewals),
            now: self.now,
        };
        let event = Event::Sync(self.device.clone(), e, message(&self.sides.1.told));
        let model = self.memory.take(&self.database, event, &round);
        let model = model.into_iter().map(|(_, ack)| ack).collect();
        (real.unwrap().0.into_iter().collect(), model)
    }

    async fn wait(&mut self, folds: bool) {
        self.now += 3_600_000;
        let name = self.device.to_string();
        psql(
            self.bed,
            &format!(
                "UPDATE batches SET received_at = received_at - interval '1 hour' WHERE device = '{name}';
                 UPDATE devices SET boot_heard_at = boot_heard_at - interval '1 hour' WHERE id = '{name}'"
            ),
        );
        if !folds {
            return;
        }
        // As if all that never came of the first block had been dropped.
        psql(
            self.bed,
            &format!("UPDATE epochs SET through = greatest(through, 63) WHERE device = '{name}'"),
        );
        for life in self.memory.epochs.values_mut() {
            life.through = life.through.max(63);
        }
        let before = fieldcast_hub::clock::now() - chrono::TimeDelta::minutes(30);
        self.bed.store.forget_batches(before).await.unwrap();
        let lives: Vec<_> = self
            .memory
            .epochs
            .iter()
            .map(|(k, l)| (k.1, l.through))
            .collect();
        for (e, through) in lives {
            let end = (through + 1) / 64 * 64;
            let mut numbers = self.memory.batches.keys().filter(|key| key.1 == e);
            if numbers.any(|key| key.2 < end) {
                self.folded += 1;
                self.memory.fold(&name, e, end - 1);
            }
        }
    }

    /// What is kept is the same too.
    async fn state(&self, n: usize) {
        let name = self.device.as_str();
        let store = &self.bed.store;
        let mut rows = store.alarms(Some(name), None, 1_000).await.unwrap();
        rows.reverse();
        let codes: Vec<&str> = rows.iter().map(|a| a.code.as_str()).collect();
        let model: Vec<&str> = self.memory.alarms.iter().map(|(_, code)| *code).collect();
        assert_eq!(codes, model, "step {n}");
        let mut tx = store.begin_ingest().await.unwrap();
        for ((_, e), life) in &self.memory.epochs {
            let real = tx.committed(name, *e).await.unwrap();
            let numbers = self
                .memory
                .batches
                .keys()
                .filter(|(_, epoch, _)| epoch == e);
            let beyond: Vec<u64> = numbers
                .map(|key| key.2)
                .filter(|n| *n > life.through)
                .collect();
            assert_eq!(
                (real.through, real.beyond, real.spent.as_ref()),
                (life.through, beyond, life.spent.as_ref()),
                "step {n}"
            );
        }
    }
}

#[test]
fn the_tables_and_the_ledger_in_memory_answer_the_same() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let bed = runtime.block_on(bed());
    let config = Config {
        cases: 96,
        failure_persistence: None,
        ..Config::default()
    };
    let mut seen: BTreeMap<&'static str, u32> = BTreeMap::new();
    let (case, all) = (
        std::cell::Cell::new(0_u32),
        std::cell::RefCell::new(&mut seen),
    );
    let histories = prop::collection::vec(any_step(), 1..16);
    TestRunner::new(config)
        .run(&histories, |steps| {
            case.set(case.get() + 1);
            runtime.block_on(async {
                let name = format!("d{}", case.get());
                add_device(&bed.store, &name, None).await;
                let hubs = vec![
                    Ingestor::new(bed.store.clone()).await.unwrap(),
                    Ingestor::new(bed.store.clone()).await.unwrap(),
                ];
                let mut pair = Pair {
                    bed: &bed,
                    hubs,
                    database: bed.store.instance().await.unwrap(),
                    device: device(&name),
                    memory: Ledger::default(),
                    sides: Default::default(),
                    renewals: 0,
                    now: 0,
                    folded: 0,
                };
                for (n, step) in steps.iter().enumerate() {
                    pair.step(n, step).await;
                }
                for (_, code) in &pair.memory.alarms {
                    *all.borrow_mut().entry(code).or_default() += 1;
                }
                *all.borrow_mut().entry("folded").or_default() += pair.folded;
            });
            Ok(())
        })
        .unwrap();
    // Histories that never came to the rules would prove nothing.
    assert!(seen["clone"] > 20 && seen["hub_restored"] > 20, "{seen:?}");
    assert!(seen["folded"] > 5, "{seen:?}");
}
