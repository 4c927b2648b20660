//! Streams go on where they stopped when their host comes back.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use control::exec::ExecCreate;
use control::streams::{AttachOptions, FollowOptions};
use control::testing::RawHost;
use control::{Caller, Control, LinkStream};
use model::{Name, PoolId, WorkloadId};
use wire::link::{
    ErrorClass, ExecExit, FollowFrom, Frame, FrameKind, StreamError, StreamReply, StreamRequest,
};

struct World {
    control: Control,
    pool: PoolId,
    id: WorkloadId,
    host: RawHost,
}

/// One workload that runs on one host, which then says only what the test says.
async fn world() -> World {
    let control = Control::for_tests().await.unwrap();
    let scripted = control.test_host("h1").await.unwrap();
    let pool = control.test_pool("red").await.unwrap();
    let image = control.test_image(&pool, "web").await.unwrap();
    let spec = serde_json::from_value(serde_json::json!({
        "task": {"image": "web", "image_id": image, "args": ["sleep"], "stdin_open": true}
    }))
    .unwrap();
    let name = Some(Name::parse("web").unwrap());
    let made = control
        .workload_create(&admin(), &pool, name, spec)
        .await
        .unwrap();
    let id = made.id.clone();
    control
        .workload_start(&admin(), &pool, &id, Default::default())
        .await
        .unwrap();
    drop(scripted);
    let host = control.raw_host("h1").await.unwrap();
    World {
        control,
        pool,
        id,
        host,
    }
}

fn admin() -> Caller {
    Caller::local_admin()
}

fn output(text: &str, position: u64) -> Frame {
    Frame {
        position: Some(position),
        ..Frame::new(FrameKind::Stdout, Bytes::copy_from_slice(text.as_bytes()))
    }
}

async fn say(stream: &LinkStream, frames: impl IntoIterator<Item = Frame>) {
    for frame in frames {
        stream.send.send(frame).await.unwrap();
    }
}

fn ok() -> Frame {
    Frame::json(&StreamReply::Ok).unwrap()
}

fn exit(exit_code: i32) -> Frame {
    Frame::json(&ExecExit { exit_code, pid: 9 }).unwrap()
}

async fn text(stream: &mut LinkStream) -> String {
    let frame = stream.recv.recv().await.unwrap();
    assert_eq!(frame.kind, FrameKind::Stdout, "{frame:?}");
    assert_eq!(frame.position, None, "a client hears of a position");
    String::from_utf8(frame.payload.to_vec()).unwrap()
}

async fn error(stream: &mut LinkStream) -> StreamError {
    let frame = stream.recv.recv().await.unwrap();
    assert_eq!(frame.kind, FrameKind::Error, "{frame:?}");
    frame.parse().unwrap()
}

async fn ends(stream: &mut LinkStream) {
    assert_eq!(stream.recv.recv().await.unwrap().kind, FrameKind::End);
}

impl World {
    /// The next stream the host is asked for, answered.
    async fn opened(&mut self) -> (StreamRequest, LinkStream) {
        let (request, stream) = self.host.stream().await.unwrap();
        say(&stream, [ok()]).await;
        (request, stream)
    }

    /// The host's link is cut, and it comes back.
    async fn cut(&mut self, stream: LinkStream) {
        drop(stream);
        let host = self.control.raw_host("h1").await.unwrap();
        self.host = host;
    }

    async fn logs(&mut self, from: FollowFrom) -> (LinkStream, LinkStream) {
        let options = FollowOptions {
            from,
            until_ms: None,
            follow: true,
            stdout: true,
            stderr: true,
        };
        let (control, pool, id) = (self.control.clone(), self.pool.clone(), self.id.clone());
        let client = tokio::spawn(async move {
            control
                .workload_follow(&admin(), &pool, &id, options)
                .await
                .unwrap()
        });
        let (request, stream) = self.opened().await;
        assert_eq!(from_of(&request), from);
        (client.await.unwrap(), stream)
    }

    async fn attach(&mut self) -> (LinkStream, LinkStream) {
        let options = AttachOptions {
            logs: false,
            stream: true,
            stdin: true,
            stdout: true,
            stderr: true,
        };
        let (control, pool, id) = (self.control.clone(), self.pool.clone(), self.id.clone());
        let client = tokio::spawn(async move {
            control
                .workload_attach(&admin(), &pool, &id, options)
                .await
                .unwrap()
        });
        let (_, stream) = self.opened().await;
        (client.await.unwrap(), stream)
    }

