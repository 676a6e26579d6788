//! The loop in data time, without processes: device monitor, hub verdict, cut, fit and judge on generated worlds whose
//! changes are known. What the end-to-end test shows once with real processes holds here over several seeds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

#[path = "cycles/challenge.rs"]
mod challenge;
#[path = "cycles/play.rs"]
mod play;

use fieldcast_features::{FeatureRow, ForecasterSpec, Millis};
use fieldcast_sim::{Period, SimSpec};
use fieldcast_train::{Series, TrainingData};
use play::{Beat, play};

const SPEC: &str = "name = \"demand\"\ntarget = \"demand\"\ninputs = [\"temperature\", \"humidity\", \"demand\"]\n\
                    period = \"1h\"\nlookback = 48\nhorizon = 24\n";

struct World {
    spec: ForecasterSpec,
    start: Millis,
    devices: Vec<Vec<FeatureRow>>,
}

impl World {
    fn new(seed: u64, devices: u32, days: u32, changes: &[u32]) -> Self {
        let sim = SimSpec {
            seed,
            start: 1_672_531_200_000,
            days,
            period: Period::Hour,
            devices,
            changes: changes.to_vec(),
        };
        sim.validate().unwrap();
        let devices = (0..devices)
            .map(|d| {
                sim.rows(d)
                    .map(|r| FeatureRow {
                        time: r.time,
                        values: vec![r.temperature, r.humidity, r.demand],
                    })
                    .collect()
            })
            .collect();
        Self {
            spec: toml::from_str(SPEC).unwrap(),
            start: sim.start,
            devices,
        }
    }

    fn data(&self, until: Millis, onset: Option<Millis>) -> TrainingData {
        let series = self.devices.iter().enumerate().map(|(i, rows)| Series {
            device: format!("d{i}"),
            rows: rows.iter().filter(|r| r.time <= until).cloned().collect(),
            weight_from: onset,
        });
        TrainingData {
            series: series.collect(),
        }
    }
}

/// `FIELDCAST_SEEDS=1,2,3` plays other worlds than the one of every run.
fn seeds(usual: u64) -> Vec<u64> {
    let Ok(list) = std::env::var("FIELDCAST_SEEDS") else {
        return vec![usual];
    };
    list.split(',').map(|s| s.trim().parse().unwrap()).collect()
}

#[test]
fn a_world_that_changes_twice_gets_a_better_model_each_time() {
    let (first, second, end) = (400, 470, 525);
    for seed in seeds(11) {
        eprintln!("seed {seed}");
        let world = World::new(seed, 2, end + 2, &[first, second]);
        let story = play(&world, 365, i64::from(end));
        let rolled_out = |change: u32, until: u32| {
            let found = story.iter().any(|(day, beat)| {
                let near = |onset: &i64| (onset - i64::from(change)).abs() <= 10;
                (i64::from(change)..i64::from(until)).contains(day)
                    && matches!(beat, Beat::RolledOut { onset, .. } if near(onset))
            });
            assert!(
                found,
                "seed {seed}: no better model after day {change}: {story:#?}"
            );
        };
        rolled_out(first, second);
        rolled_out(second, end);
    }
}

#[test]
fn a_world_that_comes_back_gets_its_model_back_although_it_is_easier() {
    // The third world lasts for a day only, and then the first one is back, of which a year was learnt.
    let (changes, end) = ([400, 480, 481], 540);
    for seed in seeds(7) {
        eprintln!("seed {seed}");
        let world = World::new(seed, 2, end + 2, &changes);
        let story = play(&world, 365, i64::from(end));
        let found = story.iter().find_map(|(day, beat)| match beat {
            Beat::RolledOut { onset, known, .. } if *day >= 481 => Some((*day, *onset, *known)),
            _ => None,
        });
        let (day, onset, known) = found.expect("a rollout after the world came back");
        assert!(known && day <= 520, "seed {seed}, day {day}: {story:#?}");
        assert!((onset - 480).abs() <= 10, "seed {seed}: onset {onset}");
    }
}

#[test]
fn a_world_that_stays_is_not_taken_for_one_of_before() {
    // Two worlds were there before, and their versions are asked each day for half a year.
    let (changes, end) = ([400, 450], 690);
    for seed in seeds(5) {
        eprintln!("seed {seed}");
        let world = World::new(seed, 2, end + 2, &changes);
        let story = play(&world, 365, i64::from(end));
        let healed =
            |(day, beat): &(i64, Beat)| *day > 450 && matches!(beat, Beat::RolledOut { .. });
        assert!(story.iter().any(healed), "seed {seed}: {story:#?}");
        let alarm = |(day, beat): &&(i64, Beat)| *day > 510 && matches!(beat, Beat::Beaten(..));
        assert_eq!(story.iter().find(alarm), None, "seed {seed}");
    }
}

#[test]
fn a_world_that_stays_is_left_alone() {
    for seed in seeds(5) {
        eprintln!("seed {seed}");
        let world = World::new(seed, 2, 527, &[]);
        let story = play(&world, 365, 525);
        let retrained = |b: &Beat| matches!(b, Beat::RolledOut { .. } | Beat::Rejected(_));
        assert!(
            !story.iter().any(|(_, b)| retrained(b)),
            "seed {seed}: {story:#?}"
        );
    }
}
