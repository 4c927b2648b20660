//! The agent against a server that speaks the real protocol.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use agent::fake::Op;
use common::{Host, Server, whole, workload};
use model::{DesiredState, Phase};
use wire::link::{FollowFrom, FollowRequest, FrameKind, FromHost, StreamReply, StreamRequest};

#[tokio::test]
async fn a_host_joins_runs_what_is_wanted_and_reports() {
    let server = Server::start().await;
    let host = Host::new();
    host.join(&server).await;
    let _agent = host.run(&[&server]);
    let mut session = server.session().await;
    assert_eq!(session.hello.generation, 0);
    let first = session.hear().await;
    assert!(matches!(first, FromHost::Status { complete: true, reports } if reports.is_empty()));

    let web = workload(1, &["sleep", "3600"], DesiredState::Running, 1);
    session.desired(whole(1, std::slice::from_ref(&web))).await;
    let status = session
        .report(&web.id, |s| s.is_some_and(|s| s.phase == Phase::Running))
        .await
        .unwrap();
    assert_eq!((status.run, status.exit_code), (1, 0));
    assert!(status.network.ip.starts_with("10.88."));

    let stop = DesiredState::Stopped {
        grace_seconds: Some(10),
        signal: None,
    };
    let web = workload(1, &["sleep", "3600"], stop, 1);
    session.desired(whole(2, std::slice::from_ref(&web))).await;
    let status = session
        .report(&web.id, |s| s.is_some_and(|s| s.phase == Phase::Exited))
        .await
        .unwrap();
    assert_eq!(status.exit_code, 143);

    let web = workload(1, &["sleep", "3600"], DesiredState::Removed, 1);
    session.desired(whole(3, std::slice::from_ref(&web))).await;
    assert_eq!(session.report(&web.id, |s| s.is_none()).await, None);
    assert!(host.fake.task(&web.id).is_none());
    assert!(!host.fake.is_attached(&web.id));
}

#[tokio::test]
async fn a_document_is_accepted_when_it_is_durable() {
    let server = Server::start().await;
    let host = Host::new();
    host.join(&server).await;
    let agent = host.run(&[&server]);
    let mut session = server.session().await;
    session.desired(whole(4, &[])).await;
    loop {
        if session.hear().await == (FromHost::Accepted { generation: 4 }) {
            break;
        }
    }
    drop(agent);
    let _agent = host.run(&[&server]);
    assert_eq!(server.session().await.hello.generation, 4);
}

fn follow(id: &model::WorkloadId, run: u64, stdin: bool) -> StreamRequest {
    StreamRequest::Follow(FollowRequest {
        id: id.clone(),
        from: FollowFrom::Run(run),
        until_ms: None,
        follow: true,
        stdout: true,
        stderr: true,
        stdin,
        run: Some(run),
        resumable: false,
    })
}

#[tokio::test]
async fn output_can_be_followed_before_the_run_begins() {
    let server = Server::start().await;
    let host = Host::new();
    host.join(&server).await;
    let _agent = host.run(&[&server]);
    let session = server.session().await;
    let hello = workload(1, &["echo", "hello", "world"], DesiredState::Running, 1);
    let mut stream = server.open(&session, follow(&hello.id, 1, false)).await;
    assert_eq!(stream.reply().await, StreamReply::Ok);
    session.desired(whole(1, &[hello])).await;
    let frames = stream.rest().await;
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].kind, FrameKind::Stdout);
    assert_eq!(&frames[0].payload[..], b"hello world\n");
    assert!(frames[0].time_ms > 0);
}

#[tokio::test]
async fn a_follower_of_a_run_that_cannot_start_is_told_the_end() {
    let server = Server::start().await;
    let host = Host::new();
    host.join(&server).await;
    let _agent = host.run(&[&server]);
    let mut session = server.session().await;
    let bad = workload(1, &["missing"], DesiredState::Running, 1);
    let mut stream = server.open(&session, follow(&bad.id, 1, true)).await;
    assert_eq!(stream.reply().await, StreamReply::Ok);
    session.desired(whole(1, std::slice::from_ref(&bad))).await;
    assert!(stream.rest().await.is_empty());
    let status = session
        .report(&bad.id, |s| s.is_some_and(|s| s.phase == Phase::Failed))
        .await
        .unwrap();
    assert_eq!(status.exit_code, 127);
    assert!(status.error.contains("executable file not found"));
}

