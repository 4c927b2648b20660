//! Memory of each program with 3 hosts and 100 containers, as proportional set size (shared pages count in parts).

use anyhow::{Context, Result};
use xtask::repo::Repo;

use crate::Options;
use crate::engines::Plimsoll;
use crate::parallel::start_all;
use crate::report::{Promise, Report};

/// Containers that run while it is measured.
const CONTAINERS: u32 = 100;

/// The largest of each kind counts.
pub(crate) fn run(_options: &Options) -> Result<Report> {
    let repo = Repo::discover()?;
    let plimsoll = Plimsoll::start(&repo, 3)?;
    start_all(&plimsoll.endpoint, CONTAINERS)?;
    let mut report = Report::new("memory");
    for (what, word, bound) in [
        ("shim", "plimsoll-shim", 1.5),
        ("agent", "agent", 30.0),
        ("server", "server", 60.0),
    ] {
        let sizes = plimsoll.pss(word)?;
        let largest = sizes
            .iter()
            .copied()
            .reduce(f64::max)
            .context("no process")?;
        report.add(
            format!("{what}, mean of {}", sizes.len()),
            sizes.iter().sum::<f64>() / sizes.len() as f64,
            "MiB",
        );
        report.promise(
            format!("{what}, largest"),
            largest,
            "MiB",
            Promise::AtMost(bound),
        );
    }
    Ok(report)
}
