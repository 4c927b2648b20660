//! An agent with the real drivers is killed before and after every call to them, from pull to removal. Whatever the
//! step, the client's commands succeed in the end, the task was started once, and nothing is left.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use e2e::{Cluster, Pool, Program, Registry, Role, Security, Started, archive, eventually};

/// Says that it runs, and ends with a code of its own when it is told to.
const SCRIPT: &str = "trap 'echo bye; exit 7' TERM; echo up; while :; do usleep 50000; done";

/// Calls that the script must lead to; the journal of an undisturbed run has to hold each.
const CALLS: &[&str] = &[
    "pull 0",
    "pulling 0",
    "ensure 0",
    "prepare 0",
    "attach 0",
    "start 0",
    "exec 0",
    "exec-output 0",
    "exec-exit 0",
    "follow 0",
    "output 0",
    "signal 0",
    "detach 0",
    "remove 0",
    "drop_image 0",
];

/// The host whose agent is killed.
struct Host {
    cluster: Cluster,
    pool: Pool,
    image: String,
    _registry: Registry,
    /// The command line of the agent, without what makes it halt.
    agent: Vec<String>,
    running: Program,
    /// Whether the agent is to be killed in this life.
    halting: bool,
    /// Whether the agent was killed and started again, in this life, and not yet seen with a link.
    killed: bool,
    unsettled: bool,
}

impl Host {
    fn new() -> Self {
        let cluster = Cluster::start(1).unwrap();
        let registry = Registry::start(&cluster.underlay_address(), Security::Plain).unwrap();
        registry.push(&archive("busybox"), "tools:1").unwrap();
        let pool = cluster.empty_pool("halt");
        let agent = cluster.pids(Role::Agent)[0];
        let line = std::fs::read_to_string(format!("/proc/{agent}/cmdline")).unwrap();
        let words = line.trim_end_matches('\0').split('\0').skip(1);
        let agent: Vec<String> = words.map(str::to_owned).collect();
        let image = format!("{}/tools:1", registry.address);
        let _ = cluster.id();
        cluster.kill(Role::Agent);
        let mut host = Self {
            running: start(&cluster, &agent, &registry.address, ""),
            cluster,
            pool,
            image,
            _registry: registry,
            agent,
            halting: false,
            killed: false,
            unsettled: false,
        };
        host.ready();
        host
    }

    fn registry(&self) -> &str {
        self.image.split('/').next().unwrap()
    }

    fn folder(&self) -> PathBuf {
        self.cluster.data().join("hosts/h1")
    }

    /// Starts the agent anew, to be halted at this call.
    fn restart(&mut self, at: &str) {
        self.running.kill();
        // What is asked of the host from now on goes to the new agent.
        self.wait_for(false);
        self.running = start(&self.cluster, &self.agent, self.registry(), at);
    }

    fn ready(&mut self) {
        assert_eq!(self.running.killed_by(), None);
        self.wait_for(true);
    }

    fn wait_for(&self, ready: bool) {
        eventually("the server sees the state of the host", || {
            let hosts = self.cluster.plimsoll(&["host", "ls"]).finish();
            if hosts.code == Some(0) && hosts.stdout.contains("ready") == ready {
                Ok(())
            } else {
                Err(format!("{hosts:?}"))
            }
        });
    }

    /// Starts the agent again if it was killed.
    fn revive(&mut self) {
        if self.running.killed_by().is_some() {
            self.killed = true;
            self.unsettled = true;
            self.restart("");
        }
    }

    /// Runs a command, reviving the agent meanwhile. If it failed because of that, once more.
    fn docker(&mut self, arguments: &[&str]) -> Started {
        self.settle();
        let done = self.docker_once(arguments);
        if done.code == Some(0) || !self.halting {
            return done;
        }
        // The client hears of it before the process is quite gone.
        eventually("the agent is gone", || {
            self.revive();
            self.killed.then_some(()).ok_or(format!("{done:?}"))
        });
        if !self.unsettled {
            return done;
        }
        self.settle();
        self.docker_once(arguments)
    }

    /// Waits until a revived agent has its link.
    fn settle(&mut self) {
        if std::mem::take(&mut self.unsettled) {
            self.ready();
        }
    }

    fn docker_once(&mut self, arguments: &[&str]) -> Started {
        let run = self.pool.docker(arguments);
        let command = std::thread::spawn(move || run.finish());
        eventually("the command ends", || {
            self.revive();
            if command.is_finished() {
                Ok(())
            } else {
                Err(format!("{arguments:?} still runs"))
            }
        });
        // The agent may have been killed by the very last thing that the command asked of it.
        self.revive();
        command.join().unwrap()
    }

    /// The same; it must succeed in the end.
    #[track_caller]
    fn docker_ok(&mut self, arguments: &[&str]) -> String {
        self.docker(arguments).ok()
    }

    /// Everything on the host that belongs to tasks and images, in the file system and the kernel.
    fn traces(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for folder in ["runtime", "images", "network"] {
            files(&self.folder().join(folder), &mut found);
        }
        let data = self.folder().display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let own = mounts.lines().filter(|line| line.contains(&data));
        found.extend(own.map(str::to_owned));
        for controller in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten() {
            let name = self.agent_argument("--cgroup");
            files(
                &controller.unwrap().path().join("plimsoll").join(name),
                &mut found,
            );
        }
        found.extend(shims(&data));
        let mut links = self.cluster.in_host("h1");
        let links = links.args(["ip", "-br", "link"]).output().unwrap();
        let links = String::from_utf8(links.stdout).unwrap();
        found.extend(
            links
                .lines()
                .map(|line| line.split(' ').next().unwrap().to_owned()),
        );
        found
    }

