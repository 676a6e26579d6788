//! Feature rows on a real PostgreSQL: what is kept is what the readings of then make, however they came.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use fieldcast_drift::sensor::{SensorEvent, SensorLimits, SensorMonitor, Worth};
use fieldcast_features::{FeatureRow, ForecasterSpec, Millis};
use fieldcast_hub::features::{self, Kept};
use fieldcast_hub::ingest::Ingestor;
use fieldcast_hub::training::snapshot::{digest, take};
use fieldcast_sim::Stream;
use fieldcast_store::Store;
use fieldcast_store::partitions::Month;
use fieldcast_store::readings::ReadingColumns;
use fieldcast_store::time::millis;
use fieldcast_wire::caps::{MAX_TIME_MS, MIN_TIME_MS};
use fieldcast_wire::{RecordBody, pb};
use serde_json::json;
use support::learning::{JAN_2026, feed};
use support::{Bed, add_device, bed, define, epoch, job, payload, psql, reading};

const HOUR: Millis = 3_600_000;

async fn spec(store: &Store, name: &str) -> ForecasterSpec {
    store.forecaster(name).await.unwrap().unwrap().spec
}

async fn snapshot(store: &Store, spec: &ForecasterSpec, mark: DateTime<Utc>) -> [u8; 32] {
    digest(&take(store, spec, MIN_TIME_MS, mark).await.unwrap())
}

fn holds(bed: &Bed, condition: &str) {
    psql(bed, &format!("DO $$ BEGIN ASSERT {condition}; END $$"));
}

/// What a device might send at `now`, data time: live readings, late and much too late ones, such of unknown time, bad
/// ones, and those of a clock that runs ahead.
fn lot(stream: &mut Stream, sensors: &[i32], now: Millis) -> ReadingColumns {
    let mut below = |n: u32| (stream.uniform() * f64::from(n)) as i64;
    let mut rows = ReadingColumns::default();
    for _ in 0..below(30) {
        let time = match below(12) {
            0 => now - below(2_000) * HOUR / 7,
            1 => JAN_2026 + 24 * 400 * HOUR * below(60),
            _ => now - below(90) * 60_000,
        };
        let sensor = sensors[usize::try_from(below(2)).unwrap()];
        let value = below(1_000) as f64 / 7.0;
        let quality = i16::try_from(below(9) / 4).unwrap();
        let vouched = i16::try_from(below(5).min(2)).unwrap();
        rows.push(sensor, time, value, quality, vouched);
    }
    rows
}

async fn insert(store: &Store, device: &str, rows: &ReadingColumns, json: bool) {
    if json {
        store.insert_json_readings(device, rows).await.unwrap();
        return;
    }
    let months: BTreeSet<Month> = rows
        .times
        .iter()
        .filter_map(|t| Month::of(millis(*t)))
        .collect();
    store.ensure_months(&months).await.unwrap();
    let mut tx = store.begin_ingest().await.unwrap();
    tx.insert_readings(rows).await.unwrap();
    tx.commit().await.unwrap();
}

