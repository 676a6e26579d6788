//! How much is kept of one sensor over a restart: owns the readings that fill it, no product code.
#![allow(clippy::unwrap_used, reason = "tests")]

use fieldcast_drift::SensorMonitor;
use fieldcast_drift::days::{DayFold, DayReference};
use fieldcast_drift::inputs::{Aspect, InputMonitor};
use fieldcast_drift::run::channel::{RowWatch, learn};
use fieldcast_drift::sensor::SensorLimits;
use fieldcast_drift::sketch::{Sketch, Stored};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
/// 2023-01-01.
const START: i64 = 1_672_531_200_000;

/// A reading of every quarter of an hour with all of its digits: a day and a slow walk, now and then spikes, noise, a stay, another
/// unit, or nothing.
fn readings(seed: u64) -> impl Iterator<Item = (i64, f64)> {
    let mut state = seed;
    let mut walk = 0.0;
    (0..4 * 24 * 500).map(move |i| {
        let mut noise = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 * 2f64.powi(-52) - 1.0
        };
        walk = 0.99 * walk + noise();
        let time = START + (i + 1) * 15 * MINUTE;
        let day = (time as f64 / (24 * HOUR) as f64 * std::f64::consts::TAU).sin();
        let value = -123.456 + 10.0 * day + walk + noise();
        let value = match (i / 4) % 3_000 {
            2_000..2_070 => value + 60.0 * noise(),
            2_200..2_260 => -120.012_345_678_912_3,
            2_500..2_600 => 32.0 + 1.8 * value,
            2_900 => f64::NAN,
            _ if i % 500 == 3 => value + 1e3 * noise(),
            _ => value,
        };
        (time, value)
    })
}

#[test]
fn all_that_is_kept_of_a_sensor_has_less_than_8_kb() {
    let hourly = |all: &[(i64, f64)]| -> Vec<(i64, f64)> {
        let whole = all.iter().filter(|(t, v)| t % HOUR == 0 && v.is_finite());
        whole.copied().collect()
    };
    let all: Vec<(i64, f64)> = readings(7).collect();
    let rows = hourly(&all[..4 * 24 * 400]);
    let fit = |aspect: Aspect| {
        let mut fold = DayFold::default();
        let days = rows.iter().filter_map(|(t, v)| fold.push(HOUR, *t, *v));
        let days: Vec<(i64, f64)> = days.filter_map(|d| Some((d.day, aspect.of(&d)?))).collect();
        DayReference::fit(&[("a", days)]).unwrap()
    };
    let mut days: Vec<(Aspect, DayReference, InputMonitor)> = Aspect::ALL
        .iter()
        .map(|aspect| (*aspect, fit(*aspect), InputMonitor::default()))
        .collect();
    let run = learn(HOUR, &days[0].1, &[("a", rows)], 1).unwrap();
    let scale = days[0].1.devices["a"];
    let mut sensor = SensorMonitor::new(SensorLimits::default()).unwrap();
    let (mut sketch, mut fold, mut watch) =
        (Sketch::default(), DayFold::default(), RowWatch::default());
    let mut most = [0; 4];
    // A week of seconds; the values are each a little different.
    for second in 0..7 * 86_400 {
        sketch.add(all[second % all.len()].1 + 1e-9 * second as f64);
        if second % 9_973 == 0 {
            // Count, mean and scatter beside it.
            most[1] = most[1].max(Stored::from(sketch.clone()).kll.len() + 24);
        }
    }
    for (time, value) in &all {
        sensor.update_at(*time, *value, Some(*time));
        if time % HOUR == 0 {
            watch.update((&run, &days[0].1, scale), HOUR, *time, *value);
            if let Some(day) = fold.push(HOUR, *time, *value) {
                for (aspect, reference, monitor) in &mut days {
                    if let Some(value) = aspect.of(&day) {
                        let scale = reference.devices.get("a").copied();
                        monitor.update(reference, scale, day.day, value);
                    }
                }
            }
        }
        if time % (7 * HOUR) != 0 {
            continue;
        }
        let json = |bytes: Result<Vec<u8>, serde_json::Error>| bytes.unwrap().len();
        let monitors: Vec<&InputMonitor> = days.iter().map(|(_, _, monitor)| monitor).collect();
        let sizes = [
            json(serde_json::to_vec(&sensor)),
            most[1],
            json(serde_json::to_vec(&(&fold, monitors))),
            json(serde_json::to_vec(&watch)),
        ];
        for (most, size) in most.iter_mut().zip(sizes) {
            *most = size.max(*most);
        }
    }
    let total: usize = most.iter().sum();
    println!("sensor, sketch, days, rows: {most:?} bytes, {total} in all");
    assert!(total < 8_000, "{most:?}");
}
