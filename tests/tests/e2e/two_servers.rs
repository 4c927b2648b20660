//! Two servers on one etcd, with one host linked to both: either serves everything, alone as well.

use std::path::PathBuf;
use std::process::Command;

use e2e::{Cluster, Etcd, Pool, Program, Role, Run, archive, eventually};

/// One of the servers.
struct Server {
    data: PathBuf,
    /// Where hosts reach it.
    address: String,
    store: String,
    program: Option<Program>,
}

/// Both servers, their store and their only host.
struct Pair {
    // Dropped in this order: what others need goes last.
    _agent: Program,
    one: Server,
    two: Server,
    cluster: Cluster,
    _etcd: Etcd,
}

impl Server {
    fn new(cluster: &Cluster, etcd: &Etcd, name: &str, address: String) -> Self {
        let data = cluster.data().join(name);
        std::fs::create_dir_all(&data).unwrap();
        let mut server = Self {
            data,
            address,
            store: format!("etcd://{}", etcd.address),
            program: None,
        };
        server.start(cluster);
        server
    }

    fn start(&mut self, cluster: &Cluster) {
        let mut command = cluster.part(&["server", "--listen", &self.address]);
        command.args(["--store", &self.store, "--data"]);
        command.arg(&self.data);
        let program = Program::start(command, &self.data.join("server.log")).unwrap();
        self.program = Some(program);
    }

    fn kill(&mut self) {
        self.program.take().unwrap().kill();
    }

    /// The `plimsoll` program, talking to this server.
    fn plimsoll(&self, cluster: &Cluster, arguments: &[&str]) -> Run {
        let mut command = Command::new(cluster.program());
        let socket = self.data.join("server.sock");
        command.env("PLIMSOLL_SERVER", format!("unix://{}", socket.display()));
        command.args(arguments);
        Run::new(command)
    }

    /// Waits until it serves and has a link to the host.
    fn ready(&mut self, cluster: &Cluster) {
        eventually("the server has the host", || {
            assert_eq!(self.program.as_mut().unwrap().killed_by(), None);
            let seen = self
                .plimsoll(cluster, &["host", "ls", "-o", "json"])
                .finish();
            let hosts: serde_json::Value = serde_json::from_str(&seen.stdout).unwrap_or_default();
            match hosts["items"][0]["state"].as_str() {
                Some("ready") => Ok(()),
                _ => Err(format!("{seen:?}")),
            }
        });
    }
}

impl Pair {
    /// The cluster lends its network; its own server and agent are not used.
    fn start() -> Self {
        let cluster = Cluster::start(1).unwrap();
        let gateway = cluster.underlay_address();
        let mut agent = cluster.in_host("h1");
        let cgroup = format!("{}-h1", cluster.id());
        cluster.kill(Role::Agent);
        cluster.kill(Role::Server);
        let etcd = Etcd::start().unwrap();
        // The address belongs to this cluster alone, so its ports are free.
        let mut one = Server::new(&cluster, &etcd, "one", format!("{gateway}:7441"));
        let mut two = Server::new(&cluster, &etcd, "two", format!("{gateway}:7442"));
        let token = eventually("a server gives a token", || {
            let given = one.plimsoll(&cluster, &["host", "token"]).finish();
            match given.code {
                Some(0) => Ok(given.stdout),
                _ => Err(format!("{given:?}")),
            }
        });
        let data = cluster.data().join("host");
        std::fs::create_dir_all(&data).unwrap();
        agent.arg(cluster.program());
        agent.args(["agent", "--name", "only", "--cgroup", &cgroup]);
        agent.args(["--server", &one.address, "--server", &two.address, "--data"]);
        agent.arg(&data).env("PLIMSOLL_JOIN_TOKEN", token);
        let agent = Program::start(agent, &data.join("agent.log")).unwrap();
        one.ready(&cluster);
        two.ready(&cluster);
        Self {
            _agent: agent,
            one,
            two,
            cluster,
            _etcd: etcd,
        }
    }
}

