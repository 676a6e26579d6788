//! The dependency graph: owns reading `cargo metadata` into names and arrows, never what they may be.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::command::{cargo, output};

/// Arrows between packages by name. Several versions of one crate are one name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Graph {
    /// Packages of the workspace.
    pub(super) members: BTreeSet<String>,
    /// Package -> what it links (normal dependencies; neither build nor dev).
    pub(super) normal: BTreeMap<String, BTreeSet<String>>,
    /// Package -> what it names at all, tests and build scripts included.
    pub(super) named: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: BTreeSet<String>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dep>,
}

#[derive(Deserialize)]
struct Dep {
    pkg: String,
    dep_kinds: Vec<DepKind>,
}

#[derive(Deserialize)]
struct DepKind {
    kind: Option<String>,
}

impl Graph {
    /// The workspace's graph as resolved for the smallest device.
    pub(super) fn of_workspace() -> Result<Self> {
        // One fixed platform, so that the answer does not depend on who asks.
        Self::parse(&output(cargo()?.args([
            "metadata",
            "--format-version=1",
            "--filter-platform=aarch64-unknown-linux-gnu",
        ]))?)
    }

    /// Reads the text that `cargo metadata` prints.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let metadata: Metadata = serde_json::from_str(text).context("read cargo metadata")?;
        let names: BTreeMap<&str, &str> = metadata
            .packages
            .iter()
            .map(|p| (p.id.as_str(), p.name.as_str()))
            .collect();
        let name = |id: &str| {
            names
                .get(id)
                .map(|n| (*n).to_owned())
                .with_context(|| format!("cargo metadata knows no package {id}"))
        };
        let mut graph = Self::default();
        for id in &metadata.workspace_members {
            graph.members.insert(name(id)?);
        }
        for node in &metadata.resolve.nodes {
            let from = name(&node.id)?;
            for dep in &node.deps {
                let to = name(&dep.pkg)?;
                if dep.dep_kinds.iter().any(|k| k.kind.is_none()) {
                    graph
                        .normal
                        .entry(from.clone())
                        .or_default()
                        .insert(to.clone());
                }
                graph.named.entry(from.clone()).or_default().insert(to);
            }
        }
        Ok(graph)
    }

    /// What a package links, however far down; a shortest way to each, for the message.
    pub(super) fn reachable(&self, from: &str) -> BTreeMap<String, Vec<String>> {
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut queue = std::collections::VecDeque::from([vec![from.to_owned()]]);
        while let Some(way) = queue.pop_front() {
            for next in way
                .last()
                .and_then(|last| self.normal.get(last))
                .into_iter()
                .flatten()
            {
                if next != from && !found.contains_key(next) {
                    let longer = [way.as_slice(), std::slice::from_ref(next)].concat();
                    found.insert(next.clone(), longer.clone());
                    queue.push_back(longer);
                }
            }
        }
        found
    }
}
