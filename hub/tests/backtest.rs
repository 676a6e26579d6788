//! `fieldcast-hub backtest` and `search` as they are run on files: what their text shows, and what they refuse to write or judge.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::process::Command;

use fieldcast_features::ForecasterSpec;
use fieldcast_hub::training::make;

const SPEC: &str = r#"{"name": "load", "target": "load", "inputs": ["load"], "period": "1h", "lookback": 48, "horizon": 3}"#;

/// (success, standard output, standard error)
fn hub(dir: &Path, args: &[&str]) -> (bool, String, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_fieldcast-hub"))
        .args(args)
        .current_dir(dir)
        .env("FIELDCAST_HUB_DIR", dir)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (out.status.success(), text(out.stdout), text(out.stderr))
}

/// Sixty days of a load with a day, its definition, and settings that train in a moment.
fn written() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut random = 1_u64;
    let line = |hour: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let noise = (random >> 40) as f64 / f64::from(1 << 24);
        let day = (hour as f64 / 24.0 * std::f64::consts::TAU).sin();
        format!(
            "{},{:.3}\n",
            1_767_225_600 + hour * 3_600,
            9.0 + 4.0 * day + noise
        )
    };
    let rows: String = (0..60 * 24).map(line).collect();
    let settings = r#"{"max_epochs": 1, "hidden": 8, "seeds": 1}"#;
    for (name, text) in [
        ("pump.csv", format!("time,load\n{rows}")),
        ("load.json", SPEC.to_owned()),
        ("quick.json", settings.to_owned()),
    ] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

const INPUT: [&str; 6] = [
    "--csv",
    "pump.csv",
    "--forecaster",
    "load.json",
    "--config",
    "quick.json",
];

#[test]
fn the_text_shows_what_chose_and_how_the_intervals_did_and_the_graph_names_its_definition() {
    let dir = written();
    let output = [
        "--onnx",
        "load.onnx",
        "--plot",
        "load.svg",
        "--report",
        "load.report",
    ];
    let (done, text, error) = hub(dir.path(), &[&["backtest"], &INPUT[..], &output].concat());
    assert!(done, "{error}");
    let (chosen, judged) = text.split_once("\njudged ").unwrap();
    for model in ["last_value", "seasonal_naive", "ridge", "forest", "lstm"] {
        assert!(chosen.contains(&format!("\n{model} ")), "{model}: {text}");
    }
    assert!(
        chosen.contains("no graph holds it") && judged.contains("\nforest "),
        "{text}"
    );
    assert!(
        judged.contains("score 80 %") && judged.contains("worst 30 days"),
        "{text}"
    );
    let report = std::fs::read_to_string(dir.path().join("load.report")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    // The second of two intervals is the one of 80 %.
    let eighty = &report["adaptive"]["intervals"][1];
    let worst = format!(
        "{:.1} %\n",
        100.0 * eighty["worst_coverage"].as_f64().unwrap()
    );
    let score = format!("{:.4} ", eighty["score"].as_f64().unwrap());
    let line = judged.lines().find(|l| l.contains("adaptive")).unwrap();
    assert!(
        format!("{line}\n").ends_with(&worst) && line.contains(&score),
        "{line}: {eighty}"
    );
    let refused = report["selection"].as_array().unwrap().iter();
    let refused = refused.filter(|line| line["refused"] == true).count();
    assert_eq!(
        chosen.matches("refused: more than 1 % worse").count(),
        refused
    );
    let plot = std::fs::read_to_string(dir.path().join("load.svg")).unwrap();
    assert_eq!(plot.matches("pump from ").count(), 4);

    let spec: ForecasterSpec = serde_json::from_str(SPEC).unwrap();
    let graph = std::fs::read(dir.path().join("load.onnx")).unwrap();
    for (key, value) in make::metadata(&spec, report["chosen"].as_str().unwrap()).unwrap() {
        for word in [key, value] {
            let there = graph.windows(word.len()).any(|w| w == word.as_bytes());
            assert!(there, "{word}");
        }
    }
    let other = ForecasterSpec {
        lookback: 24,
        ..spec.clone()
    };
    let digest = |spec| make::metadata(spec, "ridge").unwrap()[1].clone();
    assert_eq!(
        (digest(&spec).0.as_str(), digest(&spec).1.len()),
        ("spec_sha256", 64)
    );
    assert_ne!(digest(&spec), digest(&other));
}

#[test]
fn nothing_that_is_read_is_written_over() {
    let dir = written();
    let before = std::fs::read(dir.path().join("pump.csv")).unwrap();
    std::os::unix::fs::symlink("pump.csv", dir.path().join("link.csv")).unwrap();
    let mut all: Vec<Vec<&str>> = Vec::new();
    for option in ["--forecasts", "--report", "--plot", "--onnx"] {
        for file in [
            "pump.csv",
            "./pump.csv",
            "link.csv",
            "load.json",
            "quick.json",
        ] {
            all.push([&["backtest"], &INPUT[..], &[option, file]].concat());
        }
    }
    all.push([&["search"], &INPUT[..], &["--keep", "pump.csv"]].concat());
    let check = [
        "drift",
        "check",
        "--reference",
        "pump.csv",
        "--current",
        "pump.csv",
        "--html",
    ];
    all.push([&check[..], &["link.csv"]].concat());
    for args in all {
        let (done, _, error) = hub(dir.path(), &args);
        assert!(
            !done && error.contains("would be lost"),
            "{args:?}: {error}"
        );
    }
    assert_eq!(std::fs::read(dir.path().join("pump.csv")).unwrap(), before);
    assert_eq!(
        std::fs::read_to_string(dir.path().join("load.json")).unwrap(),
        SPEC
    );
}

#[test]
fn absurd_numbers_are_refused_and_not_computed_with() {
    let dir = written();
    for stride in ["0", "144115188075855872"] {
        let (done, _, error) = hub(
            dir.path(),
            &[&["backtest"], &INPUT[..], &["--stride", stride]].concat(),
        );
        assert!(!done && error.contains("--stride"), "{error}");
    }
    let (done, _, error) = hub(
        dir.path(),
        &[&["backtest"], &INPUT[..], &["--stride", "4294967295"]].concat(),
    );
    assert!(!done && error.contains("nothing to judge on"), "{error}");
    let check = [
        "drift",
        "check",
        "--reference",
        "pump.csv",
        "--current",
        "pump.csv",
        "--season",
    ];
    let (done, _, error) = hub(dir.path(), &[&check[..], &["4611686018427387904"]].concat());
    assert!(
        !done && error.contains("fewer than four seasons"),
        "{error}"
    );
}
