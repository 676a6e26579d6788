//! Imports into a real PostgreSQL: what is before a malformed row is stored, and run again nothing is twice.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use fieldcast_hub::import::{Options, import};
use support::{add_device, bed, readings};

#[tokio::test]
async fn what_is_before_a_malformed_row_is_stored() {
    let bed = bed().await;
    add_device(&bed.store, "a", None).await;
    let path = bed.dir.path().join("a.csv");
    let before = "time,note,t\n2026-01-01,x,1\n2026-01-02,x,2\n2026-01-03,x,3\n";
    std::fs::write(
        &path,
        format!("{before}2026-01-04,x,four\n2026-01-05,x,5\n"),
    )
    .unwrap();
    let options = Options::default();
    let mut heard = 0;
    let done = import(&bed.store, "a", &path, &options, |n| heard = n).await;
    let said = format!("{:#}", done.unwrap_err());
    assert!(said.contains("line 5, column `t`: `four`"), "{said}");
    assert_eq!((readings(&bed.store, "a").await.len(), heard), (3, 3));
    // Mended, only the rest is new.
    std::fs::write(&path, format!("{before}2026-01-04,x,4\n2026-01-05,x,5\n")).unwrap();
    let done = import(&bed.store, "a", &path, &options, |_| {})
        .await
        .unwrap();
    assert_eq!((done.readings, done.written), (5, 2));
    assert_eq!(done.skipped, ["note"]);
    assert_eq!(readings(&bed.store, "a").await.len(), 5);
}

#[tokio::test]
async fn what_a_broken_sensor_read_is_stored_as_bad() {
    let bed = bed().await;
    add_device(&bed.store, "a", None).await;
    let path = bed.dir.path().join("a.csv");
    let course = |i: i64| (i as f64 / 24.0 * std::f64::consts::TAU).sin() * 5.0 + (i % 7) as f64;
    let rows = (0..700).map(|i| format!("{},{},{}\n", i * 3_600, course(i.min(600)), course(i)));
    std::fs::write(&path, format!("time,t,u\n{}", rows.collect::<String>())).unwrap();
    let done = import(&bed.store, "a", &path, &Options::default(), |_| {})
        .await
        .unwrap();
    assert_eq!((done.written, done.spoilt), (1_400, 99));
    let sensors = ["t".to_owned(), "u".to_owned()];
    let all = bed
        .store
        .readings_between("a", &sensors, 0, i64::MAX / 4)
        .await
        .unwrap();
    let bad: Vec<_> = all.iter().filter(|r| r.quality == 2).collect();
    assert_eq!(bad.len(), 99);
    assert!(
        bad.iter()
            .all(|r| r.sensor == "t" && r.time > 600 * 3_600_000)
    );
}
