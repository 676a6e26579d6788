//! Rows of CSV files, good and malformed; owns no product code.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::io::Write;

use super::*;

fn source(path: &Path, text: &str) -> ReplaySource {
    std::fs::write(path, text).unwrap();
    ReplaySource {
        path: path.to_owned(),
        time_columns: vec!["time".into()],
        columns: std::collections::BTreeMap::new(),
        speed: 0.0,
        follow: false,
        from: None,
        until: None,
        delimiter: b',',
    }
}

fn all(rows: &mut Rows) -> (Vec<Row>, Vec<String>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    loop {
        match rows.next_row() {
            Next::Row(row) => good.push(row),
            Next::Malformed(e) => bad.push(e.to_string()),
            Next::End => return (good, bad),
        }
    }
}

#[test]
fn a_malformed_row_names_file_line_column_and_expectation_and_the_rest_counts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.csv");
    let text = "time,a,b\n2020-01-01 00:00,1,2\n2020-01-01 01:00,x,2\nnever,1,2\n2020-01-01 02:00,1\n2020-01-01 03:00,inf,1\n2020-01-01 04:00,,NaN\n\"2020-01-01\n05:00\",1,1\n2020-01-01 06:00,3,zz\n2020-01-01 07:00,5,6\n";
    let source = source(&path, text);
    let mut rows = Rows::open(&source, None).unwrap();
    let (good, bad) = all(&mut rows);
    assert_eq!(good.len(), 4);
    assert_eq!(good[1].values, [], "an empty cell is no reading");
    assert_eq!(bad.len(), 5, "{bad:?}");
    assert!(
        bad[0].contains("x.csv, line 3, column a: `x` is not a finite number; expected"),
        "{}",
        bad[0]
    );
    assert!(
        bad[1].contains("line 4, column time") && bad[1].contains("RFC 3339"),
        "{}",
        bad[1]
    );
    assert!(
        bad[2].contains("line 5, column all: 2 cells; expected 3"),
        "{}",
        bad[2]
    );
    assert_eq!(rows.cursor.malformed, 5);
}

#[test]
fn reading_goes_on_at_the_cursor_and_behind_appended_rows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.csv");
    let mut source = source(&path, "time,a\n0,1\n1,2\n2,");
    source.follow = true;
    let mut rows = Rows::open(&source, None).unwrap();
    assert!(matches!(rows.next_row(), Next::Row(_)));
    let after_first = rows.cursor.clone();
    assert_eq!(all(&mut rows).0.len(), 1);
    assert!(!rows.grow().unwrap());
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .unwrap();
    file.write_all(b"3\n3,4\n").unwrap();
    assert!(rows.grow().unwrap());
    let (more, bad) = all(&mut rows);
    assert_eq!(
        more.iter().map(|r| r.time).collect::<Vec<_>>(),
        [2_000, 3_000]
    );
    assert!(bad.is_empty());
    assert_eq!(rows.cursor.line, 6);
    let mut again = Rows::open(&source, Some(after_first)).unwrap();
    assert!(again.resumed());
    assert_eq!(all(&mut again).0.len(), 3);
    let mut other = Rows::open(
        &source,
        Some(Cursor {
            header: "x".into(),
            byte: 9,
            ..Cursor::default()
        }),
    )
    .unwrap();
    assert_eq!(
        all(&mut other).0.len(),
        4,
        "another file is read from its start"
    );
}

#[test]
fn an_unusable_header_ends_the_source_with_what_the_file_has() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.csv");
    let e = Rows::open(&source(&path, "when,a\n"), None)
        .unwrap_err()
        .to_string();
    assert!(
        e.contains("line 1: there is no column `time`; the file has when, a"),
        "{e}"
    );
    let e = Rows::open(&source(&path, ""), None)
        .unwrap_err()
        .to_string();
    assert!(e.contains("the file is empty"), "{e}");
    let mut gone = source(&path, "");
    gone.path = dir.path().join("none.csv");
    assert!(matches!(
        Rows::open(&gone, None),
        Err(FileError::Open { .. })
    ));
}

