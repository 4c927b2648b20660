//! Many seeds, each in a process of its own: exactly repeatable, and what hangs is found.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::run::{Failure, Options, Report};

/// How long one simulation may take on a busy machine before it counts as hanging.
const LIMIT: Duration = Duration::from_secs(120);

/// A simulation in a process of its own.
pub struct Running {
    child: Child,
    options: Options,
    began: Instant,
}

/// Arguments that repeat a run.
#[must_use]
pub fn arguments(options: &Options) -> Vec<String> {
    let mut words = vec![
        "--seed".to_owned(),
        options.seed.to_string(),
        "--hosts".to_owned(),
        options.size.hosts.to_string(),
        "--steps".to_owned(),
        options.size.steps.to_string(),
    ];
    if let Some(only) = &options.only {
        let list: Vec<String> = only.iter().map(ToString::to_string).collect();
        words.push("--only".to_owned());
        words.push(list.join(","));
    }
    words
}

/// Begins a run.
///
/// # Errors
/// When this program cannot be started again.
pub fn spawn(options: &Options) -> anyhow::Result<Running> {
    let program: PathBuf = std::env::current_exe().context("cannot find this program")?;
    let child = Command::new(program)
        .args(arguments(options))
        .args(["--json", "--plain"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start a simulation")?;
    Ok(Running {
        child,
        options: options.clone(),
        began: Instant::now(),
    })
}

impl Running {
    /// The report, if it has ended.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub fn poll(&mut self) -> anyhow::Result<Option<Report>> {
        if self.child.try_wait()?.is_none() {
            if self.began.elapsed() < LIMIT {
                return Ok(None);
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
            return Ok(Some(self.dead("hangs", "it took longer than two minutes")));
        }
        let mut text = String::new();
        if let Some(mut output) = self.child.stdout.take() {
            output.read_to_string(&mut text)?;
        }
        Ok(Some(serde_json::from_str(&text).unwrap_or_else(|_| {
            self.dead("runs", "it ended without a report")
        })))
    }

    fn dead(&self, invariant: &str, why: &str) -> Report {
        Report {
            seed: self.options.seed,
            hash: String::new(),
            steps: 0,
            commits: 0,
            starts: 0,
            failure: Some(Failure {
                step: None,
                invariant: invariant.to_owned(),
                why: why.to_owned(),
                tail: Vec::new(),
            }),
        }
    }
}

/// Runs one in a process of its own and waits for it.
///
/// # Errors
/// When it cannot be started.
pub fn one(options: &Options) -> anyhow::Result<Report> {
    let mut running = spawn(options)?;
    loop {
        if let Some(report) = running.poll()? {
            return Ok(report);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs many, some at a time; each report is handed over as it comes. Ends early when told `false`.
///
/// # Errors
/// When a process cannot be started.
pub fn many(
    all: impl Iterator<Item = Options>,
    jobs: usize,
    mut report: impl FnMut(Report) -> bool,
) -> anyhow::Result<()> {
    let mut all = all.fuse();
    let mut running: Vec<Running> = Vec::new();
    loop {
        while running.len() < jobs.max(1) {
            match all.next() {
                Some(options) => running.push(spawn(&options)?),
                None => break,
            }
        }
        if running.is_empty() {
            return Ok(());
        }
        let mut index = 0;
        while index < running.len() {
            match running[index].poll()? {
                Some(done) => {
                    running.swap_remove(index);
                    if !report(done) {
                        for mut rest in running {
                            let _ = rest.child.kill();
                            let _ = rest.child.wait();
                        }
                        return Ok(());
                    }
                }
                None => index += 1,
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
