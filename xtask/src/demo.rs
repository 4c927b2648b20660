//! `make demo`: a real cluster on this machine, shown step by step; `make demo-down`: nothing of it is left.
//!
//! Everything is done with the commands a user has: `plimsoll` and an unmodified docker client. Every step looks first
//! whether it is done already, so that the demo can be repeated.

mod traces;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::repo::Repo;
use crate::{images, process, setup};
pub use traces::traces;

/// Hosts of the demo cluster.
const HOSTS: &str = "3";

/// A container of the demo, as arguments of `docker run`.
struct Shown {
    pool: &'static str,
    name: &'static str,
    image: &'static str,
    options: &'static [&'static str],
    command: &'static [&'static str],
}

const SHOWN: &[Shown] = &[
    Shown {
        pool: "team-a",
        name: "web",
        image: "nginx",
        options: &["-p", "8080:80", "--memory", "64m"],
        command: &[],
    },
    Shown {
        pool: "team-a",
        name: "cache",
        image: "redis",
        options: &["--memory", "128m", "--restart", "always"],
        command: &[],
    },
    Shown {
        pool: "team-b",
        name: "web",
        image: "nginx",
        options: &["-p", "8081:80", "--memory", "64m"],
        command: &[],
    },
    Shown {
        pool: "team-b",
        name: "clock",
        image: "busybox",
        options: &["--memory", "16m", "--cpus", "0.1"],
        command: &["sh", "-c", "while :; do date; sleep 1; done"],
    },
];

/// The demo's programs and folders.
struct Demo {
    plimsoll: PathBuf,
    docker: PathBuf,
    data: PathBuf,
}

/// Where the demo cluster keeps its state: `PLIMSOLL_DEMO_DATA`, else a folder with a short path (the path of a unix
/// socket may have 107 bytes).
fn data() -> PathBuf {
    std::env::var_os("PLIMSOLL_DEMO_DATA")
        .map_or_else(|| "/var/lib/plimsoll-demo".into(), PathBuf::from)
}

/// Starts the demo cluster, or shows the one that runs.
///
/// # Errors
/// When a step fails.
pub fn up(repo: &Repo) -> Result<()> {
    step("packages");
    setup::install(setup::Purpose::Demo)?;
    let docker = setup::docker_client(repo)?;
    step("build (release; the first time takes some minutes)");
    let plimsoll = build(repo)?;
    step("images from Debian packages");
    for name in ["busybox", "nginx", "redis"] {
        let path = images::build(repo, name)?;
        println!("    {name}:latest  {}", path.display());
    }
    let demo = Demo {
        plimsoll,
        docker,
        data: data(),
    };
    let started = Instant::now();
    demo.start(repo)?;
    let seconds = started.elapsed().as_secs_f64();
    demo.show()?;
    println!(
        "\nFrom nothing to {} running containers: {seconds:.1} s",
        SHOWN.len()
    );
    demo.next();
    Ok(())
}

/// How many seconds the demo takes after the build, in a folder of its own that is removed again.
///
/// # Errors
/// When a step fails.
pub fn measure(repo: &Repo) -> Result<f64> {
    let docker = setup::docker_client(repo)?;
    let plimsoll = build(repo)?;
    for name in ["busybox", "nginx", "redis"] {
        images::build(repo, name)?;
    }
    let data = std::env::temp_dir().join(format!("plimsoll-demo-{}", std::process::id()));
    let demo = Demo {
        plimsoll,
        docker,
        data,
    };
    let started = Instant::now();
    let result = demo.start(repo).map(|()| started.elapsed().as_secs_f64());
    let mut down = Command::new(&demo.plimsoll);
    let down = process::read(down.args(["dev", "down", "--data"]).arg(&demo.data));
    remove(&demo.data)?;
    down?;
    result
}

