//! Tasks through the built-in runtime, on a real kernel, as root.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io::Write;
use std::process::Stdio;

use shim::log::{Entry, LogReader, Stream, files};
use shim::message::{Event, FailureKind, Fence, Phase, Request, Subscribe, What, WindowSize};
use shim::state::{Content, ExitRecord, read};
use support::{Root, Shim, spec};

#[test]
fn a_program_runs_and_its_output_and_exit_code_are_known() {
    let root = Root::new();
    let (exit, output) = Shim::new().run(&root, &["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(
        (exit.code, exit.signal, exit.oom, exit.run),
        (7, None, false, 1)
    );
    assert!(
        output.contains("out\n") && output.contains("err\n"),
        "{output}"
    );
}

#[test]
fn a_signal_is_an_exit_code_above_128() {
    let root = Root::new();
    let mut shim = Shim::new();
    let start = shim.start_request(&root, &spec(&["sleep", "1000"], false));
    let task = shim.start(start).unwrap();
    assert!(task.is_alive());
    shim.client.call(Request::Signal { signal: 9 }).unwrap();
    let exit = shim.client.exit();
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
}

#[test]
fn failures_to_start_are_told_apart_and_in_words() {
    let root = Root::new();
    std::fs::write(root.dir.path().join("lower/bin/plain"), "text").unwrap();
    std::fs::write(root.dir.path().join("lower/bin/garbage"), b"\x01\x02").unwrap();
    let path = root.dir.path().join("lower/bin/garbage");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let cases = [
        (
            "nowhere",
            FailureKind::NotFound,
            "executable file not found in $PATH",
        ),
        (
            "/nowhere",
            FailureKind::NotFound,
            "no such file or directory",
        ),
        ("plain", FailureKind::NotExecutable, "permission denied"),
        ("/etc", FailureKind::NotExecutable, "permission denied"),
        ("garbage", FailureKind::NotExecutable, "exec format error"),
    ];
    for (program, kind, text) in cases {
        let mut shim = Shim::new();
        let start = shim.start_request(&root, &spec(&[program], false));
        let failure = shim.start(start).unwrap_err();
        assert_eq!(failure.kind, kind, "{program}: {failure:?}");
        assert!(failure.reason.contains(text), "{program}: {failure:?}");
        let Content::Whole(exit) = read::<ExitRecord>(&shim.dir.join("exit.json")).unwrap() else {
            panic!("no exit record");
        };
        assert!(exit.failure.is_some() && exit.code >= 126);
    }
}

#[test]
fn users_are_resolved_in_the_image() {
    let root = Root::new();
    for (user, groups, expected) in [
        ("", vec![], "uid=0(root) gid=0(root)"),
        ("web", vec![], "uid=33(web) gid=34(web) groups=44(logs)"),
        (
            "33:44",
            vec!["root"],
            "uid=33(web) gid=44(logs) groups=0(root)",
        ),
        ("1234:5678", vec![], "uid=1234 gid=5678"),
    ] {
        let mut shim = Shim::new();
        let mut start = shim.start_request(
            &root,
            &spec(
                &[
                    "sh",
                    "-c",
                    "id; echo home=$HOME; grep Cap /proc/self/status",
                ],
                false,
            ),
        );
        start.user = user.to_owned();
        start.groups = groups.iter().map(|group| (*group).to_owned()).collect();
        let (exit, output) = shim.run_start(start);
        assert_eq!(exit.code, 0);
        assert!(output.contains(expected), "{output}");
        // A user other than root holds nothing, but may gain the bounding set through set-uid programs.
        let effective = if user.is_empty() {
            "00000000a80425fb"
        } else {
            "0000000000000000"
        };
        assert!(
            output.contains(&format!("CapEff:\t{effective}")),
            "{output}"
        );
        assert!(
            output.contains("CapBnd:\t00000000a80425fb")
                && output.contains("CapInh:\t0000000000000000"),
            "{output}"
        );
    }
    let mut shim = Shim::new();
    let mut start = shim.start_request(&root, &spec(&["id"], false));
    start.user = "nobody-here".to_owned();
    assert_eq!(shim.start(start).unwrap_err().kind, FailureKind::User);
}

#[test]
fn links_in_the_image_do_not_lead_out_of_it() {
    let root = Root::new();
    let lower = root.dir.path().join("lower");
    let outside = root.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("passwd"), "evil:x:0:0::/:/bin/sh\n").unwrap();
    std::fs::remove_file(lower.join("etc/passwd")).unwrap();
    std::os::unix::fs::symlink(outside.join("passwd"), lower.join("etc/passwd")).unwrap();
    std::os::unix::fs::symlink(&outside, lower.join("link")).unwrap();
    let mut shim = Shim::new();
    let mut spec = spec(&["pwd"], false);
    spec["process"]["cwd"] = "/link/deep".into();
    let mut start = shim.start_request(&root, &spec);
    start.user = "evil".to_owned();
    assert_eq!(
        shim.start(start.clone()).unwrap_err().kind,
        FailureKind::User
    );
    let mut shim = Shim::new();
    start.user = String::new();
    if let What::Task { spec: path, .. } = &mut start.what {
        *path = shim.dir.join("spec.json");
        std::fs::write(path, spec.to_string()).unwrap();
    }
    let _ = shim.start(start);
    assert!(!outside.join("deep").exists());
}

