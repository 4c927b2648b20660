//! The part of `cargo metadata`'s answer that the checks use.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// Packages, members and the resolved graph.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Metadata {
    /// Every package of the lock file.
    pub packages: Vec<Package>,
    /// Ids of the project's own packages.
    pub workspace_members: Vec<String>,
    /// The graph cargo resolved.
    #[serde(default)]
    pub resolve: Resolve,
}

/// One package.
#[derive(Debug, Clone, Deserialize)]
pub struct Package {
    /// Opaque, unique.
    pub id: String,
    /// As in its manifest.
    pub name: String,
    /// As in its manifest.
    #[serde(default)]
    pub version: String,
    /// SPDX expression.
    #[serde(default)]
    pub license: Option<String>,
    /// Where its manifest is on this machine.
    #[serde(default)]
    pub manifest_path: String,
    /// As declared.
    #[serde(default)]
    pub dependencies: Vec<Dependency>,
}

/// A declared dependency.
#[derive(Debug, Clone, Deserialize)]
pub struct Dependency {
    /// The package's name.
    pub name: String,
    /// `None` for normal ones, else `dev` or `build`.
    #[serde(default)]
    pub kind: Option<String>,
}

impl Dependency {
    /// Whether only tests, examples and benches see it.
    #[must_use]
    pub fn is_dev(&self) -> bool {
        self.kind.as_deref() == Some("dev")
    }
}

/// The resolved graph.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Resolve {
    /// One node per package.
    pub nodes: Vec<Node>,
}

/// A package's resolved edges.
#[derive(Debug, Clone, Deserialize)]
pub struct Node {
    /// The package.
    pub id: String,
    /// What it depends on.
    #[serde(default)]
    pub deps: Vec<Edge>,
}

/// One resolved edge.
#[derive(Debug, Clone, Deserialize)]
pub struct Edge {
    /// The package depended on.
    pub pkg: String,
    /// In which roles.
    #[serde(default)]
    pub dep_kinds: Vec<EdgeKind>,
}

/// One role of an edge.
#[derive(Debug, Clone, Deserialize)]
pub struct EdgeKind {
    /// `None` for normal ones, else `dev` or `build`.
    #[serde(default)]
    pub kind: Option<String>,
}

impl Metadata {
    /// The project's own packages, by name.
    #[must_use]
    pub fn members(&self) -> BTreeMap<&str, &Package> {
        self.packages
            .iter()
            .filter(|package| self.workspace_members.contains(&package.id))
            .map(|package| (package.name.as_str(), package))
            .collect()
    }

    /// Names of all packages linked into `id` through normal dependencies, itself left out.
    #[must_use]
    pub fn linked(&self, id: &str) -> BTreeSet<&str> {
        let nodes: BTreeMap<&str, &Node> = self
            .resolve
            .nodes
            .iter()
            .map(|node| (node.id.as_str(), node))
            .collect();
        let names: BTreeMap<&str, &str> = self
            .packages
            .iter()
            .map(|p| (p.id.as_str(), p.name.as_str()))
            .collect();
        let mut seen = BTreeSet::new();
        let mut open = vec![id];
        while let Some(id) = open.pop() {
            let Some(node) = nodes.get(id) else { continue };
            for edge in &node.deps {
                let normal = edge.dep_kinds.iter().any(|kind| kind.kind.is_none());
                if normal && seen.insert(edge.pkg.as_str()) {
                    open.push(&edge.pkg);
                }
            }
        }
        seen.into_iter()
            .filter_map(|id| names.get(id).copied())
            .collect()
    }
}
