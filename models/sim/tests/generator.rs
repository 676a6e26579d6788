//! What a generated fleet promises: ranges, repeatability, a control that stays the same and changes that matter.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use fieldcast_sim::{DAY_MS, HOUR_MS, Period, Row, SimSpec, csv};

const DAYS: u32 = 730;

fn fleet(changes: &[u32]) -> SimSpec {
    let start = 19_358 * DAY_MS;
    let spec = SimSpec {
        seed: 11,
        start,
        days: DAYS,
        period: Period::Hour,
        devices: 3,
        changes: changes.to_vec(),
    };
    spec.validate().unwrap();
    spec
}

/// Least-squares slope of demand on the day's mean temperature, by differences over a
/// week, for the days `from..to`: how demand answers warmth.
fn slope(rows: &[Row], from: usize, to: usize) -> f64 {
    let day_mean = |day: usize, of: fn(&Row) -> f64| {
        rows[day * 24..(day + 1) * 24].iter().map(of).sum::<f64>() / 24.0
    };
    let (mut cross, mut square) = (0.0, 0.0);
    // Differences over a week cancel the weekday and nearly all of the season.
    for day in from + 7..to {
        let warmer = day_mean(day, |r| r.temperature) - day_mean(day - 7, |r| r.temperature);
        let more = day_mean(day, |r| r.demand) - day_mean(day - 7, |r| r.demand);
        cross += warmer * more;
        square += warmer * warmer;
    }
    cross / square
}

#[test]
fn numbers_stay_in_their_ranges_on_a_gapless_grid() {
    for (period, step, count) in [
        (Period::Hour, HOUR_MS, DAYS as usize * 24),
        (Period::Day, DAY_MS, DAYS as usize),
    ] {
        let spec = SimSpec {
            period,
            ..fleet(&[400, 560])
        };
        for device in 0..spec.devices {
            let rows: Vec<Row> = spec.rows(device).collect();
            assert_eq!(rows.len(), count);
            assert!(rows.windows(2).all(|w| w[1].time - w[0].time == step));
            for row in &rows {
                assert!((15.0..=35.0).contains(&row.temperature), "{row:?}");
                assert!((30.0..=90.0).contains(&row.humidity), "{row:?}");
                assert!(row.demand > 0.0 && row.demand < 500.0, "{row:?}");
            }
        }
    }
}

#[test]
fn a_day_row_is_the_mean_of_the_hours_before_it() {
    let hourly = fleet(&[]);
    let daily = SimSpec {
        period: Period::Day,
        ..hourly.clone()
    };
    let hours: Vec<Row> = hourly.rows(1).collect();
    let day = daily.rows(1).nth(2).unwrap();
    assert_eq!(day.time, hourly.start + 3 * DAY_MS);
    let mean = hours[48..72].iter().map(|r| r.demand).sum::<f64>() / 24.0;
    assert!(
        (day.demand - mean).abs() < 0.011,
        "{} against {mean}",
        day.demand
    );
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
    let bytes = |spec: &SimSpec| {
        let mut out = Vec::new();
        csv::write(&mut out, spec.rows(0)).unwrap();
        out
    };
    let spec = SimSpec {
        days: 30,
        ..fleet(&[])
    };
    assert_eq!(bytes(&spec), bytes(&spec));
    assert_ne!(
        bytes(&spec),
        bytes(&SimSpec {
            seed: 12,
            ..spec.clone()
        })
    );
    let text = String::from_utf8(bytes(&spec)).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("time,temperature,humidity,demand"));
    assert!(lines.next().unwrap().starts_with("2023-01-01T00:00:00Z,"));
    assert_eq!(lines.count(), 30 * 24 - 1);
}

#[test]
fn a_change_leaves_everything_before_it_and_the_weather_after_it_as_they_were() {
    let (control, changed) = (fleet(&[]), fleet(&[500]));
    let mut differing = 0;
    for (a, b) in control.rows(0).zip(changed.rows(0)) {
        assert_eq!((a.temperature, a.humidity), (b.temperature, b.humidity));
        if a.time < control.start + 500 * DAY_MS {
            assert_eq!(a, b);
        } else {
            differing += usize::from((a.demand - b.demand).abs() > 0.5);
        }
    }
    assert!(differing > 200 * 24, "only {differing} hours differ");
}

#[test]
fn the_control_answers_weather_the_same_before_and_after_while_a_change_turns_it() {
    for device in 0..3 {
        let control: Vec<Row> = fleet(&[]).rows(device).collect();
        let changed: Vec<Row> = fleet(&[365]).rows(device).collect();
        let scale = control.iter().map(|r| r.demand).sum::<f64>() / control.len() as f64;
        let (before, after) = (
            slope(&control, 0, 365) / scale,
            slope(&control, 365, 730) / scale,
        );
        assert!(
            before > 0.02 && (before - after).abs() < 0.01,
            "control {before} and {after}"
        );
        let turned = slope(&changed, 365, 730) / scale;
        assert!(turned < -0.01, "changed {turned}, before {before}");
    }
}

#[test]
fn mean_demand_of_the_control_is_the_same_in_both_years() {
    let rows: Vec<Row> = fleet(&[]).rows(2).collect();
    let mean = |part: &[Row]| part.iter().map(|r| r.demand).sum::<f64>() / part.len() as f64;
    let (first, second) = (mean(&rows[..8_760]), mean(&rows[8_760..]));
    assert!((first / second - 1.0).abs() < 0.05, "{first} and {second}");
}

#[test]
fn a_second_change_brings_a_third_relation() {
    let rows: Vec<Row> = fleet(&[243, 486]).rows(0).collect();
    let [a, b, c] = [
        slope(&rows, 0, 243),
        slope(&rows, 243, 486),
        slope(&rows, 486, 730),
    ];
    assert!(a > 0.0 && b < 0.0 && c > b, "{a}, {b}, {c}");
    let control: Vec<Row> = fleet(&[]).rows(0).collect();
    let apart = rows[500 * 24..].iter().zip(&control[500 * 24..]);
    let mean = apart
        .clone()
        .map(|(x, y)| (x.demand - y.demand).abs())
        .sum::<f64>()
        / apart.len() as f64;
    assert!(
        mean > 5.0,
        "third relation is only {mean} away from the first"
    );
}

#[test]
fn a_wrong_specification_names_its_field() {
    let field = |spec: SimSpec| spec.validate().unwrap_err().field;
    assert_eq!(
        field(SimSpec {
            days: 0,
            ..fleet(&[])
        }),
        "days"
    );
    assert_eq!(
        field(SimSpec {
            devices: 0,
            ..fleet(&[])
        }),
        "devices"
    );
    assert_eq!(
        field(SimSpec {
            start: 5,
            ..fleet(&[])
        }),
        "start"
    );
    assert_eq!(
        field(SimSpec {
            changes: vec![400, 300],
            ..fleet(&[])
        }),
        "changes"
    );
    assert_eq!(
        field(SimSpec {
            changes: vec![DAYS],
            ..fleet(&[])
        }),
        "changes"
    );
}
