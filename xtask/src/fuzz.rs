//! A short run of every fuzz target under libFuzzer.
//!
//! The targets are plain functions in `fuzz/src/lib.rs`. Coverage instrumentation needs no nightly compiler, only
//! address sanitising would; the code under test has no unsafe code, so that would show little.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::repo::Repo;

/// What makes libFuzzer see the paths an input takes.
const INSTRUMENTATION: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing";

/// Longest input in bytes: enough for several messages of each format.
const INPUT_BYTES: u32 = 65536;
/// Memory of a target in MiB; what takes more is out of proportion to its input.
const MEMORY_MIB: u32 = 1024;
/// Seconds for one input.
const INPUT_SECONDS: u32 = 10;

/// Runs each target for some seconds. Finds are kept under `fuzz/artifacts`, the corpus under `fuzz/corpus`.
///
/// # Errors
/// When the targets cannot be built or one of them fails.
pub fn run(repo: &Repo, seconds: u32) -> Result<()> {
    let folder = repo.target().join("fuzz");
    let mut build = process::cargo(repo);
    build.args([
        "build",
        "--quiet",
        "--locked",
        "-p",
        "plimsoll-fuzz",
        "--features",
        "libfuzzer",
    ]);
    build
        .args(["--profile", "fuzz", "--target-dir"])
        .arg(&folder);
    // Naming the target keeps build scripts and macros free of instrumentation.
    let triple = triple()?;
    build.args(["--target", &triple]);
    build
        .env("RUSTFLAGS", INSTRUMENTATION)
        .env("CXX", "clang++");
    process::run(&mut build)?;
    let program = folder.join(triple).join("fuzz/fuzz-all");
    let names = targets(repo)?;
    let mut failed = Vec::new();
    for name in &names {
        let executed = fuzz(repo, &program, name, seconds)?;
        match executed {
            Some(executed) => {
                println!("fuzz {name}: {executed} inputs in {seconds} s, none failed")
            }
            None => failed.push(name.as_str()),
        }
    }
    if !failed.is_empty() {
        bail!(
            "fuzz targets failed: {} (inputs under fuzz/artifacts)",
            failed.join(", ")
        );
    }
    Ok(())
}

/// This machine, as rustc calls it.
fn triple() -> Result<String> {
    let version = process::read(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc names no host")
}

/// The names in the list of targets.
fn targets(repo: &Repo) -> Result<Vec<String>> {
    let path = repo.path("fuzz/src/lib.rs");
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let names: Vec<String> = text
        .split("name: \"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .map(str::to_owned)
        .collect();
    if names.is_empty() {
        bail!("{} names no targets", path.display());
    }
    Ok(names)
}

/// Runs one target; the number of inputs tried, or `None` if one failed.
fn fuzz(repo: &Repo, program: &Path, name: &str, seconds: u32) -> Result<Option<String>> {
    let corpus = repo.path("fuzz/corpus").join(name);
    let artifacts = repo.path("fuzz/artifacts").join(name);
    for folder in [&corpus, &artifacts] {
        std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    let mut fuzzer = Command::new(program);
    fuzzer.env("PLIMSOLL_FUZZ", name).arg(corpus);
    fuzzer.arg(format!("-artifact_prefix={}/", artifacts.display()));
    fuzzer.arg(format!("-max_total_time={seconds}"));
    fuzzer.arg(format!("-max_len={INPUT_BYTES}"));
    fuzzer.arg(format!("-rss_limit_mb={MEMORY_MIB}"));
    fuzzer.arg(format!("-timeout={INPUT_SECONDS}"));
    fuzzer.arg("-print_final_stats=1");
    let output = process::read_all(&mut fuzzer)?;
    let log = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        println!("{log}");
        return Ok(None);
    }
    let stat = log
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    Ok(Some(stat.unwrap_or("some").trim().to_owned()))
}