    async fn exec(&mut self) -> (String, LinkStream, LinkStream) {
        let create = ExecCreate {
            args: vec!["sh".into()],
            ..ExecCreate::default()
        };
        let exec = self
            .control
            .exec_create(&admin(), &self.pool, &self.id, create)
            .await
            .unwrap();
        let (control, pool, id) = (self.control.clone(), self.pool.clone(), exec.clone());
        let client = tokio::spawn(async move {
            control
                .exec_start(&admin(), &pool, &id, false, None)
                .await
                .unwrap()
                .unwrap()
        });
        let (_, stream) = self.opened().await;
        (exec, client.await.unwrap(), stream)
    }

    fn exit_code(&self, exec: &str) -> Option<i32> {
        let record = self.control.exec_inspect(&admin(), &self.pool, exec);
        record.unwrap().exit_code
    }
}

fn from_of(request: &StreamRequest) -> FollowFrom {
    let StreamRequest::Follow(follow) = request else {
        panic!("{request:?}");
    };
    assert!(follow.resumable);
    follow.from
}

#[tokio::test(start_paused = true)]
async fn output_goes_on_where_it_stopped() {
    let mut w = world().await;
    let (mut client, stream) = w.logs(FollowFrom::End).await;
    say(&stream, [output("", 10), output("a", 20)]).await;
    assert_eq!(text(&mut client).await, "a");
    w.cut(stream).await;
    let (request, stream) = w.opened().await;
    assert_eq!(from_of(&request), FollowFrom::Position(20));
    say(&stream, [output("", 20), output("b", 30)]).await;
    assert_eq!(text(&mut client).await, "b");
    // Again, and before anything new came.
    w.cut(stream).await;
    let (request, stream) = w.opened().await;
    assert_eq!(from_of(&request), FollowFrom::Position(30));
    w.cut(stream).await;
    let (request, stream) = w.opened().await;
    assert_eq!(from_of(&request), FollowFrom::Position(30));
    say(&stream, [output("c", 40), Frame::end()]).await;
    assert_eq!(text(&mut client).await, "c");
    ends(&mut client).await;
}

