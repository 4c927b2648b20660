//! A development cluster on this machine, as `plimsoll dev up` makes it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use xtask::{images, process, repo::Repo, setup};

use crate::run::Run;
use crate::{Response, http};

/// A running cluster.
pub struct Cluster {
    data: PathBuf,
    program: PathBuf,
    /// Found when it is first asked for.
    id: OnceLock<String>,
    /// Keeps the folder until the cluster is gone; `None` for the shared one, whose folder the guard removes.
    _folder: Option<TempDir>,
    /// Takes the cluster down when its standard input closes, that is when this process ends in any way.
    _guard: std::process::Child,
}

/// A pool of a cluster, seen through its Docker endpoint.
pub struct Pool {
    /// Its name.
    pub name: String,
    socket: PathBuf,
    client: PathBuf,
    config: TempDir,
}

/// Programs of a cluster that tests kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The control plane.
    Server,
    /// A host's program.
    Agent,
}

/// Environment variable by which `dev down` knows the parts of a cluster.
const MARK: &str = "PLIMSOLL_DEV";

/// Makes pool names unique within this process.
static POOLS: AtomicU32 = AtomicU32::new(0);

impl Cluster {
    /// The cluster of three hosts that all tests of this process share.
    ///
    /// # Panics
    /// When it does not start.
    #[expect(
        clippy::unwrap_used,
        reason = "test support: without a cluster the test fails"
    )]
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(3).unwrap())
    }

    /// A cluster of its own, for tests that kill parts of it.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn start(hosts: u32) -> Result<Self> {
        Self::start_with(hosts, &[])
    }

    /// The same, with further options for `dev up`.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn start_with(hosts: u32, options: &[&str]) -> Result<Self> {
        let repo = Repo::discover()?;
        let program = program(&repo)?;
        let folder = tempfile::Builder::new().prefix("plimsoll-e2e-").tempdir()?;
        let data = folder.path().to_owned();
        let guard = guard(&program, &data)?;
        let cluster = Self {
            data,
            program,
            id: OnceLock::new(),
            _folder: Some(folder),
            _guard: guard,
        };
        cluster.up_options(hosts, &[], options)?;
        Ok(cluster)
    }

    /// Brings up what is not running; does nothing to what is.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn up(&self, hosts: u32) -> Result<()> {
        self.up_with(hosts, &[])
    }

    /// The same, with environment variables for the programs that are started.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn up_with(&self, hosts: u32, environment: &[(&str, &str)]) -> Result<()> {
        self.up_options(hosts, environment, &[])
    }

    fn up_options(&self, hosts: u32, environment: &[(&str, &str)], options: &[&str]) -> Result<()> {
        let hosts = hosts.to_string();
        let mut command = Command::new(&self.program);
        command.envs(environment.iter().copied());
        command
            .args(["dev", "up", "--hosts", &hosts, "--detach", "--data"])
            .arg(&self.data)
            .args(options);
        process::read(&mut command)
            .map(drop)
            .with_context(|| self.tails())
    }

    /// Removes the cluster and everything it made.
    ///
    /// # Errors
    /// When `dev down` fails.
    pub fn down(&self) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.args(["dev", "down", "--data"]).arg(&self.data);
        process::read(&mut command).map(drop)
    }

    /// The folder that holds all its state.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The `plimsoll` program, talking to this cluster.
    #[must_use]
    pub fn plimsoll(&self, arguments: &[&str]) -> Run {
        let mut command = Command::new(&self.program);
        command.env(
            "PLIMSOLL_SERVER",
            format!("unix://{}", self.data.join("server.sock").display()),
        );
        command.args(arguments);
        Run::new(command)
    }

    /// The `plimsoll` program, to be started as a part of this cluster: `dev down` finds and ends it.
    #[must_use]
    pub fn part(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env(MARK, &self.data);
        command
    }

    /// The beginning of a command line that runs a program in the network namespace of a host, as a part of this
    /// cluster. The first call must be made while agents run (see [`Cluster::id`]).
    #[must_use]
    pub fn in_host(&self, host: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/plim{}-{host}", self.id()))
            .arg("--")
            .env(MARK, &self.data);
        command
    }

    /// The `plimsoll` program itself.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// A new pool with the image `busybox:latest` in it.
    ///
    /// # Panics
    /// When it cannot be made.
    #[track_caller]
    #[must_use]
    pub fn pool(&self, hint: &str) -> Pool {
        let pool = self.empty_pool(hint);
        pool.load("busybox");
        pool
    }

    /// A new pool without images.
    ///
    /// # Panics
    /// When it cannot be made.
    #[track_caller]
    #[must_use]
    pub fn empty_pool(&self, hint: &str) -> Pool {
        let name = format!("{hint}{}", POOLS.fetch_add(1, Ordering::Relaxed));
        self.plimsoll(&["pool", "create", &name]).ok();
        Pool::of_server(&self.data, &name)
    }

    /// The host that a workload of a pool is on.
    ///
    /// # Panics
    /// When it is on none.
    #[expect(
        clippy::unwrap_used,
        reason = "test support: without it the test fails"
    )]
    #[must_use]
    pub fn host_of(&self, pool: &Pool, name: &str) -> String {
        let shown = self.plimsoll(&["ps", "--output", "json"]).ok();
        let all: serde_json::Value = serde_json::from_str(&shown).unwrap();
        let all = all.as_array().or_else(|| all["items"].as_array()).unwrap();
        let one = all
            .iter()
            .find(|it| it["pool"]["name"] == pool.name.as_str() && it["name"] == name);
        one.unwrap()["host"]["name"].as_str().unwrap().to_owned()
    }

    /// Process ids of the cluster's programs of this role.
    #[must_use]
    pub fn pids(&self, role: Role) -> Vec<i32> {
        let word: &[u8] = match role {
            Role::Server => b"server",
            Role::Agent => b"agent",
        };
        let data = self.data.as_os_str().as_encoded_bytes();
        processes()
            .into_iter()
            .filter(|(_, command)| {
                command.split(|b| *b == 0).any(|argument| argument == word)
                    && command.windows(data.len()).any(|window| window == data)
            })
            .map(|(pid, _)| pid)
            .collect()
    }

    /// Kills all programs of this role at once, without warning.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn kill(&self, role: Role) {
        use nix::sys::signal::{Signal, kill};
        let pids = self.pids(role);
        assert!(!pids.is_empty(), "no {role:?} runs");
        for pid in &pids {
            let _ = kill(nix::unistd::Pid::from_raw(*pid), Signal::SIGKILL);
        }
        crate::eventually("the killed processes are gone", || {
            let there = |pid: &&i32| Path::new(&format!("/proc/{pid}")).exists();
            let left = pids.iter().filter(there).count();
            if left == 0 {
                Ok(())
            } else {
                Err(format!("{left} left"))
            }
        });
    }

    /// Cuts a host off from the server, or connects it again: its link on the underlay bridge.
    ///
    /// # Panics
    /// When no agent runs or `ip` fails.
    #[expect(
        clippy::unwrap_used,
        reason = "test support: without a link the test fails"
    )]
    pub fn set_link(&self, host: &str, up: bool) {
        let state = if up { "up" } else { "down" };
        let link = format!("plim{}-{}", self.id(), host.trim_start_matches('h'));
        process::run(Command::new("ip").args(["link", "set", &link, state])).unwrap();
    }

    /// The cluster's part of all its names in the kernel, from the arguments of an agent (`--cgroup ID-hN`). It is
    /// known once it was asked for while agents ran.
    ///
    /// # Panics
    /// When no agent runs at the first call.
    #[must_use]
    pub fn id(&self) -> &str {
        self.id.get_or_init(|| self.find_id())
    }

    #[expect(
        clippy::unwrap_used,
        reason = "test support: without a cluster the test fails"
    )]
    fn find_id(&self) -> String {
        let agent = self.pids(Role::Agent).first().copied().unwrap();
        let command = std::fs::read(format!("/proc/{agent}/cmdline")).unwrap();
        let command = String::from_utf8(command).unwrap();
        let mut arguments = command
            .split('\0')
            .skip_while(|argument| *argument != "--cgroup");
        let (id, _) = arguments
            .nth(1)
            .and_then(|name| name.rsplit_once('-'))
            .unwrap();
        id.to_owned()
    }

    /// An address of this machine that the cluster's hosts reach: the gateway of their namespaces.
    ///
    /// # Panics
    /// When no host has a way out.
    #[must_use]
    #[expect(
        clippy::unwrap_used,
        reason = "test support: without an address the test fails"
    )]
    pub fn underlay_address(&self) -> String {
        let agent = self.pids(Role::Agent).first().copied().unwrap();
        let mut route = Command::new("nsenter");
        route.args([
            "-t",
            &agent.to_string(),
            "-n",
            "ip",
            "-o",
            "route",
            "show",
            "default",
        ]);
        let routes = process::read(&mut route).unwrap();
        // default via 10.1.0.1 dev eth0
        routes.split_whitespace().nth(2).unwrap().to_owned()
    }

    /// The last lines of the cluster's logs, for messages.
    fn tails(&self) -> String {
        let mut text = String::from("logs of the cluster:\n");
        let mut open = vec![self.data.clone()];
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() && open.len() < 100 {
                    open.push(path);
                } else if path.extension().is_some_and(|e| e == "log") {
                    let log = std::fs::read_to_string(&path).unwrap_or_default();
                    let lines: Vec<&str> = log.lines().collect();
                    let tail = lines[lines.len().saturating_sub(10)..].join("\n");
                    text.push_str(&format!("--- {}\n{tail}\n", path.display()));
                }
            }
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.down() {
            println!("dev down: {error:#}");
        }
    }
}