#[test]
fn a_terminal_has_a_size_echoes_and_changes() {
    let root = Root::new();
    let mut shim = Shim::new();
    let script =
        "tty; stty size; read line; echo got $line; stty size; test -t 0 && test -t 2 && exit 5";
    let mut start = shim.start_request(&root, &spec(&["sh", "-c", script], true));
    start.stdin = true;
    shim.start(start).unwrap();
    let output = shim.wait_output("24 80");
    assert!(output.contains("/dev/pts/0"), "{output}");
    shim.client
        .call(Request::Resize(WindowSize {
            rows: 50,
            cols: 132,
        }))
        .unwrap();
    shim.client.input(b"hello\n");
    assert_eq!(shim.client.exit().code, 5);
    let output = shim.output();
    assert!(output.contains("got hello\r\n50 132"), "{output}");
}

#[test]
fn input_reaches_the_task_in_full_and_ends() {
    let root = Root::new();
    let mut shim = Shim::new();
    let mut start = shim.start_request(
        &root,
        &spec(&["sh", "-c", "sleep 0.2; sha256sum; echo end"], false),
    );
    start.stdin = true;
    shim.start(start).unwrap();
    let mut feeder = support::Client::connect(&shim.dir);
    let data: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    for piece in data.chunks(30_000) {
        feeder.input(piece);
    }
    feeder.send(Request::CloseStdin);
    assert_eq!(shim.client.exit().code, 0);
    let expected = std::process::Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .and_then(|mut child| {
            child.stdin.take().unwrap().write_all(&data)?;
            child.wait_with_output()
        })
        .unwrap();
    let expected = String::from_utf8(expected.stdout).unwrap();
    assert!(shim.output().starts_with(&expected), "{}", shim.output());
}

#[test]
fn without_input_reading_ends_at_once() {
    let root = Root::new();
    let (exit, output) = Shim::new().run(&root, &["sh", "-c", "cat; echo done"]);
    assert_eq!((exit.code, output.as_str()), (0, "done\n"));
}

#[test]
fn the_small_init_reaps_and_forwards() {
    let root = Root::new();
    let mut shim = Shim::new();
    let script = "trap 'echo term; exit 3' TERM; (sh -c 'sleep 0.01 & exec true' &) ; cat /proc/1/comm; tr '\\0' ' ' </proc/1/cmdline; echo; echo pid $$; while true; do sleep 0.05; done";
    let mut start = shim.start_request(&root, &spec(&["sh", "-c", script], false));
    start.init = true;
    shim.start(start).unwrap();
    let output = shim.wait_output("pid 2");
    // Its command line is its own, too: that of the shim names folders of the host.
    let lines: Vec<&str> = output.lines().map(str::trim).collect();
    assert_eq!(lines[..2], ["plimsoll-init", "plimsoll-init"], "{output}");
    shim.client.call(Request::Signal { signal: 15 }).unwrap();
    assert_eq!(shim.client.exit().code, 3);
    assert!(shim.output().contains("term"));
}