#[tokio::test]
async fn input_reaches_the_task_and_its_end_ends_it() {
    let server = Server::start().await;
    let host = Host::new();
    host.join(&server).await;
    let _agent = host.run(&[&server]);
    let session = server.session().await;
    let cat = workload(1, &["cat"], DesiredState::Running, 1);
    let mut stream = server.open(&session, follow(&cat.id, 1, true)).await;
    assert_eq!(stream.reply().await, StreamReply::Ok);
    let say = |kind, text: &'static str| wire::link::Frame::new(kind, text.as_bytes());
    stream.out.send(say(FrameKind::Stdin, "one")).await.unwrap();
    session.desired(whole(1, &[cat])).await;
    assert_eq!(&stream.next().await.unwrap().payload[..], b"one");
    stream.out.send(say(FrameKind::EndInput, "")).await.unwrap();
    assert!(stream.rest().await.is_empty());
}

#[tokio::test]
async fn what_may_run_on_one_host_only_lives_by_the_answers_to_heartbeats() {
    let server = Server::start().await;
    let host = Host::new();
    host.join(&server).await;
    let _agent = host.run(&[&server]);
    let mut session = server.session().await;
    let mut web = workload(1, &["server"], DesiredState::Running, 1);
    web.fence_ms = Some(3_000);
    session.desired(whole(1, std::slice::from_ref(&web))).await;
    let is = |phase| move |s: Option<&model::TaskStatus>| s.is_some_and(|s| s.phase == phase);
    let waiting = session.report(&web.id, is(Phase::Pending)).await.unwrap();
    assert!(
        waiting.error.contains("waiting for a server"),
        "{waiting:?}"
    );
    server.lease(true);
    session.report(&web.id, is(Phase::Running)).await;
    // Heartbeats go out every second, and others talk in between.
    let mut beats = Vec::new();
    while beats.len() < 4 {
        let message = tokio::time::timeout(common::DEADLINE, session.incoming.recv()).await;
        if let FromHost::Heartbeat { number } = message.unwrap().unwrap() {
            beats.push(number);
        }
    }
    assert!(beats.windows(2).all(|it| it[1] == it[0] + 1), "{beats:?}");
    assert_eq!(host.fake.starts().len(), 1);
    // The server is there, and promises nothing.
    server.lease(false);
    let last = std::time::Instant::now();
    host.fake
        .wait(|f| f.task(&web.id).is_some_and(|t| t.phase.is_final()))
        .await;
    assert!(last.elapsed() < std::time::Duration::from_millis(3_000));
    let status = session
        .report(&web.id, is(Phase::Restarting))
        .await
        .unwrap();
    assert!(status.error.contains("no server was heard"), "{status:?}");
    server.lease(true);
    let status = session.report(&web.id, is(Phase::Running)).await.unwrap();
    assert_eq!((status.run, status.restart_count), (1, 1));
}

#[tokio::test]
async fn a_silent_server_is_dialled_again_and_all_is_told_anew() {
    let server = Server::start().await;
    let host = Host::new();
    host.join(&server).await;
    let _agent = host.run(&[&server]);
    let mut session = server.session().await;
    let web = workload(1, &["server"], DesiredState::Running, 1);
    session.desired(whole(1, std::slice::from_ref(&web))).await;
    session
        .report(&web.id, |s| s.is_some_and(|s| s.phase == Phase::Running))
        .await;
    server.silence(true);
    let mut again = server.session().await;
    server.silence(false);
    assert_eq!(again.hello.generation, 1);
    let FromHost::Status { reports, complete } = again.hear().await else {
        panic!("all reports come first");
    };
    assert!(complete);
    assert_eq!(reports.len(), 1);
    assert_eq!(host.fake.starts().len(), 1);
}

