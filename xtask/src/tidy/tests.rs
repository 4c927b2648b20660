//! The tree is clean, and every check can fail.

use super::metadata::{Dependency, Edge, EdgeKind, Node, Package};
use super::*;

#[test]
fn the_tree_is_tidy() {
    let repo = Repo::discover().unwrap();
    let findings = findings(&Tree::read(&repo).unwrap());
    let lines: Vec<String> = findings
        .iter()
        .map(|(check, f)| format!("{check}: {}: {}", f.place, f.message))
        .collect();
    assert!(lines.is_empty(), "{}", lines.join("\n"));
}

fn file(path: &str, text: &str) -> SourceFile {
    SourceFile {
        path: path.into(),
        text: text.into(),
    }
}

fn tree(files: &[(&str, &str)]) -> Tree {
    Tree {
        files: files.iter().map(|(p, t)| file(p, t)).collect(),
        ..Tree::default()
    }
}

/// A workspace of crates with `(name, dependencies)`; a dependency `dev:x` is a dev-dependency.
fn workspace(crates: &[(&str, &[&str])]) -> Metadata {
    let mut metadata = Metadata::default();
    for (name, dependencies) in crates {
        let split = |d: &&str| match d.split_once(':') {
            Some((kind, name)) => Dependency {
                name: name.into(),
                kind: Some(kind.into()),
            },
            None => Dependency {
                name: (*d).into(),
                kind: None,
            },
        };
        let dependencies: Vec<Dependency> = dependencies.iter().map(split).collect();
        let edge = |d: &Dependency| Edge {
            pkg: d.name.clone(),
            dep_kinds: vec![EdgeKind {
                kind: d.kind.clone(),
            }],
        };
        metadata.workspace_members.push((*name).into());
        let deps = dependencies.iter().map(edge).collect();
        metadata.resolve.nodes.push(Node {
            id: (*name).into(),
            deps,
        });
        metadata
            .packages
            .push(package(name, Some("MIT"), dependencies));
    }
    metadata
}

fn package(name: &str, license: Option<&str>, dependencies: Vec<Dependency>) -> Package {
    Package {
        id: name.into(),
        name: name.into(),
        version: "1.0.0".into(),
        license: license.map(Into::into),
        manifest_path: String::new(),
        dependencies,
    }
}

/// Runs one check by name and returns its messages.
fn messages(name: &str, tree: &Tree) -> Vec<String> {
    let check = CHECKS.iter().find(|check| check.name == name).unwrap();
    (check.run)(tree)
        .into_iter()
        .map(|f| format!("{}: {}", f.place, f.message))
        .collect()
}

#[track_caller]
fn expect_one(name: &str, tree: &Tree, part: &str) {
    let found = messages(name, tree);
    assert!(
        found.len() == 1 && found[0].contains(part),
        "{name}: {found:#?}"
    );
}

const TABLE: &str = "<!-- crate table: read by cargo xtask tidy -->\n\n| crate | what | may depend on |\n\
    | --- | --- | --- |\n| `model` | x | – |\n| `plan` | x | model |\n| `node` | x | all |\n\
    <!-- end of crate table -->\n";

#[test]
fn an_edge_outside_the_table_is_found() {
    let mut tree = tree(&[("ARCHITECTURE.md", TABLE)]);
    tree.metadata = workspace(&[
        ("model", &[]),
        ("plan", &["model"]),
        ("node", &["plan", "model"]),
    ]);
    assert_eq!(messages("crate table", &tree), [""; 0]);

    tree.metadata = workspace(&[("model", &["plan"]), ("plan", &["dev:node"]), ("node", &[])]);
    expect_one("crate table", &tree, "model may not depend on plan");
}

#[test]
fn crates_and_rows_must_match() {
    let mut tree = tree(&[("ARCHITECTURE.md", TABLE)]);
    tree.metadata = workspace(&[("model", &[]), ("plan", &[]), ("node", &[]), ("extra", &[])]);
    expect_one("crate table", &tree, "extra is not in the table");
    tree.metadata = workspace(&[("model", &[]), ("plan", &[])]);
    expect_one("crate table", &tree, "names node");
    tree.files.clear();
    expect_one("crate table", &tree, "no crate table");
}

#[test]
fn fences_hold() {
    let mut tree = tree(&[]);
    for (name, library) in [
        ("agent", "axum"),
        ("control", "rusqlite"),
        ("control", "etcd-client"),
        ("drivers", "libcontainer"),
        ("agent", "rtnetlink"),
        ("store", "anyhow"),
    ] {
        tree.metadata = workspace(&[(name, &[library])]);
        expect_one("third-party fences", &tree, library);
    }
    tree.metadata = workspace(&[
        ("api", &["axum", "dev:anyhow"]),
        ("shim", &["libcontainer"]),
    ]);
    assert_eq!(messages("third-party fences", &tree), [""; 0]);
}

