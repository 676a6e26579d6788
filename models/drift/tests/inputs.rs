//! The covariate monitor on generated fleets: quiet years, shifted and broken sensors; owns no product code.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use fieldcast_drift::days::{Day, DayFold, DayReference, day_of};
use fieldcast_drift::inputs::{Aspect, InputEvent, InputMonitor};
use fieldcast_sim::{Period, Row, SimSpec};

const HOUR_MS: i64 = 3_600_000;
/// 2023-01-01.
const START: i64 = 1_672_531_200_000;
const CHANNELS: [fn(&Row) -> f64; 3] = [|r| r.temperature, |r| r.humidity, |r| r.demand];

fn fleet(seed: u64, days: u32, devices: u32) -> Vec<Vec<Row>> {
    let spec = SimSpec {
        seed,
        start: START,
        days,
        period: Period::Hour,
        devices,
        changes: Vec::new(),
    };
    (0..devices).map(|d| spec.rows(d).collect()).collect()
}

fn days(rows: &[Row], value: impl Fn(&Row) -> f64) -> Vec<Day> {
    let mut fold = DayFold::default();
    rows.iter()
        .filter_map(|r| fold.push(HOUR_MS, r.time, value(r)))
        .collect()
}

/// Learns from the first days of a fleet and watches the rest of each device, changed by `change`.
struct Watch<'a> {
    fleet: &'a [Vec<Row>],
    learn: i64,
    known: bool,
}

impl Watch<'_> {
    fn events(
        &self,
        channel: fn(&Row) -> f64,
        aspect: Aspect,
        change: impl Fn(i64, f64) -> f64,
    ) -> Vec<Vec<InputEvent>> {
        let first = day_of(START + HOUR_MS);
        let until = first + self.learn;
        let names: Vec<String> = (0..self.fleet.len()).map(|d| format!("d{d}")).collect();
        let of = |rows: &[Row], change: &dyn Fn(i64, f64) -> f64| -> Vec<(i64, f64)> {
            days(rows, |r| change(day_of(r.time) - first, channel(r)))
                .iter()
                .filter_map(|d| Some((d.day, aspect.of(d)?)))
                .collect()
        };
        let learnt: Vec<(&str, Vec<(i64, f64)>)> = self
            .fleet
            .iter()
            .zip(&names)
            .map(|(rows, name)| {
                let past = of(rows, &|_, v| v);
                (
                    name.as_str(),
                    past.into_iter().filter(|d| d.0 < until).collect(),
                )
            })
            .collect();
        let reference = DayReference::fit(&learnt).unwrap();
        self.fleet
            .iter()
            .zip(&names)
            .map(|(rows, name)| {
                let mut monitor = InputMonitor::default();
                let scale = reference.devices.get(name).copied().filter(|_| self.known);
                of(rows, &change)
                    .into_iter()
                    .filter(|d| d.0 >= until)
                    .filter_map(|(day, value)| monitor.update(&reference, scale, day, value))
                    .collect()
            })
            .collect()
    }
}

#[test]
fn quiet_years_raise_nothing_on_any_channel() {
    // Known devices and unknown ones, after one year learnt and after part of one.
    for (learn, known) in [(365, true), (365, false), (250, true)] {
        for seed in 1..=5 {
            let fleet = fleet(seed, learn + 365, 2);
            let watch = Watch {
                fleet: &fleet,
                learn: i64::from(learn),
                known,
            };
            for channel in CHANNELS {
                for aspect in Aspect::ALL {
                    let found = watch.events(channel, aspect, |_, v| v);
                    let none = found.iter().all(Vec::is_empty);
                    assert!(none, "{learn} {known} {seed} {aspect:?}: {found:?}");
                }
            }
        }
    }
}

#[test]
fn a_shift_or_a_wider_swing_is_found_on_every_device_in_weeks() {
    for seed in 1..=5 {
        let fleet = fleet(seed, 365 + 100, 2);
        let watch = Watch {
            fleet: &fleet,
            learn: 365,
            known: true,
        };
        let changed = 365 + 30;
        // (channel, aspect, change, days until it must be found)
        type Change = fn(f64) -> f64;
        let cases: [(usize, Aspect, Change, i64); 3] = [
            (0, Aspect::Mean, |v| v + 8.0, 35),
            (1, Aspect::Mean, |v| v - 25.0, 35),
            (0, Aspect::Spread, |v| 25.0 + 2.0 * (v - 25.0), 21),
        ];
        for (channel, aspect, change, within) in cases {
            let found = watch.events(CHANNELS[channel], aspect, |day, v| {
                if day >= changed { change(v) } else { v }
            });
            for events in found {
                let [event] = events.as_slice() else {
                    panic!("seed {seed}: {events:?}");
                };
                let day = |time: i64| day_of(time) - day_of(START + HOUR_MS) - changed;
                assert!(event.raised && event.shift.abs() > 1.0, "{event:?}");
                assert!((0..within).contains(&day(event.time)), "{event:?}");
                assert!(day(event.onset).abs() <= 14, "{event:?}");
            }
        }
    }
}

#[test]
fn a_season_that_was_never_seen_is_not_judged() {
    let fleet = fleet(3, 365, 1);
    let watch = Watch {
        fleet: &fleet,
        learn: 60,
        known: true,
    };
    // Learnt in January and February: of what a summer should be like nothing is known.
    let summer = |day: i64, v: f64| {
        if (90..330).contains(&day) {
            v + 15.0
        } else {
            v
        }
    };
    assert_eq!(watch.events(CHANNELS[0], Aspect::Mean, summer), [[]]);
    let february = |day: i64, v: f64| if day >= 61 { v + 15.0 } else { v };
    let found = watch.events(CHANNELS[0], Aspect::Mean, february);
    assert!(found[0].iter().any(|e| e.raised), "{found:?}");
}

#[test]
fn hostile_values_change_nothing() {
    let days: Vec<(i64, f64)> = (0..400).map(|d| (d, (d % 11) as f64)).collect();
    let reference = DayReference::fit(&[("a", days)]).unwrap();
    let scale = Some(reference.devices["a"]);
    let mut monitor = InputMonitor::default();
    assert_eq!(monitor.update(&reference, scale, 400, f64::NAN), None);
    assert_eq!(monitor, InputMonitor::default());
    assert_eq!(monitor.update(&reference, scale, 400, f64::MAX), None);
    let one = monitor.clone();
    assert_eq!(monitor.update(&reference, scale, 400, 1e9), None);
    assert_eq!(monitor.update(&reference, scale, 399, 1e9), None);
    assert_eq!(monitor, one, "days do not come twice, or backwards");
    let mut nothing = InputMonitor::default();
    let empty = DayReference::default();
    assert_eq!(nothing.update(&empty, None, 1, 1.0), None);
}
