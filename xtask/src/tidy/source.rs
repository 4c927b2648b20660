//! Rules about the text of single files.

use super::rust_text::{code_only, first_test_line};
use super::{Finding, SourceFile, Tree};

/// Longer files are reported, not refused: one idea per file counts, the number is a guide.
const LONG_FILE_LINES: usize = 600;

/// A line with this mark and a reason (on it or above it) may sleep in a test, as the pause between two looks at a
/// condition does.
const POLL_MARK: &str = "tidy: sleep: ";

/// Every Rust file opens with `//!`.
pub(super) fn module_docs(tree: &Tree) -> Vec<Finding> {
    tree.rust()
        .filter(|file| !file.path.starts_with("tests/golden/"))
        .filter(|file| {
            let first = file.text.lines().find(|line| !line.starts_with("#!["));
            !first.is_some_and(|line| line.starts_with("//!"))
        })
        .map(|file| {
            Finding::at(
                &file.path,
                1,
                "opens without a module doc (`//! What this is.`)",
            )
        })
        .collect()
}

/// No test is switched off.
pub(super) fn ignored_tests(tree: &Tree) -> Vec<Finding> {
    lines_of_code(tree)
        .filter(|(_, _, line)| line.contains("#[ignore"))
        .map(|(file, number, _)| {
            Finding::at(
                &file.path,
                number,
                "a test that does not run proves nothing",
            )
        })
        .collect()
}

/// Tests wait for conditions.
pub(super) fn sleeps_in_tests(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust() {
        let code = code_only(&file.text);
        let Some(first) = first_test_line(&file.path, &code) else {
            continue;
        };
        let original: Vec<&str> = file.text.lines().collect();
        for (index, line) in code.lines().enumerate().skip(first - 1) {
            let sleeps = line.contains("thread::sleep") || line.contains("time::sleep(");
            let marked = |at: Option<usize>| {
                at.and_then(|at| original.get(at))
                    .is_some_and(|line| line.contains(POLL_MARK))
            };
            if sleeps && !marked(Some(index)) && !marked(index.checked_sub(1)) {
                findings.push(Finding::at(
                    &file.path,
                    index + 1,
                    format!(
                        "sleeps: wait for a condition (or say why not: `// {POLL_MARK}reason`)"
                    ),
                ));
            }
        }
    }
    findings
}

/// Committed text names no folder of the machine it was written on.
pub(super) fn machine_paths(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        for (index, line) in file.text.lines().enumerate() {
            if let Some(path) = tree
                .machine_paths
                .iter()
                .find(|path| line.contains(path.as_str()))
            {
                findings.push(Finding::at(
                    &file.path,
                    index + 1,
                    format!("names {path}, a folder of this machine"),
                ));
            }
        }
    }
    findings
}

/// Every test or benchmark that PROMISES.md names exists.
///
/// A promise names its proof as `` `test crate::name` `` or `` `bench name` ``.
pub(super) fn promises(tree: &Tree) -> Vec<Finding> {
    const DOCUMENT: &str = "PROMISES.md";
    let Some(text) = tree.text(DOCUMENT) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for proof in line.split('`').skip(1).step_by(2) {
            let Some((kind, name)) = proof.split_once(' ') else {
                continue;
            };
            let function = format!("fn {}(", name.rsplit("::").next().unwrap_or(name));
            let exists = match kind {
                "test" => tree.rust().any(|file| file.text.contains(&function)),
                "bench" => {
                    let arm = format!("\"{name}\"");
                    tree.rust()
                        .any(|f| f.path.starts_with("bench/") && f.text.contains(&arm))
                }
                _ => continue,
            };
            if !exists {
                findings.push(Finding::at(
                    DOCUMENT,
                    index + 1,
                    format!("there is no {kind} named {name}"),
                ));
            }
        }
    }
    findings
}

/// One line per file that is longer than the guide.
pub(super) fn long_files(tree: &Tree) -> Vec<String> {
    let mut long = Vec::new();
    for file in tree.rust() {
        let all = file.text.lines().count();
        let tests = first_test_line(&file.path, &code_only(&file.text));
        let lines = tests.map_or(all, |first| first.saturating_sub(1));
        if lines > LONG_FILE_LINES {
            long.push(format!(
                "{} has {lines} lines without tests: still one idea?",
                file.path
            ));
        }
    }
    long
}

fn lines_of_code(tree: &Tree) -> impl Iterator<Item = (&SourceFile, usize, String)> {
    tree.rust().flat_map(|file| {
        let code = code_only(&file.text);
        let lines: Vec<String> = code.lines().map(str::to_owned).collect();
        lines
            .into_iter()
            .enumerate()
            .map(move |(index, line)| (file, index + 1, line))
    })
}
