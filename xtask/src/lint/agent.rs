//! What the agent links: owns the comparison with the list in `cross/agent-allowed.txt`, never the list itself.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use crate::command::{cargo, output, root};

const HEAD: &str = "# Every crate that the agent links on a device, one a line.\n\
                    # Written by `cargo xtask lint --bless-agent`; a line more must be worth its bytes there.\n";

/// Fails where the agent links what the list does not name, or the list names what it no longer links.
pub(super) fn check() -> Result<()> {
    let path = list_path()?;
    let text = std::fs::read_to_string(&path).with_context(|| {
        format!(
            "read {}; `cargo xtask lint --bless-agent` writes it",
            path.display()
        )
    })?;
    ensure!(
        difference(&names(&text), &BTreeSet::from(["no-such-crate".into()])).is_some(),
        "the comparison accepts a made-up crate: mend xtask/src/lint/agent.rs"
    );
    match difference(&names(&text), &linked()?) {
        None => Ok(()),
        Some(what) => bail!("{what}"),
    }
}

/// Writes the list anew.
pub(super) fn bless() -> Result<()> {
    let linked = linked()?;
    let path = list_path()?;
    let lines: Vec<&str> = linked.iter().map(String::as_str).collect();
    std::fs::write(&path, format!("{HEAD}{}\n", lines.join("\n")))
        .with_context(|| format!("write {}", path.display()))?;
    eprintln!("{} crates are in cross/agent-allowed.txt", linked.len());
    Ok(())
}

fn list_path() -> Result<PathBuf> {
    Ok(root()?.join("cross/agent-allowed.txt"))
}

/// Asks `cargo tree`, which resolves features for this one package; `cargo metadata` would add what only the hub switches on.
fn linked() -> Result<BTreeSet<String>> {
    let text = output(cargo()?.args([
        "tree",
        "--package=fieldcast-agent",
        "--edges=normal,no-proc-macro",
        "--target=aarch64-unknown-linux-gnu",
        "--prefix=none",
        "--format={p}",
    ]))?;
    let found: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    ensure!(
        found.contains("fieldcast-agent"),
        "`cargo tree` did not name the agent: it printed {text}"
    );
    Ok(found)
}

fn names(text: &str) -> BTreeSet<String> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

fn difference(allowed: &BTreeSet<String>, linked: &BTreeSet<String>) -> Option<String> {
    let list = |names: Vec<&String>| {
        names
            .into_iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let more = list(linked.difference(allowed).collect());
    let gone = list(allowed.difference(linked).collect());
    match (more.is_empty(), gone.is_empty()) {
        (true, true) => None,
        (false, _) => Some(format!(
            "the agent links crates that cross/agent-allowed.txt does not name: {more}\n\
             to fix: drop the dependency or its feature; or, where it is worth its bytes on a device, \
             run `cargo xtask lint --bless-agent` and add a line to docs/dependencies.md"
        )),
        (true, false) => Some(format!(
            "cross/agent-allowed.txt names crates that the agent no longer links: {gone}\n\
             to fix: run `cargo xtask lint --bless-agent`"
        )),
    }
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

    #[test]
    fn more_and_fewer_crates_are_both_told_with_their_fix() {
        let allowed = names("# head\nring\nserde\n");
        assert_eq!(difference(&allowed, &names("serde\nring")), None);
        assert!(
            difference(&allowed, &names("ring\nserde\nsqlx"))
                .unwrap()
                .contains("does not name: sqlx")
        );
        assert!(
            difference(&allowed, &names("ring"))
                .unwrap()
                .contains("no longer links: serde")
        );
    }
}
