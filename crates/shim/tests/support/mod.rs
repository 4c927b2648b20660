//! Drives a real shim: a busybox root, a client, and a check that nothing is left behind.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shim::frame::{Decoder, Kind, encode, encode_message};
use shim::log::{Entry, LogReader, Stream};
use shim::message::{
    Call, Event, Failure, LogTarget, Phase, Request, Rootfs, Runtime, Start, Subscribe, What,
    WindowSize,
};
use shim::process::ProcessId;
use shim::state::ExitRecord;

/// Nothing a test waits for takes longer on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Root {
    pub dir: tempfile::TempDir,
}

impl Root {
    /// A root made of busybox.
    pub fn new() -> Root {
        let dir = tempfile::tempdir().unwrap();
        let lower = dir.path().join("lower");
        for sub in [
            "bin", "etc", "tmp", "proc", "sys", "dev", "root", "home/web",
        ] {
            std::fs::create_dir_all(lower.join(sub)).unwrap();
        }
        std::fs::copy("/bin/busybox", lower.join("bin/busybox")).unwrap();
        let list = Command::new("/bin/busybox").arg("--list").output().unwrap();
        for applet in String::from_utf8(list.stdout)
            .unwrap()
            .lines()
            .filter(|name| *name != "busybox")
        {
            std::os::unix::fs::symlink("busybox", lower.join("bin").join(applet)).unwrap();
        }
        std::fs::write(
            lower.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/home/web:/bin/sh\n",
        )
        .unwrap();
        std::fs::write(
            lower.join("etc/group"),
            "root:x:0:\nweb:x:34:\nlogs:x:44:web\n",
        )
        .unwrap();
        for sub in ["upper", "work"] {
            std::fs::create_dir(dir.path().join(sub)).unwrap();
        }
        Root { dir }
    }

    pub fn rootfs(&self) -> Rootfs {
        let path = self.dir.path();
        Rootfs::Overlay {
            lower: vec![path.join("lower")],
            upper: path.join("upper"),
            work: path.join("work"),
        }
    }
}

pub const DEFAULT_CAPS: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

pub fn process(args: &[&str], terminal: bool) -> Value {
    json!({
        "terminal": terminal, "args": args, "cwd": "/", "user": {"uid": 0, "gid": 0},
        "env": ["PATH=/bin:/usr/bin", "TERM=xterm"],
        "capabilities": {"bounding": DEFAULT_CAPS, "effective": DEFAULT_CAPS, "permitted": DEFAULT_CAPS},
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "oomScoreAdj": 0,
    })
}

pub fn spec(args: &[&str], terminal: bool) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "box",
        "process": process(args, terminal),
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "ro"]},
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"},
            ],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware"],
            "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger", "/proc/bus"],
        },
    })
}

pub struct Shim {
    pub dir: PathBuf,
    pub client: Client,
    pub child: Child,
    _home: Option<tempfile::TempDir>,
}

pub struct Client {
    stream: UnixStream,
    decoder: Decoder,
    next: u64,
    pub log_end: u64,
}

impl Client {
    pub fn new(stream: UnixStream) -> Client {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client {
            stream,
            decoder: Decoder::default(),
            next: 1,
            log_end: 0,
        }
    }

    pub fn connect(dir: &Path) -> Client {
        Client::new(UnixStream::connect(dir.join("socket")).unwrap())
    }

    pub fn event(&mut self) -> Option<Event> {
        loop {
            if let Some((kind, payload)) = self.decoder.next_frame().unwrap() {
                assert_eq!(kind, Kind::Message);
                let event = serde_json::from_slice(&payload).unwrap();
                if let Event::LogGrew { offset } = event {
                    self.log_end = offset;
                }
                return Some(event);
            }
            let mut buffer = [0; 4096];
            let len = self.stream.read(&mut buffer).unwrap();
            if len == 0 {
                return None;
            }
            self.decoder.push(&buffer[..len]);
        }
    }

    pub fn wait_for<T>(&mut self, mut pick: impl FnMut(&Event) -> Option<T>) -> T {
        loop {
            let event = self.event().expect("the shim is gone");
            if let Some(found) = pick(&event) {
                return found;
            }
        }
    }

    pub fn send(&mut self, request: Request) -> u64 {
        let id = self.next;
        self.next += 1;
        let mut out = Vec::new();
        encode_message(&Call { id, request }, &mut out).unwrap();
        self.stream.write_all(&out).unwrap();
        id
    }

    pub fn call(&mut self, request: Request) -> Result<(), Failure> {
        let id = self.send(request);
        self.wait_for(|event| match event {
            Event::Done { id: done } if *done == id => Some(Ok(())),
            Event::Refused { id: done, failure } if *done == id => Some(Err(failure.clone())),
            _ => None,
        })
    }

