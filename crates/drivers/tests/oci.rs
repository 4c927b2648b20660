//! Tasks through the agent's trait, on a real kernel, as root.
#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    dead_code,
    reason = "tests; each test program uses a part of the support"
)]

mod oci_support;

use agent::driver::{ErrorClass, ExecRequest, ExecResume, FollowFrom, TaskRuntime};
use bytes::Bytes;
use futures::StreamExt;
use model::workload::{Phase, Resources};
use oci_support::{Host, PATIENCE, ended, text};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_task_runs_and_its_end_is_told() {
    let host = Host::new();
    let (code, output) = host
        .run_plain(&["sh", "-c", "echo hello; hostname; exit 3"], |_| {})
        .await;
    assert_eq!(code, 3, "{output}");
    assert!(output.starts_with("hello\n0000000107"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_takes_too_much_memory_is_killed_and_says_so() {
    let host = Host::new();
    let plan = host.plan(&["sh", "-c", "tail /dev/zero; echo $?; exit 9"], |w| {
        w["spec"]["task"]["resources"]["memory_limit"] = json!(16 << 20);
    });
    let (task, output) = host.run(&plan).await;
    assert_eq!(
        (task.status.exit_code, task.status.oom_killed),
        (9, true),
        "{output}"
    );
    assert!(output.contains("137"), "{output}");
    host.runtime.remove(&plan.workload.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn confinement_holds() {
    let host = Host::new();
    let script = r"
        cat /proc/keys /proc/timer_list | wc -c; ls /sys/firmware | wc -l
        echo x > /proc/sys/kernel/core_pattern
        echo /x > /sys/fs/cgroup/memory/release_agent; mkdir /sys/fs/cgroup/memory/sub
        mount -o remount,rw /sys; mount -t tmpfs none /tmp; unshare -m true
        mknod /tmp/disk b 254 0 && cat /tmp/disk | head -c 1 | wc -c
        mknod /tmp/mem c 1 1 && cat /tmp/mem | head -c 1 | wc -c
        hostname evil; chroot / true && echo chroot-fine
        grep -E 'Cap(Eff|Bnd|Inh)|NoNewPrivs|Seccomp:' /proc/self/status
        cat /proc/self/cgroup; ls /sys/fs/cgroup; echo $$; ip link | grep -c LOOPBACK,UP
        ls /dev; ls -l /proc/self/fd | wc -l
    ";
    let (_, output) = host
        .run_plain(&["sh", "-c", &format!("({script}) 2>&1")], |_| {})
        .await;
    for expected in [
        "can't create /proc/sys/kernel/core_pattern: Read-only file system",
        "mkdir: can't create directory '/sys/fs/cgroup/memory/sub': Read-only file system",
        "mount: permission denied (are you root?)",
        "unshare: unshare(0x20000): Operation not permitted",
        "cat: can't open '/tmp/disk': Operation not permitted",
        "cat: can't open '/tmp/mem': Operation not permitted",
        "hostname: sethostname: Operation not permitted",
        "chroot-fine",
        "CapInh:\t0000000000000000",
        "CapEff:\t00000000a80425fb",
        "CapBnd:\t00000000a80425fb",
        "NoNewPrivs:\t0",
        "Seccomp:\t2",
        "memory:/\n",
        "\n1\n1\n",
    ] {
        assert!(
            output.contains(expected),
            "{expected:?} is missing in:\n{output}"
        );
    }
    assert!(output.starts_with("0\n0\n"), "{output}");
    assert!(
        !output.contains("oci-test"),
        "names of the host are visible:\n{output}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn privileges_can_be_bounded_further() {
    let host = Host::new();
    let (_, output) = host
        .run_plain(&["sh", "-c", "id; touch /x 2>&1; touch /tmp/y && echo tmp; grep -E 'NoNewPrivs|CapBnd' /proc/self/status; df -m /tmp /dev/shm; ulimit -n; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; pwd; env"], |w| {
            let task = &mut w["spec"]["task"];
            task["user"] = json!("web:logs");
            task["groups"] = json!(["root"]);
            task["working_dir"] = json!("/made/for/it");
            task["env"] = json!(["A=1", "B=two words", "PATH=/bin"]);
            task["security"] = json!({"no_new_privileges": true, "readonly_rootfs": true, "cap_drop": ["ALL"], "cap_add": ["NET_BIND_SERVICE"]});
            task["mounts"] = json!([{"target": "/tmp", "source": {"type": "tmpfs", "size_bytes": 3 << 20}}]);
            task["shm_bytes"] = json!(5 << 20);
            task["ulimits"] = json!([{"name": "nofile", "soft": 100, "hard": 200}]);
            task["sysctls"] = json!({"net.ipv4.ip_unprivileged_port_start": "80"});
        })
        .await;
    for expected in [
        "uid=33(web) gid=44(logs) groups=0(root)",
        "tmp\n",
        "NoNewPrivs:\t1",
        "CapBnd:\t0000000000000400",
        " 3 ",
        " 5 ",
        "\n100\n80\n/made/for/it\n",
        "A=1\n",
        "B=two words\n",
        "HOME=/home/web\n",
        "PATH=/bin\n",
    ] {
        assert!(
            output.contains(expected),
            "{expected:?} is missing in:\n{output}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_may_be_killed_at_any_time() {
    let mut host = Host::new();
    let plan = host.plan(
        &["sh", "-c", "echo one; read x; echo two $x; exit 6"],
        |w| {
            w["spec"]["task"]["stdin_open"] = json!(true);
        },
    );
    let id = &plan.workload.id;
    let started = host.start(&plan).await;
    assert_eq!(started.status.phase, Phase::Running);
    host.reopen();
    let seen = host.runtime.observe().await.unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!(
        (seen[0].status.pid, seen[0].status.phase),
        (started.status.pid, Phase::Running)
    );
    assert_eq!(seen[0].namespace_pid, started.namespace_pid);
    let began = started.status.started_at;
    assert!(began.is_some());
    assert_eq!(seen[0].status.started_at, began);
    // Preparing or starting again changes nothing.
    assert_eq!(host.start(&plan).await.status.pid, started.status.pid);
    let mut events = host.runtime.events();
    let attach = host
        .runtime
        .follow(&host.request(id, FollowFrom::Run(1), true))
        .await
        .unwrap();
    let mut input = host.runtime.input(id).await.unwrap();
    input.write(Bytes::from_static(b"later\n")).await.unwrap();
    input.close().await.unwrap();
    assert_eq!(ended(&mut events, id).await.status.exit_code, 6);
    assert_eq!(text(attach).await, "one\ntwo later\n");
    // It ended; another restart still knows.
    host.reopen();
    let seen = host.runtime.observe().await.unwrap();
    assert_eq!(
        (seen[0].status.phase, seen[0].status.exit_code),
        (Phase::Exited, 6)
    );
    assert_eq!(seen[0].status.started_at, began);
    assert_eq!(host.logs(id).await, "one\ntwo later\n");
    assert_eq!(
        host.runtime.prepare(&plan).await.unwrap_err().class,
        ErrorClass::Conflict
    );
    host.runtime.remove(id).await.unwrap();
    host.runtime.remove(id).await.unwrap();
    assert!(host.runtime.observe().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_ends_without_agent_is_known_afterwards() {
    let mut host = Host::new();
    let plan = host.plan(&["sh", "-c", "sleep 0.3; echo late; exit 8"], |_| {});
    let id = plan.workload.id.clone();
    host.start(&plan).await;
    host.reopen();
    let exit = host
        .dir
        .path()
        .join("data/tasks")
        .join(id.as_str())
        .join("runs/0000000001-0000000000/exit.json");
    let begin = std::time::Instant::now();
    while !exit.exists() {
        assert!(begin.elapsed() < PATIENCE);
        // tidy: sleep: pause between two looks
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let seen = host.runtime.observe().await.unwrap();
    assert_eq!(
        (seen[0].status.phase, seen[0].status.exit_code),
        (Phase::Exited, 8)
    );
    assert_eq!(host.logs(&id).await, "late\n");
    host.runtime.remove(&id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_state_is_set_aside_and_rebuilt_from_what_runs() {
    let mut host = Host::new();
    let plan = host.plan(&["sleep", "1000"], |_| {});
    let id = plan.workload.id.clone();
    let started = host.start(&plan).await;
    let run = host
        .dir
        .path()
        .join("data/tasks")
        .join(id.as_str())
        .join("runs/0000000001-0000000000");
    for (damage, file) in [
        ("", "state.json"),
        ("{\"half\": ", "state.json"),
        ("", "plan.json"),
    ] {
        std::fs::write(run.join(file), damage).unwrap();
        host.reopen();
        let seen = host.runtime.observe().await.unwrap();
        assert_eq!(seen.len(), 1, "{file}");
        assert_eq!(
            (seen[0].status.pid, seen[0].status.phase),
            (started.status.pid, Phase::Running)
        );
        assert_eq!(
            seen[0].status.started_at, started.status.started_at,
            "{file}"
        );
    }
    assert!(run.join("plan.json.corrupt").exists());
    // The agent knows the plan; preparing again brings it back.
    assert_eq!(host.start(&plan).await.status.pid, started.status.pid);
    host.runtime.kill(&id).await.unwrap();
    assert_eq!(wait_final(&host, &id).await, 137);
    host.runtime.remove(&id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_exit_is_set_aside_and_the_task_is_known_to_have_ended() {
    let mut host = Host::new();
    let plan = host.plan(&["sh", "-c", "exit 8"], |_| {});
    let id = plan.workload.id.clone();
    host.start(&plan).await;
    assert_eq!(wait_final(&host, &id).await, 8);
    let tasks = host.dir.path().join("data/tasks").join(id.as_str());
    let exit = tasks.join("runs/0000000001-0000000000/exit.json");
    // Its supervisor tells the exit as long as it lives, whatever the file says. Having ended its task, it lives as
    // long as somebody is connected.
    std::fs::write(&exit, "").unwrap();
    let connected = host.reopen();
    assert_eq!(wait_final(&host, &id).await, 8);
    let state = std::fs::read_to_string(exit.with_file_name("state.json")).unwrap();
    let state: shim::state::ShimState = serde_json::from_str(&state).unwrap();
    kill(state.shim.pid);
    drop(connected);
    while state.shim.is_alive() {
        tokio::task::yield_now().await;
    }
    for damage in ["", "{\"half\": "] {
        std::fs::write(&exit, damage).unwrap();
        host.reopen();
        let seen = host.runtime.observe().await.unwrap();
        let status = &seen[0].status;
        assert_eq!((status.phase, status.exit_code), (Phase::Exited, 137));
        assert!(!status.error.is_empty(), "why it is not known is said");
    }
    assert!(exit.with_file_name("exit.json.corrupt").exists());
    host.runtime.remove(&id).await.unwrap();
}

async fn wait_final(host: &Host, id: &model::WorkloadId) -> i32 {
    let begin = std::time::Instant::now();
    loop {
        let seen = host.runtime.observe().await.unwrap();
        if let Some(task) = seen
            .iter()
            .find(|task| task.id == *id && task.status.phase.is_final())
        {
            return task.status.exit_code;
        }
        assert!(begin.elapsed() < PATIENCE, "{seen:?}");
        // tidy: sleep: pause between two looks
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reused_number_or_another_boot_is_not_taken_for_the_task() {
    let mut host = Host::new();
    let plan = host.plan(&["sleep", "1000"], |_| {});
    let id = plan.workload.id.clone();
    let started = host.start(&plan).await;
    let run = host
        .dir
        .path()
        .join("data/tasks")
        .join(id.as_str())
        .join("runs/0000000001-0000000000");
    let text = std::fs::read_to_string(run.join("state.json")).unwrap();
    let state: shim::state::ShimState = serde_json::from_str(&text).unwrap();
    kill(state.shim.pid);
    kill(i32::try_from(started.status.pid).unwrap());
    assert_eq!(wait_final(&host, &id).await, 137);
    // The numbers now belong to somebody else: this very process.
    let me = shim::process::ProcessId::current().unwrap();
    for (task, boot) in [
        (
            shim::process::ProcessId {
                start: me.start + 1,
                ..me
            },
            state.boot.clone(),
        ),
        (me, "another-boot".to_owned()),
    ] {
        let state = shim::state::ShimState {
            boot,
            shim: task,
            task: Some(task),
            ..state.clone()
        };
        std::fs::write(
            run.join("state.json"),
            serde_json::to_string(&state).unwrap(),
        )
        .unwrap();
        host.reopen();
        let seen = host.runtime.observe().await.unwrap();
        assert_eq!(seen[0].status.phase, Phase::Exited);
        assert!(!seen[0].status.error.is_empty());
    }
    host.runtime.remove(&id).await.unwrap();
}

fn kill(pid: i32) {
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_supervisor_ends_its_task_and_that_is_said() {
    let host = Host::new();
    let plan = host.plan(&["sleep", "1000"], |_| {});
    let id = plan.workload.id.clone();
    let mut events = host.runtime.events();
    let started = host.start(&plan).await;
    kill(i32::try_from(started.namespace_pid.unwrap()).unwrap());
    let task = ended(&mut events, &id).await;
    assert_eq!(task.status.exit_code, 137);
    assert!(task.status.error.contains("supervisor"), "{task:?}");
    assert!(started.status.started_at.is_some());
    assert_eq!(task.status.started_at, started.status.started_at);
    // An agent that comes later knows it as well.
    let mut host = host;
    host.reopen();
    let seen = host.runtime.observe().await.unwrap();
    assert_eq!(seen[0].status.started_at, started.status.started_at);
    host.runtime.remove(&id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_task_stands_still_and_can_be_killed() {
    let host = Host::new();
    let plan = host.plan(
        &["sh", "-c", "while true; do echo x; sleep 0.005; done"],
        |_| {},
    );
    let id = plan.workload.id.clone();
    let mut events = host.runtime.events();
    host.start(&plan).await;
    host.runtime.pause(&id).await.unwrap();
    assert_eq!(
        host.runtime.observe().await.unwrap()[0].status.phase,
        Phase::Paused
    );
    let before = host.logs(&id).await.len();
    // tidy: sleep: what a paused task does not do takes time to see
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let between = host.logs(&id).await.len();
    assert!(between <= before + 2, "{before} {between}");
    assert_eq!(
        host.runtime
            .exec(&exec(&id, &["true"]))
            .await
            .err()
            .unwrap()
            .class,
        ErrorClass::Conflict
    );
    host.runtime.resume(&id).await.unwrap();
    let begin = std::time::Instant::now();
    while host.logs(&id).await.len() <= between {
        assert!(begin.elapsed() < PATIENCE);
    }
    host.runtime.pause(&id).await.unwrap();
    host.runtime.kill(&id).await.unwrap();
    assert_eq!(ended(&mut events, &id).await.status.exit_code, 137);
    host.runtime.remove(&id).await.unwrap();
}

fn exec(id: &model::WorkloadId, args: &[&str]) -> ExecRequest {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    ExecRequest {
        id: id.clone(),
        exec: format!("{:064x}", COUNT.fetch_add(1, Ordering::Relaxed)),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: vec!["EXTRA=1".to_owned()],
        working_dir: String::new(),
        user: String::new(),
        tty: false,
        stdin: false,
        privileged: false,
        size: None,
        resumable: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_goes_on_after_the_agent_and_is_kept_until_its_end_has_arrived() {
    let mut host = Host::new();
    let plan = host.plan(&["sleep", "1000"], |_| {});
    let id = plan.workload.id.clone();
    host.start(&plan).await;
    let script = "echo a; until [ -e /go ]; do usleep 10000; done; echo b; exit 4";
    let request = exec(&id, &["sh", "-c", script]);
    let mut session = host.runtime.exec(&request).await.unwrap();
    let mut position = 0;
    while let Some(piece) = session.output.next().await {
        let piece = piece.unwrap();
        position = piece.position;
        if !piece.bytes.is_empty() {
            assert_eq!(&piece.bytes[..], b"a\n");
            break;
        }
    }
    drop(session);
    host.reopen();
    host.runtime.observe().await.unwrap();
    let resume = |position| ExecResume {
        id: id.clone(),
        exec: request.exec.clone(),
        position,
        stdin: false,
    };
    let session = host.runtime.exec_resume(&resume(Some(position))).await;
    let session = session.unwrap();
    let go = host.runtime.exec(&exec(&id, &["touch", "/go"])).await;
    assert_eq!(go.unwrap().exit.await.unwrap().exit_code, 0);
    assert_eq!(text(session.output).await, "b\n");
    assert_eq!(session.exit.await.unwrap().exit_code, 4);
    // Nobody has said that it arrived: it is still known, also to one more agent.
    host.reopen();
    host.runtime.observe().await.unwrap();
    let session = host.runtime.exec_resume(&resume(Some(0))).await.unwrap();
    assert_eq!(text(session.output).await, "a\nb\n");
    assert_eq!(session.exit.await.unwrap().exit_code, 4);
    let session = host.runtime.exec_resume(&resume(None)).await.unwrap();
    assert_eq!(text(session.output).await, "");
    assert_eq!(session.exit.await.unwrap().exit_code, 4);
    (session.arrived)();
    let forgotten = async {
        loop {
            match host.runtime.exec_resume(&resume(None)).await {
                Ok(_) => tokio::task::yield_now().await,
                Err(error) => break error,
            }
        }
    };
    let error = tokio::time::timeout(PATIENCE, forgotten).await.unwrap();
    assert_eq!(error.class, ErrorClass::NotFound);
    let mut events = host.runtime.events();
    host.runtime.kill(&id).await.unwrap();
    ended(&mut events, &id).await;
    host.runtime.remove(&id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_on_is_told_if_what_it_missed_is_gone() {
    let host = Host::new();
    let small = |value: &mut serde_json::Value| {
        value["spec"]["task"]["log"] = json!({"max_file_bytes": 4096, "max_files": 2});
    };
    let plan = host.plan(&["sh", "-c", "yes | head -c 500000"], small);
    let id = plan.workload.id.clone();
    let (_, kept) = host.run(&plan).await;
    assert!(kept.len() < 100_000, "{}", kept.len());
    let request = host.request(&id, FollowFrom::Position(1000), false);
    let mut output = host.runtime.follow(&request).await.unwrap();
    let error = output.next().await.unwrap().unwrap_err();
    assert!(
        error.message.contains("bytes of output were written"),
        "{error}"
    );
    host.runtime.remove(&id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::too_many_lines,
    reason = "one scenario or one table of cases, read from top to bottom"
)]
async fn an_exec_runs_with_the_confinement_of_its_task() {
    let host = Host::new();
    let plan = host.plan(&["sleep", "1000"], |w| {
        w["spec"]["task"]["env"] = json!(["OWN=1"]);
        w["spec"]["task"]["user"] = json!("web");
    });
    let id = plan.workload.id.clone();
    let mut events = host.runtime.events();
    host.start(&plan).await;
    let script = "id -u; echo $OWN$EXTRA; hostname; grep -E 'Seccomp:|CapEff|CapBnd' /proc/self/status; cat /proc/self/cgroup; unshare -m true; exit 11";
    let session = host
        .runtime
        .exec(&exec(
            &id,
            &["sh", "-c", &format!("({script}) 2>&1; exit 11")],
        ))
        .await
        .unwrap();
    let output = text(session.output).await;
    let exit = session.exit.await.unwrap();
    assert_eq!(exit.exit_code, 11);
    for expected in [
        "33\n11\n",
        "Seccomp:\t2",
        "CapEff:\t0000000000000000",
        "CapBnd:\t00000000a80425fb",
        "memory:/\n",
        "Operation not permitted",
    ] {
        assert!(
            output.contains(expected),
            "{expected:?} is missing in:\n{output}"
        );
    }
    // As root, with a terminal and input.
    let mut request = exec(
        &id,
        &["sh", "-c", "tty; stty size; id -u; read x; echo got $x"],
    );
    (request.tty, request.stdin, request.user, request.size) =
        (true, true, "0".to_owned(), Some((30, 100)));
    let session = host.runtime.exec(&request).await.unwrap();
    host.runtime
        .resize(&id, Some(&request.exec), 31, 101)
        .await
        .unwrap();
    session
        .input
        .unwrap()
        .write(Bytes::from_static(b"typed\n"))
        .await
        .unwrap();
    let output = text(session.output).await;
    assert!(
        output.contains("/dev/pts/")
            && output.contains("\r\n0\r\n")
            && output.contains("got typed"),
        "{output}"
    );
    assert_eq!(session.exit.await.unwrap().exit_code, 0);
    // More output than its log holds.
    let session = host
        .runtime
        .exec(&exec(&id, &["sh", "-c", "yes | head -c 30000000"]))
        .await
        .unwrap();
    assert_eq!(text(session.output).await.len(), 30_000_000);
    // Failures in words.
    let error = host
        .runtime
        .exec(&exec(&id, &["nowhere"]))
        .await
        .err()
        .unwrap();
    assert!(
        error.message.contains("executable file not found"),
        "{error}"
    );
    for (place, expected) in [
        (
            "/nope",
            "working directory /nope: no such directory in the container",
        ),
        (
            "/etc/passwd",
            "working directory /etc/passwd: not a directory",
        ),
    ] {
        let mut request = exec(&id, &["true"]);
        request.working_dir = place.to_owned();
        let error = host.runtime.exec(&request).await.err().unwrap();
        assert!(error.message.contains(expected), "{error}");
    }
    host.runtime.kill(&id).await.unwrap();
    ended(&mut events, &id).await;
    assert_eq!(
        host.runtime
            .exec(&exec(&id, &["true"]))
            .await
            .err()
            .unwrap()
            .class,
        ErrorClass::Conflict
    );
    host.runtime.remove(&id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn runc_runs_tasks_too() {
    let host = Host::new();
    let plan = host.plan(
        &["sh", "-c", "echo hello; tty; id -u; read x; exit 4"],
        |w| {
            let task = &mut w["spec"]["task"];
            (task["runtime"], task["tty"], task["user"]) =
                (json!("runc"), json!(true), json!("web"));
            task["stdin_open"] = json!(true);
            task["resources"]["memory_limit"] = json!(64 << 20);
        },
    );
    let id = plan.workload.id.clone();
    let mut events = host.runtime.events();
    host.start(&plan).await;
    let session = host
        .runtime
        .exec(&exec(&id, &["sh", "-c", "echo inside; id -u"]))
        .await
        .unwrap();
    assert_eq!(text(session.output).await, "inside\n33\n");
    host.runtime
        .input(&id)
        .await
        .unwrap()
        .write(Bytes::from_static(b"\n"))
        .await
        .unwrap();
    assert_eq!(ended(&mut events, &id).await.status.exit_code, 4);
    let output = host.logs(&id).await;
    assert!(
        output.starts_with("hello\r\n/dev/pts/0\r\n33\r\n"),
        "{output}"
    );
    host.runtime.remove(&id).await.unwrap();

    let (code, output) = host
        .run_plain(
            &["sh", "-c", "echo plain; cat /proc/self/cgroup; exit 2"],
            |w| {
                w["spec"]["task"]["runtime"] = json!("runc");
            },
        )
        .await;
    assert_eq!(code, 2);
    assert!(output.starts_with("plain\n"), "{output}");

    let plan = host.plan(&["nowhere"], |w| {
        w["spec"]["task"]["runtime"] = json!("runc")
    });
    host.runtime.prepare(&plan).await.unwrap();
    let error = host.runtime.start(&plan).await.unwrap_err();
    assert!(
        error.message.contains("executable file not found"),
        "{error}"
    );
    host.runtime.remove(&plan.workload.id).await.unwrap();
    let plan = host.plan(&["true"], |w| {
        w["spec"]["task"]["runtime"] = json!("/bin/sh")
    });
    assert_eq!(
        host.runtime.prepare(&plan).await.unwrap_err().class,
        ErrorClass::Invalid
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_start_leaves_nothing_and_says_why() {
    let host = Host::new();
    for (args, change, message) in [
        (
            vec!["nowhere"],
            json!({}),
            "executable file not found in $PATH",
        ),
        (
            vec!["true"],
            json!({"user": "nobody"}),
            "unable to find user nobody",
        ),
        (
            vec!["true"],
            json!({"ulimits": [{"name": "x", "soft": 1, "hard": 1}]}),
            "unknown limit \"x\"",
        ),
        (
            vec!["true"],
            json!({"mounts": [{"target": "/a/../b", "source": {"type": "tmpfs"}}]}),
            "without ..",
        ),
        (
            vec!["true"],
            json!({"mounts": [{"target": "/", "source": {"type": "tmpfs"}}]}),
            "absolute path",
        ),
        (
            vec!["true"],
            json!({"security": {"cap_add": ["CAP_GOD"]}}),
            "unknown capability",
        ),
        (
            vec!["true"],
            json!({"devices": [{"host_path": "/etc/passwd", "path": "/dev/x", "permissions": "r"}]}),
            "not a device",
        ),
    ] {
        let plan = host.plan(&args, |w| {
            for (name, value) in change.as_object().unwrap() {
                w["spec"]["task"][name] = value.clone();
            }
        });
        host.runtime.prepare(&plan).await.unwrap();
        let error = host.runtime.start(&plan).await.unwrap_err();
        assert!(error.message.contains(message), "{error}");
        assert_eq!(error.class, ErrorClass::Invalid);
        host.runtime.remove(&plan.workload.id).await.unwrap();
    }
    for name in ["cpuset_cpus", "cpuset_mems"] {
        let plan = host.plan(&["true"], |w| {
            w["spec"]["task"]["resources"][name] = json!("0,77");
        });
        let error = host.runtime.prepare(&plan).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Invalid);
        assert!(error.message.contains("77 is wanted"), "{error}");
        assert!(!error.message.contains('/'), "{error}");
        host.runtime.remove(&plan.workload.id).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_tells_no_place_of_the_host() {
    let host = Host::new();
    let data = host.dir.path().to_str().unwrap().to_owned();
    for runtime in [None, Some("runc")] {
        // Admission refuses these; the runtime is to be silent about its folders whatever comes.
        for target in ["/proc/nowhere", "/etc/hosts/below", "/sys/x"] {
            let plan = host.plan(&["true"], |w| {
                w["spec"]["task"]["mounts"] =
                    json!([{"target": target, "source": {"type": "tmpfs"}}]);
                w["spec"]["task"]["runtime"] = json!(runtime);
            });
            host.runtime.prepare(&plan).await.unwrap();
            let error = host.runtime.start(&plan).await.unwrap_err();
            for secret in [data.as_str(), "/sys/fs/cgroup/", "plimsoll/"] {
                assert!(!error.message.contains(secret), "{target}: {error}");
            }
            host.runtime.remove(&plan.workload.id).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_spared_when_memory_runs_out_only_where_the_host_may_say_so() {
    let host = Host::new();
    // The kernel's answer for this very process; it needs CAP_SYS_RESOURCE on the host.
    let own = "/proc/thread-self/oom_score_adj";
    let before = std::fs::read_to_string(own).unwrap();
    let allowed = std::fs::write(own, "-1000").is_ok();
    std::fs::write(own, before.trim()).unwrap();
    let plan = host.plan(&["cat", "/proc/self/oom_score_adj"], |w| {
        w["spec"]["task"]["resources"] = json!({"oom_score_adj": -1000});
    });
    let id = &plan.workload.id;
    if allowed {
        let mut events = host.runtime.events();
        host.start(&plan).await;
        assert_eq!(ended(&mut events, id).await.status.exit_code, 0);
        assert_eq!(host.logs(id).await, "-1000\n");
    } else {
        host.runtime.prepare(&plan).await.unwrap();
        let error = host.runtime.start(&plan).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Invalid);
        assert!(error.message.contains("oom_score_adj -1000"), "{error}");
    }
    host.runtime.remove(id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_and_the_highest_admitted_values_can_be_started() {
    let host = Host::new();
    for (change, init, tty) in [
        (json!({"pids_limit": 4}), false, false),
        (json!({"pids_limit": 4}), true, false),
        (json!({"pids_limit": 4}), false, true),
        (json!({"pids_limit": 4 << 20}), false, false),
        (json!({"oom_score_adj": 1000}), false, false),
        (json!({"cpu_limit_millis": 10}), false, false),
        (json!({"cpu_limit_millis": 8_192_000}), false, false),
        (
            json!({"cpu_period_us": 1000, "cpu_quota_us": 1000}),
            false,
            false,
        ),
        (
            json!({"cpu_period_us": 1_000_000, "cpu_quota_us": 8_192_000_000_u64}),
            false,
            false,
        ),
        (json!({"cpu_shares": 2}), false, false),
        (json!({"cpu_shares": 262_144}), false, false),
        (json!({"memory_limit": 6 << 20}), false, false),
        (json!({"memory_limit": i64::MAX}), false, false),
    ] {
        let plan = host.plan(&["true"], |w| {
            w["spec"]["task"]["resources"] = change.clone();
            w["spec"]["task"]["init"] = json!(init);
            w["spec"]["task"]["tty"] = json!(tty);
        });
        let mut events = host.runtime.events();
        host.start(&plan).await;
        let code = ended(&mut events, &plan.workload.id).await.status.exit_code;
        assert_eq!(code, 0, "{change} init {init} tty {tty}");
        host.runtime.remove(&plan.workload.id).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_lines_of_a_task_that_writes_without_a_pause() {
    let host = Host::new();
    let plan = host.plan(&["sh", "-c", "yes 0123456789"], |w| {
        w["spec"]["task"]["log"] = json!({"keep": true, "max_file_bytes": 65536, "max_files": 2});
    });
    let id = plan.workload.id.clone();
    let mut events = host.runtime.events();
    host.start(&plan).await;
    for _ in 0..20 {
        let request = host.request(&id, FollowFrom::Lines(2), false);
        let lines = text(host.runtime.follow(&request).await.unwrap()).await;
        assert!(lines.lines().count() <= 2, "{}", lines.len());
    }
    host.runtime.kill(&id).await.unwrap();
    ended(&mut events, &id).await;
    let request = host.request(&id, FollowFrom::Lines(2), false);
    let lines = text(host.runtime.follow(&request).await.unwrap()).await;
    assert_eq!(lines.lines().count(), 2);
    host.runtime.remove(&id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_begin_and_end_where_asked() {
    let host = Host::new();
    let plan = host.plan(
        &[
            "sh",
            "-c",
            "for i in 1 2 3 4 5; do echo line $i; done; echo -n open; echo err >&2",
        ],
        |_| {},
    );
    let id = plan.workload.id.clone();
    let attach = host
        .runtime
        .follow(&host.request(&id, FollowFrom::Run(1), true))
        .await
        .unwrap();
    let (task, _) = host.run(&plan).await;
    assert_eq!(
        text(attach).await.len(),
        "line 1\n".len() * 5 + "open".len() + "err\n".len()
    );
    let mut request = host.request(&id, FollowFrom::Lines(2), false);
    request.stderr = false;
    assert_eq!(
        text(host.runtime.follow(&request).await.unwrap()).await,
        "line 5\nopen"
    );
    request.from = FollowFrom::Lines(0);
    assert_eq!(text(host.runtime.follow(&request).await.unwrap()).await, "");
    request.from = FollowFrom::Lines(100);
    assert_eq!(
        text(host.runtime.follow(&request).await.unwrap())
            .await
            .lines()
            .count(),
        6
    );
    request.from = FollowFrom::SinceMs(task.status.finished_at.unwrap().millis() + 10);
    assert_eq!(text(host.runtime.follow(&request).await.unwrap()).await, "");
    // A second run appends; attaching to it shows only its own output.
    let mut second = plan.clone();
    let mut workload = (*plan.workload).clone();
    workload.run = 2;
    second.workload = std::sync::Arc::new(workload);
    let attach = host
        .runtime
        .follow(&host.request(&id, FollowFrom::Run(2), true))
        .await
        .unwrap();
    host.run(&second).await;
    assert!(text(attach).await.starts_with("line 1\n"));
    assert_eq!(host.logs(&id).await.matches("line 1\n").count(), 2);
    host.runtime.remove(&id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_task_is_measured_listed_and_limited() {
    let host = Host::new();
    let plan = host.plan(&["sh", "-c", "sleep 1000 & sleep 1000"], |_| {});
    let id = plan.workload.id.clone();
    let mut events = host.runtime.events();
    host.start(&plan).await;
    let session = host
        .runtime
        .exec(&exec(
            &id,
            &[
                "sh",
                "-c",
                "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done",
            ],
        ))
        .await
        .unwrap();
    session.exit.await.unwrap();
    let resources = Resources {
        memory_limit: Some(50 << 20),
        pids_limit: Some(20),
        ..Resources::default()
    };
    host.runtime.update(&id, &resources).await.unwrap();
    let stats = host.runtime.stats(&id).await.unwrap();
    assert!(
        stats.cpu_total_ns > 1_000_000 && stats.host_cpu_ns > stats.cpu_total_ns,
        "{stats:?}"
    );
    assert!(
        stats.memory_usage > 0 && stats.memory_limit == 50 << 20,
        "{stats:?}"
    );
    assert_eq!((stats.pids, stats.pids_limit), (2, 20));
    let table = host.runtime.top(&id, "").await.unwrap();
    assert_eq!(table.rows.len(), 2, "{table:?}");
    assert!(
        table
            .rows
            .iter()
            .all(|row| row.last().unwrap().contains("sleep"))
    );
    assert!(host.runtime.top(&id, "--no-such-option").await.is_err());
    host.runtime.kill(&id).await.unwrap();
    ended(&mut events, &id).await;
    host.runtime.remove(&id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_volume_takes_over_what_the_image_has_there() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
    let host = Host::new();
    let data = host.dir.path().join("layer/data");
    std::fs::create_dir(data.join("sub")).unwrap();
    std::fs::write(data.join("sub/file"), "content").unwrap();
    symlink("/etc/passwd", data.join("link")).unwrap();
    chown(&data, Some(33), Some(34)).unwrap();
    chown(data.join("sub/file"), Some(33), Some(34)).unwrap();
    std::fs::set_permissions(&data, PermissionsExt::from_mode(0o750)).unwrap();
    let mounts = json!([{"target": "/data", "source": {"type": "volume", "name": "store"}},
        {"target": "/data2", "source": {"type": "volume", "name": ""}}]);
    let script = "cat /data/sub/file; readlink /data/link; rm -r /data/sub; echo new >/data/own; touch /data2/x; ls -nd /data";
    let (code, output) = host
        .run_plain(&["sh", "-c", script], |w| {
            w["spec"]["task"]["mounts"] = mounts.clone()
        })
        .await;
    assert_eq!(code, 0, "{output}");
    assert!(
        output.starts_with("content/etc/passwd\ndrwxr-x---"),
        "{output}"
    );
    let kept = host.dir.path().join("data/volumes/0123456789abcdef/store");
    assert_eq!(
        (
            kept.metadata().unwrap().uid(),
            kept.metadata().unwrap().gid()
        ),
        (33, 34)
    );
    // Not again: the volume is not empty any more.
    let (_, output) = host
        .run_plain(&["sh", "-c", "ls /data"], |w| {
            w["spec"]["task"]["mounts"] = mounts.clone()
        })
        .await;
    assert_eq!(output, "link\nown\n");
}

/// Names that an image may put where runtimes mount or write.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_full_of_links_does_not_reach_the_host() {
    use std::os::unix::fs::symlink;
    let canary = tempfile::tempdir().unwrap();
    let outside = canary.path().join("outside");
    let before = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    for (name, target) in [
        ("proc", "outside"),
        ("sys", "outside"),
        ("dev", "outside"),
        ("etc", "outside"),
        ("proc", "/proc"),
        ("dev/null", "outside/file"),
        ("dev/pts", "outside"),
        ("dev/console", "outside/file"),
        ("etc/hosts", "outside/file"),
        ("etc/resolv.conf", "outside/missing"),
        ("etc/hostname", "/proc/sys/kernel/core_pattern"),
        ("work", "outside"),
        ("vol", "outside"),
    ] {
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::write(outside.join("file"), "untouched").unwrap();
        let host = Host::new();
        let place = host.dir.path().join("layer").join(name);
        let _ = std::fs::remove_dir_all(&place);
        let target = if target.starts_with('/') {
            target.into()
        } else {
            canary.path().join(target)
        };
        symlink(&target, &place).unwrap();
        let plan = host.plan(
            &[
                "sh",
                "-c",
                "echo evil >/etc/hosts; echo evil >/dev/null; mkdir -p /work/x; true",
            ],
            |w| {
                w["spec"]["task"]["working_dir"] = json!("/work/deep");
                w["spec"]["task"]["mounts"] =
                    json!([{"target": "/vol/deep", "source": {"type": "volume", "name": ""}}]);
            },
        );
        let mut events = host.runtime.events();
        host.runtime.prepare(&plan).await.unwrap();
        // Refused or safe: both are fine.
        if host.runtime.start(&plan).await.is_ok() {
            ended(&mut events, &plan.workload.id).await;
        }
        host.runtime.remove(&plan.workload.id).await.unwrap();
        let found: Vec<_> = std::fs::read_dir(&outside)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(found, ["file"], "{name}");
        assert_eq!(
            std::fs::read_to_string(outside.join("file")).unwrap(),
            "untouched",
            "{name}"
        );
    }
    assert_eq!(
        std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(),
        before
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_cannot_change_the_programs_that_run_it() {
    let host = Host::new();
    let program = oci_support::shim_program();
    let before = std::fs::read(&program).unwrap();
    // As its own entry point, through its first process, and through an exec that has just entered.
    let plan = host.plan(&["/proc/self/exe", "supervise", "/tmp"], |_| {});
    host.runtime.prepare(&plan).await.unwrap();
    // The image lacks what the program is linked with.
    assert!(host.runtime.start(&plan).await.is_err());
    host.runtime.remove(&plan.workload.id).await.unwrap();
    let plan = host.plan(
        &[
            "sh",
            "-c",
            "while true; do for p in /proc/[0-9]*; do (echo evil > $p/exe) 2>/dev/null; done; done",
        ],
        |w| {
            w["spec"]["task"]["init"] = json!(true);
        },
    );
    let id = plan.workload.id.clone();
    let mut events = host.runtime.events();
    host.start(&plan).await;
    for _ in 0..5 {
        let session = host.runtime.exec(&exec(&id, &["sh", "-c", "(echo evil > /proc/1/exe) 2>/dev/null; ls -l /proc/self/fd 2>/dev/null | wc -l"])).await.unwrap();
        let output = text(session.output).await;
        // stdin, stdout, stderr, the folder itself, and the line with the total.
        assert!(output.ends_with("5\n"), "{output}");
    }
    host.runtime.kill(&id).await.unwrap();
    ended(&mut events, &id).await;
    host.runtime.remove(&id).await.unwrap();
    assert!(std::fs::read(&program).unwrap() == before);
}

#[tokio::test(flavor = "multi_thread")]
async fn system_calls_are_filtered() {
    let host = Host::new();
    // A new user namespace needs no capability: only the filter stands in the way.
    let script = "unshare -U true 2>&1; echo $?";
    let (_, output) = host.run_plain(&["sh", "-c", script], |_| {}).await;
    assert!(output.ends_with("1\n"), "{output}");
    let (_, output) = host
        .run_plain(&["sh", "-c", script], |w| {
            w["spec"]["task"]["security"] = json!({"seccomp": {"profile": "unconfined"}})
        })
        .await;
    assert!(output.ends_with("0\n"), "{output}");
    // An own profile.
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]}"#;
    let (_, output) = host
        .run_plain(&["sh", "-c", "mkdir /x 2>&1; touch /y && echo fine"], |w| {
            w["spec"]["task"]["security"] = json!({"seccomp": {"profile": "custom", "json": profile}, "no_new_privileges": true});
        })
        .await;
    assert_eq!(
        output,
        "mkdir: can't create directory '/x': Permission denied\nfine\n"
    );
}
