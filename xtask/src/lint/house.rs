//! The house's arrows: owns which crate of the workspace may use which, never how the graph is read.

use anyhow::{Result, bail, ensure};

use super::graph::Graph;

/// Crate -> the crates of the workspace that it may link. Arrows run down only.
const MAY_USE: &[(&str, &[&str])] = &[
    ("fieldcast-wire", &[]),
    ("fieldcast-device", &["wire", "features"]),
    ("fieldcast-features", &[]),
    ("fieldcast-drift", &[]),
    ("fieldcast-kernel", &[]),
    ("fieldcast-sim", &["features"]),
    ("fieldcast-baseline", &["features"]),
    ("fieldcast-onnx", &["features"]),
    ("fieldcast-bundle", &["features", "drift", "wire"]),
    (
        "fieldcast-runtime",
        &["features", "bundle", "onnx", "baseline", "kernel"],
    ),
    (
        "fieldcast-train",
        &["features", "kernel", "baseline", "onnx", "drift", "bundle"],
    ),
    ("fieldcast-ledger", &["wire"]),
    ("fieldcast-store", &["wire", "features", "ledger"]),
    ("fieldcast-postgres", &[]),
    (
        "fieldcast-agent",
        &[
            "wire", "device", "features", "drift", "baseline", "bundle", "runtime",
        ],
    ),
    (
        "fieldcast-hub",
        &[
            "wire", "device", "features", "drift", "baseline", "onnx", "bundle", "runtime",
            "train", "sim", "store", "postgres", "ledger",
        ],
    ),
    (
        "fieldcast-tests",
        &[
            "wire", "features", "sim", "baseline", "bundle", "onnx", "runtime",
        ],
    ),
    ("xtask", &[]),
];

/// Crates that stay pure: they know no runtime, no database, no network.
const LEAVES: &[&str] = &[
    "fieldcast-wire",
    "fieldcast-device",
    "fieldcast-ledger",
    "fieldcast-features",
    "fieldcast-drift",
    "fieldcast-kernel",
    "fieldcast-sim",
    "fieldcast-baseline",
    "fieldcast-onnx",
    "fieldcast-bundle",
    "fieldcast-runtime",
    "fieldcast-train",
];

/// What a leaf must not link, however far down. A name with `*` stands for all that begin so.
const NOT_IN_LEAVES: &[&str] = &[
    "tokio",
    "sqlx*",
    "rusqlite",
    "rumqttc",
    "mqtt5",
    "axum",
    "hyper",
    "tiny_http",
    "ureq",
    "reqwest",
    "rustls",
];

/// What the agent must not link, however far down.
const NOT_IN_AGENT: &[&str] = &[
    "sqlx*",
    "axum",
    "hyper",
    "mqtt5",
    "smartcore",
    "indicatif",
    "utoipa*",
    "openssl",
    "openssl-sys",
    "native-tls",
    "aws-lc*",
    "fieldcast-train",
    "fieldcast-store",
    "fieldcast-hub",
    "fieldcast-sim",
];

/// Checks the workspace as it is.
pub(super) fn check() -> Result<()> {
    let broken = violations(&Graph::of_workspace()?);
    if broken.is_empty() {
        return Ok(());
    }
    bail!("{}", broken.join("\n"))
}

/// Proves on made-up graphs that every rule can fail: a checker that reads nothing would pass everything.
pub(super) fn positive_control() -> Result<()> {
    let with = |from: &str, to: &str| {
        let mut graph = Graph::default();
        graph
            .members
            .extend(MAY_USE.iter().map(|(name, _)| (*name).to_owned()));
        for map in [&mut graph.normal, &mut graph.named] {
            map.entry(from.to_owned())
                .or_default()
                .insert("between".into());
            map.entry("between".to_owned())
                .or_default()
                .insert(to.to_owned());
            map.entry(from.to_owned())
                .or_default()
                .insert(to.to_owned());
        }
        violations(&graph)
    };
    for (from, to) in [
        ("fieldcast-agent", "fieldcast-train"),
        ("fieldcast-agent", "sqlx-core"),
        ("fieldcast-features", "tokio"),
        ("fieldcast-features", "fieldcast-hub"),
        ("fieldcast-hub", "sqlx"),
        ("xtask", "fieldcast-wire"),
    ] {
        ensure!(
            !with(from, to).is_empty(),
            "the checker accepts {from} -> {to}: mend xtask/src/lint/house.rs"
        );
    }
    ensure!(
        with("fieldcast-agent", "fieldcast-wire").is_empty()
            && with("fieldcast-store", "sqlx").is_empty(),
        "the checker refuses what is allowed: mend xtask/src/lint/house.rs"
    );
    Ok(())
}

