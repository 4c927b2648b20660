//! The two engines that are compared, behind the same docker client.

mod dockerd;
mod plimsoll;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use xtask::images;
use xtask::process;
use xtask::repo::Repo;

pub(crate) use dockerd::Dockerd;
pub(crate) use plimsoll::Plimsoll;

/// The image all benchmarks run.
pub(crate) const IMAGE: &str = "busybox";

/// A Docker endpoint and the client that talks to it.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    client: PathBuf,
    socket: PathBuf,
    config: PathBuf,
}

impl Endpoint {
    /// The docker client, talking to this endpoint.
    pub(crate) fn docker(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.client);
        command.env("DOCKER_HOST", format!("unix://{}", self.socket.display()));
        command.env("DOCKER_CONFIG", &self.config);
        command.env_remove("DOCKER_CONTEXT").args(arguments);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the client; the answer is how long it took, in seconds.
    pub(crate) fn timed(&self, arguments: &[&str]) -> Result<f64> {
        let mut command = self.docker(arguments);
        let line = process::line(&command);
        let started = Instant::now();
        let output = command.output().with_context(|| format!("start {line}"))?;
        let seconds = started.elapsed().as_secs_f64();
        if !output.status.success() {
            bail!(
                "{line}: {}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(seconds)
    }

    /// Loads [`IMAGE`] and runs it once, so that nothing is measured that happens once only.
    fn prepare(&self, repo: &Repo) -> Result<()> {
        let archive = images::build(repo, IMAGE)?.display().to_string();
        self.timed(&["load", "-q", "-i", &archive])?;
        self.timed(&["run", "--rm", IMAGE, "true"]).map(drop)
    }

    /// Removes all containers.
    pub(crate) fn clear(&self) -> Result<()> {
        let ids = process::read(self.docker(&["ps", "-aq"]).stdout(Stdio::piped()))?;
        let ids: Vec<&str> = ids.split_whitespace().collect();
        for part in ids.chunks(20) {
            self.timed(&[&["rm", "-f"], part].concat())?;
        }
        Ok(())
    }
}
