//! `docker run --rm IMAGE true`: one container, from the command to its end.

use anyhow::Result;
use xtask::repo::Repo;

use crate::Options;
use crate::engines::{Dockerd, Endpoint, IMAGE, Plimsoll};
use crate::report::{Promise, Report, median};

/// Rounds of the promise.
const ROUNDS: u32 = 30;

/// Both engines take turns (ABAB), so that a busy moment of the machine meets both.
pub(crate) fn run(options: &Options) -> Result<Report> {
    let repo = Repo::discover()?;
    let rounds = options.rounds.unwrap_or(ROUNDS);
    let plimsoll = Plimsoll::start(&repo, 3)?;
    let dockerd = Dockerd::start(&repo)?;
    let mut report = Report::new("run");
    for network in ["none", "bridge"] {
        let once = |endpoint: &Endpoint| {
            endpoint.timed(&["run", "--rm", "--network", network, IMAGE, "true"])
        };
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            ours.push(once(&plimsoll.endpoint)? * 1e3);
            theirs.push(once(&dockerd.endpoint)? * 1e3);
        }
        let (ours, theirs) = (median(&mut ours), median(&mut theirs));
        report.add(format!("plimsoll, network {network}"), ours, "ms");
        report.add(format!("dockerd, network {network}"), theirs, "ms");
        report.promise(
            format!("ratio, network {network}"),
            ours / theirs,
            "",
            Promise::AtMost(0.30),
        );
    }
    Ok(report)
}
