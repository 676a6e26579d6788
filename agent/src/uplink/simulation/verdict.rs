//! A run from its first step to the verdict: owns what must hold at its end, each assertion under the number of its invariant.

use std::collections::BTreeMap;

use fieldcast_wire::Epoch;

use super::{Copy, LONG_TAIL, Plan, Restores, World, is_refused, settings};

/// Runs a plan; whatever the network did, all invariants hold at the end.
pub(super) fn run(seed: u64, plan: Plan) -> World {
    let mut w = World::new(seed, plan);
    for n in 0..plan.steps {
        if plan.copy != Copy::None && n == plan.steps / 3 {
            w.crash(0);
        }
        if n == plan.steps * 2 / 3 {
            w.use_image();
        }
        let d = w.chance.roll(w.devices.len() as u64) as usize;
        match w.chance.roll(40) {
            0 => {
                w.cut(d);
                w.feed(d, super::Event::Lost);
            }
            1 => w.crash(d),
            2 => w.backup = w.hubs.database.clone(),
            3 if plan.restores != Restores::Never => {
                w.hubs.database = w.backup.clone();
                if plan.restores == Restores::Told {
                    w.hubs.renew();
                }
            }
            4 => w.hubs.fold(&mut w.chance),
            5 if plan.full => w.fill(d),
            5..=7 => w.seal(d),
            8..=25 => w.read(d),
            _ => {
                let by = w.chance.roll(700) as i64;
                w.tick(by);
            }
        }
        let most = settings().live_inflight + settings().backlog_inflight;
        let flights = w.devices.iter().map(|d| d.machine.in_flight());
        assert!(
            flights.max() <= Some(most),
            "P7: unacknowledged batches are bounded"
        );
    }
    calm(&mut w);
    check(&mut w, seed);
    let renewed = |(_, code): &&(String, &str)| *code == "hub_restored";
    let found = w.hubs.database.ledger.alarms.iter().filter(renewed).count();
    assert!(
        plan.restores == Restores::Untold || found == 0,
        "P5: {found} times the hub found a restore of which it was told; seed {seed}"
    );
    let cloned = |(_, code): &(String, &str)| *code == "clone";
    let alarm = w.hubs.database.ledger.alarms.iter().any(cloned);
    assert!(
        !alarm || plan.copy != Copy::None,
        "P10: one instance, and a clone alarm; seed {seed}"
    );
    assert!(
        alarm || w.devices.len() == 1,
        "P10: two instances, and no alarm; seed {seed}"
    );
    w
}

/// So many ticks without anything that waits or is on its way are rest: a sync without answer comes again well within them.
const REST: u32 = 300;

/// No faults any more: everything comes to rest.
fn calm(w: &mut World) {
    w.chance.faults = false;
    let mut quiet = 0;
    for n in 0..4_000 {
        // Only what goes up tells the device of a hub that does not know of its restore.
        let reads = w.plan.restores == Restores::Untold && n < 3_000 && n % 25 == 0;
        for d in 0..w.devices.len() {
            // Both of two instances have something to say.
            if reads || n == 0 {
                w.read(d);
            }
            while w.devices[d].store().has_pending() {
                w.seal(d);
            }
        }
        w.tick(100);
        let mut waiting = w
            .devices
            .iter_mut()
            .map(|d| d.store().depth().unwrap().records);
        let rests = w.wire.is_empty() && waiting.all(|n| n == 0);
        quiet = if rests { quiet + 1 } else { 0 };
        if quiet > REST && w.plan.restores != Restores::Untold {
            return;
        }
    }
}

fn check(w: &mut World, seed: u64) {
    for d in 0..w.devices.len() {
        let depth = w.devices[d].store().depth().unwrap();
        assert_eq!(
            depth.records, 0,
            "P2: nothing waits once the faults stop; seed {seed}, {:?}",
            w.devices[d].machine
        );
    }
    let database = &w.hubs.database;
    for time in w.produced.keys() {
        let copies = database.rows.get(time).copied().unwrap_or(0);
        if is_refused(*time) {
            assert_eq!(
                copies, 0,
                "P8: reading {time} is refused by itself; seed {seed}"
            );
            continue;
        }
        // Only a tail that was trimmed, or a full disk, may leave a reading to a gap record.
        let may_be_told = w.plan.tail_bytes < LONG_TAIL || w.plan.full;
        let told = copies == 0 && may_be_told && under_a_gap(w, *time);
        assert!(
            copies > 0 || told || w.may_miss.contains(time),
            "{}: reading {time} was accepted and is lost; seed {seed}",
            if may_be_told { "P6" } else { "P1" }
        );
        assert!(
            copies < 2 || w.may_be_twice.contains(time),
            "P4: reading {time} is at the hub {copies} times; seed {seed}"
        );
    }
    assert!(
        database.rows.keys().all(|t| w.produced.contains_key(t)),
        "P4: nothing was invented; seed {seed}"
    );
    numbers(w, seed);
}

fn under_a_gap(w: &World, time: i64) -> bool {
    let homes: Vec<(Epoch, u64)> = w
        .devices
        .iter()
        .filter_map(|d| d.homes.get(&time))
        .flatten()
        .copied()
        .collect();
    w.hubs.database.gaps.iter().any(|g| {
        homes.iter().any(|(epoch, seq)| {
            g.epoch == epoch.to_vec() && (g.first_seq..=g.last_seq).contains(seq)
        })
    })
}

/// P2, P6: numbers of an epoch have no hole: each is in one batch, or under a gap record. Where two disks
/// shared an epoch, the numbers of both stand side by side; what a disk had that is gone may be missing.
fn numbers(w: &World, seed: u64) {
    let database = &w.hubs.database;
    let mut epochs: BTreeMap<Epoch, Vec<(u64, u64, bool)>> = BTreeMap::new();
    for (epoch, first, last) in &database.spans {
        epochs
            .entry(*epoch)
            .or_default()
            .push((*first, *last, false));
    }
    for gap in &database.gaps {
        let epoch = Epoch::from_slice(&gap.epoch).unwrap();
        epochs
            .entry(epoch)
            .or_default()
            .push((gap.first_seq, gap.last_seq, true));
    }
    for (epoch, mut spans) in epochs {
        let life = database
            .ledger
            .epochs
            .get(&(w.hubs.device.to_string(), epoch));
        if w.gone.contains(&epoch) || life.is_some_and(|l| l.spent.is_some()) {
            continue;
        }
        spans.sort_unstable();
        let (mut next, mut batched) = (1, 0);
        for (first, last, gap) in spans {
            assert!(
                first <= next,
                "P6: records {next}..{first} of {epoch} are neither there nor under a gap; seed {seed}"
            );
            if !gap {
                assert!(
                    first > batched,
                    "P2: record {first} of {epoch} is in two batches; seed {seed}"
                );
                batched = last;
            }
            next = next.max(last + 1);
        }
    }
}
