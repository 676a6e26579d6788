//! What is run: the properties, seeds that once failed, and rules broken on purpose that the assertions must notice.

use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;

use super::verdict::run;
use super::{Broken, Copy, LONG_TAIL, PLAN, Plan, Restores, World};

const SHORT_TAIL: u64 = 1_500;

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn exactly_once_over_a_bad_network(seed in any::<u64>()) {
        let w = run(seed, Plan { steps: 400, ..PLAN });
        prop_assert_eq!(w.hubs.conflicts, 0, "P3: the bytes of a batch never change");
    }

    #[test]
    fn exactly_once_although_the_hub_is_restored(seed in any::<u64>()) {
        run(seed, Plan { restores: Restores::Told, ..PLAN });
    }

    #[test]
    fn nothing_is_silently_lost_although_the_tail_is_shorter_than_the_backup_is_old(seed in any::<u64>()) {
        run(seed, Plan { restores: Restores::Told, tail_bytes: SHORT_TAIL, ..PLAN });
    }

    #[test]
    fn exactly_once_although_nobody_tells_the_hub_that_it_was_restored(seed in any::<u64>()) {
        run(seed, Plan { restores: Restores::Untold, ..PLAN });
    }

    #[test]
    fn nor_is_anything_silently_lost_then_although_the_tail_is_short(seed in any::<u64>()) {
        run(seed, Plan { restores: Restores::Untold, tail_bytes: SHORT_TAIL, ..PLAN });
    }

    #[test]
    fn an_old_image_costs_what_only_its_disk_knew(seed in any::<u64>()) {
        run(seed, Plan { copy: Copy::OldImage, ..PLAN });
    }

    #[test]
    fn what_a_full_disk_costs_is_under_a_gap(seed in any::<u64>()) {
        run(seed, Plan { full: true, ..PLAN });
    }

    #[test]
    fn and_so_it_is_although_the_hub_is_restored(seed in any::<u64>()) {
        run(seed, Plan { full: true, restores: Restores::Told, ..PLAN });
    }

    #[test]
    fn a_clone_is_noticed_and_nothing_of_either_is_lost(seed in any::<u64>()) {
        run(seed, Plan { copy: Copy::Clone, ..PLAN });
    }
}

const SEED: u64 = 2_459_767_849_304_582_745;

/// All kinds of runs, one after the other.
fn nth(n: u64) -> Plan {
    let restores = [Restores::Told, Restores::Untold][usize::from(n / 2 % 2 == 1)];
    let tail_bytes = [LONG_TAIL, SHORT_TAIL][usize::from(n % 2 == 1)];
    match n % 8 {
        0..4 => Plan {
            restores,
            tail_bytes,
            ..PLAN
        },
        4 => Plan {
            copy: Copy::OldImage,
            ..PLAN
        },
        5 => Plan {
            copy: Copy::Clone,
            ..PLAN
        },
        6 => PLAN,
        _ => Plan {
            full: true,
            restores,
            ..PLAN
        },
    }
}

/// Many more seeds than the properties take: `FIELDCAST_SEEDS=3000 cargo test -- --ignored many_seeds`, from the one of
/// `FIELDCAST_SEEDS_FROM` on.
#[test]
#[ignore = "takes minutes"]
fn many_seeds() {
    let number = |name, default| std::env::var(name).map_or(default, |n| n.parse().unwrap());
    let count: u64 = number("FIELDCAST_SEEDS", 300);
    let from: u64 = number("FIELDCAST_SEEDS_FROM", 0);
    let mut failed = Vec::new();
    let (mut crashes, mut overlaps, mut dropped) = (0, 0, 0);
    for n in from..from + count {
        let seed = SEED.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        match catch_unwind(|| run(seed, nth(n))) {
            Ok(w) => {
                crashes += w.hubs.crashes;
                overlaps += w.hubs.overlaps;
                dropped += w.dropped;
            }
            Err(_) => failed.push((seed, nth(n))),
        }
    }
    println!(
        "{count} seeds: {crashes} hubs crashed in a round, {overlaps} rounds overlapped, {dropped} batches dropped"
    );
    assert!(failed.is_empty(), "{} of {count}: {failed:?}", failed.len());
}

