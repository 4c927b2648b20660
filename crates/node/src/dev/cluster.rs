//! Brings a cluster up, and says what is up.

use std::collections::BTreeMap;
use std::fs;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use wire::native::host::{Host, State as HostState};

use super::api::Server;
use super::commands::UpArgs;
use super::plan::{Plan, SERVER_PORT, host_address, server_address};
use super::processes::{self, Process};
use super::programs::{self, SERVER};
use super::state::{self, State};
use super::topology;

/// Hosts without `--hosts`: enough to see placement and the loss of one.
const HOSTS_USUAL: u32 = 3;
/// What a program gets until it is ready; the first start on a slow disk takes a few seconds.
const READY: Duration = Duration::from_secs(60);
/// How often is asked.
const ASK: Duration = Duration::from_millis(20);
/// Lines of a log that are shown when its program fails.
const TAIL_LINES: usize = 15;
/// Programs needed beside our own, with their Debian packages.
const NEEDED: [(&str, &str); 3] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
];

/// Brings up what is not running.
pub(super) async fn up(plan: &Plan, args: &UpArgs) -> Result<State> {
    check_machine()?;
    state::claim(plan)?;
    let lock = state::lock(plan)?;
    // Two clusters that are made at the same moment must not choose the same addresses.
    let machine = state::lock_machine()?;
    let mut state = prepare(plan, args.hosts)?;
    state.host_cpus = args.host_cpus.or(state.host_cpus);
    state.host_memory = args.host_memory.or(state.host_memory);
    state::write(plan, &state)?;
    let mut up = Up {
        plan,
        server: Server::new(&plan.socket()),
        children: BTreeMap::new(),
        started: 0,
    };
    topology::make_bridge(plan, state.underlay)?;
    drop(machine);
    up.server(&mut state).await?;
    for index in 1..=state.hosts {
        topology::make_host(plan, state.underlay, index)
            .with_context(|| format!("make the network of host {}", Plan::host(index)))?;
    }
    up.agents(&mut state).await?;
    up.wait_ready(&state).await?;
    if up.started == 0 {
        progress("everything was up already");
    }
    drop(lock);
    Ok(state)
}

fn progress(text: &str) {
    eprintln!("  {text}");
}

fn check_machine() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("a cluster needs root: namespaces, mounts and cgroups are made; run it with sudo");
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    for (program, package) in NEEDED {
        if !std::env::split_paths(&path).any(|folder| folder.join(program).exists()) {
            bail!("{program} is missing: apt-get install {package}");
        }
    }
    Ok(())
}

/// What is kept of the cluster, or a new one; addresses are checked, the number of hosts only grows.
fn prepare(plan: &Plan, hosts: Option<u32>) -> Result<State> {
    let mut state = match state::read(plan)? {
        Some(state) => state,
        None => {
            let state = State {
                // After the loss of the state file the namespaces tell how many there were.
                hosts: hosts.unwrap_or(match topology::namespaces(plan).len() {
                    0 => HOSTS_USUAL,
                    count => u32::try_from(count).unwrap_or(HOSTS_USUAL),
                }),
                underlay: topology::choose_underlay(plan)?,
                host_cpus: None,
                host_memory: None,
                programs: BTreeMap::new(),
            };
            progress(&format!(
                "new cluster {} with addresses {}",
                plan.name(),
                state.underlay
            ));
            state
        }
    };
    topology::check_underlay(plan, state.underlay)?;
    match hosts {
        Some(wanted) if wanted < state.hosts => bail!(
            "the cluster has {} hosts and cannot shrink to {wanted}: `plimsoll dev down --data {}` removes it",
            state.hosts,
            plan.folder.display()
        ),
        Some(wanted) => state.hosts = wanted,
        None => {}
    }
    adopt(plan, &mut state);
    state::write(plan, &state)?;
    Ok(state)
}

/// Finds programs again that run but are not in the state file (it was lost, or the start was cut off).
fn adopt(plan: &Plan, state: &mut State) {
    state.programs.retain(|_, process| process.alive());
    let known = state.programs.values().copied().collect();
    for process in processes::find(plan, &known) {
        if state.programs.values().any(|known| *known == process) {
            continue;
        }
        let line = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let after = |flag: &[u8]| words.iter().skip_while(|word| **word != flag).nth(1);
        let name = match words.get(1) {
            Some(&b"server") => Some(SERVER.to_owned()),
            Some(&b"agent") => {
                after(b"--name").map(|name| String::from_utf8_lossy(name).into_owned())
            }
            _ => None,
        };
        if let Some(name) = name {
            state.programs.entry(name).or_insert(process);
        }
    }
}

struct Up<'a> {
    plan: &'a Plan,
    server: Server,
    children: BTreeMap<String, Child>,
    started: usize,
}

