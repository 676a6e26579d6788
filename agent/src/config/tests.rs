//! What configurations are taken and how wrong ones are named; owns no product code.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use super::*;

fn fails(text: &str) -> String {
    Config::parse(Path::new("/etc/fieldcast/agent.toml"), text)
        .expect_err(text)
        .to_string()
}

#[test]
fn the_smallest_configuration_has_defaults_and_paths_count_from_the_file() {
    let text = "data_dir = \"state\"\n[[source]]\ntype = \"replay\"\npath = \"x.csv\"\ntime_columns = [\"dteday\", \"hr\"]\n[[source]]\ntype = \"http\"\n";
    let config = Config::parse(Path::new("/etc/fieldcast/agent.toml"), text).unwrap();
    assert_eq!(config.data_dir, Path::new("/etc/fieldcast/state"));
    let SourceConfig::Replay(replay) = &config.sources[0] else {
        panic!("replay first")
    };
    assert_eq!(replay.path, Path::new("/etc/fieldcast/x.csv"));
    assert_eq!(replay.time_columns, ["dteday", "hr"]);
    assert_eq!(config.status.listen, "127.0.0.1:8788");
    assert!(config.identity.is_none());
}

#[test]
fn an_unknown_key_is_named_with_file_line_and_allowed_keys() {
    let e = fails("data_dir = \"d\"\n[buffer]\nmax_byte = 1\n");
    assert!(e.contains("/etc/fieldcast/agent.toml, line 3"), "{e}");
    assert!(
        e.contains("unknown key `max_byte`") && e.contains("`max_bytes`"),
        "{e}"
    );
    assert!(e.contains("allowed here are"), "{e}");
    let e = fails("data_dir = \"d\"\nlevel = 1\n");
    assert!(
        e.contains("line 2: unknown key `level`") && e.contains("`data_dir`"),
        "{e}"
    );
    let e = fails("data_dir = \"d\"\n\n[[source]]\ntype = \"http\"\nport = 1\n");
    assert!(
        e.contains("line 5: unknown key `port`") && e.contains("`listen`"),
        "{e}"
    );
}

#[test]
fn a_missing_or_wrong_value_is_named_with_its_line() {
    assert!(fails("[buffer]\n").contains("missing key `data_dir`"));
    let e = fails("data_dir = \"d\"\n\n[[source]]\ntype = \"replay\"\n");
    assert!(
        e.contains("line 3: `path` in [[source]] number 1: is missing"),
        "{e}"
    );
    let e = fails(
        "data_dir = \"d\"\n[[source]]\ntype = \"http\"\n[[source]]\ntype = \"replay\"\npath = \"x\"\nspeed = -1.0\n",
    );
    assert!(
        e.contains("line 7: `speed`") && e.contains("number 2"),
        "{e}"
    );
    let e = fails("data_dir = \"d\"\n[[source]]\ntype = \"http\"\nspeed = 1.0\n");
    assert!(e.contains("type `http` takes listen, max_body"), "{e}");
    let e = fails("data_dir = \"d\"\n[[source]]\ntype = \"mqtt\"\n");
    assert!(e.contains("line 3") && e.contains("replay"), "{e}");
    assert!(fails("data_dir = [").contains("line 1"));
}

#[test]
fn forecaster_files_are_read_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    let good = "name = \"demand\"\ntarget = \"demand\"\ninputs = [\"demand\"]\nperiod = \"1h\"\nlookback = 48\nhorizon = 24\n";
    std::fs::write(dir.path().join("demand.toml"), good).unwrap();
    std::fs::write(dir.path().join("bad.toml"), good.replace("1h", "1x")).unwrap();
    let file = dir.path().join("agent.toml");
    std::fs::write(&file, "data_dir = \"d\"\nforecasters = [\"demand.toml\"]\n").unwrap();
    assert_eq!(Config::load(&file).unwrap().forecasters[0].horizon, 24);
    std::fs::write(&file, "data_dir = \"d\"\nforecasters = [\"bad.toml\"]\n").unwrap();
    let e = Config::load(&file).unwrap_err().to_string();
    assert!(e.contains("bad.toml, line 4: `period`"), "{e}");
    let e = Config::load(&dir.path().join("no.toml"))
        .unwrap_err()
        .to_string();
    assert!(e.contains("no.toml") && e.contains("--config"), "{e}");
}

#[test]
fn what_is_normal_for_a_sensor_has_defaults_and_rules() {
    let text = "data_dir = \"d\"\n[sensors.a]\nmissing_after = \"10m\"\nstuck_after = 600\nspike_factor = 0.0\n[sensors.b]\nmissing_after = \"0\"\n";
    let config = Config::parse(Path::new("/x/agent.toml"), text).unwrap();
    let limits = config.sensors["a"].limits();
    assert_eq!(
        (
            limits.missing_after_ms,
            limits.stuck_after,
            limits.stuck_for_ms
        ),
        (600_000, 600, 0)
    );
    assert_eq!(config.sensors["b"].limits().missing_after_ms, 0);
    let usual = SensorConfig::default().limits();
    assert_eq!(
        (
            usual.missing_after_ms,
            usual.stuck_after,
            usual.stuck_for_ms
        ),
        (86_400_000, 48, 14_400_000)
    );
    assert!(usual.noise && usual.unit && usual.max_rate.is_none());
    for (line, key) in [
        ("missing_after = \"soon\"", "missing_after"),
        ("spike_factor = -1.0", "spike_factor"),
        ("max_rate = 0.0", "max_rate"),
        ("min = 2.0\nmax = 1.0", "min"),
        ("max = inf", "max"),
    ] {
        let e = fails(&format!("data_dir = \"d\"\n[sensors.a]\n{line}\n"));
        assert!(
            e.contains(&format!("line 3: `{key}`")) && e.contains("sensor `a`"),
            "{e}"
        );
    }
}

#[test]
fn a_sensor_table_has_a_name_that_a_sensor_can_have() {
    for name in ["x".repeat(65), "a/b".to_owned()] {
        let e = fails(&format!(
            "data_dir = \"d\"\n[sensors.\"{name}\"]\nmin = 0.0\n"
        ));
        assert!(
            e.contains("line 2: `sensors`") && e.contains("1 to 64 bytes"),
            "{e}"
        );
    }
}

#[test]
fn ports_that_others_could_reach_are_refused() {
    let e = fails("data_dir = \"d\"\n[[source]]\ntype = \"http\"\nlisten = \"0.0.0.0:1\"\n");
    assert!(
        e.contains("line 4: `listen`") && e.contains("127.0.0.1"),
        "{e}"
    );
    let e =
        fails("data_dir = \"d\"\n[[source]]\ntype = \"http\"\n[status]\nlisten = \"10.0.0.1:1\"\n");
    assert!(e.contains("line 5: `listen`") && e.contains("TLS"), "{e}");
}

#[test]
fn two_sources_never_share_a_place_in_a_file() {
    let one = "[[source]]\ntype = \"replay\"\npath = \"x.csv\"\n";
    let e = fails(&format!("data_dir = \"d\"\n{one}{one}"));
    assert!(
        e.contains("line 7: `path`") && e.contains("same file"),
        "{e}"
    );
    let text = format!("data_dir = \"d\"\n{one}{one}[source.columns]\na = \"b\"\n");
    let config = Config::parse(Path::new("/x/agent.toml"), &text).unwrap();
    let key = |i: usize| match &config.sources[i] {
        SourceConfig::Replay(r) => crate::source::replay::cursor_key(r),
        SourceConfig::Http(_) => String::new(),
    };
    assert_ne!(key(0), key(1));
}