/// Builds the programs and returns the path of `plimsoll`; the shim is beside it. With the environment variable
/// `PLIMSOLL`, that program is taken instead.
///
/// # Errors
/// When the build fails.
pub fn build(repo: &Repo) -> Result<PathBuf> {
    if let Some(program) = std::env::var_os("PLIMSOLL") {
        return Ok(program.into());
    }
    process::run(process::cargo(repo).args(["build", "--release", "--locked", "-p", "node"]))?;
    // One shim per task: it is built for size.
    process::run(process::cargo(repo).args([
        "build",
        "--profile",
        "shim",
        "--locked",
        "-p",
        "shim",
    ]))?;
    let folder = repo.target().join("demo");
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    for (profile, name) in [("release", "plimsoll"), ("shim", "plimsoll-shim")] {
        let (from, to) = (repo.target().join(profile).join(name), folder.join(name));
        // A running program's file cannot be overwritten, only replaced.
        let new = folder.join(format!("{name}.new"));
        std::fs::copy(&from, &new)
            .and_then(|_| std::fs::rename(&new, &to))
            .with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    }
    Ok(folder.join("plimsoll"))
}

fn step(what: &str) {
    println!("==> {what}");
}

impl Demo {
    fn start(&self, repo: &Repo) -> Result<()> {
        step("a server and three hosts on this machine");
        let mut up = self.plimsoll();
        up.args(["dev", "up", "--hosts", HOSTS, "--detach", "--data"])
            .arg(&self.data);
        process::run(&mut up)?;
        step("two pools");
        for pool in ["team-a", "team-b"] {
            if process::read(self.plimsoll().args(["pool", "show", pool])).is_err() {
                process::run(self.plimsoll().args(["--quiet", "pool", "create", pool]))?;
            }
        }
        step("images into the pools, with docker load");
        for (pool, image) in pool_images() {
            if process::read(self.docker(pool).args(["image", "inspect", image])).is_err() {
                let archive = images::build(repo, image)?;
                process::run(self.docker(pool).args(["load", "-q", "-i"]).arg(archive))?;
            }
        }
        step("containers in both pools, with docker run");
        for Shown {
            pool,
            name,
            image,
            options,
            command,
        } in SHOWN
        {
            if process::read(self.docker(pool).args(["inspect", name])).is_ok() {
                process::read(self.docker(pool).args(["start", name]))?;
                continue;
            }
            let mut run = self.docker(pool);
            run.args(["run", "-d", "--name", name])
                .args(*options)
                .arg(image)
                .args(*command);
            println!("    {pool}: {}", process::line(&run));
            process::read(&mut run)?;
        }
        Ok(())
    }

    fn show(&self) -> Result<()> {
        for pool in ["team-a", "team-b"] {
            step(&format!("docker ps in {pool}"));
            let format = "table {{.ID}}\t{{.Names}}\t{{.Image}}\t{{.Status}}\t{{.Ports}}";
            process::run(self.docker(pool).args(["ps", "--format", format]))?;
        }
        step("plimsoll ps");
        process::run(self.plimsoll().arg("ps"))?;
        step("plimsoll host ls");
        process::run(self.plimsoll().args(["host", "ls"]))?;
        let address = self.address_of("team-a", "web")?;
        step(&format!("curl http://{address}:8080/"));
        let mut curl = Command::new("curl");
        curl.args([
            "-sS",
            "--max-time",
            "5",
            "--retry",
            "5",
            "--retry-connrefused",
        ]);
        process::run(curl.arg(format!("http://{address}:8080/")))
    }

    /// The address of the host that runs a workload.
    fn address_of(&self, pool: &str, name: &str) -> Result<String> {
        let list = |arguments: &[&str]| -> Result<Vec<serde_json::Value>> {
            let text = process::read(self.plimsoll().args(arguments).args(["-o", "json"]))?;
            let mut value: serde_json::Value = serde_json::from_str(&text)?;
            serde_json::from_value(value["items"].take()).context("a list without items")
        };
        let workloads = list(&["ps", "--pool", pool])?;
        let workload = workloads.iter().find(|item| item["name"] == name);
        let host = &workload.with_context(|| format!("{pool} has no {name}"))?["host"]["id"];
        let hosts = list(&["host", "ls"])?;
        let host = hosts
            .iter()
            .find(|item| item["id"] == *host)
            .context("no such host")?;
        Ok(host["address"]
            .as_str()
            .context("a host without address")?
            .to_owned())
    }

