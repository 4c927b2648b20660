//! Streams the server asks for, over the real protocol.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use bytes::Bytes;
use common::{Host, Server, ServerSession, whole, workload};
use model::{DesiredState, Digest, ImageConfig, ImageContent, Phase, WorkloadId};
use wire::link::{
    ErrorClass, ExecExit, ExecRequest, ExecResume, FollowFrom, FollowRequest, Frame, FrameKind,
    ImageProgress, ImportResult, ImportedImage, ProcessTable, PullRequest, StreamError,
    StreamReply, StreamRequest, TaskStats,
};

struct World {
    server: Server,
    host: Host,
    session: ServerSession,
    _agent: common::Running,
}

async fn world() -> World {
    let server = Server::start().await;
    let host = Host::new();
    host.join(&server).await;
    let agent = host.run(&[&server]);
    let session = server.session().await;
    World {
        server,
        host,
        session,
        _agent: agent,
    }
}

/// With one task that runs for ever.
async fn running() -> (World, WorkloadId) {
    let mut world = world().await;
    let web = workload(1, &["server"], DesiredState::Running, 1);
    let id = web.id.clone();
    world.session.desired(whole(1, &[web])).await;
    world
        .session
        .report(&id, |s| s.is_some_and(|s| s.phase == Phase::Running))
        .await;
    (world, id)
}

fn digest(c: &str) -> Digest {
    Digest::parse(&format!("sha256:{}", c.repeat(64))).unwrap()
}

fn imported(c: &str) -> ImportedImage {
    let config: ImageConfig = serde_json::from_value(
        serde_json::json!({ "platform": { "architecture": "amd64", "os": "linux" } }),
    )
    .unwrap();
    ImportedImage {
        content: ImageContent {
            config: digest(c),
            config_bytes: 1,
            layers: Vec::new(),
        },
        config,
        tags: Vec::new(),
        manifest: None,
        source: None,
        unchanged: false,
    }
}

async fn refused(world: &World, request: StreamRequest) -> StreamError {
    let mut stream = world.server.open(&world.session, request).await;
    let StreamReply::Error(error) = stream.reply().await else {
        panic!("not refused");
    };
    assert!(stream.rest().await.is_empty());
    error
}

#[tokio::test]
async fn exec_gives_output_and_exit_code() {
    let (world, id) = running().await;
    let exec = |args: &[&str]| {
        StreamRequest::Exec(ExecRequest {
            id: id.clone(),
            exec: "e".repeat(64),
            args: args.iter().map(|a| (*a).to_owned()).collect(),
            env: Vec::new(),
            working_dir: String::new(),
            user: String::new(),
            tty: false,
            stdin: false,
            privileged: false,
            size: None,
            resumable: false,
        })
    };
    let mut stream = world
        .server
        .open(&world.session, exec(&["echo", "hi"]))
        .await;
    assert_eq!(stream.reply().await, StreamReply::Ok);
    let frames = stream.rest().await;
    assert_eq!(frames[0].kind, FrameKind::Stdout);
    assert_eq!(&frames[0].payload[..], b"hi\n");
    let exit: ExecExit = frames[1].parse().unwrap();
    assert_eq!(exit.exit_code, 0);

    let mut stream = world
        .server
        .open(&world.session, exec(&["exit", "3"]))
        .await;
    assert_eq!(stream.reply().await, StreamReply::Ok);
    let exit: ExecExit = stream.rest().await[0].parse().unwrap();
    assert_eq!(exit.exit_code, 3);

    let error = refused(&world, exec(&["missing"])).await;
    assert_eq!(error.class, ErrorClass::Invalid);
    assert!(error.message.contains("not found"));
}