#[test]
fn the_shim_survives_its_driver_and_knows_the_exit_afterwards() {
    let root = Root::new();
    let mut shim = Shim::new();
    let mut start = shim.start_request(
        &root,
        &spec(
            &["sh", "-c", "echo one; read x; echo two $x; exit 9"],
            false,
        ),
    );
    start.stdin = true;
    let task = shim.start(start).unwrap();
    shim.wait_output("one");
    // The driver is gone: its connection is closed.
    shim.client = support::Client::connect(&shim.dir);
    let phase = shim.client.wait_for(|event| match event {
        Event::Hello { phase, .. } => Some(phase.clone()),
        _ => None,
    });
    let started_ns = match phase {
        Phase::Running {
            task: told,
            started_ns,
        } if told == task => started_ns,
        other => panic!("{other:?} is not a running {task:?}"),
    };
    shim.client.input(b"later\n");
    shim.client.send(Request::CloseStdin);
    // Gone again before the end.
    let dir = shim.dir.clone();
    shim.client = support::Client::new(std::os::unix::net::UnixStream::pair().unwrap().0);
    assert!(shim.child.wait().unwrap().success());
    let Content::Whole(exit) = read::<ExitRecord>(&dir.join("exit.json")).unwrap() else {
        panic!("no exit record");
    };
    assert_eq!(exit.started_ns, started_ns);
    assert_eq!(exit.code, 9);
    assert_eq!(shim.output(), "one\ntwo later\n");
}

#[test]
fn a_flood_of_output_is_bounded_on_disk_and_in_memory_and_an_attached_reader_loses_nothing() {
    let root = Root::new();
    let mut shim = Shim::new();
    let bytes = 1u64 << 30;
    let start = shim.start_request(
        &root,
        &spec(&["sh", "-c", &format!("yes | head -c {bytes}")], false),
    );
    shim.client
        .call(Request::Subscribe(Subscribe {
            hold: true,
            offset: 0,
        }))
        .unwrap();
    shim.start(start).unwrap();
    let mut reader = LogReader::new(shim.dir.join("log"), 0);
    let (mut seen, mut ended) = (0, false);
    loop {
        while let Some(entry) = reader.next_entry().unwrap() {
            match entry {
                Entry::Record(record) if record.stream == Stream::Stdout => {
                    seen += record.bytes.len() as u64
                }
                Entry::Record(_) => {}
                Entry::Gap { bytes } => panic!("lost {bytes}"),
            }
        }
        if ended {
            break;
        }
        shim.client.send(Request::Ack {
            offset: reader.offset(),
        });
        ended = shim.client.wait_for(|event| match event {
            Event::LogGrew { .. } => Some(false),
            Event::Exited { .. } => Some(true),
            _ => None,
        });
    }
    assert_eq!(seen, bytes);
    let kept: u64 = files(&shim.dir.join("log"))
        .unwrap()
        .iter()
        .map(|(_, path)| path.metadata().unwrap().len())
        .sum();
    assert!(kept <= 5 << 20, "{kept}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", shim.child.id())).unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap()
        .trim()
        .trim_end_matches(" kB");
    assert!(peak.trim().parse::<u64>().unwrap() < 20_000, "{peak} kB");
}

#[test]
fn an_exec_joins_the_task() {
    let root = Root::new();
    let mut shim = Shim::new();
    let start = shim.start_request(&root, &spec(&["sleep", "1000"], false));
    let task = shim.start(start).unwrap();
    let mut exec = Shim::new();
    let process_file = exec.dir.join("exec.json");
    let script = "hostname; id -u; grep -c . /proc/1/cmdline; tr '\\0' ' ' </proc/1/cmdline; ls /proc/self/fd; exit 4";
    std::fs::write(
        &process_file,
        support::process(&["sh", "-c", script], false).to_string(),
    )
    .unwrap();
    let mut start = exec.start_request(&root, &spec(&[], false));
    start.user = "web".to_owned();
    start.what = What::Exec {
        id: "task".to_owned(),
        task_dir: shim.dir.clone(),
        task,
        process: process_file.clone(),
    };
    let (exit, output) = exec.run_start(start.clone());
    assert_eq!(exit.code, 4, "{output}");
    assert!(output.starts_with("box\n33\n1\nsleep 1000"), "{output}");

    // With a terminal.
    let mut exec = Shim::new();
    std::fs::write(
        &process_file,
        support::process(&["sh", "-c", "stty size; tty"], true).to_string(),
    )
    .unwrap();
    start.terminal = Some(WindowSize { rows: 33, cols: 44 });
    start.log.dir = exec.dir.join("log");
    let (exit, output) = exec.run_start(start.clone());
    assert_eq!((exit.code, output.as_str()), (0, "33 44\r\n/dev/pts/0\r\n"));

    // A program that is not there; a task that has gone.
    start.terminal = None;
    let mut exec = Shim::new();
    std::fs::write(
        &process_file,
        support::process(&["nowhere"], false).to_string(),
    )
    .unwrap();
    start.log.dir = exec.dir.join("log");
    assert_eq!(
        exec.start(start.clone()).unwrap_err().kind,
        FailureKind::NotFound
    );
    assert!(task.is_alive());
    shim.client.call(Request::Signal { signal: 9 }).unwrap();
    shim.client.exit();
    let mut exec = Shim::new();
    start.log.dir = exec.dir.join("log");
    assert_eq!(exec.start(start).unwrap_err().kind, FailureKind::NoTask);
}

