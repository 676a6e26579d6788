//! Imports into a real PostgreSQL: what is before a malformed row is stored, and run again nothing is twice.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use fieldcast_hub::import::{Options, import};
use fieldcast_store::Store;
use support::{add_device, bed, psql, readings};

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
async fn what_a_broken_sensor_read_is_stored_and_known_to_be_spoilt() {
    let bed = bed().await;
    add_device(&bed.store, "a", None).await;
    let path = bed.dir.path().join("a.csv");
    let course = |i: i64| (i as f64 / 24.0 * std::f64::consts::TAU).sin() * 5.0 + (i % 7) as f64;
    let write = |hours: i64| {
        let row = |i: i64| format!("{},{},{}\n", i * 3_600, course(i.min(600)), course(i));
        let rows: String = (1..hours).map(row).collect();
        std::fs::write(&path, format!("time,t,u\n{rows}")).unwrap();
    };
    // As far as a malformed row nothing is known; run again and run with a file that grew, all is.
    write(700);
    let sound = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{sound}broken,1,2\n")).unwrap();
    let options = Options::default();
    assert!(
        import(&bed.store, "a", &path, &options, |_| {})
            .await
            .is_err()
    );
    assert!(spoilt(&bed.store).await.is_empty());
    for hours in [700, 700, 720] {
        write(hours);
        let done = import(&bed.store, "a", &path, &options, |_| {})
            .await
            .unwrap();
        assert_eq!(done.findings.faults["t"]["stuck"], 1);
        assert_eq!(done.findings.faults.len(), 1);
        let expected: Vec<i64> = (601..hours).collect();
        assert_eq!(spoilt(&bed.store).await, expected);
    }
    let once = "DO $$ BEGIN ASSERT (SELECT count(*) FROM drift_signals) = 2, 'told twice'; END $$";
    psql(&bed, once);
}

/// Hours of sensor `t` that faults spoilt; those of `u` are sound.
async fn spoilt(store: &Store) -> Vec<i64> {
    let sensors = ["t".to_owned(), "u".to_owned()];
    let span = (0, 1_000 * 3_600_000);
    let spoilt = store
        .sensor_faults("a", &sensors, span, None)
        .await
        .unwrap();
    let hours = |s: &str| {
        (0..800)
            .filter(|i| spoilt.holds(s, i * 3_600_000))
            .collect::<Vec<_>>()
    };
    assert!(hours("u").is_empty());
    hours("t")
}