impl Pool {
    /// A pool as the server with this data folder shows it; waits for its socket.
    ///
    /// # Panics
    /// When the socket does not appear.
    #[track_caller]
    #[must_use]
    #[expect(
        clippy::unwrap_used,
        reason = "test support: without a pool the test fails"
    )]
    pub fn of_server(data: &Path, name: &str) -> Self {
        let socket = data.join("pools").join(format!("{name}.sock"));
        crate::eventually("the pool's socket", || {
            if socket.exists() {
                Ok(())
            } else {
                Err(format!("no {}", socket.display()))
            }
        });
        Self {
            name: name.to_owned(),
            socket,
            client: client(),
            config: tempfile::tempdir().unwrap(),
        }
    }

    /// The unmodified docker client, talking to this pool.
    #[must_use]
    pub fn docker(&self, arguments: &[&str]) -> Run {
        let mut command = Command::new(&self.client);
        command.env("DOCKER_HOST", format!("unix://{}", self.socket.display()));
        command.env("DOCKER_CONFIG", self.config.path());
        command.env_remove("DOCKER_CONTEXT").args(arguments);
        Run::new(command)
    }

    /// Loads one of the project's images.
    ///
    /// # Panics
    /// When it cannot be built or loaded.
    #[track_caller]
    pub fn load(&self, image: &str) {
        let archive = archive(image);
        self.docker(&["load", "-q", "-i"]).arg(archive).ok();
    }

    /// The socket of its Docker endpoint.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A well-formed request to its Docker endpoint.
    ///
    /// # Panics
    /// When no HTTP answer comes.
    #[track_caller]
    #[must_use]
    pub fn http(&self, method: &str, target: &str, body: Option<&str>) -> Response {
        match http::request(&self.socket, method, target, body) {
            Ok(response) => response,
            Err(error) => panic!("{method} {target}: {error:#}"),
        }
    }

    /// One field of `docker inspect`, by Go template.
    ///
    /// # Panics
    /// When the object does not exist.
    #[track_caller]
    #[must_use]
    pub fn inspect(&self, name: &str, template: &str) -> String {
        self.docker(&["inspect", "--format", template, name]).ok()
    }
}

