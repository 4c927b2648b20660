//! Debian's dockerd and containerd, started by hand.
//!
//! They run in a mount and a network namespace of their own, with folders of their own: bridge, packet filter rules and
//! mounts end with them, and no daemon of the machine is touched.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use xtask::repo::Repo;
use xtask::{process, setup};

use super::Endpoint;

/// Parent cgroup of its containers; removed at the end.
const CGROUP: &str = "plimsoll-bench-dockerd";
/// dockerd and containerd get this long to come up and to go.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running dockerd.
pub(crate) struct Dockerd {
    /// The namespaces' first process; dockerd and containerd are its children.
    child: Child,
    folder: TempDir,
    /// Its endpoint.
    pub(crate) endpoint: Endpoint,
}

/// Run inside the new namespaces. `$1` is the folder. When the shell is told to end, it ends both daemons and waits.
const SCRIPT: &str = "
set -e
ip link set lo up
containerd --config \"$1/containerd.toml\" >\"$1/containerd.log\" 2>&1 &
containerd=$!
while [ ! -S \"$1/containerd.sock\" ]; do kill -0 $containerd; sleep 0.05; done
dockerd --data-root \"$1/data\" --exec-root \"$1/exec\" --pidfile \"$1/dockerd.pid\" --config-file \"$1/daemon.json\" \
    --containerd \"$1/containerd.sock\" --cgroup-parent \"/$2\" -H \"unix://$1/docker.sock\" >\"$1/dockerd.log\" 2>&1 &
dockerd=$!
trap 'kill $dockerd; wait $dockerd; kill $containerd; wait $containerd; exit 0' TERM
wait $dockerd
kill $containerd
";

impl Dockerd {
    /// Starts one.
    pub(crate) fn start(repo: &Repo) -> Result<Self> {
        setup::install(setup::Purpose::Bench)?;
        let folder = tempfile::Builder::new()
            .prefix("plimsoll-dockerd-")
            .tempdir()?;
        let path = folder.path();
        std::fs::write(path.join("containerd.toml"), containerd_config(path))?;
        std::fs::write(path.join("daemon.json"), "{}")?;
        let mut unshare = Command::new("unshare");
        unshare.args([
            "--net",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            SCRIPT,
            "sh",
        ]);
        unshare.arg(path).arg(CGROUP).process_group(0);
        unshare
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit());
        let child = unshare.spawn().context("start unshare")?;
        let endpoint = Endpoint {
            client: setup::docker_client(repo)?,
            socket: path.join("docker.sock"),
            config: path.join("client"),
        };
        let mut dockerd = Self {
            child,
            folder,
            endpoint,
        };
        dockerd.ready()?;
        dockerd.endpoint.prepare(repo)?;
        Ok(dockerd)
    }

    fn ready(&mut self) -> Result<()> {
        let started = Instant::now();
        while process::read(&mut self.endpoint.docker(&["version"])).is_err() {
            let ended = self.child.try_wait()?.is_some();
            if ended || started.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(self.folder.path().join("dockerd.log"));
                bail!("dockerd does not come up: {}", log.unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

fn containerd_config(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "version = 2\nroot = \"{folder}/containerd\"\nstate = \"{folder}/containerd-state\"\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{folder}/containerd.sock\"\n"
    )
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        if let Err(error) = self.endpoint.clear() {
            eprintln!("{error:#}");
        }
        let Ok(pid) = i32::try_from(self.child.id()) else {
            return;
        };
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        let started = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if started.elapsed() > PATIENCE {
                // The whole process group: it holds nothing but the two daemons.
                let _ = kill(Pid::from_raw(-pid), Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        remove_cgroups();
    }
}

/// Removes the empty parent cgroups, in every hierarchy.
fn remove_cgroups() {
    for entry in std::fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten()
    {
        let _ = std::fs::remove_dir(entry.path().join(CGROUP));
    }
    let _ = std::fs::remove_dir(Path::new("/sys/fs/cgroup").join(CGROUP));
}
