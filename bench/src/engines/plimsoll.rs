//! A Plimsoll cluster in a folder of its own, built as the demo builds it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use xtask::repo::Repo;
use xtask::{demo, process, setup};

use super::Endpoint;

/// A running cluster with one pool.
pub(crate) struct Plimsoll {
    program: PathBuf,
    folder: TempDir,
    /// The pool's endpoint.
    pub(crate) endpoint: Endpoint,
}

impl Plimsoll {
    /// Builds and starts one.
    pub(crate) fn start(repo: &Repo, hosts: u32) -> Result<Self> {
        let program = demo::build(repo)?;
        let folder = tempfile::Builder::new()
            .prefix("plimsoll-bench-")
            .tempdir()?;
        let data = folder.path().join("data");
        let endpoint = Endpoint {
            client: setup::docker_client(repo)?,
            socket: data.join("pools/bench.sock"),
            config: folder.path().join("docker"),
        };
        let cluster = Self {
            program,
            folder,
            endpoint,
        };
        let hosts = hosts.to_string();
        let mut up = Command::new(&cluster.program);
        up.args(["dev", "up", "--hosts", &hosts, "--detach", "--data"])
            .arg(cluster.data());
        process::read(&mut up)?;
        let server = format!("unix://{}", cluster.data().join("server.sock").display());
        let mut create = Command::new(&cluster.program);
        create
            .env("PLIMSOLL_SERVER", server)
            .args(["pool", "create", "bench"]);
        process::read(&mut create)?;
        cluster.endpoint.prepare(repo)?;
        Ok(cluster)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Proportional set sizes in MiB of the cluster's processes whose command line has `word`.
    pub(crate) fn pss(&self, word: &str) -> Result<Vec<f64>> {
        let data = self.data();
        let data = data.as_os_str().as_encoded_bytes();
        let mut sizes = Vec::new();
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Ok(command) = std::fs::read(entry.path().join("cmdline")) else {
                continue;
            };
            let has_word = command.split(|byte| *byte == 0).any(|argument| {
                argument == word.as_bytes() || argument.ends_with(format!("/{word}").as_bytes())
            });
            if has_word && command.windows(data.len()).any(|window| window == data) {
                sizes.push(pss_mib(&entry.path())?);
            }
        }
        if sizes.is_empty() {
            bail!("no process of the cluster has {word} on its command line");
        }
        Ok(sizes)
    }
}

fn pss_mib(process: &Path) -> Result<f64> {
    let path = process.join("smaps_rollup");
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .context("no Pss line")?;
    let kib: f64 = line
        .split_whitespace()
        .next()
        .context("no Pss value")?
        .parse()?;
    Ok(kib / 1024.0)
}

impl Drop for Plimsoll {
    fn drop(&mut self) {
        let mut down = Command::new(&self.program);
        down.args(["dev", "down", "--data"]).arg(self.data());
        if let Err(error) = process::read(&mut down) {
            eprintln!("{error:#}");
        }
    }
}
