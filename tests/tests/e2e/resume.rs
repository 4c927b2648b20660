//! Streams go on after the agent was killed, or say clearly that they do not.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::Child;

use e2e::{Cluster, Pool, Role, eventually};

/// Counts up without end, so that a gap or a repetition in the output shows.
const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i; usleep 20000; done";

/// Reads lines up to and with this number; they must be 1, 2, 3, … from `from`.
fn counts(lines: &mut impl Iterator<Item = std::io::Result<String>>, from: usize, to: usize) {
    for wanted in from..=to {
        let line = lines.next().expect("the output ended").unwrap();
        assert_eq!(line, wanted.to_string(), "a gap or a repetition");
    }
}

fn lines(child: &mut Child) -> std::io::Lines<BufReader<std::process::ChildStdout>> {
    BufReader::new(child.stdout.take().unwrap()).lines()
}

/// Kills the agent and starts it again.
fn kill_agent(cluster: &Cluster) {
    cluster.kill(Role::Agent);
    cluster.up(1).unwrap();
}

fn ended(child: &mut Child) -> Option<i32> {
    let mut errors = String::new();
    let code = child.wait().unwrap().code();
    let _ = child.stderr.take().unwrap().read_to_string(&mut errors);
    println!("{errors}");
    code
}

fn counting(pool: &Pool) {
    pool.docker(&["run", "-d", "--name", "cc", "busybox", "sh", "-c", COUNT])
        .ok();
}

#[test]
fn followed_logs_survive_the_agent() {
    let cluster = Cluster::start(1).unwrap();
    let pool = cluster.pool("follow");
    counting(&pool);
    let mut child = pool.docker(&["logs", "-f", "cc"]).start().unwrap();
    let mut lines = lines(&mut child);
    counts(&mut lines, 1, 10);
    for round in 1..=2 {
        kill_agent(&cluster);
        // What was written while nobody was there, and what comes after it.
        counts(&mut lines, round * 200 - 189, round * 200 + 10);
    }
    pool.docker(&["stop", "-t", "0", "cc"]).ok();
    let last = 410 + lines.map(Result::unwrap).count();
    assert_eq!(ended(&mut child), Some(0));
    let log = pool.docker(&["logs", "cc"]).ok();
    assert_eq!(log.lines().count(), last, "the end is missing");
}

#[test]
fn an_attached_client_survives_the_agent() {
    let cluster = Cluster::start(1).unwrap();
    let pool = cluster.pool("attach");
    let script = "echo begin; while read -r word; do echo \"<$word>\"; done; exit 5";
    let mut child = pool
        .docker(&["run", "-i", "--rm", "busybox", "sh", "-c", script])
        .start()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut lines = lines(&mut child);
    let mut next = || lines.next().unwrap().unwrap();
    assert_eq!(next(), "begin");
    writeln!(input, "one").unwrap();
    assert_eq!(next(), "<one>");
    cluster.kill(Role::Agent);
    eventually("the server knows that the host is gone", || {
        let hosts = cluster.plimsoll(&["host", "ls", "-o", "json"]).ok();
        if hosts.contains("ready") {
            Err(hosts)
        } else {
            Ok(())
        }
    });
    // Typed while nobody is there to take it.
    writeln!(input, "two").unwrap();
    cluster.up(1).unwrap();
    assert_eq!(next(), "<two>");
    writeln!(input, "three").unwrap();
    assert_eq!(next(), "<three>");
    drop(input);
    assert_eq!(lines.count(), 0);
    assert_eq!(ended(&mut child), Some(5));
}

/// The exit code that `GET /exec/ID/json` gives.
fn exit_code(pool: &Pool, exec: &str) -> serde_json::Value {
    let answer = pool.http("GET", &format!("/exec/{exec}/json"), None);
    let answer: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    answer["ExitCode"].clone()
}

#[test]
fn an_exec_survives_the_agent_and_its_exit_code_is_known() {
    let cluster = Cluster::start(1).unwrap();
    let pool = cluster.pool("exec");
    pool.docker(&["run", "-d", "--name", "ee", "busybox", "sleep", "1000"])
        .ok();
    // One that ends after the agent is back, and one that ends while it is away.
    for (away, code) in [(false, 7), (true, 9)] {
        let script =
            format!("echo a; until [ -e /go{code} ]; do usleep 20000; done; echo b; exit {code}");
        let mut child = pool
            .docker(&["exec", "ee", "sh", "-c", &script])
            .start()
            .unwrap();
        let mut lines = lines(&mut child);
        assert_eq!(lines.next().unwrap().unwrap(), "a");
        let pid = pool.inspect("ee", "{{.State.Pid}}");
        let go = || std::fs::write(format!("/proc/{pid}/root/go{code}"), "").unwrap();
        cluster.kill(Role::Agent);
        if away {
            go();
            eventually("the exec has ended", || {
                let left = e2e::processes_with(&script);
                // The docker client itself has the script on its command line.
                if left.len() == 1 {
                    Ok(())
                } else {
                    Err(format!("{left:?}"))
                }
            });
        }
        cluster.up(1).unwrap();
        if !away {
            go();
        }
        assert_eq!(lines.next().unwrap().unwrap(), "b");
        assert!(lines.next().is_none());
        assert_eq!(ended(&mut child), Some(code));
    }
}

#[test]
fn a_detached_exec_survives_the_agent() {
    let cluster = Cluster::start(1).unwrap();
    let pool = cluster.pool("detached");
    pool.docker(&["run", "-d", "--name", "dd", "busybox", "sleep", "1000"])
        .ok();
    let made = pool.http(
        "POST",
        "/containers/dd/exec",
        Some(r#"{"Cmd":["sh","-c","until [ -e /go ]; do usleep 20000; done; exit 3"]}"#),
    );
    let made: serde_json::Value = serde_json::from_slice(&made.body).unwrap();
    let exec = made["Id"].as_str().unwrap().to_owned();
    let start = format!("/exec/{exec}/start");
    let started = pool.http("POST", &start, Some(r#"{"Detach":true}"#));
    assert_eq!(started.status, 200);
    let pid = pool.inspect("dd", "{{.State.Pid}}");
    kill_agent(&cluster);
    std::fs::write(format!("/proc/{pid}/root/go"), "").unwrap();
    eventually("its exit code", || match exit_code(&pool, &exec) {
        serde_json::Value::Null => Err("none"),
        code => {
            assert_eq!(code, 3);
            Ok(())
        }
    });
}
