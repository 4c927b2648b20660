//! Servers and agents are killed without warning; containers do not notice, nothing is lost.

use e2e::{Cluster, Pool, Role, eventually, processes_with};

/// Counts up without end, so that a gap in the output shows.
const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i; usleep 20000; done";

/// Panics if the log is not 1, 2, 3, … without gap; returns how far it is.
#[track_caller]
fn counted(pool: &Pool, name: &str) -> usize {
    let log = pool.docker(&["logs", name]).ok();
    for (index, line) in log.lines().enumerate() {
        assert_eq!(line, (index + 1).to_string(), "a gap in the output");
    }
    log.lines().count()
}

/// Waits until the container's output is beyond `before`.
fn goes_on(pool: &Pool, name: &str, before: usize) {
    eventually("its output goes on", || match counted(pool, name) {
        now if now > before => Ok(()),
        now => Err(now),
    });
}

fn survives(role: Role) {
    let cluster = Cluster::start(1).unwrap();
    let pool = cluster.pool("crash");
    pool.docker(&["run", "-d", "--name", "cc", "busybox", "sh", "-c", COUNT])
        .ok();
    let pid = pool.inspect("cc", "{{.State.Pid}}");
    goes_on(&pool, "cc", 5);
    let before = counted(&pool, "cc");

    cluster.kill(role);
    assert!(
        std::path::Path::new(&format!("/proc/{pid}")).exists(),
        "the container died with the {role:?}"
    );
    cluster.up(1).unwrap();

    eventually("the pool answers", || {
        pool.docker(&["ps", "-q"])
            .finish()
            .code
            .filter(|c| *c == 0)
            .ok_or("no answer")
    });
    assert_eq!(
        pool.inspect("cc", "{{.State.Status}} {{.State.Pid}}"),
        format!("running {pid}")
    );
    goes_on(&pool, "cc", before);
    assert_eq!(pool.docker(&["exec", "cc", "echo", "in"]).ok(), "in");
    pool.docker(&["stop", "-t", "0", "cc"]).ok();
    assert_eq!(pool.inspect("cc", "{{.State.ExitCode}}"), "137");
}

#[test]
fn containers_survive_the_agent() {
    survives(Role::Agent);
}

#[test]
fn containers_survive_the_server() {
    survives(Role::Server);
}

#[test]
fn an_exit_while_nobody_looks_is_known_afterwards() {
    let cluster = Cluster::start(1).unwrap();
    let pool = cluster.pool("unseen");
    let script = "until [ -e /go ]; do usleep 20000; done; echo last words; exit 42";
    pool.docker(&["run", "-d", "--name", "uu", "busybox", "sh", "-c", script])
        .ok();
    let pid = pool.inspect("uu", "{{.State.Pid}}");
    cluster.kill(Role::Server);
    cluster.kill(Role::Agent);
    std::fs::write(format!("/proc/{pid}/root/go"), "").unwrap();
    eventually("it ends", || {
        let left = processes_with(script);
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    });
    cluster.up(1).unwrap();
    eventually("its end is known", || {
        match pool
            .docker(&[
                "inspect",
                "-f",
                "{{.State.Status}} {{.State.ExitCode}}",
                "uu",
            ])
            .finish()
        {
            done if done.stdout == "exited 42" => Ok(()),
            done => Err(format!("{done:?}")),
        }
    });
    assert_eq!(pool.docker(&["logs", "uu"]).ok(), "last words");
}

#[test]
fn the_whole_cluster_comes_back_after_all_of_it_was_killed() {
    let cluster = Cluster::start(2).unwrap();
    let pool = cluster.pool("all");
    pool.docker(&["run", "-d", "--name", "one", "busybox", "sh", "-c", COUNT])
        .ok();
    pool.docker(&["create", "--name", "two", "busybox", "echo", "later"])
        .ok();
    goes_on(&pool, "one", 3);
    cluster.kill(Role::Agent);
    cluster.kill(Role::Server);
    cluster.up(2).unwrap();
    goes_on(&pool, "one", 10);
    assert_eq!(pool.docker(&["start", "-a", "two"]).ok(), "later");
}

/// `plimsoll ps` or `host ls` as JSON items.
fn items(cluster: &Cluster, arguments: &[&str]) -> Vec<serde_json::Value> {
    let text = cluster.plimsoll(arguments).args(&["-o", "json"]).ok();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["items"].as_array().unwrap().clone()
}

#[test]
fn a_host_that_is_cut_off_goes_on() {
    let cluster = Cluster::start(2).unwrap();
    let pool = cluster.pool("cut");
    pool.docker(&["run", "-d", "--name", "cc", "busybox", "sh", "-c", COUNT])
        .ok();
    let pid = pool.inspect("cc", "{{.State.Pid}}");
    let host = items(&cluster, &["ps"])[0]["host"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    let state = |wanted: bool| {
        eventually("the server sees the state of the host", || {
            let hosts = items(&cluster, &["host", "ls"]);
            let host = hosts.iter().find(|h| h["name"] == host.as_str()).unwrap();
            if (host["state"] == "ready") == wanted {
                Ok(())
            } else {
                Err(host["state"].to_string())
            }
        });
    };
    cluster.set_link(&host, false);
    state(false);
    assert!(
        std::path::Path::new(&format!("/proc/{pid}")).exists(),
        "the container died with the link"
    );
    // The other host takes new containers meanwhile, once it has the image as well.
    pool.load("busybox");
    pool.docker(&["run", "--rm", "busybox", "true"]).ok();
    let before = std::time::Instant::now();
    let error = pool.docker(&["exec", "cc", "true"]).fails();
    assert!(
        !error.is_empty() && before.elapsed().as_secs() < 45,
        "{error}"
    );
    cluster.set_link(&host, true);
    state(true);
    assert_eq!(
        pool.inspect("cc", "{{.State.Status}} {{.State.Pid}}"),
        format!("running {pid}")
    );
    goes_on(&pool, "cc", 10);
}

#[test]
fn down_leaves_no_trace() {
    let cluster = Cluster::start(2).unwrap();
    let before = traces(&cluster);
    assert!(
        !before.is_empty(),
        "the test does not see what a running cluster leaves"
    );
    let pool = cluster.pool("trace");
    pool.docker(&["run", "-d", "--name", "xx", "busybox", "sleep", "4712"])
        .ok();
    cluster.down().unwrap();
    assert_eq!(traces(&cluster), Vec::<String>::new());
    assert_eq!(processes_with("4712"), Vec::<i32>::new());
}

/// Mounts, processes and namespaces that belong to the cluster.
fn traces(cluster: &Cluster) -> Vec<String> {
    let data = cluster.data().display().to_string();
    let mut found = Vec::new();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    found.extend(
        mounts
            .lines()
            .filter(|line| line.contains(&data))
            .map(str::to_owned),
    );
    for role in [Role::Server, Role::Agent] {
        found.extend(
            cluster
                .pids(role)
                .iter()
                .map(|pid| format!("{role:?} {pid}")),
        );
    }
    found
}