/// A late sync of before a reboot was taken for a clone; what a restored hub lacked and the device had trimmed counted as
/// acknowledged for ever; a batch dropped before an untold restore, and one acknowledged after it or come twice, hid what was
/// forgotten; the time of a batch of the boot before was given again once that batch was dropped.
#[test]
fn seeds_that_once_failed() {
    let full = Plan { full: true, ..PLAN };
    for (seed, restores, plan) in [
        (10_626_493_783_392_432_361, Restores::Told, PLAN),
        (16_583_926_339_008_465_174, Restores::Told, full),
        (5_107_346_959_794_695_156, Restores::Untold, full),
        (6_364_503_084_194_913_292, Restores::Untold, full),
        (3_520_254_423_284_971_661, Restores::Never, full),
    ] {
        run(seed, Plan { restores, ..plan });
    }
}

/// Runs until an assertion fails; answers what it said.
fn noticed(broken: Broken, plan: Plan) -> String {
    for n in 0..40 {
        let plan = Plan {
            broken: Some(broken),
            ..plan
        };
        let seed = SEED.wrapping_add(n);
        if let Err(said) = catch_unwind(AssertUnwindSafe(|| run(seed, plan))) {
            return said.downcast_ref::<String>().unwrap().clone();
        }
    }
    panic!("nobody noticed {broken:?}");
}

#[test]
fn broken_rules_are_noticed() {
    let clone = Plan {
        copy: Copy::Clone,
        ..PLAN
    };
    let full = Plan { full: true, ..PLAN };
    for (broken, plan, invariant) in [
        (Broken::AckBeforeCommit, PLAN, "P4: "),
        (Broken::WriteAgain, PLAN, "P4: "),
        (Broken::ConflictIsKnown, clone, "P4: "),
        (Broken::FoldedIsKnown, clone, "P4: "),
        (Broken::TrimByNumber, clone, "P5: "),
        (Broken::DropInSilence, full, "P6: "),
    ] {
        let said = noticed(broken, plan);
        assert!(said.contains(invariant), "{broken:?}: {said}");
    }
}

#[test]
fn a_restored_disk_image_loses_nothing_and_begins_a_new_epoch() {
    restored_image(5);
}

/// Once lost what the image sealed under numbers that the hub knew: acknowledgements proved a number, not its bytes.
#[test]
fn nor_where_it_comes_back_late_and_numbers_more_batches_than_the_hub_knows() {
    restored_image(25);
}

fn settle(w: &mut World) {
    for _ in 0..2_000 {
        while w.devices[0].store().has_pending() {
            w.seal(0);
        }
        w.tick(100);
        if w.devices[0].store().depth().unwrap().records == 0 {
            return;
        }
    }
    panic!("P2: something waits for ever");
}

fn restored_image(readings: usize) {
    let plan = Plan {
        copy: Copy::OldImage,
        ..PLAN
    };
    let mut w = World::new(7, plan);
    w.chance.faults = false;
    for _ in 0..12 {
        w.read(0);
    }
    settle(&mut w);
    // The image is taken here, then the device goes on.
    w.crash(0);
    for _ in 0..10 {
        w.read(0);
    }
    settle(&mut w);
    // The image comes back; readings are taken and sealed before the first connection.
    w.use_image();
    let before = w.devices[0].store().depth().unwrap().epoch;
    for _ in 0..readings {
        w.read(0);
    }
    settle(&mut w);
    let depth = w.devices[0].store().depth().unwrap();
    assert_ne!(
        depth.epoch, before,
        "P4: a hub that knows more forces a new epoch"
    );
    for time in w.produced.keys().filter(|t| !super::is_refused(**t)) {
        let copies = w.hubs.database.rows.get(time);
        assert_eq!(copies, Some(&1), "P4: reading {time} exactly once");
    }
}
