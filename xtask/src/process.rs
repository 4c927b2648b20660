//! Running other programs: what is run is printed, and a failure names the command.

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

use crate::repo::Repo;

/// Cargo, in the project's folder.
#[must_use]
pub fn cargo(repo: &Repo) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(repo.root());
    command
}

/// The command line as a person would type it.
#[must_use]
pub fn line(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let name = program.file_name().unwrap_or_else(|| OsStr::new("?"));
    let mut words = vec![name.to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|a| a.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Runs a command with its output shown; any other exit code than 0 is an error.
///
/// # Errors
/// When the program cannot be started or fails.
pub fn run(command: &mut Command) -> Result<()> {
    let line = line(command);
    let status = command.status().with_context(|| format!("start {line}"))?;
    if !status.success() {
        bail!("{line}: {status}");
    }
    Ok(())
}

/// Runs a command and returns its standard output as text.
///
/// # Errors
/// When the program cannot be started or fails; the error carries its standard error.
pub fn read(command: &mut Command) -> Result<String> {
    let line = line(command);
    let output = read_all(command)?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{line}: {}: {}", output.status, stderr.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("output of {line} is not text"))
}

/// Runs a command and returns all it gave, whatever the exit code.
///
/// # Errors
/// When the program cannot be started.
pub fn read_all(command: &mut Command) -> Result<Output> {
    let line = line(command);
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {line}"))
}

/// Whether a program of this name is on the path.
#[must_use]
pub fn found(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
