//! `fieldcast-hub drift check` as it is run: exit codes, and what it says of files that cannot be compared.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// (exit code, standard output, standard error)
fn run(dir: &Path, args: &[&str]) -> (i32, String, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_fieldcast-hub"))
        .args(["drift", "check"])
        .args(args)
        .current_dir(dir)
        .env("FIELDCAST_DATA_DIR", dir)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        out.status.code().unwrap(),
        text(out.stdout),
        text(out.stderr),
    )
}

/// Hours of a slow sensor with a day, and a state that stays for a while; from row `from` on.
fn rows(from: u64, count: u64, shift: f64) -> String {
    let mut random = 1_u64;
    let mut next = || {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 11) as f64 * 2f64.powi(-53)
    };
    let mut text = String::from("time,row,temp,state,note\n");
    let mut x = 0.0;
    for i in 0..from + count {
        let noise = (0..12).map(|_| next()).sum::<f64>() - 6.0;
        x = 0.9 * x + noise;
        if i < from {
            continue;
        }
        let day = 4.0 * (i as f64 / 24.0 * std::f64::consts::TAU).sin();
        let state = if (i / 37) % 2 == 0 { "on" } else { "off" };
        let time = 1_767_225_600 + i * 3_600;
        let _ = writeln!(
            text,
            "{time},{i},{:.3},{state},n{i}",
            20.0 + x + day + shift
        );
    }
    text
}

#[test]
fn the_exit_code_tells_stable_from_drift_from_error() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("a.csv", &rows(0, 1_000, 0.0));
    write("same.csv", &rows(1_300, 100, 0.0));
    write("moved.csv", &rows(1_300, 100, 12.0));
    let files = |current| ["--reference", "a.csv", "--current", current];
    let (code, said, _) = run(dir.path(), &files("same.csv"));
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains("temp is as it was")
            && said.contains("row is not compared")
            && said.contains("note is not compared"),
        "{said}"
    );
    let page = [files("moved.csv").as_slice(), &["--html", "p.html"]].concat();
    let (code, said, _) = run(dir.path(), &page);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("temp has moved up by"), "{said}");
    // All of its rows are others.
    assert!(
        said.contains(", since 2026-02-24 04:00 UTC or before ("),
        "{said}"
    );
    let html = std::fs::read_to_string(dir.path().join("p.html")).unwrap();
    assert!(html.contains("<svg") && html.contains("hours of the day"));
    // The same windows by Evidently's rules, in its two layouts.
    for (layout, key) in [("0.4", "drift_by_columns"), ("0.7", "metric_name")] {
        let args = ["--json", "--preset", "evidently", "--layout", layout];
        let (code, said, _) = run(dir.path(), &[files("same.csv").as_slice(), &args].concat());
        assert!(code < 2 && said.contains(key), "{code} {said}");
        serde_json::from_str::<serde_json::Value>(&said).unwrap();
    }
}

#[test]
fn it_says_since_when_a_column_that_drifted_is_another() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.csv"), rows(0, 1_000, 0.0)).unwrap();
    let mut current = rows(1_300, 300, 0.0);
    let moved = rows(1_600, 200, 12.0);
    current.push_str(moved.split_once('\n').unwrap().1);
    std::fs::write(dir.path().join("b.csv"), current).unwrap();
    let files = ["--reference", "a.csv", "--current", "b.csv"];
    let (code, said, _) = run(dir.path(), &files);
    // Row 1,600 is of 8 March at 16:00.
    let dated = |day: &str| said.contains(&format!(", since 2026-03-{day} ("));
    assert!(code == 1 && (dated("08") || dated("09")), "{code} {said}");
    let (_, said, _) = run(dir.path(), &[files.as_slice(), &["--json"]].concat());
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    let since = report["since"]["temp"].as_str().unwrap();
    assert!(since.starts_with("2026-03-0"), "{said}");
}