#[test]
fn tokio_is_found_behind_other_crates() {
    let mut tree = tree(&[]);
    tree.metadata = workspace(&[
        ("plan", &["helper"]),
        ("helper", &["tokio"]),
        ("tokio", &[]),
    ]);
    expect_one("third-party fences", &tree, "plan links tokio");
    tree.metadata = workspace(&[("plan", &["dev:tokio"]), ("tokio", &[])]);
    assert_eq!(messages("third-party fences", &tree), [""; 0]);
}

#[test]
fn dependencies_need_reasons() {
    let manifest = "[workspace.dependencies]\nmodel = { path = \"crates/model\" }\na = \"1\" # good reason\nb = \"2\"\n\
        [profile.dev]\nx = 1\n";
    expect_one(
        "dependency reasons",
        &tree(&[("Cargo.toml", manifest)]),
        "Cargo.toml:4: b has no reason",
    );
}

#[test]
fn licences_are_checked() {
    let mut tree = tree(&[]);
    tree.metadata
        .packages
        .push(package("good", Some("MIT OR Apache-2.0"), vec![]));
    tree.metadata
        .packages
        .push(package("bad", Some("GPL-3.0-only"), vec![]));
    expect_one("licences", &tree, "bad 1.0.0: licence GPL-3.0-only");
    tree.metadata.packages[1].license = None;
    expect_one("licences", &tree, "no licence");
}

#[test]
fn modules_need_docs() {
    let tree = tree(&[
        ("a.rs", "//! A.\n"),
        ("b.rs", "#![allow(x)]\n//! B.\n"),
        ("c.rs", "// C.\nfn c() {}\n"),
    ]);
    expect_one("module docs", &tree, "c.rs:1");
}

#[test]
fn ignored_tests_are_found() {
    let ignored = format!("//! x\n#[{}]\nfn a() {{}}\n", "ignore = \"slow\"");
    expect_one(
        "ignored tests",
        &tree(&[("a.rs", ignored.as_str())]),
        "a.rs:2",
    );
}

#[test]
fn sleeps_are_found_in_tests_only() {
    let tree = tree(&[
        (
            "crates/a/src/lib.rs",
            "//! x\nfn a() { std::thread::sleep(x) }\n",
        ),
        (
            "crates/a/tests/t.rs",
            "fn a() { tokio::time::sleep(x).await }\n",
        ),
        (
            "crates/b/tests/t.rs",
            "// tidy: sleep: pause of a poll loop\nfn a() { std::thread::sleep(x) }\n",
        ),
    ]);
    expect_one("sleeps in tests", &tree, "crates/a/tests/t.rs:1");
}

#[test]
fn machine_paths_are_found() {
    let mut tree = tree(&[("a.md", "see /opt/checkout/x\n")]);
    tree.machine_paths = vec!["/opt/checkout".into()];
    expect_one("machine paths", &tree, "a.md:1");
}

#[test]
fn promises_need_their_proof() {
    let tree = tree(&[
        (
            "PROMISES.md",
            "1. A. `test store::keeps` \n2. B. `test store::lost`\n3. C. `bench run`\n",
        ),
        ("crates/store/src/x.rs", "fn keeps() {}"),
        ("bench/src/main.rs", "\"run\" => 1"),
    ]);
    expect_one(
        "promises",
        &tree,
        "PROMISES.md:2: there is no test named store::lost",
    );
}

#[test]
fn banned_words_are_found_in_names_outside_their_personality() {
    let glossary = "| **Host** | a machine | minion |\n| **Workload** | placed | container |\n";
    let tree = tree(&[
        ("GLOSSARY.md", glossary),
        ("crates/api/src/docker/a.rs", "struct ContainerId;"),
        (
            "crates/plan/src/a.rs",
            "// a container\nlet x = \"container\";\nfn list_containers() {}\n",
        ),
    ]);
    expect_one("words", &tree, "crates/plan/src/a.rs:3");
}

#[test]
fn long_files_are_reported() {
    let long = "x\n".repeat(601);
    assert_eq!(
        source::long_files(&tree(&[("a.rs", long.as_str()), ("b.rs", "x\n")])).len(),
        1
    );
}

#[test]
fn a_dependency_nobody_names_is_found() {
    let mut metadata = workspace(&[("a", &["used-one", "idle", "dev:only-tests", "dev:idle-too"])]);
    metadata.packages[0].manifest_path = "/top/crates/a/Cargo.toml".into();
    let tree = Tree {
        metadata,
        ..tree(&[
            ("crates/a/Cargo.toml", ""),
            (
                "crates/a/src/lib.rs",
                "use used_one::X; // idle\nfn idle_hands() {}",
            ),
            ("crates/a/tests/t.rs", "only_tests::run();"),
        ])
    };
    let messages = messages("unused dependencies", &tree);
    assert_eq!(messages.len(), 2, "{messages:?}");
    assert!(
        messages[0].contains(" idle is") && messages[1].contains(" idle-too is"),
        "{messages:?}"
    );
}
