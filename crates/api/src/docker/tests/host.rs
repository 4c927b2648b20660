//! A host that pretends: its tasks are words of a little language, not processes.
//!
//! The last words of a command say what happens: `true`, `exit N`, `echo …`, `cat` (until its input ends), `sleep …`
//! (until stopped), `nosuch` (cannot be started).

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use control::{Caller, Control, ControlConfig, LinkStream};
use model::host::WorkloadReport;
use model::image::{ImageConfig, ImageContent, Layer, Platform};
use model::{
    Capacity, CpuMillis, DesiredState, Digest, Host, HostFacts, HostId, HostStatus, HostWorkload,
    Image, MemoryBytes, Name, Object, Phase, Pool, PoolId, PoolPolicy, TaskStatus, Timestamp,
    WorkloadId,
};
use tokio::sync::{mpsc, watch};
use wire::link::{
    ErrorClass, ExecExit, Frame, FrameKind, FromHost, Hello, ImageProgress, ImportResult,
    ImportedImage, PROTOCOL_VERSION, ProcessTable, StreamError, StreamReply, StreamRequest,
    TaskStats, ToHost,
};

/// A control with a pool, an image `busybox` and a host.
pub(super) struct World {
    pub(super) control: Control,
    pub(super) pool: PoolId,
    pub(super) other: PoolId,
}

impl World {
    pub(super) fn caller(&self) -> Caller {
        Caller::local_admin()
    }

    pub(super) fn router(&self) -> axum::Router {
        crate::docker::router(self.control.clone(), self.pool.clone(), self.caller())
    }

    pub(super) fn router_of_other(&self) -> axum::Router {
        crate::docker::router(self.control.clone(), self.other.clone(), self.caller())
    }
}

fn pool(id: u8, name: &str) -> Pool {
    Pool {
        id: PoolId::from_bytes(&[id; 32]),
        name: Name::parse(name).unwrap(),
        parent: None,
        description: String::new(),
        labels: Default::default(),
        policy: PoolPolicy::default(),
        slice: model::Slice::default(),
        created_at: Timestamp(1_700_000_000_000),
    }
}

fn digest(digit: &str) -> Digest {
    Digest::parse(&format!("sha256:{}", digit.repeat(64))).unwrap()
}

fn content() -> (ImageContent, ImageConfig) {
    let content = ImageContent {
        config: digest("a"),
        config_bytes: 100,
        layers: vec![Layer {
            diff_id: digest("b"),
            blob: digest("b"),
            blob_bytes: 1000,
            media_type: "application/vnd.oci.image.layer.v1.tar".into(),
        }],
    };
    let config = ImageConfig {
        platform: Platform {
            architecture: "amd64".into(),
            os: "linux".into(),
        },
        created: Some("2023-11-14T22:13:20Z".into()),
        env: vec!["PATH=/bin".into()],
        entrypoint: Vec::new(),
        cmd: vec!["true".into()],
        user: String::new(),
        working_dir: String::new(),
        exposed_ports: Default::default(),
        volumes: Default::default(),
        labels: Default::default(),
        stop_signal: None,
        size_bytes: 4_000_000,
        history: Vec::new(),
    };
    (content, config)
}

pub(super) async fn world() -> World {
    let store = store::open_memory();
    let (content, config) = content();
    let (one, two) = (pool(1, "one"), pool(2, "two"));
    let host = HostId::from_bytes(&[3; 32]);
    let facts = HostFacts {
        capacity: Capacity {
            cpu: CpuMillis(4000),
            memory: MemoryBytes(8 << 30),
        },
        cpus: 4,
        architecture: "amd64".into(),
        ..HostFacts::default()
    };
    let image = Image {
        id: content.config.clone(),
        pool: one.id.clone(),
        tags: ["docker.io/library/busybox:latest".to_owned()].into(),
        digests: BTreeSet::new(),
        content,
        config,
        source: None,
        added_at: Timestamp(1_700_000_000_000),
    };
    let images: BTreeSet<_> = [image.id.clone()].into();
    let record = Host {
        id: host.clone(),
        name: Name::parse("h1").unwrap(),
        zone: String::new(),
        labels: Default::default(),
        cordoned: false,
        drain: None,
        overcommit: model::host::Overcommit::default(),
        fetch_images: std::collections::BTreeMap::new(),
        certificate_sha256: String::new(),
        previous_certificate_sha256: None,
        status: HostStatus::default(),
        joined_at: Timestamp(0),
    };
    let tx = store::Transaction::new()
        .create(Object::Pool(one.clone()))
        .create(Object::Pool(two.clone()))
        .create(Object::Host(record))
        .create(Object::Image(image));
    let address = "127.0.0.1:1".to_owned();
    store.commit(tx).await.unwrap();
    let control = Control::open(store, ControlConfig { address })
        .await
        .unwrap();
    let hello = Hello {
        protocol: PROTOCOL_VERSION,
        facts,
        generation: 0,
        images,
    };
    let (session, outgoing) = control.link_connect(&host, b"", hello).await.unwrap();
    tokio::spawn(FakeHost::run(control.clone(), session, outgoing));
    World {
        control,
        pool: one.id,
        other: two.id,
    }
}