/// Hours in which humidity and load go together, in the last `turned` rows against each other.
fn pair(count: u64, turned: u64) -> Vec<String> {
    let mut random = 7_u64;
    let mut noise = || {
        let mut next = || {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (random >> 11) as f64 * 2f64.powi(-53)
        };
        (0..12).map(|_| next()).sum::<f64>() - 6.0
    };
    let (mut humidity, mut load, mut wind) = (0.0, 0.0, 0.0);
    (0..count)
        .map(|i| {
            let common = noise();
            let sign = if i + turned < count { 1.0 } else { -1.0 };
            humidity = 0.8 * humidity + common + 0.4 * noise();
            load = 0.8 * load + sign * common + 0.4 * noise();
            wind = 0.8 * wind + noise();
            let day = 4.0 * (i as f64 / 24.0 * std::f64::consts::TAU).sin();
            let time = 1_767_225_600 + i * 3_600;
            format!(
                "{time},{:.3},{:.3},{wind:.3}\n",
                50.0 + humidity + day,
                9.0 + load - day
            )
        })
        .collect()
}

#[test]
fn a_change_that_no_column_shows_is_seen_in_the_columns_together() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, rows: &[String]| {
        let text = format!("time,humidity,load,wind\n{}", rows.concat());
        std::fs::write(dir.path().join(name), text).unwrap();
    };
    let (turned, quiet) = (pair(1_120, 120), pair(1_120, 0));
    write("a.csv", &turned[..1_000]);
    write("turned.csv", &turned[1_000..]);
    write("same.csv", &quiet[1_000..]);
    let check = |current: &str, more: &[&str]| {
        let files = ["--reference", "a.csv", "--current", current];
        run(dir.path(), &[files.as_slice(), more].concat())
    };
    let (code, said, _) = check("same.csv", &[]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("columns together are as they were"), "{said}");
    let (code, said, _) = check("turned.csv", &["--html", "p.html"]);
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("columns together: ")
            && (said.contains("chiefly by humidity and load; each by itself is as it was")
                || said.contains("chiefly by load and humidity; each by itself is as it was"))
            && said.contains("load is as it was"),
        "{said}"
    );
    let html = std::fs::read_to_string(dir.path().join("p.html")).unwrap();
    assert!(
        html.contains("<p class=\"drift\">columns together")
            && html.contains("drift: 0 of 3 columns drifted, and the columns together"),
        "{html}"
    );
    let (code, said, _) = check("turned.csv", &["--no-multivariate", "--json"]);
    assert!(code == 0 && !said.contains("together"), "{said}");
    let (_, said, _) = check("turned.csv", &["--json"]);
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(report["together"]["drift"], true);
    assert_eq!(report["drift"], true);
    assert!(report["together"]["auc"].as_f64().unwrap() > 0.7, "{said}");
    let one = ["--column", "wind", "--json"];
    let (_, said, _) = check("turned.csv", &one);
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    let why = report["together"]["skipped"].as_str().unwrap();
    assert!(why.contains("two are needed"), "{said}");
}

#[test]
fn what_cannot_be_compared_is_an_error_that_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("a.csv", &rows(0, 200, 0.0));
    write("other.csv", "time,humidity\n1767225600,3\n");
    write(
        "short.csv",
        "time,row,temp,state,note\n1767225600,1,3,on,x\n",
    );
    write("empty.csv", "time,row,temp,state,note\n");
    write(
        "nan.csv",
        "time,row,temp,state,note\n1767225600,nan,nan,,\n",
    );
    write("torn.csv", "time,temp\n1767225600\n");
    write("flat.csv", &"v\n1\n".replace("1\n", &"1\n".repeat(60)));
    for (current, says) in [
        ("other.csv", "no column `humidity`"),
        ("short.csv", "1 values in the current file, 10 are needed"),
        ("empty.csv", "no row below its header"),
        ("nan.csv", "has no value"),
        ("torn.csv", "line 2: 1 fields"),
        ("gone.csv", "open gone.csv"),
    ] {
        let (code, said, error) = run(dir.path(), &["--reference", "a.csv", "--current", current]);
        assert_eq!((code, said.as_str()), (2, ""), "{current}: {error}");
        assert!(error.contains(says), "{current}: {error}");
    }
    let flat = ["--reference", "flat.csv", "--current", "flat.csv"];
    let (code, _, error) = run(dir.path(), &flat);
    assert!(
        code == 2 && error.contains("has only the value 1"),
        "{error}"
    );
    assert_eq!(run(dir.path(), &["--reference", "a.csv"]).0, 2);
    let same = ["--reference", "a.csv", "--current", "a.csv", "--rate", "7"];
    assert_eq!(run(dir.path(), &same).0, 2);
}
