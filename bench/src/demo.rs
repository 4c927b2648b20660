//! `make demo` after the build: from nothing to running containers.

use anyhow::Result;
use xtask::demo;
use xtask::repo::Repo;

use crate::Options;
use crate::report::{Promise, Report};

/// In a folder of its own, so that a demo that runs is not disturbed.
pub(crate) fn run(_options: &Options) -> Result<Report> {
    let repo = Repo::discover()?;
    let seconds = demo::measure(&repo)?;
    let mut report = Report::new("demo");
    report.promise("until containers run", seconds, "s", Promise::AtMost(20.0));
    Ok(report)
}
