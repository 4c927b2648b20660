//! The life of a container through the docker client.

use e2e::{Cluster, eventually};
use serde_json::Value;

#[test]
fn run_gives_output_and_exit_code() {
    let pool = Cluster::shared().pool("run");
    let done = pool
        .docker(&[
            "run",
            "--rm",
            "busybox",
            "sh",
            "-c",
            "echo out; echo err >&2; exit 7",
        ])
        .finish();
    assert_eq!(
        (done.code, done.stdout.as_str(), done.stderr.as_str()),
        (Some(7), "out", "err")
    );
    assert_eq!(pool.docker(&["ps", "-aq"]).ok(), "", "--rm left something");
}

#[test]
fn a_container_can_be_listed_watched_entered_stopped_and_removed() {
    let pool = Cluster::shared().pool("life");
    let script =
        "echo started; trap 'echo bye; exit 3' TERM; while :; do read -t 1 x </dev/zero; done";
    let id = pool
        .docker(&["run", "-d", "--name", "web", "busybox", "sh", "-c", script])
        .ok();
    assert_eq!(id.len(), 64, "{id}");

    assert_eq!(
        pool.docker(&["ps", "--format", "{{.Names}} {{.State}}"])
            .ok(),
        "web running"
    );
    assert_eq!(
        pool.docker(&["ps", "-q", "--no-trunc", "--filter", "name=web"])
            .ok(),
        id
    );
    eventually("its first line", || {
        match pool.docker(&["logs", "web"]).ok() {
            log if log == "started" => Ok(()),
            log => Err(log),
        }
    });
    assert_eq!(
        pool.docker(&["exec", "web", "sh", "-c", "echo $((6*7))"])
            .ok(),
        "42"
    );
    assert_eq!(
        pool.docker(&["exec", "web", "sh", "-c", "exit 5"])
            .finish()
            .code,
        Some(5)
    );

    pool.docker(&["stop", "web"]).ok();
    assert_eq!(
        pool.inspect("web", "{{.State.Status}} {{.State.ExitCode}}"),
        "exited 3"
    );
    assert_eq!(pool.docker(&["logs", "web"]).ok(), "started\nbye");
    pool.docker(&["rm", "web"]).ok();
    assert!(
        pool.docker(&["inspect", "web"])
            .fails()
            .contains("No such object")
    );
}

#[test]
fn a_stopped_container_starts_again_with_its_files() {
    let pool = Cluster::shared().pool("again");
    pool.docker(&[
        "run",
        "--name",
        "aa",
        "busybox",
        "sh",
        "-c",
        "echo x >>/f; wc -l </f",
    ])
    .ok();
    assert_eq!(pool.docker(&["start", "-a", "aa"]).ok(), "2");
    assert_eq!(pool.docker(&["logs", "aa"]).ok(), "1\n2");
}

#[test]
fn wait_answers_with_the_exit_code() {
    let pool = Cluster::shared().pool("wait");
    pool.docker(&["run", "-d", "--name", "ww", "busybox", "sh", "-c", "exit 9"])
        .ok();
    assert_eq!(pool.docker(&["wait", "ww"]).ok(), "9");
}

#[test]
fn kill_ends_with_the_signal() {
    let pool = Cluster::shared().pool("kill");
    pool.docker(&["run", "-d", "--name", "kk", "busybox", "sleep", "1000"])
        .ok();
    pool.docker(&["kill", "kk"]).ok();
    assert_eq!(pool.docker(&["wait", "kk"]).ok(), "137");
}

#[test]
fn pause_and_unpause() {
    let pool = Cluster::shared().pool("pause");
    pool.docker(&["run", "-d", "--name", "pp", "busybox", "sleep", "1000"])
        .ok();
    pool.docker(&["pause", "pp"]).ok();
    assert_eq!(
        pool.inspect("pp", "{{.State.Status}} {{.State.Paused}}"),
        "paused true"
    );
    pool.docker(&["unpause", "pp"]).ok();
    assert_eq!(pool.inspect("pp", "{{.State.Status}}"), "running");
    pool.docker(&["rm", "-f", "pp"]).ok();
}