    fn agent_argument(&self, flag: &str) -> &str {
        let mut words = self.agent.iter().skip_while(|word| *word != flag);
        words.nth(1).unwrap()
    }
}

fn start(cluster: &Cluster, agent: &[String], registry: &str, at: &str) -> Program {
    let mut command = cluster.in_host("h1");
    let folder = cluster.program().parent().unwrap();
    command.arg(env!("CARGO_BIN_EXE_halting-agent")).args(agent);
    command.env("PLIMSOLL_SHIM", folder.join("plimsoll-shim"));
    command.env("PLIMSOLL_INSECURE_REGISTRY", registry);
    command.env("HALT_JOURNAL", cluster.data().join("journal"));
    command.env("HALT_AT", at);
    Program::start(command, &cluster.data().join("halting-agent.log")).unwrap()
}

/// Folders and files below a folder, without those of the kernel and without addresses that rest after their use.
fn files(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            found.insert(path.display().to_string());
            files(&path, found);
        } else if !path.starts_with("/sys") && !path.parent().unwrap().ends_with("released") {
            found.insert(path.display().to_string());
        }
    }
}

/// Supervisors whose working folder is below this one.
fn shims(data: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let shims = processes.filter(|process| {
        let own = std::fs::read_link(process.path().join("cwd")).unwrap_or_default();
        own.starts_with(data)
    });
    shims
        .map(|shim| format!("process {}", shim.path().display()))
        .collect()
}

/// One life from pull to removal.
fn live(host: &mut Host, at: &str) {
    println!("to be killed at: {at}");
    host.killed = false;
    host.halting = !at.is_empty();
    host.restart(at);
    host.ready();
    let image = host.image.clone();
    host.docker_ok(&["pull", "-q", &image]);
    host.docker_ok(&["create", "--name", "tt", &image, "sh", "-c", SCRIPT]);
    host.docker_ok(&["start", "tt"]);
    let inspect = ["inspect", "-f", "{{.State.Pid}} {{.State.StartedAt}}", "tt"];
    let started = host.docker_ok(&inspect);
    eventually("it says that it runs", || {
        match host.docker(&["logs", "tt"]).stdout {
            log if log == "up" => Ok(()),
            log => Err(log),
        }
    });
    assert_eq!(host.docker_ok(&["exec", "tt", "echo", "in"]), "in", "{at}");
    assert_eq!(
        host.docker_ok(&inspect),
        started,
        "{at}: not the same process"
    );
    follow_and_stop(host, at);
    let end = [
        "inspect",
        "-f",
        "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}",
        "tt",
    ];
    assert_eq!(host.docker_ok(&end), "exited 7 0", "{at}");
    // Once: it was not started a second time.
    assert_eq!(host.docker_ok(&["logs", "tt"]), "up\nbye", "{at}");
    let removed = host.docker(&["rm", "tt"]);
    let gone = removed.stderr.contains("No such container");
    assert!(removed.code == Some(0) || gone, "{at}: {removed:?}");
    let removed = host.docker(&["rmi", &image]);
    let gone = removed.stderr.contains("No such image");
    assert!(removed.code == Some(0) || gone, "{at}: {removed:?}");
}

/// Follows the output while the container is stopped.
fn follow_and_stop(host: &mut Host, at: &str) {
    let mut follower = host.pool.docker(&["logs", "-f", "tt"]).start().unwrap();
    let mut output = BufReader::new(follower.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        let mut seen = String::new();
        output.read_line(&mut seen).unwrap();
        (seen, output)
    });
    eventually("the follower sees a line or its end", || {
        host.revive();
        reader.is_finished().then_some(()).ok_or("neither yet")
    });
    let (mut seen, mut output) = reader.join().unwrap();
    host.docker_ok(&["stop", "-t", "30", "tt"]);
    // Cut off with the agent, or at the end of the output; never left hanging.
    output.read_to_string(&mut seen).unwrap();
    follower.wait().unwrap();
    assert!("up\nbye\n".starts_with(&seen), "{at}: {seen}");
    assert!(host.killed || seen == "up\nbye\n", "{at}: {seen}");
}

/// Where a call can be interrupted; the first piece of a stream has no end.
fn sides(call: &str) -> &'static [&'static str] {
    let pieces = ["pulling 0", "output 0", "exec-output 0"];
    if pieces.contains(&call) {
        &["before"]
    } else {
        &["before", "after"]
    }
}

/// The calls of the last life.
fn journal(host: &Host) -> Vec<String> {
    let text = std::fs::read_to_string(host.cluster.data().join("journal")).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn the_agent_is_killed_at_every_call_of_a_container_s_life() {
    let mut host = Host::new();
    live(&mut host, "");
    assert!(!host.killed);
    let calls = journal(&host);
    for call in CALLS {
        assert!(
            calls.iter().any(|it| it == call),
            "{call} is not in {calls:?}"
        );
    }
    let clean = eventually("what is removed in the background is gone", || {
        let left = host.traces();
        let being_removed = |trace: &&String| trace.contains("/images/tmp/");
        match left.iter().find(being_removed) {
            None => Ok(left),
            Some(trace) => Err(trace.clone()),
        }
    });
    for call in CALLS {
        for side in sides(call) {
            let at = format!("{call} {side}");
            live(&mut host, &at);
            eventually("it was killed, and nothing is left", || {
                host.revive();
                if !host.killed {
                    return Err(format!("{at}: was not reached"));
                }
                let left = host.traces();
                match left.symmetric_difference(&clean).next() {
                    None => Ok(()),
                    Some(trace) => Err(format!("{at}: {trace}")),
                }
            });
        }
    }
}
