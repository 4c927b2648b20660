//! `cargo xtask tidy`: the rules of the project that a compiler does not check.
//!
//! Every check is a pure function from a [`Tree`] (the files' text and cargo's metadata) to [`Finding`]s, so that each
//! has tests which show that it can fail. Only [`Tree::read`] touches the disk.
//!
//! Start at [`CHECKS`]. Adding a rule: a function here or in a submodule, a line in `CHECKS`, a test that fails it.

mod fences;
mod layers;
mod licences;
mod manifest;
mod metadata;
mod rust_text;
mod source;
mod unused;
mod words;

#[cfg(test)]
mod tests;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::repo::Repo;
pub use metadata::Metadata;

/// All a check may look at.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    /// The project's text files, sorted by path; binary files are left out.
    pub files: Vec<SourceFile>,
    /// Packages and their edges.
    pub metadata: Metadata,
    /// Folders of this machine that committed text must not name.
    pub machine_paths: Vec<String>,
}

/// One text file.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// Relative to the project's top folder, with `/`.
    pub path: String,
    /// All of it.
    pub text: String,
}

/// One broken rule at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// `path` or `path:line`.
    pub place: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl Finding {
    fn new(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            message: message.into(),
        }
    }

    fn at(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self::new(format!("{path}:{line}"), message)
    }
}

/// A named rule.
pub struct Check {
    /// Short name, as printed.
    pub name: &'static str,
    /// The rule.
    pub run: fn(&Tree) -> Vec<Finding>,
}

/// Every rule, in the order they are printed.
pub const CHECKS: &[Check] = &[
    Check {
        name: "crate table",
        run: layers::check,
    },
    Check {
        name: "third-party fences",
        run: fences::check,
    },
    Check {
        name: "dependency reasons",
        run: manifest::check,
    },
    Check {
        name: "unused dependencies",
        run: unused::check,
    },
    Check {
        name: "licences",
        run: licences::check,
    },
    Check {
        name: "module docs",
        run: source::module_docs,
    },
    Check {
        name: "ignored tests",
        run: source::ignored_tests,
    },
    Check {
        name: "sleeps in tests",
        run: source::sleeps_in_tests,
    },
    Check {
        name: "machine paths",
        run: source::machine_paths,
    },
    Check {
        name: "promises",
        run: source::promises,
    },
    Check {
        name: "words",
        run: words::check,
    },
];

impl Tree {
    /// Reads the project's folder.
    ///
    /// # Errors
    /// When git or cargo cannot be run, or a listed file cannot be read.
    pub fn read(repo: &Repo) -> Result<Self> {
        let mut files = Vec::new();
        for path in repo.files()? {
            let bytes = std::fs::read(repo.path(&path)).with_context(|| format!("read {path}"))?;
            if let Ok(text) = String::from_utf8(bytes) {
                files.push(SourceFile { path, text });
            }
        }
        let mut cargo = process::cargo(repo);
        cargo.args(["metadata", "--format-version", "1", "--locked"]);
        let metadata = serde_json::from_str(&process::read(&mut cargo)?)
            .context("decode the output of cargo metadata")?;
        Ok(Self {
            files,
            metadata,
            machine_paths: machine_paths(repo),
        })
    }

    /// The text of one file, if the project has it.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<&str> {
        self.files
            .iter()
            .find(|file| file.path == path)
            .map(|file| file.text.as_str())
    }

    /// The Rust sources.
    pub fn rust(&self) -> impl Iterator<Item = &SourceFile> {
        self.files.iter().filter(|file| file.path.ends_with(".rs"))
    }
}

/// The checkout's own folder and the home folder of whoever runs this: both differ elsewhere.
fn machine_paths(repo: &Repo) -> Vec<String> {
    let mut paths = vec![repo.root().display().to_string()];
    if let Some(home) = std::env::var_os("HOME") {
        let home = std::path::PathBuf::from(home);
        // Only hidden folders of it: "/root/x" is a fair path inside an image.
        paths.push(format!("{}/.", home.display()));
    }
    paths
}

/// All findings of all checks, with the name of the check.
#[must_use]
pub fn findings(tree: &Tree) -> Vec<(&'static str, Finding)> {
    let run = |check: &'static Check| (check.run)(tree).into_iter().map(|f| (check.name, f));
    CHECKS.iter().flat_map(run).collect()
}

/// Runs all checks, prints what they find, and the report of long files.
///
/// # Errors
/// When a rule is broken.
pub fn run(repo: &Repo) -> Result<()> {
    let tree = Tree::read(repo)?;
    for line in source::long_files(&tree) {
        println!("note: {line}");
    }
    for line in licences::duplicate_versions(&tree) {
        println!("note: {line}");
    }
    let findings = findings(&tree);
    for (check, finding) in &findings {
        println!("{check}: {}: {}", finding.place, finding.message);
    }
    if !findings.is_empty() {
        bail!("tidy: {} findings", findings.len());
    }
    println!(
        "tidy: {} checks over {} files: clean",
        CHECKS.len(),
        tree.files.len()
    );
    Ok(())
}
