//! Many containers at once: `docker run -d`, a fixed number of clients side by side.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use anyhow::Result;
use xtask::repo::Repo;

use crate::Options;
use crate::engines::{Dockerd, Endpoint, IMAGE, Plimsoll};
use crate::report::{Promise, Report};

/// Containers that are started.
const CONTAINERS: u32 = 100;
/// Clients side by side.
const CLIENTS: usize = 16;

/// One round per engine by default; more rounds take the fastest of each.
pub(crate) fn run(options: &Options) -> Result<Report> {
    let repo = Repo::discover()?;
    let plimsoll = Plimsoll::start(&repo, 3)?;
    let dockerd = Dockerd::start(&repo)?;
    let (mut ours, mut theirs) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..options.rounds.unwrap_or(1) {
        ours = ours.min(start_all(&plimsoll.endpoint, CONTAINERS)?);
        plimsoll.endpoint.clear()?;
        theirs = theirs.min(start_all(&dockerd.endpoint, CONTAINERS)?);
        dockerd.endpoint.clear()?;
    }
    let mut report = Report::new("parallel");
    report.add("plimsoll", ours, "s");
    report.add("dockerd", theirs, "s");
    report.promise("ratio", ours / theirs, "", Promise::AtMost(0.25));
    Ok(report)
}

/// Starts `count` containers; the answer is the wall time in seconds.
pub(crate) fn start_all(endpoint: &Endpoint, count: u32) -> Result<f64> {
    let next = AtomicU32::new(0);
    let started = Instant::now();
    std::thread::scope(|scope| {
        let client = || -> Result<()> {
            while next.fetch_add(1, Ordering::Relaxed) < count {
                endpoint.timed(&["run", "-d", IMAGE, "sleep", "100000"])?;
            }
            Ok(())
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        // A panic of a client is one of this program: there is nothing to go on with.
        clients.into_iter().try_for_each(|client| {
            client
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })?;
    Ok(started.elapsed().as_secs_f64())
}
