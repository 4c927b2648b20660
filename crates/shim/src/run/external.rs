//! Other OCI runtimes with runc's command line.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use shim::message::{Failure, FailureKind, Start};

use super::creator::{Creator, Job, accept_console, complete_env, null, write_json};
use super::identity::Identity;

/// The reason a runtime gives is cut off here.
const MAX_REASON: u64 = 4096;

fn failure(what: &str, error: impl std::fmt::Display) -> Failure {
    Failure {
        kind: FailureKind::Other,
        reason: format!("{what}: {error}"),
    }
}

fn set_user(process: &mut Value, identity: &Identity, terminal: bool) {
    complete_env(process, identity);
    let umask = process["user"]["umask"].clone();
    process["user"] =
        json!({"uid": identity.uid, "gid": identity.gid, "additionalGids": identity.groups});
    if !umask.is_null() {
        process["user"]["umask"] = umask;
    }
    process["terminal"] = json!(terminal);
}

/// `create` and `start`.
pub(crate) fn run_task(
    creator: &mut Creator,
    job: Job<'_>,
    program: &Path,
) -> Result<(i32, Option<OwnedFd>), Failure> {
    let Job {
        start,
        id,
        identity,
        mut document,
    } = job;
    if start.init {
        return Err(failure("init", "only the built-in runtime has one"));
    }
    set_user(
        &mut document["process"],
        &identity,
        start.terminal.is_some(),
    );
    let bundle = creator.dir.join("bundle");
    write_json(&bundle.join("config.json"), &document)?;
    let runtime = creator.dir.join("runtime");
    fs::create_dir_all(&runtime).map_err(|error| failure("runtime directory", error))?;
    let console = creator.console(start.terminal)?;
    let pid_file = creator.dir.join("pid");
    let mut create = command(creator, program, &runtime);
    create
        .arg("create")
        .arg("--bundle")
        .arg(&bundle)
        .arg("--pid-file")
        .arg(&pid_file);
    // Relative, because a long path does not fit into a socket address; `create` works in its bundle.
    streams(creator, start, &mut create, "../console")?;
    run(creator, create.arg(id))?;
    let pid = read_pid(&pid_file)?;
    let master = accept_console(console, start.terminal)?;
    let mut begin = command(creator, program, &runtime);
    begin
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if let Err(error) = run(creator, begin.arg("start").arg(id)) {
        delete(&creator.dir, program, id);
        return Err(error);
    }
    Ok((pid, master))
}

/// `exec --detach`.
pub(crate) fn run_exec(
    creator: &mut Creator,
    job: Job<'_>,
    program: &Path,
    task_dir: &Path,
) -> Result<(i32, Option<OwnedFd>), Failure> {
    let Job {
        start,
        id,
        identity,
        document: mut process,
    } = job;
    set_user(&mut process, &identity, start.terminal.is_some());
    let file = creator.dir.join("process.json");
    write_json(&file, &process)?;
    let console = creator.console(start.terminal)?;
    let pid_file = creator.dir.join("pid");
    let mut exec = command(creator, program, &task_dir.join("runtime"));
    exec.arg("exec")
        .arg("--detach")
        .arg("--process")
        .arg(&file)
        .arg("--pid-file")
        .arg(&pid_file);
    streams(creator, start, &mut exec, "console")?;
    run(creator, exec.arg(id))?;
    Ok((
        read_pid(&pid_file)?,
        accept_console(console, start.terminal)?,
    ))
}

fn command(creator: &Creator, program: &Path, runtime: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(&creator.dir)
        .arg("--root")
        .arg(runtime)
        .arg("--log")
        .arg(creator.dir.join("runtime.log"))
        .args(["--log-format", "json"]);
    command
}

fn streams(
    creator: &mut Creator,
    start: &Start,
    command: &mut Command,
    console: &str,
) -> Result<(), Failure> {
    let streams = creator
        .streams
        .take()
        .ok_or_else(|| failure("streams", "used already"))?;
    if start.terminal.is_some() {
        command.arg("--console-socket").arg(console);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        return Ok(());
    }
    let stdin = if start.stdin { streams.stdin } else { null()? };
    command
        .stdin(stdin)
        .stdout(streams.stdout)
        .stderr(streams.stderr);
    Ok(())
}

fn run(creator: &Creator, command: &mut Command) -> Result<(), Failure> {
    let status = command
        .status()
        .map_err(|error| failure("runtime", error))?;
    if status.success() {
        return Ok(());
    }
    let mut text = String::new();
    if let Ok(log) = fs::File::open(creator.dir.join("runtime.log")) {
        // An unreadable log leaves the exit status as the reason.
        let _ = log.take(MAX_REASON).read_to_string(&mut text);
    }
    let lines = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let errors = lines.filter(|value| value["level"] == "error");
    let reasons: Vec<String> = errors
        .filter_map(|value| value["msg"].as_str().map(str::to_owned))
        .collect();
    let reason = if reasons.is_empty() {
        format!("the runtime ended with {status}")
    } else {
        reasons.join("; ")
    };
    let kind =
        if reason.contains("no such file or directory") || reason.contains("not found in $PATH") {
            FailureKind::NotFound
        } else if reason.contains("permission denied") || reason.contains("exec format error") {
            FailureKind::NotExecutable
        } else {
            FailureKind::Other
        };
    Err(Failure { kind, reason })
}

fn read_pid(path: &Path) -> Result<i32, Failure> {
    let text = fs::read_to_string(path).map_err(|error| failure("pid file", error))?;
    text.trim()
        .parse()
        .map_err(|error| failure("pid file", error))
}

/// Takes away what the runtime keeps of a task that has ended.
pub(crate) fn delete(dir: &Path, program: &Path, id: &str) {
    let mut command = Command::new(program);
    command
        .arg("--root")
        .arg(dir.join("runtime"))
        .args(["delete", "--force", id]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // What stays behind is inside the state directory and goes with it.
    let _ = command.status();
}