/// A container's state and process as this server tells them.
fn state(pool: &Pool, name: &str) -> String {
    pool.inspect(name, "{{.State.Status}} {{.State.Pid}}")
}

/// All containers as this server tells them, sorted.
fn listing(pool: &Pool) -> Vec<String> {
    let format = ["--format", "{{.ID}} {{.Names}} {{.State}}"];
    let list = pool.docker(&["ps", "-a"]).args(&format).ok();
    let mut lines: Vec<String> = list.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Waits until both servers tell the same, and gives it.
fn agreed(one: &Pool, two: &Pool) -> Vec<String> {
    eventually("both servers tell the same", || {
        let (a, b) = (listing(one), listing(two));
        if a == b {
            Ok(a)
        } else {
            Err(format!("{a:?} and {b:?}"))
        }
    })
}

#[test]
fn two_servers_on_one_etcd_serve_the_same_containers_and_either_goes_on_alone() {
    let mut pair = Pair::start();
    let cluster = &pair.cluster;
    pair.one.plimsoll(cluster, &["pool", "create", "red"]).ok();
    let one = Pool::of_server(&pair.one.data, "red");
    let two = Pool::of_server(&pair.two.data, "red");
    one.docker(&["load", "-q", "-i"])
        .arg(archive("busybox"))
        .ok();

    // Run by one, used by the other.
    let script = "echo hello; trap 'exit 5' TERM; while :; do usleep 50000; done";
    let run = ["run", "-d", "--name", "aa", "busybox", "sh", "-c", script];
    one.docker(&run).ok();
    eventually("the other knows the container", || {
        match two.docker(&["inspect", "aa"]).finish() {
            done if done.code == Some(0) && state(&two, "aa") == state(&one, "aa") => Ok(()),
            done => Err(format!("{done:?}")),
        }
    });
    let running = state(&two, "aa");
    assert!(running.starts_with("running "), "{running}");
    assert_eq!(two.docker(&["exec", "aa", "echo", "in"]).ok(), "in");
    assert_eq!(two.docker(&["logs", "aa"]).ok(), "hello");
    let taken = two
        .docker(&["create", "--name", "aa", "busybox", "true"])
        .fails();
    assert!(taken.contains("already in use"), "{taken}");

    // A stream of one server ends because of what the other does.
    let attached = one.docker(&["run", "--name", "bb", "busybox", "sh", "-c", script]);
    let attached = attached.start().unwrap();
    eventually("the attached container runs", || {
        match two.docker(&["logs", "bb"]).finish() {
            done if done.stdout == "hello" => Ok(()),
            done => Err(format!("{done:?}")),
        }
    });
    two.docker(&["stop", "bb"]).ok();
    let attached = attached.wait_with_output().unwrap();
    assert_eq!(attached.status.code(), Some(5), "{attached:?}");
    assert_eq!(attached.stdout, b"hello\n");

    // One is killed: the other goes on, with everything.
    pair.one.kill();
    assert_eq!(state(&two, "aa"), running);
    assert_eq!(two.docker(&["exec", "aa", "echo", "still"]).ok(), "still");
    assert_eq!(
        two.docker(&["run", "--name", "cc", "busybox", "echo", "alone"])
            .ok(),
        "alone"
    );
    two.docker(&["rm", "bb"]).ok();

    // It comes back and sees what happened meanwhile.
    pair.one.start(cluster);
    pair.one.ready(cluster);
    let seen = agreed(&one, &two);
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert_eq!(state(&one, "aa"), running);
    assert_eq!(one.docker(&["logs", "cc"]).ok(), "alone");
    assert_eq!(one.docker(&["exec", "aa", "echo", "back"]).ok(), "back");

    // And the other way round.
    pair.two.kill();
    one.docker(&["stop", "aa"]).ok();
    assert_eq!(one.inspect("aa", "{{.State.ExitCode}}"), "5");
    one.docker(&["rm", "aa", "cc"]).ok();
    pair.two.start(cluster);
    pair.two.ready(cluster);
    assert_eq!(agreed(&one, &two), Vec::<String>::new());
}