#[test]
fn restart_gives_a_new_process() {
    let pool = Cluster::shared().pool("restart");
    pool.docker(&["run", "-d", "--name", "rr", "busybox", "sleep", "1000"])
        .ok();
    let before = pool.inspect("rr", "{{.State.Pid}}");
    pool.docker(&["restart", "-t", "0", "rr"]).ok();
    let after = pool.inspect("rr", "{{.State.Status}} {{.State.Pid}}");
    assert!(
        after.starts_with("running ") && !after.ends_with(&format!(" {before}")),
        "{before} then {after}"
    );
    pool.docker(&["rm", "-f", "rr"]).ok();
}

#[test]
fn names_are_unique_and_change() {
    let pool = Cluster::shared().pool("name");
    pool.docker(&["create", "--name", "one", "busybox"]).ok();
    let refused = pool.docker(&["create", "--name", "one", "busybox"]).fails();
    assert!(refused.contains("already in use"), "{refused}");
    pool.docker(&["rename", "one", "two"]).ok();
    assert_eq!(
        pool.docker(&["ps", "-a", "--format", "{{.Names}}"]).ok(),
        "two"
    );
    pool.docker(&["create", "--name", "one", "busybox"]).ok();
}

#[test]
fn the_process_sees_what_was_asked_for() {
    let pool = Cluster::shared().pool("spec");
    let seen = pool
        .docker(&[
            "run", "--rm", "-e", "A=b c", "-w", "/tmp", "-u", "nobody", "-h", "box", "busybox",
        ])
        .args(&["sh", "-c", "echo $A; pwd; id -un; hostname"])
        .ok();
    assert_eq!(seen, "b c\n/tmp\nnobody\nbox");
    let seen = pool.docker(&["run", "--rm", "--read-only", "--tmpfs", "/t", "busybox"]);
    let seen = seen
        .args(&["sh", "-c", "touch /t/x && echo ok; touch /x 2>&1"])
        .finish();
    assert!(
        seen.code == Some(1)
            && seen.stdout.starts_with("ok\n")
            && seen.stdout.contains("Read-only"),
        "{seen:?}"
    );
    let init = pool
        .docker(&["run", "--rm", "--init", "busybox", "sh", "-c", "echo $$"])
        .ok();
    assert_ne!(init, "1", "--init does not stand before the program");
}

#[test]
fn confinement_is_dockers_default() {
    let pool = Cluster::shared().pool("confine");
    let seen = pool
        .docker(&[
            "run",
            "--rm",
            "busybox",
            "grep",
            "-E",
            "^(CapEff|Seccomp):",
            "/proc/self/status",
        ])
        .ok();
    assert!(
        seen.contains("00000000a80425fb"),
        "default capabilities: {seen}"
    );
    assert!(
        seen.contains("Seccomp:\t2"),
        "no system call filter: {seen}"
    );
    let masked = pool.docker(&[
        "run",
        "--rm",
        "busybox",
        "sh",
        "-c",
        "cat /proc/kcore | wc -c; echo x >/proc/sysrq-trigger",
    ]);
    let masked = masked.finish();
    assert!(
        masked.stdout.starts_with('0') && masked.code != Some(0),
        "{masked:?}"
    );
}

