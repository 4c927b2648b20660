//! A hundred seeds, and that a seed is a history.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::Command;

fn sim(arguments: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.success(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn a_hundred_seeds_hold() {
    let (held, out, err) = sim(&["--seed", "1", "--seeds", "100", "--steps", "40"]);
    assert!(held, "{out}{err}");
}

#[test]
fn one_seed_is_one_history() {
    let arguments = ["--seed", "5", "--plain", "--json"];
    let (_, first, _) = sim(&arguments);
    let (_, second, _) = sim(&arguments);
    assert!(first.contains("hash"), "{first}");
    assert_eq!(first, second);
    let (_, other, _) = sim(&["--seed", "6", "--plain", "--json"]);
    assert_ne!(first, other);
}