/// The archive of one of the project's images, built once for all test processes.
///
/// # Panics
/// When it cannot be built.
#[must_use]
#[expect(
    clippy::unwrap_used,
    reason = "test support: without an image the test fails"
)]
pub fn archive(image: &str) -> PathBuf {
    static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one_at_a_time = LOCK.lock();
    images::build(&Repo::discover().unwrap(), image).unwrap()
}

/// The docker client, found or unpacked once.
#[expect(
    clippy::unwrap_used,
    reason = "test support: without docker the test fails"
)]
fn client() -> PathBuf {
    static CLIENT: OnceLock<PathBuf> = OnceLock::new();
    CLIENT
        .get_or_init(|| setup::docker_client(&Repo::discover().unwrap()).unwrap())
        .clone()
}

/// The program to test: named by `PLIMSOLL`, else the one beside the tests, built if it is not there.
fn program(repo: &Repo) -> Result<PathBuf> {
    if let Some(program) = std::env::var_os("PLIMSOLL") {
        return Ok(program.into());
    }
    // target/debug/deps/e2e-… → target/debug/plimsoll
    let test = std::env::current_exe()?;
    let folder = test
        .parent()
        .and_then(Path::parent)
        .context("the test program has no folder")?;
    let program = folder.join("plimsoll");
    if !program.is_file() {
        process::run(process::cargo(repo).args(["build", "--workspace", "--bins", "--locked"]))?;
    }
    if !program.is_file() {
        bail!("there is no {}; build it first", program.display());
    }
    Ok(program)
}

/// A process that takes the cluster down when this one ends, however it ends.
fn guard(program: &Path, data: &Path) -> Result<std::process::Child> {
    let mut guard = Command::new("setsid");
    guard.args([
        "sh",
        "-c",
        "cat >/dev/null; [ ! -e \"$2\" ] || { \"$1\" dev down --data \"$2\"; rm -rf \"$2\"; }",
        "guard",
    ]);
    guard.arg(program).arg(data);
    guard
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    guard.spawn().context("start the guard")
}

/// Ids of the processes with this argument on their command line.
#[must_use]
pub fn processes_with(argument: &str) -> Vec<i32> {
    let has = |command: &[u8]| {
        command
            .split(|b| *b == 0)
            .any(|word| word == argument.as_bytes())
    };
    processes()
        .into_iter()
        .filter(|(_, command)| has(command))
        .map(|(pid, _)| pid)
        .collect()
}

/// Ids and command lines of all processes.
fn processes() -> Vec<(i32, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        if let Ok(command) = std::fs::read(entry.path().join("cmdline")) {
            all.push((pid, command));
        }
    }
    all
}
