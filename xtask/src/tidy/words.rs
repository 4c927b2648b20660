//! One word per thing: GLOSSARY.md's banned words do not occur in the names of product code.
//!
//! Only identifiers are looked at. Comments and texts may explain one world to people who know another.

use std::collections::BTreeMap;

use super::rust_text::{code_only, words};
use super::{Finding, Tree};

const DOCUMENT: &str = "GLOSSARY.md";

/// Folders that speak a foreign language on purpose.
const FOREIGN: &[(&str, &str)] = &[
    (
        "crates/api/src/docker",
        "Docker's own words belong to its personality",
    ),
    ("crates/shim/", "libcontainer's own names"),
    ("crates/drivers/src/oci/", "OCI's own names"),
    (
        "crates/drivers/src/images/",
        "OCI's and Docker's image formats have fields of these names",
    ),
];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let Some(banned) = tree.text(DOCUMENT).map(banned) else {
        return vec![Finding::new(DOCUMENT, "missing")];
    };
    if banned.is_empty() {
        return vec![Finding::new(
            DOCUMENT,
            "has no table `| word | meaning | not |`",
        )];
    }
    let mut findings = Vec::new();
    for file in tree.rust().filter(|file| file.path.starts_with("crates/")) {
        if FOREIGN
            .iter()
            .any(|(folder, _)| file.path.starts_with(folder))
        {
            continue;
        }
        for (index, line) in code_only(&file.text).lines().enumerate() {
            for word in words(line) {
                let singular = word.strip_suffix('s').unwrap_or(&word);
                if let Some(instead) = banned.get(&word).or_else(|| banned.get(singular)) {
                    findings.push(Finding::at(
                        &file.path,
                        index + 1,
                        format!("{word:?} in a name: the word is {instead:?} ({DOCUMENT})"),
                    ));
                }
            }
        }
    }
    findings
}

/// Rows `| **Word** | meaning | banned, banned |` to banned word and the one to use.
fn banned(document: &str) -> BTreeMap<String, String> {
    let mut banned = BTreeMap::new();
    for line in document.lines().filter(|line| line.starts_with("| **")) {
        let cells: Vec<&str> = line
            .trim()
            .trim_matches('|')
            .split('|')
            .map(str::trim)
            .collect();
        let [word, _, list] = cells.as_slice() else {
            continue;
        };
        let word = word.replace('*', "");
        for item in list
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty() && *item != "–")
        {
            banned.insert(item.to_lowercase(), word.clone());
        }
    }
    banned
}