/// A device tells that its demand has been stuck.
fn told(device: &str, began: Millis, found: Millis) -> String {
    let at = |time: Millis| format!("to_timestamp({time} / 1000.0)");
    format!(
        "INSERT INTO drift_signals (device, kind, forecaster, sensor, detector, statistic, threshold, severity, time, onset, raised,
            model_version, data_count) VALUES ('{device}', 'sensor', '', 'demand', 'stuck', 0, 0, 0, {}, {}, true, 0, 0)",
        at(found),
        at(began)
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_at_each_mark_is_what_the_readings_of_then_make() {
    let seed = 11;
    println!("seed {seed}");
    let mut stream = Stream::new(seed, 0);
    let mut faults = Stream::new(seed, 1);
    let bed = bed().await;
    let store = &bed.store;
    define(store, "kept", json!({})).await;
    // The same rows of a forecaster whose rows nobody keeps.
    define(store, "made", json!({})).await;
    let (kept, made) = (spec(store, "kept").await, spec(store, "made").await);
    let mut devices = Vec::new();
    let mut marks = Vec::new();
    let mut stopped = 0;
    for round in 0..40_i64 {
        if round % 13 == 0 {
            let name = format!("d{round}");
            add_device(store, &name, None).await;
            let names = ["temperature".to_owned(), "demand".to_owned()];
            let sensors = store.register_sensors(&name, &names).await.unwrap();
            devices.push((name, sensors.into_values().collect::<Vec<i32>>()));
        }
        for (name, sensors) in &devices {
            let rows = lot(&mut stream, sensors, JAN_2026 + round * HOUR);
            insert(store, name, &rows, stream.uniform() < 0.2).await;
            if faults.uniform() < 0.3 {
                let found = JAN_2026 + round * HOUR;
                let began = found - (faults.uniform() * 30.0 * HOUR as f64) as i64;
                psql(&bed, &told(name, began, found));
            }
        }
        if round % 7 == 3 {
            // A hub that is stopped while it makes them.
            let soon = Duration::from_micros((stream.uniform() * 30_000.0) as u64);
            stopped += u32::from(
                tokio::time::timeout(soon, features::advance(store, &kept))
                    .await
                    .is_err(),
            );
        }
        if round % 5 == 4 {
            // As the hub does where a boot's clock becomes known.
            psql(
                &bed,
                "UPDATE readings SET time = time + interval '90 minutes', time_quality = 1, received_at = now()
                 WHERE time_quality = 0 AND sensor % 2 = 0",
            );
        }
        if round % 3 == 0 {
            // Two hubs at once.
            let (mark, other) = tokio::join!(
                features::advance(store, &kept),
                features::advance(store, &kept)
            );
            let mark = mark.unwrap().max(other.unwrap());
            let then = snapshot(store, &made, mark).await;
            assert_eq!(snapshot(store, &kept, mark).await, then, "round {round}");
            marks.push((mark, then));
        }
    }
    assert!(stopped > 0, "no hub was stopped");
    // Whatever came later, the past stays as it was known; a set begun anew has it of the readings.
    for pass in 0..2 {
        for (i, (mark, then)) in marks.iter().enumerate() {
            let now = snapshot(store, &kept, *mark).await;
            assert_eq!(now, *then, "mark {i}, pass {pass}");
        }
        psql(&bed, "DELETE FROM feature_sets");
        features::advance(store, &kept).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_kept_once_and_another_pipeline_begins_anew() {
    let bed = bed().await;
    let store = &bed.store;
    add_device(store, "a", None).await;
    define(store, "f", json!({})).await;
    let first = spec(store, "f").await;
    for day in 0..4 {
        feed(store, day as u64 + 1, day, day + 1).await;
        features::advance(store, &first).await.unwrap();
        features::advance(store, &first).await.unwrap();
    }
    // 96 hours; each reading is at its slot's end, so that none is open.
    holds(&bed, "(SELECT count(*) FROM feature_rows) = 96");
    let late = "(SELECT count(*) FROM features WHERE device = 'a' AND forecaster = 'f' AND channels = '{temperature,demand}'";
    holds(&bed, &format!("{late}) = 96"));
    let sensor = store.sensors("a").await.unwrap()[0].id;
    let mut rows = ReadingColumns::default();
    rows.push(sensor, JAN_2026 + 10 * HOUR - 60_000, 99.0, 0, 2);
    insert(store, "a", &rows, false).await;
    let mark = features::advance(store, &first).await.unwrap();
    holds(&bed, "(SELECT count(*) FROM feature_rows) = 97");
    holds(&bed, &format!("{late}) = 96"));
    // What is there already is read without a reading.
    psql(&bed, "DELETE FROM readings");
    let rows = take(store, &first, MIN_TIME_MS, mark).await.unwrap();
    assert_eq!(rows[0].rows.len(), 96);

    define(store, "f", json!({"inputs": ["demand"]})).await;
    let other = spec(store, "f").await;
    features::advance(store, &other).await.unwrap();
    holds(&bed, "(SELECT count(*) FROM feature_sets) = 2");
    psql(
        &bed,
        "UPDATE feature_sets SET through = through - interval '40 days' WHERE channels = '{temperature,demand}'",
    );
    features::advance(store, &other).await.unwrap();
    holds(&bed, "(SELECT count(*) FROM feature_sets) = 1");
    holds(&bed, "(SELECT count(*) FROM feature_rows) = 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_being_written_at_a_mark_is_in_the_next_one() {
    let bed = bed().await;
    let store = &bed.store;
    add_device(store, "a", None).await;
    define(store, "f", json!({})).await;
    let f = spec(store, "f").await;
    feed(store, 1, 0, 2).await;
    let first = features::advance(store, &f).await.unwrap();
    let before = snapshot(store, &f, first).await;
    let sensor = store.sensors("a").await.unwrap()[0].id;
    let mut late = ReadingColumns::default();
    late.push(sensor, JAN_2026 + 5 * HOUR - 60_000, 99.0, 0, 2);
    let mut tx = store.begin_ingest().await.unwrap();
    tx.insert_readings(&late).await.unwrap();
    let open = features::advance(store, &f).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(snapshot(store, &f, open).await, before);
    let next = features::advance(store, &f).await.unwrap();
    assert_ne!(snapshot(store, &f, next).await, before);
    assert_eq!(snapshot(store, &f, open).await, before);
    holds(&bed, "(SELECT count(*) FROM feature_rows) = 49");
}

/// What a device sends of a reading, judged by its own monitor, and of what that found.
fn judged(monitor: &mut SensorMonitor, time: Millis, value: f64) -> Vec<RecordBody> {
    let (worth, events) = monitor.update(time, value);
    let mut own = reading("demand", time, value);
    if let RecordBody::Reading(reading) = &mut own {
        reading.quality = match worth {
            Worth::Good => 0,
            Worth::Suspect => 1,
            Worth::Bad => 2,
        };
    }
    let signal = |event: SensorEvent| {
        RecordBody::Drift(pb::DriftSignal {
            kind: pb::DriftKind::Sensor as i32,
            sensor: "demand".into(),
            detector: format!("{:?}", event.fault).to_lowercase(),
            time_ms: event.time,
            onset_ms: event.onset,
            raised: event.raised,
            ..pb::DriftSignal::default()
        })
    };
    let mut all = vec![own];
    all.extend(events.into_iter().map(signal));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_fault_spoilt_before_it_was_found_is_forecast_from_and_not_learnt_from() {
    let bed = bed().await;
    let store = &bed.store;
    add_device(store, "a", None).await;
    define(store, "f", json!({})).await;
    let f = spec(store, "f").await;
    let true_value = |hour: i64| {
        let scatter = 2.0 * (hour as f64 * 0.618_033_988_749_895).fract() - 1.0;
        18.0 + 5.0 * (hour as f64 / 24.0 * std::f64::consts::TAU).sin() + scatter
    };
    let given = |hour: i64| match hour {
        300..360 => true_value(299),
        400 | 420 => 60.0,
        600..680 => 1.8 * true_value(hour) + 32.0,
        _ => true_value(hour),
    };
    let spoilt = |hour: i64| given(hour) != true_value(hour);
    let hour_of = |row: &FeatureRow| (row.time - JAN_2026) / HOUR;
    let there = |rows: &[FeatureRow]| -> BTreeSet<i64> {
        let known = rows
            .iter()
            .filter(|r| r.value(f.target_channel()).is_some());
        known.map(hour_of).collect()
    };
    let mut monitor = SensorMonitor::new(SensorLimits::default()).unwrap();
    let mut ingestor = Ingestor::new(store.clone()).await.unwrap();
    let mut marks = Vec::new();
    for day in 0..30_i64 {
        let hours = day * 24..(day + 1) * 24;
        let bodies = hours.flat_map(|h| judged(&mut monitor, JAN_2026 + h * HOUR, given(h)));
        let number = u64::try_from(day).unwrap() + 1;
        let bytes = payload(epoch(1), number, number * 1_000, bodies.collect());
        let written = ingestor.write(&[job("a", &bytes)]).await.unwrap();
        assert!(written.acks[0].1.rejected.is_empty());
        let mark = features::advance(store, &f).await.unwrap();
        marks.push((mark, snapshot(store, &f, mark).await));
    }
    let last = marks.last().unwrap().0;
    let learnt = take(store, &f, MIN_TIME_MS, last).await.unwrap();
    let told = learnt[0].spoilt;
    let learnt = there(&learnt[0].rows);
    let wrong: Vec<&i64> = learnt.iter().filter(|h| spoilt(**h)).collect();
    assert_eq!(wrong, Vec::<&i64>::new(), "spoilt, and learnt from");
    let kept = Kept::open(store, &f).await.unwrap();
    let rows = kept.rows("a", (MIN_TIME_MS, MAX_TIME_MS), last).await;
    let forecast = there(&rows.unwrap());
    let early = forecast.difference(&learnt).count();
    assert!(early > 80, "{early}: what devices had before they knew");
    assert_eq!(told, early);
    assert!(forecast.difference(&learnt).all(|h| spoilt(*h)));
    // The day on which the sensor stuck nobody knew of it, and that stays what was known then.
    for (mark, then) in &marks {
        assert_eq!(snapshot(store, &f, *mark).await, *then);
    }
    let then = take(store, &f, MIN_TIME_MS, marks[13].0).await.unwrap();
    assert!(there(&then[0].rows).contains(&320));
}

#[tokio::test(flavor = "multi_thread")]
async fn years_of_few_readings_and_days_of_many_are_read_in_lots() {
    let bed = bed().await;
    let store = &bed.store;
    add_device(store, "a", None).await;
    define(store, "f", json!({})).await;
    let names = ["temperature".to_owned(), "demand".to_owned()];
    let sensors = store.register_sensors("a", &names).await.unwrap();
    let demand = sensors["demand"];
    let months = (0..80).filter_map(|m| Month::of(JAN_2026 - m * 30 * 24 * HOUR));
    store.ensure_months(&months.collect()).await.unwrap();
    // A reading a day for six years, then two weeks without any, then one a second for six days.
    let of = |from: &str, to: &str, step: &str| {
        format!(
            "INSERT INTO readings (sensor, time, value, quality, time_quality)
             SELECT {demand}, t, sin(extract(epoch FROM t)), 0, 2 FROM generate_series('{from}'::timestamptz, '{to}', '{step}') t"
        )
    };
    psql(&bed, &of("2020-01-01T00:30Z", "2025-12-18", "1 day"));
    psql(&bed, &of("2026-01-01T00:00:01Z", "2026-01-07", "1 second"));
    let f = spec(store, "f").await;
    let mark = features::advance(store, &f).await.unwrap();
    let means = format!(
        "(SELECT count(*) FROM features f JOIN (
            SELECT date_bin('1 hour', time - interval '1 microsecond', '2000-01-01') + interval '1 hour' AS t, avg(value) AS v
            FROM readings WHERE sensor = {demand} GROUP BY 1) m ON m.t = f.time AND abs(m.v - f.values[2]) < 1e-12)"
    );
    holds(&bed, &format!("{means} = 2178 + 144"));
    let rows = take(store, &f, JAN_2026 - 1, mark).await.unwrap();
    assert_eq!(rows[0].rows.len(), 144);

    // With readings beyond their age their rows go, month by month.
    let january = fieldcast_store::time::timestamp(JAN_2026 + 3 * HOUR);
    store.forget_readings(january).await.unwrap();
    holds(
        &bed,
        "(SELECT min(time) FROM feature_rows) = '2026-01-01T01:00Z'",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_dated_ahead_of_its_time_is_not_learnt_from() {
    let bed = bed().await;
    let store = &bed.store;
    define(store, "f", json!({})).await;
    let spec = spec(store, "f").await;
    add_device(store, "a", None).await;
    let names = ["temperature".to_owned(), "demand".to_owned()];
    let sensors = store.register_sensors("a", &names).await.unwrap();
    let mut rows = ReadingColumns::default();
    for (time, sensor) in (0..48).flat_map(|i| sensors.values().map(move |s| (i * HOUR, s))) {
        rows.push(*sensor, JAN_2026 + time, 20.0, 0, 2);
    }
    let ahead = JAN_2026 + 24 * 365 * 24 * HOUR;
    rows.push(sensors["demand"], ahead, 20.0, 0, 2);
    insert(store, "a", &rows, true).await;
    let mark = features::advance(store, &spec).await.unwrap();
    let data = take(store, &spec, MIN_TIME_MS, mark).await.unwrap();
    let newest = data[0].rows.last().unwrap().time;
    assert!(
        (JAN_2026 + 46 * HOUR..JAN_2026 + 50 * HOUR).contains(&newest),
        "{newest}"
    );
}
