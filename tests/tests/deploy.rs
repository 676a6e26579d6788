//! What deploy/ tells others to watch exists: owns comparing alert rules with the code that serves metrics.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "tests"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(file: &str) -> String {
    std::fs::read_to_string(repository().join(file)).unwrap()
}

fn names(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("fieldcast_") || word.starts_with("http_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_metric_of_the_alerts_is_served() {
    let alerts = names(&read("deploy/prometheus/rules.yml"));
    assert!(alerts.len() >= 5, "the rules name too little: {alerts:?}");
    let mut served = names(&read("agent/src/status/metrics.rs"));
    served.extend(names(&read("hub/src/rest/metrics.rs")));
    served.extend(names(&read("hub/store/src/gauges.rs")));
    let unknown: Vec<_> = alerts.difference(&served).collect();
    assert!(unknown.is_empty(), "nobody serves {unknown:?}");
}
