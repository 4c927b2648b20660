//! Every third-party dependency of the root manifest has its reason beside or above it.

use super::{Finding, Tree};

const MANIFEST: &str = "Cargo.toml";

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let Some(text) = tree.text(MANIFEST) else {
        return vec![Finding::new(MANIFEST, "missing")];
    };
    let mut findings = Vec::new();
    let mut inside = false;
    for (index, line) in text.lines().enumerate() {
        if line.starts_with('[') {
            inside = line.trim() == "[workspace.dependencies]";
            continue;
        }
        let dependency = inside && line.starts_with(|c: char| c.is_ascii_alphabetic());
        if !dependency || line.contains("path = \"crates/") {
            continue;
        }
        let name = line.split([' ', '=']).next().unwrap_or_default();
        // A '#' inside a version or feature list does not occur in manifests.
        let reason = line.split_once('#').map_or("", |(_, reason)| reason.trim());
        if reason.len() < 4 {
            findings.push(Finding::at(
                MANIFEST,
                index + 1,
                format!("{name} has no reason: add `# why` to its line"),
            ));
        }
    }
    findings
}
