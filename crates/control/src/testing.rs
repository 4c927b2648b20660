//! A control over the memory store with scripted hosts, for tests of personalities.
//!
//! A scripted host understands what a task's arguments say: `true` and `false` end at once, `exit N` with a code,
//! `echo TEXT` prints and ends, `nosuch` cannot be started, everything else runs until it is stopped. Pulls bring a
//! made-up image whose id follows from its name; a reference with `missing` in it fails.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use model::host::{HostDesired, HostStatus, WorkloadReport};
use model::{
    Capacity, CpuMillis, DesiredState, Digest, Host, HostFacts, HostId, HostWorkload, ImageConfig,
    ImageContent, ImageReference, Layer, MemoryBytes, Name, Object, Phase, Platform, Pool, PoolId,
    PoolPolicy, TaskStatus, Timestamp, Workload, WorkloadId,
};
use store::Transaction;
use tokio::sync::watch;
use wire::link::{
    DesiredUpdate, ErrorClass, ExecExit, Frame, FrameKind, FromHost, Hello, ImageProgress,
    ImportRecorded, ImportResult, ImportedImage, PROTOCOL_VERSION, ProcessTable, StreamError,
    StreamReply, StreamRequest, TaskStats, ToHost,
};

use crate::caller::Action;
use crate::core::{Control, ControlConfig, now, sha256_hex};
use crate::error::{Error, ErrorKind, Result};
use crate::links::{LinkSession, LinkStream};

/// Everything a host must run, by a snapshot.
#[must_use]
pub fn document(snapshot: &store::Snapshot, host: &Host) -> model::HostDesired {
    crate::documents::whole(snapshot, host)
}

impl Control {
    /// A control over an empty memory store.
    ///
    /// # Errors
    /// When the CA cannot be made.
    pub async fn for_tests() -> Result<Control> {
        Control::open(
            store::open_memory(),
            ControlConfig {
                address: "127.0.0.1:7440".into(),
            },
        )
        .await
    }

    /// A pool of a name, made if need be.
    ///
    /// # Errors
    /// When the name is not one.
    pub async fn test_pool(&self, name: &str) -> Result<PoolId> {
        let name = Name::parse(name).map_err(|e| Error::invalid(e.to_string()))?;
        if let Some(pool) = self.snapshot().pool_by_name(&name) {
            return Ok(pool.id.clone());
        }
        let create = crate::pools::PoolCreate {
            name,
            parent: None,
            description: String::new(),
            labels: BTreeMap::new(),
            policy: PoolPolicy::default(),
            slice: model::Slice::default(),
        };
        Ok(self
            .pool_create(&crate::Caller::local_admin(), create)
            .await?
            .id
            .clone())
    }

    /// Puts an image into a pool, present on every host that there is.
    ///
    /// # Errors
    /// When the reference is not one.
    pub async fn test_image(&self, pool: &PoolId, reference: &str) -> Result<Digest> {
        let reference =
            ImageReference::parse(reference).map_err(|e| Error::invalid(e.to_string()))?;
        let imported = made_up_image(&reference)?;
        let id = imported.content.config.clone();
        let image = model::Image {
            id: id.clone(),
            pool: pool.clone(),
            tags: BTreeSet::from([reference.to_string()]),
            digests: BTreeSet::new(),
            content: imported.content,
            config: imported.config,
            source: None,
            added_at: now(),
        };
        self.store()
            .commit(Transaction::new().put(Object::Image(image)))
            .await?;
        let hosts: Vec<HostId> = self
            .snapshot()
            .hosts()
            .map(|host| host.id.clone())
            .collect();
        for host in hosts {
            self.host_change(&host, |host| {
                host.status.images.insert(id.clone());
            })
            .await?;
        }
        Ok(id)
    }

    /// Changes a workload's record as a controller would.
    ///
    /// # Errors
    /// When there is none.
    pub async fn test_workload_edit(
        &self,
        id: &WorkloadId,
        edit: impl Fn(&mut Workload),
    ) -> Result<()> {
        let grant = self.own_grant(Action::WorkloadControl)?;
        self.change(&grant, |snapshot| {
            let row = snapshot
                .workload(id)
                .ok_or_else(|| Error::not_found("workload", id.as_str()))?;
            let mut changed = row.value().clone();
            edit(&mut changed);
            let tx = Transaction::new().update(row.revision(), Object::Workload(changed));
            Ok((Some(tx), ()))
        })
        .await
    }