struct Task {
    desired: HostWorkload,
    status: TaskStatus,
    output: Vec<(FrameKind, Bytes)>,
    changed: watch::Sender<u64>,
}

type Tasks = Arc<Mutex<HashMap<WorkloadId, Task>>>;

#[derive(Clone)]
struct FakeHost {
    tasks: Tasks,
    reports: mpsc::UnboundedSender<WorkloadReport>,
    /// Changes with every document.
    told: Arc<watch::Sender<u64>>,
}

fn now() -> Timestamp {
    Timestamp(jiff::Timestamp::now().as_millisecond())
}

impl FakeHost {
    async fn run(
        control: Control,
        session: control::links::LinkSession,
        mut outgoing: mpsc::Receiver<ToHost>,
    ) {
        #[expect(
            clippy::disallowed_methods,
            reason = "a test's few reports; the sender is not async"
        )]
        let (reports, mut waiting) = mpsc::unbounded_channel();
        let host = Self {
            tasks: Tasks::default(),
            reports,
            told: Arc::new(watch::channel(0).0),
        };
        loop {
            tokio::select! {
                report = waiting.recv() => {
                    let Some(report) = report else { return };
                    let status = FromHost::Status { reports: vec![report], complete: false };
                    control.link_message(&session, status).await;
                }
                message = outgoing.recv() => match message {
                    None => return,
                    Some(ToHost::Desired(update)) => {
                        for (id, workload) in update.upsert {
                            host.want(id, (*workload).clone());
                        }
                        host.told.send_modify(|n| *n += 1);
                        // What is removed stays readable: late readers are a real host's matter.
                    }
                    Some(ToHost::OpenStream { id, request }) => {
                        let stream = control.link_claim(&session.host, &id).unwrap();
                        tokio::spawn(host.clone().stream(stream, request));
                    }
                    Some(ToHost::Welcome { .. } | ToHost::Heartbeat { .. }) => {}
                },
            }
        }
    }

    fn want(&self, id: WorkloadId, workload: HostWorkload) {
        let mut tasks = self.tasks.lock().unwrap();
        let task = tasks.entry(id.clone()).or_insert_with(|| Task {
            desired: workload.clone(),
            status: TaskStatus::default(),
            output: Vec::new(),
            changed: watch::channel(0).0,
        });
        task.desired = workload;
        match task.desired.desired {
            DesiredState::Created => {}
            DesiredState::Running if task.status.run < task.desired.run => self.start(task),
            DesiredState::Running if task.status.phase == Phase::Paused => {
                task.status.phase = Phase::Running
            }
            DesiredState::Running => {}
            DesiredState::Paused => task.status.phase = Phase::Paused,
            DesiredState::Stopped { .. } => end(task, 143),
            DesiredState::Removed => {
                end(task, 137);
                let _ = self.reports.send(WorkloadReport { id, status: None });
                return;
            }
        }
        self.report(task);
    }

    fn report(&self, task: &Task) {
        let status = Some(task.status.clone());
        let _ = self.reports.send(WorkloadReport {
            id: task.desired.id.clone(),
            status,
        });
        task.changed.send_modify(|n| *n += 1);
    }

    fn start(&self, task: &mut Task) {
        let spec = &task.desired.spec.task;
        let line = spec
            .entrypoint
            .iter()
            .chain(&spec.args)
            .cloned()
            .collect::<Vec<_>>()
            .join(" ");
        task.status = TaskStatus {
            phase: Phase::Running,
            run: task.desired.run,
            pid: 4242,
            started_at: Some(now()),
            ..TaskStatus::default()
        };
        task.output.clear();
        if line == "nosuch" {
            task.status.phase = Phase::Failed;
            task.status.started_at = None;
            task.status.exit_code = 127;
            task.status.error = "exec: \"nosuch\": executable file not found in $PATH".into();
            return;
        }
        self.report(task);
        if let Some(rest) = line.strip_prefix("echo ") {
            task.output
                .push((FrameKind::Stdout, format!("{rest}\n").into()));
            end(task, 0);
        } else if let Some(code) = line.strip_prefix("exit ") {
            task.output
                .push((FrameKind::Stderr, Bytes::from_static(b"bye\n")));
            end(task, code.parse().unwrap());
        } else if line == "true" {
            end(task, 0);
        }
    }

    #[expect(
        clippy::too_many_lines,
        reason = "one scenario or one table of cases, read from top to bottom"
    )]
    async fn stream(self, mut stream: LinkStream, request: StreamRequest) {
        let ok = Frame::json(&StreamReply::Ok).unwrap();
        match request {
            StreamRequest::Follow(request) => {
                stream.send.send(ok).await.unwrap();
                self.follow(stream, request).await;
            }
            StreamRequest::Exec(request) => {
                if request.args[0] == "nosuch" {
                    let error = StreamError {
                        class: ErrorClass::Invalid,
                        message: "exec: \"nosuch\": executable file not found in $PATH".into(),
                    };
                    let reply = Frame::json(&StreamReply::Error(error)).unwrap();
                    stream.send.send(reply).await.unwrap();
                    return;
                }
                stream.send.send(ok).await.unwrap();
                if request.args[0] == "cat" {
                    echo(&mut stream).await;
                } else {
                    let text = format!("{}\n", request.args[1..].join(" "));
                    stream
                        .send
                        .send(Frame::new(FrameKind::Stdout, text.into_bytes()))
                        .await
                        .unwrap();
                }
                let exit = ExecExit {
                    exit_code: 7,
                    pid: 99,
                };
                stream.send.send(Frame::json(&exit).unwrap()).await.unwrap();
                stream.send.send(Frame::end()).await.unwrap();
            }
            StreamRequest::ExecResume(_) => {
                let error = StreamError {
                    class: ErrorClass::NotFound,
                    message: "no exec outlives its stream here".into(),
                };
                let reply = Frame::json(&StreamReply::Error(error)).unwrap();
                stream.send.send(reply).await.unwrap();
            }
            StreamRequest::Resize { .. } => stream.send.send(ok).await.unwrap(),
            StreamRequest::Signal { id, signal } => {
                stream.send.send(ok).await.unwrap();
                let mut tasks = self.tasks.lock().unwrap();
                let task = tasks.get_mut(&id).unwrap();
                end(task, 128 + signal);
                self.report(task);
            }
            StreamRequest::Stats { .. } => {
                stream.send.send(ok).await.unwrap();
                for n in 1..=2 {
                    let stats = TaskStats {
                        read_ms: n * 1000,
                        cpu_total_ns: n as u64 * 500_000_000,
                        host_cpu_ns: n as u64 * 4_000_000_000,
                        cpus: 4,
                        memory_usage: 3 << 20,
                        memory_inactive_file: 1 << 20,
                        memory_limit: 64 << 20,
                        pids: 2,
                        ..TaskStats::default()
                    };
                    if stream
                        .send
                        .send(Frame::json(&stats).unwrap())
                        .await
                        .is_err()
                    {
                        return;
                    }
                }
                let _ = stream.send.send(Frame::end()).await;
            }
            StreamRequest::Top { .. } => {
                let table = ProcessTable {
                    titles: vec!["PID".into(), "CMD".into()],
                    rows: vec![vec!["4242".into(), "sleep".into()]],
                };
                stream.send.send(ok).await.unwrap();
                stream
                    .send
                    .send(Frame::json(&table).unwrap())
                    .await
                    .unwrap();
            }
            StreamRequest::Pull(request) => {
                stream.send.send(ok).await.unwrap();
                let error = StreamError {
                    class: ErrorClass::NotFound,
                    message: format!("manifest unknown: {}", request.reference),
                };
                let frame = Frame::json(&error).unwrap();
                let frame = if request.reference.contains("nosuch") {
                    Frame {
                        kind: FrameKind::Error,
                        ..frame
                    }
                } else {
                    let progress = ImageProgress {
                        id: "b".repeat(12),
                        status: "Pull complete".into(),
                        ..Default::default()
                    };
                    stream
                        .send
                        .send(Frame::json(&progress).unwrap())
                        .await
                        .unwrap();
                    imported(vec![])
                };
                stream.send.send(frame).await.unwrap();
            }
            StreamRequest::Login(request) => {
                let good = request.registry == "registry.example"
                    && request.credentials.password == "secret";
                let error = StreamError {
                    class: ErrorClass::Unauthorized,
                    message: format!("{}: authentication required", request.registry),
                };
                let reply = if good {
                    ok
                } else {
                    Frame::json(&StreamReply::Error(error)).unwrap()
                };
                stream.send.send(reply).await.unwrap();
            }
            StreamRequest::Load => {
                stream.send.send(ok).await.unwrap();
                while stream
                    .recv
                    .recv()
                    .await
                    .is_some_and(|f| f.kind == FrameKind::Data)
                {}
                stream
                    .send
                    .send(imported(vec!["docker.io/library/loaded:1".into()]))
                    .await
                    .unwrap();
                // That it was recorded.
                assert_eq!(stream.recv.recv().await.unwrap().kind, FrameKind::Json);
                stream.send.send(Frame::end()).await.unwrap();
            }
            StreamRequest::Save { .. } => {
                stream.send.send(ok).await.unwrap();
                for _ in 0..3 {
                    stream
                        .send
                        .send(Frame::new(FrameKind::Data, &b"tar"[..]))
                        .await
                        .unwrap();
                }
                stream.send.send(Frame::end()).await.unwrap();
            }
            StreamRequest::Blob { .. } => {}
        }
    }

    async fn follow(self, mut stream: LinkStream, request: wire::link::FollowRequest) {
        let mut sent = 0;
        // The request may come before the document.
        let mut told = self.told.subscribe();
        let known = |tasks: &Tasks| {
            let tasks = tasks.lock().unwrap();
            tasks.get(&request.id).map(|task| task.changed.subscribe())
        };
        let mut changed = loop {
            match known(&self.tasks) {
                Some(changed) => break changed,
                None => told.changed().await.unwrap(),
            }
        };
        loop {
            let (frames, over) = {
                let tasks = self.tasks.lock().unwrap();
                let task = &tasks[&request.id];
                let reached = request.run.is_none_or(|run| task.status.run >= run);
                let frames: Vec<_> = if reached {
                    task.output[sent..].to_vec()
                } else {
                    Vec::new()
                };
                (frames, reached && task.status.phase.is_final())
            };
            sent += frames.len();
            for (kind, bytes) in frames {
                let wanted = if kind == FrameKind::Stdout {
                    request.stdout
                } else {
                    request.stderr
                };
                let frame = Frame {
                    kind,
                    time_ms: 1_700_000_000_000,
                    position: None,
                    payload: bytes,
                };
                if wanted && stream.send.send(frame).await.is_err() {
                    return;
                }
            }
            if over || !request.follow {
                let _ = stream.send.send(Frame::end()).await;
                return;
            }
            tokio::select! {
                _ = changed.changed() => {}
                frame = stream.recv.recv() => {
                    let Some(frame) = frame else { return };
                    let mut tasks = self.tasks.lock().unwrap();
                    let task = tasks.get_mut(&request.id).unwrap();
                    match frame.kind {
                        FrameKind::Stdin => task.output.push((FrameKind::Stdout, frame.payload)),
                        FrameKind::EndInput => end(task, 0),
                        _ => panic!("unexpected frame"),
                    }
                    self.report(task);
                }
            }
        }
    }
}

fn end(task: &mut Task, code: i32) {
    if task.status.phase.is_alive() {
        task.status.phase = Phase::Exited;
        task.status.exit_code = code;
        task.status.pid = 0;
        task.status.finished_at = Some(now());
    }
}

async fn echo(stream: &mut LinkStream) {
    while let Some(frame) = stream.recv.recv().await {
        if frame.kind == FrameKind::EndInput {
            return;
        }
        stream
            .send
            .send(Frame::new(FrameKind::Stdout, frame.payload))
            .await
            .unwrap();
    }
}

fn imported(tags: Vec<String>) -> Frame {
    let (content, config) = content();
    let image = ImportedImage {
        content,
        config,
        tags,
        manifest: Some(digest("c")),
        source: None,
        unchanged: false,
    };
    Frame::json(&ImportResult {
        images: vec![image],
    })
    .unwrap()
}