#[test]
fn the_bike_sharing_file_is_read_whole() {
    let Some(data) = std::env::var_os("FIELDCAST_DATA") else {
        println!("skipped: FIELDCAST_DATA is not set");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let mut source = source(&dir.path().join("unused"), "");
    source.path = PathBuf::from(data).join("bike_sharing_hour.csv");
    source.time_columns = vec!["dteday".into(), "hr".into()];
    for (sensor, column) in [("demand", "cnt"), ("temperature", "temp")] {
        source.columns.insert(sensor.into(), column.into());
    }
    let (good, bad) = all(&mut Rows::open(&source, None).unwrap());
    assert!(bad.is_empty());
    assert_eq!(good.len(), 17_379);
    assert_eq!(good[1].values, [(0, 40.0), (1, 0.22)]);
}

#[test]
fn a_stray_quote_costs_one_row_and_the_rest_counts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.csv");
    let source = source(&path, "time,a\n0,1\n1,\"2\n2,3\n3,4\n");
    let mut rows = Rows::open(&source, None).unwrap();
    let (good, bad) = all(&mut rows);
    assert_eq!(
        good.iter().map(|r| r.time).collect::<Vec<_>>(),
        [0, 2_000, 3_000]
    );
    assert_eq!(bad.len(), 1);
    assert!(
        bad[0].contains("line 3") && bad[0].contains("quote"),
        "{bad:?}"
    );
}

#[test]
fn another_file_with_the_same_header_is_read_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.csv");
    let first = source(&path, "time,a\n0,1\n1,2\n2,3\n");
    let mut rows = Rows::open(&first, None).unwrap();
    assert_eq!(all(&mut rows).0.len(), 3);
    let cursor = rows.cursor.clone();
    for (text, left) in [
        ("time,a\n0,1\n1,2\n2,3\n", 0),
        ("time,a\n0,1\n1,2\n2,3\n3,4\n", 1),
        ("time,a\n9,1\n", 1),
        ("time,a\n5,1\n6,2\n7,3\n8,4\n", 4),
    ] {
        let other = source(&path, text);
        let mut rows = Rows::open(&other, Some(cursor.clone())).unwrap();
        assert_eq!(all(&mut rows).0.len(), left, "{text}");
    }
}

#[test]
fn a_renamed_file_is_told_from_one_that_only_grows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.csv");
    let mut source = source(&path, "time,a\n0,1\n");
    source.follow = true;
    let mut rows = Rows::open(&source, None).unwrap();
    assert_eq!(all(&mut rows).0.len(), 1);
    assert!(!rows.was_rotated().unwrap());
    std::fs::rename(&path, dir.path().join("x.csv.1")).unwrap();
    assert!(
        !rows.was_rotated().unwrap(),
        "the next file is not there yet"
    );
    std::fs::write(&path, "time,a\n1,2\n").unwrap();
    assert!(rows.was_rotated().unwrap());
}

#[test]
fn a_column_that_cannot_be_a_sensor_costs_none_of_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.csv");
    let long = "x".repeat(fieldcast_wire::caps::MAX_NAME + 1);
    let text = format!("time,a,{long},b/c,d\n0,1,2,3,4\n");
    let mut rows = Rows::open(&source(&path, &text), None).unwrap();
    assert_eq!(rows.sensors, ["a", "d"]);
    assert_eq!(all(&mut rows).0[0].values, [(0, 1.0), (1, 4.0)]);
    assert_eq!(rows.skipped.len(), 2);
    assert!(
        rows.skipped[0].contains("column 3") && rows.skipped[0].contains("1 to 64 bytes"),
        "{:?}",
        rows.skipped
    );
    let mut mapped = source(&path, &text);
    mapped.columns = [("long".to_owned(), long)].into();
    let mut rows = Rows::open(&mapped, None).unwrap();
    assert!(rows.skipped.is_empty());
    assert_eq!(all(&mut rows).0[0].values, [(0, 2.0)]);
    let e = Rows::open(&source(&path, "time,b/c\n0,1\n"), None).unwrap_err();
    assert!(e.to_string().contains("1 to 64 bytes"), "{e}");
}
