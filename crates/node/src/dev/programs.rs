//! The programs of a cluster: their command lines, in this one place.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use drivers::network::Subnet;

use super::plan::{Plan, SERVER_PORT, host_address, server_address};
use super::processes::{MARK, Process};
use super::state::State;
use super::topology::namespace_path;

/// A log is begun anew when it is larger than this at a start; the old one is kept beside it.
const LOG_BYTES: u64 = 10 << 20;

/// Name of the server in logs and state.
pub(super) const SERVER: &str = "server";

/// The server, in the machine's own namespace.
fn server(plan: &Plan, underlay: Subnet) -> Result<Command> {
    let mut command = Command::new(own_program()?);
    command
        .arg("server")
        .arg("--data")
        .arg(&plan.folder)
        .arg("--listen")
        .arg(format!("{}:{SERVER_PORT}", server_address(underlay)));
    Ok(command)
}

/// An agent, in the namespace of its host. `token` lets it join; one that has joined needs none.
fn agent(plan: &Plan, state: &State, index: u32, token: Option<&str>) -> Result<Command> {
    let underlay = state.underlay;
    let mut command = Command::new("nsenter");
    let mut namespace = std::ffi::OsString::from("--net=");
    namespace.push(namespace_path(plan, index));
    command.arg(namespace).arg("--").arg(own_program()?);
    command
        .arg("agent")
        .arg("--data")
        .arg(plan.host_folder(index))
        .arg("--server")
        .arg(format!("{}:{SERVER_PORT}", server_address(underlay)))
        .arg("--name")
        .arg(Plan::host(index))
        .arg("--address")
        .arg(host_address(underlay, index).to_string())
        .arg("--cgroup")
        .arg(plan.cgroup(index));
    if let Some(millis) = state.host_cpus {
        command.arg("--cpus").arg(format!("{millis}m"));
    }
    if let Some(bytes) = state.host_memory {
        command.arg("--memory").arg(bytes.to_string());
    }
    if let Some(token) = token {
        // Not an argument: those can be read by every user of the machine.
        command.env("PLIMSOLL_JOIN_TOKEN", token);
    }
    Ok(command)
}

fn own_program() -> Result<std::path::PathBuf> {
    // Not `/proc/self/exe` itself: the name is shown by `ps`. After a rebuild it ends in " (deleted)".
    let path = std::env::current_exe().context("find this program's own file")?;
    let text = path.to_string_lossy();
    Ok(match text.strip_suffix(" (deleted)") {
        Some(replaced) if Path::new(replaced).exists() => replaced.into(),
        _ => path,
    })
}

/// Starts the server.
pub(super) fn start_server(plan: &Plan, underlay: Subnet) -> Result<(Process, Child)> {
    start(plan, SERVER, server(plan, underlay)?)
}

/// Starts an agent.
pub(super) fn start_agent(
    plan: &Plan,
    state: &State,
    index: u32,
    token: Option<&str>,
) -> Result<(Process, Child)> {
    let folder = plan.host_folder(index);
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    start(plan, &Plan::host(index), agent(plan, state, index, token)?)
}

/// Starts a program that outlives this one: own process group, output to its log, marked.
fn start(plan: &Plan, name: &str, mut command: Command) -> Result<(Process, Child)> {
    let path = plan.log(name);
    let folder = plan.folder.join("logs");
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    if std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LOG_BYTES) {
        std::fs::rename(&path, path.with_extension("log.1"))
            .with_context(|| format!("rename {}", path.display()))?;
    }
    let log = OpenOptions::new().create(true).append(true).open(&path);
    let log = log.with_context(|| format!("open {}", path.display()))?;
    let errors = log
        .try_clone()
        .with_context(|| format!("open {}", path.display()))?;
    let child = command
        .env(MARK, &plan.folder)
        .current_dir(&plan.folder)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .process_group(0)
        .spawn()
        .with_context(|| format!("start {name}"))?;
    let pid = i32::try_from(child.id()).context("a pid is a small number")?;
    let process = Process::of(pid).with_context(|| format!("{name} ended at once"))?;
    Ok((process, child))
}