    /// Changes a host's record as a controller would.
    ///
    /// # Errors
    /// When there is none.
    pub async fn test_host_edit(&self, id: &HostId, edit: impl FnMut(&mut Host)) -> Result<()> {
        self.host_change(id, edit).await
    }

    /// Connects a host that does nothing by itself: the test says everything for it.
    ///
    /// # Errors
    /// When the name is not one.
    pub async fn raw_host(&self, name: &str) -> Result<RawHost> {
        let name = Name::parse(name).map_err(|e| Error::invalid(e.to_string()))?;
        let host = HostId::parse(&sha256_hex(name.as_str().as_bytes())[..16])
            .map_err(|e| Error::invalid(e.to_string()))?;
        let record = Host {
            id: host.clone(),
            name,
            zone: String::new(),
            labels: BTreeMap::new(),
            cordoned: false,
            drain: None,
            overcommit: model::host::Overcommit::default(),
            fetch_images: BTreeMap::new(),
            certificate_sha256: String::new(),
            previous_certificate_sha256: None,
            status: HostStatus::default(),
            joined_at: now(),
        };
        if self.snapshot().host(&host).is_none() {
            self.store()
                .commit(Transaction::new().create(Object::Host(record)))
                .await?;
        }
        let images = self
            .snapshot()
            .images()
            .map(|image| image.id.clone())
            .collect();
        let hello = Hello {
            protocol: PROTOCOL_VERSION,
            facts: facts(),
            generation: 0,
            images,
        };
        let (session, outgoing) = self.link_connect(&host, b"", hello).await?;
        Ok(RawHost {
            control: self.clone(),
            session,
            outgoing,
        })
    }

    /// Connects a scripted host; it lives until the returned guard is dropped.
    ///
    /// # Errors
    /// When the name is not one.
    pub async fn test_host(&self, name: &str) -> Result<TestHost> {
        let RawHost {
            session,
            mut outgoing,
            ..
        } = self.raw_host(name).await?;
        let host = session.host.clone();
        let mut script = Script {
            control: self.clone(),
            document: HostDesired::default(),
            tasks: BTreeMap::new(),
            images: watch::Sender::default(),
        };
        let images = script.images.subscribe();
        let task = tokio::spawn(async move {
            let session = Arc::new(session);
            loop {
                tokio::select! {
                    message = outgoing.recv() => match message {
                        Some(ToHost::Desired(update)) => script.take(&session, update).await,
                        Some(ToHost::OpenStream { id, request }) => script.stream(&session, &id, request),
                        Some(ToHost::Welcome { .. } | ToHost::Heartbeat { .. }) => {}
                        None => return,
                    },
                    () = session.ended.cancelled() => return,
                }
            }
        });
        Ok(TestHost {
            id: host,
            images,
            task,
        })
    }
}

/// The machine of a scripted host.
fn facts() -> HostFacts {
    HostFacts {
        capacity: Capacity {
            cpu: CpuMillis(4000),
            memory: MemoryBytes(8 << 30),
        },
        cpus: 4,
        architecture: "amd64".into(),
        kernel: "6.1.0".into(),
        os: "test".into(),
        agent_version: "0".into(),
        cgroup: "v2".into(),
        boot_id: "boot".into(),
        address: "127.0.0.1".into(),
        underlay: None,
        runtimes: Vec::new(),
        gpus: Vec::new(),
    }
}

/// A host whose every word is the test's; dropping it cuts its link.
pub struct RawHost {
    control: Control,
    /// Its session.
    pub session: LinkSession,
    /// What the server says.
    pub outgoing: tokio::sync::mpsc::Receiver<ToHost>,
}

impl RawHost {
    /// Says something.
    pub async fn say(&self, message: FromHost) {
        self.control.link_message(&self.session, message).await;
    }

    /// Reports states of workloads.
    pub async fn report(
        &self,
        reports: impl IntoIterator<Item = (WorkloadId, Option<TaskStatus>)>,
    ) {
        let reports = reports
            .into_iter()
            .map(|(id, status)| WorkloadReport { id, status })
            .collect();
        self.say(FromHost::Status {
            reports,
            complete: false,
        })
        .await;
    }