#[test]
fn top_stats_and_update() {
    let pool = Cluster::shared().pool("sight");
    pool.docker(&[
        "run", "-d", "--name", "ss", "-m", "64m", "busybox", "sleep", "1000",
    ])
    .ok();
    assert!(pool.docker(&["top", "ss"]).ok().contains("sleep 1000"));
    let stats = pool
        .docker(&[
            "stats",
            "--no-stream",
            "--format",
            "{{.Name}} {{.MemUsage}} {{.PIDs}}",
            "ss",
        ])
        .ok();
    assert!(
        stats.starts_with("ss ") && stats.contains("64MiB") && stats.ends_with(" 1"),
        "{stats}"
    );
    pool.docker(&["update", "-m", "96m", "--memory-swap", "96m", "ss"])
        .ok();
    assert_eq!(
        pool.inspect("ss", "{{.HostConfig.Memory}}"),
        (96 << 20).to_string()
    );
    pool.docker(&["rm", "-f", "ss"]).ok();
}

#[test]
fn events_tell_the_story() {
    let pool = Cluster::shared().pool("events");
    pool.docker(&["run", "--rm", "--name", "ee", "busybox", "true"])
        .ok();
    let now = pool.docker(&["info", "--format", "{{.SystemTime}}"]).ok();
    let story = pool
        .docker(&[
            "events",
            "--since",
            "10m",
            "--until",
            &now,
            "--format",
            "{{.Action}}",
        ])
        .ok();
    let mut rest = story.lines();
    for action in ["create", "start", "die", "destroy"] {
        assert!(
            rest.any(|line| line == action),
            "{action} is missing or out of order in:\n{story}"
        );
    }
}

#[test]
fn the_pool_presents_itself_as_one_engine() {
    let pool = Cluster::shared().pool("engine");
    let info: Value =
        serde_json::from_str(&pool.docker(&["info", "--format", "{{json .}}"]).ok()).unwrap();
    assert!(
        info["NCPU"].as_u64() > Some(0) && info["MemTotal"].as_u64() > Some(0),
        "{info}"
    );
    assert_eq!(info["Name"].as_str(), Some(pool.name.as_str()));
    pool.docker(&["version"]).ok();
}

#[test]
fn every_api_version_is_accepted() {
    let pool = Cluster::shared().empty_pool("versions");
    for minor in 24..=51 {
        let answer = pool.http("GET", &format!("/v1.{minor}/containers/json"), None);
        assert_eq!(
            (answer.status, answer.text().trim()),
            (200, "[]"),
            "1.{minor}"
        );
    }
}

#[test]
fn published_ports_answer() {
    let cluster = Cluster::shared();
    let pool = cluster.empty_pool("ports");
    pool.load("nginx");
    pool.docker(&["run", "-d", "--name", "web", "-p", "80", "nginx"])
        .ok();
    let port = pool.docker(&["port", "web", "80"]).ok();
    let address = port.lines().next().unwrap_or_default().to_owned();
    assert!(address.contains(':'), "{port}");
    let inside = pool.inspect("web", "{{.NetworkSettings.IPAddress}}");
    assert!(!inside.is_empty(), "no address");
    let page = pool
        .docker(&["exec", "web", "wget", "-qO-", "http://127.0.0.1/"])
        .ok();
    assert!(page.contains("Plimsoll"), "{page}");
    pool.docker(&["rm", "-f", "web"]).ok();
}

#[test]
fn a_missing_image_program_or_container_is_named() {
    let pool = Cluster::shared().pool("missing");
    let error = pool
        .docker(&["run", "--rm", "--pull", "never", "nothing:here"])
        .finish();
    assert_eq!(error.code, Some(125), "{error:?}");
    assert!(
        error.stderr.contains("No such image: nothing:here"),
        "{error:?}"
    );
    let error = pool
        .docker(&["run", "--rm", "busybox", "no-such-program"])
        .finish();
    assert_eq!(error.code, Some(127), "{error:?}");
    assert!(error.stderr.contains("no-such-program"), "{error:?}");
    let error = pool.docker(&["run", "--rm", "busybox", "/etc"]).finish();
    assert_eq!(error.code, Some(126), "{error:?}");
    assert!(
        pool.docker(&["logs", "nobody"])
            .fails()
            .contains("No such container: nobody")
    );
}
