//! A whole control plane: thousands of hosts, a hundred thousand workloads, and people who use the API meanwhile.
//!
//! One process has all of it: a store, `control` with its controllers (dividing and displacing, as in `plimsoll
//! server`), the API's real router on a Unix socket, simulated hosts and the users. Hosts speak through
//! `control::links`, which is where the bytes of a link end: what is left out is HTTP/2, TLS and JSON of the link
//! itself. Users speak HTTP, each request on a connection of its own, as the command line does; they have a thread of
//! their own, so that their CPU time can be told apart.
//!
//! First everything is placed through the API, then one percent of the workloads is replaced each minute (one is
//! killed and removed, another made and started until it runs) while others look at workloads, lists and pools. Pools
//! have sizes, every fifth a hard one, all of them networks; hosts measure every two seconds what pools do, and demand
//! goes up and down, so that it is divided anew all the time. At the end the server is started again over its store.
//! `--store memory` is there for comparison.

mod client;
mod host;
mod server;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::Options;
use crate::openb::Dice;
use crate::place::{cpu_time, peak_mebibytes, resident_bytes};
use crate::report::{Promise, Report};
use client::{Made, User};
use host::Running;
use server::Server;

const HOSTS: u64 = 5_000;
const WORKLOADS: u64 = 150_000;
const POOLS: usize = 500;
const SECONDS: u64 = 120;

/// Users who fill the cluster at the same time.
const FILLERS: u64 = 256;

/// Workloads that are replaced each minute, in percent.
const CHURN_PERCENT: u64 = 1;

/// What is promised of the API.
const PROMISED_MS: f64 = 100.0;

/// The store of a server that is told nothing else.
const STORE: &str = "sqlite";

/// Fills the cluster, replaces workloads, starts the server again.
///
/// # Errors
/// When a part does not work.
pub(crate) fn run(options: &Options) -> Result<Report> {
    let size = Size {
        hosts: options.host_count.unwrap_or(HOSTS),
        workloads: options.workload_count.unwrap_or(WORKLOADS),
        seconds: options.seconds.unwrap_or(SECONDS),
    };
    let store = options.store.as_deref().unwrap_or(STORE);
    let mut report = Report::new("scale");
    let folder = tempfile::tempdir()?;
    let begun = Instant::now();
    let serving = runtime()?;
    let server = serving.block_on(Server::start(store, folder.path()))?;
    serving.block_on(server.make_pools(POOLS))?;
    serving.block_on(server.make_hosts(size.hosts))?;
    let linking = Instant::now();
    let hosts = serving.block_on(server.link_hosts(idle(size.hosts)))?;
    report.add("hosts", size.hosts as f64, "");
    report.add("all hosts linked", linking.elapsed().as_secs_f64(), "s");
    progress("hosts are linked", begun);
    let users = Users {
        user: User::new(&server.socket().display().to_string())?,
        size,
        all: Arc::default(),
    };
    fill(&mut report, &users)?;
    progress("everything is placed", begun);
    churn(&mut report, &users, &server)?;
    progress("churn is over", begun);
    let hosts = serving.block_on(server.stop(hosts))?;
    drop((server, serving));
    if store != "memory" {
        restart(&mut report, store, folder.path(), hosts)?;
        progress("the server is back", begun);
    }
    report.add("peak memory", peak_mebibytes()?, "MiB");
    Ok(report)
}

/// As many threads as a server has without another word.
fn runtime() -> Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Ok(builder.worker_threads(2).enable_all().build()?)
}

fn mebibytes() -> Result<f64> {
    Ok(resident_bytes()? / f64::from(1 << 20))
}

fn fill(report: &mut Report, users: &Users) -> Result<()> {
    let count = users.size.workloads as f64;
    let (filled, _) = on_thread(users.clone().fill())?;
    report.add("workloads", count, "");
    report.add("all placed and running", filled.as_secs_f64(), "s");
    report.add(
        "placed and running, rate",
        count / filled.as_secs_f64(),
        "/s",
    );
    times(report, "while filling, ", users, false);
    report.add("memory when filled", mebibytes()?, "MiB");
    Ok(())
}

fn churn(report: &mut Report, users: &Users, server: &Server) -> Result<()> {
    let (divided, used, begun) = (server.divisions(), process_cpu_time()?, Instant::now());
    let (replaced, by_users) = on_thread(users.clone().churn())?;
    let seconds = begun.elapsed().as_secs_f64();
    let used = (process_cpu_time()? - used).saturating_sub(by_users);
    times(report, "", users, true);
    report.add("replaced per minute", replaced as f64 / seconds * 60.0, "");
    let told = server.divisions() - divided;
    report.add(
        "hosts told their part of pools",
        told as f64 / seconds,
        "/s",
    );
    report.add(
        "CPU of server and hosts",
        used.as_secs_f64() / seconds,
        "cores",
    );
    report.add("CPU of users", by_users.as_secs_f64() / seconds, "cores");
    report.add("memory after churn", mebibytes()?, "MiB");
    Ok(())
}