/// Milliseconds since the start of the machine.
fn boot_ms() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).unwrap();
    u64::try_from(now.tv_sec() * 1000 + now.tv_nsec() / 1_000_000).unwrap()
}

fn fence(until_ms: Option<u64>) -> Request {
    Request::Fence(Fence {
        until_ms,
        ..Fence::default()
    })
}

#[test]
fn a_task_is_ended_when_its_time_is_over_and_nobody_is_there() {
    let root = Root::new();
    let home = tempfile::tempdir().unwrap();
    let mut shim = Shim::launch(&home.path().join("shim"));
    let start = shim.start_request(
        &root,
        &spec(&["sh", "-c", "trap '' TERM; sleep 1000"], false),
    );
    let until = boot_ms() + 1_500;
    shim.client.call(fence(Some(until))).unwrap();
    let task = shim.start(start).unwrap();
    // The one who leased it dies.
    shim.client.hang_up();
    support::wait_until("the task is dead", || !task.is_alive());
    let over = boot_ms();
    assert!(over >= until, "too early by {} ms", until - over);
    support::wait_until("the shim has gone", || {
        !shim.dir.join("socket").exists() || shim.child.try_wait().unwrap().is_some()
    });
    let Content::Whole(exit) = read::<ExitRecord>(&shim.dir.join("exit.json")).unwrap() else {
        panic!("no exit record");
    };
    assert_eq!((exit.code, exit.signal, exit.fenced), (137, Some(9), true));
}

#[test]
fn the_newest_word_on_a_tasks_time_counts() {
    let root = Root::new();
    let mut shim = Shim::new();
    let start = shim.start_request(&root, &spec(&["sleep", "1000"], false));
    let task = shim.start(start).unwrap();
    let first = boot_ms() + 2_000;
    shim.client.call(fence(Some(first))).unwrap();
    let later = boot_ms() + 6_000;
    shim.client.call(fence(Some(later))).unwrap();
    // Whoever comes next is told.
    let mut other = support::Client::connect(&shim.dir);
    let told = other.wait_for(|event| match event {
        Event::Hello {
            protocol,
            fence_until_ms,
            ..
        } => Some((*protocol, *fence_until_ms)),
        _ => None,
    });
    assert_eq!(told, (shim::message::PROTOCOL, Some(later)));
    support::wait_until("the first time is over", || boot_ms() > first + 200);
    assert!(task.is_alive());
    // For ever.
    other.call(fence(None)).unwrap();
    support::wait_until("the second time is over", || boot_ms() > later + 200);
    assert!(task.is_alive());
    other.call(fence(Some(1))).unwrap();
    let exit = shim.client.exit();
    assert_eq!((exit.code, exit.fenced), (137, true));
}

#[test]
fn a_task_whose_time_is_over_before_it_starts_ends_as_soon_as_it_runs() {
    let root = Root::new();
    let mut shim = Shim::new();
    let start = shim.start_request(&root, &spec(&["sleep", "1000"], false));
    shim.client.call(fence(Some(1))).unwrap();
    shim.start(start).unwrap();
    assert!(shim.client.exit().fenced);
}

#[test]
fn an_end_of_its_own_is_not_blamed_on_its_time() {
    let root = Root::new();
    let mut shim = Shim::new();
    shim.client.call(fence(Some(boot_ms() + 60_000))).unwrap();
    let (exit, _) = shim.run(&root, &["sh", "-c", "exit 3"]);
    assert_eq!((exit.code, exit.fenced), (3, false));
}