#[tokio::test]
async fn an_exec_is_kept_until_the_server_says_that_its_end_arrived() {
    let (world, id) = running().await;
    let exec = "e".repeat(64);
    let request = ExecRequest {
        id: id.clone(),
        exec: exec.clone(),
        args: vec!["echo".to_owned(), "hi".to_owned()],
        env: Vec::new(),
        working_dir: String::new(),
        user: String::new(),
        tty: false,
        stdin: false,
        privileged: false,
        size: None,
        resumable: true,
    };
    let request = StreamRequest::Exec(request);
    let mut stream = world.server.open(&world.session, request).await;
    assert_eq!(stream.reply().await, StreamReply::Ok);
    let begin = stream.next().await.unwrap();
    assert_eq!((begin.position, begin.payload.len()), (Some(0), 0));
    let piece = stream.next().await.unwrap();
    assert_eq!(&piece.payload[..], b"hi\n");
    let exit: ExecExit = stream.next().await.unwrap().parse().unwrap();
    assert_eq!(exit.exit_code, 0);
    drop(stream);

    let resume = |position| {
        StreamRequest::ExecResume(ExecResume {
            id: id.clone(),
            exec: exec.clone(),
            position,
            stdin: false,
        })
    };
    let again = resume(piece.position);
    let mut stream = world.server.open(&world.session, again).await;
    assert_eq!(stream.reply().await, StreamReply::Ok);
    let begin = stream.next().await.unwrap();
    assert_eq!(begin.position, piece.position, "output comes twice");
    let exit: ExecExit = stream.next().await.unwrap().parse().unwrap();
    assert_eq!(exit.exit_code, 0);
    stream.out.send(Frame::end()).await.unwrap();
    assert!(stream.rest().await.is_empty());
    let error = refused(&world, resume(Some(0))).await;
    assert_eq!(error.class, ErrorClass::NotFound);
}