/// The server is started again over what is stored, and its hosts come back with what they run.
fn restart(report: &mut Report, store: &str, folder: &Path, hosts: Vec<Running>) -> Result<()> {
    let serving = runtime()?;
    let begun = Instant::now();
    let server = serving.block_on(Server::start(store, folder))?;
    report.add(
        "restart, until it serves",
        begun.elapsed().as_secs_f64(),
        "s",
    );
    let hosts = serving.block_on(server.link_hosts(hosts))?;
    report.add(
        "restart, until all hosts are linked",
        begun.elapsed().as_secs_f64(),
        "s",
    );
    let user = User::new(&server.socket().display().to_string())?;
    let one_more = serving.block_on(user.create_and_start(0, u64::MAX));
    one_more.context("after the restart")?;
    report.add(
        "restart, until one more runs",
        begun.elapsed().as_secs_f64(),
        "s",
    );
    serving.block_on(server.stop(hosts))?;
    Ok(())
}

/// Hosts that run nothing yet.
fn idle(count: u64) -> Vec<Running> {
    (0..count).map(|_| Running::default()).collect()
}

#[derive(Debug, Clone, Copy)]
struct Size {
    hosts: u64,
    workloads: u64,
    seconds: u64,
}

/// Says how far it is, to whoever waits.
fn progress(what: &str, begun: Instant) {
    eprintln!("{:7.1} s  {what}", begun.elapsed().as_secs_f64());
}

/// Runs users on a thread of their own; also gives the CPU time it took.
fn on_thread<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<(T, Duration)> {
    let thread = std::thread::spawn(move || -> Result<(T, Duration)> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build()?;
        let done = runtime.block_on(work)?;
        Ok((done, cpu_time()?))
    });
    let done = thread.join();
    done.map_err(|_| anyhow::anyhow!("users panicked"))?
}

fn process_cpu_time() -> Result<Duration> {
    Ok(nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}

fn times(report: &mut Report, when: &str, users: &Users, promised: bool) {
    let all: BTreeMap<&'static str, Vec<Duration>> = users.user.times.take();
    for (kind, times) in all {
        let at = |percent: usize| {
            let time = times.get((times.len() * percent / 100).min(times.len().saturating_sub(1)));
            time.map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        report.add(format!("{when}{kind}, p50"), at(50), "ms");
        let name = format!("{when}{kind}, p99");
        // How long a task takes to start is its host's affair.
        if promised && kind != "remove" {
            report.promise(name, at(99), "ms", Promise::AtMost(PROMISED_MS));
        } else {
            report.add(name, at(99), "ms");
        }
        report.add(format!("{when}{kind}, calls"), times.len() as f64, "");
    }
}

/// Everybody who uses the API.
#[derive(Clone)]
struct Users {
    user: User,
    size: Size,
    /// Workloads that are there.
    all: Arc<Mutex<Vec<Made>>>,
}

impl Users {
    fn pick(&self, dice: &mut Dice) -> Option<Made> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(dice.below(all.len())).cloned()
    }

    fn push(&self, made: Made) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(made);
    }

    /// Makes and starts everything; how long it took.
    async fn fill(self) -> Result<Duration> {
        let begun = Instant::now();
        let next = Arc::new(AtomicU64::new(0));
        let mut fillers = JoinSet::new();
        for _ in 0..FILLERS {
            let (users, next) = (self.clone(), Arc::clone(&next));
            fillers.spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= users.size.workloads {
                        return Ok(());
                    }
                    let pool = usize::try_from(number)? % POOLS;
                    users.push(users.user.create_and_start(pool, number).await?);
                    if number % 10_000 == 9_999 {
                        progress(&format!("{} workloads", number + 1), begun);
                    }
                }
            });
        }
        while let Some(filler) = fillers.join_next().await {
            let done: Result<()> = filler?;
            done?;
        }
        Ok(begun.elapsed())
    }

    /// Replaces workloads while others look on; how many.
    async fn churn(self) -> Result<u64> {
        let end = Instant::now() + Duration::from_secs(self.size.seconds);
        let per_minute = (self.size.workloads * CHURN_PERCENT / 100).max(1);
        let pause = |per_minute: u64| Duration::from_nanos(60_000_000_000 / per_minute);
        let mut calls: JoinSet<Result<bool>> = JoinSet::new();
        let mut dice = Dice(11);
        let mut replacing = tokio::time::interval(pause(per_minute));
        let mut inspecting = tokio::time::interval(Duration::from_millis(100));
        let mut listing = tokio::time::interval(Duration::from_millis(500));
        let mut watching = tokio::time::interval(Duration::from_secs(2));
        let mut number = self.size.workloads;
        let mut replaced = 0;
        while Instant::now() < end {
            let users = self.clone();
            tokio::select! {
                _ = replacing.tick() => {
                    let gone = {
                        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
                        let at = dice.below(all.len());
                        (!all.is_empty()).then(|| all.swap_remove(at))
                    };
                    let Some(gone) = gone else { continue };
                    number += 1;
                    calls.spawn(async move {
                        users.user.remove(&gone).await?;
                        users.push(users.user.create_and_start(gone.0, number).await?);
                        Ok(true)
                    });
                }
                _ = inspecting.tick() => {
                    let Some(made) = self.pick(&mut dice) else { continue };
                    // It may be gone by now: then there is nothing to measure.
                    calls.spawn(async move { users.user.inspect(&made).await.map(|()| false).or(Ok(false)) });
                }
                _ = listing.tick() => {
                    let pool = dice.below(POOLS);
                    calls.spawn(async move { users.user.list(pool).await.map(|()| false) });
                }
                _ = watching.tick() => {
                    calls.spawn(async move { users.user.pool_use().await.map(|()| false) });
                }
                Some(done) = calls.join_next() => replaced += u64::from(done??),
            }
        }
        while let Some(done) = calls.join_next().await {
            replaced += u64::from(done??);
        }
        Ok(replaced)
    }
}
