//! Restart policies run on the host.

use e2e::{Cluster, Pool, Role, eventually, processes_with};

/// Waits until the container was restarted at least `times` times.
fn restarted(pool: &Pool, name: &str, times: u32) {
    eventually("it restarts", || {
        match pool.inspect(name, "{{.RestartCount}}").parse::<u32>() {
            Ok(count) if count >= times => Ok(()),
            count => Err(format!("{count:?} of {times}")),
        }
    });
}

#[test]
fn a_failing_container_is_restarted_as_often_as_allowed() {
    let pool = Cluster::shared().pool("policy");
    pool.docker(&[
        "run",
        "-d",
        "--name",
        "ff",
        "--restart",
        "on-failure:2",
        "busybox",
        "sh",
        "-c",
        "echo x; exit 1",
    ])
    .ok();
    eventually("it is given up", || {
        match pool.inspect(
            "ff",
            "{{.State.Status}} {{.RestartCount}} {{.State.ExitCode}}",
        ) {
            state if state == "exited 2 1" => Ok(()),
            state => Err(state),
        }
    });
    assert_eq!(pool.docker(&["logs", "ff"]).ok(), "x\nx\nx");
}

#[test]
fn a_stopped_container_stays_stopped() {
    let pool = Cluster::shared().pool("always");
    pool.docker(&[
        "run",
        "-d",
        "--name",
        "aa",
        "--restart",
        "always",
        "busybox",
        "sh",
        "-c",
        "sleep 0.1",
    ])
    .ok();
    restarted(&pool, "aa", 2);
    pool.docker(&["stop", "-t", "0", "aa"]).ok();
    assert_eq!(pool.inspect("aa", "{{.State.Status}}"), "exited");
    let count = pool.inspect("aa", "{{.RestartCount}}");
    pool.docker(&["run", "--rm", "busybox", "true"]).ok();
    assert_eq!(
        pool.inspect("aa", "{{.State.Status}} {{.RestartCount}}"),
        format!("exited {count}")
    );
}

#[test]
fn policies_work_without_a_server() {
    let cluster = Cluster::start(1).unwrap();
    let pool = cluster.pool("alone");
    // The shell gives its place to its last program, whose argument is looked for.
    let script = "echo up; sleep 471100";
    pool.docker(&[
        "run",
        "-d",
        "--name",
        "aa",
        "--restart",
        "always",
        "busybox",
        "sh",
        "-c",
        script,
    ])
    .ok();
    let pid: i32 = pool.inspect("aa", "{{.State.Pid}}").parse().unwrap();
    cluster.kill(Role::Server);
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    eventually("the host starts it again, with no server to ask", || {
        let running = processes_with("471100");
        if running.iter().any(|new| *new != pid) {
            Ok(())
        } else {
            Err(format!("{running:?}"))
        }
    });
    cluster.up(1).unwrap();
    restarted(&pool, "aa", 1);
    assert_eq!(pool.docker(&["logs", "aa"]).ok(), "up\nup");
}