#[tokio::test]
async fn a_restarted_server_finds_the_host_and_work_goes_on_meanwhile() {
    let server = Server::start().await;
    let host = Host::new();
    host.join(&server).await;
    let _agent = host.run(&[&server]);
    let mut session = server.session().await;
    let mut web = workload(1, &["server"], DesiredState::Running, 1);
    web.spec.restart = model::RestartPolicy::Always;
    session.desired(whole(1, std::slice::from_ref(&web))).await;
    session
        .report(&web.id, |s| s.is_some_and(|s| s.phase == Phase::Running))
        .await;
    server.stop();
    host.fake.end(&web.id, 1);
    let restarted = host.fake.wait(|f| f.starts().len() == 2);
    tokio::time::timeout(common::DEADLINE, restarted)
        .await
        .unwrap();
    let server = Server::start_with(server.ca.clone(), &server.address.to_string()).await;
    let mut session = server.session().await;
    let status = session.report(&web.id, |s| s.is_some()).await.unwrap();
    assert_eq!(status.restart_count, 1);
}

#[tokio::test]
async fn two_servers_get_the_same_reports_and_either_may_ask() {
    let first = Server::start().await;
    let second = Server::start_with(first.ca.clone(), "127.0.0.1:0").await;
    let host = Host::new();
    host.join(&first).await;
    let _agent = host.run(&[&first, &second]);
    let (mut one, mut two) = (first.session().await, second.session().await);
    let web = workload(1, &["server"], DesiredState::Running, 1);
    one.desired(whole(1, std::slice::from_ref(&web))).await;
    for session in [&mut one, &mut two] {
        session
            .report(&web.id, |s| s.is_some_and(|s| s.phase == Phase::Running))
            .await;
    }
    // The second says the same, then goes on with a difference.
    two.desired(whole(1, std::slice::from_ref(&web))).await;
    let mut update = whole(2, &[]);
    update.base = Some(1);
    let removed = workload(1, &["server"], DesiredState::Removed, 1);
    update
        .upsert
        .insert(web.id.clone(), std::sync::Arc::new(removed));
    two.desired(update).await;
    for session in [&mut one, &mut two] {
        assert_eq!(session.report(&web.id, |s| s.is_none()).await, None);
    }
}

#[tokio::test]
async fn a_difference_to_an_unknown_document_asks_for_a_new_session() {
    let server = Server::start().await;
    let host = Host::new();
    host.join(&server).await;
    let _agent = host.run(&[&server]);
    let session = server.session().await;
    let mut update = whole(9, &[workload(1, &["server"], DesiredState::Running, 1)]);
    update.base = Some(8);
    session.desired(update).await;
    let again = server.session().await;
    assert_eq!(again.hello.generation, 0);
    assert!(host.fake.journal().is_empty());
}

#[tokio::test]
async fn the_agent_of_a_removed_host_takes_back_what_it_made_and_ends() {
    let server = Server::start().await;
    let host = Host::new();
    host.join(&server).await;
    let mut agent = host.run(&[&server]);
    let mut session = server.session().await;
    let web = workload(1, &["server"], DesiredState::Running, 1);
    session.desired(whole(1, std::slice::from_ref(&web))).await;
    session
        .report(&web.id, |s| s.is_some_and(|s| s.phase == Phase::Running))
        .await;
    let web = workload(1, &["server"], DesiredState::Removed, 1);
    session.desired(whole(2, std::slice::from_ref(&web))).await;
    session.report(&web.id, |s| s.is_none()).await;
    server.remove_host();
    drop(session);
    let ended = tokio::time::timeout(common::DEADLINE, &mut agent.task)
        .await
        .expect("an end in time")
        .unwrap();
    assert_eq!(ended.unwrap(), agent::Ended::Removed);
    let journal: Vec<Op> = host.fake.journal().into_iter().map(|(op, _)| op).collect();
    assert!(
        journal.ends_with(&[Op::DismantleNetwork, Op::DismantleRuntime]),
        "{journal:?}"
    );
}
