//! Every dependency a crate declares is named somewhere in its code.
//!
//! A dependency that nobody names costs compile time and has to be looked after for nothing.

use super::rust_text::code_only;
use super::{Finding, Tree, metadata::Package};

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in tree.metadata.members().into_values() {
        let Some(folder) = folder(tree, package) else {
            continue;
        };
        let product = code_below(tree, &folder, &["src/", "build.rs"]);
        let tests = code_below(
            tree,
            &folder,
            &["tests/", "examples/", "benches/", "fuzz_targets/"],
        );
        for dependency in &package.dependencies {
            let identifier = dependency.name.replace('-', "_");
            let named = names(&product, &identifier)
                || (dependency.is_dev() && names(&tests, &identifier))
                // Programs of a package that is all tests.
                || (product.is_empty() && names(&tests, &identifier));
            if !named {
                findings.push(Finding::new(
                    format!("{folder}Cargo.toml"),
                    format!(
                        "{} is declared but not used: remove its line",
                        dependency.name
                    ),
                ));
            }
        }
    }
    findings
}

/// The package's folder below the top, with a trailing `/`.
fn folder(tree: &Tree, package: &Package) -> Option<String> {
    tree.files
        .iter()
        .filter_map(|file| file.path.strip_suffix("Cargo.toml"))
        .filter(|folder| !folder.is_empty())
        .find(|folder| {
            package
                .manifest_path
                .ends_with(&format!("/{folder}Cargo.toml"))
        })
        .map(str::to_owned)
}

fn code_below(tree: &Tree, folder: &str, parts: &[&str]) -> String {
    tree.files
        .iter()
        .filter(|file| file.path.ends_with(".rs"))
        .filter(|file| {
            file.path
                .strip_prefix(folder)
                .is_some_and(|rest| parts.iter().any(|part| rest.starts_with(part)))
        })
        .map(|file| code_only(&file.text))
        .collect()
}

/// Whether the identifier occurs as a whole word.
fn names(code: &str, identifier: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(identifier).any(|(at, _)| {
        !code[..at].ends_with(word) && !code[at + identifier.len()..].starts_with(word)
    })
}
