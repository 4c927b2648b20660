//! The report for people and programs.

use std::fmt::Write as _;

use anyhow::Result;

use super::{Level, Output, Report};

/// Prints a report.
pub(super) fn print(report: &Report, output: Output) -> Result<()> {
    print!("{}", text(report, output)?);
    Ok(())
}

/// A report as text.
pub(super) fn text(report: &Report, output: Output) -> Result<String> {
    Ok(match output {
        Output::Json => format!("{}\n", serde_json::to_string_pretty(report)?),
        Output::Yaml => serde_yaml_ng::to_string(report)?,
        Output::Table => table(report)?,
    })
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Ok => "ok",
        Level::Warn => "warn",
        Level::Fail => "FAIL",
    }
}

fn table(report: &Report) -> Result<String> {
    let mut out = String::new();
    let width = report
        .checks
        .iter()
        .map(|check| check.name.len())
        .max()
        .unwrap_or(0);
    for check in &report.checks {
        writeln!(
            out,
            "{:<5} {:<width$}  {}",
            word(check.level),
            check.name,
            check.found
        )?;
        if !check.meaning.is_empty() {
            writeln!(out, "      {:width$}  {}", "", check.meaning)?;
        }
        if !check.mend.is_empty() {
            writeln!(out, "      {:width$}  mend: {}", "", check.mend)?;
        }
    }
    let count = |level| {
        report
            .checks
            .iter()
            .filter(|check| check.level == level)
            .count()
    };
    let (warnings, failures) = (count(Level::Warn), count(Level::Fail));
    let verdict = match report.level {
        Level::Ok => "this machine can do everything",
        Level::Warn => "this machine can run servers and hosts",
        Level::Fail => "this machine cannot run hosts until what fails is mended",
    };
    writeln!(out, "\n{verdict} ({failures} failed, {warnings} warnings)")?;
    Ok(out)
}
