//! The error monitor's false-alarm rate and delay, on seeded series whose change is known.

use super::*;
use crate::window::random::Random;

const DAY: i64 = 86_400_000;

/// Mean absolute error a day of hourly errors that are AR(phi).
fn from_hours(seed: u64, days: usize, phi: f64) -> Vec<f64> {
    let mut random = Random(seed.wrapping_mul(0x1234_5678_9ABC_DEF1));
    let mut e = random.normal();
    (0..days)
        .map(|_| {
            let sum: f64 = (0..24)
                .map(|_| {
                    e = phi * e + (1.0 - phi * phi).sqrt() * random.normal();
                    e.abs()
                })
                .sum();
            sum / 24.0
        })
        .collect()
}

/// Daily errors whose logarithms are AR(phi) with deviation `std`.
fn from_days(seed: u64, days: usize, phi: f64, std: f64) -> Vec<f64> {
    let mut random = Random(seed.wrapping_mul(0xFEDC_BA98_7654_3211));
    let mut x = random.normal();
    (0..days)
        .map(|_| {
            x = phi * x + (1.0 - phi * phi).sqrt() * random.normal();
            (std * x).exp()
        })
        .collect()
}

/// Alarms in all, each followed by a fresh monitor.
fn alarms(calibration: &ErrorCalibration, errors: &[f64]) -> usize {
    let mut monitor = ErrorMonitor::new(calibration, RUN_DAYS).unwrap();
    let mut count = 0;
    for (day, e) in errors.iter().enumerate() {
        if let Some(ErrorEvent::Raised(_)) = monitor.update(day as i64 * DAY, *e) {
            count += 1;
            monitor = ErrorMonitor::new(calibration, RUN_DAYS).unwrap();
        }
    }
    count
}

type Series = dyn Fn(u64, usize) -> Vec<f64>;

#[test]
fn undrifted_errors_alarm_no_more_often_than_stated() {
    let years = 3 * 365;
    let stated = 50.0 * years as f64 / RUN_DAYS;
    let hourly: &Series = &|seed, days| from_hours(seed, days, 0.9);
    let daily: &Series = &|seed, days| from_days(seed, days, 0.9, 0.3);
    for (name, series) in [("hourly AR(0.9)", hourly), ("daily AR(0.9)", daily)] {
        let calibration = ErrorCalibration::from_daily(&series(9_999, 20_000)).unwrap();
        let count: usize = (1..=50)
            .map(|seed| alarms(&calibration, &series(seed, years)))
            .sum();
        eprintln!("{name}: {count} alarms, stated {stated:.1}, {calibration:?}");
        // Two deviations of a Poisson count above what is stated.
        assert!(
            count as f64 <= stated + 2.0 * stated.sqrt(),
            "{name}: {count} > {stated}"
        );
    }
}

#[test]
fn sixty_days_of_calibration_are_enough_for_the_stated_rate() {
    let years = 3 * 365;
    let count: usize = (1..=50)
        .map(|seed| {
            let all = from_hours(seed, 60 + years, 0.9);
            alarms(
                &ErrorCalibration::from_daily(&all[..60]).unwrap(),
                &all[60..],
            )
        })
        .sum();
    eprintln!("60 days of calibration: {count} alarms in 150 years");
    assert!((count as f64) < 2.0 * 50.0 * years as f64 / RUN_DAYS);
}

/// Days from a rise by half to the alarm, for 50 seeds, sorted; the change comes after 100 undrifted days.
fn delays(series: &Series) -> Vec<i64> {
    let calibration = ErrorCalibration::from_daily(&series(9_999, 5_000)).unwrap();
    let mut out: Vec<i64> = (1..=50)
        .map(|seed| {
            let mut monitor = ErrorMonitor::new(&calibration, RUN_DAYS).unwrap();
            for (day, e) in series(seed, 400).iter().enumerate() {
                let day = day as i64;
                let level = if day >= 100 { 1.5 } else { 1.0 };
                match monitor.update(day * DAY, e * level) {
                    Some(ErrorEvent::Raised(signal)) if day >= 100 => {
                        assert!(signal.statistic > signal.threshold && signal.onset <= signal.time);
                        assert!(signal.severity > 1.1, "{signal:?}");
                        return day - 99;
                    }
                    Some(ErrorEvent::Raised(_)) => {
                        monitor = ErrorMonitor::new(&calibration, RUN_DAYS).unwrap()
                    }
                    _ => {}
                }
            }
            panic!("seed {seed}: no alarm")
        })
        .collect();
    out.sort_unstable();
    out
}

#[test]
fn errors_half_as_large_again_are_found_within_fourteen_days() {
    let found = delays(&|seed, days| from_hours(seed, days, 0.5));
    eprintln!("hourly AR(0.5): {found:?}");
    assert!(found.iter().all(|d| *d <= 14));
    // Hourly AR(0.9) leaves some three independent errors a day: no test can be that quick at this run time.
    let found = delays(&|seed, days| from_hours(seed, days, 0.9));
    eprintln!("hourly AR(0.9): {found:?}");
    assert!(found[24] <= 21 && found[44] <= 42);
}

#[test]
fn one_bad_day_is_no_drift_and_the_state_survives_a_restart() {
    let calibration = ErrorCalibration {
        mean_log: 0.0,
        std_log: 0.3,
        lag1: 0.2,
        days: 90,
        level_std: 0.0,
    };
    let mut monitor = ErrorMonitor::new(&calibration, RUN_DAYS).unwrap();
    assert_eq!(monitor.update(0, 1e12), None);
    for bad in [f64::NAN, f64::INFINITY, -1.0] {
        assert_eq!(monitor.update(DAY, bad), None);
    }
    assert_eq!(
        monitor.update(0, 1e12),
        None,
        "the same day twice counts once"
    );
    let json = serde_json::to_string(&monitor).unwrap();
    let mut again: ErrorMonitor = serde_json::from_str(&json).unwrap();
    for day in 1..20 {
        assert_eq!(monitor.update(day * DAY, 2.0), again.update(day * DAY, 2.0));
    }
    assert!(monitor.is_raised());
    let cleared = (20..100).find_map(|day| monitor.update(day * DAY, 0.0));
    assert!(matches!(cleared, Some(ErrorEvent::Cleared { .. })));
    assert!(!monitor.is_raised() && monitor.signal().is_none());
}

#[test]
fn calibrations_that_cannot_be_used_are_refused() {
    assert!(ErrorCalibration::from_daily(&[1.0, f64::NAN, 0.0, 2.0]).is_err());
    let constant = ErrorCalibration::from_daily(&[2.0; 30]).unwrap();
    assert!(ErrorMonitor::new(&constant, RUN_DAYS).is_ok());
    let broken = ErrorCalibration {
        mean_log: f64::NAN,
        ..constant
    };
    assert!(ErrorMonitor::new(&broken, RUN_DAYS).is_err());
    assert!(ErrorMonitor::new(&constant, f64::INFINITY).is_err());
}
