//! `plimsoll doctor`: what this machine can and cannot do, and how to mend it.
//!
//! What it is not: it changes nothing. What it tries, it tries in namespaces of short-lived child processes.
//!
//! Start at [`examine`]. Each check is a function of [`checks`] that gives a [`Check`]; [`facts`] is what an agent
//! tells of its machine.

mod checks;
mod facts;
mod gpus;
mod output;
mod probes;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde::Serialize;

pub(crate) use facts::facts;

/// Arguments of `doctor`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DoctorArgs {
    /// Folder whose file system is looked at: that of the server or agent
    #[arg(long, value_name = "DIR", default_value = "/var/lib/plimsoll")]
    pub(crate) data: PathBuf,
    /// Table for people, or JSON or YAML for programs
    #[arg(long, short = 'o', value_enum, default_value_t = Output::Table, value_name = "FORMAT")]
    pub(crate) output: Output,
}

/// Forms of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For programs and people.
    Yaml,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// Something works less well, or something optional does not work.
    Warn,
    /// Hosts or servers do not work here.
    Fail,
}

/// What was found about one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// The thing.
    pub(crate) name: &'static str,
    /// How bad it is.
    pub(crate) level: Level,
    /// What was found.
    pub(crate) found: String,
    /// What follows from it; empty if it is as it should be.
    pub(crate) meaning: String,
    /// What to do about it, as a command where there is one; empty if nothing need be done.
    pub(crate) mend: String,
}

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    /// The worst of all.
    pub(crate) level: Level,
    /// One by one.
    pub(crate) checks: Vec<Check>,
}

/// Examines this machine; takes about half a second. `data` is the folder of the server or agent.
#[must_use]
pub(crate) fn examine(data: &Path) -> Report {
    let checks = checks::all(data);
    let level = checks.iter().map(|check| check.level).max();
    Report {
        level: level.unwrap_or(Level::Ok),
        checks,
    }
}

/// Runs `plimsoll doctor`. Exit codes: 0 everything needed is there, 1 something needed fails.
///
/// # Errors
/// When the report cannot be written down.
pub(crate) fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let report = examine(&args.data);
    output::print(&report, args.output)?;
    Ok(match report.level {
        Level::Ok | Level::Warn => ExitCode::SUCCESS,
        Level::Fail => ExitCode::FAILURE,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_examined_and_every_finding_says_what_to_do() {
        let report = examine(Path::new("/no/such/folder/yet"));
        assert!(report.checks.len() > 15);
        for check in &report.checks {
            assert!(!check.found.is_empty(), "{check:?}");
            if check.level != Level::Ok {
                assert!(
                    !check.meaning.is_empty() && !check.mend.is_empty(),
                    "{check:?}"
                );
            }
        }
        let mut names: Vec<_> = report.checks.iter().map(|check| check.name).collect();
        names.dedup();
        assert_eq!(names.len(), report.checks.len());
        for output in [Output::Table, Output::Json, Output::Yaml] {
            assert!(!output::text(&report, output).unwrap().is_empty());
        }
    }

    #[test]
    fn facts_are_filled_in() {
        let facts = facts("192.0.2.1", &[("runc", Path::new("/usr/sbin/runc"))]);
        assert!(facts.cpus > 0 && facts.capacity.memory.0 > 0);
        assert!(["v1", "hybrid", "v2", "none"].contains(&facts.cgroup.as_str()));
        assert!(!facts.kernel.is_empty() && !facts.boot_id.is_empty() && !facts.os.is_empty());
    }
}
