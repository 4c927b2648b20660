//! `cargo xtask ci`: what continuous integration runs, in one process, each step with its time.
//!
//! Everything is built in one profile (dev): `build --workspace --all-targets` and `test --workspace` share all
//! artefacts, clippy adds metadata only.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::repo::Repo;
use crate::{fuzz, process, setup};

/// Seconds per fuzz target: enough to notice a decoder that panics on its corpus' neighbours.
const FUZZ_SECONDS: u32 = 10;

/// A named step.
struct Step {
    name: &'static str,
    run: fn(&Repo) -> Result<()>,
}

/// In this order: cheap first, what needs the build after it.
const STEPS: &[Step] = &[
    Step {
        name: "fmt",
        run: |repo| cargo(repo, &["fmt", "--all", "--check"]),
    },
    Step {
        name: "clippy",
        run: |repo| {
            cargo(
                repo,
                &[
                    "clippy",
                    "--workspace",
                    "--all-targets",
                    "--locked",
                    "--",
                    "-D",
                    "warnings",
                ],
            )
        },
    },
    // Builds the programs the end-to-end tests start.
    Step {
        name: "build",
        run: |repo| cargo(repo, &["build", "--workspace", "--all-targets", "--locked"]),
    },
    Step {
        name: "tests",
        run: |repo| {
            cargo(
                repo,
                &[
                    "test",
                    "--workspace",
                    "--all-targets",
                    "--locked",
                    "--no-fail-fast",
                ],
            )
        },
    },
    Step {
        name: "doctests",
        run: |repo| cargo(repo, &["test", "--workspace", "--doc", "--locked"]),
    },
    Step {
        name: "openapi",
        run: openapi,
    },
    Step {
        name: "advisories",
        run: deny,
    },
    Step {
        name: "fuzz",
        run: |repo| fuzz::run(repo, FUZZ_SECONDS),
    },
];

/// Runs the steps named in `only`, or all, and prints a table at the end. A failed step does not hide later ones.
///
/// # Errors
/// When a step fails or a name is unknown.
pub fn run(repo: &Repo, only: &[String]) -> Result<()> {
    if let Some(name) = only
        .iter()
        .find(|name| !STEPS.iter().any(|step| step.name == **name))
    {
        let names: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
        bail!("there is no step {name}; there are {}", names.join(", "));
    }
    setup::install(setup::Purpose::Test)?;
    setup::docker_client(repo)?;
    let mut results: Vec<(&str, Duration, Result<()>)> = Vec::new();
    for step in STEPS {
        if !only.is_empty() && !only.iter().any(|name| name == step.name) {
            continue;
        }
        println!("==> {}", step.name);
        let started = Instant::now();
        let result = (step.run)(repo);
        if let Err(error) = &result {
            println!("{}: {error:#}", step.name);
        }
        results.push((step.name, started.elapsed(), result));
    }
    println!();
    for (name, time, result) in &results {
        println!(
            "{name:12} {:>7.1} s  {}",
            time.as_secs_f64(),
            if result.is_ok() { "ok" } else { "FAILED" }
        );
    }
    let failed = results
        .iter()
        .filter(|(_, _, result)| result.is_err())
        .count();
    if failed > 0 {
        bail!("{failed} of {} steps failed", results.len());
    }
    Ok(())
}

fn cargo(repo: &Repo, arguments: &[&str]) -> Result<()> {
    let mut cargo = process::cargo(repo);
    cargo.args(arguments);
    // Where the docker client was unpacked if the machine has none: tests call it by name.
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":");
    path.push(repo.target().join("tools"));
    process::run(cargo.env("PATH", path))
}

/// The committed OpenAPI document is what the program says of itself.
fn openapi(repo: &Repo) -> Result<()> {
    let committed = repo.path("docs/openapi.json");
    let program = repo.target().join("debug/plimsoll");
    let said = process::read(std::process::Command::new(&program).arg("openapi"))?;
    let kept = std::fs::read_to_string(&committed)?;
    if said.trim() != kept.trim() {
        bail!("docs/openapi.json is stale: `cargo run -p node -- openapi > docs/openapi.json`");
    }
    Ok(())
}

/// Known security problems of dependencies. Licences and duplicates are tidy's, which needs no further program.
fn deny(repo: &Repo) -> Result<()> {
    if process::found("cargo-deny") {
        return cargo(repo, &["deny", "check", "advisories", "bans", "sources"]);
    }
    println!(
        "cargo-deny is not installed: advisories are NOT checked (licences and fences are, by tidy)."
    );
    println!("`cargo install --locked cargo-deny` adds the check.");
    Ok(())
}