impl Up<'_> {
    async fn server(&mut self, state: &mut State) -> Result<()> {
        if !state.programs.contains_key(SERVER) {
            // Of a server that was killed: connecting would only be refused, but waiting for it to appear is simpler.
            let _ = fs::remove_file(self.plan.socket());
            let (process, child) = programs::start_server(self.plan, state.underlay)?;
            self.note(state, SERVER, process, child)?;
        }
        let deadline = Instant::now() + READY;
        while self.server.hosts().await.is_err() {
            self.check_alive(state, SERVER)?;
            if Instant::now() > deadline {
                let error = self.server.hosts().await.err();
                let why = error.map(|error| format!("{error:#}")).unwrap_or_default();
                bail!("the server does not answer: {why}{}", self.tail(SERVER));
            }
            tokio::time::sleep(ASK).await;
        }
        Ok(())
    }

    async fn agents(&mut self, state: &mut State) -> Result<()> {
        let known = self.server.hosts().await?;
        for index in 1..=state.hosts {
            let name = Plan::host(index);
            if state.programs.contains_key(&name) {
                continue;
            }
            let token = match known.iter().any(|host| host.name == name) {
                true => None,
                false => Some(self.server.join_token().await?),
            };
            let (process, child) =
                programs::start_agent(self.plan, state, index, token.as_deref())?;
            self.note(state, &name, process, child)?;
        }
        Ok(())
    }

    fn note(
        &mut self,
        state: &mut State,
        name: &str,
        process: Process,
        child: Child,
    ) -> Result<()> {
        progress(&format!("started {name} (pid {})", process.pid));
        self.children.insert(name.to_owned(), child);
        self.started += 1;
        state.programs.insert(name.to_owned(), process);
        state::write(self.plan, state)
    }

    async fn wait_ready(&mut self, state: &State) -> Result<()> {
        let deadline = Instant::now() + READY;
        loop {
            let hosts = self.server.hosts().await.unwrap_or_default();
            let waiting: Vec<String> = (1..=state.hosts)
                .map(Plan::host)
                .filter(|name| {
                    !hosts
                        .iter()
                        .any(|host| host.name == *name && connected(host))
                })
                .collect();
            if waiting.is_empty() {
                return Ok(());
            }
            for name in waiting.iter().map(String::as_str).chain([SERVER]) {
                self.check_alive(state, name)?;
            }
            if Instant::now() > deadline {
                let tail = waiting
                    .first()
                    .map(|name| self.tail(name))
                    .unwrap_or_default();
                bail!(
                    "not ready after {} s: {}{tail}",
                    READY.as_secs(),
                    waiting.join(", ")
                );
            }
            tokio::time::sleep(ASK).await;
        }
    }

    fn check_alive(&mut self, state: &State, name: &str) -> Result<()> {
        if state
            .programs
            .get(name)
            .is_some_and(|process| process.alive())
        {
            return Ok(());
        }
        let ended = match self.children.get_mut(name).map(Child::try_wait) {
            Some(Ok(Some(status))) => format!(" ({status})"),
            _ => String::new(),
        };
        bail!("{name} ended{ended}{}", self.tail(name));
    }

    fn tail(&self, name: &str) -> String {
        let path = self.plan.log(name);
        let text = fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n  ");
        format!("\nend of {}:\n  {last}", path.display())
    }
}

fn connected(host: &Host) -> bool {
    match host.state {
        HostState::Ready | HostState::Cordoned | HostState::Draining | HostState::Drained => true,
        HostState::Unreachable | HostState::Lost => false,
    }
}

/// What runs of a cluster.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Status {
    /// Its folder.
    pub(super) data: String,
    /// Beginning of its names on this machine; `None`: there is no cluster.
    pub(super) name: Option<String>,
    /// Server and hosts.
    pub(super) programs: Vec<ProgramStatus>,
}

/// One program.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ProgramStatus {
    /// `server`, `h1`, …
    pub(super) name: String,
    /// `ready`, `running` (but not ready), `stopped`.
    pub(super) state: &'static str,
    /// Its pid; `None` if it does not run.
    pub(super) pid: Option<i32>,
    /// Where it listens or lives.
    pub(super) address: String,
}

impl Status {
    /// As the command's help says.
    pub(super) fn exit_code(&self) -> u8 {
        match (
            &self.name,
            self.programs.iter().all(|program| program.state == "ready"),
        ) {
            (None, _) => 3,
            (Some(_), true) => 0,
            (Some(_), false) => 6,
        }
    }
}

/// Says what runs.
pub(super) async fn status(plan: &Plan) -> Result<Status> {
    let mut status = Status {
        data: plan.folder.display().to_string(),
        name: None,
        programs: Vec::new(),
    };
    let Some(mut state) = state::read(plan)? else {
        return Ok(status);
    };
    adopt(plan, &mut state);
    status.name = Some(plan.name());
    let hosts = Server::new(&plan.socket()).hosts().await;
    let pid = |name: &str| state.programs.get(name).map(|process| process.pid);
    let word = |running: bool, ready: bool| match (running, ready) {
        (true, true) => "ready",
        (true, false) => "running",
        (false, _) => "stopped",
    };
    status.programs.push(ProgramStatus {
        name: SERVER.to_owned(),
        state: word(pid(SERVER).is_some(), hosts.is_ok()),
        pid: pid(SERVER),
        address: format!("{}:{SERVER_PORT}", server_address(state.underlay)),
    });
    let hosts = hosts.unwrap_or_default();
    for index in 1..=state.hosts {
        let name = Plan::host(index);
        let ready = hosts
            .iter()
            .any(|host| host.name == name && connected(host));
        status.programs.push(ProgramStatus {
            state: word(pid(&name).is_some(), ready),
            pid: pid(&name),
            address: host_address(state.underlay, index).to_string(),
            name,
        });
    }
    Ok(status)
}