#[tokio::test(start_paused = true)]
async fn what_had_not_begun_is_asked_for_as_at_first() {
    let mut w = world().await;
    let (mut client, stream) = w.logs(FollowFrom::Lines(3)).await;
    w.cut(stream).await;
    let (request, stream) = w.opened().await;
    assert_eq!(from_of(&request), FollowFrom::Lines(3));
    say(&stream, [output("a", 20), Frame::end()]).await;
    assert_eq!(text(&mut client).await, "a");
    ends(&mut client).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_off_alone_is_opened_again_over_the_same_link() {
    let mut w = world().await;
    let (mut client, stream) = w.logs(FollowFrom::Start).await;
    let lost = StreamError {
        class: ErrorClass::Lost,
        message: "broken off".into(),
    };
    let lost = Frame {
        kind: FrameKind::Error,
        ..Frame::json(&lost).unwrap()
    };
    say(&stream, [output("a", 20), lost]).await;
    let (request, stream) = w.opened().await;
    assert_eq!(from_of(&request), FollowFrom::Position(20));
    say(&stream, [output("b", 30), Frame::end()]).await;
    assert_eq!(text(&mut client).await, "a");
    assert_eq!(text(&mut client).await, "b");
    ends(&mut client).await;
}

#[tokio::test(start_paused = true)]
async fn a_host_that_stays_away_ends_its_streams_with_an_error() {
    let mut w = world().await;
    let (mut client, stream) = w.logs(FollowFrom::Start).await;
    say(&stream, [output("a", 20)]).await;
    assert_eq!(text(&mut client).await, "a");
    drop(stream);
    drop(w.host);
    let before = tokio::time::Instant::now();
    let error = error(&mut client).await;
    assert!(error.message.contains("was lost"), "{}", error.message);
    assert_eq!(before.elapsed().as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_does_not_say_positions_is_not_asked_again() {
    let mut w = world().await;
    let (mut client, stream) = w.logs(FollowFrom::Start).await;
    say(&stream, [Frame::new(FrameKind::Stdout, "a")]).await;
    assert_eq!(text(&mut client).await, "a");
    drop(stream);
    let error = error(&mut client).await;
    assert!(error.message.contains("was lost"), "{}", error.message);
}

#[tokio::test(start_paused = true)]
async fn what_a_host_refuses_to_go_on_with_ends_with_its_reason() {
    let mut w = world().await;
    let (mut client, stream) = w.logs(FollowFrom::Start).await;
    say(&stream, [output("a", 20)]).await;
    assert_eq!(text(&mut client).await, "a");
    w.cut(stream).await;
    let (_, stream) = w.host.stream().await.unwrap();
    let gone = StreamError {
        class: ErrorClass::NotFound,
        message: "no such task".into(),
    };
    say(&stream, [Frame::json(&StreamReply::Error(gone)).unwrap()]).await;
    assert_eq!(error(&mut client).await.message, "no such task");
}

#[tokio::test(start_paused = true)]
async fn the_exit_code_of_an_exec_is_known_after_a_break() {
    let mut w = world().await;
    let (exec, mut client, stream) = w.exec().await;
    say(&stream, [output("", 0), output("a", 20)]).await;
    assert_eq!(text(&mut client).await, "a");
    w.cut(stream).await;
    let (request, mut stream) = w.opened().await;
    let StreamRequest::ExecResume(resume) = request else {
        panic!("{request:?}");
    };
    assert_eq!((resume.exec, resume.position), (exec.clone(), Some(20)));
    say(&stream, [output("b", 30), exit(7)]).await;
    assert_eq!(text(&mut client).await, "b");
    // The host is told that it need not keep the exec.
    assert_eq!(stream.recv.recv().await.unwrap().kind, FrameKind::End);
    say(&stream, [Frame::end()]).await;
    ends(&mut client).await;
    assert_eq!(w.exit_code(&exec), Some(7));
}

#[tokio::test(start_paused = true)]
async fn the_exit_code_is_asked_for_also_when_the_client_was_told() {
    let mut w = world().await;
    let (exec, mut client, stream) = w.exec().await;
    say(&stream, [output("", 0)]).await;
    drop(stream);
    let World { control, host, .. } = &mut w;
    drop(std::mem::replace(
        host,
        control.raw_host("other").await.unwrap(),
    ));
    let error = error(&mut client).await;
    assert!(error.message.contains("was lost"), "{}", error.message);
    assert_eq!(w.exit_code(&exec), None, "nobody knows yet");
    w.host = w.control.raw_host("h1").await.unwrap();
    let (request, mut stream) = w.opened().await;
    let StreamRequest::ExecResume(resume) = request else {
        panic!("{request:?}");
    };
    assert_eq!(resume.position, None, "nobody reads output any more");
    say(&stream, [exit(7)]).await;
    assert_eq!(stream.recv.recv().await.unwrap().kind, FrameKind::End);
    assert_eq!(w.exit_code(&exec), Some(7));
}

#[tokio::test(start_paused = true)]
async fn input_that_was_taken_does_not_keep_a_stream_from_going_on() {
    let mut w = world().await;
    let (mut client, mut stream) = w.attach().await;
    say(&stream, [output("", 5)]).await;
    let typed = Frame::new(FrameKind::Stdin, "one");
    client.send.send(typed).await.unwrap();
    assert_eq!(&stream.recv.recv().await.unwrap().payload[..], b"one");
    let taken = Frame {
        position: Some(3),
        ..Frame::new(FrameKind::Stdin, Bytes::new())
    };
    say(&stream, [taken, output("<one>", 10)]).await;
    assert_eq!(text(&mut client).await, "<one>");
    w.cut(stream).await;
    let typed = Frame::new(FrameKind::Stdin, "two");
    client.send.send(typed).await.unwrap();
    let (request, mut stream) = w.opened().await;
    assert_eq!(from_of(&request), FollowFrom::Position(10));
    assert_eq!(&stream.recv.recv().await.unwrap().payload[..], b"two");
    say(&stream, [output("<two>", 20), Frame::end()]).await;
    assert_eq!(text(&mut client).await, "<two>");
    ends(&mut client).await;
}

#[tokio::test(start_paused = true)]
async fn input_that_may_be_lost_is_neither_sent_twice_nor_passed_over() {
    let mut w = world().await;
    let (mut client, mut stream) = w.attach().await;
    say(&stream, [output("", 5)]).await;
    let typed = Frame::new(FrameKind::Stdin, "rm");
    client.send.send(typed).await.unwrap();
    assert_eq!(&stream.recv.recv().await.unwrap().payload[..], b"rm");
    w.cut(stream).await;
    let error = error(&mut client).await;
    assert!(
        error.message.contains("2 bytes") && error.message.contains("not known"),
        "{}",
        error.message
    );
    assert!(client.recv.recv().await.is_none());
}