    /// Waits for the next stream it is asked for, and takes it.
    ///
    /// # Errors
    /// When the server ends the session or nobody wants the stream any more.
    pub async fn stream(&mut self) -> Result<(StreamRequest, LinkStream)> {
        loop {
            match self.outgoing.recv().await {
                Some(ToHost::OpenStream { id, request }) => {
                    let stream = self.control.link_claim(&self.session.host, &id);
                    let stream = stream.ok_or_else(|| Error::not_found("stream", &id))?;
                    return Ok((request, stream));
                }
                Some(ToHost::Desired(_) | ToHost::Welcome { .. } | ToHost::Heartbeat { .. }) => {}
                None => return Err(crate::links::host_gone()),
            }
        }
    }
}

/// A scripted host; dropping it cuts its link.
pub struct TestHost {
    /// Its id.
    pub id: HostId,
    /// What it was told of images.
    pub images: watch::Receiver<ToldOfImages>,
    task: tokio::task::JoinHandle<()>,
}

/// What a scripted host was told of images.
#[derive(Debug, Clone, Default)]
pub struct ToldOfImages {
    /// Orders to delete some, each with its revision, as its document has them.
    pub orders: BTreeMap<Digest, u64>,
    /// Revision at which its last import was recorded; 0: none.
    pub recorded: u64,
}

impl Drop for TestHost {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Script {
    control: Control,
    document: HostDesired,
    tasks: BTreeMap<WorkloadId, TaskStatus>,
    images: watch::Sender<ToldOfImages>,
}

impl Script {
    async fn take(&mut self, session: &LinkSession, update: DesiredUpdate) {
        if update.base.is_none() {
            self.document = HostDesired::default();
        }
        self.document.generation = update.generation;
        self.images
            .send_modify(|told| told.orders.clone_from(&update.drop_images));
        self.document.workloads.extend(update.upsert);
        for id in &update.remove {
            self.document.workloads.remove(id);
            self.tasks.remove(id);
        }
        let workloads: Vec<Arc<HostWorkload>> = self.document.workloads.values().cloned().collect();
        for workload in workloads {
            for status in self.step(&workload) {
                let reports = vec![WorkloadReport {
                    id: workload.id.clone(),
                    status,
                }];
                self.control
                    .link_message(
                        session,
                        FromHost::Status {
                            reports,
                            complete: false,
                        },
                    )
                    .await;
            }
        }
    }

    /// What the host reports, one after the other, to come to the desired state.
    fn step(&mut self, workload: &HostWorkload) -> Vec<Option<TaskStatus>> {
        let status = self.tasks.entry(workload.id.clone()).or_default();
        let before = status.clone();
        let mut reports = Vec::new();
        match workload.desired {
            DesiredState::Removed => {
                if status.phase.is_alive() {
                    end(status, 137);
                    reports.push(Some(status.clone()));
                }
                reports.push(None);
                return reports;
            }
            DesiredState::Running if status.run < workload.run => {
                start(status, workload.run);
                reports.push(Some(status.clone()));
                run_script(workload, status);
            }
            DesiredState::Running if status.phase == Phase::Paused => status.phase = Phase::Running,
            DesiredState::Paused if status.phase == Phase::Running => status.phase = Phase::Paused,
            DesiredState::Stopped { signal, .. } if status.phase.is_alive() => {
                end(status, 128 + signal.unwrap_or(15));
            }
            DesiredState::Created
            | DesiredState::Running
            | DesiredState::Paused
            | DesiredState::Stopped { .. } => {}
        }
        if *status != before {
            reports.push(Some(status.clone()));
        }
        reports
    }