    pub fn input(&mut self, bytes: &[u8]) {
        let mut out = Vec::new();
        encode(Kind::Stdin, bytes, &mut out).unwrap();
        self.stream.write_all(&out).unwrap();
    }

    pub fn exit(&mut self) -> ExitRecord {
        self.wait_for(|event| match event {
            Event::Exited { exit } => Some(exit.clone()),
            Event::Hello {
                phase: Phase::Exited { exit },
                ..
            } => Some(exit.clone()),
            _ => None,
        })
    }

    /// Goes away, as when its process dies.
    pub fn hang_up(&mut self) {
        let (ours, _) = UnixStream::pair().unwrap();
        self.stream = ours;
    }

    pub fn set_timeout(&self, timeout: Duration) {
        self.stream.set_read_timeout(Some(timeout)).unwrap();
    }
}

/// Waits for a condition.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < PATIENCE, "not in time: {what}");
        // tidy: sleep: pause between two looks
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Shim {
    pub fn launch(dir: &Path) -> Shim {
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::fs::create_dir_all(dir).unwrap();
        let log = std::fs::File::create(dir.join("shim.log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_plimsoll-shim"))
            .arg("supervise")
            .arg(dir)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut client = Client::new(ours);
        assert!(matches!(
            client.event(),
            Some(Event::Hello {
                phase: Phase::Prepared,
                ..
            })
        ));
        Shim {
            dir: dir.to_owned(),
            client,
            child,
            _home: None,
        }
    }

    pub fn new() -> Shim {
        let home = tempfile::tempdir().unwrap();
        let mut shim = Shim::launch(&home.path().join("shim"));
        shim._home = Some(home);
        shim
    }

    pub fn start_request(&self, root: &Root, spec: &Value) -> Start {
        let path = self.dir.join("spec.json");
        std::fs::write(&path, spec.to_string()).unwrap();
        let terminal = spec["process"]["terminal"] == true;
        Start {
            run: 1,
            what: What::Task {
                id: "task".to_owned(),
                rootfs: root.rootfs(),
                spec: path,
                volumes: Vec::new(),
            },
            user: String::new(),
            groups: Vec::new(),
            terminal: terminal.then_some(WindowSize { rows: 24, cols: 80 }),
            stdin: false,
            log: LogTarget {
                dir: self.dir.join("log"),
                max_file_bytes: 1 << 20,
                max_files: 4,
            },
            runtime: Runtime::BuiltIn,
            init: false,
            seccomp_program: None,
        }
    }

    pub fn start(&mut self, start: Start) -> Result<ProcessId, Failure> {
        let id = self.client.send(Request::Start(Box::new(start)));
        self.client.wait_for(|event| match event {
            Event::Started { task, .. } => Some(Ok(*task)),
            Event::Refused {
                id: refused,
                failure,
            } if *refused == id => Some(Err(failure.clone())),
            _ => None,
        })
    }

    pub fn run(&mut self, root: &Root, args: &[&str]) -> (ExitRecord, String) {
        let start = self.start_request(root, &spec(args, false));
        self.run_start(start)
    }

    pub fn run_start(&mut self, start: Start) -> (ExitRecord, String) {
        self.start(start).unwrap();
        let exit = self.client.exit();
        (exit, self.output())
    }

    pub fn output(&self) -> String {
        let mut reader = LogReader::new(self.dir.join("log"), 0);
        let mut text = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            match entry {
                Entry::Record(record) if record.stream != Stream::RunStart => {
                    text.extend(record.bytes)
                }
                Entry::Record(_) | Entry::Gap { .. } => {}
            }
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Waits until the output contains a text.
    pub fn wait_output(&mut self, text: &str) -> String {
        self.client
            .call(Request::Subscribe(Subscribe {
                hold: false,
                offset: 0,
            }))
            .unwrap();
        let begin = Instant::now();
        loop {
            let output = self.output();
            if output.contains(text) {
                return output;
            }
            assert!(begin.elapsed() < PATIENCE, "output so far: {output}");
            self.client.event();
        }
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        // Ends whatever a failed test left running; the pid namespace goes with its first process.
        if let Ok(shim::state::Content::Whole(state)) =
            shim::state::read::<shim::state::ShimState>(&self.dir.join("state.json"))
            && let Some(task) = state.task
            && task.is_alive()
        {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(task.pid),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
        let (ours, _) = UnixStream::pair().unwrap();
        self.client = Client::new(ours);
        let _ = self.child.wait();
    }
}
