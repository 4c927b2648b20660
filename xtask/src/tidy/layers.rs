//! The crate table of ARCHITECTURE.md against the edges cargo sees.
//!
//! The table is the rule: a new crate or a new edge is a visible change of a document.

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, Tree};

/// Where the table stands.
const DOCUMENT: &str = "ARCHITECTURE.md";
/// The lines around it.
const BEGIN: &str = "<!-- crate table: read by cargo xtask tidy -->";
const END: &str = "<!-- end of crate table -->";

/// What a row of the table allows.
enum Allowed {
    /// The composition root may depend on every product crate, tooling on anything.
    All,
    Only(BTreeSet<String>),
}

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let Some(table) = tree.text(DOCUMENT).and_then(parse) else {
        return vec![Finding::new(
            DOCUMENT,
            format!("no crate table after the line {BEGIN:?}"),
        )];
    };
    let members = tree.metadata.members();
    let mut findings = Vec::new();
    for name in table
        .keys()
        .filter(|name| !members.contains_key(name.as_str()))
    {
        findings.push(Finding::new(
            DOCUMENT,
            format!("the table names {name}, which is no crate"),
        ));
    }
    for (name, package) in &members {
        let Some(allowed) = table.get(*name) else {
            findings.push(Finding::new(
                DOCUMENT,
                format!("crate {name} is not in the table"),
            ));
            continue;
        };
        let Allowed::Only(allowed) = allowed else {
            continue;
        };
        for dependency in package.dependencies.iter().filter(|d| !d.is_dev()) {
            let own = members.contains_key(dependency.name.as_str());
            if own && !allowed.contains(&dependency.name) {
                findings.push(Finding::new(
                    format!("crates/{name}/Cargo.toml"),
                    format!(
                        "{name} may not depend on {} (crate table of {DOCUMENT})",
                        dependency.name
                    ),
                ));
            }
        }
    }
    findings
}

/// Rows `| crate | responsibility | may depend on |` to what each crate may use.
fn parse(document: &str) -> Option<BTreeMap<String, Allowed>> {
    let (_, rest) = document.split_once(BEGIN)?;
    let (table, _) = rest.split_once(END)?;
    let mut rows = BTreeMap::new();
    for line in table.lines() {
        let cells: Vec<&str> = line
            .trim()
            .trim_matches('|')
            .split('|')
            .map(str::trim)
            .collect();
        let [name, _, allowed] = cells.as_slice() else {
            continue;
        };
        let Some(name) = name.strip_prefix('`').and_then(|n| n.strip_suffix('`')) else {
            continue;
        };
        let allowed = match *allowed {
            "all" => Allowed::All,
            "–" => Allowed::Only(BTreeSet::new()),
            list => Allowed::Only(list.split(',').map(|n| n.trim().to_owned()).collect()),
        };
        rows.insert(name.to_owned(), allowed);
    }
    (!rows.is_empty()).then_some(rows)
}