/// Every broken rule, with its fix.
pub(super) fn violations(graph: &Graph) -> Vec<String> {
    let mut broken = Vec::new();
    for member in &graph.members {
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| name == member) else {
            broken.push(format!(
                "{member} has no line in MAY_USE of xtask/src/lint/house.rs: add what it may use"
            ));
            continue;
        };
        for used in graph
            .normal
            .get(member)
            .into_iter()
            .flatten()
            .filter(|used| graph.members.contains(*used))
        {
            let short = used.trim_start_matches("fieldcast-");
            if !allowed.contains(&short) {
                broken.push(format!(
                    "{member} must not use {used}: arrows run down only; move what it needs to a crate below both, \
                     or change xtask/src/lint/house.rs with a decision in docs/decisions"
                ));
            }
        }
        let names_sqlx = graph
            .named
            .get(member)
            .into_iter()
            .flatten()
            .any(|n| matches(n, "sqlx*"));
        if names_sqlx && member != "fieldcast-store" {
            broken.push(format!(
                "{member} names sqlx: SQL belongs into fieldcast-store; add a function there"
            ));
        }
    }
    for (crates, forbidden, fix) in [
        (
            LEAVES,
            NOT_IN_LEAVES,
            "leaves are pure; do this I/O in agent or hub and hand the data down",
        ),
        (
            &["fieldcast-agent"][..],
            NOT_IN_AGENT,
            "the device does not carry the hub's parts; drop the dependency or its feature",
        ),
    ] {
        for from in crates {
            for (name, way) in graph.reachable(from) {
                if forbidden.iter().any(|pattern| matches(&name, pattern)) {
                    broken.push(format!("{from} links {name} ({}): {fix}", way.join(" -> ")));
                }
            }
        }
    }
    broken
}

/// `pattern` is a name, or the beginning of one followed by `*`.
pub(super) fn matches(name: &str, pattern: &str) -> bool {
    pattern
        .strip_suffix('*')
        .map_or(name == pattern, |start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "tests"
    )]
    use super::*;

    const METADATA: &str = r#"{
        "packages": [
            {"id": "a", "name": "fieldcast-agent"}, {"id": "r", "name": "fieldcast-runtime"},
            {"id": "t", "name": "fieldcast-train"}, {"id": "x", "name": "proptest"}
        ],
        "workspace_members": ["a", "r", "t"],
        "resolve": {"nodes": [
            {"id": "a", "deps": [{"pkg": "r", "dep_kinds": [{"kind": null}]}, {"pkg": "x", "dep_kinds": [{"kind": "dev"}]}]},
            {"id": "r", "deps": [{"pkg": "t", "dep_kinds": [{"kind": KIND}]}]},
            {"id": "t", "deps": []}, {"id": "x", "deps": []}
        ]}
    }"#;

    #[test]
    fn a_forbidden_edge_in_metadata_is_found_with_its_way() {
        let broken = violations(&Graph::parse(&METADATA.replace("KIND", "null")).unwrap());
        assert!(
            broken
                .iter()
                .any(|b| b.contains("fieldcast-runtime must not use fieldcast-train")),
            "{broken:?}"
        );
        assert!(
            broken
                .iter()
                .any(|b| b.contains("fieldcast-agent -> fieldcast-runtime -> fieldcast-train")),
            "{broken:?}"
        );
    }

    #[test]
    fn the_same_edge_for_tests_only_is_allowed() {
        let broken = violations(&Graph::parse(&METADATA.replace("KIND", "\"dev\"")).unwrap());
        assert_eq!(broken, Vec::<String>::new());
    }

    #[test]
    fn the_control_finds_its_forbidden_edges() {
        positive_control().unwrap();
    }

    #[test]
    fn an_unknown_member_must_be_given_its_place() {
        let mut graph = Graph::default();
        graph.members.insert("fieldcast-new".into());
        assert!(violations(&graph)[0].contains("MAY_USE"));
    }
}
