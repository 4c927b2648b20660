//! Licences of everything that is linked, and packages that are there in several versions.
//!
//! This is the part of cargo-deny that needs no download; `deny.toml` says the same for whoever has cargo-deny.

use std::collections::BTreeMap;

use super::{Finding, Tree};

/// Licences compatible with distributing Plimsoll under Apache-2.0 (the same list as `deny.toml`).
const ACCEPTED: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "MIT-0",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "0BSD",
    "Zlib",
    "CC0-1.0",
    "Unicode-3.0",
    "Unlicense",
    "BSL-1.0",
    "CDLA-Permissive-2.0",
    // Copyleft per file: unmodified crates from the registry may be linked.
    "MPL-2.0",
    "MPL-2.0+",
];

/// Packages without an SPDX expression whose licence file was read.
const READ_BY_HAND: &[&str] = &[
    // MIT, in its LICENSE file; linked by libcontainer.
    "rust-criu",
];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in &tree.metadata.packages {
        if READ_BY_HAND.contains(&package.name.as_str()) {
            continue;
        }
        let place = format!("{} {}", package.name, package.version);
        match &package.license {
            None => findings.push(Finding::new(place, "has no licence expression")),
            Some(expression) if !accepted(expression) => {
                findings.push(Finding::new(
                    place,
                    format!("licence {expression} is not accepted"),
                ));
            }
            Some(_) => {}
        }
    }
    findings
}

/// Whether an SPDX expression can be met with accepted licences: every `AND` part needs one accepted `OR` choice.
fn accepted(expression: &str) -> bool {
    // The old form "MIT/Apache-2.0" means OR. Parentheses only ever group ORs below ANDs in practice; an expression
    // that nests otherwise is judged too strictly, never too mildly.
    let flat = expression.replace('/', " OR ");
    let flat = flat.replace(['(', ')'], " ");
    let flat = flat.split_whitespace().collect::<Vec<_>>().join(" ");
    let known = |part: &str| ACCEPTED.contains(&part.trim());
    if expression.contains('(') {
        flat.split(" AND ")
            .all(|part| part.split(" OR ").any(known))
    } else {
        flat.split(" OR ")
            .any(|part| part.split(" AND ").all(known))
    }
}

/// One line per package that is built in more than one version.
pub(super) fn duplicate_versions(tree: &Tree) -> Vec<String> {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in &tree.metadata.packages {
        versions
            .entry(&package.name)
            .or_default()
            .push(&package.version);
    }
    let several = versions.iter().filter(|(_, list)| list.len() > 1).count();
    if several == 0 {
        return Vec::new();
    }
    let names: Vec<&str> = versions
        .iter()
        .filter(|(_, list)| list.len() > 2)
        .map(|(name, _)| *name)
        .collect();
    vec![format!(
        "{several} packages in two or more versions; in three or more: {}",
        names.join(" ")
    )]
}

#[cfg(test)]
mod tests {
    use super::accepted;

    #[test]
    fn expressions() {
        for good in [
            "MIT",
            "MIT/Apache-2.0",
            "MIT OR GPL-3.0",
            "(MIT OR GPL-2.0) AND ISC",
        ] {
            assert!(accepted(good), "{good}");
        }
        for bad in [
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "(GPL-2.0 OR GPL-3.0) AND MIT",
            "",
        ] {
            assert!(!accepted(bad), "{bad}");
        }
    }
}
