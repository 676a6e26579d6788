//! A device that goes back: to the model of before, where it stays however quick the one was that is taken back; and while what
//! the disk has damaged comes once more.
#![allow(clippy::unwrap_used, reason = "tests")]

use fieldcast_device::pace::{Terms, Took};
use fieldcast_device::update::{Event, Installed, Machine, Output, Phase, Target};

const TERMS: Terms = Terms {
    probation: 3,
    budget_us: 100_000,
    floor_us: 10_000,
};
/// What forecasts of the first model and of the second take.
const SLOW_US: u32 = 60_000;
const QUICK_US: u32 = 1_000;

fn bundle(version: u64) -> Installed {
    Installed {
        sha: format!("{version:064x}"),
        version,
    }
}

fn step(machine: &mut Machine, event: Event) -> Vec<Output> {
    machine.step(event, &TERMS)
}

/// Orders a version and lets it make its forecasts.
fn install(machine: &mut Machine, version: u64, generation: u64, us: u32) {
    let sha = bundle(version).sha;
    let target = Target {
        bundle: Some(bundle(version)),
        size: 9,
        shadow: false,
        generation,
        attempt: 1,
        expires: i64::MAX,
    };
    step(machine, Event::Ordered(target));
    step(machine, Event::Fetched(sha.clone()));
    step(machine, Event::Loaded(sha.clone()));
    for _ in 0..40 {
        let took = Took { us, golden_us: 0 };
        step(machine, Event::Forecasted(sha.clone(), took));
    }
}

fn ordered_back() -> Machine {
    let mut machine = Machine::default();
    install(&mut machine, 1, 1, SLOW_US);
    install(&mut machine, 2, 2, QUICK_US);
    assert_eq!(machine.last_good, Some(bundle(2)));
    install(&mut machine, 1, 3, SLOW_US);
    machine
}

#[test]
fn the_model_of_before_runs_though_it_is_far_slower_than_what_is_taken_back() {
    let machine = ordered_back();
    assert_eq!(machine.active, Some(bundle(1)), "{}", machine.told());
    assert_eq!(machine.phase, Phase::Healthy, "{}", machine.told());
}

#[test]
fn what_was_taken_back_does_not_come_back_by_itself() {
    let mut machine = ordered_back();
    for _ in 0..3 {
        let failed = Event::Failed(bundle(1).sha, "a value is NaN".into());
        step(&mut machine, failed);
    }
    assert_eq!(machine.active, None);
    assert_eq!(machine.phase, Phase::Failed);
}

#[test]
fn what_the_disk_has_damaged_is_fetched_once_more_and_the_one_before_forecasts_meanwhile() {
    let mut machine = Machine::default();
    install(&mut machine, 1, 1, QUICK_US);
    install(&mut machine, 2, 2, QUICK_US);
    let order = machine.target.clone().unwrap();
    let sha = bundle(2).sha;
    let damaged = || Event::Refused(sha.clone(), "its hash differs".into());
    assert_eq!(
        step(&mut machine, damaged()),
        [
            Output::Baseline,
            Output::Load(bundle(1)),
            Output::Fetch(order.clone())
        ],
        "no word to the hub that the model had failed"
    );
    step(&mut machine, Event::Loaded(bundle(1).sha));
    assert_eq!(machine.phase, Phase::Downloading);
    assert!(machine.told().contains("differs"), "{}", machine.told());
    let mut again = machine.clone();
    // It is checked like anything new.
    let taken = step(&mut machine, Event::Fetched(sha.clone()));
    assert_eq!(taken, [Output::Take(bundle(2))]);
    step(&mut machine, Event::Loaded(sha.clone()));
    assert_eq!(machine.active, Some(bundle(2)));
    for _ in 0..40 {
        let took = Took {
            us: QUICK_US,
            golden_us: 0,
        };
        step(&mut machine, Event::Forecasted(sha.clone(), took));
    }
    assert_eq!(
        (machine.phase, machine.told()),
        (Phase::Healthy, String::new())
    );
    // What is no better then is given up, and the hub is told.
    step(&mut again, Event::Fetched(sha.clone()));
    let out = step(&mut again, damaged());
    assert!(
        matches!(out[..], [Output::Outcome { ok: false, .. }]),
        "{out:?}"
    );
    assert_eq!(
        (again.phase, again.active),
        (Phase::Rejected, Some(bundle(1)))
    );
}