    fn stream(&self, session: &LinkSession, id: &str, request: StreamRequest) {
        let Some(stream) = self.control.link_claim(&session.host, id) else {
            return;
        };
        let output = match &request {
            StreamRequest::Follow(follow) => self
                .document
                .workloads
                .get(&follow.id)
                .map(|workload| output_of(workload))
                .unwrap_or_default(),
            _ => Bytes::new(),
        };
        let images = self.images.clone();
        tokio::spawn(async move {
            let _ = answer(stream, request, output, images).await;
        });
    }
}

fn words(workload: &HostWorkload) -> Vec<&str> {
    let task = &workload.spec.task;
    task.entrypoint
        .iter()
        .chain(&task.args)
        .map(String::as_str)
        .collect()
}

fn output_of(workload: &HostWorkload) -> Bytes {
    match words(workload)[..] {
        ["echo", ..] => Bytes::from(format!("{}\n", words(workload)[1..].join(" "))),
        _ => Bytes::new(),
    }
}

fn run_script(workload: &HostWorkload, status: &mut TaskStatus) {
    match words(workload)[..] {
        ["true" | "echo", ..] => end(status, 0),
        ["false", ..] => end(status, 1),
        ["exit", code, ..] => end(status, code.parse().unwrap_or(1)),
        ["nosuch", ..] => {
            end(status, 127);
            status.phase = Phase::Failed;
            status.error = "exec: \"nosuch\": executable file not found in $PATH".into();
        }
        _ => {}
    }
}

fn start(status: &mut TaskStatus, run: u64) {
    *status = TaskStatus {
        phase: Phase::Running,
        run,
        pid: 4242,
        started_at: Some(now()),
        network: model::workload::NetworkStatus {
            ip: "172.30.0.2".into(),
            prefix: 16,
            gateway: "172.30.0.1".into(),
            mac: "02:42:ac:1e:00:02".into(),
            ports: Vec::new(),
            ..Default::default()
        },
        ..TaskStatus::default()
    };
}

fn end(status: &mut TaskStatus, code: i32) {
    status.phase = Phase::Exited;
    status.pid = 0;
    status.exit_code = code;
    status.finished_at = Some(Timestamp(
        now()
            .millis()
            .max(status.started_at.map_or(0, Timestamp::millis)),
    ));
}

#[expect(clippy::too_many_lines, reason = "one arm per request of the protocol")]
async fn answer(
    mut stream: LinkStream,
    request: StreamRequest,
    output: Bytes,
    images: watch::Sender<ToldOfImages>,
) -> Result<()> {
    let gone = |_| Error::new(ErrorKind::Unavailable, "gone");
    let json =
        |value: &serde_json::Value| Frame::json(value).map_err(|e| Error::invalid(e.to_string()));
    if let StreamRequest::Pull(pull) = &request
        && pull.reference.contains("missing")
    {
        let message = format!("manifest for {} not found", pull.reference);
        let error = StreamError {
            class: ErrorClass::NotFound,
            message,
        };
        let reply =
            Frame::json(&StreamReply::Error(error)).map_err(|e| Error::invalid(e.to_string()))?;
        return stream.send.send(reply).await.map_err(gone);
    }
    let reply = Frame::json(&StreamReply::Ok).map_err(|e| Error::invalid(e.to_string()))?;
    stream.send.send(reply).await.map_err(gone)?;
    let mut frames: Vec<Frame> = Vec::new();
    match request {
        StreamRequest::Follow(follow) => {
            if !output.is_empty() && follow.stdout {
                frames.push(Frame {
                    time_ms: now().millis(),
                    ..Frame::new(FrameKind::Stdout, output)
                });
            }
        }
        StreamRequest::Exec(exec) => {
            let mut text = format!("{}\n", exec.args.join(" ")).into_bytes();
            if exec.stdin {
                text.extend(input_of(&mut stream).await);
            }
            frames.push(Frame::new(FrameKind::Stdout, text));
            frames.push(json(
                &serde_json::to_value(ExecExit {
                    exit_code: 0,
                    pid: 7,
                })
                .unwrap_or_default(),
            )?);
        }
        StreamRequest::ExecResume(_) => {
            let exit = ExecExit {
                exit_code: 0,
                pid: 7,
            };
            frames.push(json(&serde_json::to_value(exit).unwrap_or_default())?);
        }
        StreamRequest::Stats { .. } => {
            let stats = TaskStats {
                read_ms: now().millis(),
                cpus: 4,
                pids: 1,
                ..TaskStats::default()
            };
            frames.push(json(&serde_json::to_value(stats).unwrap_or_default())?);
        }
        StreamRequest::Top { .. } => {
            let table = ProcessTable {
                titles: vec!["PID".into(), "CMD".into()],
                rows: vec![vec!["4242".into(), "sleep".into()]],
            };
            frames.push(json(&serde_json::to_value(table).unwrap_or_default())?);
        }
        StreamRequest::Pull(pull) => {
            let reference = ImageReference::parse(&pull.reference)
                .map_err(|e| Error::invalid(e.to_string()))?;
            import(&mut stream, made_up_image(&reference)?, &images).await?;
        }
        StreamRequest::Load => {
            input_of(&mut stream).await;
            let reference =
                ImageReference::parse("loaded:1").map_err(|e| Error::invalid(e.to_string()))?;
            let mut image = made_up_image(&reference)?;
            image.tags = vec![reference.to_string()];
            import(&mut stream, image, &images).await?;
        }
        StreamRequest::Save { .. } | StreamRequest::Blob { .. } => {
            frames.push(Frame::new(FrameKind::Data, Bytes::from_static(b"archive")));
        }
        StreamRequest::Resize { .. } | StreamRequest::Signal { .. } | StreamRequest::Login(_) => {}
    }
    frames.push(Frame::end());
    for frame in frames {
        stream.send.send(frame).await.map_err(gone)?;
    }
    Ok(())
}

/// Everything the other end sends until it ends its input.
async fn input_of(stream: &mut LinkStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(frame) = stream.recv.recv().await {
        match frame.kind {
            FrameKind::Stdin | FrameKind::Data => bytes.extend_from_slice(&frame.payload),
            FrameKind::EndInput | FrameKind::End | FrameKind::Error => break,
            FrameKind::Stdout | FrameKind::Stderr | FrameKind::Json => {}
        }
    }
    bytes
}

/// Says that an image has come in and waits until it is recorded.
async fn import(
    stream: &mut LinkStream,
    image: ImportedImage,
    images: &watch::Sender<ToldOfImages>,
) -> Result<()> {
    for frame in import_frames(image)? {
        let gone = |_| crate::links::host_gone();
        stream.send.send(frame).await.map_err(gone)?;
    }
    let recorded: ImportRecorded = stream.next_json().await?;
    images.send_modify(|told| told.recorded = recorded.revision);
    Ok(())
}

fn import_frames(image: ImportedImage) -> Result<Vec<Frame>> {
    let encode = |e: wire::link::ProtocolError| Error::invalid(e.to_string());
    let progress = ImageProgress {
        id: "aaaaaaaaaaaa".into(),
        status: "Download complete".into(),
        current: Some(10),
        total: Some(10),
    };
    Ok(vec![
        Frame::json(&progress).map_err(encode)?,
        Frame::json(&ImportResult {
            images: vec![image],
        })
        .map_err(encode)?,
    ])
}

fn made_up_image(reference: &ImageReference) -> Result<ImportedImage> {
    let digest = |what: &str| {
        Digest::parse(&format!(
            "sha256:{}",
            sha256_hex(format!("{what} {reference}").as_bytes())
        ))
        .map_err(|e| Error::invalid(e.to_string()))
    };
    Ok(ImportedImage {
        content: ImageContent {
            config: digest("config")?,
            config_bytes: 100,
            layers: vec![Layer {
                diff_id: digest("layer")?,
                blob: digest("blob")?,
                blob_bytes: 1000,
                media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
            }],
        },
        config: ImageConfig {
            platform: Platform {
                architecture: "amd64".into(),
                os: "linux".into(),
            },
            created: Some("2026-01-02T03:04:05Z".into()),
            env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()],
            entrypoint: Vec::new(),
            cmd: vec!["sh".into()],
            user: String::new(),
            working_dir: String::new(),
            exposed_ports: BTreeSet::new(),
            volumes: BTreeSet::new(),
            labels: BTreeMap::new(),
            stop_signal: None,
            size_bytes: 1000,
            history: Vec::new(),
        },
        tags: Vec::new(),
        manifest: Some(digest("manifest")?),
        source: Some(format!("{}@{}", reference.name(), digest("manifest")?)),
        unchanged: false,
    })
}

/// A pool's record, for tests that need one without a store.
#[must_use]
pub fn pool_record(id: &PoolId, name: Name) -> Pool {
    Pool {
        id: id.clone(),
        name,
        parent: None,
        description: String::new(),
        labels: BTreeMap::new(),
        policy: PoolPolicy::default(),
        slice: model::Slice::default(),
        created_at: Timestamp(0),
    }
}
