//! Logs, attach, exec: bytes go through complete, in order, and separated.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use e2e::{Cluster, Pool, eventually};

#[test]
fn standard_input_reaches_the_process() {
    let pool = Cluster::shared().pool("stdin");
    assert_eq!(
        pool.docker(&["run", "--rm", "-i", "busybox", "cat"])
            .input("hello\n")
            .ok(),
        "hello"
    );
    let sum = "for i in 1 2 3; do read x; echo got $x; done";
    assert_eq!(
        pool.docker(&["run", "--rm", "-i", "busybox", "sh", "-c", sum])
            .input("a\nb\nc\n")
            .ok(),
        "got a\ngot b\ngot c"
    );
}

#[test]
fn a_large_stream_arrives_whole() {
    let pool = Cluster::shared().pool("large");
    let input = vec![b'x'; 8 << 20];
    let counted = pool
        .docker(&["run", "--rm", "-i", "busybox", "wc", "-c"])
        .input(input)
        .ok();
    assert_eq!(counted, (8 << 20).to_string());
    let lines = pool
        .docker(&["run", "--rm", "busybox", "seq", "200000"])
        .ok();
    assert_eq!(lines.lines().count(), 200_000);
    assert_eq!(lines.lines().last(), Some("200000"));
}

#[test]
fn exec_takes_input_and_a_user() {
    let pool = Cluster::shared().pool("exec");
    pool.docker(&["run", "-d", "--name", "xx", "busybox", "sleep", "1000"])
        .ok();
    assert_eq!(
        pool.docker(&["exec", "-i", "xx", "cat"]).input("in\n").ok(),
        "in"
    );
    assert_eq!(
        pool.docker(&[
            "exec",
            "-u",
            "nobody",
            "-w",
            "/tmp",
            "-e",
            "Q=1",
            "xx",
            "sh",
            "-c",
            "id -un; pwd; echo $Q"
        ])
        .ok(),
        "nobody\n/tmp\n1"
    );
    let missing = pool.docker(&["exec", "xx", "no-such-program"]).finish();
    assert_eq!(missing.code, Some(127), "{missing:?}");
    pool.docker(&["rm", "-f", "xx"]).ok();
}

#[test]
fn a_terminal_is_a_terminal() {
    let pool = Cluster::shared().pool("tty");
    // Docker's client insists on a terminal of its own for -it; -t alone asks the server for one.
    let seen = pool
        .docker(&[
            "run",
            "--rm",
            "-t",
            "busybox",
            "sh",
            "-c",
            "test -t 1 && echo terminal",
        ])
        .ok();
    assert_eq!(seen.trim(), "terminal");
    let seen = pool
        .docker(&[
            "run",
            "--rm",
            "busybox",
            "sh",
            "-c",
            "test -t 1 || echo pipe",
        ])
        .ok();
    assert_eq!(seen, "pipe");
}

#[test]
fn logs_follow_until_the_end() {
    let pool = Cluster::shared().pool("follow");
    let script = "i=0; while [ $i -lt 30 ]; do i=$((i+1)); echo line $i; usleep 50000; done";
    pool.docker(&["run", "-d", "--name", "ff", "busybox", "sh", "-c", script])
        .ok();
    let followed = pool.docker(&["logs", "-f", "ff"]).ok();
    assert_eq!(followed.lines().count(), 30, "{followed}");
    assert_eq!(
        pool.docker(&["logs", "--tail", "2", "ff"]).ok(),
        "line 29\nline 30"
    );
    let stamped = pool.docker(&["logs", "-t", "--tail", "1", "ff"]).ok();
    assert!(
        stamped.ends_with(" line 30") && stamped.contains('T') && stamped.contains('Z'),
        "{stamped}"
    );
    let (stamp, _) = stamped.split_once(' ').unwrap();
    assert_eq!(
        pool.docker(&["logs", "--since", stamp, "ff"]).ok(),
        "line 30"
    );
}

#[test]
fn streams_stay_apart() {
    let pool = Cluster::shared().pool("apart");
    pool.docker(&[
        "run",
        "-d",
        "--name",
        "aa",
        "busybox",
        "sh",
        "-c",
        "echo out; echo err >&2",
    ])
    .ok();
    pool.docker(&["wait", "aa"]).ok();
    let done = pool.docker(&["logs", "aa"]).finish();
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("out", "err"));
}

#[test]
fn attach_joins_a_running_container() {
    let pool = Cluster::shared().pool("attach");
    pool.docker(&[
        "run",
        "-d",
        "-i",
        "--name",
        "aa",
        "busybox",
        "sh",
        "-c",
        "read x; echo got $x",
    ])
    .ok();
    let attached = pool.docker(&["attach", "aa"]).input("it\n").ok();
    assert_eq!(attached, "got it");
    eventually("it ends", || {
        match pool.inspect("aa", "{{.State.Status}}") {
            state if state == "exited" => Ok(()),
            state => Err(state),
        }
    });
}

/// Joins a container as Docker's client does; what it says comes back from `cat` in the container's terminal.
fn attach_and_say(pool: &Pool, name: &str, word: &str) {
    let mut socket = UnixStream::connect(pool.socket()).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let request = format!(
        "POST /v1.41/containers/{name}/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: docker\r\n\
         Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).unwrap();
    let mut seen = Vec::new();
    let mut until = |socket: &mut UnixStream, wanted: &str| {
        let mut buffer = [0; 1024];
        while !String::from_utf8_lossy(&seen).contains(wanted) {
            let count = socket.read(&mut buffer).unwrap();
            assert!(
                count > 0,
                "the stream ended before {wanted:?}: {:?}",
                String::from_utf8_lossy(&seen)
            );
            seen.extend_from_slice(&buffer[..count]);
        }
    };
    until(&mut socket, "\r\n\r\n");
    socket.write_all(format!("{word}\n").as_bytes()).unwrap();
    until(&mut socket, word);
    // The window is closed: no word of farewell.
    socket.shutdown(Shutdown::Both).unwrap();
}

#[test]
fn a_client_that_leaves_a_terminal_does_not_end_what_runs_in_it() {
    let pool = Cluster::shared().pool("leave");
    pool.docker(&["run", "-dit", "--name", "tt", "busybox", "cat"])
        .ok();
    for word in ["first", "second", "third"] {
        attach_and_say(&pool, "tt", word);
    }
    assert_eq!(pool.inspect("tt", "{{.State.Running}}"), "true");
    pool.docker(&["rm", "-f", "tt"]).ok();
}