    fn next(&self) {
        let (plimsoll, docker) = (self.plimsoll.display(), self.docker.display());
        let server = self.server();
        println!(
            "
What to try next:
  export PLIMSOLL_SERVER={server}
  alias plimsoll={plimsoll}
  eval \"$(plimsoll docker-env team-a)\"        # from here on, docker means the pool team-a
  {docker} ps
  {docker} run --rm busybox echo hello
  {docker} exec -it web sh
  {docker} logs -f web
  plimsoll ps                                  # all pools
  plimsoll events                              # what happens, as it happens
  plimsoll doctor                              # what this machine can and cannot do
Kill server and agents (`pkill -9 -x plimsoll`): the containers go on; `make demo` brings the rest back.
Remove everything: make demo-down"
        );
    }

    /// The address of the demo's server for `PLIMSOLL_SERVER`.
    fn server(&self) -> String {
        format!("unix://{}", self.data.join("server.sock").display())
    }

    fn plimsoll(&self) -> Command {
        let mut command = Command::new(&self.plimsoll);
        command.env("PLIMSOLL_SERVER", self.server());
        command
    }

    fn docker(&self, pool: &str) -> Command {
        let socket = self.data.join("pools").join(format!("{pool}.sock"));
        let mut command = Command::new(&self.docker);
        command.env("DOCKER_HOST", format!("unix://{}", socket.display()));
        command
            .env_remove("DOCKER_CONTEXT")
            .env_remove("DOCKER_TLS_VERIFY");
        command
    }
}

/// The images each pool needs, each once.
fn pool_images() -> Vec<(&'static str, &'static str)> {
    let mut all: Vec<_> = SHOWN.iter().map(|s| (s.pool, s.image)).collect();
    // For the first command that is suggested afterwards.
    all.push(("team-a", "busybox"));
    all.sort_unstable();
    all.dedup();
    all
}

/// Removes the demo cluster and says what is left, which must be nothing.
///
/// # Errors
/// When the program was never built, a step fails or something is left.
pub fn down(repo: &Repo) -> Result<()> {
    let data = data();
    let built = repo.target().join("demo/plimsoll");
    let plimsoll = std::env::var_os("PLIMSOLL").map_or(built, PathBuf::from);
    let before = traces(&data, None);
    if !plimsoll.is_file() {
        if before.is_empty() && !data.exists() {
            println!("there is no demo cluster");
            return Ok(());
        }
        bail!("{} is missing: `make demo` builds it", plimsoll.display());
    }
    let mut dev_down = Command::new(&plimsoll);
    let said = process::read(dev_down.args(["dev", "down", "--data"]).arg(&data))?;
    print!("{said}");
    let name = said
        .split_whitespace()
        .find(|word| word.starts_with("plim"));
    remove(&data)?;
    let after = traces(&data, name);
    println!("traces before: {}, after: {}", before.len(), after.len());
    if !after.is_empty() {
        bail!("left behind:\n{}", after.join("\n"));
    }
    Ok(())
}

fn remove(data: &Path) -> Result<()> {
    match std::fs::remove_dir_all(data) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", data.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pool_gets_its_images_once() {
        let all = pool_images();
        assert!(all.contains(&("team-a", "redis")) && all.contains(&("team-b", "busybox")));
        assert!(!all.contains(&("team-b", "redis")));
        assert_eq!(
            all.iter()
                .filter(|pair| **pair == ("team-a", "nginx"))
                .count(),
            1
        );
    }
}