#[tokio::test]
async fn a_host_says_where_output_is_and_how_much_input_it_took() {
    let mut world = world().await;
    let mut cat = workload(1, &["cat"], DesiredState::Running, 1);
    cat.spec.task.stdin_open = true;
    let id = cat.id.clone();
    world.session.desired(whole(1, &[cat])).await;
    let runs = |s: Option<&model::TaskStatus>| s.is_some_and(|s| s.phase == Phase::Running);
    world.session.report(&id, runs).await;
    let request = |from| {
        StreamRequest::Follow(FollowRequest {
            id: id.clone(),
            from,
            until_ms: None,
            follow: true,
            stdout: true,
            stderr: true,
            stdin: true,
            run: Some(1),
            resumable: true,
        })
    };
    let first = request(FollowFrom::End);
    let mut stream = world.server.open(&world.session, first).await;
    assert_eq!(stream.reply().await, StreamReply::Ok);
    assert_eq!(stream.next().await.unwrap().position, Some(0));
    let typed = Frame::new(FrameKind::Stdin, "abc");
    stream.out.send(typed).await.unwrap();
    let (mut taken, mut output) = (None, None);
    while taken.is_none() || output.is_none() {
        let frame = stream.next().await.unwrap();
        match frame.kind {
            FrameKind::Stdin => taken = frame.position,
            FrameKind::Stdout => output = frame.position,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((taken, output), (Some(3), Some(1)));
    drop(stream);
    let again = request(FollowFrom::Position(1));
    let mut stream = world.server.open(&world.session, again).await;
    assert_eq!(stream.reply().await, StreamReply::Ok);
    assert_eq!(stream.next().await.unwrap().position, Some(1));
    let end = Frame::new(FrameKind::EndInput, Bytes::new());
    stream.out.send(end).await.unwrap();
    assert!(stream.rest().await.is_empty(), "output comes twice");
}

#[tokio::test]
async fn small_requests_are_answered() {
    let (world, id) = running().await;
    let signal = StreamRequest::Signal {
        id: id.clone(),
        signal: 28,
    };
    let mut stream = world.server.open(&world.session, signal).await;
    assert_eq!(stream.reply().await, StreamReply::Ok);
    assert!(stream.rest().await.is_empty());
    assert_eq!(world.host.fake.signals(&id), [28]);

    let resize = StreamRequest::Resize {
        id: id.clone(),
        exec: None,
        rows: 24,
        columns: 80,
    };
    let mut stream = world.server.open(&world.session, resize).await;
    assert_eq!(stream.reply().await, StreamReply::Ok);

    let top = StreamRequest::Top {
        id: id.clone(),
        ps_args: String::new(),
    };
    let mut stream = world.server.open(&world.session, top).await;
    assert_eq!(stream.reply().await, StreamReply::Ok);
    let table: ProcessTable = stream.rest().await[0].parse().unwrap();
    assert_eq!(table.rows.len(), 1);

    let unknown = StreamRequest::Signal {
        id: WorkloadId::from_bytes(&[99; 32]),
        signal: 15,
    };
    assert_eq!(refused(&world, unknown).await.class, ErrorClass::NotFound);
}

#[tokio::test]
async fn stats_go_on_until_the_server_has_enough() {
    let (world, id) = running().await;
    let once = StreamRequest::Stats {
        id: id.clone(),
        follow: false,
    };
    let mut stream = world.server.open(&world.session, once).await;
    assert_eq!(stream.reply().await, StreamReply::Ok);
    assert_eq!(stream.rest().await.len(), 1);

    let follow = StreamRequest::Stats { id, follow: true };
    let mut stream = world.server.open(&world.session, follow).await;
    assert_eq!(stream.reply().await, StreamReply::Ok);
    for _ in 0..2 {
        let stats: TaskStats = stream.next().await.unwrap().parse().unwrap();
        assert_eq!(stats.pids, 1);
    }
    stream.out.send(Frame::end()).await.unwrap();
    stream.rest().await;
}

#[tokio::test]
async fn images_are_pulled_loaded_and_saved() {
    let mut world = world().await;
    world
        .host
        .fake
        .add_pull("docker.io/library/web:1", imported("b"));
    let pull = |reference: &str| {
        StreamRequest::Pull(PullRequest {
            reference: reference.to_owned(),
            platform: None,
            credentials: None,
        })
    };
    let mut stream = world
        .server
        .open(&world.session, pull("docker.io/library/web:1"))
        .await;
    assert_eq!(stream.reply().await, StreamReply::Ok);
    let line: ImageProgress = stream.next().await.unwrap().parse().unwrap();
    assert_eq!(line.status, "Pull complete");
    let result: ImportResult = stream.next().await.unwrap().parse().unwrap();
    assert_eq!(result.images, [imported("b")]);
    stream.recorded().await;
    assert!(stream.rest().await.is_empty());
    loop {
        if let wire::link::FromHost::Images { images } = world.session.hear().await
            && images.len() == 1
        {
            break;
        }
    }

    // A failure half-way is an error frame.
    let mut stream = world
        .server
        .open(&world.session, pull("docker.io/library/none:1"))
        .await;
    assert_eq!(stream.reply().await, StreamReply::Ok);
    let frame = stream.next().await.unwrap();
    assert_eq!(frame.kind, FrameKind::Error);
    let error: StreamError = frame.parse().unwrap();
    assert_eq!(error.class, ErrorClass::NotFound);

    let archive = serde_json::to_vec(&[imported("c")]).unwrap();
    let mut stream = world.server.open(&world.session, StreamRequest::Load).await;
    assert_eq!(stream.reply().await, StreamReply::Ok);
    for piece in archive.chunks(7) {
        let frame = Frame::new(FrameKind::Data, piece.to_vec());
        stream.out.send(frame).await.unwrap();
    }
    let end = Frame::new(FrameKind::EndInput, Bytes::new());
    stream.out.send(end).await.unwrap();
    let result: ImportResult = stream.next().await.unwrap().parse().unwrap();
    assert_eq!(result.images, [imported("c")]);
    stream.recorded().await;
    assert!(stream.rest().await.is_empty());

    let save = StreamRequest::Save { images: Vec::new() };
    let mut stream = world.server.open(&world.session, save).await;
    assert_eq!(stream.reply().await, StreamReply::Ok);
    assert_eq!(&stream.rest().await[0].payload[..], b"[]");
}

#[tokio::test]
async fn a_cut_archive_is_not_taken_for_a_whole_one() {
    let world = world().await;
    let mut stream = world.server.open(&world.session, StreamRequest::Load).await;
    assert_eq!(stream.reply().await, StreamReply::Ok);
    let archive = serde_json::to_vec::<[ImportedImage]>(&[]).unwrap();
    stream
        .out
        .send(Frame::new(FrameKind::Data, archive))
        .await
        .unwrap();
    let (gone, _) = tokio::sync::mpsc::channel(1);
    stream.out = gone;
    let frame = stream.next().await.unwrap();
    assert_eq!(frame.kind, FrameKind::Error);
}

#[tokio::test]
async fn a_large_blob_comes_whole_and_in_bounded_frames() {
    let world = world().await;
    let bytes = Bytes::from(vec![7_u8; 5 << 20]);
    world.host.fake.add_blob(digest("d"), bytes.clone());
    let request = StreamRequest::Blob {
        digest: digest("d"),
    };
    let mut stream = world.server.open(&world.session, request).await;
    assert_eq!(stream.reply().await, StreamReply::Ok);
    let frames = stream.rest().await;
    assert!(frames.len() > 5);
    let length: usize = frames.iter().map(|f| f.payload.len()).sum();
    assert_eq!(length, bytes.len());
    let missing = StreamRequest::Blob {
        digest: digest("e"),
    };
    assert_eq!(refused(&world, missing).await.class, ErrorClass::NotFound);
}

#[tokio::test]
async fn a_reader_that_stops_does_not_hold_up_others_or_the_session() {
    let (world, id) = running().await;
    let bytes = Bytes::from(vec![7_u8; 64 << 20]);
    world.host.fake.add_blob(digest("d"), bytes);
    let request = StreamRequest::Blob {
        digest: digest("d"),
    };
    let mut stuck = world.server.open(&world.session, request).await;
    assert_eq!(stuck.reply().await, StreamReply::Ok);
    let top = StreamRequest::Top {
        id,
        ps_args: String::new(),
    };
    let mut stream = world.server.open(&world.session, top).await;
    assert_eq!(stream.reply().await, StreamReply::Ok);
    assert_eq!(stream.rest().await.len(), 1);
}

#[tokio::test]
async fn a_blob_this_host_lacks_is_fetched_through_the_server() {
    let mut world = world().await;
    let mut web = workload(1, &["server"], DesiredState::Running, 1);
    web.image.content.layers.push(model::Layer {
        diff_id: digest("1"),
        blob: digest("2"),
        blob_bytes: 5,
        media_type: "application/vnd.oci.image.layer.v1.tar".to_owned(),
    });
    world
        .server
        .add_blob(&digest("2"), Bytes::from_static(b"layer"));
    world
        .session
        .desired(whole(1, std::slice::from_ref(&web)))
        .await;
    world
        .session
        .report(&web.id, |s| s.is_some_and(|s| s.phase == Phase::Running))
        .await;
    // And one that nobody has.
    let mut lost = workload(2, &["server"], DesiredState::Running, 1);
    lost.image.content.layers = web.image.content.layers.clone();
    lost.image.content.layers[0].blob = digest("3");
    lost.image.id = model::ImageId::parse(digest("4").as_str()).unwrap();
    world.session.desired(whole(2, &[web, lost.clone()])).await;
    let status = world
        .session
        .report(&lost.id, |s| s.is_some_and(|s| s.phase == Phase::Failed))
        .await
        .unwrap();
    assert!(
        status.error.contains("no host has this blob"),
        "{}",
        status.error
    );
}
